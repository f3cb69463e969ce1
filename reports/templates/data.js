"use strict";
// The data of the page, and the statistics that a change of baseline or of required accuracy needs.

const DATA = JSON.parse(document.getElementById("data").textContent);
const WEAKEST = DATA.guarantees.length - 1;
const FEWEST = 3; // rounds that agree, below which no difference is called one

// Cells of a machine as objects, by scenario, problem and kernel.
function unpack(machine) {
  const columns = machine.cells;
  const kernels = columns.kernel || [];
  const find = new Map(), races = new Map();
  const cells = kernels.map(function (kernel, i) {
    const get = (name) => (columns[name] ? columns[name][i] : null);
    const why = get("why");
    const seconds = get("seconds");
    const away = (v, step) => (v === null ? null : seconds * Math.exp(v / step));
    const cell = {
      kernel, problem: get("problem"), scenario: machine.scenarios[get("scenario")], source: get("source"), ran: why === null,
      group: why === null ? "ran" : DATA.reasons[why][0], status: why === null ? "ok" : DATA.reasons[why][1],
      why: why === null ? "" : DATA.reasons[why][2], seconds, low: get("low"), high: get("high"),
      rounds: (get("rounds") || []).map((v) => away(v, 1e5)),
      quartiles: (get("quartiles") || []).map((v) => away(v, 1e3)),
      samples: (get("samples") || []).map((values) => values.map((v) => away(v, 1e3))),
      score: get("score"), error: get("error"), workspace: get("workspace"), plan: get("plan"), pack: get("pack"),
      transfer: get("transfer"), first: get("first"), device: get("device"), guarantee: get("guarantee"),
      fingerprint: get("fingerprint"), machine,
    };
    const race = cell.scenario + "/" + cell.problem;
    find.set(race + "/" + kernel, cell);
    if (!races.has(race)) races.set(race, []);
    races.get(race).push(cell);
    return cell;
  });
  const roofs = new Map(machine.roofs.map(([problem, rate, binds]) => [problem, { rate, binds }]));
  for (const race of races.values()) race.sort((a, b) => a.seconds - b.seconds || DATA.kernels[a.kernel].name.localeCompare(DATA.kernels[b.kernel].name));
  return Object.assign(machine, { list: cells, find, races, roof: roofs });
}

DATA.machines.forEach(unpack);

// (low, high) for the median from order statistics, by the rule that wrote the records.
function interval(values) {
  const v = values.slice().sort((a, b) => a - b);
  const n = v.length;
  let tail = 0, best = 0, choose = 1;
  for (let k = 0; k < Math.floor(n / 2); k++) {
    tail += choose / 2 ** n;
    if (1 - 2 * tail >= 0.95) best = k;
    choose = (choose * (n - k)) / (k + 1);
  }
  return [v[best], v[n - 1 - best]];
}

function median(values) {
  const v = values.slice().sort((a, b) => a - b);
  const half = v.length >> 1;
  return v.length % 2 ? v[half] : (v[half - 1] + v[half]) / 2;
}

function summary(values) {
  if (!values.length) return null;
  const [low, high] = interval(values);
  return { mid: median(values), low, high, n: values.length };
}

// How many times faster ``quick`` is, round by round; only rounds that both have.
function speeds(slow, quick) {
  const found = [];
  if (slow.ran && quick.ran)
    for (let i = 0; i < Math.min(slow.rounds.length, quick.rounds.length); i++)
      if (slow.rounds[i] !== null && quick.rounds[i] !== null) found.push(slow.rounds[i] / quick.rounds[i]);
  return found;
}

// What the interval of so many rounds is worth, by the same rule.
function confidence(n) {
  let tail = 0, choose = 1, best = 0, told = 0;
  for (let k = 0; k < Math.floor(n / 2); k++) {
    tail += choose / 2 ** n;
    if (k === 0 || 1 - 2 * tail >= 0.95) [best, told] = [k, 1 - 2 * tail];
    choose = (choose * (n - k)) / (k + 1);
  }
  return told;
}

function certain(s) {
  return s !== null && s.n >= FEWEST && !(s.low <= 1 && 1 <= s.high);
}

// "faster", "slower", "cannot tell", or "baseline".
function verdict(s) {
  if (s === null) return "not compared";
  if (s.low === 1 && s.high === 1) return "baseline";
  return certain(s) ? (s.low > 1 ? "faster" : "slower") : "cannot tell";
}

// All cells of one problem that guarantee enough, quickest first; those on one device only.
function race(machine, scenario, problem, need, device) {
  return (machine.races.get(scenario + "/" + problem) || [])
    .filter((c) => c.ran && c.guarantee <= need && (!device || DATA.kernels[c.kernel].device === device));
}

