"""Mutants of the Numba kernels whose loops call vector code, which only the compiler can run: a second each.

Therefore some of them are judged, and always the same ones: those whose changes have the smallest hashes.
An edit of a kernel puts others in the place of the mutants of the lines that it touches, and of no more.

A mutant is executed as a module, with all that imports it, in a fork of a process that has seen the honest
kernel pass. Nothing of it comes into a cache on disk, and a loop over threads is one over their shares: that
two of them work in the same memory is not seen. It is judged with vectors of 128 bits and small blocks, then
with the vectors of this machine, on problems that are small themselves; inputs lie in memory whose neighbours
are closed (``guard``).

``python -m tests.mutation.compiled_mutants NAME`` is the process that judges; indices come on standard input.
"""

from __future__ import annotations

import ast
import contextlib
import ctypes
import fnmatch
import functools
import hashlib
import importlib
import itertools
import json
import math
import mmap
import os
import signal
import sys
import types
import warnings
from collections.abc import Callable, Iterator, Sequence
from time import process_time
from typing import Any

import numpy as np

from benchmarks.guard import NOTHING, PAGE, protect, unguarded
from benchmarks.worker import _live_and_die_with_the_coordinator
from convzoo import Conv2d, Unsupported
from convzoo.catalog import find
from convzoo.reference import examine, inputs, known_once

from .mutants import PROBLEMS, Mutant, mutants_of, path_of, reached, runs_here

