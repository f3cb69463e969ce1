"""Two versions of the kernels, or of a library, side by side: slower, faster, or newly wrong?

Every round starts fresh processes for both sides and gives both the same data. The measurements of a cell
follow each other as A B, or A B B A where a verdict hangs on it, and a coin decides which side is A. All
cells are screened in a few rounds; what looks different is measured again in new rounds, and only those
decide (``significance``). The harness is always this tree's: the same clock asks both sides.

Another program can only add time. So a visit's value is the lower quartile of its samples, and a round's
the least of its visits.
"""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from . import evidence, significance
from .checkout import Side
from .problems import Layer
from .processes import Worker
from .stopwatch import Effort

BASE, HEAD = "base", "head"
EFFORT = Effort(sample=0.004, warm_up=0.02, budget=0.08, fewest=5, most=15)
VISITS = {"screened": 1, "confirmed": 2}  # measurements of each side in one round
FAILURES = 3  # visits that must crash, hang or be mistrusted before a side counts as failing
REFUSED = ("unsupported", "unavailable", "absent")  # nothing to measure, and nothing wrong


@dataclass
class Pair:
    """One cell on both sides: log ratios by phase, seconds, and what happened by round."""

    kernel: str
    layer: Layer
    scenario: str
    screened: list[float] = field(default_factory=list)
    confirmed: list[float] = field(default_factory=list)
    seconds: dict[str, list[float]] = field(default_factory=lambda: {BASE: [], HEAD: []})
    events: dict[str, list[tuple[str, str]]] = field(default_factory=lambda: {BASE: [], HEAD: []})
    evidence: dict[str, dict[str, Any]] = field(default_factory=lambda: {BASE: {}, HEAD: {}})
    missed: int = 0  # confirming rounds without a ratio, because a visit failed
    p: float | None = None
    adjusted_p: float | None = None

    @property
    def key(self) -> dict[str, str]:
        return {"kernel": self.kernel, "problem": str(self.layer.problem), "scenario": self.scenario}

    @property
    def backend(self) -> str:
        return self.kernel.partition("/")[0]

    @property
    def logs(self) -> list[float]:
        """What the estimate is made from: the confirming rounds alone where they gave the verdict."""
        return self.confirmed if self.p is not None else self.screened + self.confirmed

    @property
    def failed(self) -> bool:
        """Whether any visit ended in anything but a time or a refusal."""
        return any(self.failures(side) for side in self.events)

    def failures(self, side: str) -> list[tuple[str, str]]:
        return [event for event in self.events[side] if event[0] not in ("ok", *REFUSED)]

    def asks(self, side: str) -> bool:
        return self.outcome(side)[0] not in REFUSED

    def outcome(self, side: str) -> tuple[str, str]:
        """Status and reason of a side. Wrong once is wrong. Other failures may be the machine's: they
        count when there are several, each in a process of its own, and more of them than of times."""
        events, failures = self.events[side], self.failures(side)
        for status, why in events:
            if status == "wrong" or status in REFUSED:
                return status, why
        if events and len(failures) >= min(FAILURES, len(events)) and 2 * len(failures) > len(events):
            return failures[-1]
        return "ok", ""


def standing(pair: Pair) -> str:
    """What became of a cell apart from its time: "compared", or how the two sides differ in status."""
    (base, _), (head, _) = pair.outcome(BASE), pair.outcome(HEAD)
    if head not in ("ok", *REFUSED):
        if base not in ("ok", *REFUSED):
            return "broken on both"
        return "newly wrong" if head == "wrong" else "newly failing"
    if base not in ("ok", *REFUSED):
        return "mended" if head == "ok" else "refused"
    if base == head == "ok":
        return "compared" if pair.logs else "never measured"
    if "absent" in (base, head):
        return "removed" if head == "absent" else "new" if head == "ok" else "refused"
    if "ok" in (base, head):
        return "newly refused" if base == "ok" else "newly supported"
    return "refused"


def moved(base: dict[str, Any], head: dict[str, Any]) -> list[str]:
    """What differs between two fingerprints, where there are two."""
    a, b = evidence.flat(base), evidence.flat(head)
    return evidence.moved(a, b) if evidence.comparable(a, b) else []


