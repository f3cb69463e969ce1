// The parts of the page that follow the controls. Each gets the state and returns what its section holds.

const kernelName = (cell) => DATA.kernels[cell.kernel].name;
const code = (words) => el("code", null, ...joined(words, /(?<=[/_])|(?=-)/));
const command = (words) => el("code", null, words); // breaks at its spaces alone

// A problem by its layer's name, with the string that explains it.
function problemLabel(index) {
  const p = DATA.problems[index], shape = (kind) => el("code", kind, ...joined(p.name, /(?=-|[hkr]\d)/));
  return p.layer === p.name ? [shape(null)] : [...joined(p.layer, /(?<=_)/), " ", shape({ class: "shape" })];
}

// Problems of the scenario that the controls let through, in the order of the records.
function problemsOf(S) {
  const found = new Set(S.machine.list.filter((c) => c.scenario === S.scenario).map((c) => c.problem));
  return [...found].filter((q) => ofKind(S, q) && holds(DATA.problems[q].layer + " " + DATA.problems[q].name, S.problems));
}

function ofKind(S, q) {
  const p = DATA.problems[q];
  return (S.layout === "all" || p.group === S.layout) && (S.batch === "all" || String(p.batch) === S.batch);
}

// What the sections below speak of: a time or a winner never stands without it.
function whereText(S) {
  const batch = S.batch === "all" ? "every batch" : "batch " + S.batch;
  return `${S.scenario}, ${S.layout === "all" ? "every layout" : S.layout}, ${batch}, on ${S.machine.label}`;
}

// Kernels of the scenario that pass the filter: enough guarantee first, then by how many problems they ran on.
function kernelsOf(S, problems) {
  const shown = new Set(problems), ran = new Map(), guarantee = new Map();
  for (const c of S.machine.list)
    if (c.scenario === S.scenario && shown.has(c.problem) && holds(kernelName(c), S.kernels)) {
      ran.set(c.kernel, (ran.get(c.kernel) || 0) + (c.ran ? 1 : 0));
      if (c.ran) guarantee.set(c.kernel, c.guarantee);
    }
  const rows = [...ran.keys()].map((kernel) => ({
    kernel, ran: ran.get(kernel), fit: (guarantee.get(kernel) || 0) <= S.need,
    guarantee: guarantee.has(kernel) ? DATA.guarantees[guarantee.get(kernel)] || "not recorded" : NOTHING,
    overall: overall(S.machine, S.scenario, kernel, S.baseline, problems),
  }));
  return rows.sort((a, b) => (b.ran > 0) - (a.ran > 0) || b.fit - a.fit || b.ran - a.ran ||
    (b.overall ? b.overall.mid : 0) - (a.overall ? a.overall.mid : 0));
}

function holds(name, filter) {
  return filter.toLowerCase().split(/\s+/).filter(Boolean).every((word) => name.toLowerCase().includes(word));
}

// Against the chosen baseline; where it did not run there is nothing to compare.
function against(S, cell) {
  const base = S.machine.find.get(cell.scenario + "/" + cell.problem + "/" + S.baseline);
  return base && cell.ran ? summary(speeds(base, cell)) : null;
}

const UNITS = {
  speed: { name: "speed", text: (c, s) => (s ? speedText(s.mid) : NOTHING), value: (c, s) => (s ? s.mid : null) },
  time: { name: "time", text: (c) => secondsText(c.seconds), value: (c) => c.seconds, lower: true },
  rate: { name: "GFLOP/s", text: (c) => plain(rate(c)) + (rate(c) !== null && DATA.kernels[c.kernel].effective ? " eff." : ""), value: rate },
  roof: { name: "% of ceiling", text: (c) => percent(ofRoof(c)), value: ofRoof },
  error: { name: "error", text: (c) => plain(c.score), value: (c) => c.score, lower: true },
  workspace: { name: "workspace", text: (c) => bytesText(c.workspace), value: (c) => c.workspace, lower: true },
};

// Colour: above 1x blue, below orange; for other units the deeper the better, or for a price the dearer.
function tint(unit, value, best) {
  if (value === null) return ["even", 0];
  const clamp = (v) => Math.max(0, Math.min(1, v));
  if (unit === "speed") return [value > 1 ? "quick" : value < 1 ? "slow" : "even", clamp(Math.abs(Math.log(value)) / Math.log(8))];
  if (unit === "error") return ["slow", clamp(Math.log10(Math.max(value, 1)) / 4)];
  if (unit === "workspace") return ["slow", clamp(Math.log2(Math.max(value, 1)) / 34)];
  if (unit === "roof") return ["quick", clamp(value)];
  return ["quick", clamp(1 - Math.abs(Math.log(value / best)) / Math.log(64))];
}

const LEGENDS = {
  speed: "Blue is faster than the baseline, orange slower.", time: "The deeper the blue, the nearer to the fastest of the column.",
  rate: "FLOP are those of the definition; “eff.” marks algorithms that do other FLOP, whose rate may exceed the machine's.",
  roof: "Part of the machine's measured ceiling for the problem, arithmetic or memory, whichever binds. Winograd and FFT may exceed it, because FLOP are those of the definition.",
  error: "Largest error against a float64 reference, in units of rounding (u) times the sum of magnitudes (A); orange is larger.",
  workspace: "Memory beside inputs and output that the kernel declares; orange is more.",
};

