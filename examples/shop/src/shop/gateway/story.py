"""An order's events told as sentences for the person who ordered. Pure: events in, story out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from shop.money import Money


@dataclass(frozen=True, slots=True)
class Entry:
    """One event of an order as the projection keeps it."""

    position: int
    message_id: str
    type: str
    topic: str
    occurred_at: datetime
    seen_at: datetime
    payload: Mapping[str, Any]
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Step:
    """One sentence of the story, with its tone: good, bad, wait or calm."""

    tone: str
    says: str
    detail: str
    entry: Entry


@dataclass(frozen=True, slots=True)
class Stage:
    """One station of the way from order to door: done, now, ahead, undone or broken."""

    name: str
    state: str


@dataclass(frozen=True, slots=True)
class Story:
    headline: str
    lede: str
    tone: str
    steps: tuple[Step, ...]
    stages: tuple[Stage, ...]
    deadline: datetime | None
    next: str | None
    """What is being waited for; none once the order has ended and the money is where it belongs."""
    complete: bool

    @property
    def ended(self) -> bool:
        """Whether nothing is waited for any more. The bank may still repeat itself."""
        return self.next is None


STUMBLED = "handler.stumbled"
"""A service failed at something and tries again: engineers see the attempts, the story only says so at its end."""

STEP = "checkout.step"
"""What became of an attempt at a step of a saga: the picture of the saga tells it, the story does not."""

SAME_AS = {
    "checkout.requested": "order.created",
    "checkout.cancel_requested": "order.cancel_requested",
    "checkout.completed": "order.paid",
    "reservation.made": "stock.reserved",
    "reservation.refused": "stock.rejected",
    "reservation.released": "stock.released",
}
"""What means the same for how far an order is, where a saga leads its checkout."""

TURNS = {"payment.failed", "reservation.released", "checkout.failed"}
"""What a saga that leads a checkout goes back after, or while."""

Telling = tuple[str, str, str]
Names = Mapping[str, str]


def tell(entries: Sequence[Entry]) -> Story:
    """Tell the story so far."""
    names: dict[str, str] = {}
    for entry in entries:
        names.update({line["sku"]: line["name"] for line in entry.payload.get("lines", ()) if "name" in line})
    steps = tuple(Step(*TELLERS[entry.type](entry, names), entry) for entry in entries if entry.type in TELLERS)
    types = _types(entries)
    by_type = {SAME_AS.get(entry.type, entry.type): entry for entry in entries}
    headline, lede, tone = _summary(types, by_type, names)
    waiting = "order.created" in by_type and not ENDINGS & set(types) and "order.paid" not in types
    deadline = None
    if waiting and "order.cancel_requested" not in types:
        deadline = datetime.fromisoformat(by_type["order.created"].payload["pay_by"])
    stumbled = bool(entries) and entries[-1].type == STUMBLED  # a saga's own attempts are in its picture
    return Story(headline, lede, tone, steps, _stages(types), deadline, _next(types, stumbled), _complete(types))


def _types(entries: Sequence[Entry]) -> list[str]:
    """Give the types of the events, in the words of an order that nobody leads."""
    told = {entry.type for entry in entries}
    types = [SAME_AS.get(entry.type, entry.type) for entry in entries]
    if "checkout.requested" in told and TURNS & told and "checkout.completed" not in told:
        types.append("order.cancel_requested")  # the saga says so by what it does
    return types


def tell_no_longer(status: str) -> Story:
    """Tell of an order whose story has been put away: how it ended, and that there is no more to see."""
    confirmed = status == "CONFIRMED"
    types = [event for _, event in WAY] if confirmed else ["order.created", "order.canceled"]
    lede = "This was long ago, and its story is not kept any longer."
    return Story(status.capitalize(), lede, "good" if confirmed else "bad", (), _stages(types), None, None, True)


ENDINGS = {"order.confirmed", "order.canceled"}


def things(lines: Sequence[Mapping[str, Any]], names: Names) -> str:
    """Say what and how many: ``2 Morning mugs`` would be guessing plurals, so ``2 × Morning mug``."""
    summed: dict[str, int] = {}
    for line in lines:
        summed[line["sku"]] = summed.get(line["sku"], 0) + line["quantity"]
    parts = [
        f"{quantity} × {names.get(sku, sku)}" if quantity != 1 else names.get(sku, sku)
        for sku, quantity in summed.items()
    ]
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}" if parts else "nothing"


def clock(when: datetime, shape: str) -> str:
    """Mark a moment for the page, which shows it in the reader's own time zone."""
    return f"{{{{{shape} {when.isoformat()}}}}}"


def _money(value: Mapping[str, str]) -> str:
    return str(Money.model_validate(value))


