"""The record of a run: one JSON Lines file, appended to as results come, and its export to asv's files.

Lines, by ``kind``: ``run`` (first; the machine, the code, the settings), ``skip`` (a cell that could not
run, and why), ``round`` (one cell in one round), ``cell`` (what all rounds of a cell say together) and
``end``, which holds the SHA-256 of everything before it, so that damage on the way to another place is
seen. Schema ``convzoo.record/1``; a reader refuses a newer one.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

SCHEMA = "convzoo.record/1"
METHOD = "compare"  # how its numbers were measured
SUITE = 2  # raised when the meaning of a number changes; numbers of different suites never mix
ROOT = Path(__file__).resolve().parent.parent
# What makes a machine another one under the same name. Not the driver, the governor or the version of the
# system: those change on one machine, and each record holds its own.
IDENTITY = ("cpu", "microarchitecture", "cpu_family_model", "vector", "matrix", "usable_cpus", "caches", "arch")
PUBLISHED = ROOT / "reports"
OWN = PUBLISHED / "out"  # ignored by git: what is measured here stays here until ``python -m reports publish``
ABSOLUTE = re.compile(r"(^|=)(?:/|[A-Za-z]:[\\/])(?:.*[\\/])?")  # the folder in a word of a command line
_FOLDERS = [re.escape(str(folder)) for folder in (ROOT, Path.home()) if folder != Path(folder.anchor)]
_OF_HERE = re.compile(rf"(?<![\w./-])({'|'.join(_FOLDERS)})(?![\w.-])")


Numbers = dict[str, float | None]


@dataclass
class Run:
    """The first line: who measured what, where, and how."""

    schema: str
    suite: int
    method: str
    machine: str
    hardware: dict[str, Any]
    commit: str
    dirty: bool
    started: str  # in ISO form
    command: list[str]
    preset: str
    threads: int
    scenarios: list[str]
    seed: int
    kernels: list[str]
    problems: list[tuple[str, str, int]]  # layer, problem, how often it occurs
    commit_date: str | None = None
    warnings: list[str] = field(default_factory=list)
    sampling: dict[str, Any] = field(default_factory=dict)
    networks: dict[str, list[tuple[str, str, int]]] = field(default_factory=dict)
    ceilings: dict[str, Any] | None = None
    null: dict[str, Any] | None = None


@dataclass
class _Of:
    """What a line is about: one kernel on one problem in one scenario."""

    kernel: str
    problem: str
    scenario: str
    status: str


@dataclass
class Skip(_Of):
    """A cell that could not run."""

    why: str


@dataclass
class _Measured(_Of):
    why: str = ""
    seconds: float | None = None  # the median of a call; none unless ok
    plan_seconds: float | None = None
    pack_seconds: float | None = None
    device_seconds: float | None = None
    workspace: int | None = None  # bytes
    accuracy: str = ""
    algorithm: str = ""
    error: Numbers = field(default_factory=dict)
    fingerprint: dict[str, Any] = field(default_factory=dict)
    host_share: float | None = None  # of what the machine had at its best


@dataclass
class Round(_Measured):
    """One cell in one round: a process of its own, and data of its own."""

    round: int = -1
    q25: float | None = None
    q75: float | None = None
    samples: int | None = None
    number: int | None = None  # calls in a sample
    transfer_seconds: float | None = None
    first_seconds: float | None = None
    wall_seconds: float | None = None
    doubted_seconds: float | None = None  # where the machine cannot have been so fast
    raw: list[float] = field(default_factory=list)


@dataclass
class Cell(_Measured):
    """What all rounds of a cell say together."""

    layer: str = ""
    count: int = 1
    flops: int = 0
    min_bytes: int = 0
    low: float | None = None
    high: float | None = None
    confidence: float | None = None
    rounds: int = 0
    round_seconds: list[float] = field(default_factory=list)
    gflops_per_s: float | None = None
    baseline: str | None = None
    vs_baseline: float | None = None  # a speed: above 1 is faster
    vs_baseline_low: float | None = None
    vs_baseline_high: float | None = None


@dataclass
class End:
    """The last line, with the SHA-256 of all before it."""

    status: str
    libraries: dict[str, dict[str, str]] = field(default_factory=dict)
    sentence: str = ""
    import_seconds: dict[str, float] = field(default_factory=dict)
    sha256: str | None = None


@dataclass
class Ceilings:
    """Ceilings that were measured again during the run."""

    ceilings: dict[str, Any]


LINES = {"run": Run, "skip": Skip, "round": Round, "cell": Cell, "end": End, "ceilings": Ceilings}


def decoded(row: bytes) -> Run | Skip | Round | Cell | End | Ceilings:
    """A line of a record in its form, checked. ValueError for a wrong type, for NaN and for an unknown kind."""
    import msgspec

    try:
        return msgspec.json.decode(row, type=LINES[json.loads(row)["kind"]])
    except KeyError as error:
        raise ValueError(f"is of no known kind: {error}") from None
    except msgspec.DecodeError as error:
        raise ValueError(str(error)[:1].lower() + str(error)[1:]) from None


class Busy(ValueError):
    """Another process is writing this record."""


class Record:
    """An open record; every line reaches the disk before ``add`` returns.

    With ``header`` a new file is begun; without one an old record goes on, less a last line that was cut
    off. Raises Busy where another process has it open, FileExistsError for a new record that is there.
    """

    def __init__(self, path: Path, header: dict[str, Any] | None = None):
        self.path = path
        self._digest = hashlib.sha256()
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("r+" if header is None else "x", encoding="utf-8")
        if not _locked(self._file):
            self._file.close()
            raise Busy(f"{path}: another run is writing it; wait for it, or begin a new record")
        if header is not None:
            self.add({"schema": SCHEMA, "kind": "run", **header})
            return
        whole = self._file.read().rpartition("\n")[0] + "\n"
        self._digest.update(whole.encode())
        self._file.truncate(len(whole.encode()))
        self._file.seek(0, os.SEEK_END)

    def add(self, line: dict[str, Any]) -> None:
        if line["kind"] == "end":
            line = line | {"sha256": self._digest.hexdigest()}
        text = json.dumps(short(line), allow_nan=False) + "\n"
        self._digest.update(text.encode())
        self._file.write(text)
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        with contextlib.suppress(OSError):  # a full disk fails here again; add has told of it
            self._file.close()


def short(value: Any) -> Any:
    """The same with six digits of every float: more than any time has, and half of the bytes; and without this
    machine's folders, for records are published.

    Whatever is computed from a line and recorded too is computed from the shortened line: a reader who
    computes it again from what the record holds gets it back.
    """
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {key: short(inner) for key, inner in value.items()}
    if isinstance(value, str):
        return _OF_HERE.sub(lambda found: "." if found[0] == str(ROOT) else "~", value)
    return [short(inner) for inner in value] if isinstance(value, (list, tuple)) else value


@cache
def errata() -> list[dict[str, Any]]:
    """Guarantees that records of these suites claim and their kernels do not keep."""
    path = ROOT / "reports" / "errata.toml"  # where kernels are measured there may be no reports
    return tomllib.loads(path.read_text(encoding="utf-8"))["erratum"] if path.is_file() else []


def corrected(line: dict[str, Any], suite: Any) -> dict[str, Any]:
    """A line of a record with the guarantee that its kernel keeps."""
    for e in errata() if "accuracy" in line else ():
        if (line.get("kernel"), line["accuracy"]) == (e["kernel"], e["claimed"]) and suite in e["suites"]:
            return line | {"accuracy": e["keeps"]}
    return line


def _locked(file: Any) -> bool:
    """Take the advisory lock that goes with this process, where the system has such locks."""
    try:
        import fcntl
    except ImportError:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def sealed(data: bytes) -> bool | None:
    """Whether every end line's SHA-256 is that of all before it; None where no line holds one."""
    seen, found = hashlib.sha256(), None
    for row in data.splitlines(keepends=True):
        line = json.loads(row) if b'"sha256"' in row and row.endswith(b"\n") else {}
        if line.get("kind") == "end":
            if line["sha256"] != seen.hexdigest():
                return False
            found = True
        seen.update(row)
    return found


