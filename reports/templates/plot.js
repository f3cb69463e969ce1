// One small plotter: marks and lines on two axes, drawn as SVG in the page's own colours.

const SVG = "http://www.w3.org/2000/svg";
// Okabe and Ito's colours, which people with any kind of colour vision can tell apart.
const COLORS = {
  python: "#8a8f98", numpy: "#0072b2", numba: "#d55e00", numba_cuda: "#e69f00", cupy: "#cc79a7",
  torch_cpu: "#009e73", torch_cuda: "#56b4e9", torch_mps: "#9a7bd0", onnxruntime: "#8c6d1f", openvino: "#4b6fb5",
  ncnn: "#b0527a",
};
const colorOf = function (kernel) {
  const backend = DATA.kernels[kernel].name.split("/")[0];
  return Object.hasOwn(COLORS, backend) ? COLORS[backend] : "#8a8f98";
};
const SHAPES = ["circle", "pentagon", "diamond", "square", "triangle", "cross"]; // by guarantee, strongest first

// A name that may go on in the next line at its joints, and not within a word.
function joined(words, joints) {
  return words.split(joints).flatMap((part, i) => (i ? [document.createElement("wbr"), part] : [part]));
}

function el(tag, attributes, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {}))
    if (name === "class") node.className = value;
    else if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value !== null && value !== undefined && value !== false) node.setAttribute(name, value === true ? "" : value);
  node.append(...children.filter((c) => c !== null && c !== undefined));
  return node;
}

function draw(parent, tag, attributes, style, title) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  Object.assign(node.style, style || {});
  if (title) {
    const words = document.createElementNS(SVG, "title");
    words.textContent = title;
    node.append(words);
  }
  parent.append(node);
  return node;
}

// Ticks of a logarithmic axis at 1, 2 and 5 where there are few decades; of a linear one at round numbers.
function ticksOf(axis, low, high) {
  if (axis.ticks) return axis.ticks;
  const found = [];
  if (axis.log) {
    if (high / low < 3) return ticksOf({}, low, high).filter((v) => v > 0);
    const short = high / low < 200, narrow = high / low < 8, every = Math.ceil(Math.log10(high / low) / 8);
    for (let e = Math.floor(Math.log10(low)); e <= Math.log10(high); e++)
      for (const m of narrow ? [1, 1.5, 2, 3, 4, 6, 8] : short ? [1, 2, 5] : e % every ? [] : [1])
        if (m * 10 ** e >= low && m * 10 ** e <= high) found.push(m * 10 ** e);
  } else {
    const raw = (high - low) / 6 || 1, power = 10 ** Math.floor(Math.log10(raw));
    const step = power * [1, 2, 5, 10].find((m) => m * power >= raw);
    for (let v = Math.ceil(low / step) * step; v <= high; v += step) found.push(v);
  }
  return found;
}

function domain(axis, values) {
  let low = Math.min(...values), high = Math.max(...values);
  if (axis.include !== undefined) [low, high] = [Math.min(low, axis.include), Math.max(high, axis.include)];
  if (axis.log) {
    const pad = Math.max(0.06 * Math.log(high / low), 0.1);
    return [low * Math.exp(-pad), high * Math.exp(pad)];
  }
  const pad = 0.06 * (high - low) || Math.abs(high) * 0.1 || 1;
  return [low - (axis.flush ? 0.5 : pad), high + (axis.flush ? 0.5 : pad)];
}

const PATHS = {
  circle: (r) => `M${-r},0a${r},${r} 0 1,0 ${2 * r},0a${r},${r} 0 1,0 ${-2 * r},0Z`,
  pentagon: (r) => `M0,${-1.2 * r}L${1.15 * r},${-0.35 * r}L${0.7 * r},${r}H${-0.7 * r}L${-1.15 * r},${-0.35 * r}Z`,
  square: (r) => `M${-r},${-r}H${r}V${r}H${-r}Z`,
  diamond: (r) => `M0,${-1.3 * r}L${1.3 * r},0L0,${1.3 * r}L${-1.3 * r},0Z`,
  triangle: (r) => `M0,${-1.2 * r}L${1.2 * r},${r}H${-1.2 * r}Z`,
  cross: (r) => `M${-r},${-r}L${r},${r}M${-r},${r}L${r},${-r}`,
};

