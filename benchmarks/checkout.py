"""A side of a comparison: a tree of kernels on its own, and the Python that runs it.

The judge is this tree's for both sides: the package ``reference`` is put in place of theirs, so that both get the
same data and the same verdict. Everything else is their own, unless it is too old or too new for this
tree's worker; then the whole core of convzoo is this tree's, only the kernels are theirs, and we say so.

A side lies in ``.asv/regress/<role>-<hash>/`` and is used again by later runs, with what Numba cached in
it. Paths of both sides have the same length, and so have their environments: a difference there moves a
process's stack, which is enough to make the same code faster or slower.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from .hardware import library_environment
from .processes import python_path
from .record import ROOT, git

FOLDER = ROOT / ".asv" / "regress"
CORE = ROOT / "kernels" / "convzoo"
JUDGE = ("reference",)
PROBE = {
    "kernel": "numpy/per_channel",
    "problem": "n1c2h5w5k2r3s3",
    "scenario": "packed",
    "seed": 0,
    "effort": {"sample": 0.0, "warm_up": 0.0, "budget": 0.0, "fewest": 1, "most": 1},
}
MISFIT = ("ImportError", "ModuleNotFoundError", "AttributeError", "TypeError", "NameError")


class Unprepared(RuntimeError):
    """A side could not be made ready: a library would not install, or a tree would not import."""


@dataclass(frozen=True)
class Side:
    """``label`` is for people; ``commit`` is None for a working tree with changes of its own."""

    role: str
    label: str
    commit: str | None
    kernels: Path
    python: str = sys.executable
    requirement: str | None = None
    borrowed: tuple[str, ...] = JUDGE  # files and folders of convzoo that are this tree's

    @property
    def note(self) -> str:
        """What a reader must know about this side, or nothing."""
        if self.borrowed == JUDGE:
            return ""
        return (
            f"{self.label}: its convzoo and this tree's harness do not fit together, so its kernels ran on "
            f"this tree's {', '.join(self.borrowed)}"
        )

    @property
    def about(self) -> dict[str, Any]:
        return {
            "label": self.label,
            "commit": self.commit,
            "requirement": self.requirement,
            "borrowed": list(self.borrowed),
            "note": self.note,
        }


def sides(base: str | None, head: str | None, against: list[str] | None) -> dict[str, Side]:
    """Both sides by role: two commits, or with ``against`` two requirements on one commit.

    ValueError for a commit that is none, Unprepared for one that cannot be measured.
    """
    if against and head:
        raise ValueError("--against compares two libraries on one commit: give at most one commit")
    if base is None and not against:
        raise ValueError("name the commit to compare with: regress BASE [HEAD]")
    revisions = (base, base) if against else (base, head)
    wishes = against or (None, None)
    return {
        role: _fitting(role, revision, wish)
        for role, revision, wish in zip(("base", "head"), revisions, wishes, strict=True)
    }


def _fitting(role: str, revision: str | None, requirement: str | None) -> Side:
    """The side with as little of this tree's convzoo as lets this tree's worker measure it."""
    why = ""
    for borrowed in (JUDGE, (*JUDGE, *sorted(path.name for path in CORE.glob("*.py")))):
        side = make(role, revision, requirement, borrowed)
        why = misfit(side)
        if not why:
            return side
    raise Unprepared(f"{side.label} cannot be measured by this tree's harness: {why}")


def misfit(side: Side) -> str:
    """Why this tree's worker and a side's convzoo do not work together, or "" where they do."""
    code = (
        "import json, sys; from benchmarks.worker import run_cell; print(json.dumps(run_cell(json.loads(sys.argv[1]))))"
    )
    try:
        reply = json.loads(_run(side, code, json.dumps(PROBE), 1))
    except Unprepared as error:
        return str(error)
    why = reply.get("why", "")
    return why if reply["status"] == "crashed" and why.startswith(MISFIT) else ""


def make(role: str, revision: str | None, requirement: str | None, borrowed: tuple[str, ...]) -> Side:
    if revision is None:
        return of_working_tree(role, requirement, borrowed)
    return of_commit(role, revision, requirement, borrowed)


def of_commit(role: str, revision: str, requirement: str | None = None, borrowed: tuple[str, ...] = JUDGE) -> Side:
    """The kernels of a commit. ValueError where git knows no such commit, or it has no kernels."""
    try:
        commit = git("rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}").decode().strip()
    except (OSError, subprocess.CalledProcessError):
        raise ValueError(f"git knows no commit {revision!r} in {ROOT}") from None

    def unpack(into: Path) -> None:
        try:
            archive = git("archive", commit, "kernels")
        except subprocess.CalledProcessError:
            raise ValueError(f"commit {revision} has no folder kernels/") from None
        with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
            tar.extractall(into, filter="data")

    label = commit[:8] if commit.startswith(revision) else f"{revision} ({commit[:8]})"
    return _side(Side(role, label, commit, ROOT, sys.executable, requirement, borrowed), commit, unpack)


def of_working_tree(role: str, requirement: str | None = None, borrowed: tuple[str, ...] = JUDGE) -> Side:
    """The kernels as they lie here now, copied, so that an edit during the run changes nothing."""
    try:
        listed = git("ls-files", "-z", "--cached", "--others", "--exclude-standard", "kernels")
        head = git("rev-parse", "HEAD").decode().strip()
        dirty = bool(git("status", "--porcelain", "--", "kernels"))
    except (OSError, subprocess.CalledProcessError):
        raise ValueError(f"{ROOT} is no git repository: regress compares commits") from None
    files = [ROOT / name for name in sorted(set(listed.decode().split("\0"))) if name]
    files = [path for path in files if path.is_file()]
    content = hashlib.sha256()
    for path in files:
        content.update(f"{path.relative_to(ROOT)}\0".encode() + path.read_bytes() + b"\0")

    def copy(into: Path) -> None:
        for path in files:
            target = into / path.relative_to(ROOT)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, target)

    label = f"the working tree ({head[:8]}{' with uncommitted changes' if dirty else ''})"
    commit = None if dirty else head
    plain = Side(role, label, commit, ROOT, sys.executable, requirement, borrowed)
    return _side(plain, content.hexdigest(), copy)


def _side(side: Side, key: str, fill: Callable[[Path], None]) -> Side:
    """``side`` with its folder filled, the borrowed files put in, and its Python made."""
    content = hashlib.sha256(key.encode())
    borrowed = [path for name in side.borrowed for path in (CORE / name, *sorted((CORE / name).glob("*.py")))]
    borrowed = [path for path in borrowed if path.is_file()]
    for path in borrowed:
        content.update(f"{path.relative_to(CORE)}".encode() + path.read_bytes())
    if side.requirement:
        content.update(f"{side.requirement} {sys.version} {sys.prefix}".encode())
    folder = FOLDER / f"{side.role}-{content.hexdigest()[:12]}"
    if not folder.exists():
        FOLDER.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=FOLDER, prefix="new-") as fresh:
            fill(Path(fresh))
            for path in borrowed:
                target = Path(fresh) / "kernels" / "convzoo" / path.relative_to(CORE)
                target.parent.mkdir(exist_ok=True)
                shutil.copy2(path, target)
            try:
                os.rename(fresh, folder)
                Path(fresh).mkdir()  # the context manager removes it
            except OSError:  # another run was quicker, with the same content
                if not folder.exists():
                    raise
    ready = replace(side, kernels=folder / "kernels")
    if not side.requirement:
        return ready
    label = f"{side.requirement} on {side.label}"
    return replace(ready, label=label, python=_python_with(side.requirement, folder / "venv"))


def _python_with(requirement: str, venv: Path) -> str:
    """A Python that has ``requirement`` and, behind it, everything that this one has."""
    import venv as environments

    ready = venv / "ready"
    python = str(venv / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python"))
    if ready.exists():
        return python
    environments.create(venv, clear=True, with_pip=False)
    # --system-site-packages would mean the Python below a virtual environment, not the environment
    mine = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
    ask = "import sysconfig; print(sysconfig.get_path('purelib'))"
    told = subprocess.run([python, "-c", ask], check=True, capture_output=True, text=True)
    (Path(told.stdout.strip()) / "behind.pth").write_text("\n".join(mine) + "\n")
    install = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", requirement]
    done = subprocess.run(install, capture_output=True, text=True)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if "ERROR" in line] or [done.stderr.strip()]
        raise Unprepared(f"{requirement} could not be installed: {lines[-1]}")
    ready.write_text(f"{requirement}\n")
    return python


def kernels_of(side: Side, globs: list[str], threads: int) -> dict[str, str | None]:
    """The kernels of a side that match, each with None or why this machine cannot run it."""
    code = (
        "import json, sys, convzoo; from convzoo.catalog import find; g = json.loads(sys.argv[1])\n"
        "found = {n: find(n).backend for n in convzoo.names(*g)}\n"
        "why = {b.name: b.why_not() for b in {b.name: b for b in found.values()}.values()}\n"
        "print(json.dumps({n: why[b.name] for n, b in found.items()}))"
    )
    return json.loads(_run(side, code, json.dumps(globs), threads))


def _run(side: Side, code: str, argument: str, threads: int) -> str:
    """The last line that ``code`` prints when a side's Python runs it as a worker would."""
    paths = {"PYTHONPATH": python_path(side.kernels)}
    done = subprocess.run(
        [side.python, "-c", code, argument],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | library_environment(threads) | paths,
    )
    if done.returncode or not done.stdout.strip():
        said = done.stderr.strip() or "it prints nothing"
        raise Unprepared(f"{side.label} cannot be imported: {said.splitlines()[-1]}")
    return done.stdout.splitlines()[-1]
