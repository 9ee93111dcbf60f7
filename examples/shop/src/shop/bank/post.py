"""The bank's way to the shop."""

from __future__ import annotations

import httpx

from shop.bank.app import Post


def http_post(client: httpx.AsyncClient, url: str) -> Post:
    """Make the bank's way to the shop: over HTTP."""

    async def post(body: bytes, headers: dict[str, str]) -> int:
        answer = await client.post(url, content=body, headers=headers, timeout=10.0)
        return answer.status_code

    return post
