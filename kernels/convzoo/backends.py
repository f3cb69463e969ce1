"""The one place that knows libraries and devices: what is missing, transfers, synchronisation, threads.

A backend is a library on a device. ``folder`` is where its kernels lie, ``library`` whose arrays they
take. Nothing optional is imported before a method needs it.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
import sys
import threading
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from . import limits
from .arguments import library
from .plan import Plan
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


_AS_IT_IS = contextlib.nullcontext()
_LOST = (
    "needs a process that was not forked after {0} had started: its {1} did not come along. "
    "Start processes with multiprocessing.get_context('spawn'), {2}"
)


def _torch_rounds(backend: str, what: str) -> str | None:
    """To what torch is told to round float32 numbers there before it multiplies them; None if not at all."""
    import torch

    read = getattr(torch._C, "_get_fp32_precision_getter", None)  # since torch 2.9
    told = read(backend, what) if read else "none"
    return None if told in ("none", "ieee") else told


class Backend:
    """Arrays in host memory, handled by NumPy; the other backends say where they differ."""

    library = "numpy"
    device = "cpu"
    used = False  # whether a kernel was planned here, in this process or in one that it was forked from
    lost = ""  # in a forked process: what the fork took away

    def __init__(self, name: str, *, needs: str = "numpy", folder: str = ""):
        self.name, self.needs, self.folder = name, needs, folder or name

    def why_not(self) -> str | None:
        """None, or one sentence that says what is missing and how to get it."""
        return self.lost or self._missing()

    def _missing(self) -> str | None:
        if not installed(self.needs):
            return f"needs {self.needs}, which is not installed: pip install {self.needs}"
        return None

    def refuses(self, p: Conv2d) -> str | None:
        """What no kernel of this backend can do, in one sentence, or None."""
        return None

    def planning(self) -> contextlib.AbstractContextManager[Any]:
        """Entered around ``plan``; makes the device the library's default."""
        return contextlib.nullcontext()

    def safe(self, plan: Plan) -> Plan:
        """The plan as it may be called from several threads at once."""
        return plan

    def calling(self) -> contextlib.AbstractContextManager[Any]:
        """Entered around ``pack`` and ``run``: what the library was set to elsewhere must not change results."""
        return _AS_IT_IS

    def forked(self) -> None:
        """Called in the child of a fork: find out what is ``lost``."""

    def owns(self, a: Any) -> bool:
        return library(a) == self.library

    def take(self, name: str, a: Any) -> Any:
        """A user's array of this library as kernels need it: native, dense, C-contiguous, here."""
        if type(a) is not np.ndarray:
            a = a.view(np.ndarray)
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

    def set_threads(self, n: int) -> None:
        """Use ``n`` threads from now on. Thread pools that read the environment need it set earlier."""

    def about(self) -> dict[str, str]:
        """Versions and settings that decide what is measured."""
        module = importlib.import_module(self.needs) if installed(self.needs) else None
        return {self.needs: getattr(module, "__version__", "not installed")}


class Numba(Backend):
    _turn = threading.Lock()

    def _missing(self) -> str | None:
        if not installed("numba"):
            return super()._missing()
        from numba.core import config

        if config.DISABLE_JIT:  # type: ignore[attr-defined]
            return "needs numba's compiler, which NUMBA_DISABLE_JIT switches off: unset it"
        return None

    def _layer(self) -> str:
        """Numba's threading layer; empty as long as no parallel function was compiled or loaded."""
        parallel = sys.modules.get("numba.np.ufunc.parallel")
        with contextlib.suppress(ValueError):
            return parallel.threading_layer() if parallel else ""
        return ""

    def safe(self, plan: Plan) -> Plan:
        """Numba's workqueue ends the process when two threads enter it: there, calls wait for each other."""
        if self._layer() != "workqueue":
            return plan

        def in_turn(call: Any) -> Any:
            def wait_and_call(*arguments: Any) -> Any:
                with self._turn:
                    return call(*arguments)

            return wait_and_call

        return replace(plan, run=in_turn(plan.run), pack=in_turn(plan.pack))

    def forked(self) -> None:
        self._turn = threading.Lock()
        if self._layer() == "omp":
            self.lost = _LOST.format("numba", "threads", "or install tbb, whose threads survive it")

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


class Cuda(Backend):
    """Arrays on the current CUDA device, whose context no child of a fork can use."""

    def forked(self) -> None:
        if self.used:
            self.lost = _LOST.format(
                self.name, "CUDA context", "or use the GPU in one of the processes only"
            )

    def capability(self) -> int | None:
        """The compute capability of the current device, as 90 for 9.0; None for a simulated one."""
        raise NotImplementedError


class NumbaCuda(Cuda):
    """numba.cuda on the current CUDA device, or its simulator where NUMBA_ENABLE_CUDASIM=1."""

    library, device = "numba_cuda", "cuda"

    def _missing(self) -> str | None:
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

    def capability(self) -> int | None:
        from numba import cuda

        if self.simulated:
            return None
        major, minor = cuda.get_current_device().compute_capability
        return 10 * major + minor

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


