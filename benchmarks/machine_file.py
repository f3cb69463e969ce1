"""reports/machines/<name>.json: what a machine is, what it can do at most, and how noisy it is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from .record import ROOT

FOLDER = ROOT / "reports" / "machines"
SCHEMA = "convzoo.machine/1"


def load(name: str, folder: Path = FOLDER) -> dict[str, Any]:
    """What is known of the machine, or {}. ValueError for a file that is not one of ours."""
    try:
        document = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except json.JSONDecodeError as error:
        raise ValueError(f"{folder / name}.json: not JSON ({error}); delete it to measure again") from None
    if document.get("schema") != SCHEMA:
        raise ValueError(f"{folder / name}.json: schema must be {SCHEMA}, got {document.get('schema')!r}")
    return document


def ceilings(name: str, hardware: dict[str, Any], threads: int) -> dict[str, Any]:
    """The ceilings of this machine with ``threads``: from its file, or measured now and kept there.

    A ceiling is the best that was ever seen, so an old one is as good as a new one; where a time seems
    to beat it, ``compare`` measures again before it mistrusts the time.
    """
    from . import ceilings as measuring
    from .plausibility import best_of

    known = load(name).get("ceilings") or {}
    if str(threads) in known.get("fma_gflops_per_s", {}):
        return known
    found = best_of(known, measuring.measure(threads))
    save(name, hardware=hardware, ceilings=found)
    return found


def save(name: str, folder: Path = FOLDER, **parts: Any) -> Path:
    """Write or replace parts (hardware, ceilings, null) and keep the others. The path."""
    document = load(name, folder) | {"schema": SCHEMA, "machine": name} | parts
    path = folder / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    written = path.with_suffix(".part")
    written.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    written.replace(path)  # never a half-written file, whenever this process is killed
    return path
