// What is known of a call while it runs: the state that its events fold into.

import { eventOf, outcomeOf, statsOf } from "./record.js";

// Takes one chunk of the stream into the record; returns the event in it, if it has one that is shown.
export function take(record, chunk) {
  const choice = chunk.choices[0];
  if (choice?.delta.content) record.text += choice.delta.content;
  if (choice?.a1) record.outcome = outcomeOf(choice.a1);
  if (chunk.usage) record.usage = chunk.usage;
  if (chunk.a1?.asked_rate !== undefined) record.stats = statsOf(chunk.a1);
  const event = chunk.a1 ? eventOf(chunk.a1) : null;
  if (event) record.events.push(event);
  return event;
}

// `touched` has the chains, and that of each chain the turns, that changed since they were last drawn.
export class State {
  constructor() {
    this.chains = [];
    this.touched = new Set();
    this.votes = new Map();
    this.taken = []; // how many of the first 1, 2, ... verified steps were taken over
    this.bins = new Array(10).fill(0);
    this.finished = 0;
  }

  get started() {
    return this.chains.length;
  }

  add(event) {
    const chain = (this.chains[event.chain] ??= { index: event.chain, steps: [], touched: new Set(), answer: null,
      end: null, error: null });
    this.touched.add(chain);
    FOLDS[event.event](chain, event, this);
    const turn = event.turn ?? chain.steps.length - 1;
    if (turn >= 0) chain.touched.add(turn);
  }
}

const FOLDS = {
  ChainStarted() {},

  StepDrafted(chain, { turn, step: { text } }) {
    const tried = chain.steps[turn]?.tried ?? [];
    chain.steps[turn] = { turn, author: "pending", drafted: text, written: null, verdict: null, tried: [...tried, text],
      kept: text };
  },

  StepVerified(chain, { turn, verdict }, state) {
    chain.steps[turn].verdict = verdict;
    state.taken.push((state.taken.at(-1) ?? 0) + (verdict.rejected ? 1 : 0));
    if (verdict.p_value !== null) state.bins[Math.min(9, Math.max(0, Math.floor(verdict.p_value * 10)))] += 1;
  },

  StepAccepted(chain, { turn, step: { text } }) {
    Object.assign(chain.steps[turn], { author: "draft", drafted: text, kept: text });
  },

  StepTakenOver(chain, { turn, step: { text }, kept }) {
    Object.assign(chain.steps[turn], { author: "target", written: text, kept });
  },

  ChainFinished(chain, { result: { answer, end, error } }, state) {
    Object.assign(chain, { answer, end, error });
    if (end === "cancelled" || end === "failed") return;
    state.finished += 1;
    state.votes.set(answer, (state.votes.get(answer) ?? 0) + 1);
  },
};

export function stateOf(record) {
  const state = new State();
  for (const event of record.events) state.add(event);
  return state;
}

// The answers that lead, with the chains that state each; null stands for chains without one.
export const leaders = (state) => [...state.votes].sort((a, b) => (a[0] === null) - (b[0] === null) || b[1] - a[1]);

const ENDS = { turns: "out of turns", tokens: "out of tokens", timeout: "out of time" };

// What a chain is at, in words; an answer that it states stands apart, since it may be mathematics.
export function doing(chain) {
  if (chain.end === "failed") return { words: `failed: ${chain.error ?? "no reason given"}`, answer: null };
  if (chain.end === "cancelled") return { words: "cancelled: the vote was settled", answer: null };
  if (chain.end && chain.answer !== null) return { words: "answers", answer: chain.answer };
  if (chain.end) return { words: [ENDS[chain.end], "no answer"].filter(Boolean).join(", "), answer: null };
  return { words: busy(chain.steps.at(-1)), answer: null };
}

function busy(step) {
  if (!step || step.author !== "pending") return "drafts";
  if (!step.verdict) return "is verified";
  return step.verdict.rejected ? "target takes over" : "drafts";
}

const AUTHORS = { draft: "drafted and accepted", target: "taken over by the target" };

export function describe(step, chain) {
  const { verdict, author } = step;
  const unsettled = chain.end ? "not settled when the chain ended" : verdict ? "judged, not settled" : "waits for its verdict";
  const words = [`Step ${step.turn + 1}: ${AUTHORS[author] ?? unsettled}`];
  if (!verdict && author === "draft") words.push("not verified");
  if (verdict) words.push(verdict.p_value === null ? "no p-value" : `p-value ${verdict.p_value.toFixed(2)}`,
    `level ${verdict.level.toFixed(2)}`);
  if (verdict?.forced) words.push("forced to keep the rate");
  return words.join(", ");
}
