"""What ran, told by the code itself: instructions, registers, the library's own name for its kernel.

A time says that something became slower; its fingerprint says why: vector instructions that became scalar
ones, sums that no longer fit the registers, another implementation chosen inside a library. It is small and
flat, and two runs of the same code give the same one: no addresses, no symbols, no times.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

Facts = dict[str, str | int]


def fingerprint(kernel: Any, plan: Any, problem: Any, call: Callable[[], Any] | None = None) -> Facts:
    """Facts about the code behind ``plan``; {} where nothing can be known. Never raises.

    ``call()`` runs the kernel once, as it was timed: only so do torch's libraries tell what they chose.
    Machine code is read once for each compiled function of a process (about 0.1 s), then remembered.

    Numba on the CPU   fma_512, fma_256, fma_128, fma_scalar: fused multiply-adds by width in bits;
                       unfused_vector, unfused_scalar: multiplications and additions apart from them;
                       vector_bits: the widest vector that an innermost loop computes or stores;
                       spills: vector registers saved to or fetched from the stack in innermost
                       loops with arithmetic; calls: inside loops; asm_hash: of it all
    torch on the CPU   onednn: implementations; reorders: copies to and from its layouts; mkl: calls
    NumPy              blas: library and the architecture it chose; simd: the widest loops of NumPy
    CUDA               registers, local_bytes (spills), shared_bytes; counts of SASS instructions where
                       a disassembler is installed; torch: the names of the kernels launched
    """
    try:
        return _READERS.get(kernel.backend.name, _nothing)(kernel, plan, problem, call)
    except Exception as error:  # evidence beside a time: the lack of it must not cost the time
        return {"fingerprint": f"cannot be had: {type(error).__name__}: {error}"[:200]}


def _nothing(kernel: Any, plan: Any, problem: Any, call: Any) -> Facts:
    return {}


# --- Numba on the CPU ---------------------------------------------------------------------------------


def _numba(kernel: Any, plan: Any, problem: Any, call: Any) -> Facts:
    compiled = []
    for function in plan.code:
        signatures = list(function.overloads)
        of_dtype = [s for s in signatures if problem.dtype in str(s)]  # one function may serve several
        compiled += [(function, s) for s in (of_dtype or signatures)]
    found = _numba_code(tuple(compiled)) if compiled else {}
    return found | (_numpy_libraries() if kernel.algorithm == "gemm" else {})


@lru_cache(maxsize=256)
def _numba_code(compiled: tuple[tuple[Any, Any], ...]) -> Facts:
    return read_assembly("\n".join(assembly(*one) for one in compiled))


def assembly(function: Any, signature: Any) -> str:
    """Assembly of one compiled version of a Numba dispatcher.

    ``function.inspect_asm()`` is empty for what came from Numba's disk cache, with a warning. The cache
    keeps the optimised module beside the object code, so that others can be linked to it; a fresh
    compilation has the same module. Assembly made from it is the same in both cases. Parsed anew,
    because emitting code changes a module.
    """
    import llvmlite.binding as llvm

    library = function.overloads[signature].library
    module = llvm.parse_bitcode(library._get_module_for_linking().as_bitcode())
    return str(library._codegen._tm.emit_assembly(module))


# Numba's glue between Python and the function, and its runtime: the same for every kernel
_GLUE = re.compile(r'"?_*(?:ZN7cpython|cfunc\.|NRT_)')
_LABEL = re.compile(r'^("[^"]*"|[^\s:"#]+):')
_LOCAL = re.compile(r"\.?L[A-Z]*[A-Za-z]*\d+(?:_\d+)?")
_LOCAL_REFERENCE = re.compile(rf"(?<![\w.%]){_LOCAL.pattern}(?!\w)")
_SYMBOL = re.compile(
    r'"[^"]*"|(?<![\w%])(?:_*Z[NL]?\d|_*gufunc__|cfunc\.|\.const\.|printf_format|numba\.dynamic)[\w.$@]*'
)
_ADDRESS = re.compile(r"(?<=\$)\d{13,15}\b")  # of something that lives in this process
_COMMENT = re.compile(r"\s*(?:#(?![-\w])|##|//|;).*$")
_CONSTANT = re.compile(r"\t\.(?:byte|short|word|long|quad|xword|zero|ascii)\s")

_FMA = re.compile(r"vfn?m(?:add|sub|addsub|subadd)\d*[ps][sd]\b|fn?m(?:la|ls|add|sub)\b")
_UNFUSED = re.compile(r"v?(?:add|sub|mul)[ps][sd]\b|f(?:add|sub|mul)\b")
_TILE = re.compile(r"(tdp|tileload)\w*")  # of a matrix unit (AMX): products and loads of tiles
_SCALAR = re.compile(r"\w+s[sd]\b|f\w+\s+[sdh]\d")
_VECTOR_STORE = re.compile(r"v?mov(?:[au]p[sd]|dq[au]\d*|ntp[sd]|ntdq) %[xyz]mm\d+, [^%]*\(|st(?:r|p|ur|np) q\d")
_WIDTHS = ((512, re.compile(r"%zmm")), (256, re.compile(r"%ymm")), (128, re.compile(r"%xmm|\b[vq]\d+\b")))
_VECTOR_REGISTER = re.compile(r"%[xyz]mm|\b[qvsd]\d+\b")
_JUMP = re.compile(r"j\w+\s+(\S+)|(?:b|b\.\w+|cbn?z|tbn?z)\s+(?:.*,\s*)?(\S+)$")
_CALL = re.compile(r"callq?\b|blr?\b")
# slots of the stack: a fixed distance, no index (an indexed one is an array of the kernel's own)
_STACK = r"(?<![\w$])-?\d*\(%rsp\)|\[sp(?:, #-?\d+)?\]"
_FRAME = r"(?<![\w$])-?\d*\(%rbp\)|\[x29(?:, #-?\d+)?\]"


@dataclass
class _Function:
    """The instructions of one function, in order; where its labels stand among them."""

    name: str
    lines: list[str] = field(default_factory=list)
    labels: dict[str, int] = field(default_factory=dict)

    def loops(self) -> list[range]:
        """Stretches from a label to the last jump back to it, outer and inner."""
        found: dict[int, int] = {}
        for i, line in enumerate(self.lines):
            jump = _JUMP.match(line)
            target = self.labels.get(jump[1] or jump[2], i + 1) if jump else i + 1
            if target <= i:
                found[target] = i + 1
        return [range(begin, end) for begin, end in found.items()]


def _functions(text: str) -> tuple[list[_Function], list[str]]:
    """The functions of an assembly text, without Numba's glue, and its tables of constants."""
    functions, constants = [_Function("")], []
    table = False
    for line in text.splitlines():
        if label := _LABEL.match(line):
            name = label[1]
            table = "LCPI" in name
            if table:
                constants.append("")
            elif _LOCAL.fullmatch(name):
                functions[-1].labels[name] = len(functions[-1].lines)
            else:
                functions.append(_Function(name))
        elif table and _CONSTANT.match(line):
            constants[-1] += " ".join(_COMMENT.sub("", line).split()) + ";"
        elif line.startswith("\t") and not line.startswith("\t."):
            table = False
            functions[-1].lines.append(" ".join(_COMMENT.sub("", line).split()))
    return [f for f in functions if f.lines and not _GLUE.match(f.name)], constants


