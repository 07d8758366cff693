// The statistics of a call in words: four that matter most, and the rest in groups.

import { by, make } from "./dom.js";

const fixed = (value) => (value === null ? "none" : value.toFixed(2).replace(/^-(?=0\.00$)/, ""));
const percent = (part, all) => (all ? `${Math.round((100 * part) / all)} %` : "none");

export function drawStats(stats) {
  by("headlines").replaceChildren(...headlines(stats).map(([name, value, more]) => {
    const tile = make("div");
    tile.append(make("dt", "", name), make("dd", "", value), make("dd", "hint", more));
    return tile;
  }));
  by("stats").replaceChildren(...lines(stats).map(([name, value]) => {
    const pair = make("div");
    pair.append(make("dt", "", name), make("dd", "", value));
    return pair;
  }));
}

function headlines(s) {
  const text = s.kept_tokens + s.target_tokens;
  return [
    ["Rejection rate", fixed(s.observed_rate), `asked for ${fixed(s.asked_rate)}`],
    ["Tokens saved", String(s.kept_tokens), `${percent(s.kept_tokens, text)} of the text; the target only read them`],
    ["Seconds saved", ...saved(s)],
    ["Selectivity", fixed(s.selectivity), "1: taken over by score only; 0.5: by chance"],
  ];
}

// What the target would have taken to write the text that stands, at the speed it wrote with here.
function saved(s) {
  if (!s.target_tokens_per_s) return ["none", `not measured: the target ${s.target_tokens ? "tells no seconds" : "wrote nothing"}`];
  const alone = (s.kept_tokens + s.target_tokens) / s.target_tokens_per_s;
  const took = s.draft_s + s.verify_s + s.takeover_s;
  return [fixed(alone - took), `estimated: the target alone ${fixed(alone)} s, both ${fixed(took)} s`];
}

function lines(s) {
  return [
    ["Steps verified", String(s.verifications)],
    ["Steps taken over", String(s.rejections)],
    ["Scores calibrated on", String(s.calibration_size)],
    ["Chains finished / cancelled / failed", `${s.chains_finished} / ${s.chains_cancelled} / ${s.chains_failed}`],
    ["Tokens drafted", String(s.drafted_tokens)],
    ["Tokens the target wrote", String(s.target_tokens)],
    ["Tokens the target read", String(s.scored_tokens)],
    ["Seconds drafting", fixed(s.draft_s)],
    ["Seconds verifying", fixed(s.verify_s)],
    ["Seconds taking over", fixed(s.takeover_s)],
    ["Seconds in all", fixed(s.wall_s)],
  ];
}
