"""Calls of one method: a `request_id` for each write, and repeats until the outcome is definite."""

from __future__ import annotations

import json
import random
import time
import uuid
from importlib import resources
from typing import Any, Iterator, TypeVar

import grpc

from .errors import BY_CODE, GatewayError, gateway_error

LONGEST_PAUSE = 5.0
Response = TypeVar("Response")


class Pauses:
    """Growing pauses between attempts. They are random, because all clients lost the same gateway at once."""

    def __init__(self) -> None:
        self.last = 0.0

    def next(self) -> float:
        """Returns the seconds of the next pause."""
        self.last = min(max(2 * self.last, 0.2), LONGEST_PAUSE)
        return self.last * random.uniform(0.5, 1.0)

    def reset(self) -> None:
        """Begins with a short pause again."""
        self.last = 0.0


class Calls:
    """Makes calls on a channel as the service config of the gateway allows."""

    def __init__(self, channel: grpc.Channel, service_config: str) -> None:
        self.channel = channel
        self.methods: dict[str, dict[str, Any]] = {}
        for config in json.loads(service_config)["methodConfig"]:
            for name in config["name"]:
                self.methods[f"/{name['service']}/{name['method']}"] = config

    def call(self, path: str, request: Any, response: type[Response], timeout: float | None) -> Response:
        """Returns the response, or raises a `GatewayError`.

        The library repeats the call by the service config, for the time that is in it. After that, this repeats a
        call whose outcome is not definite, with the same `request_id`, until the timeout is over. Without a timeout
        it is twice that time, because a write of a killed gateway is blocked for a little longer than its deadline.
        """
        config = self.methods.get(path, {})
        attempt = float(config.get("timeout", "30s").removesuffix("s"))
        deadline, pauses = time.monotonic() + (timeout or 2 * attempt), Pauses()
        request = named(request)
        request_id = getattr(request, "request_id", "")
        rpc: Any = self.channel.unary_unary(path, type(request).SerializeToString, parser(response))
        while True:
            try:
                answer: Response = rpc(request, timeout=min(attempt, max(deadline - time.monotonic(), 0.001)))
                return answer
            except grpc.RpcError as error:
                failure = gateway_error(error, request_id)
            pause = pause_before_repeat(failure, pauses) if "retryPolicy" in config else None
            if pause is None or time.monotonic() + pause >= deadline:
                raise failure
            time.sleep(pause)

    def stream(
        self, path: str, request: Any, response: type[Response], timeout: float | None = None
    ) -> Iterator[Response]:
        """Yields the responses of a stream until it fails with a `GatewayError`. Closing it cancels the stream."""
        rpc: Any = self.channel.unary_stream(path, type(request).SerializeToString, parser(response))
        stream = rpc(request, timeout=timeout)
        try:
            yield from stream
        except grpc.RpcError as error:
            raise gateway_error(error) from None
        finally:
            stream.cancel()


class Service:
    """The base of the generated services."""

    def __init__(self, calls: Calls) -> None:
        self.calls = calls


def parser(response: Any) -> Any:
    return response.FromString


def named(request: Any) -> Any:
    """Returns the request with a `request_id`, if it is a write without one. The caller's message stays unchanged."""
    if "request_id" not in request.DESCRIPTOR.fields_by_name or request.request_id:
        return request
    copy = type(request)()
    copy.CopyFrom(request)
    copy.request_id = str(uuid.uuid4())
    return copy


def pause_before_repeat(error: GatewayError, pauses: Pauses) -> float | None:
    """Returns the pause before the call is made again. None: the outcome is definite."""
    if error.reason in ("OUTCOME_UNKNOWN", "WRITE_IN_PROGRESS"):
        # The gateway names a time if it can find out more. A write without one needs a person.
        return error.retry_after
    # The write may continue, and the repeat returns its response.
    if error.code is grpc.StatusCode.DEADLINE_EXCEEDED and error.request_id:
        return pauses.next()
    # The gateway cannot be reached. Its own UNAVAILABLE has a reason, and the library repeated it already.
    if error.code is grpc.StatusCode.UNAVAILABLE and not error.reason:
        return pauses.next()
    return None


def deadline_exceeded(message: str) -> GatewayError:
    """Returns the error of a call whose time is over here."""
    return BY_CODE[grpc.StatusCode.DEADLINE_EXCEEDED](grpc.StatusCode.DEADLINE_EXCEEDED, message)


def packaged_service_config() -> str:
    """Returns the service config of the contract that this package was generated from."""
    return resources.files(__package__).joinpath("service_config.json").read_text(encoding="utf-8")
