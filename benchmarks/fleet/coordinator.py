"""The coordinator: who measures what, and what becomes of it.

It gives one slice at a time to each box, and writes every line that a host has measured to a record as it
arrives, so that whoever dies takes with him only what he had not said yet. Each class of machine measures all
that it can, into a record of its own; the hosts of a class share the work.
"""

from __future__ import annotations

import contextlib
import queue
import secrets
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any

from .. import terminal
from . import on_host
from .hosts import Host, misfit, objection, ours
from .share import Share, Slice

PATIENCE = 10.0  # seconds that a lost host has to come back where only it can run what still waits


@dataclass
class Task:
    """What a host is doing: saying what it is, where there is no slice, or measuring one."""

    host: Host
    future: Any
    piece: Slice | None
    began: float = field(default_factory=monotonic)


class Fleet:
    """A sweep in progress over the workers of ``client``.

    ``asked`` is what a record's header says on any machine; a new record goes to ``folder``. ``resumed`` holds
    the shares of earlier records to finish instead. ``arguments`` are for the ``compare`` of every slice;
    ``seconds`` of (machine, kernel, problem) is what a round takes, as far as is known.
    """

    def __init__(
        self,
        client: Any,
        asked: dict[str, Any],
        folder: Path,
        resumed: list[Share],
        arguments: list[str],
        seconds: Callable[[str, str, str], float],
    ):
        self._client, self._asked, self._folder, self._arguments = client, asked, folder, arguments
        self._seconds, self.progress = seconds, terminal.Progress(1, quiet=True)
        self._only_resumed = bool(resumed)
        self._topic = f"convzoo-fleet-{secrets.token_hex(8)}"  # other coordinators share the scheduler
        self.shares: dict[str, Share] = {share.machine: share for share in resumed}
        self.hosts: dict[str, Host] = {}  # by address; those that are lost stay
        self.pieces: dict[int, tuple[Share, Slice, Host]] = {}
        self.interrupted = False
        self.waited = 0.0  # seconds in which a box did not measure and could have, of all of them
        self._tasks: dict[str, Task] = {}  # by address
        self._idle_since: dict[str, float] = {}  # by box
        self._first: dict[str, dict[str, Any]] = {}  # what the first host of each class said
        self._inbox: queue.Queue[tuple[str, Any]] = queue.Queue()  # filled by Dask's threads
        self._lost_at = self._looked_at = 0.0

    def run(self) -> None:
        """Until nothing waits that any host could do. Ctrl-C ends it early; what has arrived stays."""
        self._client.subscribe_topic(self._topic, lambda event: self._inbox.put(("lines", event[1])))
        self._look_around()
        if not self.hosts:
            print("no worker is there yet: waiting for the first", file=sys.stderr)
        try:
            while not self._over():
                self._give()
                self._hear()
                self._look_around()
        except KeyboardInterrupt:
            self.interrupted = True
        finally:
            for task in list(self._tasks.values()):
                self._drop(task, "the sweep was ended")

    def announce(self) -> None:
        """Only ask the hosts that are there what they are."""
        self._look_around()
        while self._tasks or any(not h.about and not h.refused for h in self._present()):
            self._give(measure=False)
            self._hear()
            self._look_around()

    def _present(self) -> list[Host]:
        return [h for h in self.hosts.values() if not h.lost]

    def _over(self) -> bool:
        if self._tasks or not self.hosts:
            return False
        ready = [h for h in self._present() if not h.refused]
        if any(not h.about or self.shares[h.machine].suits(h.why_not) for h in ready):
            return False
        waits = any(share.waits() for share in self.shares.values())
        anyone_lost = any(h.lost for h in self.hosts.values())
        return not (waits and anyone_lost and monotonic() - self._lost_at < PATIENCE)

    # ---- what goes out

    def _give(self, measure: bool = True) -> None:
        """A task for every idle host: to say what it is, else a slice, where nothing else goes on in its box."""
        for host in sorted(self._present(), key=lambda h: h.slices):
            here = [task for task in self._tasks.values() if task.host.box == host.box]
            if host.refused or host.address in self._tasks or any(task.piece for task in here):
                continue
            if not host.about:
                self._submit(host, None, on_host.announce)
            elif measure and not here:
                self._give_slice(host)

    def _give_slice(self, host: Host) -> None:
        share, boxes = self.shares[host.machine], {h.box for h in self._present() if not h.refused}
        piece = share.take(len(self.pieces), host.why_not, lambda k, q: self._seconds(host.machine, k, q), len(boxes))
        if piece:
            self.waited += monotonic() - self._idle_since.pop(host.box, monotonic())
            self.pieces[piece.number] = share, piece, host
            order = piece.order(self._arguments)
            self._submit(host, piece, on_host.measure, self._topic, order)

    def _submit(self, host: Host, piece: Slice | None, function: Callable, *arguments: Any) -> None:
        slot = {"slot": 1} if "slot" in host.declared else None
        future = self._client.submit(
            function,
            *arguments,
            workers=[host.address],
            allow_other_workers=False,
            pure=False,
            retries=0,
            resources=slot,
        )
        self._tasks[host.address] = task = Task(host, future, piece)
        future.add_done_callback(lambda _: self._inbox.put(("done", task)))

    # ---- what comes in

    def _hear(self) -> None:
        """One thing that has arrived; waits a little where nothing has."""
        try:
            kind, said = self._inbox.get(timeout=0.5)
        except queue.Empty:
            return
        if kind == "lines" and said["slice"] in self.pieces:
            self._receive(said["slice"], said["first"], said["lines"], said["run"])
        elif kind == "done" and self._tasks.get(said.host.address) is said:
            self._done(said)

    def _receive(self, number: int, first: int, lines: list[str], run: str) -> None:
        share, piece, _ = self.pieces[number]
        piece.run = piece.run or run
        if piece.run != run:  # Dask began it once more, on a worker that came back before it was missed
            return
        rounds = share.receive(piece, first, lines)
        self.progress.expect(rounds + sum(s.rounds_left() for s in self.shares.values()))
        for _ in range(rounds):
            self.progress.step(f"{share.machine}: {piece}")

    def _done(self, task: Task) -> None:
        host, piece = task.host, task.piece
        try:
            result = task.future.result()
        except Exception as error:  # of Dask, or of what it could not import there
            why = f"{type(error).__name__}: {error}"
            if isinstance(error, ModuleNotFoundError):
                why += "; its worker must be begun in a checkout: python -m dask worker ..."
            host.refused = "" if piece else why
            self._drop(task, why)
            return
        del self._tasks[host.address]
        if piece is None:
            self._welcome(host, result)
            return
        self._idle_since[host.box] = monotonic()
        self.waited += max(0.0, monotonic() - task.began - result["seconds"])
        host.slices, host.seconds = host.slices + 1, host.seconds + result["seconds"]
        self._receive(piece.number, 0, result["lines"], result["run"])
        if piece.run != result["run"]:
            self._incomplete(piece, "its host was lost")
        elif not piece.complete:
            self._incomplete(piece, result["why"] or "compare ended early")
            host.refused = f"could not measure {piece}"  # and would fail with the next, too

    def _welcome(self, host: Host, about: dict[str, Any]) -> None:
        host.about = about
        host.refused = objection(about, ours())
        if host.refused:
            return
        host.refused = misfit(about, self._first.setdefault(host.machine, about))
        if host.machine not in self.shares and self._only_resumed:
            host.refused = "is of a class that this record is not about"
        elif host.machine not in self.shares:
            self.shares[host.machine] = Share({"machine": host.machine, **self._asked}, self._folder)

    # ---- who is lost

    def _incomplete(self, piece: Slice, why: str) -> None:
        self.pieces[piece.number][0].incomplete.append(f"{piece}: {why}")

    def _drop(self, task: Task, why: str) -> None:
        del self._tasks[task.host.address]
        task.future.cancel()
        if task.piece:
            self._incomplete(task.piece, why)

    def _look_around(self) -> None:
        """Who has come and who is lost; once a second, for it asks the scheduler."""
        if monotonic() - self._looked_at < 1 and self.hosts:
            return
        self._looked_at = monotonic()
        workers: dict[str, Any] = {}  # without a scheduler all are lost
        if self._client.status == "running":
            with contextlib.suppress(OSError, TimeoutError):
                workers = self._client.scheduler_info(n_workers=-1)["workers"]
        for address, known in workers.items():
            declared = {k: v for k, v in known["resources"].items() if v}
            host = self.hosts.setdefault(address, Host(address, known["host"], declared))
            if host.lost:  # it is back, perhaps with another checkout
                host.lost, host.about = False, {}
        for host in self._present():
            if host.address not in workers:
                host.lost, self._lost_at = True, monotonic()
                if task := self._tasks.get(host.address):
                    self._drop(task, "its host was lost")

    def why_not(self, machine: str, kernel: str) -> str | None:
        """Why none of the hosts of a class can run a kernel; None where one can, or where none was heard."""
        heard = [h for h in self.hosts.values() if h.about and not h.refused and h.machine == machine]
        reasons = [h.why_not(kernel) for h in heard]
        return reasons[0] if reasons and all(reasons) else None
