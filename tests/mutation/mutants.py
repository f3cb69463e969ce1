"""Bad kernels by the thousand: one place in the source of an honest kernel is changed, and the verdict must see it.

The changes are the mistakes people make: an index off by one, < for <=, a swapped stride, padding or dilation,
a forgotten bias, tail or copy, = for +=, a narrower dtype. Each mutant is judged by
``convzoo.reference.examine`` on a few small problems without symmetry, in a process of its own that may die
or hang. Numba's kernels run as the Python they are written in (NUMBA_DISABLE_JIT), so that a mutant costs
milliseconds; those that only the compiler can run are the matter of ``compiled_mutants``. What survives is
wrong in a way the verdict cannot see, or it is no fault: those that are none are argued away one by one in
``equivalent.toml``.

``python -m tests.mutation.mutants KERNEL`` is the process that judges; indices come on standard input.
"""

from __future__ import annotations

import ast
import bisect
import contextlib
import fnmatch
import functools
import json
import os
import queue
import random
import re
import signal
import subprocess
import sys
import threading
import tomllib
import types
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks import hardware
from benchmarks.processes import python_path
from benchmarks.record import ROOT
from benchmarks.worker import _live_and_die_with_the_coordinator
from convzoo import Conv2d, Unsupported, names
from convzoo.catalog import find, load
from convzoo.reference import examine, inputs

KERNEL_FOLDER = ROOT / "kernels" / "convzoo"

KERNELS = ("python/*", "numpy/*", "numba/naive", "numba/parallel", "numba/im2col", "numba/direct", "torch_cpu/*")
PROBLEMS = [
    Conv2d.parse(text)
    for text in (
        "n2c6h7w9k4r3s2-st2x3-p1_2_0_3-d2x1-g2",
        "n2c4h5w6k10r2s3-p0_1_2_1-d1x2-g2-nhwc",
        "n1c3h6w5k5r3s3-p2_2_1_1-f64",
        "n2c5h4w6k7r1s1",
        "n2c3h5w6k6r2s2-p1_0_2_1-g3-nobias-nhwc",
        "n2c3h8w7k3r3s2-st1x2-g3",
        "n1c2h9w26k5r2s3-nobias",
        "n1c3h5w6k2r1s1-st2x1",
        "n1c4h5w3k3r1s1-p0_1_0_0",
        "n1c2h3w2k3r5s4-p2_1_1_2",
        "n1c3h10w11k2r2s1-st3x4-d1x2-f64-nhwc",
        "n3c2h6w7k6r2s3-st2x3-p3_0_1_4-d3x2",
        "n1c1h12w13k2r3s3-p0_3_4_0-d5x4",
        "n2c2h5w12k4r3s3-st1x3-p2_0_0_2-nhwc",
        "n1c1h2w3k2r1s2-p0_0_6_5",
        "n1c2h6w5k3r3s4-st2x3-p1_0_5_2",
        "n2c6h4w5k4r1s1-g2",
        "n1c3h6w4k2r3s1",
        "n1c3h4w6k2r1s3-nhwc",
        "n1c3h5w6k2r1s1-st1x2",
        "n1c3h6w5k5r3s2-p2_2_1_1",
        "n1c2h6w5k3r3s2-p2_1_1_1",
        "n1c2h6w5k3r3s2-p1_1_2_1",
        "n1c2h6w5k3r3s2-p1_1_1_2",
        "n2c2h4w8k5r1s1",
        "n2c2h3w11k5r1s1",
        "n1c2h6w3k4r3s3",
        "n2c3h7w9k3r3s3-p1-g3",
        "n1c2h12w8k3r3s3-st3x1-p1_0_2_1-d1x2",
        "n1c2h23w9k3r2s2-st2x1",
        "n1c2h9w23k3r2s2-st1x2",
        "n1c1h3w17k9r1s1",
        "n1c4h5w6k4r3s3-p1_2_0_1",
        "n1c3h5w6k2r2s2",
        "n1c1h6w23k4r2s3-d1x9-f64",
        "n1c1h32w40k4r1s1",
        "n2c1h5w6k3r3s2-nhwc",
        "n2c2h6w5k2r2s2-p1_0_0_1-g2",
    )
]
# Large: to be planned, not run. What an honest kernel refuses, a mutant must, and nothing else.
PLANNED = [
    Conv2d.parse(text)
    for text in ("n1c200h58w58k500r3s3", "n1c500h58w58k200r3s3", "n1c200h58w58k900r3s3", "n1c900h58w58k600r3s3-g3")
]
# Constants that only large problems would put to the test, made small for the odd seed.
SMALL = {"TILE": 32, "SHEETS": 600, "SERIAL_FLOPS": 0, "WINDOW_BYTES": 2000, "BLOCK_BYTES": 1500}
SEEDS = (0, 1)
SECONDS = 5  # of computing that a mutant may take; an honest kernel takes a tenth of one
SILENCE = 120  # seconds without any verdict, after which the process is taken to hang
FIRST_SILENCE = 300  # the same for the honest kernel, every line of which is traced on every problem