@dataclass
class Regression:
    """A run in progress. ``pairs`` are all cells; ``seed`` decides data, order and coins."""

    pairs: list[Pair]
    sides: dict[str, Side]
    threads: int
    seed: int
    screening: int = significance.SCREENING
    confirming: int | None = None
    minimum: float = significance.MINIMUM
    effort: Effort = EFFORT
    timeout: float = 120.0
    progress: Any = None
    family: int = 0
    suspects: int = 0
    about: dict[str, dict[str, dict[str, str]]] = field(default_factory=lambda: {BASE: {}, HEAD: {}})
    interrupted: bool = False
    _round_number: int = 0

    def run(self) -> None:
        """Screen, confirm, and give verdicts. Ctrl-C keeps what is finished."""
        try:
            self._screen()
            self._confirm()
        except KeyboardInterrupt:
            self.interrupted = True

    def _screen(self) -> None:
        for i in range(self.screening):
            # the first round also asks what only one side has; what failed is asked to the end, because
            # fresh processes tell a failure from an accident, and one on both sides is nothing new
            live = [
                p
                for p in self.pairs
                if (p.asks(BASE) and p.asks(HEAD)) or ((i == 0 or p.failed) and (p.asks(BASE) or p.asks(HEAD)))
            ]
            self._expect(len(live) * (self.screening - i))
            self.round(live, "screened")

    def _confirm(self) -> None:
        compared = [p for p in self.pairs if standing(p) == "compared"]
        self.family = len(compared)
        live = [p for p in compared if significance.suspicious(p.seconds[BASE], p.seconds[HEAD])]
        self.suspects = len(live)
        for look in range(1, significance.LOOKS + 1):
            live = self._rounds_until(look * self.rounds_to_confirm, live)
            self.judge(live)
            live = [p for p in live if p.adjusted_p is None or p.adjusted_p > significance.ALPHA]

    def _rounds_until(self, rounds: int, live: list[Pair]) -> list[Pair]:
        """Confirm these cells up to so many rounds in all; those for which the last look has hope left."""
        level = significance.mildest_level(self.suspects, self.family)
        last = significance.LOOKS * self.rounds_to_confirm
        for i in range(rounds - self.rounds_to_confirm, rounds):
            live = [p for p in live if standing(p) == "compared"]
            live = [p for p in live if not significance.hopeless(p.confirmed, last - p.missed, level)]
            if not live:
                break
            self._expect(len(live) * (rounds - i))
            self.round(live, "confirmed")
        return [p for p in live if standing(p) == "compared" and p.confirmed]

    @property
    def rounds_to_confirm(self) -> int:
        """Confirming rounds before the first look; as many again lie before the second."""
        return self.confirming or significance.rounds_for(self.family)

    def judge(self, tested: Sequence[Pair]) -> None:
        """p and adjusted p of cells that went through all confirming rounds of a look."""
        values = [significance.p_value(p.confirmed) for p in tested]
        adjusted = significance.holm(values, max(self.family, len(values)))
        for pair, p, q in zip(tested, values, adjusted, strict=True):
            pair.p, pair.adjusted_p = p, q

    def verdict(self, pair: Pair) -> str:
        """ "slower", "faster" or "cannot tell" for a cell that was compared; else its standing."""
        state = standing(pair)
        if state != "compared":
            return state
        if pair.adjusted_p is None:
            return "cannot tell"
        ratio = significance.estimate(pair.logs).ratio
        return significance.verdict(ratio, pair.adjusted_p, self.minimum)

    def _expect(self, more: int) -> None:
        if self.progress:
            self.progress.expect(more)

    def round(self, live: Sequence[Pair], phase: str) -> None:
        """One round of these cells: fresh processes, fresh data, a fresh order, fresh coins."""
        number = self._round_number
        self._round_number += 1
        rng = random.Random(f"{self.seed}/{number}")
        order = list(live)
        rng.shuffle(order)
        slots = [(side, backend) for backend in sorted({p.backend for p in order}) for side in self.sides]
        rng.shuffle(slots)  # which side's process starts first is a coin, too
        crew = _Crew(self, slots)
        try:
            for pair in order:
                if self.progress:
                    self.progress.step(f"{pair.kernel} {pair.layer.name}")
                first, second = (BASE, HEAD) if rng.random() < 0.5 else (HEAD, BASE)
                turns = [first, second]
                if VISITS[phase] > 1:
                    turns += [second, first]
                self._visit(pair, number, turns, crew.ask, phase)
        finally:
            crew.close()

    def _visit(self, pair: Pair, number: int, turns: list[str], ask: Callable[..., dict[str, Any]], phase: str) -> None:
        request = pair.key | {
            "seed": self.seed + 1000 * number,
            "effort": asdict(self.effort),
            "fingerprint": number == 0,
        }
        took: dict[str, list[float]] = {BASE: [], HEAD: []}
        for side in turns:
            if not pair.asks(side):
                continue
            reply = ask(side, pair.backend, request)
            pair.events[side].append((reply["status"], reply.get("why", "")))
            if reply.get("fingerprint"):
                pair.evidence[side] = reply["fingerprint"]
            if reply["status"] == "ok":
                took[side].append(reply["q25"])
        if all(len(took[side]) == turns.count(side) for side in took):
            best = {side: min(values) for side, values in took.items()}
            for side, seconds in best.items():
                pair.seconds[side].append(seconds)
            getattr(pair, phase).append(math.log(best[HEAD] / best[BASE]))
        elif phase == "confirmed":
            pair.missed += 1

    def summary(self) -> dict[str, Any]:
        """What the run could see at all, for the reader of a "cannot tell"."""
        compared = [p for p in self.pairs if standing(p) == "compared"]
        spread = significance.noise([p.screened for p in compared] + [p.confirmed for p in compared])
        confirming = significance.LOOKS * self.rounds_to_confirm
        arguments = (self.screening, confirming, self.family, self.minimum)
        return {
            "cells": len(self.pairs),
            "compared": len(compared),
            "suspects": self.suspects,
            "screening_rounds": self.screening,
            "confirming_rounds": confirming,
            "alpha": significance.ALPHA,
            "minimum": self.minimum,
            "round_noise": spread,
            "visible": significance.visible(spread, *arguments),
        }

    def line(self, pair: Pair) -> dict[str, Any]:
        """One cell of the document."""
        found: dict[str, Any] = pair.key | {"layer": pair.layer.name, "verdict": self.verdict(pair)}
        for side in (BASE, HEAD):
            status, why = pair.outcome(side)
            failures = pair.failures(side)
            found[side] = {
                "status": status,
                "why": why or (failures[-1][1] if failures else ""),
                "visits": len(pair.events[side]),
                "failures": len(failures),
            }
            if pair.seconds[side]:
                found[side]["seconds"] = statistics.median(pair.seconds[side])
        if found["verdict"] in ("slower", "faster", "cannot tell"):
            e = significance.estimate(pair.logs)
            found |= {
                "ratio": e.ratio,
                "low": e.low,
                "high": e.high,
                "confidence": e.confidence,
                "p": pair.p,
                "adjusted_p": pair.adjusted_p,
                "screened": [math.exp(v) for v in pair.screened],
                "confirmed": [math.exp(v) for v in pair.confirmed],
            }
        found["moved"] = moved(pair.evidence[BASE], pair.evidence[HEAD])
        return found


