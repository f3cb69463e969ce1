"""May a record from elsewhere stand beside ours? Each check refuses with one sentence.

What is refused would mix different questions without a word, or cannot be trusted to be what was written:
another suite, another way of measuring, a commit nobody can look up, cells that are missing, times that
are not those of their rounds.
"""

from __future__ import annotations

import math
import re
import statistics
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from benchmarks import evidence
from benchmarks.record import ABSOLUTE, IDENTITY, METHOD, SUITE, decoded, sealed

from .cells import GROUPS, SHORTEST
from .load import read_lines
from .values import Unreadable, mapping, number, sequence, text

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,119}")  # of a machine or a file: no path in disguise
KERNEL = re.compile(r"[a-z][a-z0-9_]*/[a-z][a-z0-9_]*")
SCENARIOS = ("packed", "eager")
MEMORY = 1.1  # how far two readings of one memory's size may lie apart
# As part of a speed: until 26 November 2026 it was computed from two times before each lost its digits.
SPEED_DIGITS = 1.51e-5
Key = tuple[str, str, str]


class Refused(ValueError):
    """Why a file is not taken, in one sentence."""


@dataclass
class Incoming:
    """A record that was read and found good, with what a reader should know about it nevertheless."""

    path: Path
    data: bytes
    lines: list[dict[str, Any]]
    notes: list[str] = field(default_factory=list)

    @property
    def header(self) -> dict[str, Any]:
        return self.lines[0]

    @property
    def machine(self) -> str:
        return self.header["machine"]

    @property
    def run(self) -> tuple[str, str]:
        """Which run this is: a machine begins one at a time."""
        return self.machine, self.header["started"]


def record(path: Path, repository: Path) -> Incoming:
    """The record in ``path``, checked. Refused says why it may not stand beside ours."""
    try:
        lines, cut = read_lines(path)
    except Unreadable as error:
        raise Refused(str(error).removeprefix(f"{path} ")) from None
    found = Incoming(path, path.read_bytes(), lines)
    _check_whole(found, cut)
    _check_question(found)
    _check_commit(found, repository)
    _check_names(found.header)
    _check_cells(found)
    _check_form(found)
    return found


def _check_form(found: Incoming) -> None:
    for at, row in enumerate(_rows(found.data), 1):
        try:
            decoded(row)
        except ValueError as error:
            raise Refused(f"its line {at} {error}") from None
        except ImportError:
            found.notes.append("the form of its lines was not checked: pip install 'convzoo[report]' (msgspec)")
            return


def _check_whole(found: Incoming, cut: bool) -> None:
    last = found.lines[-1]
    if cut or last.get("kind") != "end":
        raise Refused("it is cut off: finish it where it was begun with compare --resume, then send it")
    if last.get("status") != "complete":
        found.notes.append(f"the run ended early ({text(last.get('status'), 'no reason')})")
    whole = sealed(b"".join(_rows(found.data)))
    if whole is False:
        raise Refused("its bytes are not those that were written: the SHA-256 at its end differs")
    if whole is None:
        found.notes.append("it carries no SHA-256 (older records do not): damage on the way may go unseen")


def _rows(data: bytes) -> list[bytes]:
    """The lines of a file with their ends; a blank one is no line of a record."""
    rows = data.split(b"\n")
    whole = [row + b"\n" for row in rows[:-1]] + [rows[-1]]
    if any(not row.strip() for row in whole[:-1]):
        raise Refused("it has a blank line, which no run writes")
    return [row for row in whole if row.strip()]


def _check_question(found: Incoming) -> None:
    header = found.header
    suite = header.get("suite")
    if not isinstance(suite, int) or not 1 <= suite <= SUITE:
        raise Refused(f"it was measured by suite {text(suite, 'unknown')}, and this program knows those up to {SUITE}")
    if suite < SUITE:
        found.notes.append(f"it was measured by suite {suite}, not {SUITE}: it is ranked among records of that alone")
    if header.get("method") != METHOD:
        raise Refused(
            f"it was measured by the method {text(header.get('method'), 'unknown')}, not by {METHOD}: "
            "its times answer another question"
        )


