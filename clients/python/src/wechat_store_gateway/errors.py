"""Errors of calls, with all details that the gateway sends."""

from __future__ import annotations

from dataclasses import dataclass

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2


@dataclass(frozen=True)
class FieldViolation:
    """A wrong field of a request: its name, and a description of a valid value."""

    field: str
    description: str


class GatewayError(Exception):
    """A failed call. There is a subclass for each code of gRPC."""

    code: grpc.StatusCode
    """The code of gRPC."""
    reason: str
    """The name of an `ErrorReason`, such as `STORE_NOT_FOUND`. Empty if the gateway did not send the error."""
    message: str
    """The message in English, for people."""
    localized_message: str
    """The message in Chinese. Empty if there is none."""
    fix_by: str
    """The role that can fix the cause: `caller`, `operator`, `merchant`, `developer` or `wait`."""
    metadata: dict[str, str]
    """The other facts, such as `errcode`, `errmsg` and `rid` of WeChat."""
    field_violations: list[FieldViolation]
    """The wrong fields of an invalid request."""
    retry_after: float | None
    """The seconds to wait before a repeat. None if the gateway names no time."""
    trace_id: str
    """The id of the call in the gateway's log."""
    request_id: str
    """The `request_id` of the failed write. A repeat of the write must have the same one."""

    def __init__(self, code: grpc.StatusCode, message: str, request_id: str = "", details: bytes = b"") -> None:
        self.code, self.message, self.request_id = code, message, request_id
        self.reason = self.localized_message = self.fix_by = self.trace_id = ""
        self.metadata: dict[str, str] = {}
        self.field_violations: list[FieldViolation] = []
        self.retry_after: float | None = None
        self._parse(details)
        reason = f" ({self.reason})" if self.reason else ""
        super().__init__(f"{code.name}{reason}: {message}")

    def _parse(self, details: bytes) -> None:
        try:
            parts = status_pb2.Status.FromString(details).details
        except DecodeError:
            return
        for part in parts:
            info, bad_request = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
            retry, request, text = error_details_pb2.RetryInfo(), error_details_pb2.RequestInfo(), error_details_pb2.LocalizedMessage()
            if part.Unpack(info):
                self.reason, self.metadata = info.reason, dict(info.metadata)
                self.fix_by = self.metadata.get("fix_by", "")
            elif part.Unpack(bad_request):
                self.field_violations = [FieldViolation(v.field, v.description) for v in bad_request.field_violations]
            elif part.Unpack(retry):
                self.retry_after = retry.retry_delay.seconds + retry.retry_delay.nanos / 1e9
            elif part.Unpack(request):
                self.trace_id = request.request_id
            elif part.Unpack(text):
                self.localized_message = text.message


class CancelledError(GatewayError):
    """The caller cancelled the call, or closed the gateway."""


class UnknownError(GatewayError):
    """The outcome is unknown, or WeChat returned a code that no document names."""


class InvalidArgumentError(GatewayError):
    """The request can never succeed. `field_violations` names the wrong fields."""


class DeadlineExceededError(GatewayError):
    """The time of the call is over. A write that was sent continues."""


class NotFoundError(GatewayError):
    """There is no such object."""


class AlreadyExistsError(GatewayError):
    """The object exists already."""


class PermissionDeniedError(GatewayError):
    """The role of the caller is too low."""


class ResourceExhaustedError(GatewayError):
    """A quota or a limit is spent."""


class FailedPreconditionError(GatewayError):
    """Something outside the request must be fixed first. `fix_by` names the role."""


class AbortedError(GatewayError):
    """The call failed this time."""


class OutOfRangeError(GatewayError):
    """The request is too large, or its cursor has expired."""


class UnimplementedError(GatewayError):
    """The gateway does not have the method."""


class InternalError(GatewayError):
    """A fault of the gateway, or an unreadable reply of WeChat."""


class UnavailableError(GatewayError):
    """The call failed, and a repeat is safe and can help."""


class DataLossError(GatewayError):
    """Data is lost. The gateway never sends it."""


class UnauthenticatedError(GatewayError):
    """The gateway does not accept the proof of identity."""


BY_CODE = {
    grpc.StatusCode.CANCELLED: CancelledError,
    grpc.StatusCode.UNKNOWN: UnknownError,
    grpc.StatusCode.INVALID_ARGUMENT: InvalidArgumentError,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceededError,
    grpc.StatusCode.NOT_FOUND: NotFoundError,
    grpc.StatusCode.ALREADY_EXISTS: AlreadyExistsError,
    grpc.StatusCode.PERMISSION_DENIED: PermissionDeniedError,
    grpc.StatusCode.RESOURCE_EXHAUSTED: ResourceExhaustedError,
    grpc.StatusCode.FAILED_PRECONDITION: FailedPreconditionError,
    grpc.StatusCode.ABORTED: AbortedError,
    grpc.StatusCode.OUT_OF_RANGE: OutOfRangeError,
    grpc.StatusCode.UNIMPLEMENTED: UnimplementedError,
    grpc.StatusCode.INTERNAL: InternalError,
    grpc.StatusCode.UNAVAILABLE: UnavailableError,
    grpc.StatusCode.DATA_LOSS: DataLossError,
    grpc.StatusCode.UNAUTHENTICATED: UnauthenticatedError,
}


def gateway_error(error: grpc.RpcError, request_id: str = "") -> GatewayError:
    """Returns the typed error of an error of grpcio."""
    details = dict(error.trailing_metadata() or ()).get("grpc-status-details-bin", b"")
    code = error.code()
    return BY_CODE.get(code, GatewayError)(code, error.details() or "", request_id, details)
