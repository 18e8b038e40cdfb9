"""The books have the figures of the provider for all that agents use through HTTP, and no budget,
limit or group is passed: the real gateway behind a real mount, and a provider that is a process of
its own."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.llm.server import Provider
from tests.tree import Tree, eventually

KEY = "sk-the-key-of-the-operator"
ASKER = str(Path(__file__).with_name("asker.py"))
CHAT = "/v1/chat/completions"
HELLO = [{"role": "user", "content": "Capital of France?"}]

FIGURES = ("input", "output", "cache_read", "cache_write", "calls", "estimated")

MODELS = """\
providers:
  here: {{url: "{url}", speaks: [chat, responses, messages, embeddings], key: {{secret: here}},
    retries: 0}}
models:
  m: {{tier: tactical, provider: here, match: ["claude-*"], input: 3, output: 15, cache_read: 0.3,
    cache_write: 3.75}}
"""


class Town(NamedTuple):
    """A tree and a provider of its one model."""

    tree: Tree
    provider: Provider

    def figures(self, account: str) -> dict[str, int]:
        return {n: int(self.tree.read(f"sys/accounting/{account}/{n}")) for n in FIGURES}

    def ask(
        self, name: str, body: dict[str, Any], times: int = 1, path: str = CHAT, **spec: Any
    ) -> list[tuple[int, dict[str, str], str]]:
        """What an agent of that name gets for so many requests at once."""
        command = [sys.executable, ASKER, path, json.dumps({"model": "m"} | body), str(times)]
        spec = {"tier": "tactical", "restart": "never", "limits": {}} | spec
        pid = self.tree.spawn(name, exec=command, **spec)
        eventually(lambda: self.tree.read(f"proc/{pid}/exit").strip())
        output = self.tree.read(f"agents/{name}/log")
        line = next((each for each in output.splitlines() if each.startswith("[[")), "")
        assert line, output
        return [(status, headers, said) for status, headers, said in json.loads(line)]

    def call_of(self, name: str) -> Path:
        """The one call that an agent has open, as soon as it has one."""
        eventually((self.tree / f"agents/{name}/pid").exists)
        folder = self.tree / f"proc/{self.tree.read(f'agents/{name}/pid').strip()}/calls"
        eventually(lambda: list(folder.iterdir()))
        (call,) = folder.iterdir()
        return call

    def settled(self) -> None:
        """Wait until no call is in flight."""
        eventually(lambda: "Calls:\t0\n" in self.tree.read("sys/gateway"))


@pytest.fixture(scope="module")
def provider() -> Iterator[Provider]:
    with Provider() as made:
        yield made


@pytest.fixture(scope="module")
def _tree(tmp_path_factory: pytest.TempPathFactory, provider: Provider) -> Iterator[Tree]:
    tree = Tree(tmp_path_factory.mktemp("town") / "tree")
    try:
        tree.mount()
        (tree / "etc/secrets/here").write_text(f"{KEY}\n")
        tree.write("etc/models.yaml", MODELS.format(url=provider.url))
        yield tree
    finally:
        tree.clean_up()


@pytest.fixture
def town(_tree: Tree, provider: Provider) -> Town:
    provider.reset()
    return Town(_tree, provider)


def said(call: Path) -> dict[str, str]:
    """The status of a call."""
    return dict(line.split(":\t") for line in (call / "status").read_text().splitlines())


def test_tokens_of_the_cache_have_prices_of_their_own(town: Town) -> None:
    town.provider.script("m", text="x", input=1000, output=10, cache_read=4000, cache_write=2000)
    body = {"max_tokens": 100, "messages": HELLO}
    for stream in (False, True):
        name = f"cached-{stream}"
        [(status, _, _)] = town.ask(name, body | {"stream": stream}, path="/v1/messages")
        assert status == 200
        town.settled()
        cost = 3 * 1000 + 15 * 10 + 0.3 * 4000 + 3.75 * 2000
        assert float(town.tree.read(f"sys/accounting/agent/{name}/cost")) == cost / 1e6
        assert int(town.tree.read(f"sys/accounting/agent/{name}/tokens")) == 7010


def test_of_50_callers_with_room_for_seven_seven_get_through(town: Town) -> None:
    """Each takes what it has set aside, so that none gets through later, either."""
    body = {"messages": HELLO, "max_tokens": 1000}
    town.provider.script("m", hang=True)
    thread = threading.Thread(target=lambda: town.ask("first", body))
    thread.start()
    try:
        call = town.call_of("first")
        held = said(call)
        (call / "ctl").write_text("cancel")
    finally:
        thread.join()
    assert int(held["Held"]) == int(held["Input"]) + 1000
    town.provider.script("m", tokens=1000, input=int(held["Input"]))
    budget = {"tactical": 7 * int(held["Held"])}
    answers = town.ask("crowd", body, 50, role="lead", budget=budget)
    statuses = sorted(status for status, _, _ in answers)
    assert statuses == [200] * 7 + [400] * 43
    assert {json.loads(words)["error"]["code"] for got, _, words in answers if got == 400} == {
        "budget_exceeded"
    }
    town.settled()
    assert town.figures("agent/crowd")["calls"] == 7


def test_streams_that_want_64000_end_where_the_budget_does(town: Town) -> None:
    town.provider.script("m", tokens=64_000, text="ab", input=1, obey=False, delay=0.001)
    body = {"messages": HELLO, "max_tokens": 64_000, "stream": True}
    answers = town.ask("streams", body, 20, role="lead", budget={"tactical": 2000})
    town.settled()
    through = [said for status, _, said in answers if status == 200]
    assert through
    assert all('"finish_reason"' in said and said.rstrip().endswith("[DONE]") for said in through)
    used = town.figures("agent/streams")
    assert used["output"] <= 2000 + 20
    assert used["input"] + used["output"] > 1000
    assert used["estimated"] == len(through)


@pytest.mark.parametrize(
    ("name", "limits", "status", "code"),
    [
        ("cost", {"max_cost_usd": 0.001}, 400, "budget_exceeded"),
        ("calls", {"max_llm_calls": 0}, 400, "budget_exceeded"),
        ("total", {"max_tokens_total": 5}, 400, "budget_exceeded"),
        ("hour", {"max_tokens_per_hour": 5}, 400, "budget_exceeded"),
        ("context", {"max_context_tokens": 5}, 400, "context_length_exceeded"),
        ("rate", {"llm_calls_per_minute": 0}, 429, "rate_limit_exceeded"),
    ],
)
def test_every_limit_holds_for_http_as_for_the_file(
    town: Town, name: str, limits: dict[str, Any], status: int, code: str
) -> None:
    body = {"messages": [{"role": "user", "content": "x" * 1000}]}
    [(got, _, said)] = town.ask(f"limit-{name}", body, limits=limits)
    assert (got, json.loads(said)["error"]["code"]) == (status, code)
    assert not [call for call in town.provider.log() if call.dialect == "chat"]


def test_a_rate_says_when_the_next_call_may_be_made(town: Town) -> None:
    answers = town.ask("rate-2", {"messages": HELLO}, 3, limits={"llm_calls_per_minute": 2})
    (refused,) = [headers for status, headers, _ in answers if status == 429]
    assert 50 <= int(refused["retry-after"]) <= 60


def test_a_group_holds_for_http(town: Town) -> None:
    (town.tree / "sys/cgroup/team").mkdir()
    town.tree.write("sys/cgroup/team/tokens.max", "5")
    [(status, _, said)] = town.ask("grouped", {"messages": HELLO}, group="team")
    assert (status, json.loads(said)["error"]["code"]) == (400, "budget_exceeded")
    assert "group team" in said


def test_on_limit_stop_ends_the_agent(town: Town) -> None:
    command = [sys.executable, ASKER, CHAT, json.dumps({"model": "m", "messages": HELLO}), "1"]
    sleepy = ["sh", "-c", 'while :; do "$@"; sleep 0.1; done', "sh", *command]
    pid = town.tree.spawn(
        "stopped", exec=sleepy, tier="tactical", on_limit="stop", limits={"max_llm_calls": 1}
    )
    eventually(lambda: town.tree.read(f"proc/{pid}/exit").strip())
    assert town.tree.read(f"proc/{pid}/exit") == "143\n"
    assert "limit: max_llm_calls" in town.tree.read("agents/stopped/result")
    assert len([call for call in town.provider.log() if call.dialect == "chat"]) == 1


def test_a_call_is_seen_and_cancelled_in_the_tree(town: Town) -> None:
    town.provider.script("m", tokens=10_000, text="ab", input=1, delay=0.01)
    got: list[Any] = []
    body = {"messages": HELLO, "stream": True}
    thread = threading.Thread(target=lambda: got.append(town.ask("seen", body)))
    thread.start()
    try:
        call = town.call_of("seen")
        eventually(lambda: int(said(call)["Output"]) > 5)
        status = said(call)
        assert (status["Name"], status["Provider"], status["Dialect"]) == ("m", "here", "chat")
        assert status["First-Byte"].startswith("20")
        assert int(status["Held"]) > int(status["Output"]) > 0
        (call / "ctl").write_text("cancel\n")
        eventually(lambda: not call.exists())
    finally:
        thread.join()
    assert got
    used = town.figures("agent/seen")
    assert (used["calls"], used["estimated"]) == (1, 1)
    assert 0 < used["output"] < 10_000
