"""Kernels that cheat, break or hang on purpose, for every backend: what ``python -m benchmarks selftest`` tries.

Each function below is one fault. It gets the plan of an honest kernel of the backend and returns a plan
that is spoiled; ``write`` puts it in a file of its own, so that it takes the way of any other kernel. A fault
says with which status its cell must end, and a pattern that the reason must match.
"""

from __future__ import annotations

import itertools
import math
import os
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from .strain import CHANGE_THREADS

# A backend that is not listed gets the first of its kernels that promises the most.
HONEST = {
    "python": "python/naive",
    "numpy": "numpy/shifted",
    "numba": "numba/parallel",
    "numba_cuda": "numba_cuda/naive",
    "cupy": "cupy/shifted",
    "torch_cpu": "torch_cpu/builtin",
    "torch_cuda": "torch_cuda/unfold",
    "torch_mps": "torch_mps/unfold",
}
REFUSED = "not exact|outside the|must be"


@dataclass(frozen=True)
class Fault:
    """A way to be wrong, the status (or one of several) that its cell must get, and the reason's words.

    ``host``: can only be seen where the arrays are in the host's memory; ``threads``: where a process can
    change the number of its threads.
    """

    name: str
    spoil: Callable[[Any, Any, Any], Any]
    status: str
    reason: str
    host: bool = False
    threads: bool = False

    def fits(self, backend: str) -> bool:
        """Whether it can be seen there."""
        from convzoo.backends import BACKENDS

        on_host = not self.host or BACKENDS[backend].device == "cpu"
        return on_host and (not self.threads or backend in CHANGE_THREADS)

    @property
    def headline(self) -> str:
        return (self.spoil.__doc__ or "").strip().splitlines()[0]


FAULTS: dict[str, Fault] = {}


def must_end(status: str, reason: str = "", host: bool = False, threads: bool = False) -> Callable:
    """The function below is a fault: spoil(p, honest plan, backend) -> plan."""

    def enter(spoil: Callable) -> Callable:
        FAULTS[spoil.__name__] = Fault(spoil.__name__, spoil, status, reason, host, threads)
        return spoil

    return enter


def honest_kernel(backend: str) -> str:
    """The kernel of a backend that the faults are put into."""
    from convzoo.catalog import find, names

    if backend in HONEST:
        return HONEST[backend]
    mine = names(f"{backend}/*")
    return next((name for name in mine if find(name).accuracy == "elementwise"), mine[0])


def write(folder: Path, backend: str, fault: Fault) -> Path:
    """A kernel's file with this fault, made from the honest kernel of the backend."""
    from convzoo.catalog import find

    honest = find(honest_kernel(backend))
    path = folder / backend / f"{fault.name}.py"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        f'"""{fault.headline}"""\n\nfrom benchmarks.bad_kernels import spoiled\n\n'
        f"ALGORITHM = {honest.algorithm!r}\nACCURACY = {honest.accuracy!r}\n\n\n"
        f"def plan(p):\n    return spoiled({backend!r}, {fault.name!r}, p)\n",
        encoding="utf-8",
    )
    return path


def spoiled(backend: str, fault: str, p: Any) -> Any:
    """The plan of the backend's honest kernel, with the fault put in."""
    from convzoo.catalog import load

    kernel = load(honest_kernel(backend))
    return FAULTS[fault].spoil(p, kernel.plan(p), kernel.backend)


def _changed(honest: Any, backend: Any, change: Callable[[Any], Any]) -> Callable:
    """run, with its finished output changed on the host."""

    def run(x: Any, weights: Any) -> Any:
        return backend.to_device(change(backend.to_host(honest.run(x, weights)).copy()))

    return run


def _channels_first(p: Any, y: Any) -> Any:
    return y if p.layout == "nchw" else y.transpose(0, 3, 1, 2)


