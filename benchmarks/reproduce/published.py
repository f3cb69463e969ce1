"""Records that somebody published: read, checked against themselves, and cells drawn that can be run again here."""

from __future__ import annotations

import math
import random
import statistics
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from ..compare import GPU_BACKENDS
from ..evidence import interval
from ..record import IDENTITY, ROOT, SUITE, git, named, read, sealed

KEY = ("kernel", "problem", "scenario")


class OtherSuite(ValueError):
    """A record whose numbers mean something else than those that this tree measures."""


@dataclass
class Published:
    """One record: its header, the cells that have a time, and what is wrong with it on its own account."""

    path: Path
    header: dict[str, Any]
    cells: list[dict[str, Any]]
    libraries: dict[str, dict[str, str]] = field(default_factory=dict)
    flaws: list[str] = field(default_factory=list)

    @property
    def threads(self) -> int:
        return self.header["threads"]


def files(words: Sequence[str]) -> list[Path]:
    """The records that are named. FileNotFoundError for what is not there, ValueError for none."""
    found = [path for word in words for path in named(word)]
    if not found:
        raise ValueError(f"no record (*.jsonl) in {' '.join(words)}")
    return list(dict.fromkeys(found))


def open_record(path: Path) -> Published:
    """Raises OtherSuite, or ValueError where it is no record."""
    try:
        lines = list(read(path))
        header = lines[0]
        if header["suite"] != SUITE:
            raise OtherSuite(f"{path}: is of suite {header['suite']}, and this tree measures suite {SUITE}")
        cells = {tuple(x[k] for k in KEY): x for x in lines if x["kind"] == "cell"}
        good = [x for x in cells.values() if x["status"] == "ok"]
        ends = [x for x in lines if x["kind"] == "end"]
        broken = sealed(path.read_bytes()) is False
        flaws = ["it was changed after it was written: its SHA-256 is another"] * broken
        flaws += _contradictions(lines, good)
        return Published(path, header, good, ends[-1]["libraries"] if ends else {}, flaws)
    except (KeyError, IndexError, TypeError) as error:
        raise ValueError(f"{path}: is no whole record ({type(error).__name__}: {error})") from None
    except OtherSuite:
        raise
    except ValueError as error:
        raise ValueError(f"{path}: {str(error).removeprefix(f'{path}: ')}") from None


def _contradictions(lines: list[dict[str, Any]], cells: list[dict[str, Any]]) -> list[str]:
    """Cells whose time or interval is not what their rounds say, each named."""
    rounds: dict[tuple[str, ...], list[float]] = {}
    for x in lines:
        if x["kind"] == "round" and x["status"] == "ok":
            rounds.setdefault(tuple(x[k] for k in KEY), []).append(x["seconds"])
    found = []
    for cell in cells:
        values: list[float] = cell["round_seconds"]
        low, high, _ = interval(values)
        told = [*sorted(values), cell["seconds"], cell["low"], cell["high"]]
        of_rounds = sorted(rounds.get(tuple(cell[k] for k in KEY)) or values)
        follows = [*of_rounds, statistics.median(values), low, high]
        if len(told) != len(follows) or not all(map(_same, told, follows)):
            found.append(f"{name(cell)}: its time is not that of its rounds")
    return found


def _same(a: float, b: float) -> bool:
    """Up to what is lost where a record keeps six digits."""
    return math.isclose(a, b, rel_tol=2e-5)


def name(cell: dict[str, Any]) -> str:
    return f"{cell['kernel']} on {cell['problem']} ({cell['scenario']})"


def differences(record: Published, facts: dict[str, Any]) -> list[str]:
    """What makes this machine another class than the record's, as "usable_cpus 2, here 8"."""
    there = record.header["hardware"]
    found = [f"{k} {there[k]}, here {facts.get(k)}" for k in IDENTITY if k in there and there[k] != facts.get(k)]
    if any(c["kernel"].partition("/")[0] in GPU_BACKENDS for c in record.cells):
        theirs, ours = ([g["name"] for g in x.get("gpus") or []][:1] for x in (there, facts))
        found += [f"GPU {theirs}, here {ours}"] if theirs != ours else []
    return found


@lru_cache(maxsize=64)
def _changed_since(commit: str) -> frozenset[str] | None:
    """Files under kernels/ that differ between the commit and this tree; None where git cannot tell."""
    try:
        return frozenset(git("diff", "--name-only", commit, "--", "kernels").decode().split())
    except (OSError, subprocess.CalledProcessError):
        return None


def why_not(record: Published, kernel: str) -> str | None:
    """Why a kernel of the record cannot be measured again here, or None."""
    from convzoo.catalog import find

    try:
        known = find(kernel)
    except (ValueError, KeyError):
        return "is no kernel of this tree any more"
    if reason := known.backend.why_not():
        return reason
    folder = known.path.parent.relative_to(ROOT) if known.path.is_relative_to(ROOT) else None
    for file in map(Path, _changed_since(record.header["commit"]) or ()):
        shared = file.suffix != ".py" or file.name.startswith("_")
        if file.parent == folder and (file.name == known.path.name or shared):
            return f"has changed since the record: git checkout {record.header['commit'][:10]}"
    return None


Drawn = list[tuple[Published, dict[str, Any]]]


def candidates(records: Iterable[Published]) -> tuple[Drawn, dict[str, int]]:
    """Cells that can be measured again, each from the newest record that has it; the others, by reason."""
    newest: dict[tuple, tuple[Published, dict[str, Any]]] = {}
    for record in sorted(records, key=lambda r: r.header["started"]):
        newest |= {tuple(c[k] for k in KEY): (record, c) for c in record.cells}
    found, left_out = [], {}
    for record, cell in newest.values():
        if reason := why_not(record, cell["kernel"]):
            left_out[reason] = left_out.get(reason, 0) + 1
        else:
            found.append((record, cell))
    return found, left_out


def _races(every: Drawn, count: int, at_random: random.Random) -> Drawn:
    """About ``count`` cells at random, but whole problems, whose kernels can be ranked."""
    races: dict[tuple, Drawn] = {}
    for record, cell in every:
        races.setdefault((record.path, cell["problem"], cell["scenario"]), []).append((record, cell))
    full = [race for race in races.values() if len(race) > 1]
    at_random.shuffle(full)
    drawn: Drawn = []
    for race in full:
        if drawn and len(drawn) + len(race) > count:
            continue
        drawn += race
    return drawn


def choose(words: Sequence[str], count: int, seed: int, facts: dict[str, Any]) -> tuple[Drawn, bool, dict[str, Any]]:
    """Cells to measure again, whether this machine is of their class, and what was left out and why.

    Records of this class where there are any, else all of them. A record of another suite is left out with a
    note; so is a file that is no record, where it lay in a folder; ValueError where it was named.
    """
    records, notes = [], []
    for path in files(words):
        try:
            records.append(open_record(path))
        except ValueError as error:
            if path in map(Path, words) and not isinstance(error, OtherSuite):
                raise
            notes.append(str(error))
    same = [r for r in records if not differences(r, facts)]
    if same and len(same) < len(records):
        notes.append(f"{len(records) - len(same)} records are of other machines and left out")
    for record in [] if same else records:
        notes.append(f"{record.path.name}: another machine: {', '.join(differences(record, facts))}")
    every, left_out = candidates(same or records)
    at_random = random.Random(seed)
    drawn = at_random.sample(every, min(count, len(every))) if same else _races(every, count, at_random)
    if not drawn and every:
        notes.append("no problem has two kernels that can be ranked")
    return drawn, bool(same), {"notes": notes, "left_out": left_out}
