"""``make gpu-offline``: what NVIDIA's compilers make of the GPU kernels, without a GPU.

Every numba_cuda kernel and every CUDA C++ source of the cupy folder is compiled for the architectures
below, as its own plan would have it compiled; registers, spills, shared memory, occupancy and the counts
of the instructions that decide go into reports/gpu_code.json, a row for each function x problem x
architecture, and from there into reports/gpu_code.md. Both are committed. ``--check`` compiles again and
says what is no longer so. No driver is needed, only ``pip install 'convzoo[gpucheck]'``.

Four rules hold for every row (``faults``): nothing spilled, nothing in local memory, at least one block
fits on a multiprocessor, and a machine instruction that a kernel's docstring names is in its code.
"""

from __future__ import annotations

import ast
import hashlib
import io
import json
import re
import struct
import subprocess
import sys
import tempfile
import tokenize
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from benchmarks.fingerprint import read_sass
from benchmarks.hardware import usable_cpus
from benchmarks.record import ROOT
from convzoo import Conv2d, Unsupported, names
from convzoo.catalog import Kernel, find

from .gpu_launches import Function, Launch, launches

TABLE = ROOT / "reports" / "gpu_code.json"
SCHEMA = "convzoo.gpu-code/1"
ARCHITECTURES = ("sm_80", "sm_90")  # A100; H100 and H200
REFERENCE = "n32c256h56w56k256r3s3-p1"  # the layer that the goals are stated for
PROBLEMS = (
    REFERENCE,
    REFERENCE + "-nhwc",
    "n32c256h56w56k64r1s1",
    "n3c10h13w11k14r3s2-st2x1-p1_2_0_1-d1x2-g2-nobias",  # every option, and sizes that 4 divides nowhere
)
COLUMNS = {
    "kernel": "name in the catalog",
    "function": "the GPU function; a kernel may have several",
    "stage": "where it is launched: pack, once per set of weights, or run",
    "problem": "the convolution, as Conv2d.parse reads it",
    "arch": "what it was compiled for",
    "grid": "blocks along x, y, z",
    "block": "threads along x, y, z",
    "registers": "of a thread",
    "spill_bytes": "of a thread, stored and loaded, as the assembler tells",
    "local_bytes": "stack of a thread, in local memory",
    "shared_bytes": "of a block, static and dynamic together",
    "blocks_per_sm": "that fit on a multiprocessor at once",
    "warps_per_sm": "of these blocks together",
    "occupancy": "these warps as a share of the most a multiprocessor can hold",
    "limited_by": "what keeps further blocks out",
    "ffma": "fused multiply-adds, float32 (as written, not as executed: a loop counts once)",
    "dfma": "the same, float64",
    "mma": "tensor-core instructions, warp and warpgroup",
    "hgmma": "those of a warpgroup",
    "ldg": "loads from global memory",
    "ldg_128": "those of 16 bytes",
    "ldgsts": "copies from global to shared memory past the registers (cp.async)",
    "ldgsts_128": "those of 16 bytes",
    "lds": "loads from shared memory",
    "lds_64": "those of 8 bytes",
    "lds_128": "those of 16 bytes",
    "ldsm": "loads of matrix fragments from shared memory (ldmatrix)",
    "sts": "stores to shared memory",
    "sts_128": "those of 16 bytes",
    "spills": "loads from and stores to local memory",
    "bar": "barriers of a block",
    "instructions": "all of them",
    "sass_hash": "of the operation codes in order",
}


# --- how many blocks fit ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Multiprocessor:
    """Limits of one multiprocessor: CUDA C++ Programming Guide, "Technical Specifications per Compute
    Capability"; what is rounded to what: NVIDIA's cuda_occupancy.h, which the toolkit carries."""

    shared: int
    registers: int = 65536
    quarters: int = 4  # a warp lives in one, with a quarter of the registers
    register_unit: int = 256  # a warp's registers come in these
    warps: int = 64
    blocks: int = 32
    shared_unit: int = 128
    reserved: int = 1024  # shared bytes of every block that the driver takes

    @property
    def shared_of_a_block(self) -> int:
        return self.shared - self.reserved


LIMITS = {"sm_80": Multiprocessor(164 * 1024), "sm_90": Multiprocessor(228 * 1024)}
LIMITS["sm_90a"] = LIMITS["sm_90"]