def _empty(p: Any, backend: Any) -> Any:
    import numpy as np

    return backend.to_device(np.empty(p.y_shape, p.dtype))


# --- the answer is not there -------------------------------------------------------------------------


@must_end("wrong", REFUSED)
def does_nothing(p, honest, backend):
    """Returns memory that nobody wrote."""
    return replace(honest, run=lambda x, weights: _empty(p, backend))


@must_end("wrong", REFUSED)
def stale_memory(p, honest, backend):
    """Returns what an earlier call left in memory, copied from wherever that was."""
    earlier: list[Any] = []

    def run(x, weights):
        y = honest.run(x, weights)
        earlier.append(backend.to_host(y).copy())
        return backend.to_device(earlier[0] if len(earlier) == 1 else earlier.pop(0))

    return replace(honest, run=run)


@must_end("wrong", REFUSED)
def workspace_not_cleared(p, honest, backend):
    """Adds to a workspace that only the plan cleared: right once."""
    import numpy as np

    sums = np.zeros(p.y_shape, p.dtype)

    def add(y):
        nonlocal sums
        sums += y
        return sums.copy()

    return replace(honest, run=_changed(honest, backend, add))


@must_end("wrong", REFUSED)
def zeros(p, honest, backend):
    """Returns zeros."""
    import numpy as np

    return replace(honest, run=lambda x, weights: backend.to_device(np.zeros(p.y_shape, p.dtype)))


@must_end("wrong", REFUSED)
def tail_unwritten(p, honest, backend):
    """The last column of y is never written."""

    def forget(y):
        _channels_first(p, y)[..., -1] = 0
        return y

    return replace(honest, run=_changed(honest, backend, forget))


@must_end("wrong", REFUSED)
def last_element_unwritten(p, honest, backend):
    """One number of y, the last, is never written."""

    def forget(y):
        y.reshape(-1)[-1] = 0
        return y

    return replace(honest, run=_changed(honest, backend, forget))


@must_end("wrong", REFUSED)
def one_buffer(p, honest, backend):
    """Every call returns the same array."""
    y = _empty(p, backend)

    def run(x, weights):
        backend.overwrite(y, backend.to_host(honest.run(x, weights)))
        return y

    return replace(honest, run=run)


FAULTS["one_buffer"] = replace(FAULTS["one_buffer"], reason="overwrote the first call's output")


@must_end("wrong", "overwrote|timed output is wrong|in a row is wrong")  # which of them looks first
def ring_of_buffers(p, honest, backend):
    """Returns eight arrays in turn, more than a verdict looks at together."""
    ring = [_empty(p, backend) for _ in range(8)]
    turns = itertools.cycle(ring)

    def run(x, weights):
        y = next(turns)
        backend.overwrite(y, backend.to_host(honest.run(x, weights)))
        return y

    return replace(honest, run=run)


# --- the answer is another one -----------------------------------------------------------------------


@must_end("wrong", REFUSED)
def wrong_layout(p, honest, backend):
    """The right numbers in the other order of axes, under the right shape."""
    import numpy as np

    def reorder(y):
        axes = (0, 2, 3, 1) if p.layout == "nchw" else (0, 3, 1, 2)
        return np.ascontiguousarray(y.transpose(axes)).reshape(p.y_shape)

    return replace(honest, run=_changed(honest, backend, reorder))


@must_end("wrong", "must be")
def wrong_shape(p, honest, backend):
    """The right numbers with the axes of y, and its shape, in the other order."""
    import numpy as np

    def reorder(y):
        return np.ascontiguousarray(y.transpose(0, 2, 3, 1))

    return replace(honest, run=_changed(honest, backend, reorder))


@must_end("wrong", REFUSED)
def bias_forgotten(p, honest, backend):
    """Packs the weights without the bias."""
    return replace(honest, pack=lambda w, b: honest.pack(w, _like(backend, b, lambda host: 0 * host)))


