"""Agents whose programs are the real SDKs, unmodified: every interface, what it cost, and how it
ends where the budget does."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.hatchery import Hatchery, QuickTree
from tests.llm.server import TEXT, Provider
from tests.puppet import Puppet
from tests.tree import Tree

pytestmark = pytest.mark.mount

PRICES = {"input": 3, "output": 15, "cache_read": 0.3, "cache_write": 3.75}  # a million tokens
INPUT, READ, WRITTEN = 317, 20, 4_425
"""Tokens that the provider says of each request; what was written to a cache, of messages only."""

BUDGET = 500

TROUBLE: dict[str, dict[str, Any]] = {
    "erring": {"error_after": 3, "error": "quota exceeded"},
    "resetting": {"reset_after": 3},
    "closing": {"close_after": 3},
    "garbled": {"raw": "data: <html>no model here</html>\n\n"},
    "empty": {"raw": "data: [DONE]\n\n"},
    "dripping": {"bytes_at_once": 1, "text": "Größe: 漢字 🙂 né."},
    "quoting": {"status": 401, "error": "incorrect key", "quote_key": True},
}
"""Providers in trouble."""

BROKEN = {
    "erring": "quota exceeded",
    "resetting": "",
    "closing": "",
    "garbled": "not JSON: <html>no model here</html>",
    "empty": "before it was over",
}
"""Words of which each failure has to tell."""

DIALECTS = ["chat", "responses", "messages"]
CLIENT = Path(__file__).with_name("sdk_client.py").read_text()


class Town:
    """A tree with a provider, and agents on the SDKs."""

    def __init__(self, tree: Tree, provider: Provider) -> None:
        self.tree, self.provider = tree, provider
        self._names = itertools.count(1)
        self.puppets: list[Puppet] = []
        tree.mount()
        (tree / "etc/secrets/test").write_text("sk-of-the-operator")
        test = {
            "url": provider.url,
            "speaks": [*DIALECTS, "embeddings"],
            "key": {"secret": "test"},
        }
        models = {
            name: {"tier": "operational", "provider": "test", "id": name, "context": 200_000}
            | PRICES
            for name in ("plain", "tool", "long", *TROUBLE)
        }
        document = {"providers": {"test": test}, "models": models}
        tree.write("etc/models.yaml", yaml.safe_dump(document))
        cache = {"input": INPUT, "cache_read": READ, "cache_write": WRITTEN}
        provider.script("plain", **cache)
        provider.script("tool", tool={"name": "weather", "arguments": {"city": "Paris"}}, **cache)
        for name, behaviour in TROUBLE.items():
            provider.script(name, **behaviour)
        provider.script("long", tokens=64_000, obey=False, delay=0.0005)

    def agent(self, **spec: Any) -> Puppet:
        name = f"sdk{next(self._names)}"
        puppet = Puppet(self.tree, name, **{"deny": ["network_access"], **spec})
        self.puppets.append(puppet)
        puppet.do(f"exec({CLIENT!r}, globals())")
        return puppet

    def account(self, puppet: Puppet, name: str) -> str:
        return self.tree.read(f"sys/accounting/agent/{puppet.name}/{name}")


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory, fuse: None) -> Iterator[Town]:
    with ExitStack() as ends:
        provider = ends.enter_context(Provider())
        hatchery = Hatchery()
        ends.callback(hatchery.close)
        tree = QuickTree(tmp_path_factory.mktemp("sdks") / "tree", hatchery=hatchery)
        ends.callback(tree.clean_up)
        town = Town(tree, provider)
        yield town
        for puppet in town.puppets:
            puppet.close()


@pytest.fixture(scope="module")
def everyday(town: Town) -> Puppet:
    """An agent for all tests that need none of their own: to import the SDKs takes seconds."""
    return town.agent(limits={"max_tokens_per_hour": "max"})


@pytest.fixture
def agent(town: Town) -> Iterator[Callable[..., Puppet]]:
    before = len(town.puppets)
    yield town.agent
    while len(town.puppets) > before:
        town.puppets.pop().close()


@pytest.fixture(autouse=True)
def _empty_log(town: Town) -> None:
    town.provider.forget()


def usage(dialect: str, output: int) -> list[int]:
    return [INPUT, output, READ, WRITTEN if dialect == "messages" else 0]


@pytest.mark.parametrize("how", ["in_threads", "under_asyncio", "under_trio"])
def test_every_interface_of_both_sdks_and_its_cost_to_the_token(
    town: Town, everyday: Puppet, how: str
) -> None:
    before = books(town, everyday)
    for said in everyday.do(f"{how}(2)"):
        for dialect in DIALECTS:
            for stream in ("", " stream"):
                text, tool = said[f"{dialect} text{stream}"], said[f"{dialect} tool{stream}"]
                assert (text["text"], text["calls"]) == (TEXT, [])
                assert text["finish"] in ("stop", "completed", "end_turn")
                assert text["usage"] == usage(dialect, len(TEXT.split()))
                assert tool["calls"] == [["weather", {"city": "Paris"}]]
                assert tool["finish"] in ("tool_calls", "completed", "tool_use")
        assert said["embeddings"]["vectors"] == 2
        assert said["count_tokens"]["usage"] > 0
        assert {"plain", "tool", "long"} <= set(said["models"]["names"])
    calls = town.provider.log()
    assert all(call.headers["host"] != "127.0.0.1:4100" for call in calls)
    metered = [call.dialect for call in calls if call.dialect != "count_tokens"]
    answers = [dialect for dialect in metered if dialect != "embeddings"]
    assert len(metered) == 2 * (2 * 3 * 2 + 1)
    cost = len(metered) * (INPUT * PRICES["input"] + READ * PRICES["cache_read"])
    cost += len(answers) * len(TEXT.split()) * PRICES["output"]
    cost += answers.count("messages") * WRITTEN * PRICES["cache_write"]
    after = books(town, everyday)
    assert after["calls"] - before["calls"] == len(metered)
    assert after["input"] - before["input"] == len(metered) * INPUT
    assert after["output"] - before["output"] == len(answers) * len(TEXT.split())
    assert after["cost"] - before["cost"] == pytest.approx(cost / 1e6, abs=0.02)  # it is in cents


def books(town: Town, puppet: Puppet) -> dict[str, float]:
    """What the agent has used; 0 before its first call."""
    names = ("calls", "input", "output", "cost")
    if not (town.tree / f"sys/accounting/agent/{puppet.name}").exists():
        return dict.fromkeys(names, 0.0)
    return {name: float(town.account(puppet, name)) for name in names}


def test_the_socket_in_the_tree_is_the_same_gateway(town: Town, everyday: Puppet) -> None:
    said = everyday.do("at_the_socket(tree + '/dev/gateway')")
    assert {said[f"{dialect} text"]["text"] for dialect in DIALECTS} == {TEXT}
    assert {said[f"{dialect} tool stream"]["calls"][0][0] for dialect in DIALECTS} == {"weather"}
    assert len(town.provider.log()) == 2 * 3 * 2 + 2


def test_who_did_not_ask_sees_no_usage(town: Town, everyday: Puppet) -> None:
    chunks = everyday.do("chunks_without_asking('plain')")
    assert len(chunks) == len(TEXT.split()) + 2
    assert all(choices == 1 and said is None for choices, said in chunks)
    (call,) = town.provider.log()
    assert call.body["stream_options"] == {"include_usage": True}


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_stream_ends_with_the_budget_as_with_its_maximum(
    town: Town, agent: Callable[..., Puppet], dialect: str
) -> None:
    """It wants 64,000 tokens, and a few hundred are left."""
    puppet = agent(limits={"max_tokens_total": BUDGET})
    said = puppet.do(f"cut({dialect!r}, 'long')")
    assert said["finish"] in ("length", "incomplete", "max_tokens")
    written = len(said["text"].split())
    assert 100 < written < BUDGET
    used = int(town.account(puppet, "input")) + int(town.account(puppet, "output"))
    # The input that was held is our estimate, and what is charged may be the provider's figure.
    assert BUDGET - 60 < used <= BUDGET + 3  # and a chunk
    (call,) = town.provider.wait(lambda log: len(log) == 1 and log[0].over)
    assert call.hung_up
    name, status, words = puppet.do(f"refused({dialect!r}, 'plain')")
    assert (name, status) == (
        ("PaymentRequiredError", 402) if dialect == "messages" else ("BadRequestError", 400)
    )
    assert "max_tokens_total" in words


def test_without_the_capability_there_is_no_way_to_a_model(
    town: Town, agent: Callable[..., Puppet]
) -> None:
    puppet = agent(deny=["llm"])
    lines = dict(line.split(":\t") for line in town.tree.read("sys/gateway").splitlines())
    root = lines["Address"]
    keys = {"OPENAI_API_KEY": "x", "ANTHROPIC_API_KEY": "x", "ANTHROPIC_BASE_URL": root}
    puppet.do(f"os.environ.update({keys | {'OPENAI_BASE_URL': root + '/v1'}!r})")
    for dialect in DIALECTS:
        name, status, words = puppet.do(f"refused({dialect!r}, 'plain')")
        assert (name, status) == ("PermissionDeniedError", 403)
        assert "llm" in words


@pytest.mark.parametrize("model", BROKEN)
@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_provider_in_trouble_is_an_exception_and_never_an_empty_success(
    town: Town, everyday: Puppet, dialect: str, model: str
) -> None:
    before = books(town, everyday)
    said = everyday.do(f"streamed({dialect!r}, {model!r})")
    assert said["error"] in ("APIError", "APIStatusError", "InternalServerError")
    assert BROKEN[model] in said["words"]
    begun = model not in ("garbled", "empty")
    assert said["text"] == (" ".join(TEXT.split()[:3]) + " " if begun else "")
    if begun:
        after = books(town, everyday)
        assert after["output"] - before["output"] == (6 if dialect == "messages" else 3)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_stream_in_single_bytes_is_the_same(everyday: Puppet, dialect: str) -> None:
    said = everyday.do(f"streamed({dialect!r}, 'dripping')")
    assert said == {"error": "", "words": "", "text": TROUBLE["dripping"]["text"]}


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_key_that_a_provider_quotes_is_not_told(everyday: Puppet, dialect: str) -> None:
    said = everyday.do(f"streamed({dialect!r}, 'quoting')")
    assert "incorrect key" in said["words"]
    assert "sk-of-the-operator" not in said["words"]


@pytest.mark.parametrize("dialect", DIALECTS)
def test_an_unknown_model_is_said_so(everyday: Puppet, dialect: str) -> None:
    name, status, words = everyday.do(f"refused({dialect!r}, 'nothing-of-the-kind')")
    assert (name, status) == ("NotFoundError", 404)
    assert "nothing-of-the-kind" in words
