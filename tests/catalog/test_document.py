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


HERE = "providers: {here: {url: 'http://x', speaks: [chat]}}\n"


@pytest.mark.parametrize(
    ("text", "faults"),
    [
        ("providers: {p: {}}\nmodels: {}", ["line 1: providers.p: one of url, run, replay"]),
        ("providers: {p: {url: 'http://x', run: y}}\nmodels: {}", ["providers.p: one of url"]),
        ("providers: {p: {url: 'http://x'}}\nmodels: {}", ["providers.p: `speaks` was expected"]),
        ("providers: {p: {url: 'http://x/v1', speaks: [chat]}}\nmodels: {}", ["without /v1"]),
        ("providers: {p: {url: 'http://k:x@y', speaks: [chat]}}\nmodels: {}", ["without user"]),
        ("providers: {p: {url: 'ftp://y', speaks: [chat]}}\nmodels: {}", ["a URL like"]),
        ("providers: {p: {url: 'http://x', speaks: [latin]}}\nmodels: {}", ["speaks.0"]),
        ("providers: {p: {url: 'http://x', speaks: []}}\nmodels: {}", ["`speaks` was expected"]),
        ("providers: {p: {run: x, key: {secret: y}}}\nmodels: {}", ["only a provider with a url"]),
        ("providers: {p: {scripted: ../x}}\nmodels: {}", ["providers.p.scripted"]),
        ("providers: {p: {run: x, record: a/b}}\nmodels: {}", ["providers.p.record"]),
        (
            "providers: {p: {url: 'http://x', speaks: [chat], key: {}}}\nmodels: {}",
            ["providers.p.key: either `secret: NAME` or `command:"],
        ),
        (HERE + "models: {a: {tier: tactical, provider: her}}", ["her (did you mean here?)"]),
        (HERE + "models: {a: {tier: tactical, match: ['[a']}}", ["models.a.match.0"]),
        (
            HERE + "models: {a: {tier: tactical, id: x}}",
            ["models.a.id: a model without"],
        ),
        (
            HERE + "models: {a: {tier: tactical, provider: here, fallbacks: [b]}}",
            ["models.a.fallbacks.0: there is no model b"],
        ),
        (
            HERE + "models: {a: {tier: tactical, provider: here, fallbacks: [b]}, "
            "b: {tier: tactical}}",
            ["models.a.fallbacks.0: b has no provider"],
        ),
        (
            HERE + "models: {a: {tier: tactical, provider: here, fallbacks: [a]}}",
            ["a loop: a falls back to a"],
        ),
        (
            HERE + "models:\n"
            "  a: {tier: tactical, provider: here, fallbacks: [b], timeouts: {idle: 0s}}\n"
            "  b: {tier: tactical, provider: here, fallbacks: [c]}\n"
            "  c: {tier: tactical, provider: gone, fallbacks: [a], cache_read: -1}\n",
            [  # all of them at once, each with its line
                "line 3: models.a.fallbacks.0: a loop",
                "line 3: models.a.timeouts.idle",
                "line 4: models.b.fallbacks.0: a loop",
                "line 5: models.c.fallbacks.0: a loop",
                "line 5: models.c.provider: there is no provider gone",
                "line 5: models.c.cache_read",
            ],
        ),
        ("providers: [1]\nmodels: {a: {fallbacks: 5, tier: tactical}}", ["providers: a map"]),
    ],
)
def test_faults_between_entries_are_told_with_all_others(
    ground: Ground, text: str, faults: list[str]
) -> None:
    models, _ = models_of(ground)
    with pytest.raises(KernelError) as caught:
        models.replace(text)
    assert caught.value.code == "EINVAL"
    for fault in faults:
        assert fault in caught.value.reason


def test_tokens_of_the_cache_cost_what_input_does_unless_they_have_a_price(ground: Ground) -> None:
    models, _ = models_of(ground)
    models.replace(
        "models: {a: {tier: tactical, input: 2, output: 10},"
        " b: {tier: tactical, input: 2, output: 10, cache_read: 0.2, cache_write: 2.5}}"
    )
    assert models.cost("a", 1, 1, 1, 1) == 16
    assert models.cost("b", 10, 10, 10, 10) == 147
    assert models.most("b", 10) == 100
    (_, model) = models
    assert model.most_of(4, 10) == 110  # nobody knows yet what the cache takes
    assert model.affordable(4, 110) == 10
    assert model.affordable(4, 9) == -1
