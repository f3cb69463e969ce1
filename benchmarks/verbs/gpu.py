"""``python -m benchmarks gpu``: everything a CUDA machine without a network should be asked, in one go.

Steps run in order, each in a process of its own and within what is left of the time budget: the machine
file, the tests with GPU skips turned into failures, compute-sanitizer where it is installed, and timed
comparisons. What is finished is noted in ``steps.jsonl`` of the output folder; a second call goes on from
there. Nothing is installed, and no setting of the device is changed.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

from convzoo.backends import BACKENDS as EVERY

from .. import options as kinds
from ..record import ROOT
from . import FAILED, FINE, WRONG

BACKENDS = ("numba_cuda", "cupy", "torch_cuda")
GLOBS = [f"{name}/*" for name in BACKENDS]
# the layer that the goals are stated for, the seed, and ResNet-50 at a batch that fills a GPU
LAYERS = ["n32c256h56w56k256r3s3-p1", "seed"]


@dataclass(frozen=True)
class Step:
    """A command, the most seconds it may take, and why it is left out here (None: it is not)."""

    name: str
    command: list[str]
    limit: float
    why_not: str | None = None


def steps(out: Path, sanitizer: str | None) -> list[Step]:
    """What to run, in order. ``sanitizer`` is the path of compute-sanitizer, or None."""
    python = sys.executable
    ask = [python, "-m", "benchmarks"]
    records = ["--records", str(out / "records"), "--quiet"]
    checked = [*ask, "check", "numba_cuda/*", "cupy/*", "--problems", "tiny"]
    missing = None if sanitizer else "compute-sanitizer is not on the PATH"
    sanitize = [sanitizer or "compute-sanitizer", "--error-exitcode", "9", "--tool"]
    return [
        Step("machine", [*ask, "machine", "--out", str(out / "machines")], 60),
        Step(
            "tests",
            [
                python,
                "-m",
                "pytest",
                "-q",
                "-m",
                "not slow",
                "-p",
                "no:cacheprovider",
                "--require",
                ",".join(BACKENDS),
                *(v for g in GLOBS for v in ("--kernels", g)),
                "tests/test_kernels.py",
                "tests/test_relations.py",
                "tests/test_torch_devices.py",
            ],
            240,
        ),
        Step("memcheck", [*sanitize, "memcheck", *checked], 120, missing),
        Step("racecheck", [*sanitize, "racecheck", *checked], 120, missing),
        Step(
            "layers",
            [
                *ask,
                "compare",
                "--kernels",
                *GLOBS,
                "--problems",
                *LAYERS,
                "--scenario",
                "packed",
                "--budget",
                "60",
                *records,
            ],
            180,
        ),
        Step(
            "resnet50",
            [
                *ask,
                "compare",
                "--kernels",
                *GLOBS,
                "--problems",
                "resnet50",
                "--batch",
                "32",
                "--budget",
                "90",
                *records,
            ],
            240,
        ),
        Step(
            "host", [*ask, "compare", "--kernels", "numba/*", "numpy/*", "torch_cpu/*", "--budget", "60", *records], 180
        ),
    ]


def run(
    out: Path,
    budget: float,
    execute: Callable[[Step, float], int] | None = None,
    clock: Callable[[], float] = monotonic,
) -> int:
    """Run what is not done yet, within ``budget`` seconds. The worst exit code of all steps so far.

    ``execute(step, seconds)`` returns an exit code, 124 where the time ran out.
    """
    out.mkdir(parents=True, exist_ok=True)
    execute = execute or (lambda step, seconds: _execute(step, seconds, out))
    done = _finished(out)
    began = clock()
    for step in steps(out, shutil.which("compute-sanitizer")):
        if done.get(step.name) == 0:
            print(f"{step.name}: done earlier", flush=True)
            continue
        left = budget - (clock() - began)
        if step.why_not or left < 5:
            why = step.why_not or f"only {left:.0f} s of the budget are left: call again to go on"
            print(f"{step.name}: left out, {why}", flush=True)
            _note(out, {"step": step.name, "code": None, "why": why})
            continue
        print(f"{step.name}: {' '.join(step.command[1:])}", flush=True)
        start = clock()
        code = execute(step, min(step.limit, left))
        done[step.name] = code
        _note(out, {"step": step.name, "code": code, "seconds": round(clock() - start, 1)})
        print(f"{step.name}: exit code {code}", flush=True)
    return max((code for code in done.values() if code), default=0)


def _execute(step: Step, seconds: float, out: Path) -> int:
    paths = [str(ROOT / "kernels"), str(ROOT), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
    with (out / f"{step.name}.log").open("w") as log:
        try:
            done = subprocess.run(
                step.command,
                cwd=ROOT,
                env=environment,
                timeout=seconds,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        except subprocess.TimeoutExpired:
            return 124
    return done.returncode if done.returncode >= 0 else 128 - done.returncode


def _note(out: Path, line: dict) -> None:
    with (out / "steps.jsonl").open("a", encoding="utf-8") as notes:
        notes.write(json.dumps(line) + "\n")


def _finished(out: Path) -> dict[str, int | None]:
    """The last exit code of each step that earlier calls noted."""
    try:
        lines = (out / "steps.jsonl").read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return {}
    return {note["step"]: note["code"] for note in map(json.loads, lines)}


def options(p: argparse.ArgumentParser) -> None:
    p.add_argument("--out", metavar="DIR", default="gpu-results", help="default: gpu-results")
    p.add_argument("--budget", type=kinds.seconds, metavar="SECONDS", default=540.0)


def call(args: argparse.Namespace) -> int:
    missing = {name: EVERY[name].why_not() for name in BACKENDS}
    if all(missing.values()):
        for name, reason in missing.items():
            print(f"{name} {reason}", file=sys.stderr)
        return FAILED
    code = run(Path(args.out).resolve(), args.budget)
    return code if code in (FINE, WRONG) else FAILED
