"""Memory for outputs and workspaces that is warm, aligned and used again.

Idea     A fresh NumPy array of some megabytes comes from the operating system, which hands out its pages
         one by one, zeroed, at the first touch, and takes them back when the array dies. A call that
         writes 50 MB then spends more time in the kernel's page faults than on its sums. So outputs of
         a quarter of a megabyte or more are lent from blocks that were touched before; when the last
         array that looks into a block is gone, the block waits for the next output that fills it, or at
         least a quarter of it. Nobody can see an output change: a block is lent again only when nothing
         refers to it any more. New blocks are malloc's, as those of other libraries are.
         Outputs begin a page, so that whole-vector stores never straddle two cache lines.
Cost     2 microseconds a loan; up to KEPT bytes wait for the next call
Source   own; PyTorch's allocator for CUDA and the arenas of ONNX Runtime do the same for theirs
"""

import math
import os
import threading

import numpy as np

SMALL = 2**18  # bytes; below, malloc does not go back to the operating system
KEPT = 2**28  # bytes of blocks that wait
WASTE = 4  # times as large as the output may a block be; the pages are warm, whatever was in them
PAGE = 4096


class _Block(np.ndarray):
    """Bytes that begin a page. NumPy shortens chains of bases, but never to an array of another type."""


_waiting: dict[int, list[_Block]] = {}  # by size, the longest unused size first
_lock = threading.RLock()  # re-entrant: the collector may end a loan while this thread holds it
_held = 0


def _forked() -> None:
    global _lock
    _lock = threading.RLock()  # another thread of the parent may have held it


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)


class _Loan(np.ndarray):
    """Owns a block while arrays look into it; the last of them to go gives it back."""

    # An output's base is this object, and so is that of every view of the output.
    def __del__(self):
        if type(self.base) is _Block:
            _take_back(self.base)


def _take_back(block: _Block) -> None:
    global _held
    size = len(block)
    with _lock:
        blocks = _waiting.pop(size, [])  # and in again, as the size that was used last
        blocks.append(block)
        _waiting[size] = blocks
        _held += size
        while _held > KEPT:
            oldest = next(iter(_waiting))
            _waiting[oldest].pop()
            _held -= oldest
            if not _waiting[oldest]:
                del _waiting[oldest]


def _block(size: int) -> _Block:
    global _held
    with _lock:
        if fitting := [waits for waits in _waiting if size <= waits <= WASTE * size]:
            closest = min(fitting)
            blocks = _waiting[closest]
            _held -= closest
            block = blocks.pop()
            if not blocks:
                del _waiting[closest]
            return block
    memory = np.empty(size + PAGE, np.uint8)  # of malloc, which may have warm memory itself
    skipped = -memory.ctypes.data % PAGE
    return memory[skipped : skipped + size].view(_Block)


def empty(shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """An uninitialised C-contiguous array, as ``numpy.empty``, that nothing else refers to."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    if size < SMALL:
        return np.empty(shape, dtype)
    return np.ndarray(shape, dtype, _Loan(size, np.uint8, _block(-(-size // PAGE) * PAGE)))


_own = threading.local()


def scratch(size: int) -> int:
    """The address of ``size`` bytes that belong to the calling thread, at the beginning of a page."""
    if getattr(_own, "size", -1) < size:
        _own.memory, _own.size = np.empty(size + PAGE, np.uint8), size
        _own.address = _own.memory.ctypes.data + -_own.memory.ctypes.data % PAGE
    return _own.address