def _created(entry: Entry, names: Names) -> Telling:
    says, detail = f"You ordered {things(entry.payload['lines'], names)}.", f"{_money(entry.payload['total'])} in all."
    cut = entry.payload.get("reduction")
    if cut:
        less = [f"{_money(cut['discount'])} with {cut['coupon']}"] if cut["coupon"] else []
        less += [f"{_money(cut['credit'])} from your credit"] if Money.model_validate(cut["credit"]).minor else []
        off = f", less {' and '.join(less)}" if less else ""
        detail = f"{detail[:-1]}{off}: {_money(cut['to_pay'])} to pay."
    return "calm", says, detail


def _reserved(entry: Entry, names: Names) -> Telling:
    until = datetime.fromisoformat(entry.payload["until"])
    shape = "minutes" if until - entry.occurred_at > timedelta(minutes=2) else "seconds"
    what, until_when = things(entry.payload["lines"], names), clock(until, shape)
    return "good", f"We reserved {what} for you until {until_when}.", "Nobody else can buy these now."


def _rejected(entry: Entry, names: Names) -> Telling:
    left = ", ".join(f"{line['quantity']} × {names.get(line['sku'], line['sku'])}" for line in entry.payload["short"])
    return "bad", "There is not enough on the shelf.", f"Left: {left}. Nothing was charged, nothing was set aside."


def _asked(entry: Entry, names: Names) -> Telling:
    return "wait", f"We asked the bank for {_money(entry.payload['amount'])}.", "It answers when it is ready."


def _captured(entry: Entry, names: Names) -> Telling:
    amount = _money(entry.payload["amount"])
    if entry.payload["source"] == "webhook":
        return "good", f"The bank says you paid {amount}.", "It is really the bank, and we count it once."
    return "wait", f"No answer came, so we asked the bank: it had taken {amount}.", "Asked, not guessed."


def _failed(entry: Entry, names: Names) -> Telling:
    return "bad", "The bank declined the payment.", "No money moved."


CANCEL_WORDS = {
    "payment_window": ("No payment arrived in time, so we are calling the order off.", "What was set aside goes back."),
    "payment_failed": ("Without a payment we are calling the order off.", "What was set aside goes back."),
    "customer": ("You called the order off.", "What was set aside goes back."),
    "out_of_stock": ("We cannot fill the order.", ""),
    "coupon": ("The coupon cannot be used any more.", ""),
    "credit": ("There is too little credit.", ""),
}
FAILED_WORDS = {
    "payment_window": "No payment arrived in time, so the checkout has failed.",
    "payment_failed": "Without a payment the checkout has failed.",
    "customer": "You called the order off, so the checkout has failed.",
    "out_of_stock": "Without the goods the checkout has failed.",
    "coupon": "Your coupon was used up by then, so the checkout has failed.",
    "credit": "Your credit was spent elsewhere by then, so the checkout has failed.",
}


def _cancel_requested(entry: Entry, names: Names) -> Telling:
    says, detail = CANCEL_WORDS.get(entry.payload["reason"], ("We are calling the order off.", ""))
    return "bad", says, detail


def _checkout_failed(entry: Entry, names: Names) -> Telling:
    says = FAILED_WORDS.get(entry.payload["reason"], "Something did not work, so the checkout has failed.")
    return "bad", says, "What it had done is undone, the last first."


def _released(entry: Entry, names: Names) -> Telling:
    if not entry.payload["lines"]:
        return "calm", "There was nothing to put back on the shelf.", ""
    return "calm", f"We put {things(entry.payload['lines'], names)} back on the shelf.", "Others can buy it again."


def _sold(entry: Entry, names: Names) -> Telling:
    return "good", f"{things(entry.payload['lines'], names)}: taken from the shelf and packed.", "It is yours now."


def _repeated(entry: Entry, names: Names) -> Telling:
    if entry.payload["why"].startswith("amount"):
        return "wait", "The bank named another amount than we did, and it changed nothing.", "A person looks at it."
    return "calm", "The bank told us something again, and it changed nothing.", "We had counted it already."


def _settled(entry: Entry, names: Names) -> Telling:
    return "calm", "We took what you bought out of your cart.", "What you added meanwhile is still there."


def _refunded(entry: Entry, names: Names) -> Telling:
    return "good", f"{_money(entry.payload['amount'])} went back to you.", "The books are even again."


def _coupon_held(entry: Entry, names: Names) -> Telling:
    code, off = entry.payload["code"], _money(entry.payload["discount"])
    return "good", f"We set your coupon {code} aside: {off} off.", "It is used only once the order is paid."


def _coupon_used(entry: Entry, names: Names) -> Telling:
    return "good", f"Your coupon {entry.payload['code']} is used.", f"It saved you {_money(entry.payload['discount'])}."


def _coupon_released(entry: Entry, names: Names) -> Telling:
    return "calm", f"Your coupon {entry.payload['code']} is yours again.", "It was set aside, and was not used."


def _credit_held(entry: Entry, names: Names) -> Telling:
    amount = _money(entry.payload["amount"])
    return "good", f"We set {amount} of your credit aside.", "It is spent only once the order is paid."


