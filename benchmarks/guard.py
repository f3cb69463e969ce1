"""Calls on inputs in read-only memory, with memory before and behind them that nobody may touch.

A kernel that writes to x, w or b, and be it only to put back what was there, or that reads or writes outside
of them, is right as long as nobody else writes or reads there at that moment, and as long as there is memory
at all. Here its process dies of it, and what the coordinator was told before says why.
"""

from __future__ import annotations

import ctypes
import mmap
import sys
from collections.abc import Callable
from typing import Any

PAGE = mmap.PAGESIZE
LINE = 64  # bytes: arrays begin at a multiple of this, as their libraries' own do
LIBRARIES = ("numpy", "torch")  # whose arrays can lie in memory that somebody else has made
NOTHING = 0  # PROT_NONE, which mmap does not name


def unguarded(kernel: Any, plan: Any, p: Any, data: tuple, known: tuple, say: Callable[[dict], None]) -> str:
    """Why calls on guarded inputs are wrong, or nothing.

    ``data`` is x, w and b on the host, ``known`` their oracle and magnitude.

    Once the arrays end where their memory ends, but for the rest of a cache line; once they begin where it
    begins, but for one number, so that they are aligned to nothing more than their own numbers. NumPy's are
    marked read-only as well. Does nothing off the CPU, and where memory cannot be protected.
    """
    backend = kernel.backend
    if backend.device != "cpu" or backend.library not in LIBRARIES or sys.platform != "linux":
        return ""
    why = "wrote to x, w or b, or touched what lies beside them"
    say({"if it dies": {"status": "wrong", "why": why}})
    of = kernel, plan, p, data, known
    why = _on_guarded(*of, at_end=True) or _on_guarded(*of, at_end=False)
    say({"if it dies": {}})
    return why


def _on_guarded(kernel: Any, plan: Any, p: Any, data: tuple, known: tuple, at_end: bool) -> str:
    from convzoo.reference import judge, snapshot

    fences = [_Fence(a, at_end) for a in data if a is not None]
    arrays = [_of_library(kernel.backend, fence.array) for fence in fences]
    x, w, b = arrays if data[2] is not None else (*arrays, None)
    try:
        for fence in fences:
            fence.close()
        y = plan.run(x, plan.pack(w, b))
        home = snapshot(kernel.backend, y)
    except Exception as error:
        return f"on inputs in read-only memory: {type(error).__name__}: {error}"
    finally:
        for fence in fences:
            fence.open()
    verdict = judge(home, p, *data, tier="random", known=known, **kernel.promise)
    if not verdict.ok:
        return f"on inputs in read-only memory: {verdict.why}"
    # lest the next call find the answer in memory that is free
    kernel.backend.overwrite(y, 0 * home - 1)
    return ""


def _of_library(backend: Any, a: Any) -> Any:
    if backend.library == "torch":
        import torch

        return torch.from_numpy(a)
    a.flags.writeable = False
    return a


class _Fence:
    """A copy of an array at the end or at the beginning of its pages, between two pages that are closed."""

    def __init__(self, a: Any, at_end: bool):
        import numpy as np

        lines = -(-max(1, a.nbytes) // LINE) * LINE
        self._inside = -(-(lines + a.itemsize) // PAGE) * PAGE
        self._memory = mmap.mmap(-1, self._inside + 2 * PAGE)
        self._address = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))
        begin = PAGE + (self._inside - lines if at_end else a.itemsize)
        flat = np.frombuffer(self._memory, a.dtype, a.size, begin)
        self.array = flat.reshape(a.shape)
        self.array[...] = a

    def close(self) -> None:
        protect(self._address, len(self._memory), NOTHING)
        protect(self._address + PAGE, self._inside, mmap.PROT_READ)

    def open(self) -> None:
        protect(self._address, len(self._memory), mmap.PROT_READ | mmap.PROT_WRITE)


def protect(address: int, length: int, what: int) -> None:
    """Whole pages from now on allow ``what``: NOTHING, or PROT_READ and PROT_WRITE of mmap."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mprotect(ctypes.c_void_p(address), ctypes.c_size_t(length), what):
        raise OSError(ctypes.get_errno(), "mprotect")