function heatView(S) {
  const problems = problemsOf(S), rows = kernelsOf(S, problems), unit = UNITS[S.unit];
  const outcomes = new Map(problems.map((q) => [q, outcome(race(S.machine, S.scenario, q, S.need))]));
  const notes = new Map();
  const bests = new Map(problems.map((q) => {
    const values = race(S.machine, S.scenario, q, WEAKEST + 1).map((c) => unit.value(c, null)).filter((v) => v !== null);
    return [q, values.length ? (unit.lower ? Math.min(...values) : Math.max(...values)) : 1];
  }));
  const head = el("tr", null, el("th", { scope: "col" }, "kernel"), el("th", { scope: "col", class: "guarantee" }, "guarantee"),
    el("th", { class: "n", scope: "col" }, "all shown", el("span", { class: "soft below-it" }, "geometric mean")),
    ...problems.map((q) => el("th", { class: "n problem", scope: "col" }, ...problemLabel(q), el("span", { class: "soft below-it" }, flopsText(DATA.problems[q].flops)))));
  const failed = (kernel) => problems.some((q) => {
    const c = S.machine.find.get(S.scenario + "/" + q + "/" + kernel);
    return c && (c.group === "wrong" || c.group === "failed");
  });
  const idle = rows.filter((r) => !r.ran && !failed(r.kernel));
  const body = rows.filter((r) => !idle.includes(r)).map((row) => {
    const name = DATA.kernels[row.kernel].name;
    return el("tr", { class: row.fit ? null : "below" },
      el("th", { scope: "row" }, code(name), row.kernel === S.baseline ? el("span", { class: "soft" }, " baseline") : null,
        row.fit ? null : el("span", { class: "soft" }, " guarantees too little")),
      el("td", { class: "soft guarantee" }, row.guarantee),
      el("td", { class: "n", title: row.overall ? speedRange(row.overall) : "it did not run on all problems of the baseline" },
        row.overall ? speedText(row.overall.mid) : NOTHING,
        row.overall && row.kernel !== S.baseline && !certain(row.overall) ? el("sup", { title: "cannot tell" }, "≈") : null),
      ...problems.map((q) => heatCell(S, S.machine.find.get(S.scenario + "/" + q + "/" + row.kernel), outcomes.get(q), bests.get(q), notes)));
  });
  const table = el("table", { class: "heat", role: "grid", "aria-label": "kernels by problems" }, el("thead", null, head), el("tbody", null, ...body));
  gridKeys(table);
  return [
    el("p", { class: "explain" }, LEGENDS[S.unit] + " ★ marks the fastest that guarantees at least ",
      el("b", null, DATA.guarantees[S.need]), ", ☆ kernels that the rounds cannot tell from it, ≈ a speed that cannot be told from the baseline's. Hatched: no time, with the number of the reason; without a number, the record of that problem did not ask for the kernel. Press a cell for all that is known of it; arrow keys move."),
    el("p", { class: "explain" }, `${problems.length === 1 ? "1 problem" : problems.length + " problems"}, ${whereText(S)}.`),
    el("div", { class: "scroll tall" }, table),
    idle.length ? el("p", { class: "soft" }, `${idle.length} ${idle.length === 1 ? "kernel" : "kernels"} had nothing to run here: `, idle.map((r) => DATA.kernels[r.kernel].name).join(", ") + ".") : null,
    notes.size ? el("ol", { class: "notes" }, ...[...notes].map(([why, n]) => el("li", { value: n }, why))) : null,
  ];
}

function flopsText(flops) {
  for (const [factor, unit] of [[1e9, "GFLOP"], [1e6, "MFLOP"], [1e3, "kFLOP"]]) if (flops >= factor) return digits(flops / factor) + " " + unit;
  return flops ? flops + " FLOP" : "";
}

function heatCell(S, cell, result, best, notes) {
  if (!cell) return el("td", { class: "cell hatched", title: "not in this record" });
  const label = kernelName(cell) + " on " + DATA.problems[cell.problem].layer + ": ";
  const press = { tabindex: "-1", onclick: () => choose(cell), onkeydown: (e) => { if (e.key === "Enter" || e.key === " ") { e.preventDefault(); choose(cell); } } };
  if (!cell.ran) {
    if (!notes.has(cell.why)) notes.set(cell.why, notes.size + 1);
    const kind = cell.group === "skipped" || cell.group === "unreached" ? "hatched" : "broken";
    return el("td", { class: "cell " + kind, title: label + cell.status + ": " + cell.why, ...press },
      kind === "broken" ? cell.status : "", el("sup", null, String(notes.get(cell.why))));
  }
  const s = against(S, cell), unit = UNITS[S.unit];
  const [shade, deep] = tint(S.unit, unit.value(cell, s), best);
  const leads = result && result.best === cell, level = result && result.ties.some((t) => t.cell === cell);
  const unsure = S.unit === "speed" && s && cell.kernel !== S.baseline && !certain(s);
  const node = el("td", {
    class: `n cell ${shade}${leads ? " best" : ""}${S.cell === cell ? " chosen" : ""}`,
    title: label + intervalText(cell) + (s ? `, ${speedRange(s)} against ${DATA.kernels[S.baseline].name} (${verdict(s)})` : ""), ...press,
  }, leads || level ? el("span", { class: "star", "aria-label": leads ? "fastest" : "tie" }, leads ? "★" : "☆") : null,
    unit.text(cell, s), unsure ? el("sup", { title: "cannot tell" }, "≈") : null);
  node.style.setProperty("--deep", deep.toFixed(3));
  return node;
}

