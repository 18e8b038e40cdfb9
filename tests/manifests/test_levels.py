"""Policies, adapters, configurations, and what a run inherits from them."""

from __future__ import annotations

import pytest

from agentfs.manifests.documents import LocalLibrary
from agentfs.manifests.inherit import Level, common_caps, narrowed, settle
from agentfs.manifests.pipeline import check_manifest
from agentfs.manifests.plan import Breaker, Rate, Retry
from tests.manifests.drafts import plan, shelf


def told(kind: str, text: str) -> list[str]:
    found = check_manifest(kind, text, "x.yaml", LocalLibrary())
    return [str(each).removeprefix("x.yaml:") for each in found]


# -- policies --------------------------------------------------------------------------------------


def policy(type_: str, config: str = "{}", name: str = "p") -> str:
    return f"kind: Policy\nmetadata: {{name: {name}}}\nspec: {{type: {type_}, config: {config}}}\n"


def test_every_type_of_policy() -> None:
    library = shelf(
        policies_again=policy("retry", "{max_retries: 5, initial_delay_ms: 200, backoff: 3}"),
        policies_quick=policy("timeout", "{timeout: 90s}"),
        policies_slow=policy("rate_limit", "{calls: 3, period: 1m}"),
        policies_fuse=policy("circuit_breaker", "{failure_threshold: 2, recovery_timeout: 10}"),
        policies_cheap=policy("resource_limit", "{max_llm_calls: 4, on_limit: skip}"),
    )
    found = plan(
        """
        - {name: a, tool: t, policies: [again, quick, slow, fuse]}
        - {name: b, tool: t, policies: [quick], timeout: 5}
        - {name: c, tool: t, retry: again, max_retries: 2}
        """,
        library=library,
    ).graph.by_name
    assert found["a"].retry == Retry(5, 0.2, 3)
    assert found["a"].timeout == 90.0
    assert found["a"].rate == Rate("slow", 3, 60.0)
    assert found["a"].breaker == Breaker("fuse", 2, 10.0)
    assert found["a"].policies == ("again", "quick", "slow", "fuse")
    assert found["b"].timeout == 5.0
    assert found["c"].retry == Retry(2, 0.2, 3)
    whole = plan("- {name: a, tool: t}", "policies: [cheap, quick]", library)
    assert whole.limits == {"max_llm_calls": 4}
    assert whole.on_limit == "skip"
    assert whole.graph.nodes[0].timeout == 90.0


def test_the_nearest_policy_wins_and_the_kernel_s_nodes_are_not_meant() -> None:
    library = shelf(
        policies_far=policy("retry", "{attempts: 9}"),
        policies_near=policy("retry", "{attempts: 2}"),
    )
    found = plan(
        "- {name: a, tool: t}\n- {name: b, tool: t, policies: near}\n- {name: c, data: 1}",
        "policies: [far]",
        library,
    ).graph.by_name
    assert [found[name].retry.attempts for name in "abc"] == [9, 2, 1]


def test_middleware_is_read_as_policies() -> None:
    library = shelf(
        policies_m="""
            kind: Middleware
            metadata: {name: m}
            spec:
              stack:
              - hexdag.middleware.RetryMiddleware
              - {hexdag.middleware.RateLimitMiddleware: {calls: 2, seconds: 1}}
              - hexdag.middleware.CircuitBreaker
        """
    )
    (node,) = plan("- {name: a, tool: t, policies: m}", library=library).graph.nodes
    assert (node.retry.attempts, node.rate, node.breaker) == (4, Rate("m", 2, 1.0), Breaker("m"))


@pytest.mark.parametrize(
    ("kind", "text", "what"),
    [
        ("policies", policy("retri"), "3:14: E007 spec.type: one of retry, timeout,"),
        ("policies", policy("retry", "{atempts: 3}"), "3:30: E005 spec.config: unknown key `atemp"),
        ("policies", policy("retry", "{attempts: 0}"), "3:40: E007 spec.config.attempts: a whole"),
        ("policies", policy("timeout"), "3:31: E004 spec.config: the key `timeout` was expected"),
        ("policies", "kind: Policy\nmetadata: {}\nspec: {type: retry}", "2:11: E004 metadata: the"),
        ("policies", "kind: Adapter\nmetadata: {name: a}\nspec: {}", "1:7: E101 kind: Policy was"),
        (
            "policies",
            "kind: Middleware\nmetadata: {name: a}\nspec: {stack: [x.Cache]}",
            "3:16: E009 spec.stack: x.Cache is not taken",
        ),
        (
            "adapters",
            "kind: Adapter\nmetadata: {name: a}\nspec: {}",
            "3:7: E133 spec: one of p",
        ),
        (
            "adapters",
            "kind: Adapter\nmetadata: {name: a}\nspec: {class: m.C}",
            "3:8: E009 spec.class: a Python class is not taken",
        ),
        (
            "adapters",
            "kind: Adapter\nmetadata: {name: a}\nspec: {queue: q, capabilities: {requires: [x]}}",
            "3:44: E140 spec.capabilities.requires",
        ),
        (
            "configs",
            "kind: Config\nmetadata: {name: a}\nspec: {logging: {level: INFO}}",
            "3:8: E009 spec.logging is not taken: the log of each node",
        ),
        (
            "configs",
            "kind: Config\nmetadata: {name: a}\nspec: {orchestrator: {strict_validation: false}}",
            "3:42: E009 orchestrator.strict_validation: true was expected",
        ),
        (
            "configs",
            "kind: Config\nmetadata: {name: a}\nspec: {limts: {}}",
            "3:8: E005 spec: unk",
        ),
        ("macros", "kind: Macro\nmetadata: {name: m}\n", "1:1: E004 a macro has either `nodes` or"),
        (
            "macros",
            "kind: Macro\nmetadata: {name: m}\nnodes_raw: '{% for x in y %}'",
            "3:12: E110 nodes_raw, line 1 of it",
        ),
        (
            "macros",
            "kind: Macro\nmetadata: {name: m}\nnodes: []\nparameters: [{name: a, type: strg}]",
            "4:30: E007 a.type: some of",
        ),
        (
            "macros",
            "kind: Macro\nmetadata: {name: m}\nnodes: []\nparameters: [{name: a, default: 1}]",
            "4:33: E007 a.default: a value of the type str",
        ),
    ],
)
def test_faults_of_short_documents(kind: str, text: str, what: str) -> None:
    (first, *_) = told(kind, text)
    assert first.startswith(what)


