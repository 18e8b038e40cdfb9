"""Spoiled manifests: never a traceback, every fault has its place, and none takes long."""

from __future__ import annotations

import copy
import json
import random
import re
import time
from typing import Any

import pytest

from agentfs.base.yaml_document import DocumentError
from agentfs.base.yaml_text import compose_all, plain
from agentfs.manifests.documents import LocalLibrary
from agentfs.manifests.folders import FOLDERS
from agentfs.manifests.kinds import COMMON, KINDS
from agentfs.manifests.pipeline import check_manifest, compile_pipeline
from agentfs.manifests.plan import Plan
from tests.manifests.drafts import pipeline, shelf
from tests.manifests.test_macro import REVIEW

SEEDS = [
    pipeline(
        """
        - {name: a, data: {v: 1, w: [1, 2]}}
        - {name: b, expression: {x: a.v + 1}, when: a.v > 0, retry: {attempts: 3, delay: 0}}
        - {name: c, program: [wc, -l], args: ["{{ b.x }}"], env: {A: "{{ a.v }}"}, timeout: 5s}
        - name: l
          for-each: a.w
          item_var: each
          body: [{name: q, llm: "say {{ each }}", output_schema: {score: int}}]
        - {name: s, switch: [{condition: b.x > 1, action: t}, {condition: a.v, body: m.f}]}
        - {name: t, tool: find, arguments: {q: "{{ l }}"}, on_error: u, policies: [gentle]}
        - {name: u, agent: alice, prompt: what now, wait_for: [c], concurrency: {key: x, limit: 2}}
        - {name: w, while: state.n < 3, initial_state: {n: 0}, state_update: {n: state.n + 1}}
        - {name: r, macro: review, inputs: {topic: "{{ u }}", count: 2}}
        - name: i
          if: a.v
          body: [{name: y, wait: k, timeout: 1h}]
          else_body: [{name: z, data: 0}]
        """,
        """
        input_schema: {topic: str, note: "str | None"}
        output: {x: b.x, y: "{{ u }}"}
        limits: {max_llm_calls: 30, max_cost_usd: 1.5}
        caps: [llm, "tool:find_*"]
        deny: [network_access]
        ports: {mail: {ref: post, config: {a: 1}}}
        policies: [gentle]
        concurrency: {key: "{{ input.topic }}", limit: 1, on_full: replace}
        services: {db: {class: "m:C", config: {x: 1}}}
        deadline: 1d
        """,
    ),
    "kind: Macro\nmetadata: {name: m}\nparameters: [{name: n, type: int, enum: [1, 2]}]\n"
    "nodes_raw: |\n  {% for x in range(n) %}\n  - {name: 'a{{ x }}', data: 1}\n  {% endfor %}\n",
    "kind: Policy\nmetadata: {name: p}\n"
    "spec: {type: retry, config: {attempts: 3, backoff: exponential}}\n",
    "kind: Middleware\nmetadata: {name: p}\n"
    "spec: {stack: [x.RetryMiddleware, {y.RateLimit: {calls: 3}}]}\n",
    "kind: Adapter\nmetadata: {name: p}\n"
    "spec: {program: [a], config: {b: 1}, capabilities: {requires: [llm]}}\n",
    "kind: Config\nmetadata: {name: p}\nspec: {limits: {max_llm_calls: 3},"
    " caps: {default_set: [llm]}, orchestrator: {max_concurrent_nodes: 4, pipeline_timeout: 9}}\n",
    """
kind: System
metadata: {name: p}
spec:
  limits: {max_llm_calls: 50}
  processes:
    a: {pipeline: p, limits: {max_llm_calls: 3}, input: {q: "{{ input.z }}"}}
    b: {exec: ./p.yaml, caps: [llm]}
    c: {exec: [sh, -c, "true"], role: worker, restart: never, env: {A: b}}
  pipes: [{from: a, to: b, mapping: {v: "{{ a.output.x }}", w: "{{ input.q }}"}}]
  init: {type: event, topic: t, filter: "value.x > 1"}
  state_machines:
    order:
      initial: new
      transitions: {new: [paid, {to: done, guard: "payload.x"}], paid: [done]}
""",
]  # fmt: skip
LIBRARY = shelf(
    macros_review=REVIEW,
    policies_gentle="kind: Policy\nmetadata: {name: g}\nspec: {type: retry}\n",
    adapters_post="kind: Adapter\nmetadata: {name: a}\nspec: {queue: post}\n",
)
WORDS = [
    *KINDS, *COMMON, *FOLDERS, "name", "spec", "kind", "metadata", "nodes", "body", "{{", "}}",
    "{% if %}", "null", "-1", "1e400", "0o7", "yes", "[]", "{}", "''", '"', "&x", "*x", "<<", "!py",
    "!!int", "a.b.c", "nodes.", "state.x", "${X}", "input", "ctx.run_id", "\t", "\0", "€", "🙂",
    "9" * 400, "(" * 50, "x" * 300, "- - -", "? [a]", "|", ">-", "%YAML", "---", "...", "\ud800",
]  # fmt: skip
PLACE = re.compile(r"p\.yaml:(\d+):(\d+): [EWI]\d{3} \S")


