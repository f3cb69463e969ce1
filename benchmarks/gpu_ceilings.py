# pyright: basic, reportOptionalSubscript=false, reportCallIssue=false, reportIndexIssue=false, reportArgumentType=false
"""What an NVIDIA GPU can do at most, measured through torch and Numba: never run until a GPU is at hand.

``python -m benchmarks.gpu_ceilings`` prints JSON: GB/s of copies in HBM and in L2 (bytes read plus bytes
written), TFLOP/s of large matrix products per precision, and of float32 multiply-adds in registers.
"""

from __future__ import annotations

import json
from typing import Any

BURSTS = 7


def _best_seconds(torch: Any, call: Any, number: int) -> float:
    """Seconds of one call by the device's events: the best of several bursts of ``number`` calls."""
    best = float("inf")
    call()
    for _ in range(BURSTS):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        begin.record()
        for _ in range(number):
            call()
        end.record()
        end.synchronize()
        best = min(best, begin.elapsed_time(end) / 1e3 / number)
    return best


def _copies(torch: Any) -> dict[str, float]:
    found = {}
    for level, size in (("HBM", 2**30), ("L2", 2**23)):  # 8 MiB twice fits the L2 of every data-centre GPU
        a = torch.randn(size // 4, device="cuda")
        b = torch.empty_like(a)
        seconds = _best_seconds(torch, lambda a=a, b=b: b.copy_(a), 20 if level == "HBM" else 200)
        found[level] = round(2 * size / seconds / 1e9, 1)
    return found


def _products(torch: Any) -> dict[str, float]:
    n = 8192
    found = {}
    precisions = (("float32", "ieee"), ("float32", "tf32"), ("float16", ""), ("bfloat16", ""), ("float64", ""))
    before = torch.backends.cuda.matmul.fp32_precision
    try:
        for dtype, mode in precisions:
            if mode:
                torch.backends.cuda.matmul.fp32_precision = mode
            size = n if dtype != "float64" else n // 2
            a = torch.randn(size, size, device="cuda").to(getattr(torch, dtype))
            b = torch.randn(size, size, device="cuda").to(getattr(torch, dtype))
            seconds = _best_seconds(torch, lambda a=a, b=b: a @ b, 5)
            found["tf32" if mode == "tf32" else dtype] = round(2 * size**3 / seconds / 1e12, 2)
    finally:
        torch.backends.cuda.matmul.fp32_precision = before
    return found


def _register_fma(torch: Any) -> float:
    """TFLOP/s of float32 FMAs that touch no memory: 16 chains a thread, enough threads to fill the GPU."""
    from numba import cuda, float32

    rounds, chains = 4096, 16

    @cuda.jit(fastmath=True)
    def spin(out: Any, scale: Any) -> None:
        sums = cuda.local.array(16, float32)
        for j in range(16):
            sums[j] = float32(j)
        for _ in range(4096):
            for j in range(16):
                sums[j] = sums[j] * scale + float32(0.001)
        total = float32(0)
        for j in range(16):
            total += sums[j]
        out[cuda.grid(1)] = total  # type: ignore[index]

    properties = torch.cuda.get_device_properties(0)
    blocks, threads = properties.multi_processor_count * 16, 256
    out = cuda.device_array(blocks * threads, "float32")  # type: ignore[arg-type]
    scale = float32(0.999)
    seconds = _best_seconds(torch, lambda: spin[blocks, threads, cuda.default_stream()](out, scale), 3)  # type: ignore
    return round(2 * rounds * chains * blocks * threads / seconds / 1e12, 2)


def measure() -> dict[str, Any]:
    """Every ceiling of device 0."""
    import torch

    return {
        "gpu": torch.cuda.get_device_name(),
        "copy_gb_per_s": _copies(torch),
        "product_tflops_per_s": _products(torch),
        "fma_tflops_per_s": {"float32": _register_fma(torch)},
    }


if __name__ == "__main__":
    print(json.dumps(measure()))
