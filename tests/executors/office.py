"""Runs whose steps are done by mail, by people and by signals: the real engine and the kernel's own
executors, without a mount."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from agentfs.workflow.model import NodeRow, Run, Start
from tests.workflow.lab import Lab, node

__all__ = ["Office"]


class Office(Lab):
    """The agents ann, who starts runs, bob and carol. Nobody does programs."""

    def __init__(self, state: Path) -> None:
        super().__init__(state, "program")
        for name in ("ann", "bob", "carol"):
            self.world.process(name)

    def begin(self, kind: str, spec: dict[str, Any], by: str = "ann", **fields: Any) -> Run:
        """A run of one node, `n`, which agent `by` starts."""
        self.pipeline(node("n", kind, spec=spec, **fields))
        return self.begin_plan(by)

    def begin_plan(self, by: str = "ann", given: Any = None) -> Run:
        """A run of the pipeline that was made last."""
        run = self.runs.start(self.world.principal(by), Start("p", given))
        self.settle()
        return run

    def row(self, run: Run, path: str = "n") -> NodeRow:
        found = self.runs.node(run.id, path)
        assert found is not None
        return found

    # -- mail --------------------------------------------------------------------------------------

    def letters(self, name: str) -> list[str]:
        """What waits for an agent, whole."""
        box = self.world.mail.mailbox(name)
        return [self.world.mail.content(m).decode() for _, m in sorted(box.new.items())]

    def reply(self, text: str, to: str = "ann") -> None:
        """bob takes what waits and answers the newest."""
        taken = 0
        receiving = self.world.mail.receiving
        while message := receiving.claim_next(self.world.principal("bob"), "bob"):
            taken = message.seq
        self.world.send("bob", to, f"In-Reply-To: {taken}\n\n{text}")
        self.settle()
