"""What the users' service answers: register, sign in, stay signed in, sign out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from shop.events import UserRegistered, UserTokenReuse
from shop.ports import Login, User
from shop.problems import Problem
from shop.tokens import AccessTokens, SignedIn
from shop.users.domain import SESSION_LASTS, SHORTEST_PASSWORD, EndReason, Verdict, judge, normal_email
from shop.users.models import AccountRow, RefreshTokenRow, SessionRow
from shop.users.passwords import Passwords
from shop.users.refresh import RefreshTokens, digest_of
from shop.users.seed import SeedUser
from shop.users.tries import Tries
from txpatterns import App, new_id

REFUSED = "The e-mail address and the password do not belong together."
ENDED = "You are not signed in any more. Sign in again."


@dataclass(frozen=True, slots=True)
class Tools:
    """What accounts are kept with."""

    access: AccessTokens
    refresh: RefreshTokens
    passwords: Passwords
    tries: Tries

    @classmethod
    def made(cls, secrets: Sequence[str], access_lasts: timedelta) -> Tools:
        """Make them: with the secrets of tokens, of which the first one signs, and how long an access token is good."""
        return cls(AccessTokens(secrets, access_lasts), RefreshTokens(secrets), Passwords(), Tries())


class UsersApi:
    """Accounts and sessions, over their own database.

    What it answers tells nobody whether somebody else has an account.
    """

    def __init__(self, app: App, tools: Tools) -> None:
        self.app = app
        self.tools = tools

    async def open_accounts(self, users: list[SeedUser]) -> None:
        """Make the demo's accounts where there is none yet."""
        async with self.app.transaction() as session:
            if await session.scalar(select(AccountRow.id).limit(1)) is None:
                session.add_all(_account(user.email, user.name, user.password_hash) for user in users)

    async def register(self, email: str, password: str, name: str, place: str) -> None:
        """Open an account. Where there is one already it stays as it is, and the answer is the same.

        Raises:
            Problem: ``invalid`` for what is no address or too short a password, ``too-many-tries``.
        """
        address = normal_email(email)
        if address is None:
            raise Problem("invalid", "This is no e-mail address.")
        if len(password) < SHORTEST_PASSWORD:
            raise Problem("invalid", f"A password has {SHORTEST_PASSWORD} characters or more.")
        await self.tools.tries.count(address, place)
        hashed = await self.tools.passwords.hash(password)  # first, so that both cases take the same time
        try:
            async with self.app.transaction() as session:
                if await _by_email(session, address) is None:
                    row = _account(address, name.strip() or address.partition("@")[0], hashed)
                    session.add(row)
                    self.app.outbox.add(session, UserRegistered(user_id=row.id))
        except IntegrityError:
            return  # the same request twice at once, and the other one was first

    async def login(self, email: str, password: str, place: str) -> Login:
        """Sign somebody in: begin a session of its own.

        A hash that is not up to date is replaced, in the same transaction.

        Raises:
            Problem: ``credentials-refused``, the same for a wrong password and for nobody's address;
                ``too-many-tries``.
        """
        address = normal_email(email) or ""
        await self.tools.tries.count(address, place)
        async with self.app.session() as session:
            known = await _by_email(session, address)
        stored = known.password_hash if known else None
        is_right, better = await self.tools.passwords.check(password, stored)
        if known is None or not is_right:
            raise Problem("credentials-refused", REFUSED)
        now = datetime.now(UTC)
        async with self.app.transaction() as session:
            account = await session.get_one(AccountRow, known.id, with_for_update=True)
            if better is not None and account.password_hash == stored:
                account.password_hash = better
            row = SessionRow(
                id=new_id(),
                account_id=account.id,
                generation=0,
                created_at=now,
                rotated_at=now,
                expires_at=now + SESSION_LASTS,
            )
            session.add(row)
            await session.flush()
            return self._given(account, row, self._next_token(session, row))

    async def refresh(self, refresh_token: str) -> Login:
        """Exchange a refresh token for the next one, and a new access token. Each can be exchanged once.

        Asked for again within the grace time, as long as the next one was not used, it gives that same next one. A
        token that comes again otherwise is in two hands: the session is ended for both, and that is told.

        Raises:
            Problem: ``session-ended``.
        """
        async with self.app.transaction() as session:
            given = await self._exchanged(session, refresh_token)
        # Only here: what was found out is committed, also when it leads to a refusal.
        if given is None:
            raise Problem("session-ended", ENDED)
        return given

    async def logout(self, refresh_token: str) -> None:
        """End the session of a refresh token, of whichever number. Of one that is no session's, nothing is said."""
        async with self.app.transaction() as session:
            found = await _session_of(session, refresh_token)
            if found is not None and found[0].end_reason is None:
                found[0].end_reason = EndReason.LOGGED_OUT

    async def get(self, user_id: str) -> User:
        """Show an account.

        Raises:
            Problem: ``not-found``.
        """
        async with self.app.session() as session:
            row = await session.get(AccountRow, user_id)
            if row is None:
                raise Problem("not-found", "There is no such account.")
            return _view(row)

    async def _exchanged(self, session: AsyncSession, refresh_token: str) -> Login | None:
        found = await _session_of(session, refresh_token)
        if found is None:
            return None
        row, generation = found
        now = datetime.now(UTC)
        account = await session.get_one(AccountRow, row.account_id)
        match judge(row.life, generation, now):
            case Verdict.CURRENT:
                row.generation, row.rotated_at = row.generation + 1, now
                return self._given(account, row, self._next_token(session, row))
            case Verdict.REPEATED:
                query = select(RefreshTokenRow.digest).where(
                    RefreshTokenRow.session_id == row.id, RefreshTokenRow.generation == row.generation
                )
                successor = self.tools.refresh.again(row.id, row.generation, (await session.scalars(query)).one())
                return self._given(account, row, successor) if successor else None
            case Verdict.REUSED:
                row.end_reason = EndReason.TOKEN_REUSE
                self.app.outbox.add(session, UserTokenReuse(user_id=account.id, session_id=row.id))
                return None
            case Verdict.ENDED:
                return None

    def _next_token(self, session: AsyncSession, row: SessionRow) -> str:
        token = self.tools.refresh.make(row.id, row.generation)
        session.add(RefreshTokenRow(digest=digest_of(token), session_id=row.id, generation=row.generation))
        return token

    def _given(self, account: AccountRow, row: SessionRow, refresh_token: str) -> Login:
        access = self.tools.access
        return Login(
            access_token=access.issue(SignedIn(account.id, row.id)),
            expires_in=int(access.last.total_seconds()),
            refresh_token=refresh_token,
            refresh_expires_in=max(0, int((row.expires_at - datetime.now(UTC)).total_seconds())),
            user=_view(account),
        )


async def _by_email(session: AsyncSession, email: str) -> AccountRow | None:
    found: AccountRow | None = await session.scalar(select(AccountRow).where(AccountRow.email == email))
    return found


async def _session_of(session: AsyncSession, refresh_token: str) -> tuple[SessionRow, int] | None:
    """Find and lock the session of a token; gives it with the token's number."""
    token = await session.get(RefreshTokenRow, digest_of(refresh_token))
    if token is None:
        return None
    row = await session.get(SessionRow, token.session_id, with_for_update=True)
    return None if row is None else (row, token.generation)


def _account(email: str, name: str, password_hash: str) -> AccountRow:
    return AccountRow(id=new_id(), email=email, name=name, password_hash=password_hash, created_at=datetime.now(UTC))


def _view(row: AccountRow) -> User:
    return User(id=row.id, email=row.email, name=row.name, since=row.created_at)