@dataclass(frozen=True)
class Mutant:
    """A kernel's source with one place changed; ``before`` and ``after`` are the lines that differ."""

    kernel: str
    line: int
    before: str
    after: str
    source: str

    @property
    def change(self) -> tuple[str, str, str]:
        """What the list of equivalent mutants knows it by: no line number."""
        return (self.kernel, self.before, self.after)


# --- where and how to change a source ----------------------------------------------------------------

COMPARISONS = {
    ast.Lt: ("<", "<="),
    ast.LtE: ("<=", "<"),
    ast.Gt: (">", ">="),
    ast.GtE: (">=", ">"),
    ast.Eq: ("==", "!="),
    ast.NotEq: ("!=", "=="),
    ast.Is: ("is", "is not"),
    ast.IsNot: ("is not", "is"),
}
OPERATORS = {
    ast.Add: ("+", "-"),
    ast.Sub: ("-", "+"),
    ast.Mult: ("*", "+"),
    ast.FloorDiv: ("//", "*"),
    ast.Mod: ("%", "//"),
}
PAIRS = (
    "stride_h stride_w",
    "dilation_h dilation_w",
    "step_h step_w",
    "top left",
    "bottom right",
    "high wide",
    "tall broad",
    "h_end v_end",
    "h v",
    "r s",
    "P Q",
    "R S",
    "H W",
    "C K",
    "inputs outputs",
    "lo hi",
    "first last",
    "rests_h rests_w",
)
SWAPPED: dict[str, str] = {}
for _first, _second in (pair.split() for pair in PAIRS):
    SWAPPED |= {_first: _second, _second: _first}
COPIES = ("copy", "clone", "contiguous", "ascontiguousarray")
DECLARED = ("ALGORITHM", "ACCURACY", "MAX_FLOPS", "DTYPES")  # the verdict takes them as they are
KEYS = ("DIGEST", "SOURCE")  # by which Numba's cache on disk knows a source, and no mutant comes into it
BESIDE = ("workspace", "code")  # arguments of Plan that say something beside the output


def path_of(name: str) -> Path:
    """The file of a kernel, or of a building block, which the catalog does not know."""
    backend, _, stem = name.partition("/")
    return KERNEL_FOLDER / backend / f"{stem}.py" if stem.startswith("_") else find(name).path


def mutants_of(kernel: str) -> list[Mutant]:
    """Every mutant of a kernel, in the order of its source."""
    source = path_of(kernel).read_text(encoding="utf-8")
    text, starts = source.encode(), [0]
    for line in source.splitlines(keepends=True):
        starts.append(starts[-1] + len(line.encode()))
    tree = ast.parse(source)
    tops = [(starts[node.lineno - 1], starts[node.end_lineno or 0]) for node in tree.body]
    means = [ast.dump(ast.parse(text[first:last])) for first, last in tops]
    found: dict[str, Mutant] = {}
    for begin, end, new in sorted(set(_edits(tree, text, starts))):
        changed = (text[:begin] + new.encode() + text[end:]).decode()
        i = bisect.bisect(tops, (begin, len(text))) - 1  # only this statement needs to be parsed again
        first, last = tops[i]
        try:
            if ast.dump(ast.parse(text[first:begin] + new.encode() + text[end:last])) == means[i]:
                continue
        except SyntaxError:
            continue
        line = source.encode()[:begin].count(b"\n") + 1
        span = text[begin:end].count(b"\n") + 1
        before = "\n".join(source.splitlines()[line - 1 : line - 1 + span])
        after = "\n".join(changed.splitlines()[line - 1 : line + new.count("\n")])
        found.setdefault(changed, Mutant(kernel, line, _flat(before), _flat(after), changed))
    return list(found.values())


