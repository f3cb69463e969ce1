"""Figures of a machine as SVG files for Markdown; the same run gives the same bytes."""

from __future__ import annotations

import io
import math
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from benchmarks import evidence
from benchmarks import words as say
from benchmarks.evidence import GUARANTEES
from benchmarks.problems import problem_of

from . import limits, standing
from .cells import Cell, Run

INK, QUIET, RULE, PAPER = "#22262b", "#59626d", "#d5d9de", "#ffffff"
# Okabe and Ito's colours, which people with any kind of colour vision can tell apart.
BACKENDS = {
    "python": "#8a8f98",
    "numpy": "#0072b2",
    "numba": "#d55e00",
    "numba_cuda": "#e69f00",
    "cupy": "#cc79a7",
    "torch_cpu": "#009e73",
    "torch_cuda": "#56b4e9",
    "torch_mps": "#9a7bd0",
    "onnxruntime": "#8c6d1f",
    "openvino": "#4b6fb5",
    "ncnn": "#b0527a",
}
OTHER = "#8a8f98"
MARKS = "osD^vP*X"  # one for each problem, as long as they last
MOST_INTERVALS = 40  # problems; of more, the intervals would be one grey band and a megabyte
MOST_NAMES = 12  # kernels
DASHES: dict[str, Any] = {"L1": (0, (1, 2)), "L2": (0, (5, 3)), "L3": (0, (10, 4))}
STYLE: dict[Any, Any] = {
    "svg.hashsalt": "convzoo",
    "svg.fonttype": "path",
    "font.family": "sans-serif",
    "font.size": 9.5,
    "text.parse_math": False,
    "text.color": INK,
    "axes.edgecolor": RULE,
    "axes.labelcolor": QUIET,
    "xtick.color": QUIET,
    "ytick.color": QUIET,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": RULE,
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "figure.facecolor": PAPER,
    "axes.facecolor": PAPER,
}


@dataclass(frozen=True)
class Drawn:
    """A figure and the words that go with it."""

    file: str
    title: str
    caption: str
    svg: str


def figures(run: Run) -> list[Drawn]:
    """The figures that this machine has enough cells for."""
    from matplotlib import rc_context, style

    found = []
    with warnings.catch_warnings(), style.context("default"), rc_context(STYLE):
        warnings.filterwarnings("ignore", message="Glyph")  # a name in a script the font lacks
        for scenario in run.scenarios:
            part, what = standing.foremost(run, scenario)
            for draw, title, caption in FIGURES:
                figure = draw(part, scenario)
                if figure is not None:
                    file = re.sub(
                        r"[^a-z0-9]+", "-", f"{run.machine} {limits.threads(run)} {scenario} {draw.__name__}".lower()
                    )
                    words = f"{title}, {run.machine}, {what}"
                    found.append(Drawn(f"{file.strip('-')[-120:]}.svg", words, caption, _svg(figure)))
    return found


def _svg(figure: Any) -> str:
    out = io.StringIO()
    figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    return out.getvalue()


def color(cell: Cell) -> str:
    return BACKENDS.get(cell.backend, OTHER)


def _axes(wide: float, high: float, *, left: float = 0.9, top: float = 0.25) -> tuple[Any, Any]:
    """A figure of these inches and its axes, with the same margins whatever the size."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(wide, high))
    box = (left / wide, 0.5 / high, (wide - left - 0.3) / wide, (high - 0.5 - top) / high)
    return figure, figure.add_axes(box)


def _ticks(axis: Any, write: Callable[[float], str]) -> None:
    """Ticks of a logarithmic axis in words, at 1, 2 and 5 where there are few decades; round numbers within one."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

    low, high = axis.get_view_interval()
    if high / low < 5:
        axis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
        axis.set_minor_locator(NullLocator())
    else:
        axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high / low < 100 else (1,), numticks=12))
    axis.set_major_formatter(FuncFormatter(lambda v, _: write(v)))
    axis.set_minor_formatter(NullFormatter())


