"""Many at once: workers and the daemon die at any moment, and each task has one result."""

from __future__ import annotations

import random
from pathlib import Path

from tests.tasks.yard import Yard

TASKS, WORKERS, SUBMITTERS = 200, 5, 50


def test_200_tasks_over_five_workers_that_die_have_one_result_each(tmp_path: Path) -> None:
    chance = random.Random(7)
    yard = Yard(tmp_path / "state", max_concurrent=12, max_attempts=1000)
    names = [f"w{number}" for number in range(WORKERS)]
    for name in names:
        yard.process(name)
        yard.register(name, by=name, agent=name, capacity=4)
    ids = [yard.submit(input=number).id for number in range(TASKS)]
    held: dict[str, list[dict[str, int]]] = {name: [] for name in names}
    done = deaths = restarts = 0
    for _ in range(20_000):
        if not yard.kernel.tasks.table.open:
            break
        name = chance.choice(names)
        match chance.choices(("work", "answer", "die", "restart"), (50, 40, 6, 1))[0]:
            case "work" if not held[name]:
                told = yard.claim(name)
                held[name] = [told] if told else []
            case "answer" if held[name]:
                told = held[name].pop()
                yard.kernel.tasks.complete(
                    yard.principal(name), told["task"], told["input"] * 2, told["attempt"]
                )
                done += 1
            case "die":  # and the program is started again
                process = yard.table.by_name(name)
                assert process is not None
                yard.end(process, 137, restart=True)
                held[name].clear()
                deaths += 1
            case "restart":
                yard.restart()
                restarts += 1
    assert done == TASKS
    assert deaths > 10
    assert restarts > 1
    for number, task in enumerate(ids):
        assert yard.kernel.tasks.result_of(yard.kernel.tasks.get(task)) == str(number * 2)
    for box in (yard.mail.mailbox(name) for name in names):
        assert not box.new
        assert not box.cur
        assert not box.dead
    yard.close()


def test_50_submitters_against_max_concurrent_and_capacity(tmp_path: Path) -> None:
    chance = random.Random(3)
    yard = Yard(tmp_path / "state", max_concurrent=7)
    submitters = [f"s{number}" for number in range(SUBMITTERS)]
    for name in submitters:
        yard.process(name)
    capacities = {"a": 1, "b": 2, "c": 3, "d": 9}
    for name, capacity in capacities.items():
        yard.register(name, capacity=capacity)
    left = [name for name in submitters for _ in range(3)]
    chance.shuffle(left)
    table, most = yard.kernel.tasks.table, 0
    while left or table.open:
        if left and chance.random() < 0.5:
            yard.submit(by=left.pop(), priority=chance.randrange(10))
        else:
            name = chance.choice(list(capacities))
            told = yard.claim(name)
            if told:
                yard.answer(name, told["task"], told["attempt"], ok=1)
        under_way = [task for task in table.open.values() if task.under_way]
        most = max(most, len(under_way))
        assert len(under_way) <= 7
        for name, capacity in capacities.items():
            assert sum(task.worker == name for task in under_way) <= capacity
        assert len(under_way) == min(7, len(table.open))  # nobody waits where there is room
    assert most == 7
    assert yard.kernel.tasks.counts()["completed"] == 150
    yard.close()


def test_a_thousand_tasks_that_nobody_can_do_cost_nothing(tmp_path: Path) -> None:
    yard = Yard(tmp_path / "state", max_concurrent=10)
    with yard.store.transaction():
        for number in range(1000):
            yard.submit(requirements={"gpu": number + 1})
    yard.register("w1", capabilities={"gpu": 3})
    task = yard.submit()
    assert yard.task(task).state.value == "assigned"
    assert sum(each.under_way for each in yard.kernel.tasks.table.open.values()) == 4
    yard.restart()
    assert len(yard.kernel.tasks.table.open) == 1001
    yard.close()
