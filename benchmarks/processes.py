"""The coordinator's side of a worker: a process that is asked, waited for, stopped meanwhile, and ended."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import secrets
import signal
import subprocess
import sys
import threading
from pathlib import Path
from time import monotonic
from typing import Any

from . import hardware
from .hardware import library_environment
from .record import ROOT

# in the environment of a worker and of all that it starts: the process that asks it, and a number
TOKEN = "CONVZOO_WORKER"
LOOK = 0.25  # seconds between two looks at a worker that has not answered yet


class Worker:
    """A process that serves one backend; stopped whenever it is not asked.

    It may use ``CONVZOO_MEMORY_LIMIT`` bytes, by default most of what there is.
    """

    def __init__(self, backend: str, threads: int, python: str = sys.executable, kernels: Path | None = None):
        self._token = f"{os.getpid()}-{secrets.token_hex(8)}"
        added = {"PYTHONPATH": python_path(kernels), TOKEN: self._token}
        environment = os.environ | library_environment(threads) | added
        environment.setdefault("CONVZOO_MEMORY_LIMIT", str(hardware.cell_memory()))
        self._memory = int(environment["CONVZOO_MEMORY_LIMIT"])
        command = [python, "-m", "benchmarks.worker", backend]
        self._process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C belongs to the coordinator, which keeps what is finished
        )
        self._replies: queue.Queue[str] = queue.Queue()
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()
        self._asked = 0
        self.about: dict[str, str] = {}

    def _listen(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                self._replies.put(line)
        self._replies.put("")

    def greet(self, timeout: float) -> dict[str, Any]:
        """Wait until the library is imported; its versions, or why the worker is lost."""
        hello = self._reply(timeout)
        self.about = hello.get("about", {})
        self._signal("suspend")
        return hello

    def ask(self, request: dict[str, Any], timeout: float) -> dict[str, Any]:
        """The reply, or status crashed or timeout, after which this worker is of no more use."""
        assert self._process.stdin is not None
        self._asked += 1
        self._signal("resume")
        try:
            self._process.stdin.write(json.dumps(request | {"request": self._asked}) + "\n")
            self._process.stdin.flush()
        except OSError:
            return self._lost("crashed", self._obituary())
        reply = self._reply(timeout)
        self._signal("suspend")
        return reply

    def _reply(self, timeout: float) -> dict[str, Any]:
        """The answer to the last request; a line "if it dies" says what a death in between means."""
        ends, will = monotonic() + timeout, {}
        while True:
            line = self._next_line(ends)
            if line is None:
                return self._lost("timeout", f"no answer within {timeout:.0f} s")
            if not line and (used := self._memory_used()) > self._memory:
                allowed, took = self._memory / 2**30, used / 2**30
                why = f"uses {took:.1f} GiB, more than the {allowed:.1f} GiB that a worker may use"
                return self._lost("crashed", why)
            if not line:
                return self._lost("crashed", self._obituary()) | will
            try:
                reply = json.loads(line)
                number = reply.pop("request")
            except (ValueError, KeyError, AttributeError, TypeError):
                return self._lost("crashed", f"the process said something unreadable: {line[:60]!r}")
            if number != self._asked:
                continue  # of an earlier request, by a process that the kernel has left behind
            if "if it dies" not in reply:
                return reply
            will = reply["if it dies"]

    def _next_line(self, ends: float) -> str | None:
        """The next line, "" where no more will come or may be waited for, None where time is up."""
        while True:
            with contextlib.suppress(queue.Empty):
                return self._replies.get(timeout=max(0.0, min(LOOK, ends - monotonic())))
            if self._process.poll() is not None and self._replies.empty():
                return ""  # a child that it left behind holds the pipe open: no end will come
            if self._memory_used() > self._memory:
                return ""
            if monotonic() >= ends:
                return None

    def _memory_used(self) -> int:
        """Bytes in memory, shared ones included, which the limit that the worker sets itself leaves out."""
        try:
            pages = int(Path(f"/proc/{self._process.pid}/statm").read_text().split()[1])
        except (OSError, IndexError):  # not Linux, or ended
            return 0
        return pages * os.sysconf("SC_PAGE_SIZE")

    def _obituary(self) -> str:
        code = self._process.wait(10)
        return f"the process died of signal {-code}" if code < 0 else f"the process ended with {code}"

    def _lost(self, status: str, why: str) -> dict[str, Any]:
        self.close()
        return {"status": status, "why": why, "lost": True}

    def _signal(self, what: str) -> None:
        import psutil

        with contextlib.suppress(psutil.NoSuchProcess):
            getattr(psutil.Process(self._process.pid), what)()

    def close(self) -> None:
        """End the process and whatever it has started, which would hold the pipe open, or the machine busy."""
        with contextlib.suppress(OSError, AttributeError):  # it is a session, and so a group, of its own
            os.killpg(self._process.pid, signal.SIGKILL)
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        _end_strays(self._token)
        self._listener.join(5)  # closes the pipe that it reads; only it can
        with contextlib.suppress(OSError):
            if self._process.stdin is not None:
                self._process.stdin.close()


class Crew:
    """Workers by backend, begun when first needed; a lost one is replaced."""

    def __init__(self, threads: int, timeout: float):
        self._threads, self._timeout = threads, timeout
        self._workers: dict[str, Worker] = {}

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        backend = request["kernel"].partition("/")[0]
        if backend not in self._workers:
            self._workers[backend] = worker = Worker(backend, self._threads)
            hello = worker.greet(self._timeout)
            if "status" in hello:
                del self._workers[backend]
                hello.pop("lost", None)
                return hello | {"why": f"while importing: {hello['why']}"}
        reply = self._workers[backend].ask(request, self._timeout)
        if reply.pop("lost", False):
            self._workers.pop(backend).close()
        return reply

    def close(self) -> None:
        for worker in self._workers.values():
            worker.close()


def _end_strays(token: str) -> None:
    """Kill what a worker has started and what has left its group since: it still carries the token."""
    import psutil

    killed = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.environ().get(TOKEN) == token:
                process.kill()
                killed.append(process)
    psutil.wait_procs(killed, timeout=5)  # on a busy machine the dead still run for a while


def python_path(kernels: Path | None = None) -> str:
    """The tree this coordinator runs from, so that workers import the same code, installed or not.

    ``kernels`` is the source root of another tree whose convzoo is to be measured by this harness.
    """
    found = [str(kernels or ROOT / "kernels"), str(ROOT), os.environ.get("PYTHONPATH", "")]
    return os.pathsep.join(filter(None, found))
