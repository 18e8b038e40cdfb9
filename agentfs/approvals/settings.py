"""The settings of approvals."""

from __future__ import annotations

from typing import ClassVar

from agentfs.store.settings import Count, Duration, Section

__all__ = ["ApprovalSettings"]


class ApprovalSettings(Section):
    """`max_pending` requests of one agent may wait for a decision or to be used; those that are
    closed are kept for `retention`."""

    NAME: ClassVar = "approvals"

    max_pending: Count = 100
    retention: Duration = 7 * 86_400.0