def read(path: Path) -> Iterator[dict[str, Any]]:
    """Lines of a record; a last line that was cut off is left out. ValueError for a newer schema."""
    suite = None
    with path.open(encoding="utf-8") as lines:
        for number, text in enumerate(lines, 1):
            try:
                line = json.loads(text)
            except json.JSONDecodeError as error:
                if text.endswith("\n"):
                    raise ValueError(f"{path}, line {number}: not JSON ({error})") from None
                return
            if number == 1 and line.get("schema") != SCHEMA:
                raise ValueError(f"{path}: schema must be {SCHEMA}, got {line.get('schema')!r}")
            suite = line.get("suite") if number == 1 else suite
            yield corrected(line, suite)


def commit() -> dict[str, Any]:
    """The commit that is measured and whether the tree differs from it.

    From git; where this folder is not the top of a repository (somebody else's may lie around it), from
    CONVZOO_COMMIT or a file named COMMIT at the root.
    """
    told = os.environ.get("CONVZOO_COMMIT") or _first_line(ROOT / "COMMIT")
    try:
        if Path(git("rev-parse", "--show-toplevel").decode().strip()).resolve() != ROOT:
            raise FileNotFoundError(f"{ROOT} is not the top of a repository")
        head = git("rev-parse", "HEAD").decode().strip()
        changed = git("status", "--porcelain", "--", "kernels", "benchmarks", "pyproject.toml")
        return {"commit": head, "dirty": bool(changed)}
    except (OSError, subprocess.CalledProcessError):
        return {"commit": told or "unknown", "dirty": told is None}


