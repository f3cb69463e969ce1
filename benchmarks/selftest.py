"""``python -m benchmarks selftest``: is a wrong kernel caught on this machine, and a right one let through?

Every bad kernel (``bad_kernels``) and every honest one takes the way of any timed cell, in a worker with a
timeout and a memory limit.
"""

from __future__ import annotations

import re
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from convzoo import Conv2d, names
from convzoo.backends import BACKENDS
from convzoo.catalog import find

from . import bad_kernels, compare, hardware
from .problems import Layer
from .record import Record
from .stopwatch import Effort

EFFORT = Effort(sample=0.002, warm_up=0.005, budget=0.03, fewest=3, most=9)
TIMEOUT, HANGING = 90.0, 8.0  # seconds for a cell; for one that is known to hang
AWKWARD = "n2c6h13w14k8r3s2-st2x1-p1_0_2_1-g2"  # no two numbers alike, so that swapped ones show
BUSY = "n1c32h14w16k64r5s5-p2_1_1_2"  # so much work on so little data that remembering pays
HONEST_PROBLEMS = (AWKWARD, "n1c16h15w18k16r3s3-p1", "n2c5h9w8k6r2s3-p0_1_2_1-d1x2-nhwc")
# A kernel of the caller's may be wrong on some problems alone: these are tried where it has seemed right.
FURTHER = (
    "n33c3h9w8k5r3s3-p1",
    "n1c3h11w10k130r3s3-p1",
    "n1c300h7w6k4r3s3",
    "n1c3h40w90k5r3s3-p2_1_1_2",
    "n2c8h9w7k8r3s3-p1",
    "n2c17h12w11k19r1s1",
    "n1c6h9w10k7r3s2-st2x3-p1-nobias-f64",
    "n2c5h9w8k6r2s3-p0_1_2_1-d1x2-nhwc",
    "n2c12h9w11k12r3s3-p1-g12",
    "n1c4h13w14k6r5s5-p3-d2",
)
REFUSALS = ("unsupported", "unavailable")
ANY_FAULT = "wrong mistrusted crashed timeout"  # what a bad kernel that says nothing must end in


@dataclass
class Trial:
    """One cell, the statuses of which one must be its own, and what the reason must say.

    ``own``: of a bad kernel of the caller's.
    """

    cell: compare.Cell
    expected: tuple[str, ...]
    reason: str = ""
    headline: str = ""
    bad: bool = True
    own: bool = False

    @property
    def as_it_must(self) -> bool:
        c = self.cell
        ended = c.status in self.expected and bool(c.rounds or c.status != "ok")
        return ended and re.search(self.reason, c.why) is not None

    def row(self) -> dict[str, Any]:
        why = self.cell.why.partition("; repeat: ")[0]
        return {
            "kernel": self.cell.kernel,
            "backend": self.cell.backend,
            "bad": self.bad,
            "problem": str(self.cell.layer.problem),
            "scenario": self.cell.scenario,
            "expected": " ".join(self.expected),
            "status": self.cell.status,
            "why": why,
            "as_it_must": self.as_it_must,
            "headline": self.headline,
        }


def usable(globs: Sequence[str] = ("*",)) -> list[str]:
    """Backends that can be timed here and have a kernel that matches."""
    wanted = {name.partition("/")[0] for name in names(*globs)}
    return [
        name
        for name, b in BACKENDS.items()
        if name in wanted and b.why_not() is None and not getattr(b, "simulated", False)
    ]


def trials(backend: str, folder: Path) -> list[Trial]:
    """Bad kernels of a backend, written to ``folder``, then the honest ones."""
    found = []
    for fault in bad_kernels.FAULTS.values():
        if not fault.fits(backend):
            continue
        busy = "mistrusted" in fault.status and backend != "python"
        bad = fault.status != "ok"
        path = bad_kernels.write(folder, backend, fault)
        cell = _cell(f"{backend}/{fault.name}", BUSY if busy else AWKWARD, path)
        found.append(Trial(cell, tuple(fault.status.split()), fault.reason, fault.headline, bad))
    for name in names(f"{backend}/*"):
        cells = [_cell(name, problem) for problem in HONEST_PROBLEMS]
        for cell in [*cells, _cell(name, AWKWARD, scenario="eager")]:
            found.append(Trial(cell, ("ok", "unsupported"), "", find(name).headline, bad=False))
    return found


def of_your_own(backend: str, folder: Path, further: bool = False) -> list[Trial]:
    """Bad kernels in ``folder/<backend>``, on two problems, or on the ``further`` ones."""
    busy = (BUSY, "packed"), (BUSY, "eager")
    on = [(AWKWARD, "packed"), *(busy if backend != "python" else [(HONEST_PROBLEMS[1], "packed")])]
    found = []
    for path in sorted((folder / backend).glob("*.py")):
        for problem, scenario in [(problem, "packed") for problem in FURTHER] if further else on:
            cell = _cell(f"{backend}/{path.stem}", problem, path, scenario)
            found.append(Trial(cell, tuple(ANY_FAULT.split()), headline=f"your own, {path}", own=True))
    return found


