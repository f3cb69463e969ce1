"""Reasons not to believe a time although the output was right, found in the process that was timed.

A kernel that remembers its answers is right, and fast on every input that comes round again; one that leaves
work to a thread or a process of its own, or that changes the clock, is right and fast as well. Their cells
are ``mistrusted``, and so are those of a kernel that changes what the next one finds: threads, rounding,
errors. This guards against mistakes and against shortcuts; it is no wall against an attacker who shares
the process.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import sys
import threading
import time
import types
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

from .stopwatch import seconds_of_one

PAIRS = 40  # turns with known and with new data; the fastest call of each is compared
SECONDS = 0.05  # and beyond the third no further pair of turns is begun after this long
SLOWER = 1.5  # a call with new data takes at most this times a call with known data ...
LATER = 2e-6  # ... and this much beside: below it, noise decides
ATTEMPTS = 8  # doubt must be found in each of these
LOOKS = 8  # at what a kernel has left behind

WATCHED = (
    "time",
    "gc",
    "numpy",
    "numpy.random",
    "numpy.linalg",
    "builtins",
    "math",
    "statistics",
    "json",
    "threading",
    "random",
    "dataclasses",
    "functools",
    "convzoo.reference",
    "convzoo.reference.bounds",
    "convzoo.reference.data",
    "convzoo.reference.verdict",
    "convzoo.problem",
    "convzoo.plan",
    "convzoo.backends",
    "convzoo.catalog",
    "benchmarks.stopwatch",
    "benchmarks.worker",
    "benchmarks.doubts",
    "benchmarks.guard",
    "benchmarks.strain",
    "__main__",
)
VARIABLES = (  # which libraries read when they begin
    "OMP_NUM_THREADS",
    "OMP_PROC_BIND",
    "OMP_PLACES",
    "OMP_DYNAMIC",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMBA_NUM_THREADS",
    "CONVZOO_VECTOR_BITS",
)
OWN = ("convzoo.", "benchmarks.", "__main__")


class Watch:
    """What timing and the verdict rest on, as it was before the kernel was first touched."""

    def __init__(self, backend: Any):
        for name in WATCHED:
            if name.startswith("benchmarks."):
                importlib.import_module(name)
        self._backend = backend
        backend.used = True  # as its first plan would say: no change that a kernel made
        self._before = dict(self._rests())
        self._settings = dict(settings())
        self._threads = set(threading.enumerate())
        self._children = _children()

    def _rests(self) -> Iterator[tuple[tuple[str, str], Any]]:
        """(owner, name) and what it is now; a function is its code and defaults as well."""
        for name in WATCHED:
            if name in sys.modules:
                yield from _contents(name, sys.modules[name])
        for kind in type(self._backend).__mro__[:-1]:
            owner = f"the backend {kind.__name__}"
            yield from (((owner, name), value) for name, value in vars(kind).items())
        mine = f"the backend {self._backend.name}"
        yield from (((mine, name), value) for name, value in vars(self._backend).items())

    def reasons(self) -> str:
        """What was changed or left running since, in one sentence, or nothing."""
        for (owner, name), value in self._rests():
            if (owner, name) in self._before:
                if self._before[owner, name] is not value:
                    return f"changed {name} of {owner}, on which the clock and the verdict rest"
            elif owner.startswith("the backend"):
                return f"added {name} to {owner}, on which the clock and the verdict rest"
        for what, now in settings():
            if what in self._settings and self._settings[what] != now:
                return f"changed {what} from {self._settings[what]} to {now} for all that runs after it"
        threads = [t.native_id for t in threading.enumerate() if t not in self._threads]
        children = [child.pid for child in _children() - self._children]
        for what, stats in (
            ("thread(s)", [f"/proc/self/task/{i}/stat" for i in threads]),
            ("process(es)", [f"/proc/{i}/stat" for i in children]),
        ):
            if stats and (busy := _at_work([partial(_runs, stat) for stat in stats])):
                return f"left {busy} {what} at work: what it returns need not be finished"
        return ""


def _contents(name: str, module: types.ModuleType) -> Iterator[tuple[tuple[str, str], Any]]:
    for key, value in list(vars(module).items()):
        if key.startswith("__"):
            continue
        yield (name, key), value
        if not name.startswith(OWN):
            continue
        if isinstance(value, types.FunctionType):
            yield (name, f"the code of {key}"), value.__code__
            yield (name, f"the defaults of {key}"), value.__kwdefaults__ or value.__defaults__
        elif isinstance(value, type) and value.__module__ == name:
            for inner, method in vars(value).items():
                yield (f"{name}.{key}", inner), method


def settings() -> Iterator[tuple[str, Any]]:
    """Settings of this process that decide how fast, how exact or how noisy the next kernel is."""
    import numpy as np

    yield "NumPy's error state", str(np.geterr())
    yield "whether warnings are errors", any(rule[0] == "error" for rule in warnings.filters)
    yield "the rounding of tiny numbers to zero", bool(np.float32(1e-40) * np.float32(1) == 0)
    one, little = np.float32(1), np.float32(2**-30)
    nearest = one + little == one - little == one
    yield "the direction of rounding", "to nearest" if nearest else "another"
    yield "the garbage collector", (gc.isenabled(), gc.get_threshold())
    yield "the interval at which threads take turns", sys.getswitchinterval()
    for name in VARIABLES:
        yield f"the variable {name}", os.environ.get(name)
    with contextlib.suppress(AttributeError):  # not Linux
        yield "the processors it may run on", sorted(os.sched_getaffinity(0))
        yield "its priority", (os.sched_getscheduler(0), os.getpriority(os.PRIO_PROCESS, 0))
    yield "the tracing of calls", (sys.gettrace() is not None, sys.getprofile() is not None)
    if "numba" in sys.modules:
        import numba

        yield "Numba's threads", numba.get_num_threads()
    if "torch" in sys.modules:
        import torch

        yield "torch's threads", torch.get_num_threads()
        yield "torch's default dtype", str(torch.get_default_dtype())
        yield "torch's float32 precision", torch.get_float32_matmul_precision()
        yield "torch's deterministic mode", torch.are_deterministic_algorithms_enabled()
    with contextlib.suppress(ImportError):
        from threadpoolctl import threadpool_info

        for pool in threadpool_info():
            if pool["user_api"] == "blas":
                yield f"the threads of {pool['filepath']}", pool["num_threads"]


def _at_work(states: list[Callable[[], bool]]) -> int:
    """How many are found running more often than not, while nothing is asked of them."""
    found = [0] * len(states)
    for _ in range(LOOKS):
        time.sleep(0.005)
        for i, runs in enumerate(states):
            found[i] += runs()
    return sum(2 * n > LOOKS for n in found)


def settle(seconds: float = 0.25) -> None:
    """Wait until all other threads of this process sleep, or for so long.

    The verdict's product of matrices leaves its BLAS threads spinning for some 50 ms in case another one
    comes. Bound to the same cores, they would take turns of 4 ms with the kernel: half of its speed.
    """
    ends, me, quiet = perf_counter() + seconds, threading.get_native_id(), 0
    while perf_counter() < ends and quiet < 2:
        time.sleep(0.005)
        others = [task for task in Path("/proc/self/task").glob("*") if task.name != str(me)]
        quiet = 0 if any(_runs(f"{task}/stat") for task in others) else quiet + 1


def _runs(stat: str) -> bool:
    """Whether a thread or a process is running, or waits for a processor, as Linux tells it."""
    try:
        return Path(stat).read_text().rpartition(")")[2].split()[0] in "RD"
    except (OSError, IndexError):  # it has ended; or not Linux, where nothing tells
        return False


def wait_for_threads(seconds: float = 0.5) -> None:
    """Let threads of Python's that a kernel has started come to their end: they may change an output."""
    ends = perf_counter() + seconds
    for thread in threading.enumerate():
        if thread is not threading.current_thread():
            thread.join(max(0.0, ends - perf_counter()))


