// The controls, the state they set, and which sections are drawn again when it changes.

const by = (id) => document.getElementById(id);
const S = { machine: DATA.machines[0], scenario: null, layout: null, batch: null, unit: "speed", baseline: -1, asked: -1, need: 0, kernels: "", problems: "", cell: null };
const SECTIONS = {
  winners: winnersView, heat: heatView, cell: cellView, table: tableView, roof: roofView, scaling: scalingView,
  price: priceView, cost: costView, history: historyView,
};
const stale = new Set(), visible = new Set();

// Only what is on the screen is drawn at once; the rest when it comes into sight, or is printed.
function render(name) {
  stale.delete(name);
  by(name).replaceChildren(...SECTIONS[name](S).filter(Boolean));
}

function update(...names) {
  for (const name of names.length ? names : Object.keys(SECTIONS)) stale.add(name);
  for (const name of [...stale]) if (visible.has(name)) render(name);
  remember();
}

const watcher = new IntersectionObserver(function (entries) {
  for (const entry of entries) {
    const name = entry.target.dataset.view;
    if (entry.isIntersecting) visible.add(name);
    else visible.delete(name);
    if (entry.isIntersecting && stale.has(name)) render(name);
  }
}, { rootMargin: "600px" });

// Figures are drawn for a width.
let wide = document.documentElement.clientWidth, waiting = null;
addEventListener("resize", function () {
  clearTimeout(waiting);
  waiting = setTimeout(function () {
    if (wide === document.documentElement.clientWidth || !DATA.machines.length) return;
    wide = document.documentElement.clientWidth;
    update("cell", "roof", "scaling", "price", "cost", "history");
  }, 150);
});

addEventListener("beforeprint", () => [...stale].forEach(render));

function choose(cell) {
  S.cell = cell;
  const held = document.activeElement;
  const at = held && held.matches("#heat td") ? [held.parentNode.rowIndex, held.cellIndex] : null;
  update("cell", "heat", "cost");
  by("cell-section").hidden = false;
  by("cell-section").scrollIntoView({ block: "nearest" });
  if (at) {
    const again = by("heat").querySelector("table").rows[at[0]].cells[at[1]];
    again.tabIndex = 0;
    again.focus({ preventScroll: true });
  }
}

// --- controls ------------------------------------------------------------------------------------

function options(select, entries, chosen) {
  select.replaceChildren(...entries.map(([value, words]) => el("option", { value, selected: value === chosen }, words)));
}

function kernelAt(name) {
  return DATA.kernels.findIndex((k) => k.name === name);
}

function setMachine(index) {
  S.machine = DATA.machines[index] || DATA.machines[0];
  S.cell = null;
  setScenario(S.machine.scenarios.includes(S.scenario) ? S.scenario : S.machine.scenarios[0]);
}

function setScenario(scenario) {
  S.scenario = scenario;
  options(by("scenario"), S.machine.scenarios.map((s) => [s, s]), scenario);
  setKind();
  setBaseline();
}

// The kernel that was asked for where it ran; else the records' own; else a library's that ran on most problems.
function setBaseline() {
  const shown = new Set(problemsOf({ ...S, problems: "" })), ran = new Map();
  for (const c of S.machine.list) if (c.ran && c.scenario === S.scenario && shown.has(c.problem)) ran.set(c.kernel, (ran.get(c.kernel) || 0) + 1);
  const names = [...ran.keys()].map((k) => DATA.kernels[k].name).sort();
  const builtin = names.filter((n) => n.endsWith("/builtin"));
  const most = (builtin.length ? builtin : names).reduce((a, b) => (ran.get(kernelAt(b)) > ran.get(kernelAt(a)) ? b : a), (builtin.length ? builtin : names)[0]);
  S.baseline = [S.asked, kernelAt(S.machine.baseline), kernelAt(most)].find((k) => ran.has(k)) ?? -1;
  options(by("baseline"), names.map((n) => [n, n]), S.baseline >= 0 ? DATA.kernels[S.baseline].name : undefined);
}

// Layout and batch: what was chosen where the machine has it; else all, or that of most problems where there are many of another.
function setKind() {
  const problems = [...new Set(S.machine.list.filter((c) => c.scenario === S.scenario).map((c) => c.problem))];
  for (const [name, of] of [["layout", (p) => p.group], ["batch", (p) => String(p.batch)]]) {
    const count = new Map();
    for (const q of problems) count.set(of(DATA.problems[q]), (count.get(of(DATA.problems[q])) || 0) + 1);
    const values = [...count.keys()].sort((a, b) => a.localeCompare(b, "en", { numeric: true }));
    const most = values.reduce((a, b) => (count.get(b) > count.get(a) ? b : a), values[0]);
    if (S[name] !== "all" && !count.has(S[name])) S[name] = values.length === 1 || count.get(most) < 0.75 * problems.length ? most : "all";
    options(by(name), [...values.map((v) => [v, v]), ["all", "all"]], S[name]);
    by(name).parentNode.hidden = values.length < 2;
  }
}

