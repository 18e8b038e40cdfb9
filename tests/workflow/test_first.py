from tests.workflow.lab import Lab, data, expression, node


def test_a_chain_of_kernel_nodes(lab: Lab) -> None:
    run = lab.run(data("a", {"v": 1}), expression("b", "a", w="a.v + 1"), given={"x": 1})
    assert lab.state(run) == "completed"
    assert lab.output(run) == {"w": 2}
    assert [line["type"] for line in lab.lines(run)] == [
        "PipelineStarted", "NodeCompleted", "NodeCompleted", "PipelineCompleted",
    ]  # fmt: skip


def test_programs(lab: Lab) -> None:
    run = lab.run(node("a"), node("b", needs="a"), node("c", needs="a"), node("d", needs="b c"))
    assert lab.at_work() == ["a"]
    lab.done("a", {"v": 1})
    assert lab.at_work() == ["b", "c"]
    lab.done("c", 2)
    assert lab.step("b").input == {"v": 1}
    lab.restart()
    lab.done("b", 3)
    assert lab.step("d").input == {"b": 3, "c": 2}
    lab.done("d", 4)
    assert lab.state(run) == "completed"
    assert lab.output(run) == 4
