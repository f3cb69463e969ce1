"""Work of which there can be very much, shared among the cores."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def each(function: Callable[[T], R], items: Sequence[T], much: bool) -> list[R]:
    """``function`` of each item, in order; in processes where it is ``much``, for those cost time too."""
    cores = min(len(items), os.cpu_count() or 1)
    if not much or cores < 2:
        return [function(item) for item in items]
    with ProcessPoolExecutor(cores) as pool:
        return list(pool.map(function, items, chunksize=max(1, min(100, len(items) // (4 * cores)))))
