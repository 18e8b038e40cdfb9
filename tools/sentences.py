"""Events and records of the audit as sentences: what happened, to whom, for people to read."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from agentfs.tools.terminal import shown

__all__ = ["Filter", "audit_line", "event_line", "objects", "sentence"]

Event = dict[str, Any]

SENTENCES = {
    "account_closed": "the uses of {key} are swept ({view})",
    "account_opened": "{key} is in the books ({view})",
    "agent_changed": "its definition or its process changed",
    "agent_defined": "it is defined",
    "agent_failed": "it has failed: {cause}",
    "agent_group_changed": "group {name} has another mode, owner or members, or one has begun",
    "agent_group_created": "it made group {name}",
    "agent_group_member_completed": "its part in group {name} is {state}",
    "agent_group_removed": "it removed group {name}",
    "agent_refused": "it is not started: {reason}",
    "agent_removed": "it is removed",
    "agent_resumed": "it takes its mail again",
    "agent_stalled": "{waiting} messages wait, and it has done nothing for {seconds} s",
    "approval_asked": "request {id} to {action} waits for {by} until {deadline}",
    "approval_decided": "request {id} is {state}, by {who}",
    "approval_dropped": "request {id} is not kept any more",
    "artifact_changed": "it gave {key} of its {visibility} memory another type",
    "artifact_passed": "it has {key} of the {visibility} memory from {before}",
    "artifact_removed": "it removed {key} of its {visibility} memory",
    "artifact_renamed": "it renamed to {key} in its {visibility} memory",
    "artifact_stored": "it stored {key} in its {visibility} memory",
    "ask_answered": "{sender} answered its question {id} with message {answer}",
    "ask_cancelled": "it cancelled its question {id}",
    "ask_dropped": "its question {id} is not kept any more",
    "ask_expired": "nobody answered its question {id} in time",
    "ask_failed": "nobody can answer its question {id}: {reason}",
    "ask_opened": "it asks {to}, question {id}, until {deadline}",
    "audit_cut": "the operator has cut off the audit's records up to {through}",
    "audit_full": "the audit keeps {records} of at most {most} records, and everybody has to stop",
    "audit_half_full": "the audit keeps {records} of at most {most} records",
    "boot": "the daemon's run {boot}",
    "broadcast_changed": "{waiting} copies of its broadcast {id} wait",
    "broadcast_sent": "it sent broadcast {id} to {recipients} agents",
    "budget_changed": "budget {tier}: {allocated} allocated, {consumed} used, {reserved} reserved",
    "call_begun": "it has begun call {call}",
    "call_cancelled": "call {call} is to end",
    "call_ended": "call {call} has ended",
    "call_refused": "refused {errno} at {path}: {reason}",
    "capability_dropped": "it gave up the capability {capability}",
    "chat_changed": "its chat {chat} has another model or other instructions, or is empty again",
    "chat_deleted": "its chat {chat} is removed",
    "chat_made": "it has a chat {chat}",
    "chat_turned": "{model} answered in its chat {chat}: {turns} turns",
    "checkpoint_created": "checkpoint {name} is made: {files} files",
    "checkpoint_removed": "checkpoint {name} is removed",
    "children_changed": "its child {child} came or went",
    "config_changed": "{path} changed",
    "consumer_ended": "its program ended with code {code} while {waiting} messages wait",
    "copy_left_out": "no copy of message {id} from {sender} to {receiver}: {reason}",
    "dead_letter_dropped": "dead letter {id} is dropped: {reason}",
    "document_refused": "{path} is refused, its default is in effect: {reason}",
    "entity_changed": "{entity_type} {entity}: {old} to {new}, {outcome}",
    "entity_registered": "{entity_type} {entity} is registered, and is {state}",
    "entity_removed": "{entity_type} {entity} is removed",
    "entity_type_changed": "entities of type {entity_type} have another machine, mode or owner",
    "entity_type_made": "there are entities of type {entity_type}",
    "entity_type_removed": "there are no entities of type {entity_type} any more",
    "escalated": "its escalation {id} ({severity}) is put before {to}",
    "files_changed": "{files}",
    "gateway_ended": "the gateway of models has ended: {reason}",
    "gateway_started": "the gateway of models is started, {ospid}",
    "group_created": "group {path} is made",
    "group_entered": "it moved from group {old!r} to {new!r}",
    "group_limit_hit": "group {path} is full: {limit}",
    "group_limit_set": "group {path}: {limit} is {value}",
    "group_refused": "a program of {agent} is in the control group of {group}, and stays its own",
    "group_removed": "group {path} is removed",
    "health_checked": "the maid has made her round; all is well: {ok}",
    "heartbeat_missed": "it was silent for {seconds} s, and missed its heartbeats: it is ended",
    "key_renewed": "{program} has printed another key of a provider",
    "kernel_started": "AgentFS {version} has started: run {boot} of the daemon",
    "limit_changed": "its {limit} is {value}",
    "lock_changed": "the note of lock {name} is another",
    "lock_released": "lock {name} is free: {reason}",
    "lock_taken": "it has lock {name}",
    "loop_held": "{work} held up everybody for {seconds} s, as {others} others did since the last",
    "lost": "{count} events are lost",
    "manifest_changed": "{kind}/{name} is version {version}",
    "manifest_removed": "{kind}/{name} is removed",
    "memory_expired": "its note {note} has expired, and is removed",
    "memory_recalled": "it recalled {found} places in its memory",
    "memory_stored": "it keeps note {note}, of {bytes} bytes",
    "message_arrived": "message {id} from {sender} arrived",
    "message_claimed": "message {id} is claimed",
    "message_done": "message {id} is done",
    "message_expired": "message {id} has expired",
    "message_given_up": "message {id} is a dead letter: {reason}",
    "message_looped": "message {id} from {sender} is a dead letter after {hops} hops",
    "message_returned": "message {id} is back, attempt {attempt}",
    "message_revived": "dead letter {id} is put back, attempt {attempt}",
    "node_changed": "node {node} of run {run}, attempt {attempt}, was {old} and is {new}",
    "pool_changed": "pool {name} has another mode, owner or capabilities",
    "pool_created": "it made pool {name}",
    "pool_refused": "run {run} did not get a worker for {node}: {reason}",
    "pool_removed": "pool {name} is removed",
    "process_changed": "its program, its restarts or its heartbeat changed",
    "process_exited": "it ended for good with code {code}",
    "process_ready": "its children may start ({how})",
    "process_reaped": "it is gone from the table",
    "process_reparented": "its parent is process {new}, and was {old}",
    "process_restarted": "it is started again (restart {restarts}): {reason}",
    "process_spawned": "it is started by process {ppid}: {role}, {tier}",
    "evaluation_complete": "its seed {seed} scores {score}; it has passed: {passed}",
    "evolution_max_reached": "its seed {seed} has not passed, after {evolutions} evolutions",
    "evolution_started": "its seed {seed} evolves, into generation {generation}",
    "phase_completed": "phase {phase} of its seed {seed} is completed",
    "phase_started": "phase {phase} of its seed {seed} is begun, attempt {attempt}",
    "project_activated": "it works on project {name}",
    "project_changed": "project {name} has another mode, owner or specification, or other members",
    "project_created": "it made project {name}",
    "project_left": "it works on project {name} no more",
    "project_removed": "it removed project {name}",
    "queue_changed": "queue {name} has another mode, owner or limit",
    "queue_created": "it made queue {name}",
    "queue_purged": "it dropped {dropped} messages of queue {name}",
    "queue_removed": "it removed queue {name}, and {dropped} messages with it",
    "refusals_dropped": "{count} refusals, from record {first} on, are not kept: there was no room",
    "refusals_repeated": "refused {errno} at {path}, {count} times more: {reason}",
    "reminder_cancelled": "it cancelled its reminder {id}",
    "reminder_delayed": "its reminder {id} cannot be delivered: {reason}",
    "reminder_fired": "its reminder {id} is due, message {message}",
    "reminder_rescheduled": "its reminder {id} is for another time, as the clock was set back",
    "reminder_set": "it set reminder {id}",
    "reminder_tally_changed": "the figures of its reminders changed",
    "resource_exceeded": "more {resource} than its limit: {used} of {limit}",
    "resource_refused": "{resource} is refused to it",
    "resource_stopped": "it is being ended: {resource}",
    "resource_warning": "{used} of {limit} {resource} are used",
    "run_ended": "run {run} of {pipeline} is {state}",
    "run_removed": "run {run} of {pipeline}, {state}, is not kept any more",
    "run_signalled": "signal {key} came for run {run}",
    "run_started": "it started run {run} of {pipeline}",
    "run_state_changed": "run {run} of {pipeline} was {old} and is {new}",
    "schedule_changed": "schedule {schedule} is {state}",
    "schedule_made": "schedule {schedule} starts {what}",
    "schedule_removed": "schedule {schedule} is not kept any more",
    "secret_removed": "there is no secret {name} any more",
    "secret_set": "the secret {name} is set",
    "seed_changed": "its seed {seed} is {state}, in {phase}",
    "seed_created": "there is seed {seed} of project {project}",
    "seed_removed": "its seed {seed} is not kept any more",
    "sent_forgotten": "what became of its older messages is not kept any more",
    "share_refused": "its share of {pot} is used up: it holds {held}, and {left} are for others",
    "signal_sent": "{text}",
    "state_changed": "{old} -> {new}",
    "system_changed": "system {system}, {name}, is {state}",
    "system_pipe_changed": "the pipe {pipe} of system {system} has another value",
    "system_removed": "system {system} is not kept any more",
    "system_rolled_back": "the system is again what it was at checkpoint {name}",
    "system_started": "system {system}, {name}, is started",
    "task_assigned": "task {task} is {worker}'s, attempt {attempt}",
    "task_cancelled": "its task {task} is cancelled by {by}",
    "task_changed": "its task {task} has another priority, or a result that is judged",
    "task_completed": "{worker} has completed its task {task}",
    "task_dead": "its task {task} is dead: {reason}",
    "task_failed": "its task {task} has failed: {reason}",
    "task_judged": "rule {by} judged its task {task} ({when}), passed: {passed} {reason}",
    "task_progressed": "{worker} says of its task {task}: {words}",
    "task_rejected": "its task {task} is rejected by {by}: {reason}",
    "task_removed": "its task {task} is not kept any more",
    "task_returned": "its task {task} waits again after attempt {attempt}: {reason}",
    "task_started": "{worker} has begun its task {task}",
    "task_submitted": "it submitted task {task}",
    "task_timed_out": "message {id} was taken from it after {seconds} s",
    "task_validated": "its task {task} has passed: {by}",
    "tool_added": "there is a tool {name}",
    "tool_changed": "the tool {name} changed",
    "tool_removed": "there is no tool {name} any more",
    "tool_server_ended": "its tool server {server} has ended: {reason}",
    "tool_server_started": "its tool server {server} runs, with {tools} tools",
    "topic_changed": "topic {name} has another mode or owner",
    "topic_created": "it made topic {name}",
    "topic_removed": "topic {name} is removed",
    "turn_begun": "it began turn {turn} with {messages} messages",
    "turn_days_swept": "{count} rows of old turns are swept",
    "turn_ended": "turn {turn} has ended after {seconds} s; all went well: {ok}",
    "use_recorded": "it used {used} ({kind})",
    "uses_swept": "{count} old uses are swept",
    "worker_changed": "worker {worker} is another than before",
    "worker_heartbeat": "worker {worker} lives",
    "worker_lost": "worker {worker} is lost: {reason}",
    "worker_recovered": "worker {worker} is back",
    "worker_registered": "worker {worker} is there, of kind {kind}",
    "worker_removed": "worker {worker} is removed",
}
"""A sentence for each type. An event without one is told field by field."""


class _Said(dict[str, Any]):
    def __missing__(self, key: str) -> str:
        return "…"


def sentence(event: Event) -> str:
    """`WHO (PID): what happened`."""
    template = SENTENCES.get(event["type"])
    if event["type"] == "files_changed":
        event = event | {"files": "; ".join(_files(event))}
    if template is None:
        head = ("seq", "time", "type", "agent", "pid")
        text = ", ".join(f"{key} {said}" for key, said in event.items() if key not in head)
    else:
        text = template.format_map(_Said(event))
    who = event.get("agent")
    pid = "" if event.get("pid") is None else f" ({event['pid']})"
    return " ".join(shown(f"{who}{pid}: {text}" if who else text).split())


def _files(event: Event) -> Iterator[str]:
    """The changes of /shared, file by file, and where there were more."""
    for file in event["files"]:
        to = f" to {file['to']}" if "to" in file else ""
        yield f"{', '.join(file['did'])} {file['path']}{to}"
    for more in event["more"]:
        did = ", ".join(f"{what} {times} times" for what, times in more["did"].items())
        yield f"{did} more below {more['below']}"


def event_line(event: Event) -> str:
    """One event of /dev/events: time, type, sentence."""
    return f"{event['time']}  {event['type']:<18}  {sentence(event)}"


def audit_line(record: Event) -> str:
    """One record of the audit: time, who acted, and what changed."""
    said = "; ".join(f"{change['type']}: {sentence(change)}" for change in record["changes"])
    return f"{record['time']}  by {shown(str(record['actor']['name'])):<10}  {said}"


def objects(
    pieces: Iterable[bytes], tell: Callable[[Event], str], wanted: Callable[[Event], bool]
) -> Iterator[tuple[bytes, str]]:
    """Of a stream of JSON lines those that are `wanted`: each as it is, and as a line of words.
    An object without a type is no event, and is passed on as it is."""
    rest = b""
    for piece in pieces:
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            try:
                event = json.loads(line)
                if wanted(event):
                    yield line, tell(event)
            except (ValueError, KeyError, TypeError, AttributeError):
                yield line, line.decode(errors="replace")


class Filter:
    """Whether an event is wanted: by agent, by type, from a time on."""

    def __init__(
        self, agents: Iterable[str] = (), types: Iterable[str] = (), since: str = ""
    ) -> None:
        self._agents = frozenset(agents)
        self._types = frozenset(types)
        self._since = since

    def event(self, event: Event) -> bool:
        """Of an event of /dev/events. That events are lost is always wanted."""
        if event["type"] == "lost":
            return True
        if self._types and event["type"] not in self._types:
            return False
        if event["time"] < self._since or event["type"] == "boot":
            return False
        return not self._agents or str(event.get("agent")) in self._agents

    def record(self, record: Event) -> bool:
        """Of a record of the audit: who acted, or whom a change names."""
        changes = record["changes"]
        if record["time"] < self._since:
            return False
        if self._types and self._types.isdisjoint(change["type"] for change in changes):
            return False
        return not self._agents or (
            record["actor"]["name"] in self._agents
            or any(not self._agents.isdisjoint(map(str, change.values())) for change in changes)
        )
