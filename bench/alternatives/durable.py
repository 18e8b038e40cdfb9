"""Two engines that keep workflows in SQLite, each as a program that is told what to do, line by
line, and answers with figures. It runs in an environment that has the engine, and knows nothing
else of this checkout.

    python durable.py dbos|langgraph FOLDER
    steps 200     one run of 200 steps that do nothing, one after the other
    together 200  such steps in rounds of 20 at once
    runs 100      runs of one step, one after the other, each until its result is there
    wait 1000     so many runs begin to wait for a message
    idle 5        nothing, for 5 seconds
    wake 1000     the first so many are woken, and end
"""

from __future__ import annotations

import json
import sys
import time
from operator import add
from pathlib import Path
from typing import Annotated, Any, Protocol, TypedDict

TOGETHER = 20


class Engine(Protocol):
    """One method for each word above that gives it work."""

    def steps(self, count: int) -> None: ...

    def together(self, count: int) -> None: ...

    def run(self) -> None: ...

    def wait(self, count: int) -> None: ...

    def wake(self, count: int) -> None: ...


def dbos(folder: Path) -> Engine:
    """DBOS, with its system tables in SQLite."""
    from dbos import DBOS, SetWorkflowID

    DBOS(
        config={
            "name": "bench",
            "system_database_url": f"sqlite:///{folder}/dbos.sqlite",
            "log_level": "ERROR",
            "run_admin_server": False,
        }
    )

    @DBOS.step()
    def nothing(number: int) -> int:
        return number

    @DBOS.workflow()
    def many(count: int) -> int:
        for number in range(count):
            nothing(number)
        return count

    @DBOS.workflow()
    def waiting() -> Any:
        return DBOS.recv("go", timeout_seconds=3600)

    DBOS.launch()

    class Dbos:
        def steps(self, count: int) -> None:
            many(count)

        def together(self, count: int) -> None:
            handles = [DBOS.start_workflow(many, count // TOGETHER) for _ in range(TOGETHER)]
            for handle in handles:
                handle.get_result()

        def run(self) -> None:
            DBOS.start_workflow(many, 1).get_result()

        def wait(self, count: int) -> None:
            for number in range(count):
                with SetWorkflowID(f"w{number}"):
                    DBOS.start_workflow(waiting)

        def wake(self, count: int) -> None:
            for number in range(count):
                DBOS.send(f"w{number}", "go", "go")
            for number in range(count):
                DBOS.retrieve_workflow(f"w{number}").get_result()

    return Dbos()


class Counted(TypedDict):
    """What goes from node to node."""

    left: int
    seen: Annotated[list[int], add]


def langgraph(folder: Path) -> Engine:
    """LangGraph with its SqliteSaver, which commits each step before the next (durability=sync)."""
    import sqlite3

    from langgraph.checkpoint.sqlite import SqliteSaver
    from langgraph.graph import END, START, StateGraph
    from langgraph.types import Command, Send, interrupt

    saver = SqliteSaver(sqlite3.connect(f"{folder}/langgraph.sqlite", check_same_thread=False))
    saver.setup()

    def nothing(state: Counted) -> dict[str, Any]:
        return {"left": state["left"] - 1}

    def one_of(state: Counted) -> dict[str, Any]:
        return {"seen": []}

    def after(state: Counted) -> str:
        return "nothing" if state["left"] > 0 else END

    def spread(state: Counted) -> Any:
        return [Send("one_of", state) for _ in range(TOGETHER)] if state["left"] > 0 else END

    chain = StateGraph(Counted)
    chain.add_node("nothing", nothing)
    chain.add_edge(START, "nothing")
    chain.add_conditional_edges("nothing", after, ["nothing", END])
    fan = StateGraph(Counted)
    fan.add_node("round", nothing)
    fan.add_node("one_of", one_of)
    fan.add_edge(START, "round")
    fan.add_conditional_edges("round", spread, ["one_of", END])
    fan.add_edge("one_of", "round")
    paused = StateGraph(Counted)
    paused.add_node("ask", lambda state: {"seen": [interrupt("go?")]})
    paused.add_edge(START, "ask")
    one, broad, asking = (each.compile(checkpointer=saver) for each in (chain, fan, paused))
    number = iter(range(10**9))

    def invoke(graph: Any, given: Any, thread: str) -> None:
        setting = {"configurable": {"thread_id": thread}, "recursion_limit": 100_000}
        graph.invoke(given, setting, durability="sync")

    class LangGraph:
        def steps(self, count: int) -> None:
            invoke(one, {"left": count, "seen": []}, f"r{next(number)}")

        def together(self, count: int) -> None:
            invoke(broad, {"left": count // TOGETHER, "seen": []}, f"r{next(number)}")

        def run(self) -> None:
            self.steps(1)

        def wait(self, count: int) -> None:
            for each in range(count):
                invoke(asking, {"left": 0, "seen": []}, f"w{each}")

        def wake(self, count: int) -> None:
            for each in range(count):
                invoke(asking, Command(resume=1), f"w{each}")

    return LangGraph()


def resident() -> int:
    """Bytes of memory that this process has."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) * 1024


def main() -> None:
    engine = {"dbos": dbos, "langgraph": langgraph}[sys.argv[1]](Path(sys.argv[2]))
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        what, _, text = line.partition(" ")
        count = int(text)
        held, spent, began = resident(), time.process_time(), time.perf_counter()
        each: list[float] = []
        match what:
            case "steps":
                engine.steps(count)
            case "together":
                engine.together(count)
            case "runs":
                for _ in range(count):
                    started = time.perf_counter()
                    engine.run()
                    each.append(time.perf_counter() - started)
            case "wait":
                engine.wait(count)
            case "idle":
                time.sleep(count)
            case "wake":
                engine.wake(count)
            case _:
                raise SystemExit(f"there is no {what}")
        figures = {
            "took": time.perf_counter() - began,
            "spent": time.process_time() - spent,
            "held": resident() - held,
            "each": each,
        }
        print(json.dumps(figures), flush=True)


if __name__ == "__main__":
    main()
