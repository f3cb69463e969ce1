"""The coordinator: every library in a process of its own, problems and kernels shuffled in every round.

One measurement at a time: while a worker measures, the others are stopped. Each round uses fresh processes
and fresh data. What the rounds say together is in ``summary``, how a process is asked in ``processes``.
"""

from __future__ import annotations

import random
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from time import monotonic, sleep
from typing import Any

from convzoo import Conv2d

from . import ceilings, plausibility, roofline
from .evidence import interval
from .problems import Layer
from .processes import Worker
from .record import OWN, Record, short
from .stopwatch import Effort
from .summary import speed, summary

# the host's ceilings say nothing there
GPU_BACKENDS = ("numba_cuda", "cupy", "torch_cuda", "torch_mps")
STEADY = 0.85  # of what the machine had at its best; with less, a cell is measured again
TRIES = 4
PATIENCE = 10.0  # seconds in which a cell waits until the host is steady, in all tries together
BUSY = 3  # cells in a row that no try found the machine steady for: until it is, one try is enough
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
        found, rounds=(rounds, rounds) if rounds else found.rounds, seconds=seconds if seconds else found.seconds
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
    watch: bool = False  # measure a cell again where the machine had less to give than it can
    pulse: ceilings.Pulse | None = None
    unsteady: int = 0  # cells in a row

    def run(self) -> None:
        """All rounds. Ctrl-C ends the sweep early; finished rounds stay."""
        if self.watch:
            known = self.ceilings.get("fma_gflops_per_s", {}).get(str(self.threads), {})
            self.pulse = ceilings.Pulse(self.threads, known.get("float32", 0.0))
        started = monotonic()
        fewest, most = self.preset.rounds
        try:
            for i in range(most):
                live = [c for c in self.cells if c.status == "ok" and not c.settled() and i not in c.rounds]
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
        finally:
            if self.pulse:
                self.pulse.close()

    def _round(self, i: int, live: list[Cell]) -> None:
        order = self._shuffled(i, live)
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

    def _shuffled(self, i: int, live: list[Cell]) -> list[Cell]:
        """Problem after problem, the kernels of each in a row: what a ratio compares is measured within
        seconds, on a host that is the same, and a process computes what is right once for all its kernels."""
        rng = random.Random(f"{self.seed}/{i}")
        problems = list(dict.fromkeys(cell.layer.problem for cell in live))
        place = dict(zip(problems, rng.sample(range(len(problems)), len(problems)), strict=True))
        return sorted(rng.sample(live, len(live)), key=lambda cell: place[cell.layer.problem])

    def _greet(self, workers: dict[str, Worker], backend: str) -> bool:
        hello = workers[backend].greet(self.timeout)
        if hello.get("status") == "crashed":  # a second death is no accident any more
            workers[backend] = Worker(backend, self.threads)
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
        began = monotonic()
        reply = self._ask(workers[cell.backend], request)
        reply["wall_seconds"] = round(monotonic() - began, 3)  # of all of it: a plan adds them up
        lost = reply.pop("lost", False)
        if reply["status"] in ("unsupported", "unavailable"):
            self._drop(cell, reply["status"], reply["why"])
        else:
            self._doubt(cell, reply)
            cell.rounds[i] = reply = short(reply)
            self.record.add({"kind": "round", "round": i, **cell.key, **reply})
            if reply["status"] != "ok":
                cell.status, cell.why = reply["status"], reply["why"]
        if lost:
            workers[cell.backend].close()
            workers[cell.backend] = Worker(cell.backend, self.threads)
            self._greet(workers, cell.backend)

    def _ask(self, worker: Worker, request: dict[str, Any]) -> dict[str, Any]:
        """The reply, timed again where the machine had less to give than it can.

        ``host_share`` says how much it had, before or after the timing, whichever was less. A host that
        stays as it is must not stop the sweep: the last try counts, and says so, and after some such cells
        there is one try, without waiting, until the host gives all again. What a timing never asks for is
        looked at once, after the last try.
        """
        on_gpu = request["kernel"].partition("/")[0] in GPU_BACKENDS
        pulse = None if on_gpu else self.pulse
        reply: dict[str, Any] = {}
        tries, patience = (TRIES, PATIENCE) if self.unsteady < BUSY else (1, 0.0)
        enough = monotonic() + patience
        for attempt in range(tries):
            if attempt:
                sleep(0.2)
            before = pulse.share() if pulse else 1.0
            while pulse and before < STEADY and monotonic() < enough:
                sleep(0.2)
                before = pulse.share()
            reply = worker.ask(request | {"look": False, "again": attempt > 0}, self.timeout)
            if reply["status"] != "ok":
                return reply
            if pulse is None:
                break
            reply["host_share"] = round(min(before, pulse.share()), 2)
            if reply["host_share"] >= STEADY:
                break
        if pulse:
            self.unsteady = 0 if reply["host_share"] >= STEADY else self.unsteady + 1
        if not request["look"]:
            return reply
        asked = {k: v for k, v in request.items() if k != "effort"} | {"again": True}
        looked = worker.ask(asked, self.timeout)
        return reply | looked if looked["status"] == "ok" else looked

    def _doubt(self, cell: Cell, reply: dict[str, Any]) -> None:
        """Mark a time that this machine cannot have reached; measure its ceilings again before."""
        if reply["status"] != "ok" or not self.ceilings or cell.backend in GPU_BACKENDS:
            return
        cause = (reply["seconds"], cell.layer.problem, reply["algorithm"])
        why = plausibility.mistrust(*cause, self.ceilings, self.threads, reply["accuracy"])
        for _ in range(3 if why else 0):  # other work may have held the ceilings down, not the kernel up
            try:
                again = ceilings.measure(self.threads)
            except ceilings.Unmeasured:
                break
            self.ceilings = roofline.best_of(self.ceilings, again)
            self.record.add({"kind": "ceilings", "ceilings": self.ceilings})
            why = plausibility.mistrust(*cause, self.ceilings, self.threads, reply["accuracy"])
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
            lines.append(summary(cell) | {"baseline": baseline, **speed(rival, cell, "vs_baseline")})
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
        for kernel in header["kernels"]
        for layer in layers
        for scenario in header["scenarios"]
    ]


def resumed(header: dict[str, Any], lines: list[dict[str, Any]], log: Record, timeout: float, raw: bool) -> Sweep:
    """The sweep that a record began, with the rounds and the refusals that it holds."""
    sampling = header["sampling"]
    kept = Preset(Effort(**sampling["effort"]), tuple(sampling["rounds"]), sampling["seconds"])
    cells = cells_of(header)
    by_key = {tuple(c.key.values()): c for c in cells}
    sweep = Sweep(cells, kept, header["threads"], header["seed"], log, timeout, raw, watch=True)
    sweep.ceilings = header.get("ceilings") or {}
    for line in lines:
        if line["kind"] == "ceilings":
            sweep.ceilings = line["ceilings"]
        if line["kind"] in ("round", "skip"):
            replay(by_key[tuple(line[k] for k in cell_key)], line)
    return sweep


def replay(cell: Cell, line: dict[str, Any]) -> None:
    """What a round or skip line of a record says about its cell."""
    if line["kind"] == "round":
        cell.rounds[line["round"]] = {k: v for k, v in line.items() if k not in ("kind", *cell_key)}
    if line["status"] != "ok":
        cell.status, cell.why = line["status"], line["why"]


cell_key = ("kernel", "problem", "scenario")


def record_folder(given: str | None) -> Path:
    return Path(given).resolve() if given else OWN / "records"