def _children() -> set[Any]:
    """Processes that this one has started and, on Linux, what those have left behind."""
    import psutil

    return set(psutil.Process().children(recursive=True))


def remembers(cell: Any, timed: float) -> str:
    """Why the timed calls, whose inputs come round again, say nothing about a call with new data.

    The arrays of the timing are given their own values again, for two turns as in the timing, then
    values that nobody can know. Both were just written, after as many values were drawn, so that the
    caches hold as much of either. ``timed`` is the seconds of the quickest timed call.
    """
    eager = cell.scenario == "eager"  # then the weights come round again as well
    doubt = _slower_on_new_data(cell, timed, eager)
    for i, values in enumerate(cell.host):
        _put(cell, i, values, eager)
    doubt = doubt or _right_on(cell)
    _put(cell, 0, cell.host[0], eager)
    return doubt


def _slower_on_new_data(cell: Any, timed: float, eager: bool) -> str:
    import numpy as np

    rng = np.random.default_rng()  # from the system's entropy: no seed gives these values

    def draw(i: int) -> tuple:
        kinds = [None if a is None else (a.shape, a.dtype) for a in cell.host[i]]
        kinds = kinds if eager else [kinds[0], None, None]
        return tuple(None if kind is None else rng.random(*kind) - kind[1].type(0.5) for kind in kinds)

    for attempt in range(ATTEMPTS):
        seconds: tuple[list[float], list[float]] = ([], [])
        began = perf_counter()
        for pair in range(PAIRS):
            spent = perf_counter() - began
            if spent > 10 * SECONDS or (pair >= 3 and spent > SECONDS):
                break
            # a call that is so slow with data it has met has remembered nothing yet
            turn = range(1 if min([timed, *seconds[0]]) > SECONDS else len(cell.inputs))
            for i in (*turn, *turn):
                draw(i)
                seconds[0].append(_seconds(cell, i, cell.host[i], eager))
            for i in turn:
                seconds[1].append(_seconds(cell, i, draw(i), eager))
        again, fresh = map(min, seconds)
        if fresh <= SLOWER * again + LATER:
            break
        if attempt == ATTEMPTS - 1:
            return (
                f"a call with new data takes {fresh * 1e6:.3g} us, one with data it has met "
                f"{again * 1e6:.3g} us: it remembers its answers"
            )
    return ""