def read_assembly(text: str) -> Facts:
    """Counts and a hash of an assembly text (AT&T syntax for x86, or AArch64)."""
    functions, constants = _functions(text)
    counts: Counter[str] = Counter()
    widest = 0
    for function in functions:
        for line in function.lines:
            counts[_arithmetic(line)] += 1
        loops = function.loops()
        inside = {i for loop in loops for i in loop}
        counts["calls"] += sum(bool(_CALL.match(function.lines[i])) for i in inside)
        slot = re.compile(f"{_STACK}|{_FRAME}" if _has_frame(function) else _STACK)
        for loop in _innermost(loops):
            lines = function.lines[loop.start : loop.stop]
            kinds = [_arithmetic(line) for line in lines]
            if any(kinds):
                counts["spills"] += sum(bool(_VECTOR_REGISTER.search(line) and slot.search(line)) for line in lines)
            for line, kind in zip(lines, kinds, strict=True):
                stores = _VECTOR_STORE.match(line) and not slot.search(line)
                if stores or (kind and not kind.endswith("scalar")):
                    widest = max(widest, _width(line))
    names = ("fma_512", "fma_256", "fma_128", "fma_scalar", "unfused_vector", "unfused_scalar")
    found: Facts = {name: counts[name] for name in (*names, "spills", "calls")}
    found |= {name: counts[name] for name in ("tile_products", "tile_loads") if counts[name]}
    return found | {"vector_bits": widest, "asm_hash": _hash(_plain(functions, constants))}


def _arithmetic(line: str) -> str:
    """The name under which an instruction is counted, "" for one that is not."""
    scalar = bool(_SCALAR.match(line))
    if _FMA.match(line):
        return "fma_scalar" if scalar else f"fma_{_width(line)}"
    if tile := _TILE.match(line):
        return "tile_products" if tile[1] == "tdp" else "tile_loads"
    if _UNFUSED.match(line):
        return "unfused_scalar" if scalar else "unfused_vector"
    return ""


