// Two small charts, each with a sentence that says what it shows.

const NAMESPACE = "http://www.w3.org/2000/svg";
const [WIDTH, HEIGHT, LEFT, BOTTOM] = [320, 120, 28, 16];

export function rateChart(svg, summary, rejections, asked) {
  svg.replaceChildren();
  axes(svg, ["0", "1"]);
  const y = (share) => (HEIGHT - BOTTOM) * (1 - share) + 2 * share;
  add(svg, "line", { class: "asked", x1: LEFT, x2: WIDTH, y1: y(asked), y2: y(asked) });
  let rejected = 0;
  const points = rejections.map((now, i) => {
    rejected += now ? 1 : 0;
    const x = LEFT + ((WIDTH - LEFT) * (i + 1)) / rejections.length;
    return `${x.toFixed(1)},${y(rejected / (i + 1)).toFixed(1)}`;
  });
  if (points.length) add(svg, "polyline", { class: "observed", points: points.join(" ") });
  summary.textContent = points.length
    ? `${rejected} of ${points.length} steps taken over (${(rejected / points.length).toFixed(2)}), asked for ${asked.toFixed(2)}`
    : "no step was verified yet";
}

export function histogram(svg, summary, bins) {
  svg.replaceChildren();
  const most = Math.max(1, ...bins);
  axes(svg, ["0", String(most)]);
  const width = (WIDTH - LEFT) / bins.length;
  bins.forEach((count, i) => {
    const height = ((HEIGHT - BOTTOM - 2) * count) / most;
    add(svg, "rect", { class: "bin", x: LEFT + i * width + 1, y: HEIGHT - BOTTOM - height, width: width - 2, height });
    add(svg, "text", { x: LEFT + i * width, y: HEIGHT - 3 }).textContent = `.${i}`;
  });
  summary.textContent = `counts from 0 to 1: ${bins.join(", ")}`;
}

function axes(svg, [low, high]) {
  add(svg, "line", { class: "axis", x1: LEFT, x2: WIDTH, y1: HEIGHT - BOTTOM, y2: HEIGHT - BOTTOM });
  add(svg, "line", { class: "axis", x1: LEFT, x2: LEFT, y1: 0, y2: HEIGHT - BOTTOM });
  add(svg, "text", { x: 4, y: HEIGHT - BOTTOM }).textContent = low;
  add(svg, "text", { x: 4, y: 10 }).textContent = high;
}

function add(svg, name, attributes) {
  const element = document.createElementNS(NAMESPACE, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  svg.append(element);
  return element;
}
