// A call as it is kept: plain JSON, of which nothing is believed before it was checked, whether it comes from the
// server, from a file or from what the browser stored.

export const FORMAT = "a1-call-1";

export class Malformed extends Error {}

const text = (value) => typeof value === "string";
const flag = (value) => typeof value === "boolean";
const number = (value) => Number.isFinite(value);
const count = (value) => Number.isInteger(value) && value >= 0;
const share = (value) => number(value) && value >= 0 && value <= 1;
const moment = (value) => text(value) && !Number.isNaN(Date.parse(value));
const maybe = (check) => (value) => value === null || check(value);
const oneOf = (...values) => (value) => values.includes(value);
const listOf = (check) => (value) => Array.isArray(value) && value.every(check);

const RECORD = {
  format: oneOf(FORMAT), at: moment, question: text, text, end: oneOf("answered", "stopped", "failed"),
  options: { chains: count, turns: count, rejection_rate: share, coverage: oneOf("marginal", "conditional") },
  events: Array.isArray,
};
const OUTCOME = { answer: maybe(text), confidence: share, complete: flag, winner: maybe(count), notices: listOf(text) };
const STATS = {
  asked_rate: number, observed_rate: maybe(number), verifications: count, rejections: count, selectivity: maybe(number),
  calibration_size: count, chains_started: count, chains_finished: count, chains_cancelled: count, chains_failed: count,
  drafted_tokens: count, kept_tokens: count, target_tokens: count, scored_tokens: count, draft_s: number, verify_s: number,
  takeover_s: number, wall_s: number, target_tokens_per_s: maybe(number),
};
const VERDICT = { score: maybe(number), p_value: maybe(number), level: number, rejected: flag, forced: flag };
const STEP = { chain: count, turn: count, step: { text } };
const EVENTS = new Map(Object.entries({
  ChainStarted: { chain: count },
  StepDrafted: STEP,
  StepVerified: { chain: count, turn: count, verdict: VERDICT },
  StepAccepted: STEP,
  StepTakenOver: { ...STEP, kept: text },
  ChainFinished: { chain: count, result: { answer: maybe(text), end: text, error: maybe(text) } },
}));

// What the shape names, and nothing else. Throws Malformed for the first thing that is not as it should be.
function pick(value, shape, where) {
  if (typeof value !== "object" || value === null) throw new Malformed(`${where} is ${shown(value)}`);
  const picked = {};
  for (const [name, check] of Object.entries(shape)) {
    const part = value[name];
    if (typeof check === "object") picked[name] = pick(part, check, `${where}.${name}`);
    else if (check(part)) picked[name] = part;
    else throw new Malformed(`${where}.${name} is ${shown(part)}`);
  }
  return picked;
}

function shown(value) {
  const json = JSON.stringify(value) ?? "missing";
  return json.length > 40 ? `${json.slice(0, 39)}…` : json;
}

export function newRecord(question, options) {
  return { format: FORMAT, at: new Date().toISOString(), question, options, events: [], text: "", outcome: null,
    stats: null, usage: null, end: null, error: null };
}

// The event with what a page shows of it; null for kinds that are not shown. Throws Malformed.
export function eventOf(value, where = "an event") {
  const shape = EVENTS.get(value?.event);
  return shape ? { event: value.event, ...pick(value, shape, where) } : null;
}

export const outcomeOf = (value) => pick(value, OUTCOME, "its outcome");

// All statistics, when those that are shown are as they should be. Throws Malformed.
export const statsOf = (value) => ({ ...value, ...pick(value, STATS, "its statistics") });

// The call in a parsed file. Throws Malformed.
export function recordOf(value) {
  if (value?.format !== FORMAT) throw new Malformed("it is no call that this page saved");
  const record = pick(value, RECORD, "its call");
  record.events = record.events.map((event, i) => eventOf(event, `its event ${i + 1}`)).filter((event) => event !== null);
  checkOrder(record.events);
  record.outcome = value.outcome === null ? null : outcomeOf(value.outcome);
  record.stats = value.stats === null ? null : statsOf(value.stats);
  record.usage = value.usage ?? null;
  record.error = text(value.error) ? value.error : null;
  return record;
}

// Chains begin and steps are drafted one after the other; nothing happens to a step that nobody drafted.
function checkOrder(events) {
  const drafted = [];
  events.forEach(({ event, chain, turn }, i) => {
    if (chain === drafted.length) drafted.push(0);
    if (turn === drafted[chain] && event === "StepDrafted") drafted[chain] += 1;
    if (chain < drafted.length && (turn === undefined || turn < drafted[chain])) return;
    throw new Malformed(`its event ${i + 1} is about step ${(turn ?? 0) + 1} of chain ${chain + 1}, which was not drafted`);
  });
}
