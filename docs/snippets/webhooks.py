"""Webhooks of a bank: verified, and each with its effect once. Here the bank sends one twice, and a stranger one."""

# --8<-- [start:app]
import asyncio
from typing import Annotated

import httpx
from fastapi import Depends, FastAPI
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from txpatterns import App, Event
from txpatterns.integrations.fastapi import (
    answer_with_problems,
    session_dependency,
    txpatterns_lifespan,
    webhook_dependency,
)
from txpatterns.integrations.webhooks import Webhook, WebhookReceiver, WebhookSecrets, new_secret


class Base(DeclarativeBase): ...


class Payment(Base):
    __tablename__ = "payments"
    order_id: Mapped[str] = mapped_column(primary_key=True)
    status: Mapped[str]


class Paid(Event, topic="payment-events", type="payment.paid", key="order_id"):
    order_id: str


SECRET = new_secret()  # yours comes from the bank, and from where you keep secrets

app = App("webhooks", metadata=Base.metadata)
bank = WebhookReceiver(app, "bank", SECRET)
web = FastAPI(lifespan=txpatterns_lifespan(app, relay=False, consume=False))
answer_with_problems(web)
FromBank = Annotated[Webhook, Depends(webhook_dependency(bank))]
Session = Annotated[AsyncSession, Depends(session_dependency(app), scope="function")]


@web.post("/webhooks/bank", status_code=204)
async def hear(webhook: FromBank, session: Session) -> None:
    if not await bank.aclaim(session, webhook):
        print(webhook.id, "came before")
        return
    told = webhook.json()
    session.add(Payment(order_id=told["order_id"], status=told["type"]))
    app.outbox.add(session, Paid(order_id=told["order_id"]))
    print(webhook.id, "is new")


# --8<-- [end:app]


# --8<-- [start:send]
async def main() -> None:
    body = b'{"type": "paid", "order_id": "order-1"}'
    async with web.router.lifespan_context(web):
        transport = httpx.ASGITransport(app=web)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            for secret in (SECRET, SECRET, new_secret()):
                headers = WebhookSecrets(secret).sign("evt_1", body)
                answer = await client.post("/webhooks/bank", content=body, headers=headers)
                print(answer.status_code)


if __name__ == "__main__":
    asyncio.run(main())
# --8<-- [end:send]
