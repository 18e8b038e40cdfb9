"""What the rules say about an action that nobody has tried yet, and why."""

from __future__ import annotations

import errno
from dataclasses import dataclass

from agentfs.base.errors import KernelError
from agentfs.mail.threads import Threads
from agentfs.model.process import Process
from agentfs.process.agents import Agents
from agentfs.process.table import ProcessTable
from agentfs.rights.policy import Action, ActionTarget, Policy
from agentfs.shared.queues import Queue, Queues
from agentfs.shared.topics import Topic, Topics

__all__ = ["Answer", "Explanations"]

NEEDS = {
    Action.SPAWN: "spawn_children",
    Action.KILL: "kill_processes",
    Action.MANAGE_TREE: "manage_tree",
    Action.ESCALATE: "escalate",
    Action.READ_ARTIFACT: "datastore.read",
    Action.WRITE_ARTIFACT: "datastore.write",
    Action.READ_FILE: "file_read",
    Action.WRITE_FILE: "file_write",
}
"""The capability that a call asks for besides the action."""

BROADCAST = "/dev/broadcast"


@dataclass(frozen=True, slots=True)
class Answer:
    """`rule` names what decides, and `text` is what it says; `reason` is why not. `approval` is
    whose agreement is needed, and within how many seconds. `capability` is the one that is needed
    besides, and whether the agent has it. `warning` names the rules about agents that there are
    not."""

    allowed: bool
    rule: str
    text: str
    reason: str = ""
    approval: str = ""
    capability: str = ""
    warning: str = ""

    def pairs(self) -> list[tuple[str, object]]:
        """As a status file shows it, without what is empty."""
        given: list[tuple[str, object]] = [
            ("Allowed", self.allowed),
            ("Rule", self.rule),
            ("Text", self.text),
            ("Capability", self.capability),
            ("Approval", self.approval),
            ("Reason", self.reason),
            ("Warning", self.warning),
        ]
        return [(key, text) for key, text in given if text != ""]


class Explanations:
    """Asks the policy as the call itself would. That changes nothing, and is no refusal."""

    def __init__(
        self,
        policy: Policy,
        table: ProcessTable,
        agents: Agents,
        threads: Threads,
        queues: Queues,
        topics: Topics,
    ) -> None:
        self._policy = policy
        self._threads = threads
        self._table = table
        self._agents = agents
        self._queues = queues
        self._topics = topics

    def explain(self, name: str, action: str, path: str) -> Answer:
        """Whether agent `name` may do it to `path`. Raises ESRCH if no process of the agent is
        alive, EINVAL for an unknown action and for a path that is none."""
        self._agents.get(name)
        actor = self._table.by_name(name)
        if actor is None:
            raise KernelError(errno.ESRCH, f"no process of {name} is alive")
        known = {each.value: each for each in Action}
        if action not in known:
            raise KernelError(errno.EINVAL, f"the action is one of {', '.join(known)}")
        if not path.startswith("/"):
            raise KernelError(errno.EINVAL, f"a path from the root of the tree, not {path!r}")
        return self._answer(actor, known[action], path)

    def _answer(self, actor: Process, action: Action, path: str) -> Answer:
        target = self._target(path)
        decision = self._policy.decide(
            actor,
            action,
            path,
            target,
            answers=lambda: target is not None and self._threads.wrote(target.name, actor.name),
        )
        held, lacking = self._capability(actor, action, path)
        approval = decision.approval
        return Answer(
            allowed=decision.allowed and not lacking,
            rule=decision.rule,
            text=self._text(actor, action, path),
            reason=decision.reason or lacking,
            approval=f"{approval.by}, within {approval.timeout:g} s" if approval else "",
            capability=held,
            warning="; ".join(self._policy.acl.about_nobody(set(self._agents))),
        )

    def _target(self, path: str) -> ActionTarget | None:
        """The agent or process that the path is about, as the call would find it."""
        match path.split("/")[1:]:
            case ["agents", name, *_]:
                return self._table.by_name(name) or self._agents.find(name)
            case ["dev", "queues", name, *_]:
                return self._owner(self._queues.find(name))
            case ["dev", "topics", name, *_]:
                return self._owner(self._topics.find(name))
        return None

    def _owner(self, thing: Queue | Topic | None) -> Process | None:
        return None if thing is None else self._table.by_name(thing.ownership.owner)

    def _text(self, actor: Process, action: Action, path: str) -> str:
        said = self._policy.roles[actor.role].actions[action]
        rule = self._policy.acl.deciding(actor, action, path)
        if rule is not None and said.value != "deny":
            return rule.text
        return f"{actor.role.value}: {action.value}: {said.value}"

    def _capability(self, actor: Process, action: Action, path: str) -> tuple[str, str]:
        """The capability that is needed besides, with yes or no; and why not."""
        name = "broadcast" if path == BROADCAST else NEEDS.get(action)
        if name is None:
            return "", ""
        try:
            self._policy.require_capability(actor, name)
        except KernelError as refusal:
            return f"{name}: no", refusal.reason
        return f"{name}: yes", ""
