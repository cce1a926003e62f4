"""Client of wechat-store-gateway: typed calls, typed errors, safe repeats, and watches that miss nothing."""

from . import v1
from .connection import Gateway, connect
from .cursors import CursorStore, FileCursorStore, MemoryCursorStore
from .errors import (
    AbortedError,
    AlreadyExistsError,
    CancelledError,
    DataLossError,
    DeadlineExceededError,
    FailedPreconditionError,
    FieldViolation,
    GatewayError,
    InternalError,
    InvalidArgumentError,
    NotFoundError,
    OutOfRangeError,
    PermissionDeniedError,
    ResourceExhaustedError,
    UnauthenticatedError,
    UnavailableError,
    UnimplementedError,
    UnknownError,
)

__all__ = [
    "AbortedError",
    "AlreadyExistsError",
    "CancelledError",
    "CursorStore",
    "DataLossError",
    "DeadlineExceededError",
    "FailedPreconditionError",
    "FieldViolation",
    "FileCursorStore",
    "Gateway",
    "GatewayError",
    "InternalError",
    "InvalidArgumentError",
    "MemoryCursorStore",
    "NotFoundError",
    "OutOfRangeError",
    "PermissionDeniedError",
    "ResourceExhaustedError",
    "UnauthenticatedError",
    "UnavailableError",
    "UnimplementedError",
    "UnknownError",
    "connect",
    "v1",
]
