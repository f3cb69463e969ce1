"""The asv suite: every kernel on a fixed dozen problems, in both scenarios.

The grid is the same on every machine and for every commit; what cannot run shows as n/a. Everything beyond
the grid belongs to ``python -m benchmarks compare``.
"""

import os

import convzoo

from .problems import ASV_GRID


class Conv2dKernels:
    """Seconds per call, after the verdict on the output and before the verdict on the timed ones."""

    params = (convzoo.names(), ASV_GRID)
    param_names = ("kernel", "problem")
    version = "1"
    rounds = 2
    timeout = 300.0

    def _cell(self, kernel, problem, scenario):
        from .worker import prepare_cell

        backend = convzoo.load(kernel).backend  # Unavailable is a NotImplementedError: asv shows n/a
        backend.set_threads(int(os.environ["OMP_NUM_THREADS"]))
        cell = prepare_cell(kernel, problem, scenario, seed=0)

        def time(effort):
            samples = cell.time(effort)
            verdict = cell.judge(samples)
            assert verdict.ok, verdict.why
            return samples

        return time

    def setup(self, kernel, problem):
        self.cells = {s: self._cell(kernel, problem, s) for s in ("eager", "packed")}

    def kernel_eager(self, kernel, problem):
        return self.cells["eager"]

    def kernel_packed(self, kernel, problem):
        return self.cells["packed"]
