"""What is told, and what is worth something, cannot be changed; and messages are no service of their own."""

import dataclasses
import importlib
import pkgutil
from pathlib import Path

import pytest

import shop
from shop import events, money, ports, reductions
from shop.money import Money
from shop.settings import PORTS
from txpatterns import Event

DOMAINS = [f"shop.{path.parent.name}.domain" for path in sorted(Path(shop.__file__).parent.glob("*/domain.py"))]


def made_in(module, kind):
    """The classes of a kind that a module makes by itself."""
    found = [each for each in vars(module).values() if isinstance(each, type) and each.__module__ == module.__name__]
    return [each for each in found if kind(each)]


@pytest.mark.parametrize("module", [events, money, ports, reductions], ids=lambda module: module.__name__)
def test_models_are_frozen(module):
    """Events, money, and what services answer."""
    models = made_in(module, lambda each: hasattr(each, "model_config"))
    assert models
    assert [each.__name__ for each in models if not each.model_config.get("frozen")] == []


@pytest.mark.parametrize("name", DOMAINS)
def test_values_of_the_domain_are_frozen(name):
    """A decision gives a new state; it changes none."""
    values = made_in(importlib.import_module(name), dataclasses.is_dataclass)
    assert [each.__name__ for each in values if not each.__dataclass_params__.frozen] == []


def test_a_change_is_refused():
    amount = Money.of_minor(100, "EUR")
    with pytest.raises(ValueError, match="frozen"):
        amount.minor = 1
    told = events.OrderPaid.model_construct(order_id="1")
    with pytest.raises(ValueError, match="frozen"):
        told.order_id = "2"
    assert isinstance(told, Event)


def test_no_service_carries_messages():
    """They travel by the library and a broker: nothing that could be away lies between two services."""
    names = {*PORTS, *(module.name for module in pkgutil.iter_modules(shop.__path__) if module.ispkg)}
    assert not {name for name in names if name in {"mq", "queue", "bus", "broker", "messaging", "events"}}
