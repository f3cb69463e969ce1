"""``export``: a record as asv results."""

from __future__ import annotations

import argparse
from pathlib import Path

from .. import record
from . import FINE, emit


def options(p: argparse.ArgumentParser) -> None:
    p.add_argument("record", metavar="RECORD.jsonl")
    p.add_argument("--results", metavar="DIR", help="default: reports/results")


def call(args: argparse.Namespace) -> int:
    results = Path(args.results) if args.results else record.ROOT / "reports" / "results"
    folder = record.export_to_asv(record.one(args.record), results)
    if args.json:
        emit("export", {"results": str(folder)})
    else:
        print(folder)
    return FINE