// The fastest, those that the rounds cannot tell from it, and the first that is told apart.
function outcome(ranked) {
  if (!ranked.length) return null;
  const best = ranked[0];
  const rest = ranked.slice(1).map((cell) => ({ cell, ahead: summary(speeds(cell, best)) }));
  return { best, ties: rest.filter((r) => !certain(r.ahead)), next: rest.find((r) => certain(r.ahead)) || null };
}

// Geometric mean of the speed over all problems of the baseline, by round; null where some are missing.
function overall(machine, scenario, kernel, baseline, problems) {
  const pairs = [];
  for (const problem of problems) {
    const base = machine.find.get(scenario + "/" + problem + "/" + baseline);
    if (!base || !base.ran) continue;
    const mine = machine.find.get(scenario + "/" + problem + "/" + kernel);
    if (!mine || !mine.ran) return null;
    pairs.push([base, mine]);
  }
  if (!pairs.length) return null;
  const values = [];
  for (let i = 0; i < Math.min(...pairs.flat().map((c) => c.rounds.length)); i++)
    if (pairs.every(([a, b]) => a.rounds[i] !== null && b.rounds[i] !== null))
      values.push(Math.exp(pairs.reduce((sum, [a, b]) => sum + Math.log(a.rounds[i] / b.rounds[i]), 0) / pairs.length));
  return summary(values);
}

// GFLOP/s by the definition's count, whatever the algorithm did; and the part of the machine's roof.
function rate(cell) {
  const flops = DATA.problems[cell.problem].flops;
  return cell.ran && flops ? flops / cell.seconds / 1e9 : null;
}

function ofRoof(cell) {
  const roof = cell.machine.roof.get(cell.problem);
  const value = rate(cell);
  return roof && value !== null && DATA.kernels[cell.kernel].device === "cpu" ? value / roof.rate : null;
}

// A history is 16-bit distances from a first value; -32768 is a commit without a value.
function series(track) {
  if (track.list) return track.list;
  const bytes = Uint8Array.from(atob(track.values), (c) => c.charCodeAt(0));
  const steps = new DataView(bytes.buffer);
  const n = track.commits.length;
  track.list = track.first.map(function (first, i) {
    const values = [];
    for (let j = 0; j < n; j++) {
      const step = steps.getInt16(2 * (i * n + j), true);
      values.push(step === -32768 ? null : first * Math.exp(step / 2000));
    }
    return {
      track, kernel: track.keys[3 * i], problem: track.keys[3 * i + 1],
      scenario: track.scenarios[track.keys[3 * i + 2]], values,
    };
  });
  return track.list;
}

// --- numbers as words ---------------------------------------------------------------------------

const NOTHING = "–";

function digits(value) {
  if (value >= 999.5) return value < 1e6 ? Math.round(value).toLocaleString("en-US") : value.toPrecision(3);
  return String(Number(value.toPrecision(3)));
}

function secondsText(seconds) {
  if (seconds === null || seconds === undefined) return NOTHING;
  for (const [factor, unit] of [[1, "s"], [1e3, "ms"], [1e6, "µs"]])
    if (seconds * factor >= 0.9995) return digits(seconds * factor) + " " + unit;
  return digits(seconds * 1e9) + " ns";
}

function rangeText(low, high) {
  if (low === null || high === null) return NOTHING;
  const a = secondsText(low), b = secondsText(high);
  return (a.split(" ")[1] === b.split(" ")[1] ? a.split(" ")[0] : a) + " – " + b;
}

function speedText(speed) {
  if (speed === null) return NOTHING;
  if (speed >= 99.95) return Math.round(speed).toLocaleString("en-US") + "×";
  if (speed >= 9.995) return speed.toFixed(1) + "×";
  return (speed >= 0.0995 ? speed.toFixed(2) : Number(speed.toPrecision(2))) + "×";
}

const roundsOf = (cell) => cell.rounds.filter((v) => v !== null).length;

// The interval of a cell's median; one round has none.
function intervalText(cell) {
  return cell.ran && roundsOf(cell) === 1 ? "1 round" : rangeText(cell.low, cell.high);
}

function speedRange(s) {
  if (s !== null && s.n === 1 && s.mid !== 1) return "1 round";
  if (s === null || (s.low === 1 && s.high === 1)) return NOTHING;
  return speedText(s.low).slice(0, -1) + " – " + speedText(s.high);
}

function bytesText(count) {
  if (count === null) return NOTHING;
  for (const [factor, unit] of [[2 ** 30, "GiB"], [2 ** 20, "MiB"], [2 ** 10, "KiB"]])
    if (count >= factor) return (count / factor).toFixed(1) + " " + unit;
  return count + " B";
}

function percent(part) {
  return part === null ? NOTHING : (part >= 0.1 ? (100 * part).toFixed(0) : (100 * part).toPrecision(2)) + " %";
}

const plain = (value) => (value === null ? NOTHING : digits(value));
