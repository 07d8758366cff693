// The page: a form, the call that runs, and the calls of this session.

import { Refused, config, key, setKey, stream } from "./api.js";
import { State, stateOf, take } from "./call.js";
import { button, by, make, short } from "./dom.js";
import { History } from "./history.js";
import { Malformed, newRecord, recordOf } from "./record.js";
import { View } from "./view.js";

const MOST_BYTES = 64 * 2 ** 20;
const view = new View();
const history = new History();
let server = null;
let running = null;
let shown = null;

async function start() {
  show(history.records.at(-1) ?? null);
  if (history.dropped) view.status(`Calls kept before that could not be read, and are gone: ${history.dropped}.`);
  try {
    server = await config();
  } catch (error) {
    view.error(`The server does not answer: ${error.message}`);
    return;
  }
  if (server.draft) by("models").textContent = `${server.draft} and ${server.target}`;
  slider("chains", server.options.chains, server.caps.chains);
  slider("turns", server.options.turns, server.caps.turns);
  slider("rate", server.options.rejection_rate);
  by("coverage").value = server.options.coverage;
  by("key-row").hidden = !server.needs_key;
  by("key").value = key();
  by("send").disabled = false;
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
  const record = newRecord(question, chosen());
  const state = new State();
  run(new AbortController());
  view.clear();
  view.status("Waiting for the first step");
  view.lookAtResults();
  try {
    await follow(record, state);
    record.end = "answered";
  } catch (error) {
    record.end = error.name === "AbortError" ? "stopped" : "failed";
    if (record.end === "failed") record.error = error instanceof Refused ? error.message : `The connection failed: ${error.message}`;
  }
  run(null);
  const stored = !record.events.length || history.keep(record);
  if (record.events.length) shown = record;
  finish(record, state);
  if (!stored) view.error("This call is too large for the browser to keep over a reload: download it to keep it.");
}

// While a call runs it can be stopped, and no other can be asked or opened.
function run(call) {
  running = call;
  const busy = call !== null;
  if (busy) shown = null;
  if (!busy && document.activeElement === by("stop")) by("question").focus({ preventScroll: true });
  by("stop").hidden = !busy;
  by("send").disabled = by("open").disabled = busy;
  listHistory();
}

// Draws once a frame, however many chunks came since the last.
async function follow(record, state) {
  const { question, options } = record;
  const body = {
    model: server.model,
    messages: [{ role: "user", content: `${question}\n\n${server.instruction}` }],
    stream: true,
    stream_options: { include_usage: true },
    a1: { ...options, events: true },
  };
  const bearer = by("key").value.trim();
  setKey(bearer);
  let frame = 0;
  const draw = () => {
    frame = 0;
    view.draw(state, options.rejection_rate);
  };
  try {
    for await (const chunk of stream(body, bearer, running.signal)) {
      const event = take(record, chunk);
      if (!event) continue;
      state.add(event);
      if (!frame) frame = requestAnimationFrame(draw);
    }
  } finally {
    cancelAnimationFrame(frame);
  }
}

function finish(record, state) {
  if (record.events.length) view.draw(state, record.options.rejection_rate);
  view.end(record, state);
  const answer = record.outcome?.answer ?? null;
  const answered = answer === null ? "No chain stated an answer." : `The answer is ${short(answer, 120)}.`;
  view.status({ answered, stopped: "Stopped.", failed: "No answer." }[record.end]);
  listHistory();
}

function show(record) {
  view.clear();
  shown = record;
  if (record) finish(record, stateOf(record));
  else listHistory();
}

function listHistory() {
  by("forget").disabled = history.records.length === 0;
  by("download").disabled = shown === null;
  by("history").replaceChildren(...history.records.map((record) => {
    const item = make("li");
    const again = item.appendChild(button("", "", () => show(record)));
    again.append(make("span", "", record.question), make("span", "end", ` → ${record.outcome?.answer ?? record.end}`));
    again.disabled = running !== null;
    again.title = new Date(record.at).toLocaleString();
    again.setAttribute("aria-current", String(record === shown));
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

// A file is checked whole before anything of it is kept or shown.
async function openFile(file) {
  try {
    const record = recordOf(await parsed(file));
    if (running) throw new Malformed("a call is running; open it when that has ended");
    const stored = history.keep(record);
    show(record);
    if (!stored) view.error(`${file.name} is too large for the browser to keep over a reload.`);
  } catch (error) {
    view.error(`${file.name} cannot be opened: ${error.message}`);
    if (!(error instanceof Malformed)) throw error;
  }
}

async function parsed(file) {
  if (file.size > MOST_BYTES) throw new Malformed(`it is larger than ${MOST_BYTES / 2 ** 20} MiB`);
  const text = await file.text();
  try {
    return JSON.parse(text);
  } catch (error) {
    throw new Malformed(`it is no JSON (${error.message})`);
  }
}

by("ask").addEventListener("submit", (event) => { event.preventDefault(); ask(); });
by("stop").addEventListener("click", () => running?.abort());
by("download").addEventListener("click", download);
by("open").addEventListener("change", (event) => {
  const [file] = event.target.files;
  if (file) openFile(file);
  event.target.value = "";
});
by("forget").addEventListener("click", () => {
  history.forget();
  show(null);
});
for (const example of document.querySelectorAll(".example")) {
  example.addEventListener("click", () => {
    by("question").value = example.textContent;
    by("question").focus();
  });
}
document.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) ask();
  if (event.key === "Escape") running?.abort();
});

start();
