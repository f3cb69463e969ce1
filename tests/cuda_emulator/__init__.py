"""CUDA C++ without a GPU: a stand-in for CuPy whose device is this CPU.

``Emulator`` takes the place of the name ``cupy`` in a kernel's module. Its RawModule compiles the very
text that NVRTC would get, with g++ and the headers beside this file, and launches it on NumPy arrays: so
the Python half of a kernel is tested too, its grid, the order of its arguments, their sizes in bytes.

Plain, a kernel runs in this process. With a sanitizer it runs as a program of its own, on arrays that end
where they end, and what the sanitizer says is the error.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import re
import shutil
import struct
import subprocess
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

HERE = Path(__file__).resolve().parent
SCHEDULES = ("round robin", "warp forward", "warp reverse", "random")
SANITIZERS = {
    "address": ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fsanitize-sections=cuda_shared"),
    "thread": ("-fsanitize=thread",),
}
FENCE = 512  # elements of NaN before and behind every array
KERNELS = re.compile(r"__global__\s+void\s+(?:__launch_bounds__\([^)]*\)\s*)?(\w+)\s*\(")


@lru_cache(maxsize=4)
def how_to_run(sanitizer: str, folder: Path) -> tuple[str, ...]:
    """What must stand before a program with this sanitizer; skips the test where none can run.

    ThreadSanitizer of older compilers does not start where the kernel scatters addresses widely.
    """
    program = folder / f"only_{sanitizer}"
    command = ["g++", *SANITIZERS[sanitizer], "-x", "c++", "-", "-o", str(program)]
    said = subprocess.run(command, input="int main() {}", capture_output=True, text=True, check=False)
    if said.returncode == 0:
        for before in ((), ("setarch", "-R")):
            if before and shutil.which(before[0]) is None:
                continue
            said = subprocess.run([*before, program], capture_output=True, text=True, check=False)
            if said.returncode == 0:
                return before
    pytest.skip(f"needs g++ with a {sanitizer} sanitizer that runs here: {said.stderr.strip()[-300:]}")


class EmulatorError(Exception):
    """A kernel did what a GPU would not forgive; the text says which thread did what."""


def fenced(shape: Any, dtype: Any = "float32") -> np.ndarray:
    """An array of NaN in the middle of a larger one: a stray read or write meets NaN."""
    shape = (shape,) if isinstance(shape, int) else tuple(shape)
    size = int(np.prod(shape))
    room = np.full(size + 2 * FENCE + 64, np.nan, dtype)
    start = FENCE + (-(room.ctypes.data + FENCE * room.itemsize) % 256) // room.itemsize  # as CuPy aligns
    return room[start : start + size].reshape(shape)


def copied(a: np.ndarray) -> np.ndarray:
    """``a`` in a fenced array."""
    copy = fenced(a.shape, a.dtype.name)
    copy[...] = a
    return copy


def fence_holds(a: np.ndarray) -> bool:
    """Whether what lies around a fenced array is still NaN."""
    whole = a
    while whole.base is not None:
        whole = whole.base
    start = (a.ctypes.data - whole.ctypes.data) // a.itemsize
    return bool(np.isnan(whole[:start]).all() and np.isnan(whole[start + a.size :]).all())


class Emulator:
    """What a kernel's Python half sees as ``cupy``; names that are not here are NumPy's.

    schedule   in which order threads run, one of SCHEDULES; seed goes with "random"
    sanitizer  None, "address" (with UBSan) or "thread"
    edit       a change of the source text before it is compiled: a fault on purpose
    """

    def __init__(self, folder: Path, sanitizer: str | None = None, edit: Callable[[str], str] = str):
        self.folder, self.sanitizer, self.edit = folder, sanitizer, edit
        self.schedule, self.seed, self.first_block = "round robin", 0, 0
        self.empty = fenced
        self.before = how_to_run(sanitizer, folder) if sanitizer else ()
        device = SimpleNamespace(attributes={"MultiProcessorCount": 2}, compute_capability="90")
        self.cuda = SimpleNamespace(Device=lambda: device)

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)

    def get_array_module(self, *arrays: Any) -> Any:
        return self

    def RawModule(self, code: str, options: Sequence[str] = ()) -> Module:
        return Module(self, self.edit(code), tuple(options))

    def RawKernel(self, code: str, name: str, options: Sequence[str] = ()) -> Kernel:
        return self.RawModule(code, options).get_function(name)

    def stands_in(self, monkeypatch: Any, *modules: Any) -> None:
        """Takes the place of ``cupy`` in these modules."""
        for module in modules:
            monkeypatch.setattr(module, "cupy", self)


class Module:
    """cupy.RawModule: all kernels of one text, built once for each text, options and sanitizer."""

    def __init__(self, emulator: Emulator, code: str, options: tuple[str, ...]):
        self.emulator = emulator
        self.names = KERNELS.findall(code)
        table = "".join(f'{{"{name}", launch_{name}}}, ' for name in self.names)
        exports = "".join(f"EXPORT({name})\n" for name in self.names)
        text = f'#include "cuda_on_cpu.h"\n#line 1 "kernel.cu"\n{code}\n{exports}'
        if emulator.sanitizer:
            text += f'#define KERNELS {table}\n#include "program.h"\n'
        flags = SANITIZERS[emulator.sanitizer] if emulator.sanitizer else ("-shared", "-fPIC")
        options = tuple(option for option in options if not option.startswith(("-std", "-arch")))
        key = hashlib.sha256(repr((text, options, flags)).encode()).hexdigest()[:24]
        self.file = emulator.folder / key
        if not self.file.exists():
            self._build(text, (*options, *flags))
        self.library = None if emulator.sanitizer else ctypes.CDLL(str(self.file))

    def _build(self, text: str, options: tuple[str, ...]) -> None:
        command = [
            "g++",
            "-std=c++17",
            "-O1",
            "-g1",
            "-Wall",
            "-Werror",
            "-Wno-unknown-pragmas",
            "-U_FORTIFY_SOURCE",
            f"-I{HERE}",
            *options,
            "-x",
            "c++",
            "-",
            "-o",
            str(self.file),
        ]
        built = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
        if built.returncode:
            raise EmulatorError(f"g++ does not take it:\n{built.stderr}")

    def get_function(self, name: str) -> Kernel:
        if name not in self.names:
            raise EmulatorError(f"there is no kernel {name!r}, only {', '.join(self.names)}")
        return Kernel(self, name)


class Kernel:
    """cupy.RawKernel on NumPy arrays; passes arguments as CuPy does, a Python int as 64 bits."""

    max_dynamic_shared_size_bytes = 48 * 1024

    def __init__(self, module: Module, name: str):
        self.module, self.name = module, name

    def compile(self) -> None:
        pass

    def __call__(
        self, grid: tuple[int, ...], block: tuple[int, ...], args: Sequence[Any], *, shared_mem: int = 0
    ) -> None:
        if shared_mem > self.max_dynamic_shared_size_bytes:
            raise EmulatorError(
                f"{self.name} may have {self.max_dynamic_shared_size_bytes} bytes of dynamic shared "
                f"memory, got {shared_mem}: set max_dynamic_shared_size_bytes"
            )
        if not all(a.flags.c_contiguous for a in args if isinstance(a, np.ndarray)):
            raise EmulatorError(f"{self.name} got an array with gaps or in another order")
        emulator = self.module.emulator
        shape = [*(*grid, 1, 1)[:3], *(*block, 1, 1)[:3], emulator.first_block, shared_mem]
        launch = struct.pack("10I", *shape, SCHEDULES.index(emulator.schedule), emulator.seed)
        if self.module.library is None:
            self._as_program(launch, args)
        else:
            self._here(launch, args)

    def _here(self, launch: bytes, args: Sequence[Any]) -> None:
        values = [np.array(a.ctypes.data if isinstance(a, np.ndarray) else a) for a in args]
        pointers = (ctypes.c_void_p * len(values))(*(v.ctypes.data for v in values))
        bytes_each = (ctypes.c_size_t * len(values))(*(v.nbytes for v in values))
        function = getattr(self.module.library, f"launch_{self.name}")
        function.restype = ctypes.c_char_p
        error = function(launch, pointers, bytes_each, ctypes.c_size_t(len(values)))
        if error is not None:
            raise EmulatorError(f"{self.name}: {error.decode()} ({self._how()})")

    def _as_program(self, launch: bytes, args: Sequence[Any]) -> None:
        """An array goes in and comes back as its bytes alone: there is no fence to hide behind."""
        sent = [launch, struct.pack("Q", len(args))]
        for a in args:
            value = np.array(a)
            sent += [struct.pack("2Q", isinstance(a, np.ndarray), value.nbytes), value.tobytes()]
        quiet = {
            "ASAN_OPTIONS": "detect_leaks=0:detect_stack_use_after_return=0",
            "TSAN_OPTIONS": "halt_on_error=1:atexit_sleep_ms=0",
            "UBSAN_OPTIONS": "print_stacktrace=1",
        }
        done = subprocess.run(
            [*self.module.emulator.before, str(self.module.file), self.name],
            input=b"".join(sent),
            capture_output=True,
            check=False,
            env={**os.environ, **quiet},
        )
        if done.returncode:
            raise EmulatorError(f"{self.name}: {done.stderr.decode(errors='replace')} ({self._how()})")
        rest = memoryview(done.stdout)
        for a in args:
            if isinstance(a, np.ndarray):
                a[...] = np.frombuffer(rest[: a.nbytes], a.dtype).reshape(a.shape)
                rest = rest[a.nbytes :]

    def _how(self) -> str:
        emulator = self.module.emulator
        return f"schedule {emulator.schedule}, seed {emulator.seed}"
