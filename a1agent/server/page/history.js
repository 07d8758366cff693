// The calls of this session, oldest first. Each is stored under a key of its own, so that keeping one writes one.

import { recordOf } from "./record.js";
import * as storage from "./storage.js";

const PREFIX = "a1.call.";
const MOST = 20;

const place = (name) => Number(name.slice(PREFIX.length));

export class History {
  // Reads what an earlier page of this tab stored; `dropped` counts what could not be read, and is gone.
  constructor() {
    this.kept = [];
    this.dropped = 0;
    this.next = 0;
    const stored = storage.names().filter((name) => name.startsWith(PREFIX)).sort((a, b) => place(a) - place(b));
    for (const name of stored) this.load(name);
  }

  load(name) {
    this.next = Math.max(this.next, (place(name) || 0) + 1);
    try {
      this.kept.push({ name, record: recordOf(JSON.parse(storage.read(name))) });
    } catch {
      storage.remove(name);
      this.dropped += 1;
    }
  }

  get records() {
    return this.kept.map(({ record }) => record);
  }

  // Keeps a call; false when it is too large to be stored, and then lasts until the page is left.
  keep(record) {
    const name = `${PREFIX}${this.next++}`;
    const stored = this.store(name, JSON.stringify(record));
    this.kept.push({ name, record });
    for (const { name: oldest } of this.kept.splice(0, this.kept.length - MOST)) storage.remove(oldest);
    return stored;
  }

  // Where the browser has no more room, the oldest calls leave its store; they come back when that was of no use.
  store(name, json) {
    const left = [];
    for (const older of [null, ...this.kept]) {
      if (older) {
        left.push([older.name, storage.read(older.name)]);
        storage.remove(older.name);
      }
      if (storage.write(name, json)) return true;
    }
    for (const [older, text] of left) if (text !== null) storage.write(older, text);
    return false;
  }

  forget() {
    for (const { name } of this.kept) storage.remove(name);
    this.kept = [];
  }
}
