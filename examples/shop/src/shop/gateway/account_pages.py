"""The pages of accounts: sign in, register, and what is known about somebody."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Form, Query, Request
from fastapi.responses import RedirectResponse, Response
from pydantic import BaseModel, ConfigDict, Field

from shop.gateway.context import Context, Ctx, Who
from shop.gateway.pages import show
from shop.gateway.routes.auth import place_of
from shop.gateway.sessions import REFRESH, signed_in, signed_out
from shop.gateway.visitors import Visitor
from shop.ports import Login
from shop.problems import Problem

router = APIRouter(include_in_schema=False)
LONGEST_FIELD = 320


class Registration(BaseModel):
    """The form of somebody new."""

    model_config = ConfigDict(hide_input_in_errors=True)

    csrf: str
    email: str = Field(max_length=LONGEST_FIELD)
    password: str = Field(max_length=200, repr=False)
    name: str = Field("", max_length=80)
    then: str = Field("", max_length=500)


@dataclass(frozen=True, slots=True)
class Filled:
    """What somebody has filled in already; never a password. ``then`` is where to go when all is well."""

    email: str = ""
    name: str = ""
    then: str = ""


HAVE_ONE = "If this address has an account already, it is as it was: sign in with its password."
Text = Annotated[str, Form(max_length=LONGEST_FIELD)]


def safe_path(wanted: str) -> str:
    """Give where to go next: a path of this shop, whatever a link from elsewhere says."""
    is_ours = wanted.startswith("/") and not wanted.startswith(("//", "/\\")) and wanted.isprintable()
    return wanted if is_ours and wanted.isascii() else "/account"


@router.get("/login")
async def login_page(context: Ctx, visitor: Who, then: Annotated[str, Query(max_length=500)] = "") -> Response:
    """Show the form; who is signed in already goes on."""
    if visitor.user_id is not None:
        return RedirectResponse(safe_path(then), status_code=303)
    return await _form(context, visitor, "login.html", Filled(then=then))


@router.post("/login")
async def log_in(
    context: Ctx,
    visitor: Who,
    request: Request,
    csrf: Text,
    email: Text,
    password: Text,
    then: Annotated[str, Form(max_length=500)] = "",
) -> Response:
    """Sign in, and go on to where somebody came from."""
    visitor.check_form(csrf)
    try:
        login = await context.services.users.login(email, password, place_of(request))
    except Problem as problem:
        return await _again(context, visitor, "login.html", Filled(email, then=then), problem)
    return await _welcome(context, request, login, then)


@router.get("/register")
async def register_page(context: Ctx, visitor: Who, then: Annotated[str, Query(max_length=500)] = "") -> Response:
    """Show the form; who is signed in already goes on."""
    if visitor.user_id is not None:
        return RedirectResponse(safe_path(then), status_code=303)
    return await _form(context, visitor, "register.html", Filled(then=then))


@router.post("/register")
async def register_and_log_in(
    context: Ctx, visitor: Who, request: Request, form: Annotated[Registration, Form()]
) -> Response:
    """Open an account and sign in to it. Sent twice, the second time signs in to what the first one opened."""
    visitor.check_form(form.csrf)
    users, place = context.services.users, place_of(request)
    filled = Filled(form.email, form.name, form.then)
    try:
        await users.register(form.email, form.password, form.name, place)
        login = await users.login(form.email, form.password, place)
    except Problem as problem:
        if problem.kind.slug == "credentials-refused":
            return await _form(context, visitor, "login.html", filled, HAVE_ONE, 401)
        return await _again(context, visitor, "register.html", filled, problem)
    return await _welcome(context, request, login, form.then)


@router.get("/account")
async def account_page(context: Ctx, visitor: Who) -> Response:
    """Show what is known about somebody."""
    if visitor.user_id is None:
        return RedirectResponse("/login", status_code=303)
    user = await context.services.users.get(visitor.user_id)
    return await show(context, visitor, "account.html", user=user, here="account")


@router.post("/logout")
async def log_out(context: Ctx, visitor: Who, request: Request, csrf: Text) -> Response:
    """End the session. The cookies go also where the users' service is away."""
    visitor.check_form(csrf)
    there = RedirectResponse("/", status_code=303)
    for value in signed_out(request):
        there.headers.append("set-cookie", value)
    await _end(context, request)
    return there


async def _welcome(context: Context, request: Request, login: Login, then: str) -> Response:
    await _end(context, request)  # somebody may have been signed in here before
    there = RedirectResponse(safe_path(then), status_code=303)
    for value in signed_in(request, login):
        there.headers.append("set-cookie", value)
    return there


async def _end(context: Context, request: Request) -> None:
    if REFRESH in request.cookies:
        await context.services.users.logout(request.cookies[REFRESH])


async def _again(context: Context, visitor: Visitor, page: str, filled: Filled, problem: Problem) -> Response:
    """Show a form again with what went wrong, where somebody can do something about it."""
    if problem.kind.slug not in ("credentials-refused", "invalid", "too-many-tries"):
        raise problem
    shown = await _form(context, visitor, page, filled, problem.detail, problem.kind.status)
    shown.headers.update(problem.headers)
    return shown


async def _form(
    context: Context, visitor: Visitor, page: str, filled: Filled, notice: str | None = None, status: int = 200
) -> Response:
    return await show(
        context, visitor, page, status, notice=notice, filled=filled, demo=context.demo_password, here="account"
    )