// One cell of the grid is in the tab order; the arrow keys move from there.
function gridKeys(table) {
  const cells = () => [...table.tBodies[0].rows].map((r) => [...r.cells].filter((c) => c.hasAttribute("tabindex")));
  const first = table.querySelector("td[tabindex]");
  if (first) first.tabIndex = 0;
  table.addEventListener("keydown", function (event) {
    const move = { ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowDown: [1, 0], ArrowUp: [-1, 0] }[event.key];
    if (!move || !event.target.matches("td[tabindex]")) return;
    event.preventDefault();
    const grid = cells(), row = grid.findIndex((r) => r.includes(event.target)), column = event.target.cellIndex;
    const next = grid[row + move[0]] && grid[row + move[0]].find((c) => c.cellIndex === column + move[1]);
    if (!next) return;
    event.target.tabIndex = -1;
    next.tabIndex = 0;
    next.focus();
  });
}

// One word, and why.
function certainty(result) {
  const n = roundsOf(result.best), names = result.ties.map((t) => kernelName(t.cell));
  if (!names.length && !result.next) return ["alone", "no other kernel with this guarantee ran"];
  if (n < FEWEST) return ["cannot tell", `only ${n === 1 ? "1 round" : n + " rounds"}; it takes ${FEWEST} to tell kernels apart`];
  if (names.length)
    return ["tie", "with " + names.slice(0, 3).join(", ") + (names.length > 3 ? ` and ${names.length - 3} more` : "") + ": the rounds cannot tell them apart"];
  const ahead = result.next.ahead;
  return ["told apart", `${ahead.n} rounds, ${percent(confidence(ahead.n))} confidence`];
}

function winnersView(S) {
  const columns = [
    { head: "problem", class: "named", node: (r) => problemLabel(r.problem), key: (r) => DATA.problems[r.problem].layer },
    { head: "fastest", class: "whole", node: (r) => [code(kernelName(r.best)), " ", el("span", { class: "soft" }, (r.best.guarantee < S.need ? DATA.guarantees[r.best.guarantee] + ", " : "") + `of ${r.ran} ${r.ran === 1 ? "kernel" : "kernels"}`)], key: (r) => kernelName(r.best) },
    { head: "time", n: true, key: (r) => r.best.seconds, node: (r) => [secondsText(r.best.seconds), el("span", { class: "soft below-it" }, intervalText(r.best))] },
    { head: "against the baseline", n: true, key: (r) => (r.speed ? r.speed.mid : -1),
      node: (r) => [r.speed ? speedText(r.speed.mid) : NOTHING, el("span", { class: "soft below-it" }, speedRange(r.speed))] },
    { head: "ahead of the next", class: "whole", key: (r) => (r.next ? r.next.ahead.mid : -1),
      node: (r) => (r.next ? [`${speedText(r.next.ahead.mid)} (${speedRange(r.next.ahead)})`, el("span", { class: "soft below-it" }, "of ", code(kernelName(r.next.cell)))] : [NOTHING]) },
    { head: "how sure", key: (r) => certainty(r)[0], class: "wide", node: (r) => {
      const [word, why] = certainty(r);
      return [el("b", null, word), " ", el("span", { class: "soft" }, why)];
    } },
    { head: "quicker, but weaker", class: "wide", node: (r) => [r.weaker.length ? r.weaker.slice(0, 2).map((c) => `${kernelName(c)} (${DATA.guarantees[c.guarantee] || "not recorded"}, ${secondsText(c.seconds)})`).join(", ") : NOTHING], key: (r) => r.weaker.length },
  ];
  const rows = problemsOf(S).map(function (problem) {
    const ranked = race(S.machine, S.scenario, problem, S.need), result = outcome(ranked);
    if (!result) return null;
    const weaker = race(S.machine, S.scenario, problem, WEAKEST + 1).filter((c) => c.guarantee > S.need && c.seconds < result.best.seconds);
    return { problem, ...result, ran: ranked.length, speed: against(S, result.best), weaker };
  }).filter(Boolean);
  if (!rows.length) return [el("p", null, "No kernel that guarantees at least " + DATA.guarantees[S.need] + " was timed here.")];
  return [
    el("p", { class: "explain" }, "Among kernels that guarantee at least ", el("b", null, DATA.guarantees[S.need]),
      `: ${whereText(S)}. “Ahead of the next” is the ratio to the first kernel that its rounds tell from the fastest, with its interval. How sure: `,
      el("b", null, "told apart"), " where that interval leaves out 1, with the interval's confidence; a ", el("b", null, "tie"), " with kernels that the rounds cannot tell from it; ", el("b", null, "cannot tell"), ` from fewer than ${FEWEST} rounds; `, el("b", null, "alone"), " where no other kernel ran."),
    sortable("winners", columns, rows, { most: 100, cards: true }),
  ];
}

