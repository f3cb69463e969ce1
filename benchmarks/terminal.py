"""What a person sees: progress on standard error, tables on standard output."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from time import monotonic
from typing import Any


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
