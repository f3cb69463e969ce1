"""What a kernel promises and a timing never asks for: every call right, threads apart, nothing left.

A timing judges a few outputs of thousands, on ordinary numbers, one call at a time. A kernel that leaves out
what it knows will not be looked at, that is wrong now and then or with another number of threads, that mixes up
two calls at once or that keeps something of each is seen here, once a cell, after the clock has stopped.
"""

from __future__ import annotations

import gc
import os
import sys
import threading
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from time import perf_counter, sleep
from typing import Any

from .stopwatch import Effort, measure

KEPT = 2**25  # bytes of outputs that are held at once
SLOW = 0.02  # seconds; calls that take longer are not asked for again only to be looked at
SECONDS = 0.02  # for calls from several threads, and for a batch of calls that may leave something
IN_A_ROW = 8  # calls at least
IN_A_BATCH = 12  # calls at least, or what comes and goes by itself counts for too much; then more
THREADS = 3
CHANGE_THREADS = ("numba", "torch_cpu")  # backends whose number of threads a process can change
TOO_MANY = 0.8  # objects left by a call: others may go meanwhile


def some_wrong(cell: Any, calls: int, seconds: float) -> str:
    """Whether of as many calls as in one sample, made as a sample makes them, every one is right."""
    if seconds > SLOW:
        return ""
    made: deque[tuple[int, Any]] = deque(maxlen=max(1, _most(cell)))
    effort = Effort(max(calls, IN_A_ROW) * seconds, 0, 0, 1, 1)  # one sample, by the clock itself

    def call(x: Any) -> Any:
        y = cell.call(x)
        made.append((next(i for i, one in enumerate(cell.inputs) if one is x), y))
        return y

    measure(call, cell.inputs, cell.kernel.backend.synchronize, effort)
    i, why = _first_wrong(cell, list(made))
    return f"call {i + 1} of {len(made)} in a row is wrong: {why}" if why else ""


def _most(cell: Any) -> int:
    """The most outputs that are held at once."""
    p = cell.problem
    return KEPT // max(1, p.N * p.K * p.P * p.Q * p.itemsize)


def _first_wrong(cell: Any, made: list[tuple[int, Any]]) -> tuple[int, str]:
    """The first of these (turn, output) that is no answer to inputs[turn], and why; -1 if all are right."""
    from convzoo.reference import snapshot

    for i, (turn, y) in enumerate(made):
        if why := cell.wrong(turn, snapshot(cell.kernel.backend, y)):
            return i, why
    return -1, ""


def depends_on_threads(cell: Any) -> str:
    """Whether a call with one thread is wrong, where the timing had more and a process can change that."""
    from convzoo.reference import snapshot

    backend, timed_with = cell.kernel.backend, int(os.environ.get("OMP_NUM_THREADS", "1"))
    if timed_with < 2 or backend.name not in CHANGE_THREADS:
        return ""
    backend.set_threads(1)
    try:
        home = snapshot(backend, cell.once())
    finally:
        backend.set_threads(timed_with)
    why = cell.wrong(0, home)
    return f"with one thread instead of {timed_with}: {why}" if why else ""


def crosses(cell: Any, seconds: float) -> str:
    """Whether calls, each of so many seconds, are wrong when they come from several threads at once.

    The first call of each lets the others go on at every line that it comes to: chance seldom does.
    """
    backend, most = cell.kernel.backend, _most(cell) // THREADS
    if backend.device != "cpu" or seconds > SLOW or not most:
        return ""
    gate = threading.Barrier(THREADS)

    def work(turn: int) -> list[tuple[int, Any]]:
        x, lines, before = cell.inputs[turn], set(), sys.gettrace()

        def pause(frame: Any, event: str, _: Any) -> Any:
            if (line := (frame.f_code, frame.f_lineno)) not in lines:
                lines.add(line)
                sleep(1e-6)
            return pause

        gate.wait()
        sys.settrace(pause)
        try:
            ys = [cell.call(x)]
        finally:
            sys.settrace(before)
        ends = perf_counter() + SECONDS
        while perf_counter() < ends and len(ys) < most:
            ys.append(cell.call(x))
        return [(turn, y) for y in ys]

    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(THREADS) as pool:
            made = [*pool.map(work, (i % len(cell.inputs) for i in range(THREADS)))]
    finally:
        sys.setswitchinterval(usual)
    _, why = _first_wrong(cell, [one for some in made for one in some])
    return f"called from several threads at once: {why}" if why else ""


def leaves(cell: Any, seconds: float) -> str:
    """Whether every call, of so many seconds, leaves objects behind, or memory as large as its output."""
    import psutil

    if seconds > SLOW:
        return ""
    calls, process = max(IN_A_BATCH, min(1000, int(SECONDS / seconds))), psutil.Process()
    objects = resident = 0
    for again in range(6):  # seldom more than once
        if again:
            gc.collect()
            calls *= 2  # what is kept once, or by some hundred calls, counts for less; a leak goes on
        objects, resident = sys.getallocatedblocks(), process.memory_info().rss
        for i in range(calls):
            cell.call(cell.inputs[i % len(cell.inputs)])
        cell.kernel.backend.synchronize()
        if again:
            gc.collect()
        objects = (sys.getallocatedblocks() - objects) / calls
        resident = (process.memory_info().rss - resident) / calls
        size = KEPT / max(1, _most(cell))
        if objects < TOO_MANY and resident < max(size / 2, 2**20 / calls):
            return ""
    kept = f"{objects:.3g} objects" if objects >= TOO_MANY else f"{resident / 1024:.3g} KiB"
    return f"keeps {kept} more after each call"
