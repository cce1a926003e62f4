#!/usr/bin/env python3
"""Follows the results of WeChat's reviews and misses none, even if the client or the gateway restarts.

    follow_audits.py GATEWAY FOLDER

GATEWAY is a host and port. FOLDER contains the progress of this client. Delete it to start anew. Each
result is printed as a line of JSON. Put your own code into `handle`. README.md explains how to run it, also
with TLS and a token.
"""

import json
import os
import random
import sys
import time

import grpc
from google.protobuf.json_format import MessageToDict
from wechat.store.v1 import audit_pb2 as pb
from wechat.store.v1 import types_pb2 as types
from wechat.store.v1.audit_pb2_grpc import AuditServiceStub

# With it, the library repeats failed calls, and the start of a stream. docs/calls.md describes it.
with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../proto/service_config.json"), encoding="utf-8") as file:
    SERVICE_CONFIG = file.read()
# Without keepalive, a connection to a vanished peer looks like an idle one.
OPTIONS = [
    ("grpc.service_config", SERVICE_CONFIG),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.max_reconnect_backoff_ms", 5_000),
]
LONGEST_PAUSE = 10.0
DECIDED = [
    types.AUDIT_STATE_APPROVED,
    types.AUDIT_STATE_REJECTED,
    types.AUDIT_STATE_DECLINED_BY_ADMIN,
]


def bearer(context, callback):
    """Adds the token. It is read for each call, so a replaced token needs no restart."""
    with open(os.environ["WECHAT_STORE_GATEWAY_TOKEN_FILE"], encoding="ascii") as file:
        callback([("authorization", "Bearer " + file.read().strip())], None)


def connect(gateway):
    """Opens a channel: without TLS, or with the CA, the client certificate and the token of the environment."""

    def content(name):
        path = os.environ.get(f"WECHAT_STORE_GATEWAY_{name}_FILE")
        if not path:
            return None
        with open(path, "rb") as file:
            return file.read()

    if not content("CA"):
        return grpc.insecure_channel(gateway, options=OPTIONS)
    identity = grpc.ssl_channel_credentials(content("CA"), content("KEY"), content("CERT"))
    if content("TOKEN"):
        identity = grpc.composite_channel_credentials(identity, grpc.metadata_call_credentials(bearer))
    return grpc.secure_channel(gateway, identity, options=OPTIONS)


class Progress:
    """The progress of this client: a cursor, and the ids of the handled events."""

    def __init__(self, folder):
        os.makedirs(folder, exist_ok=True)
        self.folder = folder
        self.cursor = self.read("cursor")
        # A real client should store the id as a unique column, beside its own data for the event.
        self.handled = set(self.read("handled").split())
        self.journal = open(os.path.join(folder, "handled"), "a", encoding="ascii")

    def read(self, name):
        try:
            with open(os.path.join(self.folder, name), encoding="ascii") as file:
                return file.read().strip()
        except FileNotFoundError:
            return ""

    def done(self, event_id):
        self.journal.write(event_id + "\n")
        self.journal.flush()
        os.fsync(self.journal.fileno())
        self.handled.add(event_id)

    def store(self, cursor):
        """Stores the cursor. After a power failure the file contains either the old cursor or the new one."""
        path = os.path.join(self.folder, "cursor")
        with open(path + ".new", "w", encoding="ascii") as file:
            file.write(cursor)
            file.flush()
            os.fsync(file.fileno())
        os.replace(path + ".new", path)
        folder = os.open(self.folder, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
        self.cursor = cursor


def handle(what):
    """Handles an event, or a submission with a missed event. Replace this with your own code.

    If the process dies right after it, the same event comes again. An event with `superseded_by` is
    history, so do not act on it.
    """
    print(json.dumps(MessageToDict(what), ensure_ascii=False), flush=True)


def once(progress, event_id, what):
    if event_id not in progress.handled:
        handle(what)
        progress.done(event_id)


def watch(audits, progress):
    """Handles events until the stream ends. A stream ends only with an error."""
    if progress.cursor:
        request = pb.WatchAuditEventsRequest(cursor=progress.cursor)
    else:
        request = pb.WatchAuditEventsRequest(position=pb.WATCH_POSITION_EARLIEST)
    for response in audits.WatchAuditEvents(request):
        if response.HasField("event"):
            once(progress, response.event.event_id, response.event)
        # The cursor must be stored after the event is handled, or an event could be lost. Checkpoints count, too.
        progress.store(response.cursor)
        yield


def catch_up(audits, progress):
    """Reads the result of every submission after the cursor has expired. Events may be lost, submissions are not."""
    request = pb.ListSubmissionsRequest(states=DECIDED, page_size=1000)
    while True:
        page = audits.ListSubmissions(request, timeout=30)
        for submission in page.submissions:
            once(progress, submission.event_id, submission)
        request.page_token = page.next_page_token
        if not request.page_token:
            break
    # The next watch starts at the oldest event. Handled events are skipped by their id.
    progress.store("")


def reason(error):
    """Returns the reason or the code of an error. The package grpcio-status can parse all details."""
    details = dict(error.trailing_metadata() or ()).get("grpc-status-details-bin", b"")
    return "CURSOR_EXPIRED" if b"CURSOR_EXPIRED" in details else error.code().name


def main(gateway, folder):
    progress = Progress(folder)
    pause = 0.0
    with connect(gateway) as channel:
        audits = AuditServiceStub(channel)
        expired = False
        while True:
            try:
                if expired:
                    catch_up(audits, progress)
                    expired = False
                for _ in watch(audits, progress):
                    pause = 0.0
            except grpc.RpcError as error:
                why = reason(error)
                expired = expired or why == "CURSOR_EXPIRED"
                if why in ("INVALID_ARGUMENT", "UNIMPLEMENTED"):
                    # The request is wrong, so a retry cannot succeed.
                    sys.exit(f"{why}: {error.details()}")
                print(f"{why}: {error.details()}", file=sys.stderr, flush=True)
            # The pause doubles each time. It is random, because all clients lost the same service at once.
            pause = min(max(2 * pause, 0.25), LONGEST_PAUSE)
            time.sleep(pause * random.uniform(0.5, 1.0))


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: follow_audits.py GATEWAY FOLDER")
    try:
        main(*sys.argv[1:])
    except KeyboardInterrupt:
        pass
