// Text of models: always text nodes; mathematics in it is typeset by KaTeX, which is not trusted with links or HTML.

import { short } from "./dom.js";

const MOST_MATH = 5000;
const OPENERS = [["\\[", "\\]", true], ["$$", "$$", true], ["\\(", "\\)", false], ["$", "$", false]];
const LOOKS_LIKE_MATH = /\\[a-zA-Z]|\^|_\{/;
const OPTIONS = { trust: false, throwOnError: true, strict: "ignore", maxExpand: 200, maxSize: 20, output: "htmlAndMathml" };

export function renderText(target, text) {
  target.replaceChildren();
  for (const paragraph of text.split(/\n{2,}/)) {
    if (!paragraph.trim()) continue;
    const p = document.createElement("p");
    for (const part of parts(paragraph)) p.append(part.math === undefined ? part.text : typeset(part));
    target.append(p);
  }
}

// An answer stands alone: mathematics where it looks like some, and has no more than `most` characters.
export function renderAnswer(target, answer, most = Infinity) {
  const math = answer.length <= most && LOOKS_LIKE_MATH.test(answer);
  target.replaceChildren(math ? typeset({ math: answer, source: answer, display: false }) : short(answer, most));
}

// What KaTeX cannot read stands there as it was written.
function typeset({ math, source, display }) {
  const span = document.createElement("span");
  try {
    if (math.length > MOST_MATH) throw new RangeError("too long to typeset");
    window.katex.render(math, span, { ...OPTIONS, displayMode: display });
  } catch {
    span.textContent = source;
  }
  return span;
}

function* parts(text) {
  let plain = "";
  let at = 0;
  while (at < text.length) {
    const found = opened(text, at) ?? boxed(text, at);
    if (found) {
      if (plain) yield { text: plain };
      plain = "";
      yield found.part;
      at = found.end;
    } else {
      plain += text[at];
      at += 1;
    }
  }
  if (plain) yield { text: plain };
}

function opened(text, at) {
  for (const [open, close, display] of OPENERS) {
    if (!text.startsWith(open, at)) continue;
    const end = text.indexOf(close, at + open.length);
    const math = text.slice(at + open.length, end);
    // A lone dollar is money.
    if (end > 0 && math.trim() && !(open === "$" && (/^\s|\s$/.test(math) || math.includes("\n")))) {
      return { part: { math, source: text.slice(at, end + close.length), display }, end: end + close.length };
    }
  }
  return null;
}

function boxed(text, at) {
  if (!text.startsWith("\\boxed{", at)) return null;
  let depth = 0;
  for (let end = at + 6; end < text.length; end += 1) {
    if (text[end] === "{") depth += 1;
    else if (text[end] === "}" && --depth === 0) {
      const math = text.slice(at, end + 1);
      return { part: { math, source: math, display: false }, end: end + 1 };
    }
  }
  return null;
}
