"""What applications that share a transaction send each other, as JSON."""

from __future__ import annotations

from typing import Any

import pydantic_core
from pydantic import AwareDatetime, BaseModel, Field

from txpatterns.tcc.barrier import Request
from txpatterns.tcc.decisions import Decided, Told
from txpatterns.tcc.schema import Operation
from txpatterns.tcc.serving import Asking

DECISION = "decision"
"""What a participant asks for, and signs, when it has heard nothing."""


class TccBranch(BaseModel):
    """Which branch of which transaction a request is about."""

    xid: str = Field(min_length=3, max_length=401, pattern=r"^[!-~]+/[!-~]+$")
    branch: str = Field(min_length=1, max_length=200, pattern=r"^[!-~]+$")


class TccAsked(BaseModel):
    """What a participant is told of a request."""

    args: list[Any]
    result: Any = None
    started_at: AwareDatetime
    expires_at: AwareDatetime
    correlation_id: str = Field(max_length=200)
    attempt: int = Field(default=1, ge=1)

    def asking(self, xid: str, branch: str, operation: Operation, participant: str = "") -> Asking:
        """Give it as it is served."""
        return Asking(
            Request(xid, branch, operation, participant, self.expires_at),
            pydantic_core.to_json(self.args).decode(),
            self.started_at,
            self.correlation_id,
            self.attempt,
            None if self.result is None else pydantic_core.to_json(self.result).decode(),
        )

    @classmethod
    def of(cls, asking: Asking) -> TccAsked:
        """Give it as it is sent."""
        return cls(
            args=pydantic_core.from_json(asking.arguments),
            result=None if asking.result is None else pydantic_core.from_json(asking.result),
            started_at=asking.started_at,
            expires_at=asking.request.expires_at,
            correlation_id=asking.correlation_id,
            attempt=asking.attempt,
        )


class TccRequest(TccBranch, TccAsked):
    """What a coordinator sends."""


class TccTold(BaseModel):
    """What a coordinator answers, who is asked."""

    decision: Decided
    asked: TccAsked | None = None

    def told(self, xid: str, branch: str) -> Told:
        """Give it as it is acted upon.

        Raises:
            ValueError: it says how the branch ends, and not what for.
        """
        if self.decision in (Decided.OPEN, Decided.UNKNOWN):
            return Told(self.decision)
        if self.asked is None:
            raise ValueError("a decision comes with what is asked for")
        return Told(self.decision, self.asked.asking(xid, branch, Operation(self.decision.value)))

    @classmethod
    def of(cls, told: Told) -> TccTold:
        """Give it as it is sent."""
        return cls(decision=told.decided, asked=None if told.asking is None else TccAsked.of(told.asking))


def answer_to(signed: str) -> str:
    """Say what an answer is signed for: one question, which its signature tells from all others."""
    return f"{DECISION} {signed}"
