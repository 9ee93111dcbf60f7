"""The demo's accounts. Their password is public, and so are these hashes of it."""

from __future__ import annotations

from dataclasses import dataclass

DEMO_PASSWORD = "all-or-nothing"  # noqa: S105 - on the sign-in page of every demo

_NOW = "$argon2id$v=19$m=65536,t=3,p=4$bkHNreqk7tlS+6Es/4AkGg$5JtGqk2TGRFRfzD4ZtxPY30DSvP7t6OL7WXdNbVoIQo"
_WEAKER = "$argon2id$v=19$m=19456,t=2,p=1$NLeSawo6nSBnHxCmyN32Bw$Vp599qU7fYCukT3UFvWF/GMC+Fm4RcS+miIOmmZ/PTM"
_BCRYPT = "$2b$10$Lfo1g63HFl37qd3MMmG8jOjZVgQnkmX4KmbHL/V16mJBFRcdWGgSO"


@dataclass(frozen=True, slots=True)
class SeedUser:
    email: str
    name: str
    password_hash: str


DEMO_USERS = [
    SeedUser("ada@example.com", "Ada", _NOW),
    SeedUser("ben@example.com", "Ben", _NOW),
    SeedUser("chloe@example.com", "Chloe", _NOW),
    # As if they had registered long ago: their hashes are made anew when they sign in.
    SeedUser("dev@example.com", "Dev", _WEAKER),
    SeedUser("eve@example.com", "Eve", _BCRYPT),
]