def _cell(kernel: str, problem: str, path: Path | None = None, scenario: str = "packed") -> compare.Cell:
    layer = Layer(problem, Conv2d.parse(problem))
    return compare.Cell(kernel, layer, scenario, path=str(path) if path else None)


def run(
    globs: Sequence[str] = ("*",), own: Path | None = None, progress: Any = None, seed: int = 0
) -> list[dict[str, Any]]:
    """Try everything on every usable backend; a row for each cell, those with a fault first.

    ``own``: a folder with bad kernels of the caller's, as ``own/<backend>/<name>.py``. Of each, the cells
    that found it out are kept, or all where none did.
    """
    with tempfile.TemporaryDirectory(prefix="convzoo-selftest-") as name:
        folder = Path(name)
        backends = usable(globs)
        every = [t for b in backends for t in trials(b, folder) + (of_your_own(b, own) if own else [])]
        if progress:
            progress.expect(len(every))
        quick = [t for t in every if t.expected != ("timeout",)]
        for backend in backends:
            _sweep([t for t in quick if t.cell.backend == backend], folder, TIMEOUT, seed, progress)
        waits = [
            threading.Thread(target=_sweep, args=([t], folder, HANGING, seed, progress))
            for t in every
            if t.expected == ("timeout",)
        ]
        for thread in waits:  # they only wait, so they may do it together
            thread.start()
        for thread in waits:
            thread.join()
        for backend in backends:
            further = of_your_own(backend, own, True) if own else []
            further = [t for t in further if t.cell.kernel not in _caught(every)]
            if further and progress:
                progress.expect(len(further))
            if further:
                _sweep(further, folder, TIMEOUT, seed, progress)
            every += further
    caught = _caught(every)
    every = [t for t in every if t.as_it_must or not (t.own and t.cell.kernel in caught)]
    return [t.row() for t in sorted(every, key=lambda t: (not t.bad, t.cell.kernel))]


def _caught(every: list[Trial]) -> set[str]:
    """Kernels of the caller's that were found out."""
    return {t.cell.kernel for t in every if t.own and t.as_it_must}


def _sweep(some: list[Trial], folder: Path, timeout: float, seed: int, progress: Any) -> None:
    """One round of these cells, in the way of ``compare``."""
    preset = compare.Preset(EFFORT, (1, 1), float("inf"))
    first = some[0].cell
    path = folder / f"{first.kernel.replace('/', '-')}-{first.layer.problem}-{len(some)}.jsonl"
    log = Record(path, {"method": "selftest"})
    cells = [t.cell for t in some]
    counted = _Counted(progress) if progress else None
    try:
        compare.Sweep(cells, preset, hardware.usable_cpus(), seed, log, timeout, progress=counted).run()
    finally:
        log.close()


class _Counted:
    """The progress of one sweep of several, which counts its own steps and not what is left of all."""

    def __init__(self, progress: Any):
        self._progress = progress

    def expect(self, more: int) -> None:
        pass

    def step(self, text: str) -> None:
        self._progress.step(text)


def show(rows: list[dict[str, Any]]) -> None:
    """Tables for a person: bad kernels by fault and backend, honest kernels."""
    from rich.text import Text

    from .terminal import console

    out = console()
    bad = _table("bad kernels", "kernel", "must be", "is", "because")
    for r in (r for r in rows if r["bad"]):
        status = Text(r["status"], style="" if r["as_it_must"] else "bold red")
        bad.add_row(r["kernel"], r["expected"].replace(" ", " or "), status, Text(_short(r["why"])))
    honest = _table("honest kernels", "kernel", "is", "because")
    mine = [r for r in rows if not r["bad"]]
    for name in dict.fromkeys(r["kernel"] for r in mine):
        for status in dict.fromkeys(r["status"] for r in mine if r["kernel"] == name):
            same = [r for r in mine if (r["kernel"], r["status"]) == (name, status)]
            style = "" if all(r["as_it_must"] for r in same) else "bold red"
            on = f"{status} on {len(same)} problem" + "s" * (len(same) > 1)
            honest.add_row(name, Text(on, style=style), Text(_short(same[0]["why"])))
    out.print(bad)
    out.print()
    out.print(honest)
    out.print()
    out.print(sentence(rows), style="bold", markup=False, soft_wrap=True)


def _table(title: str, *headings: str) -> Any:
    from rich.table import Table

    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    for heading in headings:
        table.add_column(heading, overflow="fold")
    return table


def _short(text: str) -> str:
    return text if len(text) < 75 else text[:74] + "…"


def sentence(rows: list[dict[str, Any]]) -> str:
    """What all of it says, in one line."""
    bad, honest = [r for r in rows if r["bad"]], [r for r in rows if not r["bad"]]
    caught = sum(r["as_it_must"] for r in bad)
    passed = sum(r["as_it_must"] for r in honest)
    return (
        f"{caught} of {len(bad)} bad kernels ended as they must, "
        f"{len(honest) - passed} of {len(honest)} runs of honest ones were refused."
    )


def passed(rows: list[dict[str, Any]]) -> bool:
    """Everything ended as it must."""
    return all(r["as_it_must"] for r in rows)
