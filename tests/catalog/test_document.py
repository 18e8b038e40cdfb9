"""/etc/models.yaml: what a model costs, and what cannot be written there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from agentfs.base.clock import ManualClock
from agentfs.base.errors import KernelError
from agentfs.catalog.catalog import Catalog
from agentfs.model.process import Tier
from agentfs.sections import SECTIONS
from agentfs.store.event import Event
from agentfs.store.events import ConfigChanged
from agentfs.store.ground import Ground
from agentfs.store.layout import lay_out
from tests.catalog.world import catalog_of


@pytest.fixture
def ground(tmp_path: Path) -> Iterator[Ground]:
    ground = Ground.open(tmp_path, SECTIONS, ManualClock())
    lay_out(tmp_path)
    yield ground
    ground.store.close()


def models_of(ground: Ground) -> tuple[Catalog, list[Event]]:
    heard: list[Event] = []
    ground.events.listen(lambda record: heard.append(record.event))
    return catalog_of(ground), heard


def test_there_are_prices_to_begin_with(ground: Ground) -> None:
    models, _ = models_of(ground)
    assert [(model.name, model.tier) for model in models] == [
        ("opus", Tier.STRATEGIC),
        ("sonnet", Tier.TACTICAL),
        ("mini", Tier.OPERATIONAL),
        ("smollm2", Tier.OPERATIONAL),
    ]
    assert models.cost("sonnet", 1_000_000, 0) == 3_000_000  # micro-dollars
    assert models.cost("sonnet", 1000, 200) == 6000


def test_a_cost_is_rounded_up_so_that_nothing_with_a_price_is_free(ground: Ground) -> None:
    models, _ = models_of(ground)
    assert models.cost("mini", 1, 0) == 1  # a quarter of a millionth of a dollar
    assert models.cost("mini", 8, 0) == 2
    assert models.cost("mini", 0, 0) == 0


def test_a_model_that_is_not_listed_costs_nothing(ground: Ground) -> None:
    models, _ = models_of(ground)
    assert models.find("home-made") is None
    assert models.cost("home-made", 10**6, 10**6) == 0


def test_a_written_list_is_in_effect_at_once_and_after_a_restart(ground: Ground) -> None:
    models, heard = models_of(ground)
    models.replace("models: {local/llama-3:8b: {tier: tactical}, big: {tier: strategic, input: 2}}")
    for each in (models, models_of(ground)[0]):
        assert {model.name for model in each} == {"local/llama-3:8b", "big"}
        assert each.cost("big", 500, 10**6) == 1000
        assert each.find("opus") is None
    assert heard == [ConfigChanged("/etc/models.yaml")]


def test_an_empty_document_is_the_default_also_after_a_restart(ground: Ground) -> None:
    models, _ = models_of(ground)
    models.replace("models: {}")
    assert list(models) == []
    models.replace("# nothing\n")
    for each in (models, models_of(ground)[0]):
        assert each.find("opus") is not None


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("models: {x: {}}", "models.x.tier"),
        ("models: {x: {tier: divine}}", "models.x.tier"),
        ("models: {x: {tier: tactical, input: -1}}", "models.x.input"),
        ("models: {x: {tier: tactical, input: .nan}}", "models.x.input"),
        ("models: {x: {tier: tactical, input: 0.0000001}}", "models.x.input"),
        ("models: {x: {tier: tactical, context: 0}}", "models.x.context"),
        ("models: {x: {tier: tactical, colour: red}}", "models.x.colour"),
        ("models: {'a b': {tier: tactical}}", "models.a b"),
        ("prices: {}", "prices"),
        ("models: [", "not YAML"),
    ],
)
def test_a_wrong_list_is_refused_and_changes_nothing(ground: Ground, text: str, fault: str) -> None:
    models, heard = models_of(ground)
    before = models.text
    with pytest.raises(KernelError) as caught:
        models.replace(text)
    assert caught.value.code == "EINVAL"
    assert fault in caught.value.reason
    assert models.text == before
    assert models.find("opus") is not None
    assert heard == []