VALUES: list[Any] = [
    None, True, 0, -1, 1.5, 2**70, "", "x", "a.v", "{{ a }}", "{{ nodes.b.x }}", "{{", "a +", "5s",
    [], {}, [1], [[]], {"x": 1}, {"x": None}, ["a", "b"], [{"condition": "x"}], "m:f", "\0",
    "é" * 70,
]  # fmt: skip


def twisted(value: Any, chance: random.Random) -> Any:
    """The values with one of them, or a key, replaced, dropped, or doubled."""
    value = copy.deepcopy(value)
    here: Any = value
    while True:
        inner = [each for each in _parts(here) if isinstance(each, dict | list) and each]
        if not inner or chance.random() < 0.2:
            break
        here = chance.choice(inner)
    if isinstance(here, list) and here:
        at = chance.randrange(len(here))
        change = chance.randrange(3)
        if change == 0:
            here[at] = chance.choice(VALUES)
        elif change == 1:
            here.insert(at, copy.deepcopy(here[at]))
        else:
            del here[at]
    elif isinstance(here, dict) and here:
        key = chance.choice(sorted(here))
        change = chance.randrange(4)
        if change == 0:
            here[key] = chance.choice(VALUES)
        elif change == 1:
            here[chance.choice(WORDS)] = here.pop(key)
        elif change == 2:
            here[chance.choice([*KINDS, *COMMON])] = chance.choice(VALUES)
        else:
            del here[key]
    return value


def _parts(value: Any) -> list[Any]:
    return list(value.values()) if isinstance(value, dict) else list(value)


def spoiled(text: str, chance: random.Random) -> str:
    """The text with a few things wrong."""
    for _ in range(chance.randint(1, 5)):
        at = chance.randrange(len(text) + 1)
        end = min(len(text), at + chance.choice((0, 1, 3, 20)))
        words = re.findall(r"[\w-]+", text)
        what = chance.randrange(5)
        if what == 0:
            text = text[:at] + text[end:]
        elif what == 1:
            text = text[:at] + chance.choice(WORDS) + text[at:]
        elif what == 2 and words:
            text = text.replace(chance.choice(words), chance.choice([*WORDS, *words]), 1)
        elif what == 3:
            other = chance.choice(SEEDS)
            start = chance.randrange(len(other))
            text = text[:at] + other[start : start + 40] + text[at:]
        else:
            lines = text.splitlines(keepends=True)
            number = chance.randrange(len(lines) or 1)
            lines[number:number] = lines[number : number + chance.randint(1, 3)]
            text = "".join(lines)
    return text


@pytest.mark.parametrize("seed", range(8))
def test_a_spoiled_manifest_is_refused_in_words_or_is_a_plan(seed: int) -> None:
    chance = random.Random(seed)
    slowest = 0.0
    for _ in range(100):
        text = chance.choice([SEEDS[0], *SEEDS])
        if chance.random() < 0.2:
            text = spoiled(text, chance)
        else:
            (value,) = [plain(node) for node in compose_all(text)]
            for _ in range(chance.randint(1, 3)):
                value = twisted(value, chance)
            text = json.dumps(value, ensure_ascii=False, indent=chance.choice((None, 1)))
        kind = next((FOLDERS[each] for each in FOLDERS if f'"{each}"' in text), "pipelines")
        started = time.process_time()
        for each in check_manifest(kind, text, "p.yaml", LIBRARY, style=True):
            assert PLACE.match(str(each)), each
            assert int(PLACE.match(str(each))[1]) <= text.count("\n") + 2  # type: ignore[index]
        try:
            found = compile_pipeline(text, "p.yaml", LIBRARY)
        except DocumentError as refused:
            assert refused.faults
            for told in refused.faults:
                assert PLACE.match(told), told
        else:
            assert Plan.from_record(json.loads(json.dumps(found.record()))) == found
            assert compile_pipeline(found.document, "p.yaml", LocalLibrary(LIBRARY))
        slowest = max(slowest, time.process_time() - started)
    assert slowest < 5  # the usual is 10 ms: this is for what grows without bound
