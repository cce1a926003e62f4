// Makes the calls that retries.py writes to standard input, with @grpc/grpc-js and a service config.
//
//     retries.js GATEWAY CONFIG
//
// A line of the input is a call, and a line of the output is its end, both as JSON.
const fs = require("fs");
const readline = require("readline");
const grpc = require("@grpc/grpc-js");
const loader = require("@grpc/proto-loader");

const [gateway, config] = process.argv.slice(2);
const files = ["account", "card", "merchant", "store"].map((name) => `wechat/store/v1/${name}.proto`);
const definitions = loader.loadSync(files, { includeDirs: ["proto"], keepCase: true, defaults: true });
const services = grpc.loadPackageDefinition(definitions).wechat.store.v1;
const options = config ? { "grpc.service_config": fs.readFileSync(config, "utf8") } : {};
const clients = {};

readline.createInterface({ input: process.stdin }).on("line", (line) => {
  const { id, rpc, request } = JSON.parse(line);
  const [service, method] = rpc.split("/");
  clients[service] ??= new services[service](gateway, grpc.credentials.createInsecure(), options);
  clients[service][method](request, (error, response) => {
    const [details] = error ? error.metadata.get("grpc-status-details-bin") : [];
    const code = error ? grpc.status[error.code] : "OK";
    const text = `${error?.details ?? ""} ${details?.toString("latin1") ?? ""}`;
    console.log(JSON.stringify({ id, code, text, recovered: response?.recovered ?? false }));
  });
});