# What is changed, and the kernels through which it is judged.
FILES = {
    "numba/register_tile": ("numba/register_tile",),
    "numba/pointwise": ("numba/pointwise",),
    "numba/few_channels": ("numba/few_channels",),
    "numba/unpacked": ("numba/unpacked",),
    "numba/depthwise": ("numba/depthwise",),
    "numba/_tiles": ("numba/register_tile",),
    "numba/_pixels": ("numba/few_channels", "numba/depthwise"),
    "numba/_simd": (
        "numba/unpacked",
        "numba/few_channels",
        "numba/depthwise",
        "numba/pointwise",
        "numba/register_tile",
    ),
    "numba/winograd_small": ("numba/winograd_small",),
    "numba/winograd_decomposed": ("numba/winograd_decomposed",),
    "numba/_winograd": ("numba/winograd", "numba/winograd_decomposed"),
    "numba/_winograd_code": ("numba/winograd", "numba/winograd_decomposed"),
}
# Each imports none but those before it.
BLOCKS = ("numba/_simd", "numba/_memory", "numba/_tiles", "numba/_pixels", "numba/_winograd_code", "numba/_winograd")
DRAWN = 50  # mutants of a file
# Functions that choose among ways which are all right: no mistake in them can be seen in an output.
# {file: {function: which test tries its choices}}
CHOICES = {
    "numba/_tiles": {"choose"},
    "numba/pointwise": {"tiling"},
    "numba/_pixels": {"best_rows"},
    "numba/_winograd": {"products_of", "sub_block", "split_of"},
}
# Tails of one vector and of several, in channels and in pixels, for vectors of 4, 8 and 16 numbers.
TAILS = [
    Conv2d.parse(text)
    for text in (
        "n2c3h4w5k9r1s1",
        "n1c3h6w7k13r1s1-nobias",
        "n2c2h3w3k5r1s1",
        "n2c3h7w9k5r1s1-nhwc",
        "n2c3h9w8k9r1s1-st2x3",
        "n1c4h5w6k18r1s1-f64",
        "n1c1024h2w4k3r1s1-nhwc",
        "n1c3h5w9k17r3s3-p1",
        "n1c33h9w10k9r3s3-p1",
        "n2c17h5w9k18r3s3-p1_2_0_3-nhwc",
        "n1c33h6w7k9r3s3-p1-f64",
        "n1c34h6w11k3r3s3-nobias-nhwc",
        "n2c5h9w8k5r3s3-p1-g5",
        "n1c3h8w19k3r3s3-st2-p1_0_1_2-g3",
        "n1c3h9w10k6r5s5-p2-g3",
        "n1c3h9w10k3r5s5-st2-p2-g3-f64",
        "n1c2h9w8k2r7s7-p3-g2",
        "n2c5h9w8k5r3s3-p1-g5-nhwc",
        "n1c9h11w10k9r5s5-st2-p2-g9-nhwc",
        "n1c6h9w10k6r3s3-p2-d2-g6-nhwc",
        "n2c3h8w7k6r3s3-p1-g3-nhwc",
        "n1c2h4w8k9r1s3-p3_2_0_1",
        "n2c3h3w5k9r1s1",
        "n1c3h1w3k5r1s1",
        "n1c2h20w21k9r1s1",
        "n1c48h3w5k3r1s1",
        "n1c2h5w7k8r2s2-p1",
        "n1c2h2w21k3r1s17-p0_0_1_1",
        "n1c2h4w17k3r1s3-st1x5",
        "n1c2h5w9k2r5s5-g2",
        "n1c2h7w9k2r2s2-st2-g2",
        "n1c6h5w7k6r3s2-p1-g6-nhwc",
        "n1c2h5w6k2r3s3-p3_0_0_1-g2-nobias",
        "n1c2h6w7k2r2s3-g2",
        "n2c3h7w9k3r3s3-p1_0_4_1-g3",
        "n1c31h4w5k2r3s3",
        "n1c32h4w5k2r3s3-p1",
    )
]
# Files whose kernels take few of these problems and are compiled anew, for seconds, for every layout, dtype and
# tile: tiles of 4 x 4 and 3 x 3 outputs, ragged or not, pieces of 2, 3 and 4 taps a side, with shared vectors or
# without; many tiles, many channels, many panels; and what they must refuse.
_OF_WINOGRAD = [
    Conv2d.parse(text)
    for text in (
        "n2c17h5w9k18r3s3-p1_2_0_3-nhwc",
        "n1c33h9w10k9r3s3-p1",
        "n2c3h13w21k18r3s3-p1-nobias",
        "n1c5h9w8k50r3s3-p1_0_0_1",
        "n2c2h6w5k5r3s3-f64",
        "n1c3h12w13k7r5s7",
        "n1c4h9w23k3r3s1",
        "n1c3h9w13k9r5s5-p1_2_3_0-nhwc",
        "n2c3h9w23k9r3s3-st2x1-p1_2_0_3",
        "n2c3h9w23k5r3s3-st2-p1-f64-nhwc",
        "n1c19h7w20k5r2s2-st1x2-p0_1_2_1-f64-nhwc",
        "n2c3h17w9k18r7s7-st2-p3_2_1_3",
        "n1c17h14w12k9r7s7-st2-p2_3_3_1",
        "n1c3h6w60k3r4s4-p0_0_1_0",
        "n1c2h8w7k2r3s3-d2x1",
        "n2c4h7w8k4r3s3-g2",
        "n1c2h8w7k2r1s1",
        "n1c2h8w9k2r3s3-st1x3",
    )
]
OWN = {"numba/_winograd": _OF_WINOGRAD, "numba/_winograd_code": _OF_WINOGRAD}
# Constants that only large problems would put to the test.
SMALL = {"SERIAL_FLOPS": 0, "BUFFER": 1500, "BLOCK": 700, "PLANE": 2, "VECTORS": 5, "CHUNK": 8}
THREADS = 3


def files(globs: Sequence[str]) -> list[str]:
    """The files that match and can be judged here."""
    return [
        name
        for name, users in FILES.items()
        if hasattr(os, "fork")
        and any(fnmatch.fnmatchcase(name, glob) for glob in globs)
        and all(find(user).backend.why_not() is None and runs_here(user, TAILS) for user in users)
    ]


def places(name: str) -> list[Mutant]:
    """Every mutant of a file, but for those of functions whose choices are all right."""
    left_out = CHOICES.get(name, ())
    tree = ast.parse(path_of(name).read_text(encoding="utf-8"))
    lines = {
        line
        for f in tree.body
        if isinstance(f, ast.FunctionDef) and f.name in left_out
        for line in range(f.lineno, f.end_lineno + 1)  # type: ignore[operator]
    }
    return [m for m in mutants_of(name) if m.line not in lines]


