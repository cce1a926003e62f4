// Calls of one method: a `requestId` for each write, and repeats until the outcome is definite.
"use strict";

const { randomUUID } = require("node:crypto");
const { setTimeout: sleep } = require("node:timers/promises");
const { CancelledError, gatewayError } = require("./errors");

const LONGEST_PAUSE_MS = 5000;
const OWN_TIME_MS = 30_000;

// Growing pauses between attempts. They are random, because all clients lost the same gateway at once.
class Pauses {
  #last = 0;

  next() {
    this.#last = Math.min(Math.max(2 * this.#last, 200), LONGEST_PAUSE_MS);
    return this.#last * (0.5 + Math.random() / 2);
  }

  reset() {
    this.#last = 0;
  }
}

// Makes calls on a connection as the service config of the gateway allows.
class Calls {
  constructor(client, serviceConfig) {
    this.client = client;
    this.stops = new Set();
    this.closed = false;
    this.methods = new Map();
    for (const config of JSON.parse(serviceConfig).methodConfig) {
      for (const { service, method } of config.name) this.methods.set(`/${service}/${method}`, config);
    }
  }

  // Returns the response, or throws a GatewayError.
  //
  // The library repeats the call by the service config, for the time that is in it. After that, this repeats a call
  // whose outcome is not definite, with the same `requestId`, until the timeout is over. Without a timeout it is twice
  // that time, because a write of a killed gateway is blocked for a little longer than its deadline.
  async call(definition, request, { timeoutMs, signal } = {}) {
    const config = this.methods.get(definition.path) ?? {};
    const attemptMs = config.timeout ? parseFloat(config.timeout) * 1000 : OWN_TIME_MS;
    const deadline = Date.now() + (timeoutMs ?? 2 * attemptMs);
    const pauses = new Pauses();
    const named = withRequestId(definition, request);
    return this.stoppable(signal, async (stop) => {
      for (;;) {
        let failure;
        try {
          return await this.attempt(definition, named, Math.min(deadline, Date.now() + attemptMs), stop);
        } catch (error) {
          failure = gatewayError(error, named.requestId);
        }
        const pause = config.retryPolicy ? pauseBeforeRepeat(failure, pauses) : undefined;
        if (pause === undefined || Date.now() + pause >= deadline) throw failure;
        await wait(pause, stop);
      }
    });
  }

  attempt({ path, requestSerialize, responseDeserialize }, request, deadline, stop) {
    if (stop.aborted) throw cancelled();
    return new Promise((resolve, reject) => {
      const answer = (error, response) => (error ? reject(error) : resolve(response));
      const call = this.client.makeUnaryRequest(path, requestSerialize, responseDeserialize, request, { deadline }, answer);
      const cancel = () => call.cancel();
      stop.addEventListener("abort", cancel);
      call.on("status", () => stop.removeEventListener("abort", cancel));
    });
  }

  // Yields the responses of a stream until it fails with a GatewayError. Closing it cancels the stream.
  async *stream({ path, requestSerialize, responseDeserialize }, request, stop, deadline = undefined) {
    if (stop.aborted) throw cancelled();
    const options = deadline === undefined ? {} : { deadline };
    const stream = this.client.makeServerStreamRequest(path, requestSerialize, responseDeserialize, request, options);
    const cancel = () => stream.cancel();
    stop.addEventListener("abort", cancel);
    try {
      yield* stream;
    } catch (error) {
      throw gatewayError(error);
    } finally {
      stop.removeEventListener("abort", cancel);
      // The cancelled stream reports this as an error, which belongs to no call any more.
      stream.on("error", () => {});
      stream.cancel();
    }
  }

  // Runs work with a signal that is set when the caller's is, or when the gateway is closed.
  async stoppable(signal, work) {
    const stop = this.linked(signal);
    try {
      return await work(stop.signal);
    } finally {
      stop.release();
    }
  }

  linked(signal) {
    const controller = new AbortController();
    const abort = () => controller.abort();
    if (this.closed || signal?.aborted) abort();
    this.stops.add(abort);
    signal?.addEventListener("abort", abort);
    const release = () => {
      this.stops.delete(abort);
      signal?.removeEventListener("abort", abort);
    };
    return { signal: controller.signal, release };
  }

  close() {
    this.closed = true;
    for (const stop of [...this.stops]) stop();
    this.client.close();
  }
}

// Returns the request with a `requestId`, if it is a write without one. The caller's object stays unchanged.
function withRequestId(definition, request) {
  const fields = definition.requestType.type.field;
  if (request.requestId || !fields.some(({ name }) => name === "requestId" || name === "request_id")) return request;
  return { ...request, requestId: randomUUID() };
}

// Returns the pause before the call is made again. Undefined: the outcome is definite.
function pauseBeforeRepeat(error, pauses) {
  // The gateway names a time if it can find out more. A write without one needs a person.
  if (error.reason === "OUTCOME_UNKNOWN" || error.reason === "WRITE_IN_PROGRESS") return error.retryAfterMs;
  // The write may continue, and the repeat returns its response.
  if (error.code === "DEADLINE_EXCEEDED" && error.requestId) return pauses.next();
  // The gateway cannot be reached. Its own UNAVAILABLE has a reason, and the library repeated it already.
  if (error.code === "UNAVAILABLE" && !error.reason) return pauses.next();
  return undefined;
}

// Waits, or throws a CancelledError when the signal is set.
async function wait(ms, stop) {
  try {
    await sleep(ms, undefined, { signal: stop });
  } catch {
    throw cancelled();
  }
}

function cancelled() {
  return new CancelledError("CANCELLED", "the caller cancelled the call, or closed the gateway");
}

module.exports = { Calls, Pauses, wait };
