"""``python -m reports retell``: the page that tells what a convolution layer does, out of code that runs.

The template is Markdown. Its Python blocks are run one after the other in one namespace, and what they print
is put below them; its numbers come from a record. Nothing here imports what those blocks import: they are a
reader's code, and a reader may have other libraries than a report needs.
"""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path
from typing import Any

from benchmarks import evidence
from benchmarks import words as say
from benchmarks.evidence import races
from benchmarks.problems import problem_of

from .across import share
from .cells import Cell, Run
from .limits import arithmetic
from .load import load
from .values import Unreadable

ROOM = Path(__file__).resolve().parent
PROBLEM, SCENARIO = "n1c3h128w128k4r5s5", "packed"
CLIMB = (
    "numpy/per_channel",
    "numba/naive",
    "numba/parallel",
    "numpy/shifted",
    "numpy/im2col",
    "numba/register_tile",
    "numba/direct",
    "numba/few_channels",
)
BLOCK = re.compile(r"^```python\n(.*?)^```\n", re.MULTILINE | re.DOTALL)
WRITTEN_FROM = re.compile(r"\A<!-- .*? and (\S+); edit the template")


class Failed(RuntimeError):
    """A block of the page that does not run; the text says which and why."""


def page(record: Path, name: str) -> str:
    """The whole page, its blocks run and its numbers taken from ``record``, which it calls ``name``."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(ROOM / "templates"),
        undefined=StrictUndefined,
        autoescape=False,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    template = environment.get_template("seed.md.j2")
    return executed(template.render(numbers(load(record)), record=name))


def executed(text: str) -> str:
    """``text`` with what each Python block printed below it. Failed where one does not run."""
    namespace: dict[str, Any] = {"__name__": "page"}

    def run(block: re.Match[str]) -> str:
        line = text.count("\n", 0, block.start(1))
        said = io.StringIO()
        try:
            code = compile("\n" * line + block[1], "page", "exec")  # so that an error names the page's line
            with contextlib.redirect_stdout(said):
                exec(code, namespace)
        except ImportError:
            raise
        except Exception as error:
            raise Failed(f"the block at line {line + 1} fails: {type(error).__name__}: {error}") from error
        shown = said.getvalue()
        return block[0] + (f"\n```text\n{shown}```\n" if shown else "")

    return BLOCK.sub(run, text)


def numbers(run: Run) -> dict[str, Any]:
    """What the template names. Unreadable for a record without the first step of the climb."""
    cells = {c.kernel: c for c in run.of(problem=PROBLEM, scenario=SCENARIO) if c.ran}
    if CLIMB[0] not in cells:
        raise Unreadable(f"{run.name} has no time of {CLIMB[0]} on {PROBLEM} ({SCENARIO})")
    first = cells[CLIMB[0]]
    steps = [k for k in CLIMB if k in cells]
    problem = problem_of(PROBLEM)
    assert problem is not None
    return {
        "machine": run.machine,
        "threads": run.said("threads"),
        "date": say.date_text(run.said("started")),
        "commit": run.said("commit")[:10],
        "rounds": int(first.numbers["rounds"] or 0),
        "flops": say.flops_text(problem.flops),
        "first_time": say.seconds_text(first.seconds),
        "limit_words": _limit_words(run, problem.flops, problem.dtype),
        "windows": f"{problem.K * problem.C * problem.P * problem.Q:,}",
        "climb_list": "[\n" + "".join(f'    "{k}",\n' for k in CLIMB) + "]",
        "rows": [_row(run, cells, k, before) for k, before in zip(steps, ["", *steps], strict=False)],
        "timed": cells.__contains__,
        "step": lambda kernel, before: _step(cells.get(kernel), cells.get(before)),
        "ending": _ending(run, first),
    }


def _limit_words(run: Run, flops: int, dtype: str) -> str:
    top = arithmetic(run, dtype)
    if top is None:
        return ""
    return (
        f"{run.machine} was measured to do {say.plain(top)} GFLOP/s at most, which is "
        f"{say.seconds_text(flops / top / 1e9)} for it. "
    )


def _row(run: Run, cells: dict[str, Cell], kernel: str, before: str) -> dict[str, str]:
    c, limit = cells[kernel], share(run, cells[kernel])
    return {
        "kernel": kernel,
        "time": f"{say.seconds_text(c.seconds)} ({say.time_interval(c.low, c.high)})",
        "step": say.speed_text(cells[before].seconds / c.seconds) if before else say.NOTHING,
        "whole": say.speed_text(cells[CLIMB[0]].seconds / c.seconds),
        "rate": say.plain(c.gflops_per_s),
        "share": say.NOTHING if limit is None else f"{100 * limit:.2g}%",
    }


def _step(cell: Cell | None, before: Cell | None) -> str:
    """takes 4.01 ms, 83x faster (80 - 85) than numpy/per_channel: or slower, or nobody knows."""
    if cell is None:
        return "was not timed in this record"
    took = f"takes {say.seconds_text(cell.seconds)}"
    found = evidence.summary(evidence.speeds(before.rounds, cell.rounds)) if before else None
    if before is None or found is None:
        return took
    speed, low, high = found
    if not evidence.told_apart(before.rounds, cell.rounds):
        return f"{took}, which the rounds cannot tell from {before.kernel}"
    if speed < 1:
        times = f"{say.speed_text(1 / speed)} as long as {before.kernel} ({1 / high:.3g} – {1 / low:.3g})"
        return f"{took}, here {times}"
    return f"{took}, {say.speed_text(speed)} faster than {before.kernel} ({low:.3g} – {high:.3g})"


def _ending(run: Run, first: Cell) -> str:
    """Who is fastest in this record, whatever it is called, and how far from the limit."""
    race = next(r for r in races(run.cells, SCENARIO) if r.problem == PROBLEM)
    best = race.best
    assert best is not None
    found = evidence.summary(evidence.speeds(first.rounds, best.rounds))
    whole = say.speed_text(found[0] if found else first.seconds / best.seconds)
    tied = f"; the rounds cannot tell it from {' or '.join(c.kernel for c in race.level)}" if race.level else ""
    limit = share(run, best)
    left = f" That is {limit:.0%} of what this machine could do at most." if limit is not None else ""
    usual = next((c for c in race.ranked if c.kernel == "torch_cpu/builtin"), None)
    theirs = f" torch's own layer takes {say.seconds_text(usual.seconds)} there." if usual else ""
    return (
        f"Of all kernels in this record that guarantee {best.accuracy} accuracy, {best.kernel} is the fastest: "
        f"{say.seconds_text(best.seconds)}, {whole} faster than by hand{tied}.{left}{theirs}"
    )


def written_from(text: str) -> str | None:
    """The record that a page says it was written from."""
    found = WRITTEN_FROM.match(text)
    return found[1] if found else None


def newest(records: Path) -> Path:
    """The newest record with the climb's first step. Unreadable where there is none."""
    from .collect import collect, records_in

    known = [g for g in collect(records_in(records)).glances if (CLIMB[0], PROBLEM, SCENARIO) in g.times]
    if not known:
        raise Unreadable(f"no record below {records} has a time of {CLIMB[0]} on {PROBLEM}")
    return max(known, key=lambda g: (g.started, g.name)).path
