"""A document of ``benchmarks regress --json`` in words: what changed, worst first."""

from __future__ import annotations

import shlex
from typing import Any

from benchmarks import words as say
from benchmarks.significance import CHANGES, FAILURES

from .values import mapping, number, sequence, text

QUIET = "cannot tell"
MOST = 100  # rows


def view(document: dict[str, Any]) -> dict[str, Any]:
    cells = [mapping(c) for c in sequence(document.get("cells"))]
    changed = [c for c in cells if text(c.get("verdict")) in CHANGES]
    changed.sort(key=lambda c: (CHANGES.index(text(c["verdict"])), -abs((number(c.get("ratio")) or 1) - 1)))
    quiet = [c for c in cells if text(c.get("verdict")) == QUIET]
    failing = any(text(c.get("verdict")) in FAILURES for c in cells)
    base, head = (text(mapping(document.get(side)).get("label"), side) for side in ("base", "head"))
    return {
        "title": f"{head} against {base}",
        "machine": text(document.get("machine"), "machine not recorded"),
        "failing": failing,
        "mark": "Slower or newly wrong." if failing else "No cell is slower or newly wrong.",
        "sentence": text(document.get("sentence")),
        "rows": [_row(c) for c in changed[:MOST]],
        "more": max(0, len(changed) - MOST),
        "quiet": [_row(c) for c in quiet[:MOST]],
        "quiet_more": max(0, len(quiet) - MOST),
        "warnings": [text(w) for w in sequence(document.get("warnings")) if text(w)],
        "method": _method(document),
        "command": shlex.join(text(word) for word in sequence(document.get("command"))),
    }


def _row(c: dict[str, Any]) -> dict[str, Any]:
    seconds = [number(mapping(c.get(side)).get("seconds"), above=0) for side in ("base", "head")]
    return {
        "kernel": text(c.get("kernel"), "?"),
        "problem": text(c.get("problem"), "?"),
        "scenario": text(c.get("scenario"), "?"),
        "verdict": text(c.get("verdict")),
        "bad": text(c.get("verdict")) in FAILURES,
        "base": say.seconds_text(seconds[0]),
        "head": say.seconds_text(seconds[1]),
        "effect": _effect(c),
        "why": _why(c),
    }


def _effect(c: dict[str, Any]) -> str:
    ratio, low, high = (number(c.get(k), above=0) for k in ("ratio", "low", "high"))
    if not ratio or not low or not high:
        return say.NOTHING
    if text(c.get("verdict")) == QUIET:
        return f"{ratio:.3f}× as long ({low:.3f} – {high:.3f})"
    if ratio < 1:
        return f"{1 / ratio:.3f}× faster ({1 / high:.3f} – {1 / low:.3f})"
    return f"{ratio:.3f}× slower ({low:.3f} – {high:.3f})"


def _why(c: dict[str, Any]) -> str:
    """The fingerprint that moved, or what a side said."""
    words = [text(w) for w in sequence(c.get("moved"))]
    for side in ("base", "head"):
        said = mapping(c.get(side))
        if text(said.get("status"), "ok") not in ("ok", "absent"):
            words.append(f"{side} {text(said.get('status'))}: {text(said.get('why'))}")
    return "; ".join(words) or "the fingerprint did not move"


def _method(document: dict[str, Any]) -> str:
    summary = mapping(document.get("summary"))
    noise, seen = (number(summary.get(k)) for k in ("round_noise", "visible"))
    parts = [
        f"{text(summary.get('screening_rounds'), '?')} rounds of every cell, "
        f"{text(summary.get('confirming_rounds'), '?')} more of {text(summary.get('suspects'), '?')} suspects"
    ]
    parts += [f"noise of one round {noise:.1%}"] if noise is not None else []
    parts += [f"a slow-down of {seen:.1%} would have been seen"] if seen is not None else []
    return ", ".join(parts) + "."
