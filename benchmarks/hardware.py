"""What this machine is: facts beside every number, and a name made from them (never the host name)."""

from __future__ import annotations

import os
import platform
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

from convzoo import caches
from convzoo.limits import cpu_quota as cgroup_quota
from convzoo.limits import cpus as usable_cpus
from convzoo.limits import memory

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
# glibc hands large arrays back to the operating system when they die, and every call pays page faults for
# its output again: up to four times the time of torch and the engines on an output of 50 MB. Kept memory
# is every contestant's best setting, so all have it.
MEMORY_VARIABLES = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**34)}


def library_environment(n: int) -> dict[str, str]:
    """Variables, set before a process starts, that give every library ``n`` threads, one bound to each
    core, and memory that stays with the process."""
    return (
        {name: str(n) for name in THREAD_VARIABLES}
        | MEMORY_VARIABLES
        | {"OMP_PROC_BIND": "true", "OMP_PLACES": "cores", "OMP_DYNAMIC": "false"}
    )


def _proc_cpuinfo() -> dict[str, str]:
    try:
        text = Path("/proc/cpuinfo").read_text().partition("\n\n")[0]
    except OSError:
        return {}
    pairs = (line.partition(":") for line in text.splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


def _cpu_name() -> str:
    name = _proc_cpuinfo().get("model name") or platform.processor() or platform.machine()
    return re.sub(r"\((R|TM)\)|CPU|Processor|@.*", "", name).strip()


def _microarchitecture() -> str | None:
    """LLVM's name for the CPU (znver5, sapphirerapids ...), which says more than many model names."""
    try:
        import llvmlite.binding

        return llvmlite.binding.get_host_cpu_name()
    except ImportError:
        return None


def facts_cpu_flags() -> set[str]:
    """Instruction set flags as Linux lists them; empty elsewhere."""
    return set(_proc_cpuinfo().get("flags", "").split())


def matrix_unit() -> str | None:
    """ "amx" on a CPU that multiplies tiles, else None."""
    return "amx" if "amx_tile" in facts_cpu_flags() else None


def cache_bytes() -> dict[str, int]:
    """Size of each data cache level, then what counts as DRAM: eight times the last level streamed.

    Sizes of a common desktop where the system does not tell.
    """
    sizes = asdict(caches.here())
    return sizes | {"DRAM": min(2**26, max(sizes.values()))}


def cell_memory() -> int:
    """Bytes that one worker may use: four fifths of the memory, or of the control group's share of it."""
    return (memory() or 2**34) * 4 // 5


def _governor() -> str | None:
    try:
        return Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor").read_text().strip()
    except OSError:
        return None


def gpus() -> list[dict[str, Any]]:
    """Name, memory, driver, clocks and power limit of each NVIDIA GPU; empty without driver or NVML."""
    try:
        import pynvml
    except ImportError:
        return []
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return []
    found = []
    for i in range(pynvml.nvmlDeviceGetCount()):
        gpu = pynvml.nvmlDeviceGetHandleByIndex(i)
        found.append(
            {
                "name": pynvml.nvmlDeviceGetName(gpu),
                "memory_bytes": int(pynvml.nvmlDeviceGetMemoryInfo(gpu).total),
                "driver": pynvml.nvmlSystemGetDriverVersion(),
                "sm_clock_mhz": pynvml.nvmlDeviceGetClockInfo(gpu, pynvml.NVML_CLOCK_SM),
                "max_sm_clock_mhz": pynvml.nvmlDeviceGetMaxClockInfo(gpu, pynvml.NVML_CLOCK_SM),
                "power_limit_watts": _power_limit(pynvml, gpu),
            }
        )
    return found


def _power_limit(pynvml: Any, gpu: Any) -> float | None:
    try:
        return pynvml.nvmlDeviceGetEnforcedPowerLimit(gpu) / 1000
    except pynvml.NVMLError:  # not told by every board
        return None


def facts() -> dict[str, Any]:
    """Everything about the machine that a reader of a number needs to know."""
    cpu = _proc_cpuinfo()
    flags = facts_cpu_flags()
    return {
        "cpu": _cpu_name(),
        "microarchitecture": _microarchitecture(),
        "cpu_family_model": f"{cpu.get('cpu family', '?')}/{cpu.get('model', '?')}",
        "vector": next((v for v in ("avx512f", "avx2", "avx") if v in flags), None),
        "matrix": matrix_unit(),
        "cpus": os.cpu_count(),
        "usable_cpus": usable_cpus(),
        "cgroup_quota": cgroup_quota(),
        "caches": caches.told(),
        "memory_bytes": memory(),
        "governor": _governor(),
        "arch": platform.machine(),
        "os": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "gpus": gpus(),
    }


def machine_name(known: dict[str, Any] | None = None) -> str:
    """A name from the hardware, the same after a reboot: results are published under it.

    What a CPU can do goes before what it is called: a hypervisor may give a CPU with matrix units a family and
    model that had none, and the microarchitecture follows from those.
    """
    f = known or facts()
    kind = f.get("matrix") or f["microarchitecture"] or f["arch"]
    parts = [f["cpu"], kind, f"{f['usable_cpus']}cpu"]
    parts += [gpu["name"] for gpu in f["gpus"][:1]]
    return re.sub(r"[^a-z0-9]+", "-", " ".join(parts).lower()).strip("-")


def cuda_majors() -> dict[str, list[str]]:
    """CUDA majors of the installed distributions: {"12": ["cupy-cuda12x", ...], ...}."""
    from importlib.metadata import distributions

    found: dict[str, list[str]] = {}
    for distribution in distributions():
        name = distribution.metadata["Name"] or ""
        match = re.search(r"(?:-cu|-cuda)(1\d)", name.lower())
        if match:
            found.setdefault(match[1], []).append(name)
    return found


def warnings() -> list[str]:
    """What would spoil timings on this machine now, one sentence each."""
    found = []
    cpus = usable_cpus()
    try:
        load = os.getloadavg()[0]
        if load > 0.5:
            found.append(f"other work is running: load average {load:.2f} over the last minute")
    except (AttributeError, OSError):
        pass
    if (governor := _governor()) not in (None, "performance"):
        found.append(f"the CPU frequency governor is '{governor}'; 'performance' is steadier")
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
        value = os.environ.get(name, "")
        if value.isdigit() and int(value) > cpus:
            found.append(f"{name}={value} asks for more threads than the {cpus} usable CPUs")
    if os.environ.get("NUMBA_ENABLE_CUDASIM", "0") not in ("", "0"):
        found.append("NUMBA_ENABLE_CUDASIM is set: the CUDA simulator is for tests, never for timings")
    majors = cuda_majors()
    if len(majors) > 1:
        told = "; ".join(f"CUDA {major}: {', '.join(sorted(names)[:3])}" for major, names in majors.items())
        found.append(f"two CUDA majors are installed, and one process must not load both ({told})")
    if os.environ.get("PYTORCH_ENABLE_MPS_FALLBACK"):
        found.append("PYTORCH_ENABLE_MPS_FALLBACK is set: MPS timings may be of the CPU")
    return found
