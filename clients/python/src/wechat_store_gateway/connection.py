"""Connections to a gateway."""

from __future__ import annotations

import os
from typing import Any, Callable, Iterator, Sequence

import grpc

from . import v1
from .calling import Calls, packaged_service_config
from .cursors import CursorStore
from .services import Services
from .watching import Watch, wait_for_review

OPTIONS: list[tuple[str, Any]] = [
    # Without keepalive, a connection to a vanished gateway looks like an idle one.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.max_reconnect_backoff_ms", 5_000),
    # The library keeps a request for its repeat up to this size. A picture has up to 10 MiB.
    ("grpc.per_rpc_retry_buffer_size", 12 * 1024 * 1024),
]


class Gateway(Services):
    """A connection to a gateway. `store`, `map_poi` and the others are its services.

    It can be used by many threads, and as a context manager.
    """

    def __init__(self, channel: grpc.Channel, service_config: str) -> None:
        self.channel = channel
        self.calls = Calls(channel, service_config)
        super().__init__(self.calls)

    def watch(
        self,
        cursors: CursorStore,
        *,
        app_id: str = "",
        kinds: Sequence[Any] = (),
        position: Any = v1.WATCH_POSITION_EARLIEST,
    ) -> Iterator[v1.AuditEvent]:
        """Yields review results without an end, from the cursor in the store, or from this position without one.

        The store gets an event and its cursor when the loop requests the next event. So an event is handled at
        least once. An interruption does not end the loop. If the cursor has expired, it lists what may be missing.
        Raises a `GatewayError` if the watch cannot continue. Closing the iterator cancels the watch.
        """
        return Watch(self.calls, self, cursors, app_id, kinds).events(position)

    def wait_for_review(self, submission: v1.Submission, *, timeout: float | None = None) -> v1.Submission:
        """Returns the submission when WeChat has decided its review, which can take days.

        Raises `DeadlineExceededError` if the timeout in seconds is over, and `NotFoundError` if the gateway has no
        such submission.
        """
        return wait_for_review(self.calls, self, submission, timeout)

    def close(self) -> None:
        """Closes the connection. Calls in progress fail with `CancelledError`."""
        self.channel.close()

    def __enter__(self) -> Gateway:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()


def connect(
    address: str,
    *,
    plaintext: bool = False,
    ca_file: str | os.PathLike[str] | None = None,
    certificate_file: str | os.PathLike[str] | None = None,
    key_file: str | os.PathLike[str] | None = None,
    token: str | Callable[[], str] | None = None,
    token_file: str | os.PathLike[str] | None = None,
    service_config: str | None = None,
) -> Gateway:
    """Returns a connection to the gateway at this address, such as `gateway.internal:50051`.

    It uses TLS, with the CAs of this machine or those in `ca_file`, unless `plaintext` is set. The proof of
    identity is a client certificate and its key, or a bearer token. A `token_file` is read for each call, so a
    replaced token needs no restart. `token` can be a function for the same purpose.

    Raises `ValueError` if the options contradict each other, and `OSError` if a file cannot be read.
    """
    if token and token_file:
        raise ValueError("token and token_file exclude each other: set one of them")
    if bool(certificate_file) != bool(key_file):
        raise ValueError("certificate_file and key_file belong together: set both")
    if plaintext and (ca_file or certificate_file or token or token_file):
        raise ValueError("plaintext sends no proof of identity: remove plaintext, or the files and the token")
    service_config = service_config or packaged_service_config()
    options = [*OPTIONS, ("grpc.service_config", service_config)]
    if plaintext:
        return Gateway(grpc.insecure_channel(address, options=options), service_config)
    credentials = grpc.ssl_channel_credentials(content(ca_file), content(key_file), content(certificate_file))
    if token or token_file:
        bearer = grpc.metadata_call_credentials(Bearer(token, token_file))
        credentials = grpc.composite_channel_credentials(credentials, bearer)
    return Gateway(grpc.secure_channel(address, credentials, options=options), service_config)


class Bearer(grpc.AuthMetadataPlugin):
    """Adds the token to each call."""

    def __init__(self, token: str | Callable[[], str] | None, file: str | os.PathLike[str] | None) -> None:
        self.token, self.file = token, file

    def __call__(self, context: Any, callback: Any) -> None:
        if self.file:
            token = (content(self.file) or b"").decode("ascii").strip()
        else:
            token = self.token() if callable(self.token) else str(self.token)
        callback([("authorization", f"Bearer {token}")], None)


def content(path: str | os.PathLike[str] | None) -> bytes | None:
    if not path:
        return None
    with open(path, "rb") as file:
        return file.read()
