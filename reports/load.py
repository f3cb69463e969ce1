"""Reading a record: JSON Lines of kinds run, skip, round, cell and end, schema convzoo.record/1."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from sys import intern
from typing import Any

from benchmarks.evidence import FEWEST, default_baseline
from benchmarks.problems import kind
from benchmarks.record import corrected

from .cells import SHORTEST, Cell, Networks, Run, against, assemble
from .values import Unreadable, mapping, number, sequence, text

SCHEMA, VERSION = "convzoo.record/", 1


def load(path: Path) -> Run:
    """The run that ``path`` records. Unreadable says in one sentence why it cannot be had."""
    lines, cut = read_lines(path)
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
    imports = {
        text(backend): seconds
        for backend, value in mapping(end.get("import_seconds")).items()
        if (seconds := number(value, above=0)) is not None
    }
    name = text(path.stem)
    rivals = {(c.problem, c.scenario): c for c in cells if c.kernel == baseline}
    told = [c if c.speed else against(c, rivals.get((c.problem, c.scenario))) for c in cells]
    return Run(
        name,
        header,
        [replace(c, source=name) for c in told],
        baseline,
        text(end.get("status"), "cut off"),
        libraries,
        imports,
        _networks(header),
    )


@dataclass(frozen=True)
class Glance:
    """What a look at a record tells without its rounds: which races it holds, and each cell's time."""

    path: Path
    header: dict[str, Any]
    races: dict[tuple[str, str], None]  # (problem, scenario), in order
    width: int  # how many kernels it was asked for
    # cell -> seconds, fingerprint as JSON, and the ends of the interval where there are rounds enough for one
    times: dict[tuple[str, str, str], tuple[float, str, tuple[float, float] | None]]

    @property
    def name(self) -> str:
        return text(self.path.stem)

    @property
    def networks(self) -> Networks:
        return _networks(self.header)

    @property
    def machine(self) -> str:
        return text(self.header.get("machine"), "machine not recorded")

    @property
    def threads(self) -> str:
        return text(self.header.get("threads"), "threads not recorded")

    @property
    def started(self) -> str:
        return text(self.header.get("started"))

    @property
    def suite(self) -> float:
        return number(self.header.get("suite")) or 0


in_order = json.JSONEncoder(sort_keys=True).encode  # made once: there are very many


def glance(path: Path) -> Glance:
    """Rounds are most of a record; here they are not even parsed."""
    lines, _ = read_lines(path, skip=b'{"kind": "round"')
    header = lines[0]
    problems = [text(row[1]) for row in sequence(header.get("problems")) if isinstance(row, list) and row[1:]]
    scenarios = [text(s) for s in sequence(header.get("scenarios"))]
    races = dict.fromkeys((q, s) for q in problems for s in scenarios)
    times, kernels = {}, dict.fromkeys(text(k) for k in sequence(header.get("kernels")))
    for line in lines[1:]:
        if line.get("kind") not in ("cell", "skip"):
            continue
        kernel, problem, scenario = (text(line.get(k), "?") for k in ("kernel", "problem", "scenario"))
        races.setdefault((problem, scenario))
        kernels.setdefault(kernel)
        seconds = number(line.get("seconds"), above=SHORTEST)
        if line.get("status") == "ok" and seconds is not None:
            marks = mapping(line.get("fingerprint"))
            low, high, rounds = (number(line.get(k), above=0) for k in ("low", "high", "rounds"))
            ends = (low, high) if low and high and (rounds or 0) >= FEWEST else None
            times[kernel, problem, scenario] = seconds, intern(in_order(marks)), ends
    return Glance(path, header, races, len(kernels), times)


def _networks(header: dict[str, Any]) -> Networks:
    """The networks all of whose layers the record was asked for, by their name and kind."""
    found: Networks = {}
    for name, layers in mapping(header.get("networks")).items():
        rows = [row for row in sequence(layers) if isinstance(row, list) and len(row) == 3]
        told = [(text(a), text(b), int(number(n, above=0) or 1)) for a, b, n in rows]
        if told:
            found[text(name), kind(told[0][1])] = told
    return found


def read_lines(path: Path, skip: bytes = b"\n") -> tuple[list[dict[str, Any]], bool]:
    """The lines, but those that begin with ``skip``, and whether the last one was cut off in the middle."""
    try:
        whole = path.read_bytes()
    except OSError as error:
        reason = (error.strerror or "it cannot be opened").lower()
        raise Unreadable(f"{path} cannot be read: {reason}") from None
    found, cut = [], False
    rows = whole.split(b"\n")
    for i, row in enumerate(rows, 1):
        if row.startswith(skip) or not row.strip():
            continue
        try:
            line = json.loads(row.decode())
        except (ValueError, RecursionError) as error:
            if i < len(rows) or not found:
                if isinstance(error, UnicodeDecodeError):
                    raise Unreadable(f"{path} is not a record: it is not UTF-8 text") from None
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
    suite = found[0].get("suite")
    return [corrected(line, suite) for line in found], cut


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
    return next((k for k in told if k in ran), default_baseline(ran))
