"""Values of a record, checked and cleaned: what is missing, not finite or not printable ends here."""

from __future__ import annotations

import json
import math
import unicodedata
from typing import Any

UNSEEN = {"Cc", "Cf", "Cs", "Co", "Cn"}  # control, direction marks, half surrogates: never printed
LARGEST = 1e18  # beyond every count and time that a run can have
LONGEST = 2000  # characters of one value that are kept; a page is no place for a megabyte of text


class Unreadable(ValueError):
    """A file that cannot be used; the text is one sentence for the person who named it."""


def text(value: Any, missing: str = "") -> str:
    """One line of printable text, whatever the record holds in its place."""
    if value is None:
        return missing
    words = value if isinstance(value, str) else json.dumps(value)
    plain = words.isascii() and words.isprintable()  # nearly always, and quick to see
    shown = words if plain else "".join(" " if unicodedata.category(c) in UNSEEN else c for c in words)
    return " ".join(shown.split())[:LONGEST] or missing


def number(value: Any, *, above: float = -math.inf) -> float | None:
    """A finite number above a limit, or None; NaN, true and "12" are no numbers."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        found = float(value)
    except OverflowError:
        return None
    return found if abs(found) < LARGEST and found > above else None


def mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def sequence(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