def _put(cell: Any, i: int, values: tuple, eager: bool) -> None:
    backend = cell.kernel.backend
    backend.overwrite(cell.inputs[i], values[0])
    for array, value in zip(cell.weights, values[1:], strict=True):
        if eager and array is not None:
            backend.overwrite(array, value)
    backend.synchronize()


def _seconds(cell: Any, i: int, values: tuple, eager: bool) -> float:
    _put(cell, i, values, eager)
    collecting = gc.isenabled()
    gc.disable()
    seconds = seconds_of_one(cell.call, cell.inputs[i], cell.kernel.backend.synchronize)
    if collecting:
        gc.enable()
    return seconds


def _right_on(cell: Any) -> str:
    """Whether a call after all the timing is right, read at once, on data that no seed gives."""
    import numpy as np

    from convzoo.reference import judge, snapshot

    backend, (known, w, b) = cell.kernel.backend, cell.host[0]
    values = np.random.default_rng().standard_normal(known.shape).astype(known.dtype)
    backend.overwrite(cell.inputs[0], values)
    y = snapshot(backend, cell.call(cell.inputs[0]))
    if not np.array_equal(backend.to_host(cell.inputs[0]), values):
        return "after the timing, a call changed x"
    verdict = judge(y, cell.problem, values, w, b, tier="random", **cell.kernel.promise)
    return "" if verdict.ok else f"after the timing, on data that no seed gives: {verdict.why}"
