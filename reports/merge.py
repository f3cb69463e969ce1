"""``python -m reports import``: records, machine files and asv results from elsewhere, checked, beside ours.

What is already here is left alone, so that a folder can be imported again whenever it has grown. Each file
is taken or refused by itself, with one sentence; nothing here is ever overwritten by something that differs,
except a run that went on: then the longer record takes the place of its own beginning.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import words as say
from benchmarks.record import OWN, named
from benchmarks.roofline import best_of

from . import vet
from .values import Unreadable, mapping, text
from .vet import Refused

MACHINE_SCHEMA = "convzoo.machine/1"
ROOM = Path(__file__).resolve().parent
LARGEST_FILE = 2**28  # bytes; no record of ours comes near
ASV_FACTS = ("arch", "cpu", "num_cpu", "gpu")


@dataclass
class Verdict:
    """What became of one file: new, grown, here, refused or ignored."""

    path: Path
    kind: str  # record, machine, asv results or other
    status: str
    why: str = ""
    to: Path | None = None
    notes: list[str] = field(default_factory=list)


def merge(given: Sequence[Path], into: Path, dry: bool, repository: Path = ROOM) -> list[Verdict]:
    """Take what may be taken of ``given`` into the reports folder ``into``; one verdict for each file.

    ``repository`` is where commits are looked up: kernels' names mean what they mean in its history.
    """
    found: dict[str, list[tuple[Path, bool]]] = {}
    for path, itself in _files(given):
        found.setdefault(_kind(path), []).append((path, itself))
    store = Store(into, dry, repository)
    takers = {
        "machine": store.machine,
        "record": store.record,
        "asv machine": store.asv_machine,
        "asv results": store.asv_results,
        "benchmarks": store.asv_benchmarks,
    }
    verdicts = []
    for kind, take in takers.items():
        for path, _ in found.get(kind, []):
            try:
                verdicts.append(take(path))
            except Refused as why:
                verdicts.append(Verdict(path, kind, "refused", str(why)))
    for path, itself in found.get("other", []):
        why = "it is no record, no machine file and no asv result"
        verdicts.append(Verdict(path, "other", "refused" if itself else "ignored", why))
    return verdicts


def publish(words: Sequence[str], into: Path, dry: bool, own: Path = OWN, repository: Path = ROOM) -> list[Verdict]:
    """Move one's own records, and what is known of their machines, into the reports folder ``into``."""
    try:
        paths = [path for word in words for path in named(word, own, into)]
    except FileNotFoundError as error:
        raise Unreadable(str(error)) from None
    tried = merge(paths, into, True, repository)
    machines = {v.path.parent.name for v in tried if v.kind == "record" and v.status != "refused"}
    beside = [path for m in sorted(machines) if (path := own / "machines" / f"{m}.json").is_file()]
    verdicts = merge([*beside, *paths], into, dry, repository)
    for v in verdicts:
        if v.to and not dry and v.path.resolve().is_relative_to(own.resolve()) and v.to.resolve() != v.path.resolve():
            v.path.unlink()
    return verdicts


def _files(given: Sequence[Path]) -> Iterator[tuple[Path, bool]]:
    """Each file once, and whether it was named itself; links and hidden folders of a folder are left out."""
    seen: set[Path] = set()
    for start in given:
        if not start.exists():
            raise Unreadable(f"{start}: no such file or folder")
        below = sorted(start.rglob("*")) if start.is_dir() else [start]
        for path in below:
            hidden = any(part.startswith(".") for part in path.relative_to(start).parts)
            if hidden or not path.is_file() or (path != start and path.is_symlink()) or path in seen:
                continue
            seen.add(path)
            yield path, path == start


def _kind(path: Path) -> str:
    """What a file is, by what it says of itself."""
    if path.suffix == ".jsonl":
        with path.open("rb") as opened:
            return "record" if b'"convzoo.record/' in opened.readline(4096) else "other"
    if path.suffix != ".json" or path.stat().st_size > LARGEST_FILE:
        return "other"
    document = _json(path)
    if text(document.get("schema")).startswith("convzoo.machine/"):
        return "machine"
    if path.name == "machine.json" and {"machine", "cpu", "version"} <= document.keys():
        return "asv machine"
    if path.name == "benchmarks.json" and any(name.startswith("bench_conv2d.") for name in document):
        return "benchmarks"
    return "asv results" if {"commit_hash", "results", "env_name"} <= document.keys() else "other"