function tableView(S) {
  const columns = [
    { head: "kernel", node: (c) => [code(kernelName(c))], key: kernelName },
    { head: "problem", class: "named", node: (c) => problemLabel(c.problem), key: (c) => DATA.problems[c.problem].layer },
    { head: "median", n: true, text: (c) => (c.ran ? secondsText(c.seconds) : c.status), key: (c) => (c.ran ? c.seconds : Infinity) },
    { head: "interval", n: true, text: intervalText, key: (c) => c.low || Infinity },
    { head: "rounds", n: true, text: (c) => String(roundsOf(c) || NOTHING), key: roundsOf },
    { head: "GFLOP/s", n: true, text: (c) => UNITS.rate.text(c), key: (c) => rate(c) || 0 },
    { head: "% of ceiling", n: true, text: (c) => percent(ofRoof(c)), key: (c) => ofRoof(c) || 0 },
    { head: "speed", n: true, text: (c) => UNITS.speed.text(c, against(S, c)), key: (c) => (against(S, c) || { mid: -1 }).mid },
    { head: "its interval", n: true, text: (c) => speedRange(against(S, c)), key: (c) => (against(S, c) || { low: -1 }).low },
    { head: "verdict", class: "wide", text: (c) => (c.ran ? verdict(against(S, c)) : c.why) },
    { head: "error", n: true, text: (c) => plain(c.score), key: (c) => c.score || 0 },
    { head: "guarantee", text: (c) => (c.ran ? DATA.guarantees[c.guarantee] || "not recorded" : NOTHING) },
    { head: "algorithm", text: (c) => DATA.kernels[c.kernel].algorithm },
    { head: "workspace", n: true, text: (c) => bytesText(c.workspace), key: (c) => c.workspace || 0 },
    { head: "plan", n: true, text: (c) => secondsText(c.plan), key: (c) => c.plan || 0 },
    { head: "pack", n: true, text: (c) => secondsText(c.pack), key: (c) => c.pack || 0 },
    { head: "first call", n: true, text: (c) => secondsText(c.first), key: (c) => c.first || 0 },
  ];
  if (S.machine.list.some((c) => c.device !== null)) columns.push({ head: "device", n: true, text: (c) => secondsText(c.device), key: (c) => c.device || 0 });
  const shown = new Set(problemsOf(S));
  const mine = S.machine.list.filter((c) => c.scenario === S.scenario && shown.has(c.problem) && holds(kernelName(c), S.kernels));
  const rows = mine.filter((c) => !c.ran || c.guarantee <= S.need);
  const hidden = mine.length - rows.length;
  return [
    el("p", { class: "explain" }, `${rows.length} cells, ${whereText(S)}` + (hidden ? `; ${hidden} with a weaker guarantee than ${DATA.guarantees[S.need]} are left out. ` : ". ") +
      "Press a heading to sort, a row for its details. The controls above filter."),
    sortable("table", columns, rows, { press: choose, start: 2 }),
  ];
}

// A table of columns {head, text | node, key}; it remembers its order while the page lives.
const orders = {};
const MOST_ROWS = 25; // at first; a button shows more
const MORE_ROWS = 250; // at a time: a browser takes long to lay out thousands
function sortable(name, columns, rows, options = {}) {
  const order = (orders[name] = orders[name] || { column: options.start === undefined ? null : options.start, up: true, most: options.most || MOST_ROWS });
  const keyed = (c) => c.key || c.text;
  const body = el("tbody");
  const heads = columns.map((c, i) => el("th", { class: c.n ? "n" : c.class || null, scope: "col" }, el("button", { type: "button", onclick: () => {
    order.up = order.column === i ? !order.up : true;
    order.column = i;
    fill();
  } }, c.head)));
  const more = el("button", { type: "button", onclick: () => { order.most += MORE_ROWS; fill(); } });
  function fill() {
    heads.forEach((h, i) => (order.column === i ? h.setAttribute("aria-sort", order.up ? "ascending" : "descending") : h.removeAttribute("aria-sort")));
    let sorted = rows;
    if (order.column !== null) {
      const key = keyed(columns[order.column]);
      const compare = (a, b) => (typeof a === "number" && typeof b === "number" ? (a < b ? -1 : a > b ? 1 : 0) : String(a).localeCompare(String(b)));
      sorted = rows.map((r) => [key(r), r]).sort((a, b) => (order.up ? 1 : -1) * compare(a[0], b[0])).map((r) => r[1]);
    }
    const part = sorted.length <= order.most + 5 ? sorted : sorted.slice(0, order.most);
    body.replaceChildren(...part.map((r) => {
      const row = el("tr", options.press ? { tabindex: "0", class: "press " + (r.group && r.group !== "ran" ? r.group : ""), onclick: () => options.press(r), onkeydown: (e) => { if (e.key === "Enter") options.press(r); } } : null);
      columns.forEach((c, i) => row.append(el(i === 0 ? "th" : "td", { class: c.n ? "n" : c.class || null, scope: i === 0 ? "row" : null, "data-label": options.cards && i ? c.head : null }, ...(c.node ? c.node(r) : [c.text(r)]))));
      return row;
    }));
    more.textContent = rows.length <= order.most + MORE_ROWS ? `show all ${rows.length} rows` : `show ${MORE_ROWS} more of ${rows.length} rows`;
    more.hidden = part.length === rows.length;
  }
  fill();
  return el("div", null, el("div", { class: "scroll" }, el("table", { class: options.cards ? "sortable cards" : "sortable", id: name + "-table" }, el("thead", null, el("tr", null, ...heads)), body)), more);
}

// --- one cell ------------------------------------------------------------------------------------

// A word of a command line, safe to paste whatever a record says.
const quoted = (word) => (/^[\w./,:@%+-]+$/.test(word) ? word : "'" + word.replaceAll("'", "'\\''") + "'");