class Cupy(Cuda):
    library, device = "cupy", "cuda"

    def _missing(self) -> str | None:
        if not installed("cupy"):
            return "needs CuPy, which is not installed: pip install 'convzoo[cuda12]' (or cuda13)"
        try:
            import cupy

            if cupy.is_available():
                return None
        except ImportError as error:
            return f"needs a CuPy that imports: {str(error).splitlines()[0]}"
        return "needs an NVIDIA GPU with its driver: CuPy finds none"

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

    def capability(self) -> int | None:
        import cupy

        return int(cupy.cuda.Device().compute_capability)

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

    Strict float32 does not hang on a process-wide switch here. On CUDA the kernels pass ``allow_tf32`` with
    every call. What no argument says, autocast and the precision of oneDNN's and cuBLAS's products, is put
    right around a call (``calling``) and put back as it was found.
    """

    library = "torch"
    # where products are told to round, the general places first: one that says "none" follows the one above
    _switches = (
        ("generic", "all"), ("mkldnn", "all"), ("mkldnn", "conv"), ("mkldnn", "matmul"),
        ("cuda", "all"), ("cuda", "matmul"),
    )  # fmt: skip
    _lock = threading.Lock()
    _inside = _entries = 0  # calls that need the switches as they are now, and how many have begun
    _found: ClassVar[list[tuple[str, str, str]]] = []  # what the switches said before

    def __init__(self, device: str):
        super().__init__(f"torch_{device}", needs="torch", folder="torch")
        self.device = device
        here = {"cpu": "mkldnn", "cuda": "cuda"}.get(device)
        self._decide = [switch for switch in self._switches if switch[0] == here and switch[1] != "all"]
        self._one_thread = False  # in a forked process, until it is seen to

    def _missing(self) -> str | None:
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

    @contextlib.contextmanager
    def planning(self) -> Iterator[None]:
        import torch

        if self._one_thread:
            self._one_thread = False
            torch.set_num_threads(1)
            warnings.warn(
                "convzoo: torch was loaded before this process was forked, and its threads do not survive a fork: "
                "torch uses one thread here. For more, use multiprocessing.get_context('spawn')",
                RuntimeWarning,
                stacklevel=2,
            )
        with self.calling(), torch.device(self.device):
            yield

    def forked(self) -> None:
        torch = sys.modules.get("torch")
        if torch is None:
            return
        Torch._lock, Torch._inside = threading.Lock(), 0  # calls of other threads did not come along
        self._put_back()
        if self.device != "cpu" and self.used:
            self.lost = _LOST.format(
                "torch", "device", "or use the device in one of the processes only"
            )
        elif self.device == "cpu":
            self._one_thread = True
            if self.used:
                torch.set_num_threads(1)

    def calling(self) -> contextlib.AbstractContextManager[Any]:
        import torch

        # a call under way may have changed the switches and will put them back: this order misses none
        entries, inside = Torch._entries, Torch._inside
        rounds = any(_torch_rounds(*switch) for switch in self._decide)
        if rounds or inside or entries != Torch._entries or torch.is_autocast_enabled(self.device):
            return self._strictly()
        return _AS_IT_IS

    @contextlib.contextmanager
    def _strictly(self) -> Iterator[None]:
        import torch

        with Torch._lock:
            Torch._inside, Torch._entries = Torch._inside + 1, Torch._entries + 1
            for switch in Torch._switches:
                if rounds := _torch_rounds(*switch):
                    Torch._found.append((*switch, rounds))
                    torch._C._set_fp32_precision_setter(*switch, "ieee")
        try:
            with torch.autocast(self.device, enabled=False):
                yield
        finally:
            with Torch._lock:
                Torch._inside -= 1
                if not Torch._inside:
                    self._put_back()

    @staticmethod
    def _put_back() -> None:
        while Torch._found:
            import torch

            torch._C._set_fp32_precision_setter(*Torch._found.pop())

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
        return self._plain(a).contiguous()

    def _plain(self, a: Any) -> Any:
        """The numbers of a tensor as they lie in memory, whatever a subclass would make of them."""
        import torch

        if type(a) is torch.Tensor:
            return a
        with torch._C.DisableTorchFunctionSubclass():
            return a.as_subclass(torch.Tensor)

    def to_device(self, a: np.ndarray) -> Any:
        import torch

        return torch.from_numpy(super().to_device(a)).to(self.device)

    def to_host(self, a: Any) -> np.ndarray:
        return self._plain(a).detach().cpu().numpy()

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

    def forked(self) -> None:
        Engine._planning = threading.RLock()
        if self.name in sys.modules:
            self.lost = _LOST.format(self.name, "threads", "or load it after the fork")

    def __init__(self, name: str, *others: str):
        super().__init__(name, needs=name)
        self.modules = (name, *others)
        self.threads = _threads_by_default()
        self.cpus: list[int] = []  # where set_threads has bound them, in order; empty: nowhere

    def _missing(self) -> str | None:
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
    return limits.cpus()


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
