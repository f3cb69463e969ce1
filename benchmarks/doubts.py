"""Reasons not to believe a time although the output was right, found in the process that was timed.

A kernel that remembers its answers is right, and fast on every input that comes round again; one that fills
y from a thread of its own, or that changes the clock, is right and fast as well. Their cells are
``mistrusted``. This guards against mistakes and against shortcuts; it is no wall against an attacker who
shares the process.
"""

from __future__ import annotations

import gc
import sys
import threading
from collections.abc import Iterator
from time import perf_counter
from typing import Any

PAIRS = 7  # calls with known and with new data, in turn; the fastest of each is compared
SECONDS = 0.05  # and beyond the third no further pair is begun after this long
SLOWER = 2.5  # a call with new data takes at most this times a call with known data ...
LATER = 5e-6  # ... and this much beside: below it, noise decides
ATTEMPTS = 6  # doubt must be found in each of these

WATCHED = (
    "time", "gc", "numpy", "convzoo.reference", "convzoo.problem", "convzoo.plan", "convzoo.backends",
    "benchmarks.stopwatch", "benchmarks.worker", "benchmarks.doubts",
)  # fmt: skip


class Watch:
    """What timing and the verdict rest on, as it was before the kernel was first touched."""

    def __init__(self, backend: Any):
        self._backend = backend
        self._before = list(self._rests())
        self._threads = set(threading.enumerate())

    def _rests(self) -> Iterator[tuple[str, dict[str, Any]]]:
        for name in WATCHED:
            if name in sys.modules:
                yield name, dict(vars(sys.modules[name]))
        from convzoo import Conv2d
        from convzoo.reference import Verdict

        for kind in (*type(self._backend).__mro__[:-1], Conv2d, Verdict):
            yield kind.__name__, dict(vars(kind))
        yield f"the backend {self._backend.name}", dict(vars(self._backend))

    def reasons(self) -> str:
        """What was changed or left running since, in one sentence, or nothing."""
        for (what, before), (_, now) in zip(self._before, self._rests(), strict=False):
            for name, value in now.items():
                if name in before and before[name] is not value:
                    return f"changed {name} of {what}, on which the clock and the verdict rest"
                if name not in before and what.startswith("the backend"):
                    return f"added {name} to {what}, on which the clock and the verdict rest"
        left = set(threading.enumerate()) - self._threads
        if left:
            return f"left {len(left)} thread(s) running: what it returns need not be finished"
        return ""


def remembers(cell: Any) -> str:
    """Why the timed calls, whose inputs come round again, say nothing about a call with new data.

    The same array is given the same values again and values that nobody can know, in turn; both were
    just written, so that the caches hold as much of either.
    """
    import numpy as np

    x, known = cell.inputs[0], cell.host[0][0]
    rng = np.random.default_rng()  # from the system's entropy: no seed gives these values
    for attempt in range(ATTEMPTS):
        seconds: tuple[list[float], list[float]] = ([], [])
        began = perf_counter()
        for pair in range(PAIRS):
            new = rng.standard_normal(known.shape).astype(known.dtype)
            for values, found in ((known, seconds[0]), (new, seconds[1])):
                found.append(_seconds(cell, x, values))
            spent = perf_counter() - began
            if spent > 10 * SECONDS or (pair >= 2 and spent > SECONDS):
                break
        again, fresh = map(min, seconds)
        if fresh <= SLOWER * again + LATER:
            break
        if attempt == ATTEMPTS - 1:
            return (
                f"a call with new data takes {fresh * 1e6:.3g} us, one with data it has met "
                f"{again * 1e6:.3g} us: it remembers its answers"
            )
    return _right_on(cell, x, new)  # type: ignore[possibly-undefined]


def _seconds(cell: Any, x: Any, values: Any) -> float:
    backend = cell.kernel.backend
    backend.overwrite(x, values)
    backend.synchronize()
    collecting = gc.isenabled()
    gc.disable()
    begin = perf_counter()
    y = cell.call(x)
    backend.synchronize()
    seconds = perf_counter() - begin
    del y
    if collecting:
        gc.enable()
    return seconds


def _right_on(cell: Any, x: Any, values: Any) -> str:
    """Whether a call after all the timing is right, read at once, on data that no seed gives."""
    from convzoo.reference import judge, snapshot

    backend = cell.kernel.backend
    backend.overwrite(x, values)
    y = snapshot(backend, cell.call(x))
    verdict = judge(y, cell.problem, values, *cell.host[0][1:], accuracy=cell.kernel.accuracy)
    return "" if verdict.ok else f"after the timing, on data that no seed gives: {verdict.why}"