class _Crew:
    """The workers of one round, a process for each side and backend; a lost one is replaced."""

    def __init__(self, run: Regression, slots: Sequence[tuple[str, str]]):
        self._run = run
        self._workers: dict[tuple[str, str], Worker] = {}
        self._dead: dict[tuple[str, str], dict[str, Any]] = {}
        try:
            for side, backend in slots:
                self._workers[side, backend] = self._hire(side, backend)
            for side, backend in slots:
                self._greet(side, backend)
        except BaseException:
            self.close()
            raise

    def _hire(self, side: str, backend: str) -> Worker:
        s = self._run.sides[side]
        return Worker(backend, self._run.threads, s.python, s.kernels)

    def _greet(self, side: str, backend: str) -> None:
        hello = self._workers[side, backend].greet(self._run.timeout)
        if "status" in hello:
            why = f"while importing: {hello['why']}"
            self._dead[side, backend] = {"status": hello["status"], "why": why}
        else:
            self._run.about[side][backend] = hello.get("about", {})

    def ask(self, side: str, backend: str, request: dict[str, Any]) -> dict[str, Any]:
        if (side, backend) in self._dead:
            return self._dead[side, backend]
        reply = self._workers[side, backend].ask(request, self._run.timeout)
        if reply.pop("lost", False):
            self._workers[side, backend].close()
            self._workers[side, backend] = self._hire(side, backend)
            self._greet(side, backend)
        return reply

    def close(self) -> None:
        for worker in self._workers.values():
            worker.close()


def pairs_of(
    kernels: dict[str, dict[str, str | None]], layers: Sequence[Layer], scenarios: Sequence[str]
) -> list[Pair]:
    """Every cell of either side. ``kernels`` says per side which there are, and why one cannot run."""
    found = []
    for kernel in dict.fromkeys(name for side in kernels.values() for name in side):
        for layer in layers:
            for scenario in scenarios:
                pair = Pair(kernel, layer, scenario)
                for side, there in kernels.items():
                    if kernel not in there:
                        pair.events[side].append(("absent", "no such kernel"))
                    elif reason := there[kernel]:
                        pair.events[side].append(("unavailable", reason))
                found.append(pair)
    return found