function cellView(S) {
  const c = S.cell;
  if (!c) return [el("p", { class: "explain" }, "Press a cell of the heat map or a row of the table.")];
  const name = kernelName(c), p = DATA.problems[c.problem];
  const title = el("h3", null, code(name), " on ", ...problemLabel(c.problem), ` · ${c.scenario} · ${c.machine.label}`);
  const source = c.machine.sources[c.source];
  const base = S.baseline >= 0 ? DATA.kernels[S.baseline].name : null; // none where nothing ran
  const repeat = ["python -m benchmarks compare --kernels", ...[name, base].filter(Boolean).map(quoted), "--problems", quoted(p.name), "--scenario", quoted(c.scenario), "--threads", quoted(c.machine.threads)].join(" ");
  const where = el("p", { class: "soft" }, source ? `Record ${source[0]}, commit ${source[1]}. ` : "", "To measure it again: ", code(repeat));
  if (!c.ran) return [title, el("p", null, el("b", { class: c.group }, c.status), ": " + c.why), where];
  const s = against(S, c), result = outcome(race(c.machine, c.scenario, c.problem, S.need));
  const best = result && result.best;
  const toBest = best && best !== c ? summary(speeds(c, best)) : null;
  const rows = [
    ["median", `${secondsText(c.seconds)}, ` + (roundsOf(c) === 1 ? "from 1 round: no interval" : `interval ${rangeText(c.low, c.high)} from ${roundsOf(c)} rounds`)],
    ["against " + (base || "a baseline"), s ? `${speedText(s.mid)} (${speedRange(s)}): ${verdict(s)}` : "the baseline has no time here"],
    ["the fastest that guarantees at least " + DATA.guarantees[S.need], !best ? "none" : best === c ? "this one" : kernelName(best) + (toBest ? `, ${speedText(toBest.mid)} (${speedRange(toBest)}) quicker${certain(toBest) ? "" : ": the rounds cannot tell"}` : "; they share no round")],
    ["rate", `${plain(rate(c))} GFLOP/s${DATA.kernels[c.kernel].effective ? ", effective: counted by the definition's FLOP" : ""}` + (ofRoof(c) !== null ? `, ${percent(ofRoof(c))} of the ceiling (${c.machine.roof.get(c.problem).binds})` : "; no ceiling was measured for this device")],
    ["accuracy", `guarantees ${DATA.guarantees[c.guarantee] || "nothing that was recorded"}; largest error ${plain(c.score)} u·A` + (c.error !== null ? `, ${c.error.toPrecision(2)} absolute` : "")],
    ["workspace", bytesText(c.workspace)],
    ["before it is fast", `plan ${secondsText(c.plan)}, pack ${secondsText(c.pack)}, transfer ${secondsText(c.transfer)}, first call ${secondsText(c.first)}`],
    ["what ran (fingerprint)", c.fingerprint === null ? "none was recorded" : DATA.fingerprints[c.fingerprint]],
  ];
  const facts = el("table", { class: "facts-table" }, el("tbody", null, ...rows.map(([k, v]) => el("tr", null, el("th", { scope: "row" }, k), el("td", null, v)))));
  return [title, facts, el("div", { class: "two" }, figure("Samples by round", sampleWords(c), samplePlot(S, c)), historyFigure(S, c)), where];
}

function sampleWords(c) {
  return c.samples.some((v) => v.length) ? "Dots: samples (at most 100 a round are kept); mark: the round's median."
    : "Mark: the median of each round; bar: its quartiles over samples. Samples themselves were not kept (compare --raw keeps them).";
}

function samplePlot(S, c) {
  const color = colorOf(c.kernel), marks = [];
  c.rounds.forEach(function (v, i) {
    if (v === null) return;
    marks.push({ x: i + 1, y: v, low: c.quartiles[2 * i] || null, high: c.quartiles[2 * i + 1] || null, color, title: `round ${i + 1}: ${secondsText(v)}` });
    for (const sample of c.samples[i] || []) marks.push({ x: i + 1, y: sample, color, faint: true, title: secondsText(sample) });
  });
  const ends = [0.6, c.rounds.length + 0.4];
  const line = { points: ends.map((x) => [x, c.seconds]), dash: "5 4", faint: true, title: "median over rounds" };
  return plot({ title: "time of each round", x: { label: "round (fresh processes, fresh data)", text: String, ticks: c.rounds.map((_, i) => i + 1) },
    y: { label: "time of a call", log: true, text: secondsText }, marks, lines: [line], wide: 560, high: 280 });
}

function figure(title, words, drawing) {
  return el("figure", null, el("figcaption", null, el("b", null, title + ". "), words), drawing);
}

// --- figures -------------------------------------------------------------------------------------