def _flat(text: str) -> str:
    return " ".join(re.sub(r"\s+# .*", "", text).split())


def _edits(tree: ast.Module, text: bytes, starts: list[int]) -> Iterator[tuple[int, int, str]]:
    """(begin, end, new text) of each change, as offsets in bytes."""

    def at(node: Any) -> tuple[int, int]:
        return (starts[node.lineno - 1] + node.col_offset, starts[node.end_lineno - 1] + node.end_col_offset)

    def code(node: Any) -> str:
        begin, end = at(node)
        return text[begin:end].decode()

    def between(a: Any, b: Any, old: str, new: str) -> Iterator[tuple[int, int, str]]:
        begin, end = at(a)[1], at(b)[0]
        offset = text[begin:end].decode().find(old)
        if offset >= 0:
            yield begin + offset, begin + offset + len(old), new

    bound = _bound(tree)
    for node in _inside(tree):
        for part, new in _replaced(node, code):
            if not (isinstance(part, ast.Name) and new in SWAPPED and new not in bound[part]):
                yield (*at(part), new)
        if isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
            yield from between(node.left, node.right, *OPERATORS[type(node.op)])
        elif isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            for left, right, op in zip(sides, sides[1:], node.ops, strict=False):
                if type(op) in COMPARISONS:
                    yield from between(left, right, *COMPARISONS[type(op)])
        elif isinstance(node, ast.BoolOp):
            words = ("and", "or") if isinstance(node.op, ast.And) else ("or", "and")
            for left, right in zip(node.values, node.values[1:], strict=False):
                yield from between(left, right, *words)
        elif isinstance(node, ast.AugAssign) and isinstance(node.op, ast.Add):
            yield from between(node.target, node.value, "+=", "=")
            yield from between(node.target, node.value, "+=", "-=")


def _inside(tree: ast.Module) -> Iterator[ast.AST]:
    """The nodes that decide the output: no texts, types, errors, declarations, keys or workspace."""
    beside = _only_beside(tree)

    def visit(node: ast.AST) -> Iterator[ast.AST]:
        if isinstance(node, (ast.Raise, ast.Import, ast.ImportFrom, ast.JoinedStr)):
            return
        if isinstance(node, ast.keyword) and node.arg in BESIDE:
            return
        if isinstance(node, ast.FunctionDef) and _told_to_the_compiler(node):
            for inner in (line for line in node.body if isinstance(line, ast.FunctionDef)):
                yield from visit(inner)
            return
        if isinstance(node, ast.Assign) and _targets(node) & {*DECLARED, *KEYS}:
            return
        if isinstance(node, ast.If) and all(_sets_only(line, beside) for line in [*node.body, *node.orelse]):
            return
        if _sets_only(node, beside):
            return
        test = getattr(node, "test", node)
        if isinstance(test, (ast.Compare, ast.IfExp)) and "device" in {
            getattr(n, "id", "") for n in ast.walk(test)
        }:  # a choice between this device's code and another's, which only the other device can judge
            for child in (*_listed(getattr(node, "body", [])), *_listed(getattr(node, "orelse", []))):
                yield from visit(child)
            return
        yield node
        for name, value in ast.iter_fields(node):
            if name in ("decorator_list", "annotation", "returns"):
                continue
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST):
                    yield from visit(child)

    yield from visit(tree)


def _bound(tree: ast.Module) -> dict[ast.Name, set[str]]:
    """The names that mean something where each name stands: to swap it for another tests nobody."""
    found: dict[ast.Name, set[str]] = {}

    def names_of(scope: ast.AST) -> set[str]:
        names, inside = set(), [*ast.iter_child_nodes(scope)]
        for node in inside:  # it grows
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                names.add(node.name)
            elif isinstance(node, ast.arg):
                names.add(node.arg)
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                names.add(node.id)
            if not isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.Lambda)):
                inside += ast.iter_child_nodes(node)
        return names

    def visit(node: ast.AST, names: set[str]) -> None:
        if isinstance(node, (ast.Module, ast.FunctionDef, ast.Lambda)):
            names = names | names_of(node)
        if isinstance(node, ast.Name):
            found[node] = names
        for child in ast.iter_child_nodes(node):
            visit(child, names)

    visit(tree, set())
    return found


