"""A CUDA kernel before it is compiled: what to compile, for which types, and how to launch it.

Every kernel file here has a function ``launches(p)`` that names all it compiles, in the order in which one
call launches them; ``plan`` uses it, and so does whoever compiles without a GPU:

    for launch in launches(p):
        cuda.compile(launch.body, launch.signature, device=False, abi="numba", cc=(9, 0), output="ptx",
                     launch_bounds=launch.bounds)
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numba import cuda

from convzoo.plan import Unsupported

SIMULATED = os.environ.get("NUMBA_ENABLE_CUDASIM", "0") not in ("", "0")
MOST_BLOCKS = 2**31 - 1  # along x of a grid


@dataclass(frozen=True)
class Launch:
    """``body`` is the Python function, ``grid`` and ``block`` are sizes along x, or along x and y.

    ``together`` blocks are meant to fit on one multiprocessor: the more, the fewer registers has a thread.
    """

    name: str
    body: Callable[..., None]
    signature: str
    grid: int
    block: int | tuple[int, ...]
    together: int = 1

    @property
    def bounds(self) -> tuple[int, int]:
        """Threads of a block and blocks of a multiprocessor, as the compiler wants them."""
        return prod(self.block) if isinstance(self.block, tuple) else self.block, self.together

    def compiled(self) -> Any:
        """The kernel, compiled now, not at its first call. ``kernel[launch.grid, launch.block](...)``."""
        if SIMULATED:
            return cuda.jit(self.signature)(self.body)
        if getattr(cuda, "implementation", "") == "Built-in":
            raise Unsupported(
                "needs the package numba-cuda, not the numba.cuda within numba: "
                "pip install 'convzoo[cuda12]'"
            )
        return cuda.jit(self.signature, launch_bounds=self.bounds)(self.body)


def one_thread_each(name: str, body: Callable[..., None], signature: str, elements: int) -> Launch:
    """A launch with a thread for each element."""
    threads = min(256, -(-elements // 32) * 32)
    blocks = -(-elements // threads)
    if blocks > MOST_BLOCKS:
        raise Unsupported(f"needs {blocks} blocks of {threads} threads, and a grid has {MOST_BLOCKS}")
    return Launch(name, body, signature, blocks, threads)


def _shared_array_simulated(self, shape, dtype, alignment=None):
    """The simulator's own, which knows no alignment: one array for each line that asks for one."""
    caller = sys._getframe(1)
    where = (caller.f_code.co_filename, caller.f_lineno)
    return self._allocations.setdefault(where, np.empty(shape, getattr(dtype, "name", dtype)))


if SIMULATED:
    from numba.cuda.simulator.kernelapi import FakeCUDAShared

    FakeCUDAShared.array = _shared_array_simulated
