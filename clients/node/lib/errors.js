// Errors of calls, with all details that the gateway sends.
"use strict";

const { status } = require("@grpc/grpc-js");
const loader = require("@grpc/proto-loader");

// Only the fields of google/rpc/status.proto and google/rpc/error_details.proto that the gateway sends.
const TEXT = { type: "string" };
const DETAILS = loader.fromJSON(
  {
    nested: {
      google: {
        nested: {
          rpc: {
            nested: {
              Detail: { fields: { typeUrl: { ...TEXT, id: 1 }, value: { type: "bytes", id: 2 } } },
              Status: { fields: { details: { rule: "repeated", type: "Detail", id: 3 } } },
              ErrorInfo: {
                fields: { reason: { ...TEXT, id: 1 }, metadata: { keyType: "string", type: "string", id: 3 } },
              },
              FieldViolation: { fields: { field: { ...TEXT, id: 1 }, description: { ...TEXT, id: 2 } } },
              BadRequest: { fields: { fieldViolations: { rule: "repeated", type: "FieldViolation", id: 1 } } },
              Duration: { fields: { seconds: { type: "int64", id: 1 }, nanos: { type: "int32", id: 2 } } },
              RetryInfo: { fields: { retryDelay: { type: "Duration", id: 1 } } },
              RequestInfo: { fields: { requestId: { ...TEXT, id: 1 } } },
              LocalizedMessage: { fields: { message: { ...TEXT, id: 2 } } },
            },
          },
        },
      },
    },
  },
  { defaults: true, longs: Number },
);

// Returns a message of google.rpc.
function parsed(name, bytes) {
  return DETAILS[`google.rpc.${name}`].deserialize(bytes);
}

class GatewayError extends Error {
  constructor(code, message, requestId = "", details = undefined) {
    super(message);
    this.name = this.constructor.name;
    this.code = code;
    this.requestId = requestId;
    this.reason = this.fixBy = this.localizedMessage = this.traceId = "";
    this.metadata = {};
    this.fieldViolations = [];
    this.retryAfterMs = undefined;
    for (const { typeUrl, value } of details ? parsed("Status", details).details : []) this.#add(typeUrl, value);
  }

  #add(typeUrl, value) {
    switch (typeUrl) {
      case "type.googleapis.com/google.rpc.ErrorInfo": {
        const { reason, metadata } = parsed("ErrorInfo", value);
        Object.assign(this, { reason, metadata: { ...metadata }, fixBy: metadata.fix_by ?? "" });
        break;
      }
      case "type.googleapis.com/google.rpc.BadRequest":
        this.fieldViolations = parsed("BadRequest", value).fieldViolations;
        break;
      case "type.googleapis.com/google.rpc.RetryInfo": {
        const { seconds, nanos } = parsed("RetryInfo", value).retryDelay ?? { seconds: 0, nanos: 0 };
        this.retryAfterMs = seconds * 1000 + nanos / 1e6;
        break;
      }
      case "type.googleapis.com/google.rpc.RequestInfo":
        this.traceId = parsed("RequestInfo", value).requestId;
        break;
      case "type.googleapis.com/google.rpc.LocalizedMessage":
        this.localizedMessage = parsed("LocalizedMessage", value).message;
        break;
    }
  }
}

class CancelledError extends GatewayError {}
class UnknownError extends GatewayError {}
class InvalidArgumentError extends GatewayError {}
class DeadlineExceededError extends GatewayError {}
class NotFoundError extends GatewayError {}
class AlreadyExistsError extends GatewayError {}
class PermissionDeniedError extends GatewayError {}
class ResourceExhaustedError extends GatewayError {}
class FailedPreconditionError extends GatewayError {}
class AbortedError extends GatewayError {}
class OutOfRangeError extends GatewayError {}
class UnimplementedError extends GatewayError {}
class InternalError extends GatewayError {}
class UnavailableError extends GatewayError {}
class DataLossError extends GatewayError {}
class UnauthenticatedError extends GatewayError {}

const BY_CODE = {
  CANCELLED: CancelledError,
  UNKNOWN: UnknownError,
  INVALID_ARGUMENT: InvalidArgumentError,
  DEADLINE_EXCEEDED: DeadlineExceededError,
  NOT_FOUND: NotFoundError,
  ALREADY_EXISTS: AlreadyExistsError,
  PERMISSION_DENIED: PermissionDeniedError,
  RESOURCE_EXHAUSTED: ResourceExhaustedError,
  FAILED_PRECONDITION: FailedPreconditionError,
  ABORTED: AbortedError,
  OUT_OF_RANGE: OutOfRangeError,
  UNIMPLEMENTED: UnimplementedError,
  INTERNAL: InternalError,
  UNAVAILABLE: UnavailableError,
  DATA_LOSS: DataLossError,
  UNAUTHENTICATED: UnauthenticatedError,
};

// Returns the typed error of an error of grpc-js. Other errors stay as they are.
function gatewayError(error, requestId = "") {
  const code = status[error.code];
  if (error instanceof GatewayError || !error.metadata || !BY_CODE[code]) return error;
  return new BY_CODE[code](code, error.details, requestId, error.metadata.get("grpc-status-details-bin")[0]);
}

module.exports = {
  AbortedError,
  AlreadyExistsError,
  CancelledError,
  DataLossError,
  DeadlineExceededError,
  FailedPreconditionError,
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
  gatewayError,
};