def _told_to_the_compiler(function: ast.FunctionDef) -> bool:
    """Whether a function, but for those inside of it, only tells Numba what to compile, and for which types."""
    own = "\n".join(ast.unparse(line) for line in function.body if not isinstance(line, ast.FunctionDef))
    return bool(re.search(r"\bnjit\(|\btypes\.", own))


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _sets_only(node: ast.AST, beside: set[str]) -> bool:
    """Whether a statement does nothing but set some of these names."""
    if isinstance(node, ast.Assign):
        return _targets(node) <= beside
    return isinstance(node, ast.AugAssign) and ast.unparse(node.target) in beside


def _targets(node: ast.Assign) -> set[str]:
    return {n.id for t in node.targets for n in ast.walk(t) if isinstance(n, ast.Name)}


def _only_beside(tree: ast.Module) -> set[str]:
    """Names that are used for nothing but the declared workspace."""
    parent = {child: node for node in ast.walk(tree) for child in ast.iter_child_nodes(node)}
    beside: set[str] = set()
    while True:
        other = set()
        for node in ast.walk(tree):
            if not (isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)):
                continue
            above: ast.AST | None = node
            while above is not None:
                if isinstance(above, ast.keyword) and above.arg in BESIDE:
                    break
                if _sets_only(above, beside):
                    break
                above = parent.get(above)
            if above is None:
                other.add(node.id)
        stored = {
            n.id
            for f in ast.walk(tree)
            if isinstance(f, ast.FunctionDef) and f.name == "plan"
            for n in ast.walk(f)
            if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)
        }
        found = stored - other
        if found == beside:
            return beside
        beside = found


def _replaced(node: ast.AST, code: Callable[[Any], str]) -> Iterator[tuple[Any, str]]:
    """(node, new text): the changes that replace a node as a whole."""
    if isinstance(node, ast.Constant):
        yield from ((node, new) for new in _other_constants(node.value))
    elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and node.id in SWAPPED:
        yield node, SWAPPED[node.id]
    elif isinstance(node, ast.Attribute) and node.attr in SWAPPED and len(node.attr) == 1:
        yield node, f"{code(node.value)}.{SWAPPED[node.attr]}"
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.Not, ast.USub)):
        yield node, code(node.operand)
    elif isinstance(node, ast.IfExp):
        yield node, f"({code(node.body)})"
        yield node, f"({code(node.orelse)})"
    elif isinstance(node, ast.If):
        yield node.test, f"not ({code(node.test)})"
        yield node.test, "True"
        yield node.test, "False"
    elif isinstance(node, ast.Subscript):
        yield from _other_indices(node, code)
    elif isinstance(node, ast.Assign):
        yield from _other_assignments(node, code)
    elif _can_be_left_out(node):
        yield node, "pass"
    elif isinstance(node, ast.Call):
        yield from _other_calls(node, code)


def _can_be_left_out(node: ast.AST) -> bool:
    return isinstance(node, (ast.AugAssign, ast.Continue)) or (
        isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)
    )


def _other_constants(value: Any) -> list[str]:
    if isinstance(value, bool):
        return [str(not value)]
    if isinstance(value, int):
        return ["1"] if value == 0 else [str(value - 1), str(value + 1)]
    return []


def _other_indices(node: ast.Subscript, code: Callable[[Any], str]) -> Iterator[tuple[Any, str]]:
    parts = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
    for part in parts:
        if isinstance(part, (ast.Name, ast.BinOp)):
            yield part, f"{code(part)} + 1"
            yield part, f"{code(part)} - 1"
        if isinstance(part, ast.Slice):
            for bound in (part.lower, part.upper):
                if bound is not None and not isinstance(bound, ast.Constant):
                    yield bound, f"{code(bound)} - 1"


def _other_assignments(node: ast.Assign, code: Callable[[Any], str]) -> Iterator[tuple[Any, str]]:
    target = node.targets[0]
    if isinstance(target, ast.Subscript):
        yield node, "pass"
    for pair in ast.walk(target):
        if isinstance(pair, ast.Tuple) and len(pair.elts) == 2:
            yield pair, f"({code(pair.elts[1])}, {code(pair.elts[0])})"


