"""Reading a record: JSON Lines of kinds run, skip, round, cell and end, schema convzoo.record/1."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any

from .cells import Cell, Run, against, assemble
from .values import Unreadable, mapping, sequence, text

SCHEMA, VERSION = "convzoo.record/", 1
# What most people call today; the rule by which a run chooses its baseline when nobody names one.
USUAL = ("torch_cuda/builtin", "torch_mps/builtin", "torch_cpu/builtin", "numpy/im2col")


def load(path: Path) -> Run:
    """The run that ``path`` records. Unreadable says in one sentence why it cannot be had."""
    lines, cut = _lines(path)
    header = lines[0]
    parts: dict[str, list[dict[str, Any]]] = {"skip": [], "round": [], "cell": [], "end": []}
    for line in lines[1:]:
        parts.get(text(line.get("kind")), []).append(line)
    cells = assemble(parts)
    end = parts["end"][-1] if parts["end"] and not cut else {}
    baseline = _baseline(parts["cell"], header, cells)
    libraries = {
        text(backend): {text(k): text(v) for k, v in mapping(about).items()}
        for backend, about in mapping(end.get("libraries")).items()
    }
    return Run(
        text(path.stem), header, [against(c, baseline, cells) for c in cells], baseline,
        text(end.get("status"), "cut off"), text(end.get("sentence")), libraries,
    )  # fmt: skip


def _lines(path: Path) -> tuple[list[dict[str, Any]], bool]:
    """The lines, and whether the last one was cut off in the middle."""
    try:
        whole = path.read_bytes().decode("utf-8", "strict")
    except UnicodeDecodeError:
        raise Unreadable(f"{path} is not a record: it is not UTF-8 text") from None
    except OSError as error:
        reason = (error.strerror or "it cannot be opened").lower()
        raise Unreadable(f"{path} cannot be read: {reason}") from None
    found, cut = [], False
    rows = whole.split("\n")  # not splitlines: that also splits inside of strings
    for i, row in enumerate(rows, 1):
        if not row.strip():
            continue
        try:
            line = json.loads(row)
        except (ValueError, RecursionError):
            if i < len(rows) or not found:
                state = "is cut off in its first line" if i == len(rows) else f"has no JSON in line {i}"
                raise Unreadable(f"{path} is not a whole record: it {state}") from None
            cut = True
            break
        if not isinstance(line, dict):
            raise Unreadable(f"{path} is not a record: line {i} is not a JSON object")
        found.append(line)
    if not found:
        raise Unreadable(f"{path} is empty: a record begins with a line that describes the run")
    _check_schema(path, found[0])
    return found, cut


def _check_schema(path: Path, first: dict[str, Any]) -> None:
    schema = text(first.get("schema"), "none")
    version = schema.removeprefix(SCHEMA)
    if version == schema or not version.isdecimal() or first.get("kind") != "run":
        raise Unreadable(f"{path} is not a record: its schema must be {SCHEMA}{VERSION}, got {schema}")
    if int(version) > VERSION:
        raise Unreadable(f"{path} has the newer schema {schema}; this program reads {SCHEMA}{VERSION}")


def _baseline(lines: Iterable[dict[str, Any]], header: dict[str, Any], cells: list[Cell]) -> str | None:
    """The kernel that speeds are told against: as recorded, as commanded, or by the usual rule."""
    named = Counter(text(line.get("baseline")) for line in lines if line.get("baseline"))
    if named:
        return named.most_common(1)[0][0]
    ran = [c.kernel for c in cells if c.ran]
    words = [text(word) for word in sequence(header.get("command"))]
    told = [b for a, b in pairwise(words) if a == "--baseline"]
    return next((k for k in (*told, *USUAL) if k in ran), ran[0] if ran else None)
