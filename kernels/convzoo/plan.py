"""What a kernel returns (``Plan``) and the two ways in which it can say no."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


class Unsupported(NotImplementedError):
    """This kernel cannot do this problem; the text says what it needs. Raised while planning."""


class Unavailable(NotImplementedError):
    """This machine cannot run this backend; the text is one sentence with the cure."""


def keep(w: Any, b: Any) -> Any:
    """The default ``pack``: weights and bias as they are. b is None for a problem without bias."""
    return (w, b)


@dataclass(frozen=True, eq=False)
class Plan:
    """Everything that depends on shapes alone has been done; what is left is data.

    run        run(x, weights) -> y. Reads x, changes nothing, returns a fresh y, may be called from
               several threads at once, and need not wait for a device.
    pack       pack(w, b) -> weights, paid once per set of weights. Never keeps views of w that a
               later change of w would show through, unless it is the default, which keeps the pair.
    workspace  bytes that one call of run allocates beside y.
    code       the compiled functions behind run (Numba dispatchers, loaded CUDA modules), so that the
               evidence beside a time can say what the compiler made of them.
    """

    run: Callable[[Any, Any], Any]
    pack: Callable[[Any, Any], Any] = keep
    workspace: int = 0
    code: tuple[Any, ...] = ()
