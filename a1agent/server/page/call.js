// What is known of a call: a record that can be kept as JSON, and the state that its events fold into.

export const FORMAT = "a1-call-1";

export function newRecord(question, options) {
  return { format: FORMAT, at: new Date().toISOString(), question, options, events: [], text: "", outcome: null,
    stats: null, usage: null, end: null };
}

export function isRecord(value) {
  return value?.format === FORMAT && typeof value.question === "string" && Array.isArray(value.events)
    && value.events.every((event) => typeof event?.event === "string") && typeof value.options === "object";
}

// Takes one chunk of the stream into the record; returns the event in it, if any.
export function take(record, chunk) {
  const choice = chunk.choices[0];
  if (choice?.delta.content) record.text += choice.delta.content;
  if (choice?.a1) record.outcome = choice.a1;
  if (chunk.usage) record.usage = chunk.usage;
  if (chunk.a1?.asked_rate !== undefined) record.stats = chunk.a1;
  if (!chunk.a1?.event) return null;
  record.events.push(chunk.a1);
  return chunk.a1;
}

export class State {
  constructor() {
    this.chains = [];
    this.votes = new Map();
    this.rejections = [];
    this.bins = new Array(10).fill(0);
    this.finished = 0;
  }

  // Folds an event in; returns the chain it is about, if any.
  add(event) {
    const chain = event.chain === undefined ? null : this.chain(event.chain);
    this[event.event]?.(chain, event);
    return chain;
  }

  chain(index) {
    return (this.chains[index] ??= { index, steps: [], answer: null, end: null, error: null });
  }

  StepDrafted(chain, event) {
    const tried = chain.steps[event.turn]?.tried ?? [];
    chain.steps[event.turn] = { turn: event.turn, author: "pending", drafted: event.step.text, written: null, verdict: null,
      tried: [...tried, event.step.text], takeover: null };
  }

  // A step drafted ahead of its turn, which the verdict on the one before has made void.
  StepDropped(chain, event) {
    const step = chain.steps[event.turn];
    if (step) step.dropped = true;
  }

  StepVerified(chain, event) {
    chain.steps[event.turn].verdict = event.verdict;
    this.rejections.push(event.verdict.rejected);
    const p = event.verdict.p_value;
    if (p !== null) this.bins[Math.min(9, Math.floor(p * 10))] += 1;
  }

  StepAccepted(chain, event) {
    Object.assign(chain.steps[event.turn], { author: "draft", drafted: event.step.text });
  }

  StepTakenOver(chain, event) {
    Object.assign(chain.steps[event.turn], { author: "target", written: event.step.text, takeover: event.takeover });
  }

  ChainFinished(chain, event) {
    Object.assign(chain, { answer: event.result.answer, end: event.result.end, error: event.result.error });
    if (event.result.end === "cancelled" || event.result.end === "failed") return;
    this.finished += 1;
    const name = event.result.answer ?? "no answer";
    this.votes.set(name, (this.votes.get(name) ?? 0) + 1);
  }
}

export function stateOf(record) {
  const state = new State();
  for (const event of record.events) state.add(event);
  return state;
}

const ENDS = {
  answered: "answers", ended: "answers", turns: "out of turns", tokens: "out of tokens", timeout: "out of time",
  cancelled: "cancelled: the vote was settled", failed: "failed",
};

export function doing(chain) {
  if (chain.end === "failed") return `failed: ${chain.error ?? "no reason given"}`;
  if (chain.end === "cancelled") return ENDS.cancelled;
  if (chain.end) return chain.answer === null ? `${ENDS[chain.end] ?? chain.end}, no answer` : `answers ${chain.answer}`;
  const last = chain.steps.at(-1);
  if (!last || last.author !== "pending") return "drafts";
  if (!last.verdict) return "is verified";
  return last.verdict.rejected ? "target takes over" : "drafts";
}

export function describe(step) {
  const verdict = step.verdict;
  const waiting = step.dropped ? "drafted ahead, dropped" : "waits for its verdict";
  const unsettled = verdict ? "judged, not settled" : waiting;
  const author = { draft: "drafted and accepted", target: "taken over by the target", pending: unsettled }[step.author];
  if (!verdict) return `Step ${step.turn + 1}: ${author}`;
  const p = verdict.p_value === null ? "p-value none" : `p-value ${verdict.p_value.toFixed(2)}`;
  return `Step ${step.turn + 1}: ${author}, ${p}, level ${verdict.level.toFixed(2)}${verdict.forced ? ", forced to keep the rate" : ""}`;
}
