"""asv's ``kernel_*`` benchmark type: setup runs once a process, and ``stopwatch.measure`` is the clock.

asv's own ``time_*`` runs setup before every single timed call since asv_runner 0.3 (airspeed-velocity/asv
issue 1613) and cannot wait for a device. A ``kernel_*`` benchmark returns a function of an ``Effort``
that returns ``Samples``; processes, rounds, statistics and storage stay asv's.
"""

from __future__ import annotations

import re
from typing import Any

from benchmarks.stopwatch import Effort


def register() -> None:
    """Make the type known to asv, once. Called while asv imports the suite."""
    from asv_runner.benchmarks import benchmark_types
    from asv_runner.benchmarks.time import TimeBenchmark

    class KernelBenchmark(TimeBenchmark):
        """``kernel_name(*params)`` -> measure(effort) -> Samples; lower is better, seconds per call."""

        name_regex = re.compile(r"^(kernel_.+)$")

        def run(self, *param: Any) -> dict[str, Any]:
            time = self.func(*param)
            usual = Effort()
            if self.repeat and not isinstance(self.repeat, tuple):
                fewest = most = int(self.repeat)  # -q and -a repeat=N mean a fixed number of samples
            else:
                fewest, most = usual.fewest, usual.most
            quick = most == 1
            samples = time(
                Effort(
                    sample=self.sample_time if not quick else 0.0,
                    warm_up=0.0 if quick else (usual.warm_up if self.warmup_time < 0 else self.warmup_time),
                    budget=usual.budget,
                    fewest=fewest,
                    most=most,
                )
            )
            return {"samples": samples.seconds, "number": samples.number}

    if not any(kind.__name__ == KernelBenchmark.__name__ for kind in benchmark_types):
        benchmark_types.append(KernelBenchmark)