# -- ports -----------------------------------------------------------------------------------------


def test_ports_and_what_is_behind_them() -> None:
    library = shelf(
        adapters_post="""
            kind: Adapter
            metadata: {name: post}
            spec: {queue: outgoing, config: {a: 1, b: 2}, capabilities: {requires: [llm]}}
        """,
        adapters_sh="kind: Adapter\nmetadata: {name: sh}\nspec: {program: 'jq .'}\n",
    )
    found = plan(
        "- {name: a, data: 1}",
        "ports:\n"
        "  mail: {ref: post, config: {b: 3}}\n"
        "  both: {adapters: [post, {ref: sh}], strategy: failover}",
        library,
    )
    post = {"adapter": "post", "queue": "outgoing", "requires": ["llm"]}
    assert found.ports["mail"] == {**post, "config": {"a": 1, "b": 3}}
    assert found.ports["both"] == {
        "strategy": "failover",
        "adapters": [
            {**post, "config": {"a": 1, "b": 2}},
            {"adapter": "sh", "program": ["/bin/sh", "-c", "jq .", "sh"]},
        ],
    }


# -- levels ----------------------------------------------------------------------------------------


def test_limits_of_five_levels_are_the_least_and_say_whose_they_are() -> None:
    library = shelf(
        configs_org="""
            kind: Config
            metadata: {name: org}
            spec: {limits: {max_llm_calls: 100}}
        """
    )
    compiled = plan("- {name: a, data: 1}", "limits: {max_llm_calls: 40}", library)
    assert compiled.origin["limits.max_llm_calls"] == (40, "pipeline p")
    found = narrowed(
        compiled,
        Level("system s", {"max_llm_calls": 50}),
        Level("process q", {"max_llm_calls": 30}),
        Level("request", {"max_llm_calls": 60}, deadline=5.0),
    )
    assert found.limits == {"max_llm_calls": 30}
    assert found.origin["limits.max_llm_calls"] == (30, "process q")
    assert (found.deadline, found.origin["deadline"]) == (5.0, (5.0, "request"))


def test_no_level_widens() -> None:
    compiled = plan(
        "- {name: a, data: 1}",
        "limits: {max_llm_calls: 5, max_tool_calls: max}\ndeadline: 1h\ncaps: []\ndeny: [llm]",
    )
    wide = Level("request", {"max_llm_calls": None, "max_tool_calls": 7}, ("*",), (), 86_400.0)
    found = narrowed(compiled, wide)
    assert found.limits == {"max_llm_calls": 5, "max_tool_calls": 7}
    assert (found.caps, found.deny, found.deadline) == ((), ("llm",), 3600.0)
    assert narrowed(compiled) == compiled


@pytest.mark.parametrize(
    ("one", "other", "both"),
    [
        (["*"], ["llm", "tool:find"], ("llm", "tool:find")),
        (["llm", "memory"], ["memory", "tool:*"], ("memory",)),
        (["tool:*"], ["tool:search"], ("tool:search",)),
        (
            ["tool:web_*"],
            ["tool:*_get", "tool:web_x"],
            ("tool:web_*_get", "tool:web_get", "tool:web_x"),
        ),
        ([], ["*"], ()),
    ],
)
def test_capabilities_have_in_common_what_they_mean(
    one: list[str], other: list[str], both: tuple[str, ...]
) -> None:
    assert common_caps(one, other) == both
    assert common_caps(other, one) == both


def test_both_vocabularies_of_capabilities() -> None:
    compiled = plan(
        "- {name: a, data: 1}",
        "caps: {default_set: [port.llm, proc.spawn, mem.read, mem.write], deny: [vas.write]}",
    )
    assert compiled.caps == ("llm", "spawn_children", "memory")
    assert compiled.deny == ("file_write",)


def test_of_settings_the_nearest_level_wins() -> None:
    library = shelf(
        configs_org="""
            kind: Config
            metadata: {name: org}
            spec:
              orchestrator:
                {max_concurrent_nodes: 3, default_node_timeout: 60, pipeline_timeout: 1d}
        """,
        configs_prod="""
            kind: Config
            metadata: {name: prod, namespace: prod}
            spec: {limits: {max_llm_calls: 1}}
        """,
    )
    found = plan("- {name: a, tool: t}\n- {name: b, data: 1}", "", library)
    assert found.max_concurrent_nodes == 3
    assert found.deadline == 86_400.0
    assert [node.timeout for node in found.graph.nodes] == [60.0, None]
    near = plan("- {name: a, tool: t}", "orchestrator: {max_concurrent_nodes: 9}", library)
    assert near.max_concurrent_nodes == 9
    assert near.limits == {}


def test_policies_of_all_levels_are_in_effect_from_the_outside_in() -> None:
    far, near = Level("config a", settings={"on_limit": "stop"}), Level("pipeline p")
    assert settle((far, near)).settings == {"on_limit": "stop"}
    assert settle((far, near)).origin["on_limit"] == ("stop", "config a")