const MEANINGS = {
  elementwise: "each output within the float32 bound", tilewise: "a bound on each tile: Winograd too",
  normwise: "a bound on the whole plane: FFT too",
  tf32: "TF32 products too", half: "half precision too",
};

function sayNeed() {
  const word = DATA.guarantees[S.need];
  by("need").value = String(WEAKEST - S.need);
  by("need").setAttribute("aria-valuetext", word);
  by("need-word").textContent = word;
  by("need-means").textContent = MEANINGS[word] || "";
}

function setUnit(unit) {
  S.unit = Object.hasOwn(UNITS, unit) ? unit : "speed";
  for (const b of document.querySelectorAll("[data-unit]")) b.setAttribute("aria-pressed", String(b.dataset.unit === S.unit));
}

// The address keeps the view, so that a link shows what its sender saw.
function remember() {
  const told = new URLSearchParams({ m: DATA.machines.indexOf(S.machine), s: S.scenario, l: S.layout, n: S.batch, u: S.unit, b: S.asked >= 0 ? DATA.kernels[S.asked].name : "", a: DATA.guarantees[S.need], k: S.kernels, p: S.problems });
  for (const [key, value] of [...told]) if (!value) told.delete(key);
  try { history.replaceState(null, "", "#" + told); } catch { /* some viewers forbid it; the page works without */ }
}

function recall() {
  const told = new URLSearchParams(location.hash.slice(1));
  S.scenario = told.get("s");
  S.layout = told.get("l");
  S.batch = told.get("n");
  S.asked = kernelAt(told.get("b"));
  S.need = Math.max(0, DATA.guarantees.indexOf(told.get("a")));
  S.kernels = told.get("k") || "";
  S.problems = told.get("p") || "";
  setMachine(Number(told.get("m")) || 0);
  setUnit(told.get("u"));
}

// Tables that stand in the page from the start: a heading becomes a button, numbers go by data-sort.
function sortStatic(table) {
  const value = function (row, column) {
    const cell = row.cells[column];
    const said = !cell ? "" : cell.dataset.sort !== undefined ? cell.dataset.sort : cell.textContent.trim();
    return said !== "" && Number.isFinite(Number(said)) ? Number(said) : said;
  };
  const compare = (a, b) => (typeof a === "number" && typeof b === "number" ? a - b : typeof a === typeof b ? a.localeCompare(b) : typeof a === "number" ? -1 : 1);
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach(function (head, column) {
    const button = el("button", { type: "button" }, ...head.childNodes);
    head.append(button);
    button.addEventListener("click", function () {
      const up = head.getAttribute("aria-sort") !== "ascending";
      for (const other of heads) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      table.tBodies[0].append(...[...table.tBodies[0].rows].sort((a, b) => (up ? 1 : -1) * compare(value(a, column), value(b, column))));
    });
  });
}

function start() {
  document.querySelectorAll("table.sortable").forEach(sortStatic);
  by("theme").addEventListener("click", function () {
    const root = document.documentElement, dark = matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = (root.dataset.theme || (dark ? "dark" : "light")) === "dark" ? "light" : "dark";
  });
  if (!DATA.machines.length) return;
  recall();
  options(by("machine"), DATA.machines.map((m, i) => [String(i), m.label]), String(DATA.machines.indexOf(S.machine)));
  sayNeed();
  by("kernels").value = S.kernels;
  by("problems").value = S.problems;
  by("machine").addEventListener("change", (e) => { setMachine(Number(e.target.value)); update(); });
  by("scenario").addEventListener("change", (e) => { setScenario(e.target.value); update(); });
  for (const name of ["layout", "batch"]) by(name).addEventListener("change", (e) => { S[name] = e.target.value; setBaseline(); update(); });
  by("baseline").addEventListener("change", (e) => { S.baseline = S.asked = kernelAt(e.target.value); update(); });
  by("need").addEventListener("input", (e) => { S.need = WEAKEST - Number(e.target.value); sayNeed(); update(); });
  for (const name of ["kernels", "problems"]) by(name).addEventListener("input", (e) => { S[name] = e.target.value; update(); });
  for (const b of document.querySelectorAll("[data-unit]")) b.addEventListener("click", () => { setUnit(b.dataset.unit); update("heat"); });
  for (const name of Object.keys(SECTIONS)) {
    by(name).dataset.view = name;
    stale.add(name);
    watcher.observe(by(name));
  }
}

start();