@must_end("wrong", REFUSED)
def filter_flipped(p, honest, backend):
    """A convolution as mathematics defines it, where a correlation is asked for."""

    def pack(w, b):
        return honest.pack(_like(backend, w, lambda host: host[:, :, ::-1, ::-1].copy()), b)

    return replace(honest, pack=pack)


def _packed_copy(honest: Any, backend: Any, w: Any, b: Any) -> Any:
    return honest.pack(*(_like(backend, a, lambda host: host) for a in (w, b)))


def _like(backend: Any, array: Any, change: Callable[[Any], Any]) -> Any:
    return None if array is None else backend.to_device(change(backend.to_host(array).copy()))


@must_end("wrong", REFUSED)
def less_precise(p, honest, backend):
    """Rounds x and w to the 11 bits of TF32, and promises float32."""
    return _rounding(honest, backend, 11)


@must_end("wrong", REFUSED)
def far_less_precise(p, honest, backend):
    """Rounds x and w to the 8 bits of bfloat16, and promises float32."""
    return _rounding(honest, backend, 8)


@must_end("wrong", REFUSED)
def hardly_less_precise(p, honest, backend):
    """Rounds x and w to 16 bits, which the bound of many products alone lets through."""
    return _rounding(honest, backend, 16)


def _rounding(honest: Any, backend: Any, bits: int) -> Any:
    return _of_parts(honest, backend, bits, ((0, 0),))


def _rounded(host: Any, bits: int) -> Any:
    import numpy as np

    mantissa, exponent = np.frexp(host)
    return np.ldexp(np.round(mantissa * 2**bits) / 2**bits, exponent).astype(host.dtype)


def _of_parts(honest: Any, backend: Any, bits: int, pairs: tuple[tuple[int, int], ...]) -> Any:
    """x and w as sums of numbers of so many bits, the largest first, and these products of them."""
    parts = 1 + max(max(pair) for pair in pairs)

    def split(a: Any) -> list[Any]:
        found, left = [], backend.to_host(a).copy()
        for _ in range(parts):
            found.append(_rounded(left, bits))
            left = left - found[-1]
        return [backend.to_device(part) for part in found]

    def pack(w: Any, b: Any) -> list[Any]:
        of, no_bias = split(w), _like(backend, b, lambda host: 0 * host)
        return [honest.pack(of[j], no_bias if i else b) for i, (_, j) in enumerate(pairs)]

    def run(x: Any, weights: Any) -> Any:
        of = split(x)
        return backend.to_device(
            sum(backend.to_host(honest.run(of[i], packed)) for (i, _), packed in zip(pairs, weights, strict=True))
        )

    return replace(honest, run=run, pack=pack)


@must_end("wrong", REFUSED)
def two_parts(p, honest, backend):
    """Three products of two bfloat16 parts of each number, and promises float32."""
    return _of_parts(honest, backend, 8, ((0, 0), (0, 1), (1, 0)))


@must_end("wrong", REFUSED)
def one_product_less(p, honest, backend):
    """Five products of three bfloat16 parts, and promises float32."""
    return _of_parts(honest, backend, 8, ((0, 0), (0, 1), (1, 0), (0, 2), (2, 0)))


@must_end("ok")
def six_products(p, honest, backend):
    """Six products of three bfloat16 parts: honest, as accurate as float32."""
    return _of_parts(honest, backend, 8, ((0, 0), (0, 1), (1, 0), (0, 2), (1, 1), (2, 0)))


@must_end("wrong", REFUSED)
def one_scale_for_all(p, honest, backend):
    """Takes x in 24 bits below its largest number: exact where all are alike."""
    import numpy as np

    def fixed(host):
        most = np.abs(host[np.isfinite(host)]).max(initial=0)
        step = host.dtype.type(2.0 ** (np.floor(np.log2(most)) - 23) if most else 1)
        return np.rint(host / step) * step

    return replace(honest, run=lambda x, weights: honest.run(_like(backend, x, fixed), weights))


