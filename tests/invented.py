"""Records of invented times, written by the code that writes real ones."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks import compare, record
from benchmarks.problems import Layer
from convzoo import Conv2d

PROBLEMS = ("n1c4h12w12k4r3s3-p1", "n1c3h128w128k4r5s5", "n1c64h28w28k64r3s3-p1")
# seconds per 10 GFLOP, algorithm, guarantee
KERNELS = {
    "torch_cpu/builtin": (1.0, "direct", "elementwise"),
    "numba/direct": (0.5, "direct", "elementwise"),
    "numpy/im2col": (4.0, "gemm", "elementwise"),
    "numpy/fft": (0.4, "fft", "normwise"),
}
HARDWARE = {
    "cpu": "Example CPU",
    "microarchitecture": "znver5",
    "usable_cpus": 2,
    "memory_bytes": 2**34,
    "caches": {"L1": "48K", "L2": "1024K", "L3": "32768K"},
    "arch": "x86_64",
    "os": "Linux 6",
    "gpus": [],
}
CEILINGS = {
    "fma_gflops_per_s": {"1": {"float32": 180.0}, "2": {"float32": 350.0}},
    "read_gb_per_s": {"1": {"L1": 400.0, "DRAM": 40.0}, "2": {"L1": 450.0, "DRAM": 48.0}},
}
Times = Mapping[str, tuple[float, str, str]]


def written(
    folder: Path,
    *,
    kernels: Times = KERNELS,
    problems: tuple[str, ...] = PROBLEMS,
    name: str = "20261123T075011Z-quick.jsonl",
    rounds: int = 6,
    noise: float = 0.02,
    faults: dict[tuple[str, str], tuple[str, str]] | None = None,
    slower: dict[tuple[str, str], float] | None = None,
    counts: dict[str, int] | None = None,
    ended: str = "complete",
    **header: Any,
) -> Path:
    """The path of a record. ``faults`` and ``slower`` (a factor) are by (kernel, problem)."""
    layers = [Layer(f"layer{i}", Conv2d.parse(p), (counts or {}).get(p, 1)) for i, p in enumerate(problems)]
    first = {
        "suite": 2,
        "method": "compare",
        "machine": "box-a",
        "hardware": HARDWARE,
        "ceilings": CEILINGS,
        "started": "2026-11-23T07:50:11+00:00",
        "commit": record.commit()["commit"],
        "dirty": False,
        "command": ["python", "-m", "benchmarks", "compare"],
        "preset": "quick",
        "threads": 2,
        "scenarios": ["packed"],
        "seed": 7,
        "warnings": [],
        "kernels": list(kernels),
        "problems": [[x.name, str(x.problem), x.count] for x in layers],
        **header,
    }
    path = folder / name
    log = record.Record(path, first)
    rng = random.Random(3)
    cells = [compare.Cell(k, x, s) for k in kernels for x in layers for s in first["scenarios"]]
    sweep = compare.Sweep(cells, compare.PRESETS["quick"], first["threads"], 7, log)
    for i in range(rounds):
        for cell in rng.sample(cells, len(cells)):
            if cell.status == "ok":
                key = cell.kernel, str(cell.layer.problem)
                _measured(
                    sweep,
                    cell,
                    i,
                    (faults or {}).get(key),
                    kernels[cell.kernel],
                    (slower or {}).get(key, 1.0) * rng.uniform(1 - noise, 1 + noise),
                )
    sweep.summarize("torch_cpu/builtin")
    log.add({"kind": "end", "status": ended, "libraries": {"numpy": {"numpy": "2.4"}}, "sentence": "So."})
    log.close()
    return path


def _measured(
    sweep: Any, cell: Any, i: int, fault: tuple[str, str] | None, of: tuple[float, str, str], factor: float
) -> None:
    if fault and fault[0] in ("unsupported", "unavailable"):
        sweep._drop(cell, *fault)
        return
    seconds = cell.layer.problem.flops * 1e-11 * of[0] * factor
    reply = {
        "status": "ok",
        "plan_seconds": 1e-3,
        "pack_seconds": 2e-5,
        "workspace": 4096,
        "algorithm": of[1],
        "accuracy": of[2],
        "error": {"max_error": 1e-7, "mean_error": 1e-8, "score": 1.5, "budget": 0.1},
        "seconds": seconds,
        "q25": seconds,
        "q75": seconds,
        "samples": 9,
        "number": 1,
    }
    if fault:
        reply = {"status": fault[0], "why": fault[1]}
        cell.status, cell.why = fault
    cell.rounds[i] = reply = record.short(reply)
    sweep.record.add({"kind": "round", "round": i, **cell.key, **reply})


def rewritten(path: Path, change: Any) -> Path:
    """The record with every line passed through ``change``; None leaves a line out."""
    lines = [change(json.loads(text)) for text in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines if line is not None))
    return path
