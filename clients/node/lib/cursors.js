// Stores for the progress of a watch: its cursor, and the events that the caller has handled.
"use strict";

const fs = require("node:fs/promises");
const path = require("node:path");

// Checkpoints grow the file of a silent watch, so that many of them are written anew as one line.
const MOST_CHECKPOINTS = 1000;

class MemoryCursorStore {
  #cursor = "";
  #events = new Set();

  load() {
    return this.#cursor;
  }

  contains(eventId) {
    return this.#events.has(eventId);
  }

  save(cursor, eventId = "") {
    if (cursor) this.#cursor = cursor;
    if (eventId) this.#events.add(eventId);
  }

  lines() {
    return [...[...this.#events].sort().map((id) => `\t${id}\n`), `${this.#cursor}\t\n`].join("");
  }
}

// Each line has a cursor, a tab, and an event id. Either can be empty. The packages in other languages use the same
// form. A line is on the disk before `save` returns. A line without its end was not, and is ignored.
class FileCursorStore {
  #path;
  #memory = new MemoryCursorStore();
  #checkpoints = 0;
  #file;

  constructor(file) {
    this.#path = file;
  }

  async load() {
    if (!this.#file) await this.#open();
    return this.#memory.load();
  }

  contains(eventId) {
    return this.#memory.contains(eventId);
  }

  async save(cursor, eventId = "") {
    this.#memory.save(cursor, eventId);
    if (!eventId) this.#checkpoints += 1;
    if (this.#checkpoints > MOST_CHECKPOINTS) return this.#rewrite();
    await this.#file.write(`${cursor}\t${eventId}\n`);
    await this.#file.sync();
  }

  async close() {
    await this.#file?.close();
    this.#file = undefined;
  }

  async #open() {
    await fs.mkdir(path.dirname(this.#path), { recursive: true });
    const text = await fs.readFile(this.#path, "ascii").catch((error) => {
      if (error.code === "ENOENT") return "";
      throw error;
    });
    for (const line of text.split("\n").slice(0, -1)) this.#memory.save(...line.split("\t"));
    await this.#rewrite();
  }

  // Writes a new file and renames it over the old one, so that a crash leaves either of them whole.
  async #rewrite() {
    await this.close();
    this.#checkpoints = 0;
    const file = await fs.open(`${this.#path}.new`, "w");
    await file.write(this.#memory.lines());
    await file.sync();
    await file.close();
    await fs.rename(`${this.#path}.new`, this.#path);
    // Windows cannot open a folder.
    const folder = await fs.open(path.dirname(this.#path), "r").catch(() => undefined);
    await folder?.sync();
    await folder?.close();
    this.#file = await fs.open(this.#path, "a");
  }
}

module.exports = { FileCursorStore, MemoryCursorStore };
