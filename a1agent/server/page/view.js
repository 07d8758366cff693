// Shows a call. Text of models and questions only ever becomes text nodes.

import { describe, doing } from "./call.js";
import { histogram, rateChart } from "./charts.js";
import { renderAnswer, renderText } from "./math.js";

const by = (id) => document.getElementById(id);

export class View {
  clear() {
    this.rows = new Map();
    this.open = null;
    by("chains-list").replaceChildren();
    for (const id of ["result", "votes-box", "chains-box", "stats-box", "error"]) by(id).hidden = true;
    by("status").textContent = "";
  }

  chain(chain) {
    by("chains-box").hidden = false;
    let row = this.rows.get(chain.index);
    if (!row) this.rows.set(chain.index, (row = this.addRow(chain)));
    row.state.textContent = doing(chain);
    chain.steps.forEach((step, i) => this.step(row, step, i));
    const last = chain.steps.at(-1);
    row.preview.textContent = last ? (last.written ?? last.drafted).replace(/\s+/g, " ").trim() : "";
    if (this.open?.row === row) this.detail(row, chain.steps[this.open.turn]);
  }

  addRow(chain) {
    const item = make("li", "chain");
    const head = item.appendChild(make("div", "chain-head"));
    head.append(make("h3", "", `Chain ${chain.index + 1}`));
    const steps = head.appendChild(make("ol", "steps"));
    steps.setAttribute("aria-label", `Steps of chain ${chain.index + 1}`);
    const state = head.appendChild(make("span", "state"));
    const preview = item.appendChild(make("p", "preview"));
    const detail = item.appendChild(make("div", "detail prose"));
    detail.hidden = true;
    detail.id = `detail-${chain.index}`;
    by("chains-list").append(item);
    return { item, steps, state, preview, detail, chain, buttons: [] };
  }

  step(row, step, i) {
    let button = row.buttons[i];
    if (!button) {
      button = row.buttons[i] = make("button");
      button.type = "button";
      button.setAttribute("aria-expanded", "false");
      button.setAttribute("aria-controls", row.detail.id);
      button.addEventListener("click", () => this.toggle(row, i));
      row.steps.appendChild(make("li")).append(button);
    }
    const text = describe(step);
    if (button.title === text) return;
    button.title = text;
    button.setAttribute("aria-label", text);
    button.className = `step ${step.author}${step.verdict ? " judged" : ""}`;
    button.style.setProperty("--p", step.verdict?.p_value ?? 0);
    button.style.setProperty("--level", Math.min(1, Math.max(0, step.verdict?.level ?? 0)));
  }

  toggle(row, turn) {
    const again = this.open?.row === row && this.open.turn === turn;
    if (this.open) {
      this.open.row.detail.hidden = true;
      this.open.row.buttons[this.open.turn].setAttribute("aria-expanded", "false");
    }
    this.open = again ? null : { row, turn };
    if (again) return;
    row.buttons[turn].setAttribute("aria-expanded", "true");
    this.detail(row, row.chain.steps[turn]);
  }

  detail(row, step) {
    row.detail.hidden = false;
    row.detail.replaceChildren(make("p", "hint", describe(step)));
    const drafts = step.tried.length > 1 ? step.tried : [step.drafted];
    drafts.forEach((text) => {
      const dropped = text !== step.drafted || step.takeover === "rewrite";
      part(row.detail, dropped ? "The draft wrote, and it was dropped" : "The draft wrote", text, dropped);
    });
    if (step.written !== null) part(row.detail, "The target wrote", step.written, false);
  }

  votes(state) {
    by("votes-box").hidden = state.votes.size === 0;
    const total = Math.max(1, state.chains.length);
    const sorted = [...state.votes].sort((a, b) => b[1] - a[1]);
    by("votes").replaceChildren(...sorted.slice(0, 8).map(([name, count]) => {
      const item = make("li");
      const label = item.appendChild(make("span", "name", name));
      label.title = name;
      item.appendChild(make("span")).appendChild(make("div", "bar")).style.setProperty("--share", count / total);
      item.append(make("span", "count", String(count)));
      return item;
    }));
  }

  charts(state, asked) {
    by("stats-box").hidden = state.rejections.length === 0;
    rateChart(by("rate-chart"), by("rate-summary"), state.rejections, asked);
    histogram(by("p-chart"), by("p-summary"), state.bins);
  }

  status(text) {
    if (by("status").textContent !== text) by("status").textContent = text;
  }

  error(text) {
    by("error").textContent = text;
    by("error").hidden = false;
  }

  result(record, state) {
    by("asked").textContent = record.question;
    by("result").hidden = record.outcome === null;
    if (record.outcome === null) return;
    const { answer, confidence, complete, winner, notices } = record.outcome;
    if (answer === null) by("answer").textContent = "No chain stated an answer.";
    else renderAnswer(by("answer"), answer);
    by("confidence").textContent = `${Math.round(confidence * 100)} % of the chains that were started say so`
      + (complete ? "" : "; a limit cut the call short");
    by("notices").replaceChildren(...notices.map((text) => make("li", "", text)));
    renderText(by("message"), record.text);
    if (winner !== null) this.rows.get(winner)?.item.classList.add("won");
    for (const chain of state.chains) if (chain && chain.index === winner) this.rows.get(winner).state.textContent += " (wins)";
  }

  stats(record) {
    by("stats").replaceChildren();
    if (record.stats === null) return;
    by("stats-box").hidden = false;
    for (const [name, value] of lines(record.stats)) {
      const pair = by("stats").appendChild(make("div"));
      pair.append(make("dt", "", name), make("dd", "", value));
    }
  }
}

function part(target, title, text, dropped) {
  target.append(make("h4", "", title));
  const body = target.appendChild(make("div", dropped ? "dropped" : ""));
  renderText(body, text);
}

function lines(s) {
  const number = (value, digits = 2) => (value === null ? "none" : value.toFixed(digits));
  return [
    ["Rate asked", number(s.asked_rate)],
    ["Rate observed", number(s.observed_rate)],
    ["Steps verified", String(s.verifications)],
    ["Steps taken over", String(s.rejections)],
    ["Selectivity (1: by score only)", number(s.selectivity)],
    ["Scores calibrated on", String(s.calibration_size)],
    ["Chains finished / cancelled / failed", `${s.chains_finished} / ${s.chains_cancelled} / ${s.chains_failed}`],
    ["Tokens drafted (kept)", `${s.drafted_tokens} (${s.kept_tokens})`],
    ["Tokens the target wrote", String(s.target_tokens)],
    ["Tokens the target was spared", String(s.kept_tokens)],
    ["Tokens the target read", String(s.scored_tokens)],
    ["Seconds drafting", number(s.draft_s)],
    ["Seconds verifying", number(s.verify_s)],
    ["Seconds taking over", number(s.takeover_s)],
    ["Seconds in all", number(s.wall_s)],
    ["Against the target alone (estimated)", saved(s)],
  ];
}

// What the target would have taken to write the text that stands, at the speed it wrote with here.
function saved(s) {
  if (!s.target_tokens_per_s) return "not measured: it wrote nothing";
  const alone = (s.kept_tokens + s.target_tokens) / s.target_tokens_per_s;
  const seconds = alone - (s.draft_s + s.verify_s + s.takeover_s);
  return seconds >= 0 ? `${seconds.toFixed(2)} s saved` : `${(-seconds).toFixed(2)} s more`;
}

export function make(name, className = "", text = "") {
  const element = document.createElement(name);
  if (className) element.className = className;
  if (text) element.textContent = text;
  return element;
}
