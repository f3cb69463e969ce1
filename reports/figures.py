"""Figures of a run as SVG that takes its colours from the page; the same run gives the same bytes."""

from __future__ import annotations

import io
import math
import re
import warnings
from collections.abc import Callable
from typing import Any

from . import standing
from . import wording as say
from .cells import Cell, Run
from .standing import GUARANTEES

# Stand-ins that no colour map yields; in the SVG they become the page's own variables.
INK, QUIET, RULE = "#0a0b0c", "#1a1b1c", "#2a2b2c"
PAGE = {INK: "var(--ink)", QUIET: "var(--muted)", RULE: "var(--line)"}
# Okabe and Ito's colours, which people with any kind of colour vision can tell apart.
BACKENDS = {
    "python": "#8a8f98", "numpy": "#0072b2", "numba": "#d55e00", "numba_cuda": "#e69f00",
    "cupy": "#cc79a7", "torch_cpu": "#009e73", "torch_cuda": "#56b4e9", "torch_mps": "#9a7bd0",
}  # fmt: skip
OTHER = "#8a8f98"
MARKS = "osD^vP*X"  # one for each problem, as long as they last
STYLE: dict[Any, Any] = {
    "svg.hashsalt": "convzoo", "svg.fonttype": "none", "font.family": "sans-serif", "font.size": 9.5,
    "text.parse_math": False, "text.color": INK, "axes.edgecolor": RULE, "axes.labelcolor": QUIET,
    "xtick.color": QUIET, "ytick.color": QUIET, "axes.spines.top": False, "axes.spines.right": False,
    "axes.grid": True, "grid.color": RULE, "grid.linewidth": 0.6, "axes.axisbelow": True,
    "legend.frameon": False, "figure.facecolor": "none", "axes.facecolor": "none",
}  # fmt: skip


def figures(run: Run, scenario: str, prefix: str) -> list[dict[str, str]]:
    """The figures that this run has enough cells for: title, caption, svg."""
    from matplotlib import rc_context, style

    found = []
    with warnings.catch_warnings(), style.context("default"), rc_context(STYLE):
        warnings.filterwarnings("ignore", message="Glyph")  # a name in a script the font lacks
        for number, (draw, title, caption) in enumerate(FIGURES, 1):
            figure = draw(run, scenario)
            if figure is not None:
                svg = _svg(figure, f"{prefix}-{number}")
                found.append({"title": title, "caption": caption, "svg": svg})
    return found


def _svg(figure: Any, prefix: str) -> str:
    """The drawing alone, with names of its own, so that several can stand in one page."""
    out = io.StringIO()
    figure.savefig(
        out, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None}
    )
    svg = out.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", svg, flags=re.S)
    svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{prefix}-", svg)
    svg = re.sub(
        r'<svg [^>]*?(viewBox="[^"]*")[^>]*>', r'<svg class="drawn" role="img" \1>', svg, count=1
    )
    for color, variable in PAGE.items():
        svg = svg.replace(color, variable)
    return svg.replace("xlink:href", "href")


def color(cell: Cell) -> str:
    return BACKENDS.get(cell.backend, OTHER)


def _axes(wide: float, high: float, *, left: float = 0.9) -> tuple[Any, Any]:
    """A figure of these inches and its axes, with the same margins whatever the size."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(wide, high))
    box = (left / wide, 0.5 / high, (wide - left - 0.3) / wide, (high - 0.75) / high)
    return figure, figure.add_axes(box)


def _ticks(axis: Any, write: Callable[[float], str]) -> None:
    """Ticks of a logarithmic axis in words, at 1, 2 and 5 where there are few decades."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    low, high = axis.get_view_interval()
    short = high / low < 100
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if short else (1,), numticks=12))
    axis.set_major_formatter(FuncFormatter(lambda v, _: write(v)))
    axis.set_minor_formatter(NullFormatter())