def _credit_spent(entry: Entry, names: Names) -> Telling:
    return "good", f"{_money(entry.payload['amount'])} of your credit is spent on this order.", ""


def _credit_released(entry: Entry, names: Names) -> Telling:
    return "calm", f"{_money(entry.payload['amount'])} is back in your credit.", "It was set aside, and was not spent."


def _fixed(tone: str, says: str, detail: str = "") -> Callable[[Entry, Names], Telling]:
    return lambda entry, names: (tone, says, detail)


TELLERS: dict[str, Callable[[Entry, Names], Telling]] = {
    "order.created": _created,
    "stock.reserved": _reserved,
    "stock.rejected": _rejected,
    "payment.session_opened": _asked,
    "payment.captured": _captured,
    "payment.failed": _failed,
    "order.paid": _fixed("good", "Your order is paid.", "From here on it only goes forward."),
    "order.confirmed": _fixed("good", "Your order is confirmed."),
    "order.cancel_requested": _cancel_requested,
    "stock.released": _released,
    "stock.sold": _sold,
    "order.canceled": _fixed("bad", "The order is canceled."),
    "refund.requested": _fixed("wait", "The money came after the order had ended, so we are sending it back."),
    "payment.refunded": _refunded,
    "webhook.repeated": _repeated,
    "checkout.requested": _created,
    "checkout.cancel_requested": _fixed("wait", "You asked us to call the order off.", "If it is not paid yet, we do."),
    "checkout.completed": _fixed("good", "It is set aside and paid.", "From here on it only goes forward."),
    "checkout.failed": _checkout_failed,
    "reservation.made": _reserved,
    "reservation.refused": _rejected,
    "reservation.released": _released,
    "cart.settled": _settled,
    "coupon.held": _coupon_held,
    "coupon.used": _coupon_used,
    "coupon.released": _coupon_released,
    "credit.held": _credit_held,
    "credit.spent": _credit_spent,
    "credit.released": _credit_released,
}


def _summary(types: Sequence[str], by_type: Mapping[str, Entry], names: Names) -> Telling:
    if "order.confirmed" in types:
        return "Confirmed", "Paid, packed, and on its way to you.", "good"
    if "order.canceled" in types:
        return "Canceled", _canceled_lede(types), "bad"
    if "order.cancel_requested" in types:
        return "Calling it off", "We are putting everything back the way it was.", "bad"
    if "order.paid" in types:
        return "Paid", "Your payment is here; we are confirming the order.", "good"
    if "payment.session_opened" in types:
        return "Waiting for the bank", "Everything is set aside for you until the bank answers.", "wait"
    if "stock.reserved" in types:
        return "Set aside for you", "Next, we ask the bank.", "wait"
    if "order.created" in types:
        return "Order placed", "We are looking on the shelf.", "wait"
    return "One moment", "Your order is written down; its story is about to begin.", "wait"


def _canceled_lede(types: Sequence[str]) -> str:
    if "payment.refunded" in types:
        return "Your money is back with you, and the shelf is as it was."
    if "payment.captured" in types:
        return "The bank took your money too late; it is on its way back."
    return "You were not charged, and the shelf is as it was."


def _next(types: Sequence[str], stumbled: bool) -> str | None:
    owed = "payment.captured" in types and "payment.refunded" not in types
    if "stock.sold" in types or ("order.canceled" in types and not owed):
        return None
    if stumbled:
        return "Something did not work at once; we are trying it again"
    if "order.canceled" in types:
        return "Sending your money back"
    if "order.cancel_requested" in types:
        return "Putting everything back"
    if "order.confirmed" in types:
        return "Packing"
    if "order.paid" in types:
        return "Confirming the order"
    return "Waiting for the bank" if "payment.session_opened" in types else "One moment"


def _complete(types: Sequence[str]) -> bool:
    """Say whether nothing more is to be expected: a canceled order's money may still be on its way."""
    if "order.confirmed" in types:
        return {"stock.sold", "cart.settled"} <= set(types)
    return "order.canceled" in types and (
        "payment.session_opened" not in types or "payment.failed" in types or "payment.refunded" in types
    )


WAY = (
    ("Placed", "order.created"),
    ("Set aside", "stock.reserved"),
    ("Paid", "order.paid"),
    ("Confirmed", "order.confirmed"),
)


def _stages(types: Sequence[str]) -> tuple[Stage, ...]:
    off = {"order.canceled", "order.cancel_requested"} & set(types) and "order.confirmed" not in types
    stages: list[Stage] = []
    for name, event in WAY:
        if event in types:
            stages.append(Stage(name, "undone" if off and event == "stock.reserved" else "done"))
        elif off:
            stages.append(Stage("Canceled", "broken"))
            break
        else:
            ahead = any(stage.state == "now" for stage in stages)
            stages.append(Stage(name, "ahead" if ahead else "now"))
    return tuple(stages)