function roofView(S) {
  const top = S.machine.top.float32, reads = Object.entries(S.machine.reads);
  const problems = problemsOf(S), shown = new Set(problems);
  const cells = S.machine.list.filter((c) => c.ran && c.scenario === S.scenario && shown.has(c.problem) && rate(c) !== null && DATA.kernels[c.kernel].device === "cpu" && holds(kernelName(c), S.kernels));
  if (!top || !reads.length) return [el("p", null, "No ceilings were measured on this machine: ", command("python -m benchmarks machine"), " measures them.")];
  if (!cells.length) return [el("p", null, "Nothing that ran on the CPU is shown.")];
  const intensity = (c) => DATA.problems[c.problem].flops / DATA.problems[c.problem].bytes;
  const xs = cells.map(intensity), x0 = Math.min(Math.min(...xs) / 2, (0.4 * top) / Math.max(...reads.map((r) => r[1]))), x1 = Math.max(...xs) * 2;
  const winners = new Set(problems.map((q) => race(S.machine, S.scenario, q, S.need, "cpu").find((c) => cells.includes(c))).filter(Boolean));
  const lines = reads.map(([level, gb]) => ({ points: [[x0, x0 * gb], [Math.min(x1, top / gb), Math.min(top, x1 * gb)]], color: "var(--muted)", dash: dashOf(level), title: `reading from ${level}, ${digits(gb)} GB/s, measured` }));
  lines.push({ points: [[x0, top], [x1, top]], label: `multiply-adds ${digits(top)} GFLOP/s`, first: true, title: "measured with " + S.machine.label });
  const marks = cells.map((c) => ({
    x: intensity(c), y: rate(c), color: colorOf(c.kernel), shape: SHAPES[c.guarantee] || "cross", hollow: DATA.kernels[c.kernel].effective,
    faint: !winners.has(c), label: winners.has(c) && winners.size <= 12 ? DATA.problems[c.problem].layer.slice(0, 24) : null,
    title: `${kernelName(c)} on ${DATA.problems[c.problem].layer}: ${UNITS.rate.text(c)} GFLOP/s, ${percent(ofRoof(c))} of the ceiling`,
  }));
  return [figure("Roofline", `Every kernel on every problem, ${whereText(S)}; in full colour the fastest that guarantees at least ${DATA.guarantees[S.need]}${winners.size > 12 ? " (filter problems to have them named, or point at a mark)" : ""}. FLOP are the definition's, bytes the compulsory ones (x, w, b once, y once). Hollow marks are effective rates (Winograd, FFT). Lines: ceilings measured on this machine with as many threads, float32.`,
    plot({ title: "roofline", x: { label: "FLOP per compulsory byte", log: true, text: digits }, y: { label: "effective GFLOP/s", log: true, text: digits }, marks, lines, high: 440 })), legend(S, cells, reads)];
}

const DASHES = { L1: "1 3", L2: "5 3", L3: "10 4" };
const dashOf = (level) => (Object.hasOwn(DASHES, level) ? DASHES[level] : "none");

function legend(S, cells, reads = []) {
  const backends = [...new Map(cells.map((c) => [kernelName(c).split("/")[0], colorOf(c.kernel)]))].sort();
  const shapes = [...new Set(cells.map((c) => Math.min(c.guarantee, WEAKEST + 1)))].sort();
  const mark = function (path, color, words, half = 7) {
    const svg = document.createElementNS(SVG, "svg");
    svg.setAttribute("viewBox", `${-half} -7 ${2 * half} 14`);
    svg.setAttribute("class", half > 7 ? "key long" : "key");
    draw(svg, "path", { d: path }, { fill: color, stroke: color });
    return el("li", null, svg, words);
  };
  return el("ul", { class: "legend" }, ...backends.map(([name, color]) => mark(PATHS.circle(5), color, name)),
    ...shapes.map((g) => mark(PATHS[SHAPES[g]](4.5), "var(--muted)", DATA.guarantees[g] || "not recorded")),
    ...reads.map(function ([level, gb]) {
      const item = mark("M-15,0H15", "var(--muted)", `reading from ${level}, ${digits(gb)} GB/s`, 15);
      item.querySelector("path").setAttribute("stroke-dasharray", dashOf(level));
      return item;
    }));
}

const KNOBS = { N: "batch N", C: "input channels C", K: "output channels K", H: "height and width H", R: "filter size R" };

function scalingView(S) {
  const kind = { ...S, batch: "all" }; // a family over N has all batches
  const families = S.machine.families.filter((f) => f.problems.every((q) => ofKind(f.knob === "N" ? kind : S, q)) && f.problems.filter((q) => race(S.machine, S.scenario, q, S.need).length).length >= 3);
  if (!families.length) return [el("p", null, "No three problems of this machine differ in one letter alone; the set ladder does: ", command("python -m benchmarks compare --problems ladder"), ".")];
  const seen = {};
  const shown = families.filter((f) => (seen[f.knob] = (seen[f.knob] || 0) + 1) <= 1);
  return [
    el("p", { class: "explain" }, `One letter grows, all others stay. Effective GFLOP/s, ${whereText(S)}: a kernel that scales stays level. In colour: the fastest at either end with at least ${DATA.guarantees[S.need]}, and the baseline; thin: all others.`),
    el("div", { class: "two" }, ...shown.map((family) => scalingFigure(S, family))),
  ];
}

function scalingFigure(S, family) {
  const kernels = new Map();
  family.problems.forEach((q, i) => race(S.machine, S.scenario, q, S.need).forEach((c) => {
    if (rate(c) === null || !holds(kernelName(c), S.kernels)) return;
    if (!kernels.has(c.kernel)) kernels.set(c.kernel, []);
    kernels.get(c.kernel).push([family.values[i], rate(c), c]);
  }));
  const full = [...kernels].filter(([, points]) => points.length >= 2);
  const ranked = (at) => [...full].filter(([, ps]) => ps.some((p) => p[0] === at)).sort((a, b) => b[1].find((p) => p[0] === at)[1] - a[1].find((p) => p[0] === at)[1]);
  const leads = new Set([...ranked(family.values[0]).slice(0, 2), ...ranked(family.values[family.values.length - 1]).slice(0, 2)].map((e) => e[0]));
  leads.add(S.baseline);
  const lines = full.map(([kernel, points]) => ({ points: points.map((p) => [p[0], p[1]]), color: leads.has(kernel) ? colorOf(kernel) : "var(--muted)", faint: !leads.has(kernel), label: leads.has(kernel) ? DATA.kernels[kernel].name : null, title: DATA.kernels[kernel].name }));
  const marks = full.filter(([k]) => leads.has(k)).flatMap(([kernel, points]) => points.map(([x, y, c]) => ({ x, y, color: colorOf(kernel), shape: SHAPES[c.guarantee] || "cross", title: `${kernelName(c)} on ${DATA.problems[c.problem].layer}: ${UNITS.rate.text(c)} GFLOP/s, ${secondsText(c.seconds)}` })));
  return figure(KNOBS[family.knob], DATA.problems[family.problems[0]].name + " and so on", plot({ title: "scaling over " + KNOBS[family.knob], wide: 560, high: 320, margin: 130,
    x: { label: KNOBS[family.knob], log: true, text: String, ticks: family.values }, y: { label: "effective GFLOP/s", log: true, text: digits }, marks, lines }));
}