@must_end("wrong", REFUSED)
def nearly_right(p, honest, backend):
    """The last column is too large by 5 in 10 000, which a tolerance of 1e-3 lets through."""

    def scale(y):
        _channels_first(p, y)[..., -1] *= 1.0005
        return y

    return replace(honest, run=_changed(honest, backend, scale))


@must_end("wrong", REFUSED)
def one_nan(p, honest, backend):
    """One number of y is NaN, which a comparison by > lets through."""

    def spoil(y):
        y.reshape(-1)[0] = math.nan
        return y

    return replace(honest, run=_changed(honest, backend, spoil))


@must_end("wrong", "lost a NaN")
def forgets_nan(p, honest, backend):
    """Takes a NaN in x for a zero."""
    return _reading(honest, backend, lambda np, x: np.nan_to_num(x, posinf=math.inf, neginf=-math.inf))


@must_end("wrong", "lost a NaN")
def forgets_minus_infinity(p, honest, backend):
    """Takes a negative infinity in x for a zero."""
    return _reading(honest, backend, lambda np, x: np.where(np.isneginf(x), 0, x))


@must_end("wrong", "lost a NaN")
def mends_weights(p, honest, backend):
    """Takes what is not finite in w for a zero, once, when it packs."""
    import numpy as np

    def pack(w, b):
        return honest.pack(_like(backend, w, lambda host: np.nan_to_num(host, posinf=0, neginf=0)), b)

    return replace(honest, pack=pack)


@must_end("wrong", "with x = 0")
def divides_by_the_largest(p, honest, backend):
    """Brings the largest pixel to 1: NaN where all are zero."""

    def scaled(np, x):
        largest = np.abs(np.nan_to_num(x, posinf=0, neginf=0)).max(initial=0)
        with np.errstate(all="ignore"):
            return x / largest * largest if largest == 0 else x

    return _reading(honest, backend, scaled)


@must_end("wrong", "with sums near overflow")
def scales_up_first(p, honest, backend):
    """Multiplies x by four before it divides it again: infinite near overflow."""

    def there_and_back(np, x):
        with np.errstate(all="ignore"):
            return 4 * x / 4

    return _reading(honest, backend, there_and_back)


@must_end("wrong", "with one pixel of")
def drops_what_is_small(p, honest, backend):
    """Takes pixels below 1e-25 for zeros."""
    return _reading(honest, backend, lambda np, x: np.where(np.abs(x) < 1e-25, 0, x))


@must_end("wrong", f"with one pixel of|{REFUSED}")
def clips_what_is_large(p, honest, backend):
    """Cuts outputs off at a billion."""
    import numpy as np

    def clip(y):
        y[np.isfinite(y) & (np.abs(y) > 1e9)] = 1e9
        return y

    return replace(honest, run=_changed(honest, backend, clip))


def _reading(honest: Any, backend: Any, change: Callable[[Any, Any], Any]) -> Any:
    """The honest plan on change(numpy, x)."""
    import numpy as np

    def run(x, weights):
        return honest.run(_like(backend, x, lambda host: change(np, host).astype(host.dtype)), weights)

    return replace(honest, run=run)


# --- its inputs are not its own ----------------------------------------------------------------------


@must_end("wrong", "x was changed|a later call went wrong")
def changes_x(p, honest, backend):
    """Changes x after use."""

    def run(x, weights):
        y = honest.run(x, weights)
        backend.synchronize()
        backend.overwrite(x, 2 * backend.to_host(x))
        return y

    return replace(honest, run=run)


@must_end("wrong", "w was changed")
def changes_w(p, honest, backend):
    """Changes the caller's weights while packing them."""

    def pack(w, b):
        weights = honest.pack(_like(backend, w, lambda host: host), b)
        backend.overwrite(w, 2 * backend.to_host(w))
        return weights

    return replace(honest, pack=pack)


