"""Watches of review results, which continue after every interruption."""

from __future__ import annotations

import time
from typing import Any, Iterator, Sequence

import grpc

from . import v1
from .calling import Calls, Pauses, deadline_exceeded
from .cursors import CursorStore
from .errors import GatewayError
from .services import Services

WATCH = "/wechat.store.v1.AuditService/WatchAuditEvents"
DECIDED = [v1.AUDIT_STATE_APPROVED, v1.AUDIT_STATE_REJECTED, v1.AUDIT_STATE_DECLINED_BY_ADMIN]
# A repeat of the same watch has the same end.
FINAL = {
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.UNIMPLEMENTED,
}


class Watch:
    """A watch that stores its progress, and continues from there after an interruption."""

    def __init__(self, calls: Calls, services: Services, cursors: CursorStore, app_id: str, kinds: Sequence[Any]) -> None:
        self.calls, self.services, self.cursors = calls, services, cursors
        self.filter: dict[str, Any] = {"app_id": app_id, "kinds": list(kinds)}

    def events(self, position: Any) -> Iterator[v1.AuditEvent]:
        """Yields each event that the store does not contain. An event is stored when the next one is requested."""
        pauses, incomplete = Pauses(), False
        while True:
            fresh = True
            try:
                if incomplete:
                    yield from self.catch_up()
                    incomplete = False
                for response in self.calls.stream(WATCH, self.request(position), v1.WatchAuditEventsResponse):
                    fresh = False
                    pauses.reset()
                    yield from self.advance(response)
                    if response.event.HasField("gap"):
                        incomplete = True
                        break
            except GatewayError as error:
                incomplete = incomplete or expired(error)
                if final(error, fresh):
                    raise
                pause = error.retry_after or pauses.next()
            else:
                pause = pauses.next()
            time.sleep(pause)

    def request(self, position: Any) -> v1.WatchAuditEventsRequest:
        cursor = self.cursors.load()
        start: dict[str, Any] = {"cursor": cursor} if cursor else {"position": position}
        return v1.WatchAuditEventsRequest(**start, **self.filter)

    def advance(self, response: v1.WatchAuditEventsResponse) -> Iterator[v1.AuditEvent]:
        """Yields the event of a response, and stores the progress. Checkpoints count, too."""
        if not response.HasField("event"):
            self.cursors.save(response.cursor)
            return
        yield from self.once(response.event)
        # The cursor stays before a gap until its lost events are found.
        gap = response.event.HasField("gap")
        self.cursors.save("" if gap else response.cursor, key(response.event))

    def once(self, event: v1.AuditEvent) -> Iterator[v1.AuditEvent]:
        if not self.cursors.contains(key(event)):
            yield event

    def catch_up(self) -> Iterator[v1.AuditEvent]:
        """Yields every result that may be missing, after the cursor has expired or the log has a gap.

        Events can be lost, submissions are not. The submissions are read first. So an event that arrives meanwhile
        is still in front of the new cursor.
        """
        lost = {s.event_id: s for s in self.decided() if not self.cursors.contains(s.event_id)}
        request = v1.ListAuditEventsRequest(page_size=1000, **self.filter)
        while True:
            page = self.services.audit.list_audit_events(request)
            for event in page.events:
                yield from self.once(event)
                self.cursors.save("", key(event))
                if not event.HasField("gap"):
                    lost.pop(event.event_id, None)
            request.page_token = page.next_page_token
            if not request.page_token:
                break
        for submission in lost.values():
            yield result(submission)
            self.cursors.save("", submission.event_id)
        self.cursors.save(page.cursor)

    def decided(self) -> Iterator[v1.Submission]:
        request = v1.ListSubmissionsRequest(states=DECIDED, page_size=1000, **self.filter)
        while True:
            page = self.services.audit.list_submissions(request)
            yield from page.submissions
            request.page_token = page.next_page_token
            if not request.page_token:
                break


def wait_for_review(calls: Calls, services: Services, submission: v1.Submission, timeout: float | None) -> v1.Submission:
    """Returns the submission when its review is decided."""
    deadline, pauses = None if timeout is None else time.monotonic() + timeout, Pauses()
    request = v1.WatchAuditEventsRequest(app_id=submission.app_id, position=v1.WATCH_POSITION_LATEST)
    if submission.kind:
        request.kinds.append(submission.kind)
    get = v1.GetSubmissionRequest(app_id=submission.app_id, submission_id=submission.submission_id)
    while True:
        remaining = None if deadline is None else deadline - time.monotonic()
        if remaining is not None and remaining <= 0:
            raise deadline_exceeded("the review is not decided yet. Call again to wait longer")
        fresh = True
        try:
            # The first response has no event, so the state is read after the watch has begun.
            for response in calls.stream(WATCH, request, v1.WatchAuditEventsResponse, remaining):
                fresh = False
                pauses.reset()
                if response.event.submission_id in ("", submission.submission_id):
                    current = services.audit.get_submission(get).submission
                    if current.state in DECIDED:
                        return current
            pause = pauses.next()
        except GatewayError as error:
            if final(error, fresh) or error.code is grpc.StatusCode.NOT_FOUND:
                raise
            pause = error.retry_after or pauses.next()
        time.sleep(pause if deadline is None else max(min(pause, deadline - time.monotonic()), 0))


def expired(error: GatewayError) -> bool:
    return error.code is grpc.StatusCode.OUT_OF_RANGE and error.reason == "CURSOR_EXPIRED"


def final(error: GatewayError, fresh: bool) -> bool:
    """Returns true if the same watch cannot continue. A proof of identity that ended during a watch may have a successor."""
    return error.code in FINAL or (error.code is grpc.StatusCode.UNAUTHENTICATED and fresh)


def key(event: v1.AuditEvent) -> str:
    """Returns the id of an event in a store. A gap can have the id of the event that it replaces."""
    if event.HasField("gap"):
        return f"gap:{event.event_id}:{event.receive_time.seconds}.{event.receive_time.nanos}"
    return event.event_id


def result(submission: v1.Submission) -> v1.AuditEvent:
    """Returns what a submission shows of its lost event. `origin` and `wechat_event` are not set."""
    same = ["event_id", "app_id", "kind", "state", "audit_id", "reason", "submission_id", "client_reference"]
    same += ["request_id", "caller", "trace_id"]
    fields: dict[str, Any] = {name: getattr(submission, name) for name in same}
    return v1.AuditEvent(event_time=submission.decide_time, **fields)
