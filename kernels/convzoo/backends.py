"""The one place that knows libraries and devices: what is missing, transfers, synchronisation, threads.

A backend is a library on a device. ``folder`` is where its kernels lie, ``library`` whose arrays they
take. Nothing optional is imported before a method needs it.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from .problem import Conv2d


def installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):  # a broken or half-removed installation counts as missing
        return False


class EventClock:
    """Seconds between two events that the device itself stamps; ``milliseconds(a, b)`` reads them."""

    def __init__(self, event: Any, record: Any, wait: Any, milliseconds: Any):
        self._events = event(), event()
        self._record, self._wait, self._milliseconds = record, wait, milliseconds

    def start(self) -> None:
        self._record(self._events[0])

    def stop(self) -> float:
        begin, end = self._events
        self._record(end)
        self._wait(end)
        return self._milliseconds(begin, end) / 1e3


class Backend:
    """Arrays in host memory, handled by NumPy; the other backends say where they differ."""

    library = "numpy"
    device = "cpu"

    def __init__(self, name: str, *, needs: str = "numpy", folder: str = ""):
        self.name, self.needs, self.folder = name, needs, folder or name

    def why_not(self) -> str | None:
        """None, or one sentence that says what is missing and how to get it."""
        if not installed(self.needs):
            return f"needs {self.needs}, which is not installed: pip install {self.needs}"
        return None

    def refuses(self, p: Conv2d) -> str | None:
        """What no kernel of this backend can do, in one sentence, or None."""
        return None

    def planning(self) -> contextlib.AbstractContextManager[Any]:
        """Entered around ``plan``; makes the device the library's default."""
        return contextlib.nullcontext()

    def owns(self, a: Any) -> bool:
        return isinstance(a, np.ndarray)

    def take(self, name: str, a: Any) -> Any:
        """A user's array of this library as kernels need it: native, dense, C-contiguous, here."""
        if a.flags.c_contiguous and a.flags.aligned and a.dtype.isnative:
            return a
        # not ascontiguousarray: that keeps the negative stride of a reversed axis of length 1
        return np.array(a, dtype=a.dtype.newbyteorder("="), order="C", copy=True, subok=False)

    def to_device(self, a: np.ndarray) -> Any:
        """A copy of a host array on the device."""
        return np.array(a, dtype=a.dtype.newbyteorder("="), order="C", copy=True, subok=False)

    def to_host(self, a: Any) -> np.ndarray:
        return a

    def overwrite(self, a: Any, values: np.ndarray) -> None:
        """Put host ``values`` into the device array ``a``, in place."""
        a[...] = values

    def synchronize(self) -> None:
        """Return when everything that was asked of the device has been done."""

    def device_clock(self) -> Any:
        """Where the device has a clock of its own: an object with start() and stop() -> seconds."""
        return None

    def one_at_a_time(self) -> str | None:
        """None, or why calls from several threads at once must not be made on this machine."""
        return None

    def set_threads(self, n: int) -> None:
        """Use ``n`` threads from now on. Thread pools that read the environment need it set earlier."""

    def about(self) -> dict[str, str]:
        """Versions and settings that decide what is measured."""
        module = importlib.import_module(self.needs) if installed(self.needs) else None
        return {self.needs: getattr(module, "__version__", "not installed")}


class Numba(Backend):
    def one_at_a_time(self) -> str | None:
        from numba.np.ufunc.parallel import threading_layer

        with contextlib.suppress(ValueError):  # no parallel function has run yet
            if threading_layer() == "workqueue":
                return "runs on numba's workqueue layer, which is not threadsafe: pip install tbb"
        return None

    def set_threads(self, n: int) -> None:
        import numba
        from numba.core import config

        numba.set_num_threads(min(n, config.NUMBA_NUM_THREADS))  # type: ignore[attr-defined]

    def about(self) -> dict[str, str]:
        import llvmlite.binding
        import numba

        return {
            "numba": numba.__version__,
            "llvm": ".".join(map(str, llvmlite.binding.llvm_version_info)),
            "cpu": llvmlite.binding.get_host_cpu_name(),
        }