def _width(line: str) -> int:
    return next((bits for bits, register in _WIDTHS if register.search(line)), 0)


def _innermost(loops: list[range]) -> list[range]:
    def holds(outer: range, inner: range) -> bool:
        return outer != inner and outer.start <= inner.start and inner.stop <= outer.stop

    return [loop for loop in loops if not any(holds(loop, other) for other in loops)]


def _has_frame(function: _Function) -> bool:
    """Whether the frame register points into the stack; else the compiler uses it like any other."""
    return any(re.match(r"movq %rsp, %rbp|mov x29, sp|add x29, sp", s) for s in function.lines[:12])


def _plain(functions: list[_Function], constants: list[str]) -> Iterator[str]:
    """Functions without what differs from run to run: names of symbols, numbers of labels, addresses."""
    yield from sorted(constants)
    bodies = []
    for function in functions:
        order: dict[str, str] = {}
        at: dict[int, str] = {}
        for label, i in function.labels.items():
            at[i] = order[label] = f"L{len(order)}"
        lines = []
        for i, line in enumerate(function.lines):
            line = _ADDRESS.sub("address", _SYMBOL.sub("symbol", line))
            lines += [f"{at[i]}:"] if i in at else []
            lines += [_LOCAL_REFERENCE.sub(lambda m, order=order: order.get(m[0], "data"), line)]
        bodies.append("\n".join(lines))
    yield from sorted(bodies)


def _hash(parts: Iterable[str]) -> str:
    return hashlib.sha256("\n\n".join(parts).encode()).hexdigest()[:16]


# --- libraries on the CPU -----------------------------------------------------------------------------


def _numpy(kernel: Any, plan: Any, problem: Any, call: Any) -> Facts:
    return _numpy_libraries()


@lru_cache(maxsize=1)
def _numpy_libraries() -> Facts:
    """NumPy's BLAS, and the widest instruction set its own loops were dispatched to."""
    import numpy as np

    found: Facts = {}
    with contextlib.suppress(Exception):  # only since NumPy 1.26, and not on every platform
        simd = np.show_config(mode="dicts")["SIMD Extensions"]  # type: ignore[call-overload,index]
        found["simd"] = [*simd["baseline"], *simd["found"]][-1]
    try:
        from threadpoolctl import threadpool_info
    except ImportError:
        return found
    blas = [x for x in threadpool_info() if x["user_api"] == "blas" and "numpy" in x["filepath"]]
    for library in blas[:1]:
        words = (library["internal_api"], library.get("version"), library.get("architecture"))
        found["blas"] = " ".join(filter(None, words))
    return found


def _torch_cpu(kernel: Any, plan: Any, problem: Any, call: Callable[[], Any] | None) -> Facts:
    """The implementations that oneDNN and MKL name themselves, while one call runs."""
    if call is None:
        return {}
    from torch.backends import mkl, mkldnn

    with contextlib.ExitStack() as verbose:
        said = verbose.enter_context(_standard_output())
        if mkldnn.is_available():
            verbose.enter_context(mkldnn.verbose(mkldnn.VERBOSE_ON))
        if mkl.is_available():
            verbose.enter_context(mkl.verbose(mkl.VERBOSE_ON))
        call()
    return read_verbose("".join(said))


def read_verbose(text: str) -> Facts:
    """Primitives of oneDNN's verbose lines and functions of MKL's, in the order of their calls."""
    primitives, calls = [], []
    for line in text.splitlines():
        words = line.split(",")
        if words[0] == "onednn_verbose" and "exec" in words[:5]:
            kind, implementation = words[words.index("exec") + 2 :][:2]
            primitives.append((kind, implementation))
        elif match := re.match(r"MKL_VERBOSE (\w+)\(", line):
            calls.append(match[1])
    shown = [i if k == "convolution" else f"{k} {i}" for k, i in primitives if k != "reorder"]
    found: Facts = {"onednn": ", ".join(dict.fromkeys(shown)) or "not used"}
    if primitives:
        found["reorders"] = sum(kind == "reorder" for kind, _ in primitives)
    if calls:
        found["mkl"] = ", ".join(f"{n} {name}" for name, n in sorted(Counter(calls).items()))
    return found