def speeds(run: Run, scenario: str) -> Any:
    """A row for each kernel, a mark for each problem, at its speed against the baseline."""
    kernels = [k for k in standing.ordered(run, scenario) if any(c.speed for c in run.of(kernel=k, scenario=scenario))]
    if len(kernels) < 2:
        return None
    longest = max(len(k) for k in kernels)
    left = min(3.6, 0.5 + 0.075 * longest)
    figure, axes = _axes(9.6, 1.25 + 0.27 * len(kernels), left=left)
    problems = [p for p in run.problems if run.of(problem=p, scenario=scenario)]
    places: dict[tuple[str, str], list[tuple[float, tuple[float, float, float]]]] = {}
    for row, kernel in enumerate(kernels):
        for cell in run.of(kernel=kernel, scenario=scenario):
            if cell.speed:
                at = problems.index(cell.problem)
                mark = MARKS[at] if len(problems) <= len(MARKS) else "o"
                y = row + (0.5 * (at + 0.5) / len(problems) - 0.25)
                places.setdefault((color(cell), mark), []).append((y, cell.speed))
    for (shade, mark), found in places.items():
        y, speed = [y for y, _ in found], [s for _, s in found]
        if len(problems) <= MOST_INTERVALS:
            axes.hlines(y, [s[1] for s in speed], [s[2] for s in speed], color=shade, linewidth=1.3, alpha=0.45)
        axes.plot([s[0] for s in speed], y, mark, color=shade, markersize=5, markeredgewidth=0)
    axes.axvline(1, color=INK, linewidth=1)
    axes.set(xscale="log", ylim=(len(kernels) - 0.4, -0.6), yticks=range(len(kernels)))
    axes.set_yticklabels(kernels, color=INK)
    axes.tick_params(length=0)
    axes.set_xlabel(f"speed against {run.baseline}: right of the line is faster")
    _ticks(axes.xaxis, lambda v: f"{v:g}×")
    if len(problems) <= len(MARKS):
        names = [run.of(problem=p)[0].layer for p in problems]
        for mark, name in zip(MARKS, names, strict=False):
            axes.plot([], [], mark, color=QUIET, markersize=5, label=name[:28])
        axes.legend(
            loc="lower left",
            bbox_to_anchor=(0, 1),
            ncols=min(4, len(names)),
            fontsize=8.5,
            handletextpad=0.2,
            columnspacing=1.2,
            borderaxespad=0.1,
        )
    return figure


def roofline(run: Run, scenario: str) -> Any:
    """Effective GFLOP/s against FLOP per compulsory byte, under the measured ceilings."""
    top, reads = limits.arithmetic(run, "float32"), limits.bandwidths(run)
    cells = [c for c in run.of(scenario=scenario) if c.gflops_per_s and c.device == "cpu"]
    known = {c.problem: p for c in cells if (p := problem_of(c.problem)) and p.dtype == "float32"}
    cells = [c for c in cells if c.problem in known]
    if top is None or not reads or len({c.problem for c in cells}) < 2:
        return None
    figure, axes = _axes(9.6, 4.8, top=0.5)

    def intensity(cell: Cell) -> float:
        return known[cell.problem].flops / known[cell.problem].min_bytes

    xs = [intensity(c) for c in cells]
    first, last = min(min(xs) / 2, 0.4 * top / max(reads.values())), 2 * max(xs)
    for level, rate in reads.items():
        ridge = top / rate
        axes.plot(
            [first, ridge],
            [first * rate, top],
            color=QUIET,
            linewidth=1,
            linestyle=DASHES.get(level, "-"),
            label=f"from {level} {say.plain(rate)} GB/s",
        )
    axes.plot([first, last], [top, top], color=INK, linewidth=1.4, label=f"multiply-adds {say.plain(top)} GFLOP/s")
    best = {id(race.best) for race in evidence.races(run.cells, scenario)}
    looks: dict[tuple[bool, bool, str], list[Cell]] = {}
    for cell in cells:
        looks.setdefault((id(cell) in best, cell.effective, color(cell)), []).append(cell)
    for (leads, hollow, shade), mine in sorted(looks.items()):
        axes.plot(
            [intensity(c) for c in mine],
            [c.gflops_per_s for c in mine],
            "D" if hollow else "o",
            color=shade,
            markersize=6.5 if leads else 3.5,
            alpha=1 if leads else 0.35,
            markeredgecolor=shade,
            markerfacecolor=PAPER if hollow else shade,
        )
    axes.set(xscale="log", yscale="log", xlabel="FLOP per compulsory byte", ylabel="effective GFLOP/s")
    _ticks(axes.xaxis, say.plain)
    _ticks(axes.yaxis, say.plain)
    for backend in sorted({c.backend for c in cells}):
        axes.plot([], [], "o", color=BACKENDS.get(backend, OTHER), markersize=5, label=backend)
    handles, names = axes.get_legend_handles_labels()  # lines first; a legend is filled by columns
    lines = len(reads) + 1
    figure.legend(
        handles[:lines][-6:],
        names[:lines][-6:],
        loc="upper left",
        bbox_to_anchor=(0.085, 1),
        ncols=6,
        fontsize=8.5,
        borderaxespad=0.1,
        handlelength=2.4,
        columnspacing=1.2,
    )
    axes.legend(
        handles[lines:],
        names[lines:],
        loc="lower left",
        bbox_to_anchor=(0, 1),
        ncols=10,
        fontsize=8.5,
        borderaxespad=0.1,
        handletextpad=0.2,
    )
    return figure


