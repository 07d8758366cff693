// Two small charts, each with a sentence that says what it shows. What is drawn of one is bounded, however many steps.

const NAMESPACE = "http://www.w3.org/2000/svg";
const [WIDTH, HEIGHT, LEFT, TOP, BOTTOM] = [400, 150, 30, 8, 20];
const MOST_POINTS = 200;

const y = (share) => TOP + (HEIGHT - TOP - BOTTOM) * (1 - share);

export class RateChart {
  constructor(svg, summary) {
    Object.assign(this, { svg, summary });
    for (const share of [0, 0.5, 1]) {
      add(svg, "line", { class: share ? "grid" : "axis", x1: LEFT, x2: WIDTH, y1: y(share), y2: y(share) });
      add(svg, "text", { x: LEFT - 6, y: y(share) + 3.5, class: "end" }).textContent = String(share);
    }
    this.first = add(svg, "text", { x: LEFT, y: HEIGHT - 5 });
    this.last = add(svg, "text", { x: WIDTH, y: HEIGHT - 5, class: "end" });
    this.asked = add(svg, "line", { class: "asked", x1: LEFT, x2: WIDTH });
    this.observed = add(svg, "polyline", { class: "observed" });
  }

  // `taken`: how many of the first 1, 2, ... steps were taken over.
  draw(taken, asked) {
    const total = taken.length;
    const every = Math.max(1, Math.ceil(total / MOST_POINTS));
    const points = [];
    for (let i = (total - 1) % every; i < total; i += every) {
      const x = total > 1 ? LEFT + ((WIDTH - LEFT) * i) / (total - 1) : LEFT;
      points.push(`${x.toFixed(1)},${y(taken[i] / (i + 1)).toFixed(1)}`);
    }
    this.observed.setAttribute("points", points.join(" "));
    for (const end of ["y1", "y2"]) this.asked.setAttribute(end, y(asked));
    this.first.textContent = "step 1";
    this.last.textContent = `step ${total}`;
    this.summary.textContent = total
      ? `${taken.at(-1)} of ${total} steps taken over (${(taken.at(-1) / total).toFixed(2)}), asked for ${asked.toFixed(2)}`
      : "no step was verified yet";
  }
}

export class Histogram {
  constructor(svg, summary, bins) {
    Object.assign(this, { svg, summary });
    add(svg, "line", { class: "axis", x1: LEFT, x2: WIDTH, y1: y(0), y2: y(0) });
    add(svg, "text", { x: LEFT - 6, y: y(0) + 3.5, class: "end" }).textContent = "0";
    this.most = add(svg, "text", { x: LEFT - 6, y: y(1) + 3.5, class: "end" });
    const width = (WIDTH - LEFT) / bins;
    this.bars = Array.from({ length: bins }, (_, i) =>
      add(svg, "rect", { class: "bin", x: LEFT + i * width + 2, width: width - 4, rx: 2 }));
    for (let i = 0; i <= bins; i += bins / 2) {
      const anchor = i === bins ? "end" : i ? "middle" : "";
      add(svg, "text", { x: LEFT + i * width, y: HEIGHT - 5, class: anchor }).textContent = String(i / bins);
    }
    this.even = add(svg, "line", { class: "asked", x1: LEFT, x2: WIDTH });
  }

  draw(counts) {
    const most = Math.max(1, ...counts);
    const even = counts.reduce((sum, count) => sum + count, 0) / counts.length;
    counts.forEach((count, i) => {
      this.bars[i].setAttribute("y", y(count / most));
      this.bars[i].setAttribute("height", y(0) - y(count / most));
    });
    for (const end of ["y1", "y2"]) this.even.setAttribute(end, y(even / most));
    this.most.textContent = String(most);
    this.summary.textContent = `counts from 0 to 1: ${counts.join(", ")}`;
  }
}

function add(svg, name, attributes) {
  const element = document.createElementNS(NAMESPACE, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  svg.append(element);
  return element;
}