def _first_line(path: Path) -> str | None:
    try:
        return path.read_text().split()[0]
    except (OSError, IndexError):
        return None


def git(*arguments: str) -> bytes:
    """What git says about this folder's repository, whoever owns it and whatever a hook has set.

    git refuses a repository of another user, whose settings may run programs: none of them is run here.
    """
    ours = {k: v for k, v in os.environ.items() if not k.startswith("GIT_") or k == "GIT_EXEC_PATH"}
    command = ["git", "-c", f"safe.directory={ROOT}", "-c", "core.fsmonitor=", "-C", str(ROOT), *arguments]
    return subprocess.run(command, check=True, capture_output=True, env=ours).stdout


def named(word: str | Path, *rooms: Path) -> list[Path]:
    """The records that a path names, or a record's or a machine's name: one's own before the published ones.

    FileNotFoundError where there is none.
    """
    path = Path(word)
    if path.exists():
        return sorted(path.rglob("*.jsonl")) if path.is_dir() else [path]
    every = [p for room in rooms or (OWN, PUBLISHED) for p in sorted((room / "records").glob("*/*.jsonl"))]
    found = [p for p in every if str(word) in (p.stem, p.name, p.parent.name)]
    if not found:
        raise FileNotFoundError(
            f"{word}: no such file, and no record or machine of that name in reports/out or reports/records"
        )
    return found


def one(word: str | Path) -> Path:
    """The one record that is named so."""
    found = named(word)
    if len({path.name for path in found}) != 1:
        raise ValueError(f"{word}: names {len(found)} records, and one is wanted")
    return found[0]


def new_path(folder: Path, machine: str, preset: str) -> Path:
    """records/<machine>/<UTC time>-<preset>.jsonl, a name no other run of this second has."""
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    path, n = folder / machine / f"{stamp}-{preset}.jsonl", 1
    while path.exists():
        path, n = folder / machine / f"{stamp}-{preset}-{n}.jsonl", n + 1
    return path


def export_to_asv(path: Path, results: Path) -> Path:
    """Write the cells of a record as an asv result file, through asv's own classes.

    The environment is named ``convzoo-compare-py<version>``, so that asv never joins these numbers with
    a series that its own runs measured. ValueError for a record of a dirty tree: asv files by commit.
    """
    from itertools import product

    from asv.results import Results
    from asv.runner import BenchmarkResult

    lines = list(read(path))
    run, cells = lines[0], [line for line in lines if line["kind"] == "cell"]
    if run["dirty"]:
        raise ValueError(f"{path}: asv files results by commit, and this run was of an uncommitted tree")
    version = ".".join(run["hardware"]["python"].split(".")[:2])
    params = asv_machine(run["machine"], run["hardware"]) | {"python": version}
    moment = datetime.fromisoformat(run["commit_date"] or run["started"])
    stamp = int(moment.timestamp() * 1000)
    env = f"convzoo-compare-py{version}"
    filed = Results(params, {}, run["commit"], stamp, version, env, {})
    for scenario in sorted({c["scenario"] for c in cells}):
        mine = {(c["kernel"], c["problem"]): c for c in cells if c["scenario"] == scenario}
        axes = [sorted({k for k, _ in mine}), sorted({q for _, q in mine})]
        rounds = [mine.get(key, {}).get("round_seconds") for key in product(*axes)]
        benchmark = {
            "name": f"bench_conv2d.kernel_{scenario}",
            "params": [[repr(v) for v in axis] for axis in axes],
            "version": str(SUITE),
            "type": "time",
        }
        result = BenchmarkResult(
            result=[True if r else None for r in rounds],
            samples=rounds,
            number=[1 if r else None for r in rounds],
            errcode=0,
            stderr="",
            profile=None,
        )
        started = datetime.fromisoformat(run["started"])
        filed.add_result(benchmark, result, started_at=started, duration=0.0, record_samples=True)
    filed.save(str(results))
    return results / run["machine"]


def asv_machine(name: str, hardware: dict[str, Any]) -> dict[str, str]:
    """The machine as asv describes one; keys asv does not know become facets of its site."""
    gpus = hardware.get("gpus") or []
    return {
        "machine": name,
        "os": hardware["os"],
        "arch": hardware["arch"],
        "cpu": f"{hardware['cpu']} ({hardware['microarchitecture']})",
        "num_cpu": str(hardware["usable_cpus"]),
        "ram": f"{(hardware['memory_bytes'] or 0) / 2**30:.0f}GiB",
        "gpu": gpus[0]["name"] if gpus else "none",
    }


def commit_date(commit: str) -> str | None:
    try:
        return git("show", "-s", "--format=%cI", commit).decode().strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def command() -> list[str]:
    """What was typed; of a folder elsewhere on this machine only the last name, for records are published."""
    return ["python", "-m", "benchmarks", *(ABSOLUTE.sub(r"\1", short(word)) for word in sys.argv[1:])]
