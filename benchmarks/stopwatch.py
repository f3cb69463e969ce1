"""The only clock: ``measure`` times a call for asv and for ``compare`` alike.

What is timed: the calls between two readings of the clock, with the device idle before and after. What is
not: making inputs, planning, warming up, waiting for other samples, and bringing results home.
"""

from __future__ import annotations

import gc
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


@dataclass
class Samples:
    """Seconds per call, one value a sample; ``number`` calls a sample; device seconds where known."""

    seconds: list[float] = field(default_factory=list)
    device_seconds: list[float] = field(default_factory=list)
    number: int = 1
    outputs: dict[int, Any] = field(default_factory=dict)  # last output per input, for the verdict


def measure(
    call: Callable[[Any], Any],
    inputs: Sequence[Any],
    synchronize: Callable[[], None],
    effort: Effort,
    device_clock: Any = None,
    steady: Callable[[], bool] = lambda: True,
) -> Samples:
    """Time ``call(x)`` over rotating ``inputs``, enough calls a sample to drown the clock.

    ``synchronize`` returns when the device is idle; it is called once before and once after each
    sample. ``device_clock`` has start() and stop(), which returns seconds by the device's own events.
    ``steady`` is asked after each sample; where it says no (a throttled GPU) the sample is taken again,
    up to as often as samples were asked for, and RuntimeError is raised where none was steady.
    """
    samples = Samples()
    samples.number = _calibrate(call, inputs, synchronize, effort)
    batches = [_rotation(inputs, samples.number, first) for first in range(len(inputs))]
    collecting = gc.isenabled()
    gc.disable()
    rejected = 0
    try:
        started = perf_counter()
        while len(samples.seconds) < effort.most:
            if len(samples.seconds) >= effort.fewest and perf_counter() - started > effort.budget:
                break
            turn = len(samples.seconds) % len(inputs)
            seconds, device_seconds, y = _sample(call, batches[turn], synchronize, device_clock)
            if not steady():
                rejected += 1
                if rejected <= effort.most:
                    continue
                if not samples.seconds:
                    raise RuntimeError(f"the device was throttled during all of {rejected} samples")
                break
            samples.seconds.append(seconds / samples.number)
            if device_seconds is not None:
                samples.device_seconds.append(device_seconds / samples.number)
            samples.outputs[(turn + samples.number - 1) % len(inputs)] = y
            if seconds > effort.budget and len(samples.seconds) >= min(2, effort.fewest):
                break  # a kernel this slow says little more with a third sample
    finally:
        if collecting:
            gc.enable()
    return samples


def _rotation(inputs: Sequence[Any], number: int, first: int) -> list[Any]:
    return [inputs[(first + i) % len(inputs)] for i in range(number)]


def _sample(call: Any, batch: list[Any], synchronize: Any, device_clock: Any) -> tuple:
    y = device_seconds = None
    synchronize()
    if device_clock is not None:
        device_clock.start()
    begin = perf_counter()
    for x in batch:
        y = call(x)
    if device_clock is not None:
        device_seconds = device_clock.stop()
    synchronize()
    return perf_counter() - begin, device_seconds, y


def _calibrate(call: Any, inputs: Sequence[Any], synchronize: Any, effort: Effort) -> int:
    """Warm up for the time asked, then the number of calls that fills one sample."""
    number, spent = 1, 0.0
    while True:
        batch = _rotation(inputs, number, 0)
        seconds = _sample(call, batch, synchronize, None)[0]
        spent += seconds
        if seconds >= effort.sample / 2 and spent >= effort.warm_up:
            return max(1, round(number * effort.sample / seconds)) if number > 1 else 1
        if seconds >= effort.sample:
            continue
        number = min(
            2 * number, max(number + 1, int(number * 1.2 * effort.sample / max(seconds, 1e-9)))
        )
