"""The coordinator: every library in a process of its own, cells shuffled and interleaved over rounds.

One measurement at a time: while a worker measures, the others are stopped. Each round uses fresh processes
and fresh data, and the round, not the sample, is the unit of evidence: a cell's time is the median of its
rounds' medians, its interval the one that the order of those medians gives without assuming a distribution.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import queue
import random
import signal
import statistics
import subprocess
import sys
import threading
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from time import monotonic
from typing import Any

from convzoo import Conv2d

from . import ceilings, hardware, plausibility
from .problems import Layer
from .record import ROOT, Record
from .stopwatch import Effort
from .worker import thread_environment

GPU_BACKENDS = (
    "numba_cuda",
    "cupy",
    "torch_cuda",
    "torch_mps",
)  # the host's ceilings say nothing there
SETTLED = 0.02  # a cell whose interval is this narrow needs no further round


@dataclass(frozen=True)
class Preset:
    """Sampling, and which problems; never a kernel's or a problem's parameters."""

    effort: Effort
    rounds: tuple[int, int]
    seconds: float  # rounds beyond the fewest are begun only within this time


PRESETS = {
    "quick": Preset(Effort(0.004, 0.01, 0.05, 3, 15), (3, 6), 75),
    "standard": Preset(Effort(0.01, 0.03, 0.2, 3, 30), (6, 12), 1200),
    "full": Preset(Effort(0.02, 0.05, 0.4, 5, 30), (6, 24), 5400),
}


def preset(name: str, rounds: int | None, seconds: float | None) -> Preset:
    """A preset by name, with the number of rounds or the time replaced where they are given."""
    found = PRESETS[name]
    return replace(
        found,
        rounds=(rounds, rounds) if rounds else found.rounds,
        seconds=seconds if seconds else found.seconds,
    )


@dataclass
class Cell:
    """One kernel on one problem in one scenario, and what its rounds said."""

    kernel: str
    layer: Layer
    scenario: str
    rounds: dict[int, dict[str, Any]] = field(default_factory=dict)
    status: str = "ok"
    why: str = ""
    path: str | None = None  # of a kernel's file outside the catalog

    @property
    def backend(self) -> str:
        return self.kernel.partition("/")[0]

    @property
    def key(self) -> dict[str, str]:
        return {"kernel": self.kernel, "problem": str(self.layer.problem), "scenario": self.scenario}

    @property
    def medians(self) -> dict[int, float]:
        return {i: reply["seconds"] for i, reply in self.rounds.items() if reply["status"] == "ok"}

    def settled(self) -> bool:
        found = list(self.medians.values())
        if len(found) < 6:  # fewer rounds cannot give 95 % confidence
            return False
        low, high, _ = interval(found)
        return high / low - 1 <= SETTLED


def interval(values: Iterable[float]) -> tuple[float, float, float]:
    """(low, high, confidence) for the median, from order statistics: no distribution is assumed.

    The narrowest pair of order statistics that holds the median with 95 %; with fewer than six values
    the whole range, and the confidence says what that is worth (sign test; e.g. Conover, Practical
    Nonparametric Statistics, 3e, section 3.2).
    """
    v = sorted(values)
    n, tail, best = len(v), 0.0, 0
    for k in range(n // 2):
        tail += math.comb(n, k) / 2**n
        if 1 - 2 * tail >= 0.95:
            best = k
    outside = 2 * sum(math.comb(n, k) for k in range(best + 1)) / 2**n
    return v[best], v[n - 1 - best], max(0.0, 1 - outside)


class Worker:
    """A process that serves one backend; stopped whenever it is not asked."""

    def __init__(
        self, backend: str, threads: int, python: str = sys.executable, kernels: Path | None = None
    ):
        paths = {"PYTHONPATH": python_path(kernels)}
        environment = os.environ | thread_environment(threads) | paths
        environment.setdefault("CONVZOO_MEMORY_LIMIT", str(hardware.cell_memory()))
        command = [python, "-m", "benchmarks.worker", backend]
        self._process = subprocess.Popen(
            command, cwd=ROOT, env=environment, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C belongs to the coordinator, which keeps what is finished
        )  # fmt: skip
        self._replies: queue.Queue[str] = queue.Queue()
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()
        self.about: dict[str, str] = {}

    def _listen(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                self._replies.put(line)
        self._replies.put("")

    def greet(self, timeout: float) -> dict[str, Any]:
        """Wait until the library is imported; its versions, or why the worker is lost."""
        hello = self._reply(timeout)
        self.about = hello.get("about", {})
        self._signal("suspend")
        return hello

    def ask(self, request: dict[str, Any], timeout: float) -> dict[str, Any]:
        """The reply, or status crashed or timeout, after which this worker is of no more use."""
        assert self._process.stdin is not None
        self._signal("resume")
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        except OSError:
            return {"status": "crashed", "why": self._obituary(), "lost": True}
        reply = self._reply(timeout)
        self._signal("suspend")
        return reply

    def _reply(self, timeout: float) -> dict[str, Any]:
        ends, line = monotonic() + timeout, None
        while line is None:
            with contextlib.suppress(queue.Empty):
                line = self._replies.get(timeout=max(0.0, min(0.5, ends - monotonic())))
            if line is None and self._process.poll() is not None and self._replies.empty():
                line = ""  # a child that it left behind holds the pipe open: no end will come
            elif line is None and monotonic() >= ends:
                self.close()
                return {"status": "timeout", "why": f"no answer within {timeout:.0f} s", "lost": True}
        if not line:
            return {"status": "crashed", "why": self._obituary(), "lost": True}
        return json.loads(line)

    def _obituary(self) -> str:
        code = self._process.wait(10)
        return f"the process died of signal {-code}" if code < 0 else f"the process ended with {code}"

    def _signal(self, what: str) -> None:
        import psutil

        with contextlib.suppress(psutil.NoSuchProcess):
            getattr(psutil.Process(self._process.pid), what)()

    def close(self) -> None:
        """End the process and whatever it has started, which would hold the pipe open."""
        with contextlib.suppress(
            OSError, AttributeError
        ):  # it is a session, and so a group, of its own
            os.killpg(self._process.pid, signal.SIGKILL)
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        self._listener.join(5)  # closes the pipe that it reads; only it can
        with contextlib.suppress(OSError):
            if self._process.stdin is not None:
                self._process.stdin.close()


def python_path(kernels: Path | None = None) -> str:
    """The tree this coordinator runs from, so that workers import the same code, installed or not.

    ``kernels`` is the source root of another tree whose convzoo is to be measured by this harness.
    """
    found = [str(kernels or ROOT / "kernels"), str(ROOT), os.environ.get("PYTHONPATH", "")]
    return os.pathsep.join(filter(None, found))


@dataclass
class Sweep:
    """A run in progress: cells, settings, and where its record goes."""

    cells: list[Cell]
    preset: Preset
    threads: int
    seed: int
    record: Record
    timeout: float = 120.0
    raw: bool = False
    progress: Any = None
    ceilings: dict[str, Any] = field(default_factory=dict)
    about: dict[str, dict[str, str]] = field(default_factory=dict)
    imports: dict[str, float] = field(default_factory=dict)  # seconds, the least of any round
    interrupted: bool = False

    def run(self) -> None:
        """All rounds. Ctrl-C ends the sweep early; finished rounds stay."""
        started = monotonic()
        fewest, most = self.preset.rounds
        try:
            for i in range(most):
                live = [
                    c for c in self.cells if c.status == "ok" and not c.settled() and i not in c.rounds
                ]
                if not live and any(i in c.rounds for c in self.cells):
                    continue  # a resumed run: this round was finished earlier
                if not live or (i >= fewest and monotonic() - started > self.preset.seconds):
                    break
                last = monotonic()
                if self.progress:
                    self.progress.expect(len(live) * max(1, fewest - i))
                self._round(i, live)
                spent = monotonic() - last
                if i + 1 >= fewest and monotonic() - started + spent > self.preset.seconds:
                    break  # a further round would not fit
        except KeyboardInterrupt:
            self.interrupted = True

    def _round(self, i: int, live: list[Cell]) -> None:
        order = live[:]
        random.Random(f"{self.seed}/{i}").shuffle(order)
        workers: dict[str, Worker] = {}
        try:
            for backend in {c.backend for c in order}:
                workers[backend] = Worker(backend, self.threads)
            for backend in list(workers):
                self._greet(workers, backend)
            for cell in order:
                if cell.status == "ok":
                    if self.progress:
                        self.progress.step(f"round {i + 1}: {cell.kernel} {cell.layer.name}")
                    self._measure(i, cell, workers)
        finally:
            for worker in workers.values():
                worker.close()

    def _greet(self, workers: dict[str, Worker], backend: str) -> bool:
        hello = workers[backend].greet(self.timeout)
        if "status" in hello:
            for cell in self.cells:
                if cell.backend == backend:
                    self._drop(cell, hello["status"], f"while importing: {hello['why']}")
            return False
        self.about[backend] = workers[backend].about
        took = hello["import_seconds"]
        self.imports[backend] = min(took, self.imports.get(backend, took))
        return True

    def _measure(self, i: int, cell: Cell, workers: dict[str, Worker]) -> None:
        request = cell.key | {
            "seed": self.seed + 1000 * i,
            "effort": asdict(self.preset.effort),
            "raw": self.raw,
            "look": not cell.rounds,
            "path": cell.path,
        }
        reply = workers[cell.backend].ask(request, self.timeout)
        lost = reply.pop("lost", False)
        if reply["status"] in ("unsupported", "unavailable"):
            self._drop(cell, reply["status"], reply["why"])
        else:
            self._doubt(cell, reply)
            cell.rounds[i] = reply
            self.record.add({"kind": "round", "round": i, **cell.key, **reply})
            if reply["status"] != "ok":
                cell.status, cell.why = reply["status"], reply["why"]
        if lost:
            workers[cell.backend].close()
            workers[cell.backend] = Worker(cell.backend, self.threads)
            self._greet(workers, cell.backend)

    def _doubt(self, cell: Cell, reply: dict[str, Any]) -> None:
        """Mark a time that this machine cannot have reached; measure its ceilings again before."""
        if reply["status"] != "ok" or not self.ceilings or cell.backend in GPU_BACKENDS:
            return
        cause = (reply["seconds"], cell.layer.problem, reply["algorithm"])
        why = plausibility.mistrust(*cause, self.ceilings, self.threads)
        for _ in range(
            3 if why else 0
        ):  # other work may have held the ceilings down, not the kernel up
            again = ceilings.measure(self.threads)
            self.ceilings = plausibility.best_of(self.ceilings, again)
            self.record.add({"kind": "ceilings", "ceilings": self.ceilings})
            why = plausibility.mistrust(*cause, self.ceilings, self.threads)
            if not why:
                break
        if why:
            reply |= {"status": "mistrusted", "why": why, "doubted_seconds": reply.pop("seconds")}

    def _drop(self, cell: Cell, status: str, why: str) -> None:
        if cell.status == "ok":
            cell.status, cell.why = status, why
            self.record.add({"kind": "skip", **cell.key, "status": status, "why": why})

    def summarize(self, baseline: str | None) -> list[dict[str, Any]]:
        """One line per cell, written to the record; ``vs_baseline`` is a speed: above 1 is faster."""
        lines = []
        for cell in self.cells:
            if cell.status in ("unsupported", "unavailable"):
                continue
            rival = self._find(baseline, cell)
            lines.append(summary(cell) | {"baseline": baseline, **_ratio(rival, cell, "vs_baseline")})
            self.record.add({"kind": "cell", **lines[-1]})
        return lines

    def _find(self, kernel: str | None, like: Cell) -> Cell | None:
        same = (c for c in self.cells if c.layer == like.layer and c.scenario == like.scenario)
        return next((c for c in same if c.kernel == kernel), None)


def cells_of(header: dict[str, Any]) -> list[Cell]:
    """Every cell that a record's header asks for."""
    layers = [Layer(name, Conv2d.parse(text), count) for name, text, count in header["problems"]]
    return [
        Cell(kernel, layer, scenario)
        for kernel in header["kernels"] for layer in layers for scenario in header["scenarios"]
    ]  # fmt: skip