def _check_commit(found: Incoming, repository: Path) -> None:
    commit = text(found.header.get("commit"), "unknown")
    if not re.fullmatch(r"[0-9a-f]{40}", commit):
        raise Refused(f"it does not say which commit was measured, got {commit}")
    if found.header.get("dirty") is not False:
        raise Refused("the tree had uncommitted changes: no commit says what was measured")
    known = in_history(commit, repository)
    if known is False:
        raise Refused(
            f"its commit {commit[:10]} is not in this repository: kernels of the same name may be others "
            "there; fetch that history first (git fetch)"
        )
    if known is None:
        found.notes.append(f"whether commit {commit[:10]} exists could not be checked: no full git history")


@lru_cache(maxsize=1024)
def in_history(commit: str, repository: Path) -> bool | None:
    """Whether a branch or tag holds the commit; None where there is no git or only the newest commits.

    One that was rebased away may still lie in this repository, but in no clone of it.
    """

    def git(*words: str) -> str | None:
        try:
            done = subprocess.run(["git", "-C", str(repository), *words], capture_output=True, text=True)
        except OSError:
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    shallow = git("rev-parse", "--is-shallow-repository")
    if shallow is None:
        return None
    known = git("rev-list", "--max-count=1", commit, "--not", "--all") == ""
    return known or (None if shallow == "true" else False)


def _check_names(header: dict[str, Any]) -> None:
    machine = header.get("machine")
    if not isinstance(machine, str) or not NAME.fullmatch(machine):
        raise Refused(f"its machine's name must be letters, digits, dots and dashes, got {text(machine)!r}")
    if not isinstance(header.get("started"), str) or not mapping(header.get("hardware")):
        raise Refused("it does not say when or on which hardware it was measured")
    for word in map(text, sequence(header.get("command"))):
        if ABSOLUTE.search(word):
            raise Refused(f"its command names {word}, a folder of that machine, which nobody else should read")
    for kernel in sequence(header.get("kernels")):
        if not isinstance(kernel, str) or not KERNEL.fullmatch(kernel):
            raise Refused(f"a kernel's name is backend/idea, got {text(kernel)!r}")
    for entry in sequence(header.get("problems")):
        if not isinstance(entry, list) or len(entry) != 3:
            raise Refused(f"a problem of a record is [name, problem, count], got {text(entry)!r}")
        problem(entry[1])
    for scenario in sequence(header.get("scenarios")):
        if scenario not in SCENARIOS:
            raise Refused(f"a scenario is packed or eager, got {text(scenario)!r}")


def problem(name: Any) -> Any:
    """The problem of that name, written as this suite writes it."""
    from convzoo.problem import Conv2d

    try:
        found = Conv2d.parse(name if isinstance(name, str) else text(name))
    except ValueError as error:
        raise Refused(str(error).removeprefix("conv2d: ")) from None
    if str(found) != name:
        raise Refused(f"problem {name} is written {found} in this suite: one problem would have two names")
    return found


def _check_cells(found: Incoming) -> None:
    """Every cell that the header asks for is there once, no other is, and its time is its rounds'."""
    header, lines = found.header, found.lines[1:]
    asked = {
        (kernel, entry[1], scenario)
        for kernel in sequence(header.get("kernels"))
        for entry in sequence(header.get("problems"))
        for scenario in sequence(header.get("scenarios"))
    }
    rounds: dict[Key, dict[int, float]] = {}
    for line in _of(lines, "round", asked):
        mine, i = rounds.setdefault(_key(line), {}), line.get("round")
        if not isinstance(i, int) or i in mine:
            raise Refused(f"{_where(_key(line))} has round {text(i)} twice, or a round without a number")
        seconds = number(line.get("seconds"), above=SHORTEST)
        if line.get("status") == "ok" and seconds is None:
            raise Refused(f"{_where(_key(line))} is ok in round {i} without a time")
        mine[i] = seconds if line.get("status") == "ok" and seconds else 0.0
    skipped = {_key(line) for line in _of(lines, "skip", asked)}
    told: set[Key] = set()
    for line in _of(lines, "cell", asked):
        _check_cell(line, rounds.get(_key(line), {}), rounds)
        told.add(_key(line))
    if missing := asked - told - skipped:
        raise Refused(f"{len(missing)} of its {len(asked)} cells are missing, as {_where(min(missing))}")


