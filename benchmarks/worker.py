"""One library in one process: plan, verdict, warm-up, timing, and the verdict on the timed outputs.

``compare`` starts it as ``python -m benchmarks.worker BACKEND``; requests and replies are lines of JSON on
standard input and output. asv's benchmark takes the same steps through ``prepare_cell``.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import statistics
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from time import perf_counter
from typing import Any

from .stopwatch import Effort, Samples, measure

ROTATING = 3  # inputs that take turns, so that a memoised answer or a warm line of x shows


@dataclass
class Cell:
    """One kernel on one problem in one scenario, planned and found right, ready to be timed."""

    kernel: Any
    problem: Any
    plan: Any
    call: Callable[[Any], Any]
    inputs: list[Any]
    host: list[tuple]  # (x, w, b) behind each of the inputs; w and b are always the same
    weights: tuple[Any, Any]  # w and b on the device
    scenario: str
    seed: int
    report: dict[str, Any]
    right: dict[int, Any] = field(default_factory=dict)  # by turn, an output that was found right

    def time(self, effort: Effort) -> Samples:
        from convzoo.reference import snapshot

        from .doubts import settle

        settle()
        backend = self.kernel.backend
        clock = backend.device_clock()
        if backend.device != "cuda":
            copy = partial(snapshot, backend)  # at once: whoever calls run may read y at once
            return measure(self.call, self.inputs, backend.synchronize, effort, clock, copy=copy)
        from .gpu_state import GpuState

        state = GpuState()
        samples = measure(self.call, self.inputs, backend.synchronize, effort, clock, state.steady)
        self.report["gpu"] = state.summary()
        return samples

    def known(self, turn: int) -> tuple[Any, Any]:
        """Oracle and magnitude of the inputs of one turn."""
        from convzoo.reference import known_once

        return known_once(_turn, self.problem, self.seed, turn)

    def once(self) -> Any:
        """One call, for whoever wants to watch what it runs."""
        return self.call(self.inputs[0])

    def wrong(self, turn: int, home: Any) -> str:
        """Why this is no answer to inputs[turn], or nothing. What has been right once is right again."""
        import numpy as np

        from convzoo.reference import judge

        seen = self.right.get(turn)
        if (
            seen is not None
            and type(home) is np.ndarray
            and home.dtype == seen.dtype
            and home.flags.writeable
            and home.flags.c_contiguous
            and np.array_equal(home, seen)
        ):
            return ""
        known = self.known(turn)
        verdict = judge(home, self.problem, *self.host[turn], tier="random", known=known, **self.kernel.promise)
        if verdict.ok:
            self.right[turn] = home
        return verdict.why

    def judge(self, samples: Samples) -> str:
        """Why the outputs of timed calls, or what those calls did to their inputs, are wrong, or nothing."""
        from convzoo.reference import snapshot

        if not samples.outputs:
            return "no timed call returned an output"
        for output in samples.outputs:
            home = snapshot(self.kernel.backend, output.y) if output.copy is None else output.copy
            if why := self.wrong(output.turn, home):
                return "the timed output is wrong: " + why
        for x, (want, _, _) in zip(self.inputs, self.host, strict=True):
            if not _same(self.kernel.backend.to_host(x), want):
                return "x was changed by a timed call"
        return ""

    def overwrote(self, samples: Samples) -> str:
        """Whether an output of a timed call has changed since: every y must be a fresh one."""
        from convzoo.reference import snapshot

        for output in samples.outputs:
            if output.copy is not None and not _same(snapshot(self.kernel.backend, output.y), output.copy):
                return "a later call overwrote the output of an earlier timed one"
        return ""


def _same(a: Any, b: Any) -> bool:
    import numpy as np

    return np.array_equal(a, b, equal_nan=True)


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
        raise Unavailable("the CUDA simulator is for tests, never for timings: unset NUMBA_ENABLE_CUDASIM")


class Wrong(Exception):
    """The verdict rejected an output; an AssertionError would be taken for one of the kernel's own."""


