"""One call on inputs that lie in read-only memory, with read-only memory before and behind them.

A kernel that writes to x, w or b, and be it only to put back what was there, or that writes just outside of
them, is right as long as nobody else reads them at that moment. Here its process dies of it, and what the
coordinator was told before says why.
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


def unguarded(kernel: Any, plan: Any, p: Any, data: tuple, say: Callable[[dict], None]) -> str:
    """Why a call on guarded inputs is wrong, or nothing. ``data`` is x, w and b on the host.

    Does nothing off the CPU, and where memory cannot be made read-only.
    """
    from convzoo.reference import judge, snapshot

    backend = kernel.backend
    if backend.device != "cpu" or backend.library not in LIBRARIES or sys.platform != "linux":
        return ""
    fences = [_Fence(a) for a in data if a is not None]
    arrays = [_of_library(backend, fence.array) for fence in fences]
    x, w, b = arrays if data[2] is not None else (*arrays, None)
    say({"if it dies": {"status": "wrong", "why": "wrote to x, w or b, or just beside them"}})
    try:
        for fence in fences:
            fence.close()
        y = snapshot(backend, plan.run(x, plan.pack(w, b)))
    finally:
        for fence in fences:
            fence.open()
    say({"if it dies": {}})
    verdict = judge(y, p, *data, accuracy=kernel.accuracy)
    return "" if verdict.ok else f"on inputs in read-only memory: {verdict.why}"


def _of_library(backend: Any, a: Any) -> Any:
    if backend.library == "torch":
        import torch

        return torch.from_numpy(a)
    return a


class _Fence:
    """A copy of an array at the end of its pages, with a page of ours on either side."""

    def __init__(self, a: Any):
        import numpy as np

        pages = -(-max(1, a.nbytes) // PAGE)
        self._memory = mmap.mmap(-1, (pages + 2) * PAGE)
        self._address = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))
        begin = (pages + 1) * PAGE - -(-max(1, a.nbytes) // LINE) * LINE
        flat = np.frombuffer(self._memory, a.dtype, a.size, begin)
        self.array = flat.reshape(a.shape)
        self.array[...] = a

    def close(self) -> None:
        self._protect(mmap.PROT_READ)

    def open(self) -> None:
        self._protect(mmap.PROT_READ | mmap.PROT_WRITE)

    def _protect(self, what: int) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        length = ctypes.c_size_t(len(self._memory))
        if libc.mprotect(ctypes.c_void_p(self._address), length, what):
            raise OSError(ctypes.get_errno(), "mprotect")