def _other_calls(node: ast.Call, code: Callable[[Any], str]) -> Iterator[tuple[Any, str]]:
    name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    args = node.args
    if name in ("range", "prange") and not node.keywords:
        last = args[min(1, len(args) - 1)]
        yield last, f"({code(last)}) - 1" if isinstance(last, ast.IfExp) else f"{code(last)} - 1"
        first = f"{code(args[0])} + 1, {code(args[1])}" if len(args) > 1 else f"1, {code(args[0])}"
        yield node, f"{code(node.func)}({', '.join([first, *map(code, args[2:])])})"
    elif name in ("min", "max"):
        yield node.func, {"min": "max", "max": "min"}[name]
    elif name in COPIES:
        owner = code(args[0]) if name == "ascontiguousarray" else code(node.func.value)  # type: ignore[attr-defined]
        yield node, owner
    elif name in ("zeros", "empty"):
        if name == "zeros":
            yield node.func, f"{code(node.func.value)}.empty"  # type: ignore[attr-defined]
        yield from ((arg, "'float16'") for arg in args[1:])
    elif name == "conj":
        yield node, code(node.func.value)  # type: ignore[attr-defined]


# --- judging one, in a process of its own ------------------------------------------------------------


def _module(source: str, small: bool, filename: str = "<mutant>") -> types.ModuleType:
    """The source as a module. ``small``: with small constants, and parallel loops run from their end."""
    tree = ast.parse(source)
    for node in tree.body:
        name = node.targets[0].id if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) else ""
        if small and name in SMALL:
            node.value = ast.copy_location(ast.Constant(SMALL[name]), node.value)  # type: ignore[attr-defined]
    module = types.ModuleType("mutant")
    exec(compile(tree, filename, "exec"), module.__dict__)
    if "uint64" in module.__dict__:  # without the compiler: a whole number that wraps as the compiled one does
        module.uint64 = lambda n: int(n) & (2**64 - 1)  # type: ignore[attr-defined]
    if small and "prange" in module.__dict__:
        module.prange = lambda *bounds: reversed(range(*bounds))  # type: ignore[attr-defined]
    return module


def verdict_on(kernel: Any, source: str, filename: str = "<mutant>") -> str:
    """Why the verdict rejects this source in the place of the kernel's own, or nothing."""
    modules = [_module(source, small, filename) for small in (False, True)]
    for p in PLANNED:
        if (said := _refuses(kernel, p, modules[0])) != _refuses(kernel, p):
            return f"refuses {p}" if said else f"does not refuse {p}"
    for p in PROBLEMS:
        if p.dtype not in kernel.dtypes:
            continue
        for seed, module in zip(SEEDS, modules, strict=True):
            try:
                with kernel.backend.planning():
                    plan = module.plan(p)
            except Unsupported as reason:
                if not seed and not _refuses(kernel, p):
                    return f"refuses {p}: {reason}"
                continue
            verdict = examine(kernel, p, seed, plan)
            if not verdict.ok:
                return f"on {p}, seed {seed}: {verdict.why}"
    if _under_a_switch(kernel, modules[0]) != _under_a_switch(kernel, kernel.module()):
        return "does not refuse what it must while a process-wide switch lets the library round"
    return ""


def _under_a_switch(kernel: Any, module: Any) -> list[str]:
    """What torch kernels refuse while its matrix products may round, planned before and after the switch."""
    if kernel.backend.library != "torch":
        return []
    import torch

    settings = getattr(torch.backends.mkldnn, "matmul", None)
    said = []
    for p in (p for p in (PROBLEMS[0], PROBLEMS[2]) if p.dtype in kernel.dtypes):
        x, w, b = (None if a is None else kernel.backend.to_device(a) for a in inputs(p, 0))
        for early in (True, False):
            usual = getattr(settings, "fp32_precision", None)
            if usual is None:  # an older torch, with the older switch only
                return []
            stage = "plan"
            try:
                with kernel.backend.planning():
                    plan = module.plan(p) if early else None
                    settings.fp32_precision = "bf16"  # type: ignore[union-attr]
                    plan = plan or module.plan(p)
                    stage = "run"
                    plan.run(x, plan.pack(w, b))
                said.append("answers")
            except Unsupported as reason:
                said.append(f"{stage}: {reason}")
            finally:
                settings.fp32_precision = usual  # type: ignore[union-attr]
    return said