def _of(lines: list[dict[str, Any]], kind: str, asked: set[Key]) -> Iterable[dict[str, Any]]:
    for line in lines:
        if line.get("kind") != kind:
            continue
        if _key(line) not in asked:
            raise Refused(f"{_where(_key(line))} is not among the cells that its first line asks for")
        yield line


def _key(line: dict[str, Any]) -> Key:
    kernel, name, scenario = (text(line.get(k), "?") for k in ("kernel", "problem", "scenario"))
    return kernel, name, scenario


def _where(key: Key) -> str:
    return f"{key[0]} on {key[1]} ({key[2]})"


def _check_cell(line: dict[str, Any], mine: dict[int, float], rounds: dict[Key, dict[int, float]]) -> None:
    """A summary must be what its rounds say; both were written by one run."""
    key = _key(line)
    if line.get("status") not in GROUPS:
        raise Refused(f"{_where(key)} has the status {text(line.get('status'), 'none')}, which is unknown here")
    if line.get("flops") != problem(key[1]).flops:
        raise Refused(f"{_where(key)} counts {text(line.get('flops'))} FLOP, and the problem has another number")
    if line["status"] != "ok":
        return
    if not mine or 0.0 in mine.values():
        raise Refused(f"{_where(key)} is ok, and a round of it is not")
    values = list(mine.values())
    low, high, confidence = evidence.interval(values)
    want = {"seconds": statistics.median(values), "low": low, "high": high, "confidence": confidence}
    base = rounds.get((text(line.get("baseline")), *key[1:]), {})
    if "vs_baseline" in line:
        speeds = evidence.summary(evidence.speeds(base, mine)) or (0.0, 0.0, 0.0)
        want |= dict(zip(("vs_baseline", "vs_baseline_low", "vs_baseline_high"), speeds, strict=True))
    for name, value in want.items():
        said = number(line.get(name))
        lost = SPEED_DIGITS * value if name.startswith("vs_") else _half_a_sixth_digit(value)
        if said is None or abs(said - value) > lost:
            raise Refused(
                f"{_where(key)} says {name} {text(line.get(name), 'nothing')}, and its rounds say {value:.6g}: "
                "it was changed after it was measured"
            )


def _half_a_sixth_digit(value: float) -> float:
    """What a positive value loses, at most, where a record keeps six digits of it."""
    return 0.501 * 10.0 ** (math.floor(math.log10(value)) - 5) if value else 0.0


def hardware_differences(here: dict[str, Any], there: dict[str, Any]) -> list[str]:
    """What makes two descriptions those of two machines, one phrase each."""
    found = [
        f"{name.replace('_', ' ')} {text(here[name])} here and {text(there[name])} there"
        for name in IDENTITY
        if name in here and name in there and here[name] != there[name]
    ]
    boards = [[text(mapping(gpu).get("name"), "a GPU") for gpu in sequence(side.get("gpus"))] for side in (here, there)]
    if "gpus" in here and "gpus" in there and boards[0] != boards[1]:
        names = [", ".join(each) or "none" for each in boards]
        found.append(f"GPUs {names[0]} here and {names[1]} there")
    sizes = [number(side.get("memory_bytes"), above=0) for side in (here, there)]
    if sizes[0] and sizes[1] and not 1 / MEMORY < sizes[0] / sizes[1] < MEMORY:
        found.append(f"{sizes[0] / 2**30:.0f} GiB of memory here and {sizes[1] / 2**30:.0f} GiB there")
    return found