def prepare_cell(name: str, problem: str, scenario: str, seed: int, path: str | None = None) -> Cell:
    """Plan, judge and pack. Raises Unavailable, Unsupported, or Wrong. ``path``: see convzoo.load."""
    import convzoo
    from convzoo.reference import examine, inputs

    kernel = convzoo.load(name, path) if path else convzoo.load(name)
    p = convzoo.Conv2d.parse(problem)
    refuse_to_time(kernel, p)
    begin = perf_counter()
    plan = kernel.plan(p)
    plan_seconds = perf_counter() - begin
    first_seconds = _first_call(kernel.backend, plan, inputs(p, seed))
    verdict = examine(kernel, p, seed, plan)
    if not verdict.ok:
        raise Wrong(f"{verdict.why}; repeat: {repeat(name, problem, seed)}")
    backend = kernel.backend
    host = [_turn(p, seed, turn) for turn in range(ROTATING)]
    w, b = (None if a is None else backend.to_device(a) for a in host[0][1:])
    xs = [backend.to_device(x) for x, _, _ in host]
    run, pack = plan.run, plan.pack
    begin = perf_counter()
    weights = pack(w, b)
    backend.synchronize()
    pack_seconds = perf_counter() - begin
    begin = perf_counter()
    backend.to_device(host[0][0])
    backend.synchronize()
    transfer_seconds = perf_counter() - begin
    calls = {"packed": lambda x: run(x, weights), "eager": lambda x: run(x, pack(w, b))}
    report = {
        "plan_seconds": plan_seconds,
        "pack_seconds": pack_seconds,
        "transfer_seconds": transfer_seconds,
        "first_seconds": first_seconds,
        "workspace": int(plan.workspace),
        "accuracy": kernel.accuracy,
        "algorithm": kernel.algorithm,
        "error": {k: v for k, v in asdict(verdict).items() if k not in ("ok", "why")},
    }
    return Cell(kernel, p, plan, calls[scenario], xs, host, (w, b), scenario, seed, report)


def _turn(p: Any, seed: int, turn: int) -> tuple[Any, Any, Any]:
    """x, w and b of one turn of a timing; w and b are the same in all."""
    from convzoo.reference import inputs

    return inputs(p, seed + 3 + turn)[0], *inputs(p, seed + 2)[1:]


def _first_call(backend: Any, plan: Any, data: tuple) -> float:
    """Seconds of the first call of all, which may compile, load or tune what plan left undone."""
    x, w, b = (None if a is None else backend.to_device(a) for a in data)
    weights = plan.pack(w, b)
    backend.synchronize()
    begin = perf_counter()
    plan.run(x, weights)
    backend.synchronize()
    return perf_counter() - begin


def repeat(name: str, problem: str, seed: int) -> str:
    """The command that repeats a verdict."""
    return f"python -m benchmarks check {name} --problems {problem} --seed {seed}"


def fingerprint_of(cell: Cell, scenario: str) -> dict[str, Any]:
    """What ran, once per cell in this process: it costs more than a short timing."""
    from .fingerprint import fingerprint

    key = (cell.kernel.name, str(cell.problem), scenario)
    if key not in _fingerprints:
        _fingerprints[key] = fingerprint(cell.kernel, cell.plan, cell.problem, cell.once)
    return _fingerprints[key]


_fingerprints: dict[tuple[str, str, str], dict[str, Any]] = {}


def run_cell(request: dict[str, Any], say: Callable[[dict], None] = lambda line: None) -> dict[str, Any]:
    """One request of the coordinator, from plan to verdict; every outcome is a status.

    A request with an effort is timed, one that asks ``again`` without an effort gives the last cell the look
    that its timing left out, and any other is judged alone. ``say`` takes what is to be known of
    a process that dies before it replies. ``lost`` in the reply: the kernel has changed this process,
    which must serve no other.
    """
    from convzoo.backends import BACKENDS

    from .doubts import Watch

    watch = Watch(BACKENDS[request["kernel"].partition("/")[0]])
    step = _timed if "effort" in request else _looked if request.get("again") else _judged
    reply = _answered(step, request, say)
    if why := watch.reasons():
        reply["lost"] = True
        if reply["status"] == "ok":
            reply = {"status": "mistrusted", "why": why, "lost": True}
    return reply


def _answered(step: Callable[..., dict], request: dict[str, Any], say: Callable) -> dict[str, Any]:
    from convzoo import Unavailable, Unsupported

    try:
        return step(request, say)
    except Unavailable as reason:
        return {"status": "unavailable", "why": str(reason)}
    except Unsupported as reason:
        return {"status": "unsupported", "why": str(reason)}
    except Wrong as error:
        return {"status": "wrong", "why": str(error)}
    except MemoryError as error:
        limit = os.environ.get("CONVZOO_MEMORY_LIMIT")
        allowed = f"{int(limit) / 2**30:.1f} GiB that a worker may use" if limit else "memory there is"
        return {"status": "crashed", "why": f"needs more than the {allowed} ({error})"}
    except Exception as error:  # the kernel's own: it costs one cell, not the run
        return {"status": "crashed", "why": f"{type(error).__name__}: {error}"}


_last: dict[str, Any] = {}  # the cell that was timed last, and its samples


