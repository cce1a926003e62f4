// Generates what git does not have, from proto/. `npm pack` runs it.
"use strict";

const { execFileSync } = require("node:child_process");
const fs = require("node:fs");
const path = require("node:path");

const root = path.join(__dirname, "..", "..");
const contract = path.join(root, "proto");
const at = (...parts) => path.join(__dirname, ...parts);

function main() {
  for (const name of ["proto", "types"]) fs.rmSync(at(name), { recursive: true, force: true });
  for (const name of ["LICENSE-MIT", "LICENSE-APACHE"]) fs.copyFileSync(path.join(root, name), at(name));
  fs.copyFileSync(path.join(contract, "service_config.json"), at("service_config.json"));
  for (const folder of ["wechat", "google"]) {
    fs.cpSync(path.join(contract, folder), at("proto", folder), { recursive: true });
  }
  const folder = path.join("wechat", "store", "v1");
  const files = fs.readdirSync(path.join(contract, folder)).map((name) => path.join(folder, name));
  types(files);
}

// The generator of @grpc/proto-loader writes TypeScript. Users need only its declarations.
function types(files) {
  const bin = at("node_modules", ".bin");
  const sources = at("types", "src");
  const options = ["--longs=String", "--enums=String", "--defaults", "--oneofs", "--includeComments"];
  const output = ["--grpcLib=@grpc/grpc-js", `--outDir=${sources}`, `--includeDirs=${at("proto")}`, "--"];
  execFileSync(path.join(bin, "proto-loader-gen-types"), [...options, ...output, ...files], { stdio: ["ignore", "ignore", "inherit"] });
  const messages = path.join(sources, "wechat", "store", "v1");
  const lines = ["// The messages, enums and services of `wechat.store.v1`, generated from the contract."];
  for (const name of fs.readdirSync(messages).map((file) => path.basename(file, ".ts"))) {
    lines.push(`export type * from "./wechat/store/v1/${name}";`);
  }
  fs.writeFileSync(path.join(sources, "v1.ts"), `${lines.join("\n")}\n`);
  const compile = ["--declaration", "--emitDeclarationOnly", "--skipLibCheck", "--module", "node16"];
  execFileSync(path.join(bin, "tsc"), [...compile, "--rootDir", sources, "--outDir", at("types"), path.join(sources, "v1.ts")], { stdio: "inherit" });
  fs.rmSync(sources, { recursive: true });
}

main();
