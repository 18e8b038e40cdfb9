"""The consistency check of a store: what must hold in it whenever no transaction is under way.

It only reads, and works beside a running daemon or on the store that a killed one has left. Each
room has a module `check`, which finds the faults of the room's own records.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from agentfs.approvals import check as approvals
from agentfs.asks import check as asks
from agentfs.audit import check as audit
from agentfs.base.errors import KernelError
from agentfs.catalog import document as catalog
from agentfs.chats import check as chats
from agentfs.executors import check as executors
from agentfs.library import check as library
from agentfs.library import hooks
from agentfs.mail import check as mail
from agentfs.process import check as process
from agentfs.projects import check as projects
from agentfs.quota import check as quota
from agentfs.reminders import check as reminders
from agentfs.rights import acl, roles
from agentfs.sections import SECTIONS
from agentfs.shared import check as shared
from agentfs.store.live_document import Form
from agentfs.store.migrations import LATEST
from agentfs.store.opening import LAST_EVENT
from agentfs.store.replay import reading
from agentfs.store.rows import UNREADABLE, StoreRows
from agentfs.store.settings import configuration_form
from agentfs.tasks import check as tasks
from agentfs.tasks import mind_document, rules
from agentfs.tooling import check as tooling
from agentfs.tooling import document as tools
from agentfs.triggers import check as triggers
from agentfs.turns import check as turns
from agentfs.turns import harnesses
from agentfs.workflow import check as workflow

__all__ = ["check"]

ROOMS = (
    *(process, mail, asks, reminders, tooling, turns, chats, shared, quota, audit, approvals),
    *(library, workflow, executors, triggers, tasks, projects),
)

NUMBERS = (
    *(LAST_EVENT, *process.NUMBERS, *quota.NUMBERS, *audit.NUMBERS, *approvals.NUMBERS),
    *(*triggers.NUMBERS, *tasks.NUMBERS, *projects.NUMBERS),
)
"""Meta values that are numbers."""

DOCUMENTS: dict[str, Form[Any]] = {
    "the configuration": configuration_form(SECTIONS),
    "/etc/roles.yaml": roles.FORM,
    "/etc/acl.yaml": acl.FORM,
    "/etc/models.yaml": catalog.FORM,
    "/etc/tools.yaml": tools.FORM,
    "/etc/harnesses.yaml": harnesses.FORM,
    "/etc/hooks.yaml": hooks.FORM,
    "/etc/guardian.yaml": rules.FORM,
    "/etc/mind.yaml": mind_document.FORM,
}


def check(path: Path) -> list[str]:
    """Every fault of the store at `path`, in words; an empty list if it is sound."""
    if not path.exists():
        return [f"there is no store at {path}"]
    try:
        with reading(path) as connection:
            faults = list(_faults(connection, path))
        return faults or shared.content_faults(path)
    except sqlite3.Error as failure:
        return [f"the store cannot be read: {failure}"]


def _faults(connection: sqlite3.Connection, path: Path) -> Iterator[str]:
    broken = [row[0] for row in connection.execute("PRAGMA integrity_check")]
    if broken != ["ok"]:
        yield from (f"the database is damaged: {line}" for line in broken)
        return
    (schema,) = connection.execute("PRAGMA user_version").fetchone()
    if schema != LATEST:
        yield f"the schema is number {schema}, this release has {LATEST}"
        return
    rows = StoreRows(connection, path)
    yield from _meta_faults(rows)
    for room in ROOMS:
        try:
            yield from room.faults(rows)
        except UNREADABLE as bad:
            yield f"{room.__name__.split('.')[1]}: a record cannot be read: {bad!r}"


def _meta_faults(rows: StoreRows) -> Iterator[str]:
    for key in NUMBERS:
        if rows.number(key) is None:
            yield f"meta: {key} is {rows.meta[key]!r}, no number"
    for document, form in DOCUMENTS.items():
        try:
            form.parse(rows.meta.get(form.key, ""))
        except KernelError as bad:
            yield f"meta: {document} is wrong: {bad.reason}"