@must_end("wrong", "wrote to x, w or b|read-only", host=True)
def puts_x_back(p, honest, backend):
    """Uses x as its own workspace, and puts back what was there before it returns."""

    def run(x, weights):
        kept = backend.to_host(x).copy()
        backend.overwrite(x, 0 * kept)
        backend.overwrite(x, kept)
        return honest.run(x, weights)

    return replace(honest, run=run)


@must_end("wrong", "touched what lies beside", host=True)
def reads_beside_x(p, honest, backend):
    """Reads a cache line past the end of x, which need not be there, and does not use it."""
    import ctypes

    def run(x, weights):
        home = backend.to_host(x)
        ctypes.string_at(home.ctypes.data + home.nbytes + 64, 4)
        return honest.run(x, weights)

    return replace(honest, run=run)


@must_end("wrong", "on inputs in read-only memory", host=True)
def needs_aligned_x(p, honest, backend):
    """Takes it for granted that x begins at a multiple of 16 bytes, as every array of its own does."""

    def run(x, weights):
        aligned = backend.to_host(x).ctypes.data % 16 == 0
        return honest.run(x, weights) if aligned else _empty(p, backend)

    return replace(honest, run=run)


@must_end("wrong", REFUSED)
def packs_a_view(p, honest, backend):
    """Packs the caller's own array, and reads it when it is called."""

    def run(x, weights):
        return honest.run(x, honest.pack(*weights))

    return replace(honest, run=run, pack=lambda w, b: (w, b))


# --- it remembers ------------------------------------------------------------------------------------


@must_end("wrong", REFUSED)
def remembers_by_id(p, honest, backend):
    """Keeps the answer under id(x)."""
    answers: dict[int, Any] = {}

    def run(x, weights):
        if id(x) not in answers:
            answers[id(x)] = backend.to_host(honest.run(x, weights)).copy()
        return backend.to_device(answers[id(x)])

    return replace(honest, run=run)


@must_end("wrong", REFUSED)
def remembers_x_by_value(p, honest, backend):
    """Keeps the answer under the values of x, and forgets that the weights count."""
    answers: dict[bytes, Any] = {}

    def run(x, weights):
        key = backend.to_host(x).tobytes()
        if key not in answers:
            answers[key] = backend.to_host(honest.run(x, weights)).copy()
        return backend.to_device(answers[key])

    return replace(honest, run=run)


@must_end("wrong", REFUSED)
def remembers_weights_by_sum(p, honest, backend):
    """Packs weights once and knows them by their sum, which others have as well."""
    packs: dict[float, Any] = {}

    def pack(w, b):
        key = math.fsum(backend.to_host(w).reshape(-1))
        if b is not None:
            key += math.fsum(backend.to_host(b))
        if key not in packs:
            packs[key] = _packed_copy(honest, backend, w, b)
        return packs[key]

    return replace(honest, pack=pack)


@must_end("mistrusted", "remembers its answers")
def remembers_all_by_value(p, honest, backend):
    """Keeps the answer under the values of x and w: right, and timed it would be the fastest of all."""
    packs: list[Any] = []
    answers: dict[tuple[int, bytes], Any] = {}

    def pack(w, b):
        packs.append(_packed_copy(honest, backend, w, b))
        return len(packs) - 1

    def run(x, which):
        key = (which, backend.to_host(x).tobytes())
        if key not in answers:
            answers[key] = backend.to_host(honest.run(x, packs[which])).copy()
        return backend.to_device(answers[key])

    return replace(honest, run=run, pack=pack)