def speeds(run: Run, scenario: str) -> Any:
    """A row for each kernel, a mark for each problem, at its speed against the baseline."""
    kernels = [
        k for k in standing.ordered(run, scenario)
        if any(c.speed for c in run.of(kernel=k, scenario=scenario))
    ]  # fmt: skip
    if len(kernels) < 2:
        return None
    longest = max(len(k) for k in kernels)
    left = min(3.6, 0.5 + 0.075 * longest)
    figure, axes = _axes(9.6, 1.25 + 0.27 * len(kernels), left=left)
    problems = [p for p in run.problems if run.of(problem=p, scenario=scenario)]
    for row, kernel in enumerate(kernels):
        for cell in run.of(kernel=kernel, scenario=scenario):
            if cell.speed:
                at = problems.index(cell.problem)
                middle, low, high = cell.speed
                mark = MARKS[at] if len(problems) <= len(MARKS) else "o"
                y = row + (0.5 * (at + 0.5) / len(problems) - 0.25)
                axes.plot([low, high], [y, y], color=color(cell), linewidth=1.3, alpha=0.45)
                axes.plot(middle, y, mark, color=color(cell), markersize=5, markeredgewidth=0)
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
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=min(4, len(names)), fontsize=8.5,
                    handletextpad=0.2, columnspacing=1.2, borderaxespad=0.1)  # fmt: skip
    return figure


def rates(run: Run, scenario: str) -> Any:
    """Effective GFLOP/s against the size of the problem, the quickest kernel of each backend in colour."""
    cells = [c for c in run.of(scenario=scenario) if c.ran and c.gflops_per_s]
    if len({c.flops for c in cells}) < 3:
        return None
    figure, axes = _axes(9.6, 4.4)
    wide = max(len([c for c in cells if c.kernel == k]) for k in {c.kernel for c in cells})
    leaders = {}
    for kernel in standing.ordered(run, scenario):
        mine = sorted((c for c in cells if c.kernel == kernel), key=lambda c: (c.flops, c.problem))
        if not mine:
            continue
        leads = len(mine) == wide and mine[0].backend not in leaders
        if leads:
            leaders[mine[0].backend] = mine
        style = {"color": QUIET, "alpha": 0.4, "linewidth": 0.9, "zorder": 1}
        axes.plot([c.flops for c in mine], [c.gflops_per_s for c in mine], **style)
    for mine in leaders.values():
        x, y = [c.flops for c in mine], [c.gflops_per_s for c in mine]
        axes.plot(
            x,
            y,
            "o-",
            color=color(mine[0]),
            linewidth=1.8,
            markersize=4,
            label=mine[0].kernel,
            zorder=2,
        )
    axes.set(xscale="log", yscale="log", xlabel="FLOP of the problem", ylabel="effective GFLOP/s")
    _ticks(axes.xaxis, say.flops_text)
    _ticks(axes.yaxis, say.plain)
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=4, fontsize=8.5, borderaxespad=0.1)
    return figure


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
    for guarantee, mark in zip((*GUARANTEES, None), "oDs^X", strict=True):
        group = [
            p for p in points if (p[2].accuracy if p[2].accuracy in GUARANTEES else None) == guarantee
        ]
        for speed, score, cell in group:
            axes.plot(speed, score, mark, color=color(cell), markersize=6.5, markeredgewidth=0)
        if group:
            axes.plot([], [], mark, color=QUIET, label=guarantee or "other")
    # Names only where nobody is both quicker and more accurate: the choice there is to make.
    front = [
        p for p in points
        if not any(q[0] >= p[0] and q[1] <= p[1] and q[:2] != p[:2] for q in points)
    ]  # fmt: skip
    for speed, score, cell in front:
        axes.annotate(
            cell.kernel, (speed, score), xytext=(6, 5), textcoords="offset points", fontsize=8.5
        )
    axes.set(xscale="log", yscale="log", ylabel="largest error, units of u·A")
    axes.set_xlabel(f"speed against {run.baseline}, geometric mean over its problems")
    axes.axvline(1, color=INK, linewidth=1)
    low, high = axes.get_xlim()
    axes.set_xlim(low, high * math.exp(0.18 * math.log(high / low)))  # room for the names
    _ticks(axes.xaxis, lambda v: f"{v:g}×")
    _ticks(axes.yaxis, say.plain)
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=5, fontsize=8.5, borderaxespad=0.1)
    return figure


FIGURES: list[tuple[Callable[[Run, str], Any], str, str]] = [
    (speeds, "Speed against the baseline",
     "One mark for each problem, with the interval of its speed; colours are backends."),
    (rates, "Rate against problem size",
     "FLOP are those of the definition, also for FFT and Winograd, which do fewer or other ones. In colour: "
     "for each backend, the kernel that stands highest in the heat map; grey: all others."),
    (accuracy, "What accuracy costs",
     "Errors are against a float64 reference, in units of rounding (u) times the sum of magnitudes (A), the "
     "largest over all problems. Named: kernels that no other one beats in both."),
]  # fmt: skip