function priceView(S) {
  const problems = problemsOf(S);
  const rows = kernelsOf(S, problems).filter((r) => r.overall);
  const marks = rows.map(function (row) {
    const mine = S.machine.list.filter((c) => c.ran && c.kernel === row.kernel && c.scenario === S.scenario);
    const score = Math.max(...mine.map((c) => c.score || 0));
    return score > 0 ? { x: row.overall.mid, y: score, color: colorOf(row.kernel), shape: SHAPES[mine[0].guarantee] || "cross", faint: !row.fit, label: DATA.kernels[row.kernel].name, title: `${DATA.kernels[row.kernel].name} (${row.guarantee}): ${speedText(row.overall.mid)}, error ${digits(score)} u·A`, cell: mine[0] } : null;
  }).filter(Boolean);
  if (marks.length < 2) return [el("p", null, "Fewer than two kernels ran on all problems of the baseline with an error that was recorded. Filter problems to compare kernels that run on some only.")];
  return [figure("Error against speed", `What accuracy costs, ${whereText(S)}: geometric mean of the speed over the problems shown, against the largest error of all of them, in units of u·A. Low and to the right is better; pale: guarantees less than ${DATA.guarantees[S.need]}. Only kernels that ran on every problem shown stand here; a filter of problems lets others in.`,
    plot({ title: "error against speed", high: 420, margin: 60, x: { label: "speed against " + DATA.kernels[S.baseline].name, log: true, text: speedText, include: 1 }, y: { label: "largest error, u·A", log: true, text: digits }, marks,
      lines: [] })), legend(S, marks.map((m) => m.cell))];
}

function costView(S) {
  const problems = problemsOf(S);
  if (!problems.length) return [el("p", null, "No problem is shown.")];
  const problem = S.cell && problems.includes(S.cell.problem) ? S.cell.problem : problems.reduce((a, b) => (DATA.problems[b].flops > DATA.problems[a].flops ? b : a));
  const rows = race(S.machine, S.scenario, problem, S.need).filter((c) => c.plan !== null && holds(kernelName(c), S.kernels)).map(function (c) {
    const backend = kernelName(c).split("/")[0], imported = Object.hasOwn(S.machine.imports, backend) ? S.machine.imports[backend] : undefined;
    const start = (imported || 0) + c.plan + (c.pack || 0) + (c.transfer || 0) + (c.first || 0);
    return { c, imported: imported === undefined ? null : imported, start };
  }).sort((a, b) => a.start - b.start);
  if (!rows.length) return [el("p", null, "No start-up cost was recorded here.")];
  let last = null;
  for (const row of rows)
    if (!last || row.c.seconds < last.c.seconds) {
      row.over = last;
      row.calls = last ? Math.max(0, Math.ceil((row.start - last.start) / (last.c.seconds - row.c.seconds))) : 0;
      row.front = true;
      last = row;
    }
  const most = Math.max(100, ...rows.map((r) => 10 * (r.calls || 0)));
  const counts = Array.from({ length: 40 }, (_, i) => most ** (i / 39));
  const lines = rows.filter((r) => r.c.seconds < 50 * last.c.seconds).map((r) => ({ points: counts.map((n) => [n, r.start + (n - 1) * r.c.seconds]), color: r.front ? colorOf(r.c.kernel) : "var(--muted)", faint: !r.front, label: r.front ? kernelName(r.c) : null, title: kernelName(r.c) }));
  const columns = [
    { head: "kernel", node: (r) => [code(kernelName(r.c))], key: (r) => kernelName(r.c) },
    { head: "import", n: true, text: (r) => secondsText(r.imported), key: (r) => r.imported || 0 },
    { head: "plan", n: true, text: (r) => secondsText(r.c.plan), key: (r) => r.c.plan },
    { head: "pack", n: true, text: (r) => secondsText(r.c.pack), key: (r) => r.c.pack || 0 },
    { head: "transfer", n: true, text: (r) => secondsText(r.c.transfer), key: (r) => r.c.transfer || 0 },
    { head: "first call", n: true, text: (r) => secondsText(r.c.first), key: (r) => r.c.first || 0 },
    { head: "start in all", n: true, text: (r) => secondsText(r.start), key: (r) => r.start },
    { head: "then a call", n: true, text: (r) => secondsText(r.c.seconds), key: (r) => r.c.seconds },
    { head: "pays off", key: (r) => (r.front ? r.calls : Infinity), text: (r) => (r.over ? `overtakes ${kernelName(r.over.c)} after ${r.calls.toLocaleString("en-US")} calls` : r.front ? "quickest to start" : "never: another is quicker to start and to run") },
  ];
  return [
    el("p", { class: "explain" }, "From nothing to a fast call, on ", ...problemLabel(problem), ` (press another cell to change it), ${S.machine.label}. Compilation caches were warm; `,
      rows.some((r) => r.imported !== null) ? "import is of the library. " : "the import of the library was not recorded. ", command("python -m benchmarks cost"), " measures cold starts too."),
    sortable("cost", columns, rows, { start: 6 }),
    figure("Break-even", "Total time of the start and so many calls. In colour: kernels that are the best choice for some number of calls.", plot({ title: "break-even", margin: 130, x: { label: "calls", log: true, text: digits }, y: { label: "total time", log: true, text: secondsText }, lines })),
  ];
}

