"""One library in one process: plan, verdict, warm-up, timing, and the verdict on the timed outputs.

``compare`` starts it as ``python -m benchmarks.worker BACKEND``; requests and replies are lines of JSON on
standard input and output. asv's benchmark takes the same steps through ``prepare_cell``.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from time import perf_counter
from typing import Any

from .stopwatch import Effort, Samples, measure

ROTATING = 3  # inputs that take turns, so that a memoised answer or a warm line of x shows
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")


def thread_environment(n: int) -> dict[str, str]:
    """Variables that give every library ``n`` threads, one bound to each core; set before it is imported."""
    return {name: str(n) for name in THREAD_VARIABLES} | {
        "OMP_PROC_BIND": "true",
        "OMP_PLACES": "cores",
        "OMP_DYNAMIC": "false",
    }


@dataclass
class Cell:
    """One kernel on one problem in one scenario, planned and found right, ready to be timed."""

    kernel: Any
    problem: Any
    call: Callable[[Any], Any]
    inputs: list[Any]
    host: list[tuple]
    report: dict[str, Any]

    def time(self, effort: Effort) -> Samples:
        backend = self.kernel.backend
        return measure(self.call, self.inputs, backend.synchronize, effort, backend.device_clock())

    def judge(self, samples: Samples) -> Any:
        """The verdict on the outputs of timed calls: the first that is wrong, or the last."""
        from convzoo.reference import Verdict, judge

        verdict = Verdict(False, "no timed call returned an output")
        for i, y in samples.outputs.items():
            y = self.kernel.backend.to_host(y) if self.kernel.backend.owns(y) else y
            verdict = judge(y, self.problem, *self.host[i], accuracy=self.kernel.accuracy)
            if not verdict.ok:
                return Verdict(False, "the timed output is wrong: " + verdict.why)
        return verdict


def refuse_to_check(kernel: Any, p: Any) -> None:
    """Raise Unsupported for what is slow by design, by a rule that is the same on every machine."""
    from convzoo import Unsupported

    if kernel.max_flops is not None and p.flops > kernel.max_flops:
        raise Unsupported(f"slow by design: run up to {kernel.max_flops:.0e} FLOP, got {p.flops:.1e}")


def refuse_to_time(kernel: Any, p: Any) -> None:
    """Raise for what is never timed: slow by design, or simulated."""
    from convzoo import Unavailable

    refuse_to_check(kernel, p)
    if getattr(kernel.backend, "simulated", False):
        raise Unavailable(
            "the CUDA simulator is for tests, never for timings: unset NUMBA_ENABLE_CUDASIM"
        )


def prepare_cell(name: str, problem: str, scenario: str, seed: int) -> Cell:
    """Plan, judge and pack. Raises Unavailable, Unsupported, or AssertionError for a wrong kernel."""
    import convzoo
    from convzoo.reference import examine, inputs

    kernel, p = convzoo.load(name), convzoo.Conv2d.parse(problem)
    refuse_to_time(kernel, p)
    begin = perf_counter()
    plan = kernel.plan(p)
    plan_seconds = perf_counter() - begin
    verdict = examine(kernel, p, seed, plan)
    if not verdict.ok:
        raise AssertionError(f"{verdict.why}; repeat: {repeat(name, problem, seed)}")
    backend = kernel.backend
    _, w, b = inputs(p, seed + 2)
    host = [(inputs(p, seed + 3 + i)[0], w, b) for i in range(ROTATING)]
    w, b = backend.to_device(w), None if b is None else backend.to_device(b)
    xs = [backend.to_device(x) for x, _, _ in host]
    run, pack = plan.run, plan.pack
    begin = perf_counter()
    weights = pack(w, b)
    backend.synchronize()
    pack_seconds = perf_counter() - begin
    calls = {"packed": lambda x: run(x, weights), "eager": lambda x: run(x, pack(w, b))}
    report = {
        "plan_seconds": plan_seconds,
        "pack_seconds": pack_seconds,
        "workspace": plan.workspace,
        "accuracy": kernel.accuracy,
        "algorithm": kernel.algorithm,
        "error": {k: v for k, v in asdict(verdict).items() if k not in ("ok", "why")},
    }
    return Cell(kernel, p, calls[scenario], xs, host, report)


def repeat(name: str, problem: str, seed: int) -> str:
    """The command that repeats a verdict."""
    return f"python -m benchmarks check {name} --problems {problem} --seed {seed}"


def run_cell(request: dict[str, Any]) -> dict[str, Any]:
    """One request of the coordinator, from plan to verdict; every outcome is a status."""
    from convzoo import Unavailable, Unsupported

    try:
        where = (request["kernel"], request["problem"], request["scenario"], request["seed"])
        cell = prepare_cell(*where)
        samples = cell.time(Effort(**request["effort"]))
        verdict = cell.judge(samples)
    except Unavailable as reason:
        return {"status": "unavailable", "why": str(reason)}
    except Unsupported as reason:
        return {"status": "unsupported", "why": str(reason)}
    except AssertionError as error:
        return {"status": "wrong", "why": str(error)}
    except Exception as error:  # the kernel's own: it costs one cell, not the run
        return {"status": "crashed", "why": f"{type(error).__name__}: {error}"}
    if not verdict.ok:
        return {"status": "wrong", "why": verdict.why}
    return {"status": "ok", **cell.report, **_summary(samples, bool(request.get("raw")))}


def _summary(samples: Samples, raw: bool) -> dict[str, Any]:
    s = sorted(samples.seconds)
    quarters = statistics.quantiles(s, n=4, method="inclusive") if len(s) > 1 else [s[0]] * 3
    found: dict[str, Any] = {
        "seconds": quarters[1],
        "q25": quarters[0],
        "q75": quarters[2],
        "samples": len(s),
        "number": samples.number,
    }
    if samples.device_seconds:
        found["device_seconds"] = statistics.median(samples.device_seconds)
    if raw:
        found["raw"] = samples.seconds
    return found


def main() -> None:
    """Serve one backend until standard input ends."""
    from convzoo.backends import BACKENDS

    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints must not mix with the replies
    backend = BACKENDS[sys.argv[1]]
    hello: dict[str, Any] = {"about": {}}
    if backend.why_not() is None:
        backend.set_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
        hello["about"] = backend.about()
    print(json.dumps(hello), file=replies, flush=True)
    for line in sys.stdin:
        print(json.dumps(run_cell(json.loads(line))), file=replies, flush=True)


if __name__ == "__main__":
    main()