def _refuses(kernel: Any, p: Conv2d, module: Any = None) -> bool:
    """Whether a kernel, or ``module`` in its place, refuses to plan a problem."""
    try:
        if module is None:
            kernel.plan(p)
        else:
            with kernel.backend.planning():
                module.plan(p)
    except Unsupported:
        return True
    return False


def lines_run(kernel: Any, source: str) -> set[int]:
    """Lines of the source that the problems reach on this machine."""
    seen: set[int] = set()

    def trace(frame: Any, event: str, _: Any) -> Any:
        if frame.f_code.co_filename != "<traced>":
            return None
        seen.add(frame.f_lineno)
        return trace

    sys.settrace(trace)
    try:
        why = verdict_on(kernel, source, "<traced>")
    finally:
        sys.settrace(None)
    if why:
        raise RuntimeError(f"{kernel.name} itself is rejected: {why}")
    return seen


def _out_of_time(*_: Any) -> None:
    raise TimeoutError(f"computes for more than {SECONDS} s")


def main() -> None:
    """Say which lines are reached, then judge the mutants whose indices come in, a reply a line."""
    _live_and_die_with_the_coordinator()
    warnings.simplefilter("ignore")
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    kernel = load(sys.argv[1])
    source = kernel.path.read_text(encoding="utf-8")
    print(json.dumps({"lines": sorted(lines_run(kernel, source))}), file=replies, flush=True)
    every = mutants_of(kernel.name)
    signal.signal(signal.SIGPROF, _out_of_time)
    for line in sys.stdin:
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        try:
            why = verdict_on(kernel, every[int(line)].source)
        except Exception as error:
            why = f"{type(error).__name__}: {error}"
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
        print(json.dumps({"index": int(line), "why": why}), file=replies, flush=True)


# --- asking for many ---------------------------------------------------------------------------------


