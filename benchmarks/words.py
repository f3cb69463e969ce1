"""Numbers as words for people: three digits and the unit that fits. None is a dash."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

NOTHING = "–"


def digits(value: float) -> str:
    """Three significant digits, never with an exponent between 0.001 and a million."""
    if value >= 999.5:
        return f"{value:,.0f}" if value < 1e6 else f"{value:.3g}"
    return f"{value:.3g}"


def seconds_text(seconds: float | None) -> str:
    if seconds is None:
        return NOTHING
    for factor, unit in ((1, "s"), (1e3, "ms"), (1e6, "µs")):
        if seconds * factor >= 0.9995:
            return f"{digits(seconds * factor)} {unit}"
    return f"{digits(seconds * 1e9)} ns"


def bytes_text(count: float | None) -> str:
    if count is None:
        return NOTHING
    for factor, unit in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if count >= factor:
            return f"{count / factor:.1f} {unit}"
    return f"{count:.0f} B"


def flops_text(flops: float | None) -> str:
    if flops is None:
        return NOTHING
    for factor, unit in ((1e9, "GFLOP"), (1e6, "MFLOP"), (1e3, "kFLOP")):
        if flops >= factor:
            return f"{digits(flops / factor)} {unit}"
    return f"{flops:.0f} FLOP"


def plain(value: float | None) -> str:
    return NOTHING if value is None else digits(value)


def speed_text(speed: float | None, sign: str = "×") -> str:
    """1.02×, 12.3×, 384×; a speed far below 1 keeps two digits that mean something."""
    if speed is None:
        return NOTHING
    if speed >= 99.95:
        return f"{speed:,.0f}{sign}"
    if speed >= 9.995:
        return f"{speed:.1f}{sign}"
    return f"{speed:.2f}{sign}" if speed >= 0.0995 else f"{speed:.2g}{sign}"


def speed_interval(low: float | None, high: float | None) -> str:
    """Both ends; a dash for the baseline against itself."""
    if low is None or high is None or low == high == 1:
        return NOTHING
    return f"{speed_text(low, '')} – {speed_text(high)}"


def time_interval(low: float | None, high: float | None) -> str:
    """Both ends, with one unit where they share it."""
    if low is None or high is None:
        return NOTHING
    first, last = seconds_text(low), seconds_text(high)
    if first.split()[1] == last.split()[1]:
        first = first.split()[0]
    return f"{first} – {last}"


def date_text(moment: str) -> str:
    """2026-11-23 07:50 UTC for a moment in ISO form; anything else as it is."""
    try:
        found = datetime.fromisoformat(moment)
    except ValueError:
        return moment
    zone = found.strftime("%Z") or "local time"
    return f"{found:%Y-%m-%d %H:%M} {zone}"


def plural(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def plural_of(count: str, noun: str) -> str:
    """The same for a number that is text already, whatever it says."""
    return f"{count} {noun}" if count == "1" else f"{count} {noun}s"


def listed(words: Sequence[str], most: int = 3) -> str:
    """a, b, c and 4 more."""
    more = f" and {len(words) - most} more" if len(words) > most else ""
    return ", ".join(words[:most]) + more
