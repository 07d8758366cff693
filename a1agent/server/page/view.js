// Shows a call: its chains and votes while they grow, its answer and statistics at the end.

import { leaders } from "./call.js";
import { Chains } from "./chains.js";
import { Histogram, RateChart } from "./charts.js";
import { by, make, say, short } from "./dom.js";
import { renderAnswer, renderText } from "./math.js";
import { drawStats } from "./stats.js";

const MOST_VOTES = 8;
const BOXES = ["result", "votes-box", "chains-box", "stats-box", "error"];
const nameOf = (answer) => (answer === null ? "no answer" : answer);

export class View {
  constructor() {
    this.chains = new Chains();
    this.rate = new RateChart(by("rate-chart"), by("rate-summary"));
    this.histogram = new Histogram(by("p-chart"), by("p-summary"), 10);
    this.clear();
  }

  clear() {
    this.chains.clear();
    for (const id of BOXES) by(id).hidden = true;
    for (const id of ["votes", "headlines", "stats"]) by(id).replaceChildren();
    by("votes-hint").hidden = true;
    by("intro").hidden = false;
    this.status("");
    this.progress(0, 0);
  }

  // One frame: what changed since the last.
  draw(state, asked) {
    by("intro").hidden = true;
    by("chains-box").hidden = state.started === 0;
    this.chains.draw(state);
    this.votes(state);
    by("stats-box").hidden = state.taken.length === 0;
    this.rate.draw(state.taken, asked);
    this.histogram.draw(state.bins);
    this.progress(state.finished, state.started);
    const [leader] = leaders(state);
    this.status(`${state.finished} of ${state.started} chains finished`
      + (leader && leader[0] !== null ? `; ${short(leader[0], 40)} leads` : ""));
  }

  votes(state) {
    by("votes-box").hidden = state.votes.size === 0;
    const all = leaders(state);
    const told = all.slice(0, MOST_VOTES);
    say(by("votes-more"), all.length > MOST_VOTES ? `and ${all.length - MOST_VOTES} more answers, of fewer chains or as many` : "");
    while (by("votes").children.length < told.length) by("votes").append(bar());
    while (by("votes").children.length > told.length) by("votes").lastChild.remove();
    told.forEach(([answer, count], i) => {
      const [name, track, number] = by("votes").children[i].children;
      if (name.title !== nameOf(answer)) {
        name.title = nameOf(answer);
        renderAnswer(name, nameOf(answer), 80);
      }
      track.firstChild.style.setProperty("--share", count / state.started);
      say(number, String(count));
    });
  }

  progress(finished, started) {
    by("progress").hidden = started === 0;
    by("progress").max = Math.max(1, started);
    by("progress").value = finished;
  }

  status(text) {
    say(by("status"), text);
  }

  // On a phone the form fills the screen; what happens next is below it.
  lookAtResults() {
    if (by("now").getBoundingClientRect().bottom > window.innerHeight) by("results").scrollIntoView();
  }

  error(text) {
    by("error").textContent = text;
    by("error").hidden = false;
    by("error").scrollIntoView({ block: "nearest" });
  }

  // What is known once a call has ended, however it ended.
  end(record, state) {
    by("progress").hidden = true;
    if (record.error !== null) this.error(record.error);
    if (record.outcome !== null) this.result(record, state);
    if (record.stats === null) return;
    by("stats-box").hidden = false;
    drawStats(record.stats);
  }

  result({ question, outcome, text }, state) {
    const { answer, confidence, complete, winner, notices } = outcome;
    by("result").hidden = false;
    renderText(by("asked"), question);
    if (answer === null) say(by("answer"), "No chain stated an answer.");
    else renderAnswer(by("answer"), answer);
    by("share").style.setProperty("--share", confidence);
    say(by("confidence"), `Confidence ${confidence.toFixed(2)}: ${Math.round(confidence * 100)} % of the chains that were`
      + ` started say so${complete ? "" : "; a limit cut the call short"}`);
    by("notices").replaceChildren(...notices.map((notice) => make("li", "", notice)));
    renderText(by("message"), text);
    by("message-box").hidden = !text.trim();
    if (winner !== null) this.chains.won(winner);
    const [first] = leaders(state);
    by("votes-hint").hidden = first?.[0] === answer && first[1] >= Math.round(confidence * state.started);
  }
}

function bar() {
  const item = make("li");
  const track = make("span", "track");
  track.append(make("div", "bar"));
  item.append(make("span", "name"), track, make("span", "count"));
  return item;
}
