"""One file a verb: ``options(parser)``, ``call(args)``, which returns an exit code, and what it prints."""

from __future__ import annotations

import difflib
import json
from typing import Any

import convzoo

FINE, WRONG, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 3, 130


def chosen(globs: list[str]) -> list[str]:
    """Kernels that match; ValueError, with the nearest names, when one glob matches none."""
    for glob in globs:
        if not convzoo.names(glob):
            near = difflib.get_close_matches(glob, convzoo.names(), n=3, cutoff=0.3)
            hint = f" (did you mean {', '.join(near)}?)" if near else ""
            raise ValueError(f"no kernel matches {glob!r}{hint}")
    return convzoo.names(*globs)


def emit(schema: str, document: dict[str, Any]) -> None:
    print(json.dumps({"schema": f"convzoo.{schema}/1", **document}, indent=1, allow_nan=False))


def code_of(statuses: list[str]) -> int:
    if "wrong" in statuses:
        return WRONG
    if {"crashed", "timeout", "mistrusted"} & set(statuses) or "ok" not in statuses:
        return FAILED
    return FINE
