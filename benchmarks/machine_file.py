"""machines/<name>.json, in reports/out or published: what a machine is, what it can do at most, and how noisy it is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from .record import OWN, PUBLISHED
from .roofline import best_of

SCHEMA = "convzoo.machine/1"


def load(name: str) -> dict[str, Any]:
    """What is known of the machine, here and as published: the higher of each ceiling, else one's own; or {}."""
    own, published = (_read(room / "machines" / f"{name}.json") for room in (OWN, PUBLISHED))
    every = [x["ceilings"] for x in (published, own) if x.get("ceilings")]
    return published | own | ({"ceilings": best_of(every[0], every[-1])} if every else {})


def _read(path: Path) -> dict[str, Any]:
    """ValueError for a file that is not one of ours."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: not JSON ({error}); delete it to measure again") from None
    if document.get("schema") != SCHEMA:
        raise ValueError(f"{path}: schema must be {SCHEMA}, got {document.get('schema')!r}")
    return document


def ceilings(name: str, hardware: dict[str, Any], threads: int) -> dict[str, Any]:
    """The ceilings of this machine with ``threads``: from its file, or measured now and kept there.

    A ceiling is the best that was ever seen, so an old one is as good as a new one; where a time seems
    to beat it, ``compare`` measures again before it mistrusts the time.
    """
    from . import ceilings as measuring

    known = load(name).get("ceilings") or {}
    kinds = ["fma_gflops_per_s", *(["matrix_gflops_per_s"] if hardware.get("matrix") else [])]
    if all(str(threads) in known.get(kind, {}) for kind in kinds):
        return known
    found = best_of(known, measuring.measure(threads))
    save(name, hardware=hardware, ceilings=found)
    return found


def save(name: str, folder: Path | None = None, **parts: Any) -> Path:
    """Write or replace parts (hardware, ceilings, null) and keep the others; in reports/out by default. The path."""
    path = (folder or OWN / "machines") / f"{name}.json"
    document = _read(path) | {"schema": SCHEMA, "machine": name} | parts
    path.parent.mkdir(parents=True, exist_ok=True)
    written = path.with_suffix(".part")
    written.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    written.replace(path)  # never a half-written file, whenever this process is killed
    return path
