"""What a person sees: progress on standard error, tables on standard output."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from time import monotonic
from typing import Any

from . import evidence
from .compare import Cell
from .summary import skips
from .words import bytes_text, seconds_text


def console(stderr: bool = False) -> Any:
    """A rich console; it goes plain by itself for a pipe, and obeys NO_COLOR."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    return Console(stderr=stderr, width=None if stream.isatty() else 140, highlight=False, markup=False, emoji=False)


class Progress:
    """step(text) for each thing begun, expect(n) when the number still to come is known better.

    A line every five seconds; ``quiet`` says nothing.
    """

    def __init__(self, total: int, quiet: bool = False):
        self._total, self._done, self._begin, self._said = total, 0, monotonic(), 0.0
        self._quiet = quiet

    def expect(self, more: int) -> None:
        self._total = self._done + more

    def step(self, text: str) -> None:
        self._done += 1
        now = monotonic()
        if not self._quiet and now - self._said > 5:
            left = (now - self._begin) / self._done * (self._total - self._done)
            print(f"{self._done}/{self._total} {text}, about {left:.0f} s left", file=sys.stderr, flush=True)
            self._said = now


class _Bar(Progress):
    """The same as a bar with the time left."""

    def __init__(self, total: int, bar: Any):
        super().__init__(total, quiet=True)
        self._bar, self._task = bar, bar.add_task("", total=total)

    def expect(self, more: int) -> None:
        super().expect(more)
        self._bar.update(self._task, total=self._total)

    def step(self, text: str) -> None:
        super().step(text)
        self._bar.update(self._task, advance=1, description=text[:60].ljust(60))


@contextlib.contextmanager
def progress(total: int, quiet: bool) -> Iterator[Progress]:
    """Progress on standard error: a bar on a terminal, lines elsewhere, nothing where ``quiet``."""
    if quiet or not sys.stderr.isatty():
        yield Progress(total, quiet)
        return
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Bars(*columns, console=console(stderr=True), transient=True) as bar:
        yield _Bar(total, bar)


def compare_tables(lines: list[dict[str, Any]], baseline: str | None, machine: str, threads: int) -> None:
    """One table per problem and scenario, fastest first; bold is the fastest of the strongest guarantee."""
    from rich.table import Table
    from rich.text import Text

    out = console()
    for problem, scenario in dict.fromkeys((x["problem"], x["scenario"]) for x in lines):
        mine = [x for x in lines if (x["problem"], x["scenario"]) == (problem, scenario)]
        mine.sort(key=lambda x: x.get("seconds", float("inf")))
        name = f" ({mine[0]['layer']})" if mine[0]["layer"] != problem else ""
        title = f"{problem}{name}, {scenario}, {mine[0]['flops'] / 1e6:.4g} MFLOP, {threads} threads, {machine}"
        table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
        headings = ("time", "interval", "GFLOP/s", f"x {baseline}", "err u·A", "guarantee", "workspace")
        table.add_column("kernel")
        for heading in headings:
            table.add_column(heading, justify="left" if heading == "guarantee" else "right")
        right = [x for x in mine if x["status"] == "ok"]
        best = min(right, key=lambda x: evidence.strength(x["accuracy"]), default=None)
        for x in mine:
            if x["status"] != "ok":
                table.add_row(x["kernel"], Text(x["status"], style="bold red"), x["why"][:60])
                continue
            speed = f"{x['vs_baseline']:.2f}" if "vs_baseline" in x else "-"
            table.add_row(
                x["kernel"],
                seconds_text(x["seconds"]),
                f"{seconds_text(x['low'])} - {seconds_text(x['high'])}",
                f"{x['gflops_per_s']:.4g}",
                speed,
                f"{x['error']['score']:.2g}",
                x["accuracy"],
                bytes_text(x["workspace"]),
                style="bold" if x is best else None,
            )
        out.print(table)
        out.print()


def cost_tables(lines: list[dict[str, Any]], threads: int, machine: str) -> None:
    """The steps before a kernel is fast, cold and warm, cheapest start first; then when each pays off."""
    from rich.table import Table

    from . import cost

    out = console()
    for problem in dict.fromkeys(x["problem"] for x in lines):
        mine = [x for x in lines if x["problem"] == problem]
        ok = sorted((x for x in mine if x["status"] == "ok"), key=lambda x: cost.startup(x, "warm"))
        title = f"{problem}, packed, {threads} threads, {machine}"
        table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
        table.add_column("kernel")
        headings = ("import", "plan, cold", "plan, warm", "pack", "transfer", "first call", "then a call")
        for heading in headings:
            table.add_column(heading, justify="right")
        for x in ok:
            warm = x["warm"]
            steps = (warm["import"], x["cold"]["plan"], *(warm[k] for k in cost.STEPS[1:]), x["run"])
            table.add_row(x["kernel"], *map(seconds_text, steps))
        out.print(table)
        for state in ("cold", "warm"):
            for slow, quick, calls in cost.pay_offs(mine, state):
                out.print(f"  {state}: {quick} overtakes {slow} after {calls} calls", markup=False)
        for x in mine:
            if x["status"] != "ok":
                out.print(f"  {x['kernel']}: {x['status']}: {x['why']}", markup=False, soft_wrap=True)
        out.print()


def null_table(found: dict[str, Any], machine: str) -> None:
    """Each twin's ratio and interval, those that seem to differ marked, and what it comes to."""
    from rich.table import Table

    out = console()
    title = f"Kernels against themselves, {found['rounds']} rounds, {found['threads']} threads, {machine}"
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    for heading in ("kernel", "problem", "ratio", "interval", ""):
        table.add_column(heading)
    for x in found["pairs"]:
        told = f"{x['low']:.3f} - {x['high']:.3f}"
        alarm = "seems to differ" if x["alarm"] else ""
        table.add_row(x["kernel"], x["problem"], f"{x['ratio']:.3f}", told, alarm)
    out.print(table)
    out.print(
        f"{found['false_alarms']} of {found['twins']} twins seem to differ ({found['false_alarm_rate']:.1%}; "
        f"{found['expected_rate']:.1%} is what the intervals allow). In {found['rounds']} rounds a difference "
        f"of {found['median_visible']:.1%} shows in half of the cells, one of {found['smallest_visible']:.1%} "
        f"in nearly all.",
        markup=False,
        soft_wrap=True,
    )


def skip_list(cells: list[Cell]) -> None:
    """Why cells have no time, a line for each reason; what went wrong stands out."""
    out = console()
    for (status, why), found in skips(cells).items():
        kernels = sorted({c.kernel for c in found})
        who = ", ".join(kernels[:4]) + (f" and {len(kernels) - 4} more" if len(kernels) > 4 else "")
        style = None if status in ("unsupported", "unavailable") else "bold red"
        out.print(f"{len(found)} {status}: {why} ({who})", style=style, markup=False, soft_wrap=True)