def resumed(
    header: dict[str, Any], lines: list[dict[str, Any]], log: Record, timeout: float, raw: bool
) -> Sweep:
    """The sweep that a record began, with the rounds and the refusals that it holds."""
    sampling = header["sampling"]
    kept = Preset(Effort(**sampling["effort"]), tuple(sampling["rounds"]), sampling["seconds"])
    cells = cells_of(header)
    by_key = {tuple(c.key.values()): c for c in cells}
    sweep = Sweep(cells, kept, header["threads"], header["seed"], log, timeout, raw)
    sweep.ceilings = header.get("ceilings") or {}
    for line in lines:
        if line["kind"] == "ceilings":
            sweep.ceilings = line["ceilings"]
        if line["kind"] not in ("round", "skip"):
            continue
        cell = by_key[tuple(line[k] for k in cell_key)]
        if line["kind"] == "round":
            cell.rounds[line["round"]] = {k: v for k, v in line.items() if k not in ("kind", *cell_key)}
        if line["status"] != "ok":
            cell.status, cell.why = line["status"], line["why"]
    return sweep


cell_key = ("kernel", "problem", "scenario")


def summary(cell: Cell) -> dict[str, Any]:
    """What all rounds of a cell say together; only a cell whose every round is ok has a time."""
    p = cell.layer.problem
    line: dict[str, Any] = cell.key | {
        "layer": cell.layer.name, "count": cell.layer.count, "status": cell.status, "why": cell.why,
        "flops": p.flops, "min_bytes": p.min_bytes,
    }  # fmt: skip
    good = [r for r in cell.rounds.values() if r["status"] == "ok"]
    if cell.status != "ok" or not good:
        return line | ({} if cell.status != "ok" else {"status": "timeout", "why": "never measured"})
    values = list(cell.medians.values())
    low, high, confidence = interval(values)
    seconds = statistics.median(values)
    worst = max(good, key=lambda r: r["error"]["score"])
    line |= {
        "seconds": seconds, "low": low, "high": high, "confidence": confidence,
        "rounds": len(values), "round_seconds": values,
        "gflops_per_s": p.flops / seconds / 1e9,
        "error": worst["error"],
        **{k: good[-1][k] for k in ("accuracy", "algorithm", "workspace")},
        **{k: statistics.median(r[k] for r in good) for k in ("plan_seconds", "pack_seconds")},
    }  # fmt: skip
    line["fingerprint"] = next((r["fingerprint"] for r in good if r.get("fingerprint")), {})
    if all("device_seconds" in r for r in good):
        line["device_seconds"] = statistics.median(r["device_seconds"] for r in good)
    return line


