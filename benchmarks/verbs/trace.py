"""``trace``: the convolutions of a network, as a file of problems."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from .. import trace as tracing
from ..terminal import console
from . import FAILED, FINE, emit


def options(p: argparse.ArgumentParser) -> None:
    p.add_argument("source", metavar="FILE.onnx|package.module:callable")
    p.add_argument(
        "--input",
        action="append",
        metavar="1x3x224x224",
        default=[],
        help="shape of an input, in their order; a torch module needs it, an ONNX file may",
    )
    p.add_argument("--out", metavar="FILE.json", help="default: named after the network, here")


def call(args: argparse.Namespace) -> int:
    try:
        found = tracing.trace(args.source, [tracing.shape(text) for text in args.input])
    except ImportError as error:
        cures = {"onnx": "pip install 'convzoo[onnx]'", "torch": "pip install 'convzoo[cpu]'"}
        name = (error.name or str(error)).partition(".")[0]
        print(f"python -m benchmarks trace: needs {name}: {cures.get(name, error)}", file=sys.stderr)
        return FAILED
    if not found.counts:
        raise ValueError(f"{args.source}: has no 2-D convolution{tracing.left_out_words(found)}")
    out = Path(args.out) if args.out else None if args.json else tracing.default_path(args.source)
    if out:
        tracing.write(found, out)
    if args.json:
        emit("problems", {k: v for k, v in found.document().items() if k != "schema"})
    else:
        _show(found, out)
    return FINE


def _show(found: tracing.Trace, path: Path | None) -> None:
    """The layers by what they cost, and what to do with the file."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for heading, side in (("layer", "left"), ("problem", "left"), ("calls", "right"), ("of the FLOP", "right")):
        table.add_column(heading, justify=side, overflow="fold")  # type: ignore[arg-type]
    total = sum(p.flops * n for p, n in found.counts.items())
    for p, n in sorted(found.counts.items(), key=lambda kv: -kv[0].flops * kv[1]):
        table.add_row(found.names[p], str(p), str(n), f"{p.flops * n / total:.1%}" if total else "-")
    out = console()
    out.print(table)
    calls = sum(found.counts.values())
    out.print(
        f"\n{found.source}: {len(found.counts)} different layers, {calls} convolutions, {total / 1e9:.4g} GFLOP"
        f"{tracing.left_out_words(found)}",
        style="bold",
        markup=False,
        soft_wrap=True,
    )
    if path:
        for line in (
            f"written: {path}",
            f"time it: python -m benchmarks compare --problems {path}",
            f"then:    python -m reports pick {path}",
        ):
            out.print(line, markup=False, soft_wrap=True)