def _timed(request: dict[str, Any], say: Callable) -> dict[str, Any]:
    """Time a cell and judge what the timed calls returned. ``again``: the cell of the last request.

    ``look``: ask what a timing never asks for as well; a kernel that is wrong there is so in every round.
    """
    cell = _last["cell"] if request.get("again") else None
    _last.clear()  # what the last cell holds must not add to what the next one needs
    if cell is None:
        where = (request["kernel"], request["problem"], request["scenario"], request["seed"])
        cell = prepare_cell(*where, request.get("path"))
    samples = cell.time(Effort(**request["effort"]))
    if why := cell.judge(samples):
        return {"status": "wrong", "why": why}
    look = request.get("look", True)
    status, why = _look(cell, samples, say) if look else ("wrong", cell.overwrote(samples))
    if why:
        return {"status": status, "why": why}
    _last.update(cell=cell, samples=samples)
    reply = cell.report | _fingerprint(cell, request, look) | _summary(samples, bool(request.get("raw")))
    return {"status": "ok", **reply}


def _looked(request: dict[str, Any], say: Callable) -> dict[str, Any]:
    """The look that the last request left out, at the cell and the samples that it ended with."""
    status, why = _look(_last["cell"], _last["samples"], say)
    if why:
        return {"status": status, "why": why}
    return {"status": "ok", **_fingerprint(_last["cell"], request, True)}


def _fingerprint(cell: Cell, request: dict[str, Any], look: bool) -> dict[str, Any]:
    wanted = request.get("fingerprint", look)
    return {"fingerprint": fingerprint_of(cell, request["scenario"]) if wanted else {}}


def _look(cell: Cell, samples: Samples, say: Callable) -> tuple[str, str]:
    """What is wrong with a cell beside its timed outputs, or doubtful, and why; why is empty if nothing is."""
    from convzoo.reference import unusual

    from .doubts import remembers, wait_for_threads
    from .guard import unguarded
    from .strain import crosses, depends_on_threads, leaves, some_wrong

    kernel, seconds = cell.kernel, min(samples.seconds)
    known = cell.problem, cell.host[0], cell.known(0)
    why = some_wrong(cell, samples.number, seconds)
    why = why or unguarded(kernel, cell.plan, *known, say) or unusual(kernel, cell.plan, cell.problem, cell.seed)
    if why := why or depends_on_threads(cell):
        return "wrong", why
    doubt = remembers(cell, seconds)
    wait_for_threads()
    if why := cell.overwrote(samples) or crosses(cell, seconds):
        return "wrong", why
    return "mistrusted", doubt or leaves(cell, seconds)


def _judged(request: dict[str, Any], say: Callable) -> dict[str, Any]:
    import convzoo
    from convzoo.reference import examine, known_once, unusual

    from .guard import unguarded

    kernel = convzoo.load(request["kernel"], request.get("path"))
    p, seed = convzoo.Conv2d.parse(request["problem"]), request["seed"]
    refuse_to_check(kernel, p)
    plan = kernel.plan(p)
    verdict = examine(kernel, p, seed, plan)
    known = p, _turn(p, seed, 0), known_once(_turn, p, seed, 0)
    if why := verdict.why or unguarded(kernel, plan, *known, say) or unusual(kernel, plan, p, seed):
        return {"status": "wrong", "why": why}
    return {"status": "ok", "score": verdict.score, "budget": verdict.budget}


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


def _live_and_die_with_the_coordinator() -> None:
    """Die when the coordinator dies, even while stopped, and keep to the memory that a cell may use.

    A stopped process does not see that its input has ended; only the kernel can end it then.
    """
    with contextlib.suppress(OSError, AttributeError):  # not Linux
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        ctypes.CDLL(None).prctl(36, 1)  # PR_SET_CHILD_SUBREAPER: what it started stays its child
        parent = os.environ.get("CONVZOO_WORKER", "").partition("-")[0]
        if parent and int(parent) != os.getppid():
            sys.exit(1)  # it died before it could take this process with it
    if limit := os.environ.get("CONVZOO_MEMORY_LIMIT"):
        # data, not address space: CUDA reserves far more addresses than it ever uses
        with contextlib.suppress(ImportError, ValueError):
            import resource

            resource.setrlimit(resource.RLIMIT_DATA, (int(limit), int(limit)))


def main() -> None:
    """Serve one backend until standard input ends."""
    _live_and_die_with_the_coordinator()
    begin = perf_counter()
    from convzoo.backends import BACKENDS

    requests, replies = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)  # what a kernel reads must not be our requests
    os.dup2(2, 1)  # whatever a library prints must not mix with the replies
    me = os.getpid()

    def say(number: int, line: dict[str, Any]) -> None:
        if os.getpid() != me:
            os._exit(1)  # a copy of this process, forked by a kernel: it answers nobody
        print(json.dumps(line | {"request": number}), file=replies, flush=True)

    backend = BACKENDS[sys.argv[1]]
    hello: dict[str, Any] = {"about": {}}
    if backend.why_not() is None:
        backend.set_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
        hello["about"] = backend.about()
    say(0, hello | {"import_seconds": perf_counter() - begin})
    for line in requests:
        request = json.loads(line)
        number = request.pop("request")
        say(number, run_cell(request, partial(say, number)))


if __name__ == "__main__":
    main()