class NumbaCuda(Backend):
    """numba.cuda on the current CUDA device, or its simulator where NUMBA_ENABLE_CUDASIM=1."""

    library, device = "numba_cuda", "cuda"

    def why_not(self) -> str | None:
        if not installed("numba"):
            return "needs numba, which is not installed: pip install numba"
        from numba import cuda

        if cuda.is_available():
            return None
        return (
            "needs an NVIDIA GPU with its driver: numba.cuda finds none "
            "(with a GPU: pip install 'convzoo[cuda12]'; without one: NUMBA_ENABLE_CUDASIM=1 simulates it)"
        )

    @property
    def simulated(self) -> bool:
        return os.environ.get("NUMBA_ENABLE_CUDASIM", "0") not in ("", "0")

    def planning(self) -> contextlib.AbstractContextManager[Any]:
        from numba.core import config

        # a small problem cannot fill a GPU; to be told so at every launch helps nobody
        config.CUDA_LOW_OCCUPANCY_WARNINGS = 0  # type: ignore[attr-defined]
        return contextlib.nullcontext()

    def owns(self, a: Any) -> bool:
        return hasattr(a, "copy_to_host") and type(a).__module__.startswith("numba")

    def take(self, name: str, a: Any) -> Any:
        if a.is_c_contiguous():
            return a
        return self.to_device(a.copy_to_host())

    def to_device(self, a: np.ndarray) -> Any:
        from numba import cuda

        if a.size == 0:  # CUDA has no empty allocation with a pointer to copy to
            return cuda.device_array(a.shape, a.dtype.newbyteorder("="))  # type: ignore[arg-type]
        return cuda.to_device(super().to_device(a))

    def to_host(self, a: Any) -> np.ndarray:
        return a.copy_to_host()

    def overwrite(self, a: Any, values: np.ndarray) -> None:
        a.copy_to_device(np.array(values, order="C"))

    def synchronize(self) -> None:
        from numba import cuda

        cuda.synchronize()

    def device_clock(self) -> Any:
        from numba import cuda

        if self.simulated:
            return None
        return EventClock(
            cuda.event, lambda e: e.record(), lambda e: e.synchronize(), lambda a, b: a.elapsed_time(b)
        )

    def about(self) -> dict[str, str]:
        import numba
        from numba import cuda

        about = {
            "numba": numba.__version__,
            "numba_cuda": str(getattr(cuda, "implementation", "simulator")),
        }
        with contextlib.suppress(Exception):  # the simulator and old drivers do not say
            about["gpu"] = cuda.get_current_device().name.decode()
            about["cuda_runtime"] = ".".join(map(str, cuda.runtime.get_version()))
        return about


class Cupy(Backend):
    library, device = "cupy", "cuda"

    def why_not(self) -> str | None:
        if not installed("cupy"):
            return "needs CuPy, which is not installed: pip install 'convzoo[cuda12]' (or cuda13)"
        try:
            import cupy

            if cupy.is_available():
                return None
        except ImportError as error:
            return f"needs a CuPy that imports: {str(error).splitlines()[0]}"
        return "needs an NVIDIA GPU with its driver: CuPy finds none"

    def owns(self, a: Any) -> bool:
        return type(a).__module__.partition(".")[0] == "cupy"

    def take(self, name: str, a: Any) -> Any:
        import cupy

        return a if a.flags.c_contiguous else cupy.array(a, order="C")

    def to_device(self, a: np.ndarray) -> Any:
        import cupy

        return cupy.array(super().to_device(a))

    def to_host(self, a: Any) -> np.ndarray:
        return a.get()

    def overwrite(self, a: Any, values: np.ndarray) -> None:
        a.set(np.array(values, dtype=a.dtype, order="C"))

    def synchronize(self) -> None:
        import cupy

        cupy.cuda.Device().synchronize()

    def device_clock(self) -> Any:
        import cupy

        return EventClock(
            cupy.cuda.Event,
            lambda e: e.record(),
            lambda e: e.synchronize(),
            cupy.cuda.get_elapsed_time,
        )

    def about(self) -> dict[str, str]:
        import cupy

        about = {"cupy": cupy.__version__}
        with contextlib.suppress(Exception):
            about["gpu"] = cupy.cuda.runtime.getDeviceProperties(0)["name"].decode()
            about["cuda_runtime"] = str(cupy.cuda.runtime.runtimeGetVersion())
        return about