def drawn(every: list[Mutant]) -> list[Mutant]:
    """The mutants that are judged, in the order of the source."""
    some = sorted(every, key=lambda m: hashlib.sha256("\n".join(m.change).encode()).digest())[:DRAWN]
    return sorted(some, key=lambda m: m.line)


# --- executing a file and what imports it ------------------------------------------------------------


def executed(name: str, source: str, users: Sequence[str]) -> dict[str, types.ModuleType]:
    """These kernels with another source for one file; what lies below the file is as it was."""
    module = _module(name, source)
    if name not in BLOCKS:
        return {name: module}
    for block in BLOCKS[BLOCKS.index(name) + 1 :]:
        _module(block)
    return {user: _module(user) for user in users}


def _module(name: str, source: str | None = None) -> types.ModuleType:
    import numba

    source = path_of(name).read_text(encoding="utf-8") if source is None else source
    package, _, stem = name.partition("/")
    module = types.ModuleType(f"convzoo.{package}.{stem}")
    module.__file__, module.__package__ = str(path_of(name)), f"convzoo.{package}"
    sys.modules[module.__name__] = module
    __import__(module.__package__)
    setattr(sys.modules[module.__package__], stem, module)
    njit = numba.njit

    def plain(*told: Any, **options: Any) -> Any:
        """njit without a cache on disk and without threads."""
        return njit(*told, **{k: v for k, v in options.items() if k not in ("cache", "parallel")})

    numba.njit = plain
    try:
        exec(compile(source, module.__file__, "exec"), module.__dict__)
    finally:
        numba.njit = njit
    for here, instead in (("prange", range), ("get_num_threads", lambda: THREADS)):
        if here in module.__dict__:
            setattr(module, here, instead)
    return module


@contextlib.contextmanager
def _smaller(modules: list[types.ModuleType]) -> Iterator[None]:
    """Small blocks of work, and vectors of 128 bits."""
    usual = [(m, k, getattr(m, k)) for m in modules for k in SMALL if hasattr(m, k)]
    forced = os.environ.get("CONVZOO_VECTOR_BITS")
    os.environ["CONVZOO_VECTOR_BITS"] = "128"
    for module, constant, value in usual:
        setattr(module, constant, min(value, SMALL[constant]))
    try:
        yield
    finally:
        for module, constant, value in usual:
            setattr(module, constant, value)
        del os.environ["CONVZOO_VECTOR_BITS"]
        if forced is not None:
            os.environ["CONVZOO_VECTOR_BITS"] = forced


# --- what a kernel allocates -------------------------------------------------------------------------