def ratios(slow: Cell, quick: Cell) -> list[float]:
    """Round by round, how many times faster ``quick`` is than ``slow``; only rounds that both have."""
    a, b = slow.medians, quick.medians
    return [a[i] / b[i] for i in sorted(a.keys() & b.keys())]


def _ratio(slow: Cell | None, quick: Cell, name: str) -> dict[str, Any]:
    values = ratios(slow, quick) if slow is not None and slow.status == quick.status == "ok" else []
    if not values:
        return {}
    low, high, _ = interval(values)
    return {name: statistics.median(values), f"{name}_low": low, f"{name}_high": high}


def default_baseline(cells: list[Cell]) -> str | None:
    """What most people call today, where it ran; else the first kernel that did."""
    ran = [c.kernel for c in cells if c.status == "ok" and c.medians]
    usual = ("torch_cuda/builtin", "torch_mps/builtin", "torch_cpu/builtin", "numpy/im2col")
    return next((k for k in usual if k in ran), ran[0] if ran else None)


def verdict_sentence(cells: list[Cell], baseline: str | None, threads: int, machine: str) -> str:
    """One sentence: which kernel won, by how much, with which guarantee, in which scenario."""
    from convzoo.catalog import find

    ran = [
        c for c in cells if c.status == "ok" and c.medians and find(c.kernel).accuracy == "elementwise"
    ]
    if not ran:
        return "No kernel with the elementwise guarantee was timed: nothing can be ranked."
    sentences = []
    for scenario in sorted({c.scenario for c in ran}):
        mine = [c for c in ran if c.scenario == scenario]
        wide = max(len([c for c in mine if c.kernel == k]) for k in {c.kernel for c in mine})
        full = sorted(
            {c.kernel for c in mine if len([d for d in mine if d.kernel == c.kernel]) == wide}
        )
        if baseline not in full or len(full) < 2:
            sentences.append(
                f"Only {', '.join(full)} ran on all problems: nothing to compare ({scenario})."
            )
            continue
        grouped = {k: [c for c in mine if c.kernel == k] for k in full}
        speed = {k: _geometric(grouped[baseline], grouped[k]) for k in full if k != baseline}
        best = max(speed, key=lambda k: statistics.median(speed[k]))
        values = speed[best]
        if statistics.median(values) < 1:
            values = [1 / v for v in values]
            first, second = baseline, best
        else:
            first, second = best, baseline
        low, high, confidence = interval(values)
        problems = f"{wide} problems" if wide > 1 else f"{mine[0].layer.problem}"
        verb = "is" if low > 1 else "cannot be told from the noise apart, but is perhaps"
        sentences.append(
            f"{first} {verb} {statistics.median(values):.2f}x ({low:.2f}-{high:.2f}) faster than {second} "
            f"over {problems}, both elementwise, {scenario}, {threads} threads, on {machine} "
            f"({len(values)} rounds, {confidence:.0%} confidence)."
        )
    return " ".join(sentences)


def _geometric(slow: list[Cell], quick: list[Cell]) -> list[float]:
    """Geometric mean over problems of the speed of ``quick`` against ``slow``, one value per round."""
    pairs = [(a, b) for a in slow for b in quick if a.layer == b.layer]
    shared = set.intersection(*(a.medians.keys() & b.medians.keys() for a, b in pairs))
    return [
        math.exp(statistics.fmean(math.log(a.medians[i] / b.medians[i]) for a, b in pairs))
        for i in sorted(shared)
    ]


def skips(cells: list[Cell]) -> dict[tuple[str, str], list[Cell]]:
    """Cells that did not run, grouped by status and reason."""
    found: dict[tuple[str, str], list[Cell]] = {}
    for cell in cells:
        if cell.status != "ok":
            reason = cell.why.removeprefix(f"{cell.kernel} ")
            found.setdefault((cell.status, reason), []).append(cell)
    return found


def record_folder(given: str | None) -> Path:
    return Path(given).resolve() if given else ROOT / "reports" / "records"
