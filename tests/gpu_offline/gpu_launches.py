"""What a GPU kernel's ``plan`` would compile and launch, found out without a GPU.

The kernel's own ``plan``, ``pack`` and ``run`` are called, with a stand-in for the part of the library
that needs a device: what they hand to the compiler and to the device is written down, not done. Nothing
is asked of a kernel file beside what it has anyway, and what is found is what would have run.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import ModuleType, SimpleNamespace
from typing import Any

from convzoo.problem import Conv2d

Extent = tuple[int, int, int]


@dataclass
class Function:
    """One function that was handed to a compiler: Numba's (``body``) or CUDA C++ (``source``)."""

    name: str
    options: Any
    body: Any = None
    signature: Any = None
    source: str = ""


@dataclass
class Launch:
    function: Function
    grid: Extent
    block: Extent
    dynamic_shared_bytes: int
    stage: str


@dataclass
class Found:
    """The launches of one plan, pack and run, in order."""

    launches: list[Launch] = field(default_factory=list)
    stage: str = "plan"

    def note(self, function: Function, grid: Any, block: Any, shared: Any = 0) -> None:
        launch = Launch(function, _extent(grid), _extent(block), int(shared or 0), self.stage)
        self.launches.append(launch)


def _extent(size: Any) -> Extent:
    sizes = tuple(int(n) for n in size) if isinstance(size, (tuple, list)) else (int(size),)
    x, y, z = (*sizes, 1, 1)[:3]
    return x, y, z


def launches(kernel: Any, p: Conv2d, capability: tuple[int, int]) -> list[Launch]:
    """What ``kernel`` launches for ``p`` on a device of this compute capability. Raises Unsupported."""
    stand_in = {"numba_cuda": _numba_without_device, "cupy": _cupy_without_device}[kernel.backend.name]
    found = Found()
    with stand_in(kernel, found, capability) as (module, zeros):
        plan = module.plan(p)
        found.stage = "pack"
        weights = plan.pack(zeros(p.w_shape, p.dtype), zeros((p.K,), p.dtype) if p.bias else None)
        found.stage = "run"
        plan.run(zeros(p.x_shape, p.dtype), weights)
    return found.launches


def _device(capability: tuple[int, int]) -> SimpleNamespace:
    """What a kernel may ask a device while planning; the numbers are an A100's and an H100's."""
    count = {8: 108, 9: 132}[capability[0]]
    return SimpleNamespace(
        compute_capability=capability, MULTIPROCESSOR_COUNT=count, attributes={"MultiProcessorCount": count}
    )


# --- numba.cuda ---------------------------------------------------------------------------------------


@contextlib.contextmanager
def _numba_without_device(kernel: Any, found: Found, capability: tuple[int, int]) -> Iterator[Any]:
    import numpy as np
    from numba import cuda

    class OnDevice(np.ndarray):
        """An array that is never looked into; its memory is not even touched."""

        def copy_to_host(self) -> np.ndarray:
            return np.asarray(self)

        def copy_to_device(self, array: Any) -> None:
            """Nothing: what is copied is never looked into."""

    def zeros(shape: Any, dtype: Any = "float64", **_: Any) -> Any:
        return np.zeros(shape, dtype).view(OnDevice)

    real_jit = cuda.jit

    def jit(signature: Any = None, device: bool = False, **options: Any) -> Any:
        if device or (callable(signature) and options.get("device")):
            return real_jit(signature, device=True, **options)
        if signature is None or callable(signature):
            raise TypeError(f"{kernel.name}: cuda.jit needs a signature, so that plan compiles, not run")

        def recorded(body: Any) -> Any:
            function = Function(body.__name__, options, body=body, signature=signature)
            return _Launcher(function, found)

        return recorded

    module = kernel.module()  # imported with the real cuda: device functions are compiled with it
    changes = {
        "jit": jit,
        "device_array": zeros,
        "to_device": lambda a, *_, **__: np.asarray(a).view(OnDevice),
        "get_current_device": lambda: _device(capability),
        "synchronize": lambda: None,
    }
    before = {name: getattr(cuda, name) for name in changes}
    for name, value in changes.items():
        setattr(cuda, name, value)
    try:
        yield module, zeros
    finally:
        for name, value in before.items():
            setattr(cuda, name, value)


@dataclass
class _Launcher:
    """A compiled kernel as Numba has it: ``compiled[grid, block, stream, shared](...)``."""

    function: Function
    found: Found

    def __getitem__(self, configuration: tuple[Any, ...]) -> Any:
        grid, block, _, shared = (*configuration, 0, 0)[:4]
        return lambda *arrays: self.found.note(self.function, grid, block, shared)


# --- CuPy ---------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _cupy_without_device(kernel: Any, found: Found, capability: tuple[int, int]) -> Iterator[Any]:
    """The kernel's file, imported with a module named cupy that is NumPy with raw kernels added."""
    import numpy as np

    class RawKernel:
        def __init__(self, code: str, name: str, options: tuple[str, ...] = (), **_: Any):
            self.function = Function(name, tuple(options), source=code)
            self.attributes: dict[str, int] = {}
            self.max_dynamic_shared_size_bytes = 0

        def compile(self, *_: Any, **__: Any) -> None:
            pass

        def __call__(self, grid: Any, block: Any, args: tuple, shared_mem: int = 0, **_: Any) -> None:
            found.note(self.function, grid, block, shared_mem)

    class RawModule:
        def __init__(self, code: str, options: tuple[str, ...] = (), **_: Any):
            self.code, self.options = code, options

        def compile(self, *_: Any, **__: Any) -> None:
            pass

        def get_function(self, name: str) -> RawKernel:
            return RawKernel(self.code, name, self.options)

    stand_in: Any = ModuleType("cupy")
    stand_in.__dict__.update(np.__dict__)
    stand_in.RawKernel, stand_in.RawModule = RawKernel, RawModule
    stand_in.asnumpy = stand_in.asarray
    device = _device(capability)
    device.compute_capability = "{}{}".format(*capability)  # CuPy has it as "90"
    stand_in.cuda = SimpleNamespace(Device=lambda *_: device)

    package = importlib.import_module(f"convzoo.{kernel.path.parent.name}")
    mine = package.__name__ + "."

    def forget() -> dict[str, ModuleType]:
        """Take all that was imported with another cupy out of the ways by which imports find it."""
        gone = {n: m for n, m in sys.modules.items() if n == "cupy" or n.startswith(mine)}
        for name in gone:
            del sys.modules[name]
            package.__dict__.pop(name.removeprefix(mine), None)
        return gone

    before = forget()
    sys.modules["cupy"] = stand_in
    try:
        spec = importlib.util.spec_from_file_location(mine + kernel.path.stem, kernel.path)
        assert spec and spec.loader
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        yield module, np.zeros
    finally:
        forget()
        sys.modules.update(before)
        package.__dict__.update({n.removeprefix(mine): m for n, m in before.items() if n != "cupy"})