class Torch(Backend):
    """torch on one device. Kernels read the device with ``torch.get_default_device()`` while planning.

    Strict float32 does not hang on a process-wide switch here: the kernels pass ``allow_tf32`` with
    every call, so a user's own settings neither leak in nor are changed.
    """

    library = "torch"

    def __init__(self, device: str):
        super().__init__(f"torch_{device}", needs="torch", folder="torch")
        self.device = device

    def why_not(self) -> str | None:
        if not installed("torch"):
            return f"needs torch, which is not installed: pip install 'convzoo[{self._profile()}]'"
        if self.device == "cpu":
            return None
        import torch

        if self.device == "cuda":
            if torch.cuda.is_available():
                return None
            if torch.version.cuda is None:
                return f"needs a torch built for CUDA: torch {torch.__version__} is not"
            return "needs an NVIDIA GPU with its driver: torch finds none"
        if torch.backends.mps.is_available():
            return None
        return "needs a Mac with Apple silicon and macOS 12.3 or later: torch finds no MPS device"

    def _profile(self) -> str:
        return "cuda12" if self.device == "cuda" else "cpu"

    def refuses(self, p: Conv2d) -> str | None:
        if self.device == "mps" and p.dtype == "float64":
            return "needs float32: Apple's MPS has no float64"
        if self.device == "mps" and max(p.P, p.Q, p.K) > 65536:
            return "needs outputs of at most 65536 per dimension: MPS is wrong or refuses above"
        return None

    def planning(self) -> contextlib.AbstractContextManager[Any]:
        import torch

        return torch.device(self.device)

    def owns(self, a: Any) -> bool:
        import torch

        return type(a) is torch.Tensor  # a subclass may do its work when it is read

    def take(self, name: str, a: Any) -> Any:
        import torch

        if a.requires_grad:
            raise ValueError(
                f"conv2d: {name} must not require grad (no kernel here computes one; pass "
                f"{name}.detach()), got requires_grad=True"
            )
        if a.layout is not torch.strided:
            raise TypeError(f"conv2d: {name} must be a dense tensor, got layout {a.layout}")
        if a.device.type != self.device:
            raise ValueError(f"conv2d: {name} must be on {self.device}, got {a.device}")
        return a.contiguous()

    def to_device(self, a: np.ndarray) -> Any:
        import torch

        return torch.from_numpy(super().to_device(a)).to(self.device)

    def to_host(self, a: Any) -> np.ndarray:
        return a.detach().cpu().numpy()

    def overwrite(self, a: Any, values: np.ndarray) -> None:
        import torch

        a.copy_(torch.from_numpy(np.array(values, order="C")))

    def synchronize(self) -> None:
        if self.device != "cpu":
            import torch

            getattr(torch, self.device).synchronize()

    def device_clock(self) -> Any:
        if self.device == "cpu":
            return None
        import torch

        event = getattr(torch, self.device).Event
        return EventClock(
            lambda: event(enable_timing=True),
            lambda e: e.record(),
            lambda e: e.synchronize(),
            lambda a, b: a.elapsed_time(b),
        )

    def set_threads(self, n: int) -> None:
        import torch

        torch.set_num_threads(n)

    def about(self) -> dict[str, str]:
        import torch

        about = {
            "torch": torch.__version__,
            "allow_tf32": "told with every call, never the global switch",
        }
        if self.device == "cuda":
            about["cudnn"] = str(torch.backends.cudnn.version())
            about["gpu"] = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
        if self.device == "mps":
            fallback = os.environ.get("PYTORCH_ENABLE_MPS_FALLBACK", "unset")
            about["PYTORCH_ENABLE_MPS_FALLBACK"] = fallback
        return about


