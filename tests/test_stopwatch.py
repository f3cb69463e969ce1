"""The clock agrees with an independent one, keeps outputs for the verdict, and waits for the device."""

import statistics
import time
import timeit

import numpy as np
import pytest

from benchmarks import gpu_state
from benchmarks.gpu_state import GpuState
from benchmarks.stopwatch import Effort, measure
from benchmarks.worker import prepare_cell

EFFORT = Effort(0.002, 0.002, 0.1, 5, 40)


def spin(n):
    total = 0
    for i in range(n):
        total += i
    return total


def agree(ours, theirs, call):
    """Whether two clocks agree within 2 %: the median of interleaved ratios, for one pair is at the mercy
    of a clock frequency that moves; a stopwatch that is off stays off however many pairs are taken."""
    ratios = []
    for _ in range(60):
        ratios.append(min(ours(call)) / min(theirs(call)))
        if len(ratios) >= 5 and statistics.median(ratios) == pytest.approx(1, abs=0.02):
            return
    raise AssertionError(f"ours / timeit: {sorted(ratios)}")


@pytest.mark.alone
@pytest.mark.parametrize("n", [150, 3000])
def test_agrees_with_timeit(n):
    """About 3 and 60 microseconds a call."""
    agree(
        lambda call: measure(call, [n], lambda: None, EFFORT).seconds,
        lambda call: [t / 50 for t in timeit.repeat("call(n)", globals={"call": call, "n": n}, number=50, repeat=20)],
        spin,
    )


@pytest.mark.alone
@pytest.mark.parametrize(
    ("kernel", "problem"),
    [
        ("numba/direct", "n1c4h12w12k4r3s3-p1"),
        ("numpy/im2col", "n1c4h12w12k4r3s3-p1"),
        ("numba/naive", "n1c3h40w40k4r3s3"),
    ],
)
def test_time_of_a_kernel_agrees_with_a_loop_around_the_same_plan(kernel, problem):
    """About 5, 15 and 100 microseconds a call; the loop is this test's own, on the same rotating inputs.

    It keeps some outputs, as the stopwatch does: where y lies is 5 % of the time of the smallest.
    """
    cell = prepare_cell(kernel, problem, "packed", 0)

    def loop(call):
        number = max(1, int(0.002 / seconds))
        xs = [cell.inputs[i % len(cell.inputs)] for i in range(number)]
        found, kept = [], []
        for i in range(40):
            begin = time.perf_counter_ns()
            for x in xs:
                y = call(x)
            found.append((time.perf_counter_ns() - begin) / 1e9 / number)
            if i < 4:
                kept.append((y, y.copy()))
        return found

    seconds = min(cell.time(EFFORT).seconds)
    agree(lambda call: cell.time(EFFORT).seconds, loop, cell.call)


def test_outputs_belong_to_their_inputs():
    inputs = [np.full(2, float(i)) for i in range(3)]
    samples = measure(lambda x: x + 1, inputs, lambda: None, EFFORT)
    assert samples.outputs and {output.turn for output in samples.outputs} <= {0, 1, 2}
    for output in samples.outputs:
        assert np.array_equal(output.y, inputs[output.turn] + 1)


def test_slow_call_is_not_repeated_for_nothing():
    calls = []
    measure(calls.append, [0], lambda: None, Effort(0.0, 0.0, 0.0, 1, 1))
    assert len(calls) <= 3
    slow = []

    def call(x):
        slow.append(x)
        spin(2_000_000)

    samples = measure(call, [0], lambda: None, Effort(0.001, 0.001, 0.01, 3, 30))
    assert samples.number == 1 and len(slow) <= 5


def test_waits_for_the_device_and_reads_its_clock():
    """A stand-in device that finishes work only when waited for."""
    queue, finished = [], []

    class Clock:
        def start(self):
            self.began = len(queue)

        def stop(self):
            return (len(queue) - self.began) * 1e-3

    def synchronize():
        finished.extend(queue)
        queue.clear()

    samples = measure(queue.append, [1], synchronize, Effort(0.0005, 0.0, 0.01, 3, 5), Clock())
    assert not queue and finished
    assert samples.device_seconds == pytest.approx([1e-3] * len(samples.seconds))


class FakeNvml:
    """A GPU whose clocks are held down during the samples that ``throttled`` says."""

    NVML_CLOCK_SM, NVML_TEMPERATURE_GPU = 1, 0
    nvmlClocksThrottleReasonSwPowerCap = 4
    nvmlClocksThrottleReasonGpuIdle = 1

    def __init__(self, throttled):
        self._throttled = iter(throttled)

    def nvmlDeviceGetHandleByIndex(self, i):
        return "gpu"

    def nvmlDeviceGetClockInfo(self, gpu, kind):
        return 1980

    def nvmlDeviceGetPowerUsage(self, gpu):
        return 650_000

    def nvmlDeviceGetTemperature(self, gpu, kind):
        return 60

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, gpu):
        return 4 if next(self._throttled, False) else 1


def test_throttled_samples_are_taken_again():
    state = GpuState(FakeNvml([True, False, True, False, False]))
    effort = Effort(0.0005, 0.0, 0.1, 3, 3)
    samples = measure(spin, [10], lambda: None, effort, steady=state.steady)
    assert len(samples.seconds) == 3
    told = state.summary()
    assert told["rejected_samples"] == 2 and told["sm_clock_mhz"] == 1980 and told["power_watts"] == 650


def test_a_gpu_that_never_steadies_has_no_time():
    state = GpuState(FakeNvml([True] * 1000))
    with pytest.raises(RuntimeError, match="throttled during all of"):
        measure(spin, [10], lambda: None, Effort(0.0005, 0.0, 0.0, 3, 3), steady=state.steady)


def test_without_nvml_nothing_is_rejected_and_nothing_claimed(monkeypatch):
    monkeypatch.setattr(gpu_state, "_nvml", lambda: None)
    state = GpuState()
    assert state.steady() and state.summary() == {}