def _fenced(shape: tuple[int, ...] | int, dtype: Any) -> Any:
    """An array of NaN that ends where its memory ends, with closed pages before and behind."""
    size = math.prod((shape,) if isinstance(shape, int) else shape) * np.dtype(dtype).itemsize
    room = -(-size // PAGE) * PAGE
    memory = mmap.mmap(-1, room + 2 * PAGE)
    memory[PAGE : PAGE + room] = b"\xff" * room
    begin = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    for page in (begin, begin + PAGE + room):
        protect(page, PAGE, NOTHING)
    return np.frombuffer(memory, dtype, size // np.dtype(dtype).itemsize, PAGE + room - size).reshape(shape)


class _Allocates:
    """NumPy, but for ``empty``; Numba has compiled by now what it does not know this for."""

    empty = staticmethod(_fenced)

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)


@contextlib.contextmanager
def _fences(modules: Sequence[Any]) -> Iterator[None]:
    """Whoever writes or reads beside y or beside other memory of these modules dies of it."""
    memory: Any = importlib.import_module("convzoo.numba._memory")
    usual, held = (memory.empty, memory.scratch), []
    nps = [(module, module.np) for module in modules if hasattr(module, "np")]

    def scratch(size: int) -> int:
        held[:] = [_fenced(size, "uint8")]
        return held[0].ctypes.data

    memory.empty, memory.scratch = _fenced, scratch
    for module, _ in nps:
        module.np = _Allocates()
    try:
        yield
    finally:
        memory.empty, memory.scratch = usual
        for module, np in nps:
            module.np = np


# --- judging -----------------------------------------------------------------------------------------


def verdict_on(
    name: str, source: str, users: Sequence[str], refused: set[tuple], turn: Callable[[], Any], honest: bool = False
) -> str:
    """Why the verdict rejects this source through these kernels, or nothing.

    ``refused``: what the honest kernels refuse. ``turn`` is called before each problem.
    """
    kernels = executed(name, source, users)
    changed = sys.modules[f"convzoo.{name.replace('/', '.')}"]
    modules = [changed, *kernels.values()]
    for small in (True, False):
        with _smaller(modules) if small else contextlib.nullcontext():
            for kernel, module in kernels.items():
                for p in OWN.get(name, [*PROBLEMS, *TAILS]):
                    turn()
                    which, inside = (kernel, p, small), (module, changed)
                    if why := _on(find(kernel), inside, p, which, refused, honest):
                        return f"on {p}, {'small' if small else 'native'}: {why}"
    return ""


def _on(kernel: Any, modules: tuple[Any, Any], p: Conv2d, which: tuple, refused: set[tuple], honest: bool) -> str:
    try:
        plan = modules[0].plan(p)
    except Unsupported as reason:
        if honest:
            refused.add(which)
        return "" if which in refused else f"refuses: {reason}"
    if which in refused:
        return "does not refuse"
    seed = int(which[2])
    with _fences(modules):
        verdict = examine(kernel, p, seed, plan)
        if not verdict.ok:
            return verdict.why
        data = (seed + 1, "random")
        return unguarded(kernel, plan, p, inputs(p, *data), known_once(inputs, p, *data), lambda _: None)


def give(seconds: float) -> None:
    """From now on this process may compute for so long; then it dies of a signal, in compiled code, too."""
    signal.setitimer(signal.ITIMER_PROF, seconds)


def in_a_fork(judge: Callable[[], str]) -> str:
    """The same from a copy of this process, which may die or write where it likes."""
    read, write = os.pipe()
    child = os.fork()
    if not child:
        _live_and_die_with_the_coordinator()
        try:
            why = judge()
        except BaseException as error:
            why = f"{type(error).__name__}: {error}"
        os.write(write, why.encode()[:2000])
        os._exit(0)
    os.close(write)
    with os.fdopen(read, errors="replace") as said:
        why = said.read()
    _, status = os.waitpid(child, 0)
    return f"ends its process: {os.waitstatus_to_exitcode(status)}" if status else why


def passes(name: str, user: str, refused: set[tuple]) -> tuple[set[int], float]:
    """The honest file through one kernel: the lines that Python executes, the seconds of the slowest problem.

    What Numba compiles is not executed by Python.
    """
    path, lines, times = path_of(name), set(), []

    def trace(frame: Any, event: str, _: Any) -> Any:
        if frame.f_code.co_filename != str(path):
            return None
        lines.add(frame.f_lineno)
        return trace

    sys.settrace(trace if len(FILES[name]) > 1 else None)
    try:
        source = path.read_text(encoding="utf-8")
        why = verdict_on(name, source, [user], refused, lambda: times.append(process_time()), honest=True)
    finally:
        sys.settrace(None)
    if why:
        raise RuntimeError(f"{name} itself is rejected: {why}")
    return lines, max(b - a for a, b in itertools.pairwise([*times, process_time()]))


def main() -> None:
    """Say which lines are reached, then judge the mutants whose indices come in, a reply a line."""
    _live_and_die_with_the_coordinator()
    warnings.simplefilter("ignore")
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    name, refused = sys.argv[1], set()
    every = mutants_of(name)
    passed = {user: passes(name, user, refused) for user in FILES[name]}
    seconds = 3 * max(longest for _, longest in passed.values())  # a kernel is compiled in them, too
    print(json.dumps({"lines": None}), file=replies, flush=True)
    for line in sys.stdin:
        mutant = every[int(line)]
        users = [user for user, (lines, _) in passed.items() if reached(mutant, lines)] or FILES[name]
        judge = functools.partial(verdict_on, name, mutant.source, users, refused, lambda: give(seconds))
        why = in_a_fork(judge)
        print(json.dumps({"index": int(line), "why": why}), file=replies, flush=True)


if __name__ == "__main__":
    main()
