from shop.rpc.protos import orders_pb2 as _orders_pb2
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Optional as _Optional

DESCRIPTOR: _descriptor.FileDescriptor

class PlaceOrderRequest(_message.Message):
    __slots__ = ("visitor_id", "key", "method", "mode", "version")
    VISITOR_ID_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    METHOD_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    visitor_id: str
    key: str
    method: str
    mode: str
    version: int
    def __init__(self, visitor_id: _Optional[str] = ..., key: _Optional[str] = ..., method: _Optional[str] = ..., mode: _Optional[str] = ..., version: _Optional[int] = ...) -> None: ...

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
