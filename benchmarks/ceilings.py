"""What this machine can do at most, measured: fused multiply-adds per second and bytes per second.

``python -m benchmarks.ceilings THREADS`` prints them as JSON; ``measure(threads)`` runs that in a process of
its own, so that threads are bound as they are for every kernel. A ceiling is the best of several short
bursts, the opposite of a kernel's time: nothing may be faster, so noise must not pull it down.

``Pulse`` asks the same of this very moment. A virtual machine gets what its host leaves it, for seconds or
minutes: two processors that were a core each may become the two halves of one core, and all times double; or
two cores that no longer share a cache, and what one thread hands to another takes twice as long, while each
by itself is as fast as ever.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from time import perf_counter
from typing import Any

LEVELS = {"L1": 0.4, "L2": 0.5, "L3": 0.5, "DRAM": 8.0}  # share of a level's size that is streamed
BURSTS = 7
WHOLE = 0.8  # of the arithmetic: more than the halves of one core have
SPLIT = 0.7  # of the usual rate of handing over; where cores share no cache it is a half or less
TRIPS = 2000  # in a burst: 0.2 ms, so that waking the threads hardly counts
KINDS = ("fma_gflops_per_s", "matrix_gflops_per_s", "read_gb_per_s", "copy_gb_per_s")
LIMIT = 120  # seconds for one number of threads, which takes four


class Unmeasured(OSError):
    """The ceilings could not be measured; the text says why."""


def measure(threads: int) -> dict[str, Any]:
    """Ceilings with one thread and with ``threads``: GFLOP/s per dtype, GB/s per level; seconds spent."""
    from .hardware import library_environment, matrix_unit
    from .processes import python_path

    found: dict[str, Any] = {kind: {} for kind in KINDS}
    began = perf_counter()
    for n in sorted({1, threads}):
        environment = os.environ | library_environment(n) | {"PYTHONPATH": python_path()}
        command = [sys.executable, "-m", "benchmarks.ceilings", str(n)]
        try:
            done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=LIMIT)
        except subprocess.TimeoutExpired:
            why = f"the ceilings could not be measured within {LIMIT} s: end other work, then try again"
            raise Unmeasured(why) from None
        if done.returncode:
            raise Unmeasured(f"the ceilings could not be measured: {done.stderr.strip()[-300:]}")
        for kind, values in json.loads(done.stdout).items():
            found[kind][str(n)] = values
    if not matrix_unit():
        del found["matrix_gflops_per_s"]
    gpu = _gpu(environment={"PYTHONPATH": python_path()})
    return found | gpu | {"seconds": round(perf_counter() - began, 1)}


def _gpu(environment: dict[str, str]) -> dict[str, Any]:
    """The ceilings of the GPU, or why there are none; {} on a machine without one."""
    from .hardware import gpus

    if not gpus():
        return {}
    command = [sys.executable, "-m", "benchmarks.gpu_ceilings"]
    environment = os.environ | environment
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no output"])[-1]
        return {"gpu": {"why_not": f"could not be measured: {last[:200]}"}}
    return {"gpu": json.loads(done.stdout)}


def _lanes(itemsize: int) -> int:
    from .hardware import facts_cpu_flags

    flags = facts_cpu_flags()
    width = 64 if "avx512f" in flags else 32 if "avx2" in flags else 16
    return width // itemsize


def _fma_loop(dtype: str) -> Any:
    """njit function of n: n rounds of 12 independent chains of vector FMAs, all in registers.

    12 chains hide the latency (4 cycles, two units); with 24 LLVM unrolls and spills, a third of the speed.
    """
    import numba
    from llvmlite import ir
    from numba import types
    from numba.core import cgutils
    from numba.extending import intrinsic

    scalar, suffix = (ir.FloatType(), "f32") if dtype == "float32" else (ir.DoubleType(), "f64")
    lanes = _lanes(4 if dtype == "float32" else 8)
    chains = 12
    vector = ir.VectorType(scalar, lanes)

    @intrinsic
    def burst(typingctx: Any, n: Any) -> Any:
        def codegen(context: Any, b: Any, signature: Any, args: Any) -> Any:
            kind = ir.FunctionType(vector, [vector] * 3)
            fma = cgutils.get_or_insert_function(b.module, kind, f"llvm.fma.v{lanes}{suffix}")
            whole = ir.IntType(64)
            before, loop, after = b.block, b.append_basic_block(), b.append_basic_block()
            b.branch(loop)
            b.position_at_end(loop)
            i = b.phi(whole)
            i.add_incoming(whole(0), before)
            sums = [b.phi(vector) for _ in range(chains)]
            scale, shift = (ir.Constant(vector, [v] * lanes) for v in (0.999, 0.001))
            for j, acc in enumerate(sums):
                acc.add_incoming(ir.Constant(vector, [(j + k) * 1e-3 for k in range(lanes)]), before)
                acc.add_incoming(b.call(fma, [acc, scale, shift]), loop)
            following = b.add(i, whole(1))
            i.add_incoming(following, loop)
            b.cbranch(b.icmp_signed("<", following, args[0]), loop, after)
            b.position_at_end(after)
            total = sums[0]
            for acc in sums[1:]:
                total = b.fadd(total, acc)
            return b.extract_element(total, ir.IntType(32)(0))

        return types.float32(types.int64) if dtype == "float32" else types.float64(types.int64), codegen

    @numba.njit(parallel=True)
    def run(n: int, out: Any) -> None:
        for t in numba.prange(out.size):
            out[t] = burst(n)  # type: ignore[call-arg]

    return run, 2 * lanes * chains


def _fma_gflops(threads: int) -> dict[str, float]:
    import numpy as np

    found = {}
    for dtype in ("float32", "float64"):
        run, flops = _fma_loop(dtype)
        out = np.zeros(threads, dtype)
        n = 1_000_000
        run(n, out)
        best = min(_seconds(lambda run=run, n=n, out=out: run(n, out)) for _ in range(BURSTS))
        found[dtype] = round(flops * n * threads / best / 1e9, 1)
    return found


def _matrix_gflops(threads: int) -> dict[str, float]:
    """GFLOP/s of the CPU's matrix unit on tiles in L1, {} without one: in bfloat16, and what float32 problems
    get of it from six and from three products of bfloat16 parts (FLOP of the problem, not of the parts)."""
    import numba
    import numpy as np

    from convzoo.numba import _amx
    from convzoo.numba._simd import call

    if _amx.unit() != "real":
        return {}
    steps, room = 2, 2**17
    table, tiles = np.arange(steps) * 2 * 3 * _amx.TILE, _amx.configuration([_amx.ROWS] * 8)
    memory = np.zeros((threads, room), np.uint8)

    @numba.njit(parallel=True)
    def run(times: int, sums: int, memory: Any, table: Any, tiles: Any) -> None:
        for t in numba.prange(memory.shape[0]):
            _amx.configure(1, tiles.ctypes.data)  # type: ignore[call-arg]
            x = memory[t].ctypes.data
            operands = (x, x + 1024, 2048, 64, table.ctypes.data, x + 16384, steps, x + 32768)
            for _ in range(times):
                call(sums, (*operands, x + 65536, 128, 2048, 64))  # type: ignore[call-arg]
            _amx.release(1)  # type: ignore[call-arg]

    found = {}
    for name, count in (("bfloat16", 1), ("three_products", 3), ("six_products", 6)):
        sums = _amx.entry(_amx.SUMS, count, _amx.ROWS, _amx.REAL)[0]  # type: ignore[index]
        times = 120_000 // count
        run(1, sums, memory, table, tiles)
        best = min(_seconds(lambda n=times, f=sums: run(n, f, memory, table, tiles)) for _ in range(BURSTS))
        found[name] = round(2 * 32**3 * steps * times * threads / best / 1e9, 1)
    return found


def _round_trips(threads: int) -> Any:
    """Function without arguments: how often in a microsecond a flag goes round through all threads.

    Each thread waits for the number that the one before it has stored, then stores it for the next. A thread
    that gets no processor is not waited for for ever: 0 then.
    """
    import numba
    import numpy as np
    from llvmlite import ir
    from numba import types
    from numba.extending import intrinsic

    whole, apart = ir.IntType(64), 64  # numbers between two flags: no line has two
    patience = 10_000_000  # looks, some 10 ms

    @intrinsic
    def store(typingctx: Any, address: Any, value: Any) -> Any:
        def codegen(context: Any, b: Any, signature: Any, args: Any) -> Any:
            b.store_atomic(args[1], b.inttoptr(args[0], whole.as_pointer()), "release", 8)
            return context.get_dummy_value()

        return types.void(types.int64, types.int64), codegen

    @intrinsic
    def load(typingctx: Any, address: Any) -> Any:
        def codegen(context: Any, b: Any, signature: Any, args: Any) -> Any:
            return b.load_atomic(b.inttoptr(args[0], whole.as_pointer()), "acquire", 8)

        return types.int64(types.int64), codegen

    @numba.njit(parallel=True)
    def ring(flags: Any, left_over: Any) -> None:
        begin = flags.ctypes.data
        for t in numba.prange(threads):
            mine, before = begin + 8 * apart * t, begin + 8 * apart * ((t + threads - 1) % threads)
            left = patience
            for i in range(1, TRIPS + 1):
                if t == 0:
                    store(mine, i)  # type: ignore[call-arg]
                while load(before) < i and left > 0:  # type: ignore[call-arg]
                    left -= 1
                if t > 0:
                    store(mine, i)  # type: ignore[call-arg]
            left_over[t] = left

    def rate() -> float:
        flags, left_over = np.zeros(apart * threads, np.int64), np.zeros(threads, np.int64)
        seconds = _seconds(lambda: ring(flags, left_over))
        return TRIPS / seconds / 1e6 if left_over.min() > 0 else 0.0

    rate()  # compiles
    return rate


class Pulse:
    """Asks how many GFLOP/s all threads together have at this moment, and how fast they hand over to each
    other; a process of its own, idle between."""

    def __init__(self, threads: int, known: float = 0.0):
        from .hardware import library_environment
        from .processes import python_path

        # a thread that waits for the next burst must sleep: the kernels need its core
        quiet = {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "0", "PYTHONPATH": python_path()}
        self.best = known  # GFLOP/s
        self.trips: list[float] = []  # a microsecond, whenever the arithmetic was all there
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.ceilings", str(threads), "--pulse", str(known)],
            env=os.environ | library_environment(threads) | quiet,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def share(self) -> float:
        """What there is now of the most there was, from 0 to 1; 1 where nothing can be asked."""
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.write("\n")
            self._process.stdin.flush()
            now, trips = map(float, self._process.stdout.readline().split())
        except (OSError, ValueError):  # it died: no reason to stop the sweep
            return 1.0
        return self.of(now, trips)

    def of(self, now: float, trips: float) -> float:
        """The share from GFLOP/s and round trips in a microsecond, 0 where there is one thread.

        The halves of one core are the fastest at handing over, so only trips beside full arithmetic are
        compared: with the upper quartile of those of this run, since a few may have met halves.
        """
        self.best = max(self.best, now)
        share = now / self.best
        if trips and share > WHOLE:
            self.trips.append(trips)
            usual = sorted(self.trips)[len(self.trips) * 3 // 4]
            if trips < SPLIT * usual:
                return trips / usual
        return share

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()


def _pulse(threads: int, known: float) -> None:
    """A line for each line on standard input: GFLOP/s, the better of two bursts of about a millisecond, and
    round trips in a microsecond, the best of three.

    The burst's length follows from ``known`` GFLOP/s: the workers begin meanwhile, and whoever tries how
    long a burst takes on cores that are busy makes it too short. Where nothing is known it is tried.
    """
    import numpy as np

    run, flops = _fma_loop("float32")
    out = np.zeros(threads, np.float32)
    run(1, out)  # compiles
    rate = _round_trips(threads) if threads > 1 else lambda: 0.0
    n = int(known * 1e6 / (flops * threads)) or _a_millisecond(lambda n: run(n, out))
    for _ in sys.stdin:
        took = min(_seconds(lambda: run(n, out)) for _ in range(2))
        trips = max(rate() for _ in range(3))
        print(flops * n * threads / took / 1e9, trips, flush=True)


def _a_millisecond(call: Any) -> int:
    """Rounds that take a millisecond or more; one slow call, which a busy host makes, shall not say so."""
    n = 1000
    call(n)
    while min(_seconds(lambda n=n: call(n)) for _ in range(5)) < 1e-3:
        n *= 2
    return n


def _seconds(call: Any) -> float:
    begin = perf_counter()
    call()
    return perf_counter() - begin


def _bandwidth(threads: int) -> dict[str, dict[str, float]]:
    """GB/s of reading (sums of floats) and of copying, each thread streaming its own part of a level."""
    import numba
    import numpy as np

    from .hardware import cache_bytes

    @numba.njit(parallel=True, fastmath=True)
    def read(parts: Any, times: int, out: Any) -> None:
        for t in numba.prange(parts.shape[0]):
            total = np.float32(0)
            part = parts[t]
            for i in range(times):
                part[i % part.size] = np.float32(i)  # else the sum would be hoisted out of the loop
                for j in range(part.size):
                    total += part[j]
            out[t] = total

    @numba.njit(parallel=True)
    def copy(parts: Any, times: int, out: Any) -> None:
        half = parts.shape[1] // 2
        for t in numba.prange(parts.shape[0]):
            part = parts[t]
            for i in range(times):
                part[i % half] = np.float32(i)
                for j in range(half):
                    part[half + j] = part[j]
            out[t] = part[half]

    out = np.zeros(threads, np.float32)
    found: dict[str, dict[str, float]] = {"read_gb_per_s": {}, "copy_gb_per_s": {}}
    for level, size in cache_bytes().items():
        shared = threads if level in ("L3", "DRAM") else 1
        count = max(1024, int(size * LEVELS[level] / 4 / shared)) // 1024 * 1024
        parts = np.ones((threads, count), np.float32)
        times = max(1, int(3e7 / count))
        for kind, run in (("read_gb_per_s", read), ("copy_gb_per_s", copy)):
            run(parts, 1, out)
            best = min(_seconds(lambda r=run, p=parts, n=times: r(p, n, out)) for _ in range(BURSTS))
            found[kind][level] = round(parts.nbytes * times / best / 1e9, 1)
    return found


def main() -> None:
    threads = int(sys.argv[1])
    if sys.argv[2:3] == ["--pulse"]:
        return _pulse(threads, float(sys.argv[3]))
    rates = {"fma_gflops_per_s": _fma_gflops(threads), "matrix_gflops_per_s": _matrix_gflops(threads)}
    print(json.dumps(rates | _bandwidth(threads)))


if __name__ == "__main__":
    main()