def _named(figure: Any, axes: Any, points: list[tuple[float, float, str]], named: set[str]) -> None:
    """The names of these points, each beside its own where neither a mark nor another name stands."""
    at = axes.transData.transform([p[:2] for p in points]) * 72 / figure.dpi
    taken = [(x - 4, y - 3, x + 4, y + 3) for x, y in at]
    for (px, py), (x, y, name) in zip(at, points, strict=True):
        wide = 4.9 * len(name)  # of 8.5 points
        for dx, dy in ((7, 4), (-7 - wide, 4), (7, -11), (-7 - wide, -11)) if name in named else ():
            box = px + dx, py + dy - 2, px + dx + wide, py + dy + 8
            if not any(box[0] < t[2] and t[0] < box[2] and box[1] < t[3] and t[1] < box[3] for t in taken):
                taken.append(box)
                axes.annotate(name, (x, y), xytext=(dx, dy), textcoords="offset points", fontsize=8.5)
                break


def accuracy(run: Run, scenario: str) -> Any:
    """Speed over all problems against the largest error: what accuracy costs."""
    points = []
    for kernel in standing.ordered(run, scenario):
        found = standing.overall(run, scenario, kernel)
        mine = [c for c in run.of(kernel=kernel, scenario=scenario) if c.ran]
        score = max((c.numbers["score"] or 0 for c in mine), default=0)
        if found and score > 0:
            points.append((found[0], score, mine[0]))
    if len({cell.accuracy for *_, cell in points}) < 2:
        return None  # with one guarantee there is nothing to pay
    figure, axes = _axes(9.6, 4.2)
    for guarantee, mark in zip((*GUARANTEES, None), "oDPs^X", strict=True):
        group = [p for p in points if (p[2].accuracy if p[2].accuracy in GUARANTEES else None) == guarantee]
        for speed, score, cell in group:
            axes.plot(speed, score, mark, color=color(cell), markersize=6.5, markeredgewidth=0)
        if group:
            axes.plot([], [], mark, color=QUIET, label=guarantee or "other")
    # Of very many only those are named that nobody beats in both: the choice there is to make.
    front = [p for p in points if not any(q[0] >= p[0] and q[1] <= p[1] and q[:2] != p[:2] for q in points)]
    axes.set(xscale="log", yscale="log", ylabel="largest error, units of u·A")
    axes.set_xlabel(f"speed against {run.baseline}, geometric mean over its problems")
    axes.axvline(1, color=INK, linewidth=1)
    low, high = axes.get_xlim()
    axes.set_xlim(low, high * math.exp(0.18 * math.log(high / low)))  # room for the names
    _ticks(axes.xaxis, lambda v: f"{v:.3g}×")
    _ticks(axes.yaxis, say.plain)
    named = {p[2].kernel for p in (points if len(points) <= MOST_NAMES else front)}
    _named(figure, axes, [(speed, score, cell.kernel) for speed, score, cell in points], named)
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=5, fontsize=8.5, borderaxespad=0.1)
    return figure


FIGURES: list[tuple[Callable[[Run, str], Any], str, str]] = [
    (
        speeds,
        "Speed against the baseline",
        f"One mark for each problem, up to {MOST_INTERVALS} with the interval of its speed; colours are backends.",
    ),
    (
        roofline,
        "How far from the limit",
        "One mark for each kernel on each problem, large for the fastest of the strongest guarantee; lines are "
        "ceilings measured on this machine with as many threads. FLOP are those of the definition, so the hollow "
        "marks (FFT, Winograd) are effective rates and may stand above.",
    ),
    (
        accuracy,
        "What accuracy costs",
        "Errors are against a float64 reference, in units of rounding (u) times the sum of magnitudes (A), the "
        f"largest over all problems. Of more than {MOST_NAMES} kernels only those are named that no other one beats "
        "in both.",
    ),
]