class Engine(Backend):
    """An inference engine on the CPU: a library that is told its threads whenever it is given weights.

    Its kernels read their number as CONVZOO_THREADS from the environment while planning: what
    ``set_threads`` said, else OMP_NUM_THREADS, else all usable CPUs.
    """

    _planning = threading.RLock()  # the environment is one for all engines

    def __init__(self, name: str, *others: str):
        super().__init__(name, needs=name)
        self.modules = (name, *others)
        self.threads = _threads_by_default()
        self.cpus: list[int] = []  # where set_threads has bound them, in order; empty: nowhere

    def why_not(self) -> str | None:
        missing = [m for m in self.modules if not installed(m)]
        if missing:
            verb = "is" if len(missing) == 1 else "are"
            names = " and ".join(missing)
            return f"needs {names}, which {verb} not installed: pip install 'convzoo[peers]'"
        return None

    @contextlib.contextmanager
    def planning(self) -> Iterator[None]:
        with self._planning:
            os.environ["CONVZOO_THREADS"] = str(self.threads)
            os.environ["CONVZOO_CPUS"] = ",".join(map(str, self.cpus))
            yield

    def set_threads(self, n: int) -> None:
        self.threads = n

    def about(self) -> dict[str, str]:
        return {m: importlib.import_module(m).__version__ for m in self.modules} | {
            "threads": str(self.threads)
        }


class OnnxRuntime(Engine):
    def set_threads(self, n: int) -> None:
        """Where OMP_PROC_BIND asks for bound threads, this one is bound and kernels bind the others.

        An OpenMP runtime would do so unasked, but this library has none, and two of its threads that
        share a core, each spinning for the other, take twice the time or more.
        """
        super().set_threads(n)
        bound = os.environ.get("OMP_PROC_BIND", "").lower() in ("true", "close", "spread")
        if bound and not self.cpus and hasattr(os, "sched_setaffinity"):
            cpus = _one_cpu_of_each_core()
            if n <= len(cpus):
                self.cpus = cpus
                os.sched_setaffinity(0, cpus[:1])


def _threads_by_default() -> int:
    asked = os.environ.get("OMP_NUM_THREADS", "")
    if asked.isdecimal() and int(asked):
        return int(asked)
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _one_cpu_of_each_core() -> list[int]:
    """The first CPU, among those this process may run on, of each core."""
    cores: dict[str, int] = {}
    for cpu in sorted(os.sched_getaffinity(0)):
        try:
            siblings = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
            core = siblings.read_text()
        except OSError:
            core = str(cpu)
        cores.setdefault(core, cpu)
    return list(cores.values())


BACKENDS: dict[str, Backend] = {
    b.name: b
    for b in (
        Backend("python"),
        Backend("numpy"),
        Numba("numba", needs="numba"),
        NumbaCuda("numba_cuda", needs="numba"),
        Cupy("cupy", needs="cupy"),
        Torch("cpu"),
        Torch("cuda"),
        Torch("mps"),
        OnnxRuntime("onnxruntime", "onnx"),
        Engine("openvino"),
        Engine("ncnn"),
    )
}


def default_torch_device() -> str:
    """cuda, else mps, else cpu: the order of the seed notebook."""
    for name in ("cuda", "mps"):
        if BACKENDS[f"torch_{name}"].why_not() is None:
            return name
    return "cpu"