// marks: {x, y, low, high, color, shape, title, label, faint, hollow};
// lines: {points, color, label, dash, faint, first: the label stands at the first point}.
function plot(options) {
  const { x, y, marks = [], lines = [], title, high = 380 } = options;
  const wide = Math.min(options.wide || 860, Math.max(280, document.documentElement.clientWidth - 64)); // a phone's text stays text
  const xs = [...marks.map((m) => m.x), ...lines.flatMap((l) => l.points.map((p) => p[0])), ...(x.ticks || [])];
  const ys = [...marks.flatMap((m) => [m.y, m.low, m.high]), ...lines.flatMap((l) => l.points.map((p) => p[1]))]
    .filter((v) => v !== undefined && v !== null);
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", `0 0 ${wide} ${high}`);
  svg.setAttribute("class", "drawn");
  svg.style.maxWidth = Math.round(1.12 * wide) + "px";
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", title);
  if (!xs.length || !ys.length) return svg;
  const box = { left: 70, right: wide - Math.min(options.margin || 20, 0.3 * wide), top: 14, bottom: high - 46 };
  const [x0, x1] = domain(x, xs), [y0, y1] = domain(y, ys);
  const scale = (axis, v, a, b) => (axis.log ? Math.log(v / a) / Math.log(b / a) : (v - a) / (b - a));
  const px = (v) => box.left + scale(x, v, x0, x1) * (box.right - box.left);
  const py = (v) => box.bottom - scale(y, v, y0, y1) * (box.bottom - box.top);
  const muted = { fill: "var(--muted)", fontSize: "12px" };
  let free = -Infinity; // where the next label of the x axis may begin
  for (const v of ticksOf(x, x0, x1)) {
    draw(svg, "line", { x1: px(v), x2: px(v), y1: box.top, y2: box.bottom }, { stroke: "var(--line)" });
    const half = 3.6 * x.text(v).length;
    if (px(v) - half < free) continue;
    free = px(v) + half + 6;
    draw(svg, "text", { x: px(v), y: box.bottom + 17, "text-anchor": "middle" }, muted).textContent = x.text(v);
  }
  for (const v of ticksOf(y, y0, y1)) {
    draw(svg, "line", { x1: box.left, x2: box.right, y1: py(v), y2: py(v) }, { stroke: "var(--line)" });
    draw(svg, "text", { x: box.left - 7, y: py(v) + 4, "text-anchor": "end" }, muted).textContent = y.text(v);
  }
  draw(svg, "text", { x: (box.left + box.right) / 2, y: high - 8, "text-anchor": "middle" }, muted).textContent = x.label;
  const side = draw(svg, "text", { transform: `translate(14 ${(box.top + box.bottom) / 2}) rotate(-90)`, "text-anchor": "middle" }, muted);
  side.textContent = y.label;
  for (const line of lines) {
    const path = line.points.map((p, i) => `${i ? "L" : "M"}${px(p[0]).toFixed(1)},${py(p[1]).toFixed(1)}`).join("");
    const style = { fill: "none", stroke: line.color || "var(--ink)", strokeWidth: line.faint ? 1 : 2, opacity: line.faint ? 0.45 : 1 };
    draw(svg, "path", { d: path, "stroke-dasharray": line.dash || "none" }, style, line.title || line.label);
  }
  for (const m of [...marks].sort((a, b) => (b.faint ? 1 : 0) - (a.faint ? 1 : 0))) {
    const style = { stroke: m.color, fill: m.hollow ? "var(--panel)" : m.color, strokeWidth: 1.6, opacity: m.faint ? 0.4 : 1 };
    if (m.low && m.high) draw(svg, "line", { x1: px(m.x), x2: px(m.x), y1: py(m.low), y2: py(m.high) }, { stroke: m.color, opacity: 0.55, strokeWidth: 2 });
    draw(svg, "path", { d: PATHS[m.shape || "circle"](m.faint ? 3 : 4.2), transform: `translate(${px(m.x).toFixed(1)} ${py(m.y).toFixed(1)})` }, style, m.title);
  }
  // Text comes last, and keeps off marks where these are few enough to leave it room.
  const taken = marks.length > 40 ? [] : marks.map((m) => [px(m.x) - 4, py(m.y) - 3, px(m.x) + 4, py(m.y) + 3]);
  // Names of lines from the top down, so that those that must make room stay in the order of their lines.
  const ends = lines.filter((l) => l.label).map((l) => [l, l.points[l.first ? 0 : l.points.length - 1]]);
  for (const [line, end] of ends.sort((a, b) => py(a[1][1]) - py(b[1][1])))
    write(svg, taken, [0, 13, 26, 39].map((dy) => [px(end[0]) + (line.first ? 5 : 9), py(end[1]) + dy + (line.first ? -6 : 4), "start"]), line.label);
  for (const m of marks.filter((m) => m.label)) {
    const sides = [[px(m.x) + 8, "start"], [px(m.x) - 8, "end"]];
    const places = [0, 13, -13, 26, -26].flatMap((dy) => sides.map(([at, anchor]) => [at, py(m.y) - 6 + dy, anchor]));
    write(svg, taken, places.filter(([at, , anchor]) => (anchor === "end" ? at > box.left + 7 * m.label.length : at + 7 * m.label.length < wide)), m.label);
  }
  return svg;
}

// A label in the first of these places where nothing stands yet; else it is left to the title of its mark.
function write(svg, taken, places, words) {
  const wide = words.length * 6.9;
  for (const [x, y, anchor] of places) {
    const left = anchor === "end" ? x - wide : x, box = [left, y - 11, left + wide, y + 3];
    if (taken.some((t) => box[0] < t[2] && t[0] < box[2] && box[1] < t[3] && t[1] < box[3])) continue;
    taken.push(box);
    draw(svg, "text", { x, y, "text-anchor": anchor, class: "halo" }, { fill: "var(--ink)", fontSize: "11.5px" }).textContent = words;
    return;
  }
}
