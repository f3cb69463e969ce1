"""``reproduce``: random cells of published records, measured again here."""

from __future__ import annotations

import argparse
import secrets
import sys

from .. import hardware, machine_file
from .. import options as kinds
from ..reproduce import again, agreement, published, verdict, words
from ..terminal import progress
from . import FAILED, FINE, INTERRUPTED, WRONG, emit


def options(p: argparse.ArgumentParser) -> None:
    p.add_argument("records", nargs="+", metavar="RECORDS", help="files, folders, or names of records and machines")
    p.add_argument("--cells", type=kinds.count, metavar="N", default=20, help="how many to draw; default: 20")
    p.add_argument("--seed", type=kinds.natural, help="of the draw, data and order; default: a new one, which is told")
    p.add_argument("--timeout", type=kinds.seconds, metavar="SECONDS", default=120.0, help="for one cell")
    p.add_argument("-q", "--quiet", action="store_true", help="no progress")


def call(args: argparse.Namespace) -> int:
    if args.cells < 1:
        raise ValueError(f"--cells must be at least 1, got {args.cells}")
    facts = hardware.facts()
    machine, seed = hardware.machine_name(facts), args.seed
    seed = secrets.randbelow(2**31) if seed is None else seed
    drawn, same_class, about = published.choose(args.records, args.cells, seed, facts)
    for text in hardware.warnings():
        print(f"warning: {text}", file=sys.stderr)
    if not drawn:
        reasons = [f"{n} cells: the kernel {why}" for why, n in about["left_out"].items()]
        said = "; ".join([*about["notes"], *reasons])
        print(f"python -m benchmarks reproduce: nothing to measure again: {said}", file=sys.stderr)
        return FAILED
    with progress(len(drawn) * agreement.SCREENED, args.quiet or args.json) as bar:
        run = again.Again(
            drawn,
            same_class,
            hardware.usable_cpus(),
            seed,
            lambda threads: machine_file.ceilings(machine, facts, threads),
            args.timeout,
            bar,
        )
        run.run()
    found = {"machine": machine, **verdict.document(run), **about}
    if args.json:
        emit("reproduce", found | {"sentence": words.sentence(found)})
    else:
        words.show(found)
    if run.interrupted:
        return INTERRUPTED
    if found["verdict"] == verdict.DISAGREES:
        return WRONG
    fine = found["verdict"] == verdict.AGREES and not verdict.failures(found)
    return FINE if fine else FAILED
