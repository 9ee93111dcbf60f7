from shop.rpc.protos import money_pb2 as _money_pb2
from shop.rpc.protos import orders_pb2 as _orders_pb2
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class PlaceOrderRequest(_message.Message):
    __slots__ = ("visitor_id", "key", "method", "mode", "version", "saving")
    VISITOR_ID_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    METHOD_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    SAVING_FIELD_NUMBER: _ClassVar[int]
    visitor_id: str
    key: str
    method: str
    mode: str
    version: int
    saving: Saving
    def __init__(self, visitor_id: _Optional[str] = ..., key: _Optional[str] = ..., method: _Optional[str] = ..., mode: _Optional[str] = ..., version: _Optional[int] = ..., saving: _Optional[_Union[Saving, _Mapping]] = ...) -> None: ...

class Saving(_message.Message):
    __slots__ = ("coupon", "use_credit")
    COUPON_FIELD_NUMBER: _ClassVar[int]
    USE_CREDIT_FIELD_NUMBER: _ClassVar[int]
    coupon: str
    use_credit: bool
    def __init__(self, coupon: _Optional[str] = ..., use_credit: _Optional[bool] = ...) -> None: ...

class QuoteRequest(_message.Message):
    __slots__ = ("visitor_id", "total", "saving")
    VISITOR_ID_FIELD_NUMBER: _ClassVar[int]
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    SAVING_FIELD_NUMBER: _ClassVar[int]
    visitor_id: str
    total: _money_pb2.Money
    saving: Saving
    def __init__(self, visitor_id: _Optional[str] = ..., total: _Optional[_Union[_money_pb2.Money, _Mapping]] = ..., saving: _Optional[_Union[Saving, _Mapping]] = ...) -> None: ...

class GetSessionRequest(_message.Message):
    __slots__ = ("visitor_id", "order_id")
    VISITOR_ID_FIELD_NUMBER: _ClassVar[int]
    ORDER_ID_FIELD_NUMBER: _ClassVar[int]
    visitor_id: str
    order_id: str
    def __init__(self, visitor_id: _Optional[str] = ..., order_id: _Optional[str] = ...) -> None: ...

class Session(_message.Message):
    __slots__ = ("order_id", "status", "reason")
    ORDER_ID_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    order_id: str
    status: str
    reason: str
    def __init__(self, order_id: _Optional[str] = ..., status: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...
