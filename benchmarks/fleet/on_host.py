"""What a host of a fleet does, inside of a Dask worker there: say what it is, and measure a slice.

Both happen in a process of their own, never in the worker's: its heartbeat must not share a process with a
timing. A slice is one run of ``compare`` that writes a record on the host's disk; each line of it goes to the
coordinator as soon as it is there, as an event, and all of them once more with the result.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import platform
import secrets
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import monotonic
from typing import Any

from ..processes import python_path
from ..record import ROOT

LOOK = 0.1  # seconds between two looks at the record


def announce() -> dict[str, Any]:
    """What ``doctor`` says here, and which checkout says it."""
    done = subprocess.run(_command("doctor", "--json"), cwd=ROOT, env=_environment(), capture_output=True, text=True)
    if done.returncode:
        return {"why": f"doctor fails there: {done.stderr.strip()[-300:]}"}
    return json.loads(done.stdout) | {"root": str(ROOT), "node": platform.node()}


def measure(topic: str, order: dict[str, Any]) -> dict[str, Any]:
    """Run a slice (``Slice.order``) and say each line of its record as an event of ``topic``.

    Returns how it ended, its seconds and every line. Ends early where the coordinator is gone.
    """
    from distributed import get_worker

    worker = get_worker()
    task, run = worker.get_current_task(), secrets.token_hex(8)

    def say(first: int, lines: list[str]) -> None:
        said = {"slice": order["slice"], "run": run, "first": first, "lines": lines}
        worker.log_event(topic, said)

    def unwanted() -> bool:
        known = worker.state.tasks.get(task)
        return known is None or known.state == "cancelled" or worker.status.name.startswith("clos")

    return run_slice(order, say, unwanted) | {"run": run}


def run_slice(
    order: dict[str, Any], say: Callable[[int, list[str]], None], unwanted: Callable[[], bool]
) -> dict[str, Any]:
    began = monotonic()
    with tempfile.TemporaryDirectory(prefix="convzoo-fleet-", ignore_cleanup_errors=True) as folder:
        record = Path(folder) / "records" / "slice" / "slice.jsonl"
        arguments = ["compare", *order["arguments"]]
        if order["lines"]:
            record.parent.mkdir(parents=True)
            record.write_text("".join(f"{line}\n" for line in order["lines"]), encoding="utf-8")
            arguments += ["--resume", str(record)]
        else:
            (Path(folder) / "slice.json").write_text(json.dumps(order["problems"]), encoding="utf-8")
            arguments += ["--problems", f"{folder}/slice.json", "--records", f"{folder}/records"]
        told = Path(folder) / "stderr"
        with told.open("w") as errors:
            process = subprocess.Popen(
                _command(*arguments),
                cwd=ROOT,
                env=_environment(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                start_new_session=True,
                preexec_fn=_die_with_me,
            )
        try:
            lines = _follow(process, Path(folder) / "records", len(order["lines"]), say, unwanted)
        finally:
            _end(process)
        errors = told.read_text(errors="replace").strip()[-500:]
    return {"code": process.returncode, "why": errors, "lines": lines, "seconds": monotonic() - began}


def _follow(
    process: subprocess.Popen,
    folder: Path,
    sent: int,
    say: Callable[[int, list[str]], None],
    unwanted: Callable[[], bool],
) -> list[str]:
    """Send whole lines of the record as they come, until the process ends or nobody wants it any more."""
    lines: list[str] = []
    while True:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(LOOK)
        ended = process.returncode is not None
        for path in folder.glob("*/*.jsonl"):
            lines = path.read_text(encoding="utf-8").rpartition("\n")[0].splitlines()
        if len(lines) > sent:
            say(sent, lines[sent:])
            sent = len(lines)
        if ended or unwanted():
            return lines


def _end(process: subprocess.Popen) -> None:
    """Its workers die with it, as they always do."""
    with contextlib.suppress(OSError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _die_with_me() -> None:
    """In the child: on Linux it dies with the thread that began it, so that no orphan disturbs what comes next."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def _command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "benchmarks", *arguments]


def _environment() -> dict[str, str]:
    """Without the threads that Dask sets to one for its own workers: compare decides that."""
    dask = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MALLOC_TRIM_THRESHOLD_")
    kept = {k: v for k, v in os.environ.items() if k not in dask}
    return kept | {"PYTHONPATH": python_path()}
