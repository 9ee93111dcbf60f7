"""Which protocol of ``shop.ports`` each gRPC service carries: a request's fields are the arguments of a method."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from shop import ports
from shop.calls import Method, methods_of
from shop.rpc.protos import (
    cart_pb2,
    catalog_pb2,
    checkout_pb2,
    inventory_pb2,
    orders_pb2,
    payment_pb2,
    pricing_pb2,
    users_pb2,
    wallet_pb2,
)


@dataclass(frozen=True, slots=True)
class Rpc:
    """One call: its path, its messages, and the method that answers it.

    ``field`` is the one of the answer that holds the method's result; without one, the answer is the result. A method
    that finds nothing gives None, and the call NOT_FOUND.
    """

    path: str
    request: type[Message]
    answer: type[Message]
    name: str
    method: Method
    field: str | None

    @property
    def may_find_nothing(self) -> bool:
        """Whether None is one of the method's results, and not its only one."""
        return self.field is None and bool(self.answer.DESCRIPTOR.fields) and self.method.may_be_none


@dataclass(frozen=True, slots=True)
class Service:
    """One gRPC service, by the full name that its ``.proto`` file gives it."""

    name: str
    port: type[Any]
    rpcs: tuple[Rpc, ...]


def _service(described: ServiceDescriptor, port: type[Any], methods: Mapping[str, str]) -> Service:
    """Bind the calls of a service to methods; ``levels -> levels`` also names the answer's field of the result."""
    known = methods_of(port)
    rpcs = []
    for name, target in methods.items():
        method, _, field = target.partition(" -> ")
        rpcs.append(_rpc(described.methods_by_name[name], method, known[method], field or None))
    return Service(described.full_name, port, tuple(rpcs))


def _rpc(described: MethodDescriptor, name: str, method: Method, field: str | None) -> Rpc:
    service = described.containing_service.full_name
    request, answer = GetMessageClass(described.input_type), GetMessageClass(described.output_type)
    return Rpc(f"/{service}/{described.name}", request, answer, name, method, field)


SERVICES: Mapping[str, Service] = {
    "catalog": _service(
        catalog_pb2.DESCRIPTOR.services_by_name["CatalogService"],
        ports.Catalog,
        {
            "GetCategories": "categories -> categories",
            "GetProducts": "products",
            "GetProduct": "product",
            "FindProducts": "products_by_sku -> products",
            "SetPrice": "set_price",
        },
    ),
    "cart": _service(
        cart_pb2.DESCRIPTOR.services_by_name["CartService"],
        ports.Carts,
        {
            "Get": "get",
            "Add": "add",
            "Update": "update",
            "Remove": "remove",
            "Reprice": "reprice",
            "Clear": "clear",
            "TakeOver": "take_over",
        },
    ),
    "inventory": _service(
        inventory_pb2.DESCRIPTOR.services_by_name["InventoryService"],
        ports.Inventory,
        {
            "GetStock": "levels -> levels",
            "Reserve": "reserve",
            "Release": "release",
            "Confirm": "confirm",
            "GetReservation": "reservation",
        },
    ),
    "payment": _service(
        payment_pb2.DESCRIPTOR.services_by_name["PaymentService"],
        ports.Payments,
        {
            "Charge": "charge",
            "GetCharge": "find",
            "Refund": "refund",
            "ReceiveWebhook": "receive_webhook",
        },
    ),
    "orders": _service(
        orders_pb2.DESCRIPTOR.services_by_name["OrdersService"],
        ports.Orders,
        {
            "PlaceOrder": "place",
            "FindOrder": "made",
            "GetOrder": "get",
            "ListOrders": "list",
            "CancelOrder": "cancel",
        },
    ),
    "checkout": _service(
        checkout_pb2.DESCRIPTOR.services_by_name["CheckoutService"],
        ports.Checkouts,
        {"PlaceOrder": "place", "Quote": "quote", "GetSession": "get"},
    ),
    "pricing": _service(
        pricing_pb2.DESCRIPTOR.services_by_name["PricingService"],
        ports.Pricing,
        {"Quote": "quote"},
    ),
    "wallet": _service(
        wallet_pb2.DESCRIPTOR.services_by_name["WalletService"],
        ports.Wallets,
        {"Get": "get"},
    ),
    "users": _service(
        users_pb2.DESCRIPTOR.services_by_name["UsersService"],
        ports.Users,
        {
            "Register": "register",
            "Login": "login",
            "Refresh": "refresh",
            "Logout": "logout",
            "GetUser": "get",
        },
    ),
}
"""By the name of the service in this shop."""
