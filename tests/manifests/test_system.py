"""Manifests: what is refused and in which words, and what a good one becomes."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from agentfs.base.yaml_document import DocumentError
from agentfs.manifests.system import load, parse
from agentfs.model.spec import parse_spec

PLACE = re.compile(r"s\.yaml:(\d+):\d+: E\d{3} (.*)", re.DOTALL)
HEAD = "kind: System\nmetadata: {name: test}\nspec:\n  processes:\n"


def faults(text: str) -> list[str]:
    """The faults of a document, without the name of the file, columns and codes."""
    with pytest.raises(DocumentError) as caught:
        parse(text, "s.yaml", "/here")
    told = [PLACE.fullmatch(fault) for fault in caught.value.faults]
    assert None not in told, caught.value.faults
    return [f"{each[1]}: {each[2]}" for each in told if each is not None]


def processes(body: str) -> list[str]:
    """The faults of a manifest whose processes (from line 5) are `body`."""
    return faults(HEAD + body)


def test_a_whole_manifest_becomes_specs_with_parents_first(tmp_path: Path) -> None:
    path = tmp_path / "system.yaml"
    path.write_text(
        "# two kinds of process\n"
        "kind: System\n"
        "metadata: {name: wordcount}\n"
        "spec:\n"
        "  processes:\n"
        "    worker: {exec: [./worker.sh], role: worker, parent: lead, replicas: 2, cwd: bin}\n"
        "    lead:\n"
        "      exec: python3 lead.py\n"
        "      role: lead\n"
        "      tier: tactical\n"
        "      model: sonnet\n"
        "      restart: never\n"
        "      heartbeat: 30s\n"
        "      env: {A: b}\n"
        "      user: nobody\n"
        "      tools: [search]\n"
        "      limits: {max_children: max}\n"
    )
    system = load(str(path))
    assert system.name == "wordcount"
    assert [(each.name, each.parent) for each in system.processes] == [
        ("lead", "init"),
        ("worker-1", "lead"),
        ("worker-2", "lead"),
    ]
    lead, first, _ = system.processes
    assert lead.spec == {
        "name": "lead",
        "exec": "python3 lead.py",
        "role": "lead",
        "tier": "tactical",
        "model": "sonnet",
        "restart": "never",
        "heartbeat": "30s",
        "env": {"A": "b"},
        "user": "nobody",
        "tools": ["search"],
        "limits": {"max_children": "max"},
        "cwd": str(tmp_path),
    }
    assert first.spec == {
        "name": "worker-1",
        "exec": ["./worker.sh"],
        "role": "worker",
        "cwd": str(tmp_path / "bin"),
    }
    for each in system.processes:
        assert parse_spec(json.dumps(each.spec)).name == each.name


def test_all_faults_are_reported_at_once_in_the_order_of_their_lines() -> None:
    assert faults(
        "kind: Sytem\n"
        "metadata: {nam: x}\n"
        "spec:\n"
        "  processes:\n"
        "    a:\n"
        "      rol: lead\n"
        "      tier: tactcal\n"
        "      heartbeat: often\n"
        "    b: {parent: c}\n"
    ) == [
        "1: kind: System was expected (did you mean System?)",
        "2: metadata: the key `name` was expected",
        "2: metadata: unknown key `nam`, one of name, namespace, description was expected"
        " (did you mean name?)",
        "6: a: unknown key `rol`, one of parent, replicas, exec, role, tier, model, restart,"
        " heartbeat, restart_notice, env, cwd, user, tools, limits, on_limit, caps, deny,"
        " read, budget, group, prompt,"
        " groups, metadata was expected (did you mean role?)",
        "7: a.tier: one of strategic, tactical, operational was expected, not 'tactcal'"
        " (did you mean tactical?)",
        "8: a.heartbeat: a duration like 90s, 10m, 2h or 7d was expected",
        "9: b.parent: the name of a process of this manifest was expected, not 'c'",
    ]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "1: `kind: System` was expected, the document is empty"),
        ("# only a comment\n", "1: `kind: System` was expected, the document is empty"),
        ("[]", "1: the document: a map was expected"),
        ("just text", "1: the document: a map was expected"),
        ("kind: System\n a: b: c\n", "2: not YAML: mapping values are not allowed in this context"),
        ("kind: [\n", "2: not YAML: did not find expected node content"),
        ("kind: System\n---\nx: 1\n", "1: the document: the key `metadata` was expected"),
        ("kind: S\nx: \x07\n", "2: not YAML: control characters are not allowed"),
        ("a: *nowhere", "1: not YAML: found undefined alias 'nowhere'"),
        ("[" * 5000, "1: not YAML: nested too deeply"),
        ("&a {<<: *a}", "1: not YAML: `*a` is part of itself"),
    ],
)
def test_what_is_no_map_of_keys_is_refused_with_its_line(text: str, fault: str) -> None:
    assert faults(text)[0] == fault


def test_every_key_that_is_missing_is_named() -> None:
    assert faults("kind: System\n")[0] == "1: the document: the key `metadata` was expected"
    assert faults("kind: System\n")[1] == "1: the document: the key `spec` was expected"
    assert faults("metadata: {name: x}\nspec: {processes: {a: {}}}") == [
        "1: the document: the key `kind` was expected"
    ]
    assert faults("kind: System\nmetadata: {name: x}\nspec: {}") == [
        "3: spec: the key `processes` was expected"
    ]
    assert faults("kind: System\nmetadata: {name: x}\nspec: {processes: {}}") == [
        "3: spec.processes: at least one process was expected"
    ]
    assert faults("kind: System\nmetadata: {name: x}\nspec:\n  processes:\n") == [
        "4: spec.processes: a map was expected"
    ]


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("role: wrker", "a.role: one of daemon, agent, architect, lead, worker, task was expected,"
         " not 'wrker' (did you mean worker?)"),
        ("role: kernel", "a.role: one of daemon, agent, architect, lead, worker, task was expected,"
         " not 'kernel'"),
        ("role: [lead]", "a.role: one of daemon, agent, architect, lead, worker, task was expected,"
         " not ['lead'] (did you mean lead?)"),
        ("restart: no", "a.restart: one of always, on-failure, never was expected, not 'no'"),
        ("restart: Always", "a.restart: one of always, on-failure, never was expected,"
         " not 'Always' (did you mean always?)"),
        ("exec: 5", "a.exec: a command line (text) or a list of texts was expected"),
        ("exec: [sleep, 5]", "a.exec.1: text was expected; put it in quotes"),
        ("env: {A: 5}", "a.env.A: text was expected; put it in quotes"),
        ("env: A", "a.env: a map was expected"),
        ("cwd: 5", "a.cwd: text was expected; put it in quotes"),
        ("cwd:", "a.cwd: a value was expected"),
        ("heartbeat: true", "a.heartbeat: a duration like 90s, 10m, 2h or 7d was expected"),
        ("parent: 7", "a.parent: the name of a process was expected"),
        ("parent: inti", "a.parent: the name of a process of this manifest was expected,"
         " not 'inti' (did you mean init?)"),
        ("replicas: 0", "a.replicas: a whole number from 1 to 1000 was expected"),
        ("replicas: 1001", "a.replicas: a whole number from 1 to 1000 was expected"),
        ("replicas: true", "a.replicas: a whole number from 1 to 1000 was expected"),
        ("replicas: many", "a.replicas: a whole number from 1 to 1000 was expected"),
        ("limits: 5", "a.limits: a map was expected"),
        ("limits: {max_childs: 5}", "a.limits: unknown key `max_childs`, one of max_children,"
         " max_concurrent_tasks, timeout_seconds, max_tokens_per_hour, max_tokens_total,"
         " max_context_tokens, max_llm_calls, max_tool_calls, max_cost_usd, messages_per_minute,"
         " max_memory_mb, max_cpu_seconds, max_pids, calls_per_minute, spawns_per_minute,"
         " signals_per_minute, claims_per_minute, artifacts_per_minute, llm_calls_per_minute,"
         " tool_calls_per_minute was expected (did you mean max_children?)"),
        ("limits: {max_children: -1}",
         "a.limits.max_children: a number of at least 0 was expected"),
        ("limits: {max_children: all}",
         "a.limits.max_children: a whole number or `max` was expected"),
        ("{role: task, tier: strategic}", "a.tier: a task is never strategic"),
        ("nane: b", "a: unknown key `nane`, one of parent, replicas, exec, role, tier, model,"
         " restart, heartbeat, restart_notice, env, cwd, user, tools, limits, on_limit, caps, deny,"
         " read, budget, group, prompt, groups, metadata was expected"),
        ("name: b", "a: unknown key `name`, one of parent, replicas, exec, role, tier, model,"
         " restart, heartbeat, restart_notice, env, cwd, user, tools, limits, on_limit, caps, deny,"
         " read, budget, group, prompt, groups, metadata was expected"),
        ("? [x]\n      : y", "a: a name was expected as key"),
    ],
)  # fmt: skip
def test_a_bad_value_is_refused_in_words(line: str, fault: str) -> None:
    if line.startswith("{"):
        assert processes(f"    a: {line}\n") == [f"5: {fault}"]
    else:
        assert processes(f"    a:\n      {line}\n") == [f"6: {fault}"]


def test_a_fault_deep_inside_has_the_line_of_the_value() -> None:
    assert processes(
        "    a:\n      exec:\n        - sleep\n        - 5\n"
        "      env:\n        A: a\n        B: 7\n"
    ) == [
        "8: a.exec.1: text was expected; put it in quotes",
        "11: a.env.B: text was expected; put it in quotes",
    ]


def test_a_key_that_is_there_twice_is_refused_at_every_level() -> None:
    assert faults(
        "kind: System\nkind: System\nmetadata: {name: x}\nspec:\n  processes:\n"
        "    a: {role: lead, role: task}\n"
        "    a: {env: {A: a, A: b}}\n"
    ) == [
        "2: the document: `kind` is there twice, first in line 1",
        "6: a: `role` is there twice, first in line 6",
        "7: spec.processes: `a` is there twice, first in line 6",
    ]
    assert processes(
        "    a: {env: {A: a, A: b}, limits: {max_children: 1, max_children: 2}}\n"
    ) == [
        "5: a.env: `A` is there twice, first in line 5",
        "5: a.limits: `max_children` is there twice, first in line 5",
    ]


@pytest.mark.parametrize("name", ["a b", "", "a/b", "ä", "x" * 65, "[x]"])
def test_a_process_has_a_name_that_an_agent_can_have(name: str) -> None:
    assert processes(f"    {json.dumps(name)}: {{}}\n")[0].endswith(
        "a name was expected: 1 to 64 of A-Z a-z 0-9 . _ -"
    )


@pytest.mark.parametrize("name", ["init", "self", ".", ".."])
def test_reserved_names_are_refused(name: str) -> None:
    assert "is reserved" in processes(f"    {name}: {{}}\n")[0]


def test_a_parent_must_be_of_this_manifest_and_one_process() -> None:
    assert processes("    lead: {}\n    b: {parent: laed}\n") == [
        "6: b.parent: the name of a process of this manifest was expected, not 'laed'"
        " (did you mean lead?)"
    ]
    assert processes("    lead: {replicas: 3}\n    b: {parent: lead}\n") == [
        "6: b.parent: the name of a process of this manifest was expected:"
        " one of lead-1 … lead-3, not lead"
    ]
    system = parse(
        HEAD + "    lead: {replicas: 3}\n    b: {parent: lead-2, replicas: 1}\n", "s", "/"
    )
    assert [(each.name, each.parent) for each in system.processes][3:] == [("b-1", "lead-2")]


def test_a_cycle_of_parents_is_one_fault_that_shows_it() -> None:
    wanted = "a parent that is no descendant was expected"
    assert processes("    a: {parent: c}\n    b: {parent: a}\n    c: {parent: b}\n") == [
        f"5: a.parent: {wanted}: a -> c -> b -> a"
    ]
    assert processes("    a: {parent: a}\n    b: {parent: a}\n") == [
        f"5: a.parent: {wanted}: a -> a"
    ]
    assert processes("    a: {parent: b-1}\n    b: {parent: a, replicas: 2}\n") == [
        f"5: a.parent: {wanted}: a -> b -> a"
    ]


def test_a_tier_is_never_above_the_parents_and_without_one_it_is_the_lowest() -> None:
    assert processes(
        "    a: {tier: tactical}\n    b: {parent: a}\n    c: {parent: b, tier: tactical}\n"
    ) == ["7: c.tier: at most operational, the tier of its parent b, was expected, not tactical"]
    good = "    a: {tier: tactical}\n    b: {parent: a, tier: tactical}\n    c: {parent: b}\n"
    assert parse(HEAD + good, "s", "/").processes
    assert processes(
        "    a: {role: task, tier: tactical}\n    b: {parent: a, tier: strategic}\n"
    ) == ["6: b.tier: at most tactical, the tier of its parent a, was expected, not strategic"]


def test_names_of_replicas_clash_with_no_other_name() -> None:
    assert processes("    web-2: {}\n    web: {replicas: 2}\n") == [
        "6: web-2: this name is taken by web-2, line 5"
    ]
    long = "x" * 64
    assert processes(f"    {long}: {{replicas: 1}}\n") == [
        f"5: {long}-1: a name of at most 64 was expected"
    ]


def test_more_children_than_the_parents_limit_are_refused_before_anything_starts() -> None:
    assert processes("    a: {}\n    b: {parent: a, replicas: 11}\n") == [
        "5: a.limits.max_children: at least 11 was expected, so many children has it here, not 10"
    ]
    assert processes(
        "    a:\n      limits:\n        max_children: 1\n    b: {parent: a, replicas: 2}\n"
    ) == ["7: a.limits.max_children: at least 2 was expected, so many children has it here, not 1"]
    many = "    a: {limits: {max_children: max}}\n    b: {parent: a, replicas: 50}\n"
    assert len(parse(HEAD + many, "s", "/").processes) == 51


def test_an_empty_process_is_one_without_a_program() -> None:
    system = parse(HEAD + "    person:\n", "s", "/here")
    assert system.processes[0].spec == {"name": "person", "cwd": "/here"}


def test_merge_keys_share_what_processes_have_in_common() -> None:
    system = parse(
        HEAD
        + "    a: &base {role: worker, env: &env {A: a, B: b}}\n"
        + "    b: {<<: *base, role: lead, env: {<<: *env, B: c}}\n",
        "s",
        "/",
    )
    assert system.processes[1].spec == {
        "name": "b", "role": "lead", "env": {"A": "a", "B": "c"}, "cwd": "/"
    }  # fmt: skip


def test_a_file_that_cannot_be_read_is_a_fault(tmp_path: Path) -> None:
    with pytest.raises(DocumentError) as caught:
        load(str(tmp_path / "none.yaml"))
    assert caught.value.faults == [f"{tmp_path}/none.yaml: No such file or directory"]
    (tmp_path / "latin.yaml").write_bytes(b"kind: \xe4\n")
    with pytest.raises(DocumentError) as caught:
        load(str(tmp_path / "latin.yaml"))
    assert "UTF-8 was expected" in caught.value.faults[0]


def test_texts_of_yaml_1_1_and_places_of_faults() -> None:
    system = parse(f"{HEAD}    a: {{exec: [a], env: {{NO: no, T: 12:30:45, Z: 0123}}}}\n", "s", "/")
    assert system.processes[0].spec["env"] == {"NO": "no", "T": "12:30:45", "Z": "0123"}
    with pytest.raises(DocumentError) as refused:
        parse(f"{HEAD}    a: {{exec: [a], rol: x}}\n---\na: 1\n", "s.yaml", "/")
    assert [each.split(",")[0] for each in refused.value.faults] == [
        "s.yaml:5:20: E005 a: unknown key `rol`",
        "s.yaml:7:1: E007 one document was expected",
    ]
