// Watches of review results, which continue after every interruption.
"use strict";

const { Pauses, wait } = require("./calling");
const { DeadlineExceededError, GatewayError } = require("./errors");

const DECIDED = ["AUDIT_STATE_APPROVED", "AUDIT_STATE_REJECTED", "AUDIT_STATE_DECLINED_BY_ADMIN"];
// A repeat of the same watch has the same end.
const FINAL = ["CANCELLED", "FAILED_PRECONDITION", "INVALID_ARGUMENT", "PERMISSION_DENIED", "UNIMPLEMENTED"];

// A watch that stores its progress, and continues from there after an interruption.
class Watch {
  constructor(calls, services, definition, cursors, { appId = "", kinds = [], position = "WATCH_POSITION_EARLIEST", signal } = {}) {
    Object.assign(this, { calls, services, definition, cursors, position });
    this.filter = { appId, kinds };
    this.stop = calls.linked(signal);
  }

  // Yields each event that the store does not contain. An event is stored when the next one is requested.
  async *events() {
    const pauses = new Pauses();
    let incomplete = false;
    try {
      for (;;) {
        let fresh = true;
        let pause;
        try {
          if (incomplete) yield* this.catchUp();
          incomplete = false;
          for await (const response of this.calls.stream(this.definition, await this.request(), this.stop.signal)) {
            fresh = false;
            pauses.reset();
            yield* this.advance(response);
            if (response.event?.gap) {
              incomplete = true;
              break;
            }
          }
        } catch (error) {
          if (isFinal(error, fresh)) throw error;
          incomplete ||= expired(error);
          pause = error.retryAfterMs;
        }
        await wait(pause ?? pauses.next(), this.stop.signal);
      }
    } finally {
      this.stop.release();
    }
  }

  async request() {
    const cursor = await this.cursors.load();
    return { ...this.filter, ...(cursor ? { cursor } : { position: this.position }) };
  }

  // Yields the event of a response, and stores the progress. Checkpoints count, too.
  async *advance({ cursor, event }) {
    if (!event) {
      await this.cursors.save(cursor);
      return;
    }
    if (!(await this.cursors.contains(key(event)))) yield event;
    // The cursor stays before a gap until its lost events are found.
    await this.cursors.save(event.gap ? "" : cursor, key(event));
  }

  // Yields every result that may be missing, after the cursor has expired or the log has a gap.
  //
  // Events can be lost, submissions are not. The submissions are read first. So an event that arrives meanwhile is
  // still in front of the new cursor.
  async *catchUp() {
    const { audit } = this.services;
    const options = { signal: this.stop.signal };
    const lost = new Map();
    for (let pageToken = ""; ; ) {
      const page = await audit.listSubmissions({ ...this.filter, states: DECIDED, pageSize: 1000, pageToken }, options);
      for (const submission of page.submissions) {
        if (!(await this.cursors.contains(submission.eventId))) lost.set(submission.eventId, submission);
      }
      pageToken = page.nextPageToken;
      if (!pageToken) break;
    }
    let page;
    for (let pageToken = ""; ; ) {
      page = await audit.listAuditEvents({ ...this.filter, pageSize: 1000, pageToken }, options);
      for (const event of page.events) {
        if (!(await this.cursors.contains(key(event)))) yield event;
        await this.cursors.save("", key(event));
        if (!event.gap) lost.delete(event.eventId);
      }
      pageToken = page.nextPageToken;
      if (!pageToken) break;
    }
    for (const submission of lost.values()) {
      yield result(this.definition, submission);
      await this.cursors.save("", submission.eventId);
    }
    await this.cursors.save(page.cursor);
  }
}

// Returns the submission when its review is decided.
async function waitForReview(calls, services, definition, submission, { timeoutMs, signal } = {}) {
  const deadline = timeoutMs === undefined ? undefined : Date.now() + timeoutMs;
  const pauses = new Pauses();
  const kinds = submission.kind === "SUBMISSION_KIND_UNSPECIFIED" || !submission.kind ? [] : [submission.kind];
  const request = { appId: submission.appId, kinds, position: "WATCH_POSITION_LATEST" };
  const get = { appId: submission.appId, submissionId: submission.submissionId };
  return calls.stoppable(signal, async (stop) => {
    for (;;) {
      let fresh = true;
      let pause;
      if (deadline !== undefined && Date.now() >= deadline) {
        const message = "the review is not decided yet. Call again to wait longer";
        throw new DeadlineExceededError("DEADLINE_EXCEEDED", message);
      }
      try {
        // The first response has no event, so the state is read after the watch has begun.
        for await (const { event } of calls.stream(definition, request, stop, deadline)) {
          fresh = false;
          pauses.reset();
          if (event && event.submissionId && event.submissionId !== get.submissionId) continue;
          const { submission: current } = await services.audit.getSubmission(get, { signal: stop });
          if (DECIDED.includes(current.state)) return current;
        }
      } catch (error) {
        if (isFinal(error, fresh) || error.code === "NOT_FOUND") throw error;
        pause = error.retryAfterMs;
      }
      pause ??= pauses.next();
      await wait(deadline === undefined ? pause : Math.max(Math.min(pause, deadline - Date.now()), 0), stop);
    }
  });
}

function expired({ code, reason }) {
  return code === "OUT_OF_RANGE" && reason === "CURSOR_EXPIRED";
}

// Returns true if the same watch cannot continue. A proof of identity that ended during a watch may have a successor.
function isFinal(error, fresh) {
  if (!(error instanceof GatewayError)) return true;
  return FINAL.includes(error.code) || (error.code === "UNAUTHENTICATED" && fresh);
}

// Returns the id of an event in a store. A gap can have the id of the event that it replaces.
function key({ eventId, gap, receiveTime }) {
  return gap ? `gap:${eventId}:${receiveTime?.seconds ?? 0}.${receiveTime?.nanos ?? 0}` : eventId;
}

// Returns what a submission shows of its lost event. `origin` and `wechatEvent` are not set.
function result(definition, submission) {
  const { eventId, appId, kind, state, auditId, reason, submissionId, clientReference } = submission;
  const { requestId, caller, traceId, decideTime } = submission;
  const same = { eventId, appId, kind, state, auditId, reason, submissionId, clientReference, requestId, caller, traceId };
  // The other fields get the values that they have in every event.
  const bytes = definition.responseSerialize({ event: { ...same, eventTime: decideTime } });
  return definition.responseDeserialize(bytes).event;
}

module.exports = { Watch, waitForReview };
