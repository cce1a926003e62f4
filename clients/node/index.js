// The client of wechat-store-gateway: typed calls, typed errors, safe repeats, and watches that miss nothing.
"use strict";

const { Gateway, connect } = require("./lib/connection");
const { FileCursorStore, MemoryCursorStore } = require("./lib/cursors");
const {
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
} = require("./lib/errors");

module.exports = {
  AbortedError,
  AlreadyExistsError,
  CancelledError,
  DataLossError,
  DeadlineExceededError,
  FailedPreconditionError,
  FileCursorStore,
  Gateway,
  GatewayError,
  InternalError,
  InvalidArgumentError,
  MemoryCursorStore,
  NotFoundError,
  OutOfRangeError,
  PermissionDeniedError,
  ResourceExhaustedError,
  UnauthenticatedError,
  UnavailableError,
  UnimplementedError,
  UnknownError,
  connect,
};
