"""The part of a document that says as whom its programs run."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict

from agentfs.base.models import matching
from agentfs.model.spec import NAME, NamedLimits, Names
from agentfs.tooling.own_agents import OwnAgent

__all__ = ["OwnAgentForm"]


class _Limits(NamedLimits):
    model_config = ConfigDict(extra="forbid", strict=True)


class OwnAgentForm(BaseModel):
    """`user`, `caps`, `deny` and `limits`, as a tool of `run_as: tool` has them."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    user: Annotated[str, matching(NAME, "the name of a user")] | None = None
    caps: Names | None = None
    deny: Names = []
    limits: _Limits | None = None

    def agent(self, name: str, prompt: str, tier: str | None = None) -> OwnAgent:
        """The agent that runs them."""
        return OwnAgent(
            name,
            "policy",
            name,
            prompt,
            user=self.user,
            caps=None if self.caps is None else tuple(self.caps),
            deny=tuple(self.deny),
            limits={} if self.limits is None else self.limits.model_dump(exclude_unset=True),
            tier=tier,
        )
