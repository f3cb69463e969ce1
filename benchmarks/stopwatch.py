"""The only clock: ``measure`` times a call for asv and for ``compare`` alike.

What is timed: the calls between two readings of the clock, with the device idle before and after. What is
not: making inputs, planning, warming up, waiting for other samples, and bringing results home.

No kernel can know which of its outputs will be judged: chance chooses some samples, and in each of them one
call whose output is kept. The sample's last output is kept as well, which an early return would leave
unfinished; both are copied as soon as the clock has stopped.
"""

from __future__ import annotations

import gc
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any


@dataclass(frozen=True)
class Effort:
    """How long to measure: seconds for one sample, for warming up, in all; and fewest and most samples."""

    sample: float = 0.01
    warm_up: float = 0.05
    budget: float = 0.3
    fewest: int = 3
    most: int = 30


KEPT = 4  # samples of which outputs are judged
CERTAIN = 0.1  # seconds; a call that takes longer does so by itself


@dataclass
class Output:
    """What a timed call on inputs[turn] returned, and a copy of what y held right after its sample."""

    turn: int
    y: Any
    copy: Any = None


@dataclass
class Samples:
    """Seconds per call, one value a sample; ``number`` calls a sample; device seconds where known."""

    seconds: list[float] = field(default_factory=list)
    device_seconds: list[float] = field(default_factory=list)
    number: int = 1
    kept: list[list[Output]] = field(default_factory=list)  # of some samples, for the verdict

    @property
    def outputs(self) -> list[Output]:
        return [output for sample in self.kept for output in sample]


def measure(
    call: Callable[[Any], Any],
    inputs: Sequence[Any],
    synchronize: Callable[[], None],
    effort: Effort,
    device_clock: Any = None,
    steady: Callable[[], bool] = lambda: True,
    copy: Callable[[Any], Any] = lambda y: None,
) -> Samples:
    """Time ``call(x)`` over rotating ``inputs``, enough calls a sample to drown the clock.

    ``synchronize`` returns when the device is idle; it is called once before and once after each
    sample. ``device_clock`` has start() and stop(), which returns seconds by the device's own events.
    ``steady`` is asked after each sample; where it says no (a throttled GPU) the sample is taken again,
    up to as often as samples were asked for, and RuntimeError is raised where none was steady.
    ``copy`` makes the copies of the outputs that are kept.
    """
    samples = Samples()
    samples.number = number = _calibrate(call, inputs, synchronize, effort)
    batches = [_rotation(inputs, number, first) for first in range(len(inputs))]
    rng = random.Random()  # of the system's entropy
    collecting = gc.isenabled()
    gc.disable()
    rejected, taken = 0, 0.0
    try:
        started = perf_counter()
        while len(samples.seconds) < effort.most:
            if len(samples.seconds) >= effort.fewest and perf_counter() - started > effort.budget:
                break
            turn = len(samples.seconds) % len(inputs)
            batch, chosen = batches[turn], rng.randrange(number)
            seconds, device_seconds, ys = _sample(call, batch, synchronize, device_clock, chosen)
            if not steady():
                rejected += 1
                if rejected <= effort.most:
                    continue
                if not samples.seconds:
                    raise RuntimeError(f"the device was throttled during all of {rejected} samples")
                break
            taken += seconds
            samples.seconds.append(seconds / number)
            if device_seconds is not None:
                samples.device_seconds.append(device_seconds / number)
            place = len(samples.kept)
            if place == KEPT:  # a reservoir: in the end every sample has had the same chance
                place = rng.randrange(len(samples.seconds))
            if place < KEPT:
                turns = [(turn + i) % len(inputs) for i in (chosen, number - 1)]
                kept = [Output(t, y, copy(y)) for t, y in zip(turns, ys, strict=False)]
                samples.kept[place : place + 1] = [kept]
            del ys
            if seconds > effort.budget and len(samples.seconds) >= min(2, effort.fewest):
                break  # a kernel this slow says little more with a third sample
    finally:
        if collecting:
            gc.enable()
    if not math.isclose(sum(samples.seconds) * samples.number, taken):
        raise RuntimeError("the samples are no longer what the clock has said")
    return samples


def seconds_of_one(call: Callable[[Any], Any], x: Any, synchronize: Callable[[], None]) -> float:
    """Seconds of one call, taken as a sample is."""
    return _sample(call, [x], synchronize, None)[0]


def _rotation(inputs: Sequence[Any], number: int, first: int) -> list[Any]:
    return [inputs[(first + i) % len(inputs)] for i in range(number)]


def _sample(call: Any, batch: list[Any], synchronize: Any, device_clock: Any, chosen: int = 0) -> tuple:
    """Seconds, the device's own, and what the chosen and the last call returned (one where they are one)."""
    y = device_seconds = None
    head, tail = batch[: chosen + 1], batch[chosen + 1 :]
    synchronize()
    if device_clock is not None:
        device_clock.start()
    begin = perf_counter()
    for x in head:
        y = call(x)
    kept = y
    for x in tail:
        y = call(x)
    if device_clock is not None:
        device_seconds = device_clock.stop()
    synchronize()
    return perf_counter() - begin, device_seconds, (kept, y) if tail else (y,)


def _calibrate(call: Any, inputs: Sequence[Any], synchronize: Any, effort: Effort) -> int:
    """Warm up for the time asked, then the number of calls that fills one sample.

    From the quickest call so far: the first may load something, or another program may run meanwhile.
    """
    number, spent, tried, quickest = 1, 0.0, 0, float("inf")
    while True:
        seconds = _sample(call, _rotation(inputs, number, 0), synchronize, None)[0]
        spent, tried, quickest = spent + seconds, tried + 1, min(quickest, seconds / number)
        fills = number * quickest >= effort.sample / 2
        if fills and spent >= effort.warm_up and (tried > 1 or seconds > CERTAIN):
            return max(1, round(effort.sample / quickest)) if number > 1 else 1
        if not fills or number * quickest < effort.sample:
            enough = int(1.2 * effort.sample / max(quickest, 1e-9))
            number = min(2 * number, max(number + 1, enough))