class _Judge:
    """A process that judges mutants of one kernel; begun again whenever one of them ends it."""

    def __init__(self, kernel: str, cache: str):
        self._kernel, self._cache, self._said = kernel, cache, ""
        self._begin()

    def _begin(self) -> None:
        from .compiled_mutants import FILES

        compiled = self._kernel in FILES
        module = "tests.mutation.compiled_mutants" if compiled else "tests.mutation.mutants"
        environment = os.environ | {
            "PYTHONPATH": python_path(),
            "NUMBA_DISABLE_JIT": str(int(not compiled)),
            "NUMBA_NUM_THREADS": "3",
            "NUMBA_CACHE_DIR": self._cache,
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
            "MKL_NUM_THREADS": "1",
            "CONVZOO_MEMORY_LIMIT": str(min(2**32, hardware.cell_memory())),
        }
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, self._kernel],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._lines: queue.Queue[str] = queue.Queue()
        self._listener = threading.Thread(target=self._listen, args=(self._process, self._lines), daemon=True)
        self._listener.start()
        hello = self._next(FIRST_SILENCE)
        if hello is None:
            said = self._said[-500:] or f"it said nothing within {FIRST_SILENCE} s"
            raise RuntimeError(f"{self._kernel} could not be judged: {said}")
        self.lines: set[int] | None = hello["lines"] and set(hello["lines"])

    @staticmethod
    def _listen(process: Any, lines: queue.Queue) -> None:
        for line in process.stdout:
            lines.put(line)
        lines.put("")

    def _next(self, silence: int = SILENCE) -> dict[str, Any] | None:
        for _ in range(silence):  # second by second: what stops this process stops the other one, too
            with contextlib.suppress(queue.Empty):
                line = self._lines.get(timeout=1)
                break
        else:
            line = ""
        if line:
            return json.loads(line)
        self.close()
        return None

    def why(self, index: int) -> str:
        """Why a mutant is rejected, or nothing."""
        try:
            self._process.stdin.write(f"{index}\n")  # type: ignore[union-attr]
            self._process.stdin.flush()  # type: ignore[union-attr]
            reply = self._next()
        except OSError:
            reply = None
        if reply is not None:
            return reply["why"]
        self.close()
        self._begin()
        return "ends or hangs its process"

    def close(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        if self._process.stderr is not None and not self._process.stderr.closed:
            self._said = self._process.stderr.read()
        self._listener.join(10)  # it reads to the end; a pipe must not be closed under it
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            with contextlib.suppress(OSError):
                if pipe is not None:
                    pipe.close()


def run(
    globs: Sequence[str] = ("*",), sample: int | None = None, seed: int = 0, progress: Any = None
) -> list[dict[str, Any]]:
    """Scores of the kernels that match, all mutants or ``sample`` of them drawn at random.

    Of kernels that must be compiled, and of what they are built from, those that are always drawn.
    """
    from . import compiled_mutants

    kernels = [
        k
        for k in names(*globs)
        if any(fnmatch.fnmatchcase(k, g) for g in KERNELS) and find(k).backend.why_not() is None and runs_here(k)
    ]
    every = [m for kernel in kernels for m in mutants_of(kernel)]
    drawn = {file: compiled_mutants.places(file) for file in compiled_mutants.files(globs)}
    every += [m for some in drawn.values() for m in compiled_mutants.drawn(some)]
    asked = every if sample is None else random.Random(seed).sample(every, min(sample, len(every)))
    if progress:
        progress.expect(len(asked))
    mine = {k: [m for m in asked if m.kernel == k] for k in [*kernels, *drawn]}
    with TemporaryDirectory() as cache, ThreadPoolExecutor(hardware.usable_cpus()) as pool:
        jobs = [pool.submit(_score, k, some, cache, progress) for k, some in mine.items() if some]
        scores = [job.result() for job in jobs]
    for score in scores:
        score["places"] = len(drawn.get(score["kernel"], mutants_of(score["kernel"])))
    return scores


@functools.cache
def argued_away() -> dict[tuple[str, str, str], str]:
    """Mutants that are no fault, by ``Mutant.change``, each with the reason."""
    kernels = tomllib.loads(Path(__file__).with_name("equivalent.toml").read_text(encoding="utf-8"))
    return {
        (kernel, before, after): reason["why"]
        for kernel, reasons in kernels.items()
        for reason in reasons
        for before, changes in reason.items()
        if before != "why"
        for after in changes
    }


def runs_here(kernel: str, further: Sequence[Conv2d] = ()) -> bool:
    """Whether the kernel accepts any of the problems, or of further ones, on this machine."""
    return not all(_refuses(find(kernel), p) for p in [*PROBLEMS, *further])


def _score(kernel: str, some: list[Mutant], cache: str, progress: Any) -> dict[str, Any]:
    judge = _Judge(kernel, cache)
    indices = {m.source: i for i, m in enumerate(mutants_of(kernel))}
    score: dict[str, Any] = {
        "kernel": kernel,
        "mutants": len(some),
        "rejected": 0,
        "equivalent": 0,
        "unreached": 0,
        "survivors": [],
        "refuted": [],
    }
    file = path_of(kernel).relative_to(ROOT)
    for mutant in some:
        if progress:
            progress.step(f"mutants of {kernel}")
        argued = argued_away().get(mutant.change)
        where = {
            "where": f"{file}:{mutant.line}",
            "change": f"{mutant.before}  ->  {mutant.after}",
            "line": mutant.before,
            "after": mutant.after,
        }
        if judge.lines is not None and not reached(mutant, judge.lines):
            score["unreached"] += 1
        elif judge.why(indices[mutant.source]):
            score["rejected"] += 1
            if argued:
                score["refuted"].append(where)
        elif argued:
            score["equivalent"] += 1
        else:
            score["survivors"].append(where)
    judge.close()
    return score


def reached(mutant: Mutant, lines: set[int]) -> bool:
    """Whether the changed line is among these, or the beginning of the statement that holds it is."""
    if mutant.line in lines:
        return True
    tree = ast.parse(path_of(mutant.kernel).read_text(encoding="utf-8"))
    found = [
        n for n in ast.walk(tree) if isinstance(n, ast.stmt) and n.lineno <= mutant.line <= (n.end_lineno or n.lineno)
    ]
    return max(found, key=lambda n: n.lineno).lineno in lines if found else False


if __name__ == "__main__":
    main()
