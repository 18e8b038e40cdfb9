"""The catalogue: which model answers to a name, which can be called, and what a gateway is told."""

from __future__ import annotations

import importlib.util
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio

from agentfs.base.errors import KernelError
from agentfs.catalog import catalog as catalog_module
from agentfs.catalog import key_commands
from agentfs.catalog.catalog import Catalog
from agentfs.catalog.events import KeyRenewed
from agentfs.kernel import Kernel
from tests.process.world import eventually
from tests.providers.world import OPERATOR

MODELS = """\
providers:
  here: {url: "http://127.0.0.1:9/", speaks: [chat, messages], key: {secret: here}, retries: 0,
    requests_per_minute: 50, max_in_flight: 8, record: nightly}
  open: {url: "https://example.org/base", speaks: [embeddings]}
  tape: {replay: nightly}
  script: {scripted: hello.yaml, speaks: [chat]}
  local: {run: smollm2}
models:
  first: {tier: tactical, provider: here, match: ["claude-*", "*-mini"], fallbacks: [last]}
  second: {tier: tactical, provider: here, id: org/second:8b, match: ["claude-opus-*"], context: 9,
    max_output: 5, timeouts: {connect: 1s, first_byte: 2m}}
  claude-haiku: {tier: operational, input: 1}
  vector: {tier: operational, provider: open}
  taped: {tier: tactical, provider: tape}
  written: {tier: tactical, provider: script}
  last: {tier: operational, provider: local}
"""


@pytest.fixture
async def kernel(tmp_path: Path) -> AsyncIterator[Kernel]:
    kernel = Kernel(tmp_path / "state", "/nowhere")
    kernel.load()
    kernel.supervisor.boot()
    kernel.catalog.replace(MODELS)
    yield kernel
    kernel.store.close()
    kernel.programs.close()


@pytest.fixture
def catalog(kernel: Kernel) -> Catalog:
    return kernel.catalog


def words_of(catalog: Catalog, name: str) -> str:
    """Why a model cannot be called."""
    with pytest.raises(KernelError) as caught:
        catalog.require(name)
    return caught.value.reason


def why(catalog: Catalog, name: str, dialect: str = "") -> tuple[str, str]:
    with pytest.raises(KernelError) as caught:
        catalog.require(name, dialect)
    assert caught.value.reason
    return caught.value.code, caught.value.rule


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("first", "first"),
        ("claude-opus-4-8", "first"),  # the first in the document, not the closest
        ("gpt-5-mini", "first"),
        ("claude-haiku", "claude-haiku"),  # a name of its own wins
        ("claude", None),
        ("FIRST", None),
        ("*", None),
        ("", None),
    ],
)
async def test_a_name_is_that_of_a_model_or_matches_one(
    catalog: Catalog, name: str, found: str | None
) -> None:
    model = catalog.find(name)
    assert (None if model is None else model.name) == found


async def test_models_that_nobody_answers_for_cannot_be_called(
    kernel: Kernel, catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(catalog_module, "SHIPPED", kernel.state_dir / "none")
    assert [model.name for model in catalog.usable()] == ["vector"]
    assert why(catalog, "first") == ("EACCES", "secret")
    assert why(catalog, "claude-haiku") == ("ENOENT", "model")
    assert why(catalog, "nobody") == ("ENOENT", "model")
    assert why(catalog, "vector", "chat") == ("ENOENT", "dialect")
    for name in ("taped", "written", "last"):
        assert why(catalog, name) == ("ENOENT", "provider")
    await catalog.secrets.set(OPERATOR.principal, "here", b"sk-1")
    tapes = kernel.state_dir / "tapes"
    for name in ("nightly.jsonl", "hello.yaml", "smollm2.jsonl"):
        (tapes / name).write_text("x")
    usable = [model.name for model in catalog.usable()]
    assert usable == ["first", "second", "vector", "taped", "written", "last"]
    model, provider = catalog.require("claude-x", "messages")
    assert (model.name, provider.name) == ("first", "here")


async def test_the_gateway_is_told_everything_that_it_needs(
    kernel: Kernel, catalog: Catalog
) -> None:
    (kernel.state_dir / "tapes/hello.yaml").write_text("hello: world")
    await catalog.secrets.set(OPERATOR.principal, "here", b"sk-1\n")
    wire = catalog.wire()
    assert wire["do"] == "configure"
    assert wire["tapes"] == str(kernel.state_dir / "tapes")
    http = {"kind": "http", "retries": 0, "requests_per_minute": 50, "max_in_flight": 8}
    assert wire["providers"]["here"] == http | {
        "url": "http://127.0.0.1:9",
        "speaks": ["chat", "messages"],
        "key": "sk-1",
        "record": "nightly",
    }
    assert wire["providers"]["open"]["key"] is None
    assert wire["providers"]["tape"]["tape"] == "nightly"
    assert wire["providers"]["script"]["text"] == "hello: world"
    assert wire["providers"]["local"]["model"] == "smollm2"
    assert list(wire["models"]) == ["first", "second", "vector", "taped", "written", "last"]
    assert wire["models"]["second"] == {
        "provider": "here",
        "id": "org/second:8b",
        "context": 9,
        "max_output": 5,
        "match": ["claude-opus-*"],
        "fallbacks": [],
        "timeouts": {"connect": 1.0, "first_byte": 120.0, "idle": 60.0},
    }
    assert wire["models"]["first"]["fallbacks"] == ["last"]


async def test_a_command_prints_the_key(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is asked again from time to time, and no trouble with it is quoted."""
    catalog, file = kernel.catalog, kernel.state_dir / "key"
    heard: list[object] = []
    kernel.events.listen(lambda record: heard.append(record.event), KeyRenewed)
    monkeypatch.setattr(key_commands, "AGAIN_AFTER", 0.05)
    monkeypatch.setattr(key_commands, "RENEWED_EVERY", 0.05)
    command = f'["sh", "-c", "echo sk-secret >&2; cat {file}"]'
    catalog.replace(
        "providers:\n"
        f"  here: {{url: http://127.0.0.1:9, speaks: [chat], key: {{command: {command}}}}}\n"
        "models: {m: {tier: tactical, provider: here}}"
    )
    assert why(catalog, "m") == ("EACCES", "secret")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(catalog.run)
        await eventually(lambda: "code 1" in words_of(catalog, "m"))
        for key in ("sk-1", "sk-2"):
            file.write_text(f" {key}\n")
            await eventually(lambda key=key: catalog.wire()["providers"]["here"]["key"] == key)
        assert [model.name for model in catalog.usable()] == ["m"]
        catalog.replace("models: {}")
        await eventually(lambda: not catalog._commands._keys)
        nursery.cancel_scope.cancel()
    assert heard == [KeyRenewed("sh"), KeyRenewed("sh")]
    assert "sk-" not in caplog.text


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["/nowhere/at/all"], "cannot be started"),
        (["sh", "-c", "exit 3"], "code 3"),
        (["true"], "no key"),
        (["printf", r"\377"], "no key"),
        (["sh", "-c", "head -c 20000 /dev/zero | tr '\\0' x"], "no key"),
    ],
)
async def test_commands_that_print_none(command: list[str], words: str) -> None:
    key, trouble = await key_commands._output(tuple(command))
    assert key is None
    assert words in trouble


async def test_a_command_that_does_not_end_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_commands, "PATIENCE", 0.05)
    key, trouble = await key_commands._output(("sleep", "1000"))
    assert key is None
    assert "more than" in trouble
