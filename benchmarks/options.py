"""Types of command-line options: a value that could not mean anything is refused before any work."""

from __future__ import annotations

import argparse
import math
import re
from typing import Any

from convzoo import limits


def threads(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--threads", type=count, metavar="N", help="default: all usable CPUs")
    parser.add_argument("--oversubscribe", action="store_true", help="let --threads be more than the usable CPUs")


def too_many(args: argparse.Namespace) -> str:
    """Why the threads that were asked for say nothing about kernels, or nothing."""
    asked, usable = getattr(args, "threads", None) or 0, limits.cpus()
    if asked <= usable or args.oversubscribe:
        return ""
    return (
        f"--threads must be at most the {usable} usable CPUs, got {asked}: threads that wait for each other make "
        "some kernels many times slower; --oversubscribe allows it"
    )


def natural(word: str) -> int:
    return _at_least(int(word), 0)


def count(word: str) -> int:
    return _at_least(int(word), 1)


def percent(word: str) -> float:
    return _at_least(float(word), 0)


def seconds(word: str) -> float:
    value = float(word)
    return _at_least(value, math.ulp(0))


def machine_name(word: str) -> str:
    """A name becomes a folder: it must stay where it is put."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.+-]*", word):
        raise argparse.ArgumentTypeError(f"{word!r} must be letters, digits, . _ + - and begin with a letter or digit")
    return word


def _at_least(value: Any, least: float) -> Any:
    if not (math.isfinite(value) and value >= least):
        raise ValueError
    return value


# argparse puts these into its sentence: "invalid ... value: '-1'"
natural.__name__ = "whole number of 0 or more"
count.__name__ = "whole number of 1 or more"
percent.__name__ = "number of 0 or more"
seconds.__name__ = "number above 0"
