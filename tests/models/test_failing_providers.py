"""Providers that fail, and providers that are no servers, behind a real mount: what agents get, and
what the books say."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.hatchery import Hatchery, QuickTree
from tests.llm.server import Provider
from tests.llm.wire import PATHS, Answer, body_of, post, reset, send
from tests.models.test_real_gateway import CALLS, KEY
from tests.puppet import Puppet
from tests.system.test_across_users import interpreter
from tests.tree import Tree, eventually

pytestmark = pytest.mark.mount

MODELS = """\
providers:
  here: {{url: "{url}", speaks: [chat, responses, messages], key: {{secret: here}}, retries: 0,
    record: nightly}}
  again: {{replay: nightly}}
  written: {{scripted: hello.yaml}}
models:
  m: {{tier: operational, provider: here, fallbacks: [other], timeouts: {{first_byte: 30s}}}}
  other: {{tier: operational, provider: here}}
  taped: {{tier: operational, provider: again}}
  hello: {{tier: operational, provider: written}}
"""

WRITTEN = """\
answers:
  - {when: France, say: "The capital of France is Paris."}
  - {when: weather, fail: {status: 500, words: no weather today}}
"""


class Place:
    """A tree whose models have one provider that is a server, a tape of it, and written answers."""

    def __init__(self, tree: Tree, provider: Provider) -> None:
        self.tree, self.provider = tree, provider
        tree.mount()
        (tree.state / "tapes").mkdir(exist_ok=True)
        (tree.state / "tapes" / "hello.yaml").write_text(WRITTEN)
        (tree / "etc/secrets/here").write_text(KEY)
        tree.write("etc/models.yaml", MODELS.format(url=provider.url))
        facts = dict(line.split(":\t", 1) for line in tree.read("sys/gateway").splitlines())
        host, _, port = facts["Address"].removeprefix("http://").rpartition(":")
        self.address = host, int(port)

    def post(self, dialect: str, model: str = "m", **more: Any) -> Answer:
        """What the operator gets."""
        return post(self.address, PATHS[dialect], body_of(dialect, model, **more))

    def figures(self) -> dict[str, int]:
        """What all calls used so far."""
        base = self.tree / "sys/accounting/total"
        names = ("calls", "input", "output", "estimated")
        return {n: int((base / n).read_text()) if base.exists() else 0 for n in names}

    def used(self, before: dict[str, int]) -> dict[str, int]:
        return {name: count - before[name] for name, count in self.figures().items()}


@pytest.fixture(scope="module")
def place(hatchery: Hatchery) -> Iterator[Place]:
    with Provider() as provider, tempfile.TemporaryDirectory(prefix="agentfs-models-") as folder:
        os.chmod(folder, 0o755)
        tree = QuickTree(Path(folder) / "tree", hatchery=hatchery)
        try:
            yield Place(tree, provider)
        finally:
            tree.clean_up()


@pytest.fixture(autouse=True)
def fresh(place: Place) -> None:
    place.provider.reset()


@pytest.mark.parametrize("dialect", PATHS)
def test_20_chunks_before_a_reset_are_charged(place: Place, dialect: str) -> None:
    before = place.figures()
    place.provider.script("m", text="ab", tokens=50, reset_after=20)
    answer = place.post(dialect, stream=True)
    assert answer.status == 200
    assert b"broke the connection off" in answer.body
    used = place.used(before)
    assert (used["calls"], used["output"], used["estimated"]) == (1, 20, 1)


@pytest.mark.parametrize("stream", [False, True])
def test_a_fallback_is_shown_and_the_first_costs_nothing(place: Place, stream: bool) -> None:
    before = place.figures()
    place.provider.script("m", status=400)
    answer = place.post("chat", stream=stream)
    assert (answer.status, answer.headers["x-agentfs-served-by"]) == (200, "other")
    used = place.used(before)
    assert (used["calls"], used["output"], used["estimated"]) == (1, 6, 0)


@pytest.mark.parametrize("end", [lambda connection: connection.close(), reset])
def test_a_caller_that_goes_stops_the_provider(place: Place, end) -> None:
    place.provider.script("m", hang=True)
    for stream in (False, True):
        before = place.figures()
        place.provider.forget()
        connection = send(place.address, PATHS["chat"], body_of("chat", stream=stream))
        place.provider.wait(lambda log: log)
        end(connection)
        place.provider.wait(lambda log: log[0].hung_up)
        eventually(lambda before=before: place.used(before)["calls"] == 1)
        used = place.used(before)
        assert used["input"] > 0
        assert (used["output"], used["estimated"]) == (0, 1)


def test_a_provider_that_wants_an_hour_is_told_to_the_caller(place: Place) -> None:
    for model in ("m", "other"):
        place.provider.script(model, status=429, headers={"retry-after": "3600"})
    before = place.figures()
    answer = place.post("messages", stream=True)
    assert (answer.status, answer.headers["retry-after"]) == (429, "3600")
    assert place.used(before) == dict.fromkeys(before, 0)


def test_no_key_reaches_an_agent(place: Place) -> None:
    for model in ("m", "other"):
        place.provider.script(model, status=401, quote_key=True)
    answer = place.post("chat")
    assert answer.status == 401
    assert KEY not in answer.body.decode()
    assert KEY not in place.tree.log()


def test_a_tape_answers_without_its_server(place: Place) -> None:
    for stream in (False, True):
        first = place.post("messages", stream=stream)
        before = place.figures()
        place.provider.forget()
        again = place.post("messages", "taped", stream=stream)
        assert again.body == first.body
        assert place.provider.log() == []
        used = place.used(before)
        assert (used["calls"], used["output"], used["estimated"]) == (1, 6, 0)
    other = [{"role": "user", "content": "something else"}]
    missing = post(place.address, PATHS["chat"], body_of("chat", "taped") | {"messages": other})
    assert missing.status == 404
    assert "the tape has no answer" in missing.json()["error"]["message"]


def test_written_answers_through_a_file(place: Place) -> None:
    agent = Puppet(place.tree, "reader", python=interpreter())
    try:
        agent.do(f"exec({CALLS!r}, globals())")
        asked = "(lambda fd: [os.write(fd, b'Capital of France?'), os.read(fd, 4096).decode()][1])"
        opened = f"os.open('{place.tree / 'dev/llm/hello'}', os.O_RDWR)"
        assert "The" in agent.do(f"{asked}({opened})")
        status, body = agent.do(
            "post('/v1/chat/completions', "
            "{'model': 'hello', 'messages': [{'role': 'user', 'content': 'weather'}]})"
        )
        assert status == 500
        assert "no weather today" in body
    finally:
        agent.close()
