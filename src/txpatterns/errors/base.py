"""What every error of the library is."""

from __future__ import annotations

from typing import ClassVar


class TxPatternsError(Exception):
    """Something in txpatterns failed."""

    code: ClassVar[str] = "TXP-1000"
    fix: ClassVar[str] = "See the cause above."

    def __init__(self, message: str | None = None, *, fix: str | None = None) -> None:
        self.message = message or (type(self).__doc__ or "").split("\n", 1)[0]
        self.remedy = fix or type(self).fix
        super().__init__(f"[{type(self).code}] {self.message} Fix: {self.remedy}")
