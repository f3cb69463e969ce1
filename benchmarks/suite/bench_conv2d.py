"""The asv suite: every kernel on a fixed dozen problems, in both scenarios.

The grid is the same on every machine and for every commit; what cannot run shows as n/a. Everything beyond
the grid belongs to ``python -m benchmarks compare``.
"""

import os

import convzoo
from benchmarks.problems import ASV_GRID
from benchmarks.worker import prepare_cell

_ready = {}  # what setup made for the benchmark that runs in this process


def _setup(scenario):
    def setup(kernel, problem):
        """Plan, judge, pack. Unavailable and Unsupported are NotImplementedErrors: asv shows n/a."""
        convzoo.load(kernel).backend.set_threads(int(os.environ["OMP_NUM_THREADS"]))
        _ready["cell"] = prepare_cell(kernel, problem, scenario, seed=0)

    return setup


def _judged(effort):
    """Time the cell, then the verdict on the outputs of the timed calls; a wrong one fails."""
    cell = _ready["cell"]
    samples = cell.time(effort)
    why = cell.judge(samples)
    assert not why, why
    return samples


def kernel_eager(kernel, problem):
    """Seconds per call with the weights packed in every call, as torch.nn.functional.conv2d does."""
    return _judged


def kernel_packed(kernel, problem):
    """Seconds per call with the weights packed ahead, as an inference engine does."""
    return _judged


for _function, _scenario in ((kernel_eager, "eager"), (kernel_packed, "packed")):
    vars(_function).update(
        setup=_setup(_scenario),
        params=(convzoo.names(), ASV_GRID),
        param_names=("kernel", "problem"),
        version="1",
        rounds=2,
        timeout=300.0,
    )
