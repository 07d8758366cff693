// The page: a form, the call that runs, and the calls of this session.

import { Refused, config, key, setKey, stream } from "./api.js";
import { State, isRecord, newRecord, stateOf, take } from "./call.js";
import { View, make } from "./view.js";

const STORE = "a1.history";
const MOST_KEPT = 20;
const by = (id) => document.getElementById(id);
const view = new View();
let server = null;
let running = null;
let shown = null;
let history = load();

async function start() {
  view.clear();
  listHistory();
  try {
    server = await config();
  } catch (error) {
    view.error(`The server does not answer: ${error.message}`);
    return;
  }
  by("models").textContent = `${server.draft} and ${server.target}`;
  slider("chains", server.options.chains, server.caps.chains);
  slider("turns", server.options.turns, server.caps.turns);
  slider("rate", server.options.rejection_rate);
  by("coverage").value = server.options.coverage;
  by("key-row").hidden = !server.needs_key;
  by("key").value = key();
  if (history.length) show(history.at(-1));
}

function slider(id, value, most) {
  const input = by(id);
  if (most !== undefined) input.max = most;
  input.value = value;
  const tell = () => { by(`${id}-value`).textContent = input.value; };
  input.addEventListener("input", tell);
  tell();
}

function chosen() {
  return {
    chains: Number(by("chains").value),
    turns: Number(by("turns").value),
    rejection_rate: Number(by("rate").value),
    coverage: by("coverage").value,
  };
}

async function ask() {
  const question = by("question").value.trim();
  if (!question || running || !server) return;
  setKey(by("key").value.trim());
  const record = newRecord(question, chosen());
  const state = new State();
  running = new AbortController();
  by("send").disabled = true;
  by("stop").disabled = false;
  view.clear();
  shown = record;
  view.status("Waiting for the first step");
  try {
    await follow(record, state);
    record.end = "answered";
  } catch (error) {
    record.end = error.name === "AbortError" ? "stopped" : "failed";
    if (record.end === "failed") view.error(error instanceof Refused ? error.message : `The connection failed: ${error.message}`);
  } finally {
    running = null;
    by("send").disabled = false;
    by("stop").disabled = true;
  }
  finish(record, state);
  if (record.events.length) keep(record);
}

async function follow(record, state) {
  const body = {
    model: server.model,
    messages: [{ role: "user", content: `${record.question}\n\n${server.instruction}` }],
    stream: true,
    stream_options: { include_usage: true },
    a1: { ...record.options, events: true },
  };
  const changed = new Set();
  let frame = 0;
  const draw = () => {
    frame = 0;
    for (const chain of changed) view.chain(chain);
    changed.clear();
    live(record, state);
  };
  for await (const chunk of stream(body, running.signal)) {
    const event = take(record, chunk);
    const chain = event && state.add(event);
    if (chain) changed.add(chain);
    if (!frame) frame = requestAnimationFrame(draw);
  }
  cancelAnimationFrame(frame);
  draw();
}

function live(record, state) {
  view.votes(state);
  view.charts(state, record.options.rejection_rate);
  const leader = [...state.votes].sort((a, b) => b[1] - a[1])[0];
  view.status(`${state.finished} of ${state.chains.length} chains finished${leader ? `; ${leader[0]} leads` : ""}`);
}

function finish(record, state) {
  for (const chain of state.chains) if (chain) view.chain(chain);
  live(record, state);
  view.result(record, state);
  view.stats(record);
  if (record.end === "stopped") view.status("Stopped.");
  if (record.end === "failed") view.status("No answer.");
  if (record.end === "answered") view.status(`The answer is ${record.outcome?.answer ?? "missing"}.`);
  by("download").disabled = record.events.length === 0;
}

function show(record) {
  if (running) return;
  shown = record;
  view.clear();
  finish(record, stateOf(record));
  listHistory();
}

function keep(record) {
  history = [...history, record].slice(-MOST_KEPT);
  // The browser bounds what a session stores: the oldest calls go first.
  for (let kept = history; ; kept = kept.slice(1)) {
    try {
      sessionStorage.setItem(STORE, JSON.stringify(kept));
      break;
    } catch {
      if (!kept.length) break;
    }
  }
  listHistory();
}

function load() {
  try {
    return JSON.parse(sessionStorage.getItem(STORE) ?? "[]").filter(isRecord);
  } catch {
    return [];
  }
}

function listHistory() {
  by("forget").disabled = history.length === 0;
  by("history").replaceChildren(...history.map((record) => {
    const item = make("li");
    const button = item.appendChild(make("button", "", `${record.question} → ${record.outcome?.answer ?? record.end}`));
    button.type = "button";
    button.setAttribute("aria-current", String(record === shown));
    button.addEventListener("click", () => show(record));
    return item;
  }).reverse());
}

function download() {
  const address = URL.createObjectURL(new Blob([JSON.stringify(shown, null, 1)], { type: "application/json" }));
  const link = make("a");
  link.href = address;
  link.download = `a1-call-${shown.at.replace(/[:.]/g, "-")}.json`;
  link.click();
  URL.revokeObjectURL(address);
}

async function openFile(file) {
  try {
    const record = JSON.parse(await file.text());
    if (!isRecord(record)) throw new Error("it is no call that this page saved");
    stateOf(record);
    keep(record);
    show(record);
  } catch (error) {
    view.error(`${file.name} cannot be opened: ${error.message}`);
  }
}

by("ask").addEventListener("submit", (event) => { event.preventDefault(); ask(); });
by("stop").addEventListener("click", () => running?.abort());
by("download").addEventListener("click", download);
by("open").addEventListener("change", (event) => {
  const [file] = event.target.files;
  event.target.value = "";
  if (file) openFile(file);
});
by("forget").addEventListener("click", () => {
  history = [];
  sessionStorage.removeItem(STORE);
  listHistory();
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) ask();
  if (event.key === "Escape") running?.abort();
});

start();
