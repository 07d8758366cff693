// The list of chains. A frame draws the steps that changed, and nothing else of it.

import { describe, doing } from "./call.js";
import { button, by, make, say } from "./dom.js";
import { renderAnswer, renderText } from "./math.js";

const ARROWS = { ArrowLeft: -1, ArrowRight: 1, Home: -Infinity, End: Infinity };

export class Chains {
  constructor() {
    this.list = by("chains-list");
    this.clear();
  }

  clear() {
    this.rows = [];
    this.open = null; // the row whose text is shown, and the turn; null is the whole chain
    this.list.replaceChildren();
  }

  // Draws what the state says was touched.
  draw(state) {
    for (const chain of state.touched) {
      const row = (this.rows[chain.index] ??= this.addRow(chain));
      for (const turn of chain.touched) this.step(row, chain.steps[turn]);
      this.head(row);
      chain.touched.clear();
      if (this.open?.row === row) this.drawText();
    }
    state.touched.clear();
  }

  addRow(chain) {
    const row = { chain, buttons: [], blocks: [], item: make("li", "chain") };
    const title = make("h3");
    row.title = title.appendChild(button("name", `Chain ${chain.index + 1}`, () => this.toggle(row, null)));
    row.steps = make("div", "steps");
    row.steps.setAttribute("role", "toolbar");
    row.steps.setAttribute("aria-label", `Steps of chain ${chain.index + 1}`);
    row.steps.addEventListener("keydown", (event) => this.walk(row, event));
    row.steps.addEventListener("focusin", (event) => {
      row.steps.querySelector("[tabindex='0']").tabIndex = -1;
      event.target.tabIndex = 0;
    });
    row.state = make("span", "state");
    row.preview = make("p", "preview");
    row.text = make("div", "text prose");
    row.text.hidden = true;
    row.text.id = `text-${chain.index}`;
    this.controls(row.title, row);
    row.item.append(title, row.steps, row.state, row.preview, row.text);
    this.list.append(row.item);
    return row;
  }

  controls(element, row) {
    element.setAttribute("aria-expanded", "false");
    element.setAttribute("aria-controls", row.text.id);
  }

  head(row) {
    const { words, answer } = doing(row.chain);
    if (row.told !== words + answer) {
      row.told = words + answer;
      row.state.replaceChildren(answer === null ? words : `${words} `);
      if (answer !== null) renderAnswer(row.state.appendChild(make("b")), answer, 80);
    }
    const last = answer === null ? row.chain.steps.at(-1) : null; // an answer says it all
    say(row.preview, last ? (last.written ?? last.drafted).slice(0, 400).replace(/\s+/g, " ").trim() : "");
  }

  // One step is a stop of the Tab key per chain; the arrow keys go on from there.
  step(row, step) {
    let tile = row.buttons[step.turn];
    if (!tile) {
      tile = row.buttons[step.turn] = button("", "", () => this.toggle(row, step.turn));
      tile.tabIndex = step.turn ? -1 : 0;
      this.controls(tile, row);
      row.steps.append(tile);
    }
    const told = describe(step, row.chain);
    if (tile.title === told) return;
    tile.title = told;
    tile.setAttribute("aria-label", told);
    tile.className = `step ${step.author}${step.verdict ? " judged" : ""}`;
    tile.style.setProperty("--p", step.verdict?.p_value ?? 0);
    tile.style.setProperty("--level", Math.min(1, Math.max(0, step.verdict?.level ?? 0)));
  }

  walk(row, event) {
    if (!(event.key in ARROWS)) return;
    event.preventDefault();
    const to = row.buttons.indexOf(event.target) + ARROWS[event.key];
    row.buttons[Math.min(row.buttons.length - 1, Math.max(0, to))].focus();
  }

  toggle(row, turn) {
    const again = this.open?.row === row && this.open.turn === turn;
    if (this.open) this.expand(this.open, false);
    this.open = again ? null : { row, turn };
    if (!this.open) return;
    row.blocks = [];
    row.text.replaceChildren();
    this.expand(this.open, true);
    this.drawText();
  }

  expand({ row, turn }, expanded) {
    row.text.hidden = !expanded;
    (turn === null ? row.title : row.buttons[turn]).setAttribute("aria-expanded", String(expanded));
  }

  // The text that is open, as far as it is not drawn yet.
  drawText() {
    const { row, turn } = this.open;
    const steps = turn === null ? row.chain.steps : [row.chain.steps[turn]];
    steps.forEach((step, i) => {
      const told = `${step.tried.length} ${describe(step, row.chain)}`;
      if (row.blocks[i]?.told === told) return;
      const block = { told, element: turn === null ? standing(step) : whole(step, row.chain) };
      if (row.blocks[i]) row.blocks[i].element.replaceWith(block.element);
      else row.text.append(block.element);
      row.blocks[i] = block;
    });
  }

  won(index) {
    const row = this.rows[index];
    if (!row) return;
    row.item.classList.add("won");
    row.state.append(" (wins)");
  }
}

// What of a step stands in the chain.
function standing(step) {
  const block = make("div");
  if (step.kept) part(block, step.author === "pending" ? "pending" : "draft", step.kept);
  if (step.written !== null) part(block, "target", step.written);
  return block;
}

// All that became of a step, also what was dropped.
function whole(step, chain) {
  const block = make("div");
  block.append(make("p", "hint", describe(step, chain)));
  const drafts = step.tried.length > 1 ? step.tried : [step.drafted];
  for (const text of drafts) {
    const kept = text === step.drafted ? step.kept : "";
    const dropped = text.slice(kept.length);
    if (kept) {
      block.append(make("h4", "", "The draft wrote"));
      part(block, "draft", kept);
    }
    if (dropped) {
      block.append(make("h4", "", "The draft wrote, and it was dropped"));
      part(block, "draft dropped", dropped);
    }
  }
  if (step.written === null) return block;
  block.append(make("h4", "", "The target wrote"));
  part(block, "target", step.written);
  return block;
}

function part(block, kind, text) {
  renderText(block.appendChild(make("div", `part ${kind}`)), text);
}
