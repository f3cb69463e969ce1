"""What is right: test data, the float64 oracle, the error each guarantee allows, and the verdict.

The same verdict judges a kernel in the tests, on the command line and around every timed run. ``data`` has
the numbers that kernels are asked for, ``bounds`` the oracle and the guarantees, ``verdict`` the questions,
``unusual`` those on data that are rarely asked for.
"""

from .bounds import ACCUMULATOR, ACCURACIES, UNIT, allowed, known_once, magnitude, oracle
from .data import TIERS, _round_to_bits, host_dtype, inputs, window_of
from .unusual import unusual
from .verdict import Verdict, examine, judge, snapshot

__all__ = [
    "ACCUMULATOR", "ACCURACIES", "TIERS", "UNIT", "Verdict", "_round_to_bits", "allowed", "examine", "host_dtype",
    "inputs", "judge", "known_once", "magnitude", "oracle", "snapshot", "unusual", "window_of",
]  # fmt: skip
