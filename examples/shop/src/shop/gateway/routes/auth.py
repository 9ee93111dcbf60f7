"""Signing in and out, for programs; pages do it in ``account_pages``."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field

from shop.gateway.context import Account, Ctx
from shop.ports import Login, User

router = APIRouter(prefix="/api/v1", tags=["account"])

Given = ConfigDict(hide_input_in_errors=True)


class NewAccount(BaseModel):
    """Who registers."""

    model_config = Given

    email: Annotated[str, Field(max_length=254, examples=["grace@example.com"])]
    password: Annotated[str, Field(min_length=10, max_length=200, repr=False)]
    name: Annotated[str, Field(max_length=80)] = ""


class Credentials(BaseModel):
    """Who signs in."""

    model_config = Given

    email: Annotated[str, Field(max_length=320, examples=["ada@example.com"])]
    password: Annotated[str, Field(max_length=200, repr=False)]


class RefreshToken(BaseModel):
    model_config = Given

    refresh_token: Annotated[str, Field(max_length=200, repr=False)]


class Registered(BaseModel):
    status: Literal["accepted"] = "accepted"


class Tokens(BaseModel):
    """Proof of who somebody is: send the access token as ``Authorization: Bearer``, keep the other one to yourself."""

    access_token: str
    token_type: Literal["Bearer"] = "Bearer"  # noqa: S105 - a kind of token, and none
    expires_in: int
    refresh_token: str
    refresh_expires_in: int
    user: User


def tokens_of(login: Login) -> Tokens:
    """Show what somebody was given."""
    return Tokens(**{name: getattr(login, name) for name in Login.model_fields})


def place_of(request: Request) -> str:
    """Give where a request is from, as tries are counted by it."""
    return request.client.host if request.client else "unknown"


@router.post("/auth/register", status_code=202)
async def register(context: Ctx, account: NewAccount, request: Request) -> Registered:
    """Open an account, then sign in. The answer is the same where the address has one already, which stays as it is."""
    await context.services.users.register(account.email, account.password, account.name, place_of(request))
    return Registered()


@router.post("/auth/login")
async def login(context: Ctx, credentials: Credentials, request: Request) -> Tokens:
    """Sign in. What a visitor put into the cart is in the account's, from the first request with the token on."""
    users = context.services.users
    return tokens_of(await users.login(credentials.email, credentials.password, place_of(request)))


@router.post("/auth/refresh")
async def refresh(context: Ctx, given: RefreshToken) -> Tokens:
    """Exchange a refresh token for new tokens, once.

    Asked for again within half a minute, it gives the same next one: an answer may get lost. Later, or when that one
    was used already, the token is in two hands, and the session is ended.
    """
    return tokens_of(await context.services.users.refresh(given.refresh_token))


@router.post("/auth/logout", status_code=204)
async def logout(context: Ctx, given: RefreshToken) -> None:
    """End a session. Again is fine. Its access token is good for the rest of its few minutes."""
    await context.services.users.logout(given.refresh_token)


@router.get("/me")
async def get_me(context: Ctx, user_id: Account) -> User:
    """Show your account."""
    return await context.services.users.get(user_id)
