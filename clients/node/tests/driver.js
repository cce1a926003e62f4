// Makes the calls that tests/clients/packages.py writes to standard input, with the installed package.
//
//     driver.js ADDRESS OPTIONS
//
// OPTIONS is a JSON object with the options of `connect`, as Python spells them. A line of the input is a command, and a
// line of the output belongs to the command with the same `id`. Both are JSON. Messages are in base64.
"use strict";

const path = require("node:path");
const readline = require("node:readline");
const loader = require("@grpc/proto-loader");
const { FileCursorStore, GatewayError, connect } = require("wechat-store-gateway");

// Only to turn messages into bytes and back. The package makes the calls.
const home = path.dirname(require.resolve("wechat-store-gateway"));
const names = ["access", "account", "audit", "card", "error", "map_poi", "media", "merchant", "nearby", "store", "token", "types", "write"];
const contract = loader.loadSync(
  names.map((name) => `wechat/store/v1/${name}.proto`),
  { includeDirs: [path.join(home, "proto")], longs: String, enums: String, defaults: true, oneofs: true },
);
const message = (name) => contract[`wechat.store.v1.${name}`];
const lower = (name) => name[0].toLowerCase() + name.slice(1);
const camel = (name) => name.replace(/_(\w)/g, (_, letter) => letter.toUpperCase());
const snake = (name) => name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);

const [address, given] = process.argv.slice(2);
const options = Object.fromEntries(Object.entries(JSON.parse(given)).map(([name, value]) => [camel(name), value]));
const gateway = connect(address, options);

const answer = ({ id }, fields) => console.log(JSON.stringify({ id, ...fields }));
const limit = ({ timeout }) => (timeout === undefined ? {} : { timeoutMs: timeout * 1000 });
const parsed = (name, text) => message(name).deserialize(Buffer.from(text, "base64"));
const packed = (name, value) => message(name).serialize(value).toString("base64");

const commands = {
  async call(command) {
    const [service, method] = command.rpc.split("/");
    const request = parsed(`${method}Request`, command.request);
    const response = await gateway[lower(service.replace(/Service$/, ""))][lower(method)](request, limit(command));
    answer(command, { response: packed(`${method}Response`, response) });
  },
  async watch(command) {
    for await (const event of gateway.watch(new FileCursorStore(command.file))) {
      answer(command, { event: packed("AuditEvent", event) });
    }
  },
  async wait(command) {
    const submission = await gateway.waitForReview(parsed("Submission", command.submission), limit(command));
    answer(command, { response: packed("Submission", submission) });
  },
};

async function run(command) {
  try {
    await commands[command.do](command);
  } catch (error) {
    if (!(error instanceof GatewayError)) {
      answer(command, { error: { type: error.name, message: `${error.stack}` } });
      return;
    }
    const { retryAfterMs, fieldViolations, message, ...others } = error;
    const fields = Object.fromEntries(Object.entries(others).map(([name, value]) => [snake(name), value]));
    const found = { message, retry_after: retryAfterMs === undefined ? null : retryAfterMs / 1000 };
    const wrong = fieldViolations.map(({ field, description }) => [field, description]);
    delete fields.name;
    answer(command, { error: { type: error.name, ...fields, ...found, field_violations: wrong } });
  }
}

const input = readline.createInterface({ input: process.stdin });
input.on("line", (line) => run(JSON.parse(line)));
input.on("close", () => {
  gateway.close();
  // Watches still run.
  process.exit(0);
});
