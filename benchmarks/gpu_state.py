"""Clocks, power and throttling of an NVIDIA GPU while it is timed, through NVML (nvidia-ml-py).

A sample taken while the GPU held its clocks down for heat or power says nothing about a kernel: the stopwatch
asks ``steady()`` after each sample and takes it again where the answer is no.
"""

from __future__ import annotations

import statistics
from typing import Any

# nvidia-ml-py's names; idle and application clock settings are the owner's choice, not throttling
SLOWED = (
    "nvmlClocksThrottleReasonSwPowerCap",
    "nvmlClocksThrottleReasonHwSlowdown",
    "nvmlClocksThrottleReasonSwThermalSlowdown",
    "nvmlClocksThrottleReasonHwThermalSlowdown",
    "nvmlClocksThrottleReasonHwPowerBrakeSlowdown",
)


class GpuState:
    """The state of device 0 over a measurement; every method works without NVML and says nothing then."""

    def __init__(self, nvml: Any = None):
        self._nvml = nvml if nvml is not None else _nvml()
        self._gpu = self._nvml.nvmlDeviceGetHandleByIndex(0) if self._nvml else None
        self._seen: list[dict[str, float]] = []
        self.rejected = 0

    def steady(self) -> bool:
        """Note clocks, power and temperature; False where the GPU is held back now."""
        if self._nvml is None:
            return True
        n, gpu = self._nvml, self._gpu
        self._seen.append(
            {
                "sm_clock_mhz": n.nvmlDeviceGetClockInfo(gpu, n.NVML_CLOCK_SM),
                "power_watts": n.nvmlDeviceGetPowerUsage(gpu) / 1000,
                "temperature_c": n.nvmlDeviceGetTemperature(gpu, n.NVML_TEMPERATURE_GPU),
            }
        )
        reasons = n.nvmlDeviceGetCurrentClocksThrottleReasons(gpu)
        if any(reasons & getattr(n, name, 0) for name in SLOWED):
            self.rejected += 1
            return False
        return True

    def summary(self) -> dict[str, float]:
        """Medians of what was noted, and how many samples were rejected; empty without NVML."""
        if not self._seen:
            return {}
        medians = {k: statistics.median(x[k] for x in self._seen) for k in self._seen[0]}
        return medians | {"rejected_samples": self.rejected}


def _nvml() -> Any:
    try:
        import pynvml
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None
    return pynvml