def _json(path: Path) -> dict[str, Any]:
    """The document of a file, or {} where there is none or it holds no JSON object."""
    try:
        return mapping(json.loads(path.read_text(encoding="utf-8")))
    except (FileNotFoundError, ValueError, RecursionError):
        return {}


class Store:
    """The reports folder that things are taken into; with ``dry`` nothing is written."""

    def __init__(self, into: Path, dry: bool, repository: Path):
        self.into, self.dry, self.repository = into, dry, repository
        self.runs: dict[tuple[str, str], bytes] = {}
        self.places: dict[tuple[str, str], Path] = {}
        self.hardware: dict[str, dict[str, Any]] = {}
        self.machines: set[str] = set()
        for path in sorted((into / "machines").glob("*.json")):
            self.machines.add(path.stem)
            self._know(path.stem, mapping(_json(path).get("hardware")))
        for path in sorted((into / "records").glob("*/*.jsonl")):
            data = path.read_bytes()
            header = _first(data)
            run = text(header.get("machine")), text(header.get("started"))
            self.runs[run], self.places[run] = data, path
            self._know(run[0], mapping(header.get("hardware")))

    def _know(self, machine: str, hardware: dict[str, Any]) -> None:
        if hardware:
            self.hardware.setdefault(machine, hardware)

    def _same_machine(self, machine: str, hardware: dict[str, Any]) -> None:
        differences = vet.hardware_differences(self.hardware.get(machine, {}), hardware)
        if differences:
            raise Refused(
                f"machine {machine} is another one here ({'; '.join(differences)}): one of the two needs a "
                "name of its own (compare --machine NAME)"
            )

    def record(self, path: Path) -> Verdict:
        found = vet.record(path, self.repository)
        if not vet.NAME.fullmatch(path.name):
            raise Refused("its name must be letters, digits, dots and dashes")
        self._same_machine(found.machine, mapping(found.header["hardware"]))
        to, mine = self.into / "records" / found.machine / path.name, self.runs.get(found.run)
        status = "new"
        if mine is not None:
            to = self.places[found.run]
            if mine == found.data or mine.startswith(found.data):
                return Verdict(path, "record", "here", to=to, notes=found.notes)
            if not found.data.startswith(mine[: mine.rfind(b"\n") + 1]):
                raise Refused(f"it is the run of {to}, with other content: one of the two was changed")
            status = "grown"
        elif to.exists():
            raise Refused(f"{to} is another run under the same name: rename this file")
        self._write(to, found.data)
        self.runs[found.run], self.places[found.run] = found.data, to
        self._know(found.machine, found.header["hardware"])
        if found.machine not in self.machines:
            parts = {k: found.header[k] for k in ("hardware", "ceilings", "null") if found.header.get(k)}
            self._write_machine(found.machine, parts)
            found.notes.append(f"no machine file came with it: machines/{found.machine}.json was made from it")
        cells = sum(line.get("kind") == "cell" for line in found.lines)
        when = say.date_text(found.run[1])
        why = f"{found.machine}, {when}, commit {found.header['commit'][:10]}, {say.plural(cells, 'cell')}"
        return Verdict(path, "record", status, why, to, found.notes)

    def machine(self, path: Path) -> Verdict:
        document = _json(path)
        if document["schema"] != MACHINE_SCHEMA:
            raise Refused(f"its schema must be {MACHINE_SCHEMA}, got {text(document['schema'])}")
        name = document.get("machine")
        if not isinstance(name, str) or not vet.NAME.fullmatch(name) or name != path.stem:
            raise Refused(f"it must be named after its machine, got {text(name, 'no machine')!r}")
        hardware = mapping(document.get("hardware"))
        if not hardware:
            raise Refused("it does not say which hardware the machine has")
        self._same_machine(name, hardware)
        self._know(name, hardware)
        to, here = self.into / "machines" / path.name, {}
        if name in self.machines:
            here = _json(to)
        merged = {k: here.get(k) or document.get(k) for k in ("hardware", "null")}
        merged["ceilings"] = best_of(mapping(here.get("ceilings")), mapping(document.get("ceilings")))
        kept = here | {k: v for k, v in merged.items() if v}
        if kept == here:
            return Verdict(path, "machine", "here", to=to)
        self._write_machine(name, kept)
        why = "its ceilings were higher, or told what was not known" if here else ""
        return Verdict(path, "machine", "grown" if here else "new", why, to)

    def _write_machine(self, name: str, parts: dict[str, Any]) -> None:
        document = {"schema": MACHINE_SCHEMA, "machine": name} | parts
        self._write(self.into / "machines" / f"{name}.json", (json.dumps(document, indent=1) + "\n").encode())
        self.machines.add(name)

    def asv_machine(self, path: Path) -> Verdict:
        theirs, to = _json(path), self._beside(path)
        if theirs["machine"] != path.parent.name:
            raise Refused(f"it names {text(theirs['machine'])} and lies in {path.parent.name}")
        here = _json(to) if to.exists() else {}
        different = [k for k in ASV_FACTS if here and text(here.get(k)) != text(theirs.get(k))]
        if different:
            raise Refused(f"machine {path.parent.name} is another one here: its {', '.join(different)} differ")
        return self._copied(path, to, "asv machine", "here" if here else "new")

    def asv_results(self, path: Path) -> Verdict:
        """A result file, read through asv's own classes; another grid of the same commit is not merged."""
        try:
            from asv.results import Results
            from asv.util import UserError
        except ImportError:
            raise Refused("asv reads such files: pip install 'convzoo[bench]'") from None
        try:
            found = Results.load(str(path), machine_name=path.parent.name)
        except (UserError, KeyError, TypeError, ValueError) as error:
            raise Refused(f"asv cannot read it: {text(str(error))}") from None
        if vet.in_history(found.commit_hash, self.repository) is False:
            raise Refused(f"its commit {found.commit_hash[:10]} is not in this repository (git fetch)")
        known = _json(self.into / "results" / "benchmarks.json")
        for name, version in found.benchmark_version.items():
            ours = text(mapping(known.get(name)).get("version"), str(vet.SUITE))
            if text(version) != ours:
                raise Refused(f"{name} is of version {text(version, 'none')} there and of version {ours} here")
        to = self._beside(path)
        same = to.exists() and to.read_bytes() == path.read_bytes()
        if to.exists() and not same:
            raise Refused(f"{to} holds other results of that commit: run asv there once for all cells")
        return self._copied(path, to, "asv results", "here" if same else "new")

    def asv_benchmarks(self, path: Path) -> Verdict:
        """asv's list of benchmarks: the last one written wins in asv, so ours stays where there is one."""
        to = self.into / "results" / "benchmarks.json"
        return self._copied(path, to, "benchmarks", "here" if to.exists() else "new")

    def _beside(self, path: Path) -> Path:
        if not vet.NAME.fullmatch(path.parent.name):
            raise Refused("asv's results lie in a folder that is named after the machine")
        return self.into / "results" / path.parent.name / path.name

    def _copied(self, path: Path, to: Path, kind: str, status: str) -> Verdict:
        if status == "new":
            self._write(to, path.read_bytes())
        return Verdict(path, kind, status, to=to)

    def _write(self, to: Path, data: bytes) -> None:
        """The whole file or nothing of it, whenever this process is killed."""
        if self.dry:
            return
        to.parent.mkdir(parents=True, exist_ok=True)
        handle, part = tempfile.mkstemp(dir=to.parent, suffix=".part")
        with os.fdopen(handle, "wb") as opened:
            opened.write(data)
        os.chmod(part, 0o644)
        os.replace(part, to)


def _first(data: bytes) -> dict[str, Any]:
    try:
        return mapping(json.loads(data.partition(b"\n")[0]))
    except (ValueError, RecursionError):
        return {}


def told(verdicts: list[Verdict], dry: bool) -> tuple[list[str], list[str]]:
    """Lines for the reader (what came in), and lines for trouble (what did not)."""
    fine, trouble = [], []
    for v in verdicts:
        if v.status == "refused":
            trouble.append(f"refused: {v.path}: {v.why}")
        elif v.status == "ignored":
            if v.path.suffix in (".json", ".jsonl"):  # it may have been meant to be one
                fine.append(f"ignored   {v.path}: {v.why}")
        else:
            shown = f"{v.status:<9} {v.to}" + (f"  ({v.why})" if v.why else "")
            fine.append(shown)
        fine += [f"          note: {note}" for note in v.notes if v.status != "here"]
    count = {s: sum(v.status == s for v in verdicts) for s in ("new", "grown", "here", "refused", "ignored")}
    words = {"here": "already here"}
    parts = ", ".join(f"{n} {words.get(s, s)}" for s, n in count.items() if n) or "nothing found"
    fine.append(f"{parts}{': nothing was written (--dry-run)' if dry else ''}.")
    return fine, trouble
