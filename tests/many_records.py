"""Invented records of any size, in the coordinator's own form, for tests of the reports. No number is measured."""

from __future__ import annotations

import json
import math
import random
import statistics
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path

from benchmarks.compare import interval
from benchmarks.problems import Layer, networks_in

BACKENDS = ("torch_cpu", "numba", "numpy", "python", "onnxruntime")
CEILINGS = {
    "fma_gflops_per_s": {"2": {"float32": 400.0, "float64": 200.0}},
    "read_gb_per_s": {"2": {"L1": 450.0, "L2": 350.0, "L3": 190.0, "DRAM": 49.0}},
}
HARDWARE = {
    "cpu": "an invented CPU",
    "caches": {"L1": "48K", "L2": "1024K", "L3": "32768K"},
    "gpus": [],
    "memory_bytes": 2**34,
    "python": "3.11.7",
    "os": "none",
    "arch": "x86_64",
    "microarchitecture": "none",
    "usable_cpus": 2,
}


def kernels(count: int) -> list[str]:
    """torch_cpu/builtin first, then names over the backends; some of them keep a weaker guarantee."""
    names = [f"{BACKENDS[i % 5]}/idea_{i}" for i in range(1, count)]
    return ["torch_cpu/builtin", *names]


def kind(kernel: str) -> tuple[str, str]:
    """(accuracy, algorithm) of an invented kernel."""
    number = int(kernel.rpartition("_")[2]) if "idea_" in kernel else 0
    return {7: ("normwise", "winograd"), 9: ("half", "gemm"), 8: ("tf32", "gemm")}.get(
        number % 10, ("elementwise", "direct")
    )


def record(
    folder: Path,
    machine: str,
    names: Sequence[str],
    layers: Sequence[Layer],
    *,
    commit: int = 0,
    rounds: int = 6,
    scenarios: Sequence[str] = ("packed",),
    slower: Sequence[str] = (),
    seed: int = 0,
    raw: int = 0,
) -> Path:
    """A whole record; kernels in ``slower`` take 1.3 times as long, and spill."""
    rng = random.Random(f"{machine}/{commit}/{seed}")
    day = datetime(2026, 1, 1) + timedelta(days=commit)
    header = {
        "schema": "convzoo.record/1",
        "kind": "run",
        "suite": 1,
        "method": "compare",
        "machine": machine,
        "hardware": HARDWARE,
        "started": f"{day.isoformat()}+00:00",
        "commit": f"{commit:08x}" + "c" * 32,
        "dirty": False,
        "commit_date": f"{day.isoformat()}+00:00",
        "command": ["python", "-m", "benchmarks", "compare"],
        "preset": "full",
        "threads": 2,
        "scenarios": list(scenarios),
        "seed": seed,
        "warnings": [],
        "kernels": list(names),
        "problems": [[x.name, str(x.problem), x.count] for x in layers],
        "networks": networks_in(list(layers)),
        "ceilings": CEILINGS,
        "null": {"rounds": 8, "twins": 20, "false_alarms": 0, "median_visible": 0.03, "smallest_visible": 0.05},
    }
    lines = [header]
    cells = []
    for layer in layers:
        for scenario in scenarios:
            base: list[float] = []
            for kernel in names:
                cell, each = _cell(rng, machine, kernel, layer, scenario, rounds, kernel in slower, raw)
                base = base or cell["round_seconds"]
                ratios = [a / b for a, b in zip(base, cell["round_seconds"], strict=True)]
                low, high, _ = interval(ratios)
                cell |= {
                    "baseline": names[0],
                    "vs_baseline": statistics.median(ratios),
                    "vs_baseline_low": low,
                    "vs_baseline_high": high,
                }
                lines += each
                cells.append(cell)
    end = {
        "kind": "end",
        "status": "complete",
        "libraries": {"numpy": {"numpy": "2.4"}},
        "sentence": "Invented.",
        "import_seconds": {b: 0.1 * (i + 1) for i, b in enumerate(BACKENDS)},
    }
    path = folder / machine / f"{day:%Y%m%dT%H%M%SZ}-full-{seed}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in (*lines, *cells, end)))
    return path


def _cell(
    rng: random.Random, machine: str, kernel: str, layer: Layer, scenario: str, rounds: int, slow: bool, raw: int
) -> tuple[dict, list[dict]]:
    key = {"kernel": kernel, "problem": str(layer.problem), "scenario": scenario}
    own = random.Random(f"{kernel}/{machine}").uniform(0.5, 8) if kernel != "torch_cpu/builtin" else 1.0
    own *= random.Random(f"{kernel}/{layer.problem}").uniform(0.8, 1.25)
    seconds = (1e-6 + layer.problem.flops * 1e-11) * own * (1.3 if slow else 1) * (1.1 if scenario == "eager" else 1)
    accuracy, algorithm = kind(kernel)
    seconds *= {"elementwise": 1, "normwise": 0.2, "tf32": 0.1, "half": 0.05}[accuracy]
    marks = {
        "fma_512": 40,
        "spills": 14 if slow else 0,
        "vector_bits": 512,
        "asm_hash": f"{random.Random(f'{kernel}{layer.problem}{slow}').getrandbits(64):016x}",
    }
    score = {"elementwise": 3.0, "normwise": 60.0, "tf32": 900.0, "half": 8000.0}[accuracy]
    error = {"max_error": score * 1e-7, "mean_error": 1e-8, "score": score * rng.uniform(0.8, 1.2), "budget": 0.1}
    fixed = {
        "workspace": 4096 * (len(kernel) % 7),
        "accuracy": accuracy,
        "algorithm": algorithm,
        "error": error,
        "plan_seconds": 1e-3 * own,
        "pack_seconds": 2e-5,
    }
    medians = [seconds * math.exp(rng.gauss(0, 0.01)) for _ in range(rounds)]
    each = []
    for i, v in enumerate(medians):
        line = {
            "kind": "round",
            "round": i,
            **key,
            "status": "ok",
            **fixed,
            "transfer_seconds": 1e-5,
            "first_seconds": 5 * v,
            "fingerprint": marks if i == 0 else {},
            "seconds": v,
            "q25": v * 0.99,
            "q75": v * 1.02,
            "samples": 15,
            "number": 3,
        }
        each.append(line | ({"raw": [v * math.exp(rng.gauss(0, 0.02)) for _ in range(raw)]} if raw else {}))
    low, high, confidence = interval(medians)
    cell = {"kind": "cell", **key, "layer": layer.name, "count": layer.count, "status": "ok", "why": ""}
    cell |= {
        "flops": layer.problem.flops,
        "min_bytes": layer.problem.min_bytes,
        "seconds": statistics.median(medians),
        "low": low,
        "high": high,
        "confidence": confidence,
        "rounds": rounds,
        "round_seconds": medians,
        **fixed,
        "fingerprint": marks,
    }
    return cell, each