def occupancy(arch: str, registers: int, threads: int, shared: int) -> dict[str, Any]:
    """Blocks and warps that fit on a multiprocessor at once, and what keeps the next one out."""
    limit = LIMITS[arch]
    warps = -(-threads // 32)
    of_a_warp = -(-registers * 32 // limit.register_unit) * limit.register_unit
    by_registers = limit.registers // limit.quarters // max(of_a_warp, 1) * limit.quarters // warps
    if of_a_warp * -(-warps // limit.quarters) * limit.quarters > limit.registers:
        by_registers = 0
    of_a_block = -(-(shared + limit.reserved) // limit.shared_unit) * limit.shared_unit
    fits = {
        "registers": by_registers,
        "shared memory": 0 if shared > limit.shared_of_a_block else limit.shared // of_a_block,
        "warps": limit.warps // warps if threads <= 1024 else 0,
        "blocks": limit.blocks,
    }
    what = min(fits, key=lambda name: fits[name])
    blocks = fits[what]
    return {
        "blocks_per_sm": blocks,
        "warps_per_sm": blocks * warps,
        "occupancy": round(blocks * warps / limit.warps, 3),
        "limited_by": what,
    }


# --- compilers ----------------------------------------------------------------------------------------


def compilers() -> dict[str, str]:
    """What the numbers depend on beside the sources. Raises ImportError where something is missing."""
    from importlib.metadata import version

    import cuda.bindings
    import numba
    from numba import cuda as numba_cuda

    if getattr(numba_cuda, "implementation", "") != "NVIDIA":
        raise ImportError("numba-cuda is not installed", name="numba-cuda")
    assert cuda.bindings  # beside numba-cuda, what compiles C++
    found = {"python": "{}.{}".format(*sys.version_info), "numba": numba.__version__}
    wheels = ("numba-cuda", "nvidia-nvvm", "nvidia-nvjitlink", "nvidia-cuda-nvrtc", "nvidia-cuda-nvdisasm")
    return found | {name: version(name) for name in wheels}


def compiled(function: Function, arch: str) -> tuple[bytes, str]:
    """A cubin, and what the assembler said of it."""
    return (_from_python if function.body else _from_cpp)(function, arch)


def _from_python(function: Function, arch: str) -> tuple[bytes, str]:
    from cuda.core import Linker, LinkerOptions, ObjectCode
    from numba import cuda as numba_cuda

    cuda: Any = numba_cuda  # compile is numba-cuda's; the numba.cuda in numba keeps it elsewhere
    options = dict(function.options)
    most = options.pop("max_registers", None)
    capability = (int(arch[3:-1]), int(arch[-1]))
    ptx, _ = cuda.compile(
        function.body, function.signature, device=False, abi="numba", cc=capability, output="ptx", **options
    )
    linker = Linker(
        ObjectCode.from_ptx(ptx.encode()),
        options=LinkerOptions(arch=arch, ptxas_options=["-v"], max_register_count=most),
    )
    return bytes(linker.link("cubin").code), linker.get_info_log()


def _from_cpp(function: Function, arch: str) -> tuple[bytes, str]:
    from cuda.bindings import nvrtc

    def ask(name: str, *arguments: Any) -> Any:
        error, *answer = getattr(nvrtc, name)(*arguments)
        if error != nvrtc.nvrtcResult.NVRTC_SUCCESS:
            raise RuntimeError(f"{function.name}: {name} said {error.name}\n{log()}")
        return answer[0] if answer else None

    def log() -> str:
        size = nvrtc.nvrtcGetProgramLogSize(program)[1]
        nvrtc.nvrtcGetProgramLog(program, text := b" " * size)
        return text.decode().rstrip("\0")

    own = [o for o in function.options if not re.match(r"--?(gpu-)?arch", o)]
    headers = f"-I{Path(nvidia_folder(), 'include')}"
    options = [o.encode() for o in (*own, headers, f"--gpu-architecture={arch}", "--ptxas-options=-v")]
    program = ask("nvrtcCreateProgram", function.source.encode(), b"kernel.cu", 0, [], [])
    ask("nvrtcCompileProgram", program, len(options), options)
    cubin = b" " * ask("nvrtcGetCUBINSize", program)
    ask("nvrtcGetCUBIN", program, cubin)
    return cubin, log()


def nvidia_folder() -> Path:
    """Where the wheels of CUDA 13 put their headers and programs."""
    import nvidia

    return next(Path(p) / "cu13" for p in nvidia.__path__ if (Path(p) / "cu13" / "bin" / "nvdisasm").exists())


def disassembled(cubin: bytes) -> dict[str, str]:
    """SASS of each function of a cubin."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [str(nvidia_folder() / "bin" / "nvdisasm"), "-c", file.name]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    parts = re.split(r"^\.text\.(\S+):$", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def told(log: str) -> dict[str, dict[str, int]]:
    """Registers, spills and stack of each function, from the assembler's words."""
    found: dict[str, dict[str, int]] = {}
    name = ""
    for line in log.splitlines():
        if match := re.search(r"Compiling entry function '([^']+)'", line):
            name = match[1]
        elif match := re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill", line):
            stack, stores, loads = map(int, match.groups())
            found.setdefault(name, {}).update(local_bytes=stack, spill_bytes=stores + loads)
        elif match := re.search(r"Used (\d+) registers", line):
            found.setdefault(name, {}).update(registers=int(match[1]))
    return found


def static_shared(cubin: bytes, arch: str) -> dict[str, int]:
    """Bytes of shared memory that each function declares: the sizes of the ELF sections .nv.shared.*

    For sm_90 they include the driver's share, which ``occupancy`` adds for every architecture.
    """
    included = LIMITS[arch].reserved if arch.startswith("sm_9") else 0
    (table,) = struct.unpack_from("<Q", cubin, 0x28)
    size, count, names = struct.unpack_from("<HHH", cubin, 0x3A)
    headers = [struct.unpack_from("<IIQQQQ", cubin, table + i * size) for i in range(count)]
    found = {}
    for header in headers:
        start = headers[names][4] + header[0]
        name = cubin[start : cubin.index(b"\0", start)].decode()
        if name.startswith(".nv.shared.") and "reserved" not in name:
            found[name.removeprefix(".nv.shared.")] = max(0, header[5] - included)
    return found


def measure(launch: Launch, arch: str, cache: dict[Any, Any]) -> dict[str, Any]:
    """The columns of one launch that compilers decide, for one architecture."""
    function = launch.function
    key = (function.body or function.source, str(function.signature), str(function.options), arch)
    if key not in cache:
        cubin, log = compiled(function, arch)
        cache[key] = (told(log), disassembled(cubin), static_shared(cubin, arch))
    functions, texts, static = cache[key]
    # Numba's symbol holds the function's name among others; a cubin of Numba's holds one function
    symbol = function.name if function.source else next(iter(functions))
    said = functions[symbol]
    shared = static.get(symbol, 0) + launch.dynamic_shared_bytes
    x, y, z = launch.block
    return (
        said
        | {"shared_bytes": shared}
        | occupancy(arch, said["registers"], x * y * z, shared)
        | read_sass(texts[symbol])
    )


# --- the table ----------------------------------------------------------------------------------------


def kernels() -> list[str]:
    """Kernels that hand functions to a GPU compiler; array code in CuPy leaves that to its libraries."""
    raw = [n for n in names("cupy/*") if any("Raw" in path.read_text("utf-8") for path in sources(find(n)))]
    return [*names("numba_cuda/*"), *raw]


def architectures(kernel: Kernel) -> tuple[str, ...]:
    """Warpgroup instructions exist in sm_90a alone; everything else is compiled for all."""
    texts = [path.read_text("utf-8") for path in sources(kernel)]
    return ("sm_90a",) if any("wgmma." in text for text in texts) else ARCHITECTURES


def rows(name: str) -> tuple[list[dict[str, Any]], list[dict[str, str]]]:
    """All rows of one kernel, and the problems it refused, with its words."""
    kernel = find(name)
    found: list[dict[str, Any]] = []
    refused: list[dict[str, str]] = []
    cache: dict[Any, Any] = {}
    for text in PROBLEMS:
        for arch in architectures(kernel):
            try:
                every = launches(kernel, Conv2d.parse(text), (int(arch[3:].rstrip("a")) // 10, 0))
            except Unsupported as reason:
                refused.append({"kernel": name, "problem": text, "arch": arch, "why": str(reason)})
                continue
            seen = set()
            for launch in every:
                key = (id(launch.function), launch.grid, launch.block, launch.stage)
                if key in seen:
                    continue
                seen.add(key)
                row = {
                    "kernel": name,
                    "function": launch.function.name,
                    "stage": launch.stage,
                    "problem": text,
                    "arch": arch,
                    "grid": list(launch.grid),
                    "block": list(launch.block),
                }
                row |= measure(launch, arch, cache)
                found.append({column: row[column] for column in COLUMNS})
    return found, refused


def build(names: Iterable[str], known: dict[str, Any] | None = None) -> dict[str, Any]:
    """The table; rows of ``known`` are kept where neither their sources nor the compilers changed."""

    known = known or {}
    tools = compilers()
    document: dict[str, Any] = {
        "schema": SCHEMA,
        "compilers": tools,
        "columns": COLUMNS,
        "problems": list(PROBLEMS),
        "sources": {name: source_hash(find(name)) for name in names},
        "claims": {name: claims(find(name).doc) for name in names},
        "rows": [],
        "refused": [],
    }
    same = all(known.get(key) == document[key] for key in ("compilers", "columns", "problems"))
    kept = {n for n, h in document["sources"].items() if same and known["sources"].get(n) == h}
    todo = [name for name in document["sources"] if name not in kept]
    fresh: dict[str, Any] = {}
    if todo:
        workers = min(usable_cpus(), len(todo))
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
            fresh = dict(zip(todo, pool.map(rows, todo), strict=True))
    for name in document["sources"]:
        if name in kept:
            document["rows"] += [r for r in known["rows"] if r["kernel"] == name]
            document["refused"] += [r for r in known["refused"] if r["kernel"] == name]
        else:
            document["rows"] += fresh[name][0]
            document["refused"] += fresh[name][1]
    return document


def text_of(document: dict[str, Any]) -> str:
    """JSON with a row on each line, so that a change is a changed line."""
    parts = []
    for key, value in document.items():
        if isinstance(value, list) and value and isinstance(value[0], dict):
            lines = ",\n".join("  " + json.dumps(row) for row in value)
            parts.append(f" {json.dumps(key)}: [\n{lines}\n ]")
        else:
            parts.append(f" {json.dumps(key)}: " + json.dumps(value, indent=1).replace("\n", "\n "))
    return "{\n" + ",\n".join(parts) + "\n}\n"


def load(path: Path = TABLE) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


# --- what was compiled --------------------------------------------------------------------------------


def sources(kernel: Kernel) -> list[Path]:
    """The kernel's file, its CUDA C++ and the building blocks of its folder that it imports."""
    folder, found = kernel.path.parent, [kernel.path]
    for path in found:
        text = path.read_text(encoding="utf-8")
        wanted = re.findall(r"\b(_\w+)\b", text) if path.suffix == ".py" else []
        near = [folder / f"{name}.py" for name in wanted]
        near += [folder / name for name in re.findall(r"[\w.]+\.cuh?\b", text)]
        near += [path.with_suffix(".cu")] if path.suffix == ".py" else []
        found += [p for p in dict.fromkeys(near) if p.exists() and p not in found]
    return found


def source_hash(kernel: Kernel) -> str:
    """Of everything that is compiled; words for readers are no part of it."""
    parts = []
    for path in sorted(sources(kernel)):
        text = path.read_text(encoding="utf-8")
        plain = _without_words(text) if path.suffix == ".py" else re.sub(r"//.*|/\*.*?\*/", "", text)
        parts.append("\n".join(line.rstrip() for line in plain.splitlines() if line.strip()))
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _without_words(text: str) -> str:
    """Python source without docstrings and comments."""
    lines = text.splitlines()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            row, column = token.start
            lines[row - 1] = lines[row - 1][:column]
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.Module, ast.FunctionDef, ast.ClassDef)) and ast.get_docstring(node):
            words = node.body[0]
            for row in range(words.lineno, (words.end_lineno or words.lineno) + 1):
                lines[row - 1] = ""
    return "\n".join(lines)


# --- the rules ----------------------------------------------------------------------------------------

# A docstring that names one of these says that the kernel's code has it.
_NAMED = re.compile(r"\b(?:(?:LDG|LDS|STS)\.128|LDGSTS|LDSM|HMMA|HGMMA)\b")


def claims(doc: str) -> list[str]:
    """Machine instructions that a docstring names."""
    return sorted(set(_NAMED.findall(doc)))


def holds(claim: str, mine: list[dict[str, Any]]) -> bool:
    """Whether the functions of one kernel, for one problem and architecture, do as claimed.

    Of the bytes that are read from shared memory nearly all, and of those from global memory most, must
    come by vector loads: a tile whose addresses the compiler could not see through keeps a few of them.
    """
    total = {c: sum(row[c] for row in mine) for c in COLUMNS if isinstance(mine[0][c], int)}
    if claim == "LDS.128":
        words = total["lds"] + total["lds_64"] + 3 * total["lds_128"]
        return total["lds_128"] > 0 and 4 * total["lds_128"] >= 0.9 * words
    if claim == "LDG.128":
        words = total["ldg"] + 3 * total["ldg_128"]
        return total["ldg_128"] > 0 and 4 * total["ldg_128"] >= 0.5 * words
    column = {"STS.128": "sts_128", "HMMA": "mma"}.get(claim, claim.lower())
    return total[column] > 0


def faults(document: dict[str, Any]) -> Iterator[str]:
    """Every row that breaks a rule, and every claim that no row bears out, as a sentence."""
    for row in document["rows"]:
        where = f"{row['kernel']}: {row['function']} on {row['problem']} for {row['arch']}"
        if row["spill_bytes"] or row["spills"]:
            yield f"{where} spills: {row['spill_bytes']} bytes, {row['spills']} instructions"
        if row["local_bytes"]:
            yield f"{where} keeps {row['local_bytes']} bytes of a thread in local memory"
        if row["blocks_per_sm"] == 0:
            yield f"{where} fits on no multiprocessor: {row['limited_by']}"
    for kernel, wanted in document["claims"].items():
        mine = [row for row in document["rows"] if row["kernel"] == kernel]
        if not mine:
            yield f"{kernel}: no problem of the table could be compiled"
        for claim in wanted:
            for arch in sorted({row["arch"] for row in mine}):
                layouts = [
                    [row for row in mine if row["arch"] == arch and row["problem"] == problem]
                    for problem in (REFERENCE, REFERENCE + "-nhwc")
                ]
                if not any(part and holds(claim, part) for part in layouts):
                    yield f"{kernel}: its docstring names {claim}, which its code for {arch} lacks on {REFERENCE}"


def differences(old: dict[str, Any], new: dict[str, Any]) -> Iterator[str]:
    """What is no longer so, in sentences."""
    if old.get("compilers") != new["compilers"]:
        yield f"made with {_words(old.get('compilers', {}))}, and here is {_words(new['compilers'])}"
    key = ("kernel", "function", "stage", "problem", "arch", "grid", "block")
    before = {str([r[c] for c in key]): r for r in old.get("rows", [])}
    after = {str([r[c] for c in key]): r for r in new["rows"]}
    for name in dict.fromkeys([*before, *after]):
        a, b = before.get(name), after.get(name)
        row = a or b
        assert row
        where = f"{row['kernel']}: {row['function']} on {row['problem']} for {row['arch']}"
        if a is None or b is None:
            yield f"{where} {'is new' if a is None else 'is gone'}"
        elif changed := [f"{c} {a[c]} -> {b[c]}" for c in COLUMNS if a.get(c) != b[c]]:
            yield f"{where}: {', '.join(changed)}"
    for part in ("columns", "problems", "sources", "claims", "refused"):
        if old.get(part) != new[part]:
            yield f"{part} differ"


def update(check: bool, path: Path = TABLE) -> int:
    """Write the table and its page, or with ``check`` only say what is not as they say. An exit code."""
    known = load(path)
    found = build(kernels(), {} if check else known)
    broken = list(faults(found))
    for sentence in broken:
        print(f"broken rule: {sentence}", file=sys.stderr)
    if check:
        stale = list(differences(known, found))
        for sentence in stale:
            print(f"out of date: {sentence}", file=sys.stderr)
        if stale:
            print(f"{path.name} is out of date; to write it: make gpu-offline", file=sys.stderr)
        else:
            print(f"{path.name} is up to date: {len(found['rows'])} rows")
        return 1 if stale or broken else 0
    path.write_text(text_of(found), encoding="utf-8")
    page = [sys.executable, "-m", "reports", "gpu-code", str(path)]
    subprocess.run(page, cwd=ROOT, check=True)
    print(f"{path} written: {len(found['rows'])} rows")
    return 1 if broken else 0


def _words(found: dict[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in found.items()) or "nothing"
