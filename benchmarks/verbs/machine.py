"""``machine``: the file of this machine, its ceilings measured; asv is told."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from .. import ceilings, hardware, machine_file, record
from .. import options as kinds
from . import FINE, emit


def options(p: argparse.ArgumentParser) -> None:
    p.add_argument("--name", type=kinds.machine_name, metavar="NAME", help="default: made from the hardware")
    p.add_argument("--out", metavar="DIR", help="default: reports/out/machines")
    p.add_argument("--facts-only", action="store_true", help="do not measure the ceilings (10 s)")


def call(args: argparse.Namespace) -> int:
    facts = hardware.facts()
    name = args.name or hardware.machine_name(facts)
    folder = Path(args.out).resolve() if args.out else None
    measured = {} if args.facts_only else {"ceilings": ceilings.measure(hardware.usable_cpus())}
    path = machine_file.save(name, folder, hardware=facts, **measured)
    try:
        from asv.machine import MachineCollection
    except ImportError:
        print("asv is not installed, so only our own file was written", file=sys.stderr)
    else:
        MachineCollection.save(name, record.asv_machine(name, facts))
    if args.json:
        emit("machine", {"machine": name, "path": str(path)})
    else:
        print(name)
    return FINE