// --- history -------------------------------------------------------------------------------------

function tracksOf(cell) {
  return DATA.history.filter((t) => t.machine === cell.machine.label || (t.method !== "compare" && t.machine === cell.machine.name))
    .map((t) => series(t).find((s) => s.kernel === cell.kernel && s.problem === cell.problem && s.scenario === cell.scenario)).filter(Boolean);
}

function historyFigure(S, cell) {
  const found = tracksOf(cell);
  return found.length ? timeline(found[0]) : null;
}

function timeline(s) {
  const at = DATA.history.indexOf(s.track);
  const steps = DATA.steps.filter((d) => d[0] === at && d[1] === s.kernel && d[2] === s.problem && d[3] === s.scenario);
  const marks = s.values.map((v, i) => (v === null ? null : { x: i, y: v, color: colorOf(s.kernel), title: `${s.track.commits[i][0]}, ${s.track.commits[i][1]}: ${secondsText(v)}` })).filter(Boolean);
  const lines = [{ points: marks.map((m) => [m.x, m.y]), color: colorOf(s.kernel), faint: true }];
  const place = (commit) => s.track.commits.findIndex((c) => c[0] === commit);
  for (const d of steps) {
    const x = place(d[5]) - 0.5;
    lines.push({ points: [[x, d[6]], [x, d[7]]], color: "var(--bad)", title: `${change(d)} with ${d[5]}`, label: change(d) });
  }
  const every = Math.ceil(s.track.commits.length / 6);
  const ticks = s.track.commits.map((_, i) => i).filter((i) => i % every === 0);
  return figure("Over commits", `${DATA.kernels[s.kernel].name} on ${DATA.problems[s.problem].layer}, ${s.scenario}, ${s.track.machine}, by ${s.track.method}` + (steps.length ? "; red: steps" : "; no step was found") + (s.track.left_out ? `; ${s.track.left_out} commits between are not shown` : "") + ".",
    plot({ title: "time over commits", wide: 560, high: 280, margin: 90, x: { label: "commit, oldest first", flush: true, ticks, text: (i) => s.track.commits[i][0].slice(0, 7) }, y: { label: "time of a call", log: true, text: secondsText }, marks, lines }));
}

function change(d) {
  return d[7] > d[6] ? `${(d[7] / d[6]).toFixed(2)}× slower` : `${(d[6] / d[7]).toFixed(2)}× faster`;
}

function historyView(S) {
  if (!DATA.history.length) return [el("p", null, "No machine has been measured at two commits yet: there is no history to show. asv's detector is deaf to small steps in short series; ", command("python -m benchmarks regress"), " is the gate.")];
  const rows = DATA.steps.filter((d) => holds(DATA.kernels[d[1]].name, S.kernels) && holds(DATA.problems[d[2]].layer + " " + DATA.problems[d[2]].name, S.problems));
  const columns = [
    { head: "commits", node: (d) => [el("code", { class: "word" }, `${d[4].slice(0, 8)}..${d[5].slice(0, 8)}`)], key: (d) => DATA.history[d[0]].commits.findIndex((c) => c[0] === d[5]) },
    { head: "kernel", node: (d) => [code(DATA.kernels[d[1]].name)], key: (d) => DATA.kernels[d[1]].name },
    { head: "problem", class: "named", node: (d) => problemLabel(d[2]), key: (d) => DATA.problems[d[2]].layer },
    { head: "scenario", text: (d) => d[3] },
    { head: "before", n: true, text: (d) => secondsText(d[6]), key: (d) => d[6] },
    { head: "after", n: true, text: (d) => secondsText(d[7]), key: (d) => d[7] },
    { head: "change", n: true, text: change, key: (d) => d[7] / d[6] },
    { head: "fingerprint that moved", text: (d) => (d[8].length ? d[8].join("; ") : DATA.history[d[0]].method === "compare" ? "none: the same machine code ran, so suspect the machine" : "asv records none") },
    { head: "machine, method", text: (d) => `${DATA.history[d[0]].machine}, ${DATA.history[d[0]].method}` },
  ];
  const host = el("div", { id: "timeline" });
  const show = (d) => host.replaceChildren(timeline(series(DATA.history[d[0]]).find((s) => s.kernel === d[1] && s.problem === d[2] && s.scenario === d[3])));
  if (rows.length) show(rows[0]);
  const commits = Math.max(...DATA.history.map((t) => t.commits.length + t.left_out));
  return [
    el("p", { class: "explain" }, `${DATA.steps.length} ${DATA.steps.length === 1 ? "step" : "steps"} in at most ${commits} commits, found by asv's detector, which is deaf to small ones: `, command("python -m benchmarks regress"), ` is the gate. Press a step for its timeline; a cell's own timeline stands beside its samples. Runs of different commits were not interleaved: where no fingerprint moved, the machine itself may have changed.`),
    rows.length ? sortable("steps", columns, rows, { press: show }) : el("p", null, "No step was found."), host,
  ];
}
