"""The page on GPU code: what compilers made of each kernel, and where each rung is expected to stand.

Written from gpu_code.json alone. What was compiled is a fact; a speed here is a prediction and says so.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from .values import Unreadable

SCHEMA = "convzoo.gpu-code/1"
SHOWN = {
    "registers": "registers",
    "shared_bytes": "shared bytes",
    "blocks_per_sm": "blocks",
    "warps_per_sm": "warps",
    "occupancy": "occupancy",
    "limited_by": "limited by",
    "ffma": "FFMA",
    "mma": "MMA",
    "ldg": "LDG",
    "ldg_128": "LDG.128",
    "ldgsts": "LDGSTS",
    "lds": "LDS",
    "lds_128": "LDS.128",
    "bar": "BAR",
}

# Made before any of these was run on a GPU, from published results of kernels of the same kind: TFLOP/s
# on an H200, counted as the direct convolution's FLOP, for the reference layer. Each says from what.
PREDICTED = {
    "numba_cuda/naive": ("2-5", "a first GEMM has 5.2 on an H100"),
    "numba_cuda/coalesced": ("3-9", "caches feed it: two loads for a product"),
    "numba_cuda/shared_tile": ("9-15", "a plain tile in shared memory has 9.2 on an H100"),
    "numba_cuda/register_tile": ("28-38", "a register tile has 69 % of cuBLAS in a published ladder"),
    "numba_cuda/vector_loads": ("32-42", "vector loads have 78 % of cuBLAS there"),
    "numba_cuda/async_tile": ("36-45", "85-94 % of cuBLAS there; cuBLAS has 47-50 on an H100"),
    "numba_cuda/winograd": ("50-90", "2.25 times fewer products, and traffic for the transforms"),
    "numba_cuda/tensor_core_3xtf32": ("50-80", "CUTLASS's 3xTF32 has 2.3 times an A100's fp32 peak"),
    "numba_cuda/tensor_core_tf32": ("150-230", "mma.sync reaches about 62 % of what Hopper can"),
    "cupy/raw_naive": ("2-5", "as numba_cuda/naive"),
    "cupy/raw_register_tile": ("40-47", "double-buffered register tiles come near cuBLAS"),
    "cupy/tensor_core_3xtf32": ("60-85", "as numba_cuda's, with larger warp tiles"),
    "cupy/tensor_core_tf32": ("170-260", "as numba_cuda's, with larger warp tiles"),
    "cupy/wgmma_3xtf32": ("95-120", "a third of what warpgroup instructions reach in TF32"),
}


def load(path: Path) -> dict[str, Any]:
    """The table. Raises Unreadable for a file of another form."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise Unreadable(f"{path}: is no JSON ({error})") from None
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        found = document.get("schema") if isinstance(document, dict) else type(document).__name__
        raise Unreadable(f"{path}: needs schema {SCHEMA}, got {found}")
    return document


def page(document: dict[str, Any]) -> str:
    """The whole page, as Markdown."""
    tools = ", ".join(f"{name} {version}" for name, version in document["compilers"].items())
    reference = document["problems"][0]
    parts = [
        "# What compilers make of the GPU kernels",
        "Generated from [gpu_code.json](gpu_code.json) by `make gpu-offline`; do not edit. Nothing on this page "
        "was run on a GPU: the kernels were compiled for it, and their machine code was read.",
        f"Compiled with {tools}. All {len(document['rows'])} rows, on {len(document['problems'])} problems, "
        "are in the JSON file, which explains its columns. Counts are of instructions as written; what lies "
        "in a loop counts once.",
        *_code(document, reference, "nhwc"),
        *_standing(document, reference),
        *_refused(document),
    ]
    return "\n\n".join(parts) + "\n"


def _code(document: dict[str, Any], reference: str, native: str) -> list[str]:
    """A table for each architecture: the functions that run on the reference layer, as each prefers it."""
    found = []
    for arch in dict.fromkeys(row["arch"] for row in document["rows"]):
        rows = [
            row
            for row in document["rows"]
            if row["arch"] == arch and row["problem"] in (reference, f"{reference}-{native}")
        ]
        lines = [
            "| kernel | function | layout | " + " | ".join(SHOWN.values()) + " |",
            "|---|---|---|" + "---:|" * len(SHOWN),
        ]
        for row in rows:
            layout = native if row["problem"].endswith(native) else "nchw"
            stage = "" if row["stage"] == "run" else f" ({row['stage']})"
            cells = (f"{row[c]:.0%}" if c == "occupancy" else str(row[c]) for c in SHOWN)
            lines.append(f"| {row['kernel']} | {row['function']}{stage} | {layout} | " + " | ".join(cells) + " |")
        found += [f"## {arch}, `{reference}`", "\n".join(lines)]
    spilled = sum(row["spill_bytes"] + row["local_bytes"] + row["spills"] > 0 for row in document["rows"])
    found.append(
        f"{spilled} of {len(document['rows'])} rows spill registers or use local memory. Blocks, "
        "warps and occupancy are of one multiprocessor, from registers, threads and shared memory by the "
        "rules of NVIDIA's `cuda_occupancy.h`; they are an upper limit, not a measurement."
    )
    return found


def _standing(document: dict[str, Any], reference: str) -> list[str]:
    """Predictions beside offline facts, for the kernels that are in the table."""
    lines = [
        "| kernel | predicted TFLOP/s | because | arithmetic in its code | claimed and found |",
        "|---|---:|---|---:|---|",
    ]
    for kernel, claimed in document["claims"].items():
        rows = [r for r in document["rows"] if r["kernel"] == kernel and r["stage"] == "run"]
        here = [r for r in rows if r["problem"].startswith(reference) and r["arch"].startswith("sm_90")]
        share = max(((r["ffma"] + r["mma"]) / r["instructions"] for r in here), default=0)
        speed, why = PREDICTED.get(kernel, ("none made", ""))
        lines.append(f"| {kernel} | {speed} | {why} | {share:.0%} | {', '.join(claimed) or 'nothing'} |")
    return [
        "## Where each rung stands",
        "**Predictions, not measurements**, for an H200 and the layer above, in the direct convolution's "
        "FLOP: no kernel on this page has been timed on a GPU yet. They were made from published results "
        "of kernels of the same kind, before any run, so that a measurement can prove them wrong; "
        "`make gpu` on a CUDA machine records what is true there. For comparison, strict-fp32 cuDNN is "
        "predicted at 40-50 TFLOP/s and its TF32 at 300-400. Arithmetic in its code: the share of FFMA and "
        "tensor-core instructions in the function with most of them, for sm_90. Claimed and found: "
        "machine instructions that the docstring names and the code has.",
        "\n".join(lines),
    ]


def _refused(document: dict[str, Any]) -> list[str]:
    if not document["refused"]:
        return []
    said = dict.fromkeys(f"- {r['kernel']} on `{r['problem']}`: {r['why']}" for r in document["refused"])
    return ["## Refused", "\n".join(said)]