@contextlib.contextmanager
def _standard_output() -> Iterator[list[str]]:
    """What C libraries print to file descriptor 1 meanwhile; the list is filled at the end."""
    import ctypes

    said: list[str] = []
    c_library = ctypes.CDLL(None)
    with tempfile.TemporaryFile() as file:
        sys.stdout.flush()
        c_library.fflush(None)
        kept = os.dup(1)
        os.dup2(file.fileno(), 1)
        try:
            yield said
        finally:
            c_library.fflush(None)
            os.dup2(kept, 1)
            os.close(kept)
            file.seek(0)
            said.append(file.read().decode(errors="replace"))


# --- CUDA: written from the libraries' documentation, not run on a GPU ---------------------------------


def _numba_cuda(kernel: Any, plan: Any, problem: Any, call: Any) -> Facts:
    functions = [f for f in plan.code if hasattr(f, "get_regs_per_thread")]  # the simulator's have none
    if not functions:
        return {}
    found: Facts = {
        "registers": max(_each(f.get_regs_per_thread) for f in functions),
        "local_bytes": max(_each(f.get_local_mem_per_thread) for f in functions),
        "shared_bytes": max(_each(f.get_shared_mem_per_block) for f in functions),
    }
    with contextlib.suppress(Exception):  # needs nvdisasm, which comes with the CUDA toolkit alone
        texts = (t for f in functions for t in f.inspect_sass().values())
        found |= read_sass("\n".join(texts))
    return found


def _each(ask: Callable[[], Any]) -> int:
    """The most of what Numba tells for each compiled version."""
    told = ask()
    return max(told.values()) if isinstance(told, dict) else int(told)


# What decides: arithmetic, loads by width, copies that pass the registers by, spills, barriers
_SASS = {
    "ffma": r"FFMA",
    "dfma": r"DFMA",
    "mma": r"[HDI]G?MMA",
    "hgmma": r"HGMMA",
    "ldg_128": r"LDG\.\S*128",
    "ldg": r"LDG\b",
    "lds_128": r"LDS\.\S*128",
    "lds_64": r"LDS\.\S*64",
    "lds": r"LDS\b",
    "ldsm": r"LDSM",
    "sts_128": r"STS\.\S*128",
    "sts": r"STS\b",
    "ldgsts_128": r"LDGSTS\.\S*128",
    "ldgsts": r"LDGSTS",
    "spills": r"(?:LDL|STL)",
    "bar": r"BAR",
}
# a predicate !PT is never true: such an instruction only keeps others apart
_SASS_LINE = re.compile(r"/\*[0-9a-f]+\*/\s+(?:@!?U?P(?!T\b)\w+\s+)?([A-Z][\w.]*)")


def read_sass(text: str) -> Facts:
    """Counts of SASS instructions that decide speed, and a hash of all operation codes in order."""
    codes = _SASS_LINE.findall(text)
    found: Facts = {name: sum(bool(re.match(pattern, code)) for code in codes) for name, pattern in _SASS.items()}
    return found | {"instructions": len(codes), "sass_hash": _hash(codes)}


def _cupy(kernel: Any, plan: Any, problem: Any, call: Any) -> Facts:
    functions = [f for f in plan.code if hasattr(f, "num_regs")]
    if not functions:
        return {}
    return {
        "registers": max(f.num_regs for f in functions),
        "local_bytes": max(f.local_size_bytes for f in functions),
        "shared_bytes": max(f.shared_size_bytes for f in functions),
    }


def _torch_cuda(kernel: Any, plan: Any, problem: Any, call: Callable[[], Any] | None) -> Facts:
    """Names of the kernels that one call launches, cuDNN's among them."""
    if call is None:
        return {}
    from torch.profiler import ProfilerActivity, profile

    kernel.backend.synchronize()
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as seen:
        call()
        kernel.backend.synchronize()
    events = [e for e in seen.events() or [] if str(e.device_type).endswith("CUDA")]
    events.sort(key=lambda e: e.time_range.start)
    names = [short_name(e.name) for e in events if not e.name.startswith(("Memcpy", "Memset"))]
    shown = ", ".join(dict.fromkeys(names))
    return {"kernels": shown[:400], "launches": len(names)} if names else {}


def short_name(text: str) -> str:
    """A CUDA kernel's name without template arguments and parameters."""
    text = text.removeprefix("void ").replace("(anonymous namespace)::", "")
    return re.split(r"[<(]", text, maxsplit=1)[0].strip()


_READERS: dict[str, Callable[[Any, Any, Any, Any], Facts]] = {
    "numpy": _numpy,
    "numba": _numba,
    "numba_cuda": _numba_cuda,
    "cupy": _cupy,
    "torch_cpu": _torch_cpu,
    "torch_cuda": _torch_cuda,
}
