// Connections to a gateway.
"use strict";

const fs = require("node:fs");
const path = require("node:path");
const grpc = require("@grpc/grpc-js");
const loader = require("@grpc/proto-loader");
const { Calls } = require("./calling");
const { Watch, waitForReview } = require("./watching");

const HOME = path.join(__dirname, "..");
const FILES = fs.readdirSync(path.join(HOME, "proto/wechat/store/v1")).map((name) => `wechat/store/v1/${name}`);
const CONTRACT = loader.loadSync(FILES, {
  includeDirs: [path.join(HOME, "proto")],
  longs: String,
  enums: String,
  defaults: true,
  oneofs: true,
});
const SERVICE = /^wechat\.store\.v1\.(\w+)Service$/;
const OPTIONS = {
  // Without keepalive, a connection to a vanished gateway looks like an idle one.
  "grpc.keepalive_time_ms": 30_000,
  "grpc.keepalive_timeout_ms": 10_000,
  "grpc.max_reconnect_backoff_ms": 5_000,
  // The library keeps a request for its repeat up to this size. A picture has up to 10 MiB.
  "grpc.per_rpc_retry_buffer_size": 12 * 1024 * 1024,
};

class Gateway {
  #calls;
  #watch = CONTRACT["wechat.store.v1.AuditService"].WatchAuditEvents;

  constructor(client, serviceConfig) {
    const calls = new Calls(client, serviceConfig);
    this.#calls = calls;
    for (const [name, service] of Object.entries(CONTRACT)) {
      const [, family] = SERVICE.exec(name) ?? [];
      if (family) this[lower(family)] = methods(calls, service);
    }
  }

  watch(cursors, options) {
    return new Watch(this.#calls, this, this.#watch, cursors, options).events();
  }

  waitForReview(submission, options) {
    return waitForReview(this.#calls, this, this.#watch, submission, options);
  }

  close() {
    this.#calls.close();
  }
}

// Returns an object with a function for each call. Streams belong to `watch`.
function methods(calls, service) {
  const found = Object.entries(service).filter(([, { responseStream }]) => !responseStream);
  return Object.fromEntries(
    found.map(([name, definition]) => [lower(name), (request, options) => calls.call(definition, request, options)]),
  );
}

function lower(name) {
  return name[0].toLowerCase() + name.slice(1);
}

function connect(address, options = {}) {
  const { plaintext, caFile, certificateFile, keyFile, token, tokenFile } = options;
  if (token && tokenFile) throw new TypeError("token and tokenFile exclude each other: set one of them");
  if (!certificateFile !== !keyFile) throw new TypeError("certificateFile and keyFile belong together: set both");
  if (plaintext && (caFile || certificateFile || token || tokenFile)) {
    throw new TypeError("plaintext sends no proof of identity: remove plaintext, or the files and the token");
  }
  const serviceConfig = options.serviceConfig ?? fs.readFileSync(path.join(HOME, "service_config.json"), "utf8");
  const content = (file) => (file ? fs.readFileSync(file) : null);
  let credentials = grpc.credentials.createInsecure();
  if (!plaintext) {
    credentials = grpc.credentials.createSsl(content(caFile), content(keyFile), content(certificateFile));
    if (token || tokenFile) credentials = grpc.credentials.combineChannelCredentials(credentials, bearer(token, tokenFile));
  }
  const client = new grpc.Client(address, credentials, { ...OPTIONS, "grpc.service_config": serviceConfig });
  return new Gateway(client, serviceConfig);
}

// Adds the token to each call.
function bearer(token, file) {
  const read = async () => {
    if (file) return (await fs.promises.readFile(file, "ascii")).trim();
    return typeof token === "function" ? token() : token;
  };
  return grpc.credentials.createFromMetadataGenerator((_, done) => {
    read().then(
      (text) => {
        const metadata = new grpc.Metadata();
        metadata.set("authorization", `Bearer ${text}`);
        done(null, metadata);
      },
      (error) => done(error),
    );
  });
}

module.exports = { Gateway, connect };
