import datetime

from google.protobuf import timestamp_pb2 as _timestamp_pb2
from shop.rpc.protos import cart_pb2 as _cart_pb2
from shop.rpc.protos import money_pb2 as _money_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Order(_message.Message):
    __slots__ = ("id", "visitor_id", "status", "canceling", "lines", "total", "method", "created_at", "pay_by", "mode", "reduction")
    ID_FIELD_NUMBER: _ClassVar[int]
    VISITOR_ID_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    CANCELING_FIELD_NUMBER: _ClassVar[int]
    LINES_FIELD_NUMBER: _ClassVar[int]
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    METHOD_FIELD_NUMBER: _ClassVar[int]
    CREATED_AT_FIELD_NUMBER: _ClassVar[int]
    PAY_BY_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    REDUCTION_FIELD_NUMBER: _ClassVar[int]
    id: str
    visitor_id: str
    status: str
    canceling: str
    lines: _containers.RepeatedCompositeFieldContainer[_cart_pb2.CartLine]
    total: _money_pb2.Money
    method: str
    created_at: _timestamp_pb2.Timestamp
    pay_by: _timestamp_pb2.Timestamp
    mode: str
    reduction: Reduction
    def __init__(self, id: _Optional[str] = ..., visitor_id: _Optional[str] = ..., status: _Optional[str] = ..., canceling: _Optional[str] = ..., lines: _Optional[_Iterable[_Union[_cart_pb2.CartLine, _Mapping]]] = ..., total: _Optional[_Union[_money_pb2.Money, _Mapping]] = ..., method: _Optional[str] = ..., created_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., pay_by: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., mode: _Optional[str] = ..., reduction: _Optional[_Union[Reduction, _Mapping]] = ...) -> None: ...

class Reduction(_message.Message):
    __slots__ = ("coupon", "discount", "credit", "to_pay")
    COUPON_FIELD_NUMBER: _ClassVar[int]
    DISCOUNT_FIELD_NUMBER: _ClassVar[int]
    CREDIT_FIELD_NUMBER: _ClassVar[int]
    TO_PAY_FIELD_NUMBER: _ClassVar[int]
    coupon: str
    discount: _money_pb2.Money
    credit: _money_pb2.Money
    to_pay: _money_pb2.Money
    def __init__(self, coupon: _Optional[str] = ..., discount: _Optional[_Union[_money_pb2.Money, _Mapping]] = ..., credit: _Optional[_Union[_money_pb2.Money, _Mapping]] = ..., to_pay: _Optional[_Union[_money_pb2.Money, _Mapping]] = ...) -> None: ...

class NewOrder(_message.Message):
    __slots__ = ("checkout_id", "visitor_id", "cart_version", "lines", "method", "mode", "reduction")
    CHECKOUT_ID_FIELD_NUMBER: _ClassVar[int]
    VISITOR_ID_FIELD_NUMBER: _ClassVar[int]
    CART_VERSION_FIELD_NUMBER: _ClassVar[int]
    LINES_FIELD_NUMBER: _ClassVar[int]
    METHOD_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    REDUCTION_FIELD_NUMBER: _ClassVar[int]
    checkout_id: str
    visitor_id: str
    cart_version: int
    lines: _containers.RepeatedCompositeFieldContainer[_cart_pb2.CartLine]
    method: str
    mode: str
    reduction: Reduction
    def __init__(self, checkout_id: _Optional[str] = ..., visitor_id: _Optional[str] = ..., cart_version: _Optional[int] = ..., lines: _Optional[_Iterable[_Union[_cart_pb2.CartLine, _Mapping]]] = ..., method: _Optional[str] = ..., mode: _Optional[str] = ..., reduction: _Optional[_Union[Reduction, _Mapping]] = ...) -> None: ...

class OrderPage(_message.Message):
    __slots__ = ("items", "next")
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    NEXT_FIELD_NUMBER: _ClassVar[int]
    items: _containers.RepeatedCompositeFieldContainer[Order]
    next: str
    def __init__(self, items: _Optional[_Iterable[_Union[Order, _Mapping]]] = ..., next: _Optional[str] = ...) -> None: ...

class PlaceOrderRequest(_message.Message):
    __slots__ = ("order",)
    ORDER_FIELD_NUMBER: _ClassVar[int]
    order: NewOrder
    def __init__(self, order: _Optional[_Union[NewOrder, _Mapping]] = ...) -> None: ...

class FindOrderRequest(_message.Message):
    __slots__ = ("visitor_id", "checkout_id", "cart_version")
    VISITOR_ID_FIELD_NUMBER: _ClassVar[int]
    CHECKOUT_ID_FIELD_NUMBER: _ClassVar[int]
    CART_VERSION_FIELD_NUMBER: _ClassVar[int]
    visitor_id: str
    checkout_id: str
    cart_version: int
    def __init__(self, visitor_id: _Optional[str] = ..., checkout_id: _Optional[str] = ..., cart_version: _Optional[int] = ...) -> None: ...

class GetOrderRequest(_message.Message):
    __slots__ = ("visitor_id", "order_id")
    VISITOR_ID_FIELD_NUMBER: _ClassVar[int]
    ORDER_ID_FIELD_NUMBER: _ClassVar[int]
    visitor_id: str
    order_id: str
    def __init__(self, visitor_id: _Optional[str] = ..., order_id: _Optional[str] = ...) -> None: ...

class ListOrdersRequest(_message.Message):
    __slots__ = ("visitor_id", "after", "limit")
    VISITOR_ID_FIELD_NUMBER: _ClassVar[int]
    AFTER_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    visitor_id: str
    after: str
    limit: int
    def __init__(self, visitor_id: _Optional[str] = ..., after: _Optional[str] = ..., limit: _Optional[int] = ...) -> None: ...

class CancelOrderRequest(_message.Message):
    __slots__ = ("visitor_id", "order_id")
    VISITOR_ID_FIELD_NUMBER: _ClassVar[int]
    ORDER_ID_FIELD_NUMBER: _ClassVar[int]
    visitor_id: str
    order_id: str
    def __init__(self, visitor_id: _Optional[str] = ..., order_id: _Optional[str] = ...) -> None: ...