@must_end("wrong mistrusted", "remembers its answers|not exact")
def remembers_a_sample(p, honest, backend):
    """Knows an x that it has met by a few of its values, and skips the work."""
    packs: list[Any] = []
    answers: dict[tuple[int, bytes], Any] = {}

    def pack(w, b):
        packs.append(_packed_copy(honest, backend, w, b))
        return len(packs) - 1

    def run(x, which):
        key = (which, backend.to_host(x).reshape(-1)[:: max(1, math.prod(x.shape) // 64)].tobytes())
        if key not in answers:
            answers[key] = backend.to_host(honest.run(x, packs[which])).copy()
        return backend.to_device(answers[key])

    return replace(honest, run=run, pack=pack)


# --- it behaves while it is watched ------------------------------------------------------------------


@must_end("wrong", "timed output is wrong")
def lazy_once_judged(p, honest, backend):
    """Right for as long as a verdict takes, then it returns what nobody wrote."""
    calls = iter(range(10**9))

    def run(x, weights):
        return honest.run(x, weights) if next(calls) < 8 else _empty(p, backend)

    return replace(honest, run=run)


@must_end("wrong", "timed output is wrong")
def lazy_but_for_the_last(p, honest, backend):
    """Looks up how many calls a sample has, and works for the last alone, or for every other one of one."""
    seen: dict[str, Any] = {"frame": None, "calls": 0}
    odd = itertools.cycle((True, False))

    def run(x, weights):
        frame = sys._getframe(1)
        while frame is not None and "batch" not in frame.f_locals:
            frame = frame.f_back
        if frame is None:
            return honest.run(x, weights)
        if seen["frame"] != id(frame):
            seen.update(frame=id(frame), calls=0)
        seen["calls"] += 1
        calls = len(frame.f_locals["batch"])
        if seen["calls"] < calls or (calls == 1 and next(odd)):
            return _empty(p, backend)
        seen["calls"] = 0
        return honest.run(x, weights)

    return replace(honest, run=run)


@must_end("wrong", "in a row is wrong")
def works_when_chosen(p, honest, backend):
    """Looks up which calls of a sample will be judged, and works for these alone."""
    seen: dict[str, Any] = {"frame": None, "calls": 0}

    def run(x, weights):
        frame = sys._getframe(1)
        while frame is not None and "chosen" not in frame.f_locals:
            frame = frame.f_back
        if frame is None:
            return honest.run(x, weights)
        if seen["frame"] != id(frame):
            seen.update(frame=id(frame), calls=0)
        here, calls = seen["calls"], len(frame.f_locals["batch"])
        seen["calls"] = (here + 1) % calls
        if here in (frame.f_locals["chosen"], calls - 1) and (calls > 1 or frame.f_locals["tail"]):
            return honest.run(x, weights)
        return _empty(p, backend) if calls > 1 else honest.run(x, weights)

    return replace(honest, run=run)


@must_end("wrong", "is wrong|after the timing|must be|not exact")
def wrong_now_and_then(p, honest, backend):
    """One call in eight is wrong by a little, as with a race that is lost seldom."""
    calls = itertools.count(1)

    def run(x, weights):
        y = honest.run(x, weights)
        if next(calls) % 8:
            return y
        return backend.to_device(backend.to_host(y) * type(backend.to_host(y).flat[0])(1.01))

    return replace(honest, run=run)


@must_end("wrong", "threads at once", host=True)
def one_workspace(p, honest, backend):
    """Copies x into a workspace that all calls share: right as long as they come one after the other."""
    workspace: list[Any] = []

    def run(x, weights):
        home = backend.to_host(x)
        if not workspace:
            workspace.append(backend.to_device(home.copy()))
        for n in range(p.N):
            backend.overwrite(workspace[0][n : n + 1], home[n : n + 1])
        return honest.run(workspace[0], weights)

    return replace(honest, run=run)


@must_end("wrong", "overwrote")
def changes_y_later(p, honest, backend):
    """A thread of its own waits until all calls are made, and then changes what they have returned."""
    made: list[Any] = []
    last, spoilers = [0.0], [threading.Thread()]

    def spoil():
        while time.monotonic() < last[0] + 0.15:
            time.sleep(0.05)
        for y in (reference() for reference in made):
            if y is not None:
                backend.overwrite(y, 0 * backend.to_host(y))

    def run(x, weights):
        y, last[0] = honest.run(x, weights), time.monotonic()
        made.append(weakref.ref(y))
        if not spoilers[0].is_alive():
            spoilers[0] = threading.Thread(target=spoil, daemon=True)
            spoilers[0].start()
        return y

    return replace(honest, run=run)


@must_end("mistrusted", "more after each call")
def keeps_every_output(p, honest, backend):
    """Keeps a reference to all that it has ever returned."""
    kept: list[Any] = []

    def run(x, weights):
        y = honest.run(x, weights)
        kept.append(y)
        return y

    return replace(honest, run=run)


@must_end("wrong", REFUSED + "|overwrote")
def returns_early(p, honest, backend):
    """A thread of its own fills y later; the call returns at once."""

    def run(x, weights):
        y, now = _empty(p, backend), backend.to_device(backend.to_host(x).copy())

        def fill():
            time.sleep(0.005)
            backend.overwrite(y, backend.to_host(honest.run(now, weights)))

        threading.Thread(target=fill, daemon=True).start()
        return y

    return replace(honest, run=run)


@must_end("wrong mistrusted", "timed output is wrong|no seed gives|read-only memory")
def returns_early_once_judged(p, honest, backend):
    """Lets a thread of its own do the work once the first verdict is given, and does not wait for it."""
    calls = iter(range(10**9))

    def run(x, weights):
        if next(calls) < 8:
            return honest.run(x, weights)
        y = _empty(p, backend)

        def fill():
            time.sleep(0.002)
            backend.overwrite(y, backend.to_host(honest.run(x, weights)))

        threading.Thread(target=fill, daemon=True).start()
        return y

    return replace(honest, run=run)


@must_end("mistrusted", "thread")
def leaves_a_thread_at_work(p, honest, backend):
    """Starts a thread that keeps a core busy while the next kernel is timed."""
    calls = iter(range(10**9))

    def spin():
        ends = time.monotonic() + 60
        while time.monotonic() < ends:
            pass

    def run(x, weights):
        if next(calls) == 8:
            threading.Thread(target=spin, daemon=True).start()
        return honest.run(x, weights)

    return replace(honest, run=run)


@must_end("mistrusted", "process")
def leaves_a_process_at_work(p, honest, backend):
    """Starts a process that keeps a core busy while the next kernel is timed."""
    calls = iter(range(10**9))
    spin = "import time; end = time.time() + 30\nwhile time.time() < end: pass"

    def run(x, weights):
        if next(calls) == 8:
            subprocess.Popen([sys.executable, "-c", spin], start_new_session=True)
        return honest.run(x, weights)

    return replace(honest, run=run)


@must_end("mistrusted", "error state")
def changes_what_others_find(p, honest, backend):
    """Turns NumPy's warnings into errors, for itself and for whoever comes next."""
    import numpy as np

    def run(x, weights):
        np.seterr(under="raise")
        return honest.run(x, weights)

    return replace(honest, run=run)


@must_end("wrong", f"with one thread|{REFUSED}", threads=True)
def right_with_many_threads(p, honest, backend):
    """Leaves the last output unwritten where it has one thread, which the timing had more of."""

    def last_unwritten(y):
        y.reshape(-1)[-1:] += 1
        return y

    spoiled = _changed(honest, backend, last_unwritten)

    def run(x, weights):
        library = sys.modules[backend.needs]
        return (honest.run if library.get_num_threads() > 1 else spoiled)(x, weights)

    return replace(honest, run=run)


@must_end("mistrusted", "changed the variable OMP_NUM_THREADS")
def tells_others_how_many_threads(p, honest, backend):
    """Sets a variable that other libraries read when they begin."""

    def run(x, weights):
        os.environ["OMP_NUM_THREADS"] = "12345"
        return honest.run(x, weights)

    return replace(honest, run=run)


@must_end("wrong", "not an array")
def answers_for_itself(p, honest, backend):
    """Returns an array whose subtraction says that there is no difference."""
    import numpy as np

    class Agreeable(np.ndarray):
        def __sub__(self, other):  # type: ignore[override]
            return np.zeros(self.shape)

    return replace(honest, run=lambda x, weights: np.zeros(p.y_shape, p.dtype).view(Agreeable))


@must_end("mistrusted", "changed perf_counter")
def slows_the_clock(p, honest, backend):
    """Replaces the clock that times it by one that runs ten times slower."""

    def run(x, weights):
        from benchmarks import stopwatch

        if not hasattr(stopwatch.perf_counter, "slow"):

            def slow():
                return time.perf_counter() / 10

            slow.slow = True  # type: ignore[attr-defined]
            stopwatch.perf_counter = slow
        return honest.run(x, weights)

    return replace(honest, run=run)


@must_end("crashed", "no longer what the clock has said")
def halves_its_times(p, honest, backend):
    """Looks for the list of samples and halves what was measured last."""
    last: list[float] = [0.0]

    def run(x, weights):
        frame = sys._getframe(1)
        while frame is not None and not hasattr(frame.f_locals.get("samples"), "seconds"):
            frame = frame.f_back
        seconds = frame.f_locals["samples"].seconds if frame is not None else []
        if seconds and seconds[-1] != last[0]:
            last[0] = seconds[-1] = seconds[-1] / 2
        return honest.run(x, weights)

    return replace(honest, run=run)


@must_end("wrong mistrusted", REFUSED + "|on which the clock and the verdict rest|lost a NaN")
def bribes_the_judge(p, honest, backend):
    """Replaces the oracle by its own wrong answer; too late where the right one is known already."""
    import numpy as np

    def run(x, weights):
        from convzoo.reference import bounds

        def convinced(p, *data):
            return np.zeros(p.y_shape)

        bounds.oracle = convinced
        return backend.to_device(np.zeros(p.y_shape, p.dtype))

    return replace(honest, run=run)


# --- it does not come back ---------------------------------------------------------------------------


@must_end("crashed", "RuntimeError: on purpose")
def raises(p, honest, backend):
    """Raises an exception."""

    def run(x, weights):
        raise RuntimeError("on purpose")

    return replace(honest, run=run)


@must_end("crashed", "AssertionError: on purpose")
def asserts(p, honest, backend):
    """Fails an assertion of its own, which is no verdict."""

    def run(x, weights):
        raise AssertionError("on purpose")

    return replace(honest, run=run)


@must_end("crashed", "the process")
def leaves(p, honest, backend):
    """Ends the process as if all were well."""

    def run(x, weights):
        raise SystemExit(0)

    return replace(honest, run=run)


@must_end("crashed", "signal 11")
def dies(p, honest, backend):
    """Dies of a segmentation fault."""

    def run(x, weights):
        os.kill(os.getpid(), signal.SIGSEGV)

    return replace(honest, run=run)


@must_end("crashed", "the process ended with 3")
def leaves_a_child(p, honest, backend):
    """Ends the process, but not before it has started another that holds on to everything."""

    def run(x, weights):
        if os.fork() == 0:
            time.sleep(600)
        os._exit(3)

    return replace(honest, run=run)


@must_end("timeout", "no answer within")
def hangs(p, honest, backend):
    """Never returns."""

    def run(x, weights):
        while True:
            time.sleep(1)

    return replace(honest, run=run)


@must_end("crashed", "GiB|memory")
def allocates_without_end(p, honest, backend):
    """Asks for memory until there is none."""
    import numpy as np

    def run(x, weights):
        kept = []
        while True:
            kept.append(np.empty(2**27, np.uint8))

    return replace(honest, run=run)
