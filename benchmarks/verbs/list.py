"""``list``: every kernel, and whether it can be used here."""

from __future__ import annotations

import argparse

from convzoo.catalog import find

from ..terminal import console
from . import FINE, chosen, emit


def options(p: argparse.ArgumentParser) -> None:
    p.add_argument("kernels", nargs="*", metavar="GLOB")


def call(args: argparse.Namespace) -> int:
    rows = []
    for name in chosen(args.kernels or ["*"]):
        k = find(name)
        reason = k.backend.why_not()
        rows.append(
            {
                "kernel": name,
                "algorithm": k.algorithm,
                "accuracy": k.accuracy,
                "usable": reason is None,
                "why_not": reason,
                "max_flops": k.max_flops,
                "idea": k.headline,
            }
        )
    if args.json:
        emit("list", {"kernels": rows})
        return FINE
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for heading in ("kernel", "algorithm", "guarantee", "usable here"):
        table.add_column(heading)
    for r in rows:
        usable = "yes" if r["usable"] else f"no: {r['why_not']}"
        table.add_row(r["kernel"], r["algorithm"], r["accuracy"], usable)
    console().print(table)
    return FINE
