"""What a kernel promises and a timing never asks for: every call right, NaN kept, threads apart, nothing left.

A timing judges a few outputs of thousands, on ordinary numbers, one call at a time. A kernel that leaves out
what it knows will not be looked at, that is wrong now and then, that loses a NaN or what is very small, that is
wrong with another number of threads, that mixes up two calls at once or that keeps something of each is seen
here, once a cell, after the clock has stopped.
"""

from __future__ import annotations

import gc
import os
import sys
import threading
from collections import deque
from collections.abc import Callable
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
SCALES = (2.0**-60, 2.0**60)  # powers of two change no digit, and so large or small float32 is far from its ends
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


def loses_nan(kernel: Any, call: Callable[[Any], Any], p: Any, data: tuple, known: tuple) -> str:
    """Whether a NaN and an infinity in x fail to reach an output that sees them, or harm the others.

    They may spread: the transforms of some algorithms mix pixels. ``data`` is x, w and b on the host,
    ``known`` their oracle and magnitude; ``call`` has the weights.
    """
    import numpy as np

    from convzoo.reference import judge, snapshot, window_of

    x = data[0].copy()
    if not x.size:
        return ""
    spots = [(0, 0, p.H // 2, p.W // 2, np.nan), (p.N - 1, p.C - 1, (p.H - 1) // 2, p.W // 3, np.inf)]
    seen = np.zeros(p.y_shape, bool)
    for n, c, h, v, value in spots:
        (x.transpose(0, 3, 1, 2) if p.layout == "nhwc" else x)[n, c, h, v] = value
        seen |= window_of(p, n, c, h, v)
    with np.errstate(all="ignore"):
        y = snapshot(kernel.backend, call(kernel.backend.to_device(x)))
    if type(y) is not np.ndarray or y.shape != p.y_shape:
        return "on x with a NaN: y is no array of the shape that it must have"
    lost = seen & np.isfinite(y)
    if lost.any():
        return f"lost a NaN or an infinity in x: {int(lost.sum())} outputs that see it are numbers"
    y = np.where(np.isfinite(y), y, known[0].astype(y.dtype))
    verdict = judge(y, p, *data, known=known, **kernel.promise)
    return "" if verdict.ok else f"on x with a NaN: {verdict.why}"


def depends_on_scale(kernel: Any, plan: Any, p: Any, data: tuple, known: tuple, right: Any = None) -> str:
    """Whether x and b that are so many times as large do not give y that is as many times as large.

    ``data`` is x, w and b on the host, ``known`` their oracle and magnitude, ``right`` an output that is
    known to be right: most kernels give its digits again.
    """
    import numpy as np

    from convzoo.reference import ACCUMULATOR, judge, snapshot

    if p.dtype in ACCUMULATOR:
        return ""  # float16 holds no such numbers
    device = kernel.backend.to_device
    for scale in SCALES:
        x, w, b = (data[0] * scale).astype(data[0].dtype), data[1], data[2]
        b = b if b is None else (b * scale).astype(b.dtype)
        weights = plan.pack(device(w), b if b is None else device(b))
        y = snapshot(kernel.backend, plan.run(device(x), weights))
        if right is not None and type(y) is np.ndarray and np.array_equal(y, right * right.dtype.type(scale)):
            continue
        scaled = known[0] * scale, known[1] * scale
        verdict = judge(y, p, x, w, b, tier="random", known=scaled, **kernel.promise)
        if not verdict.ok:
            return f"with x and b times {scale:.2g}: {verdict.why}"
    return ""


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
