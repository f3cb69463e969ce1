"""``fleet``: the same sweep over many hosts."""

from __future__ import annotations

import argparse
import contextlib
import sys
from typing import Any

from .. import compare as sweeping
from .. import options as kinds
from .. import record
from ..fleet import cluster, coordinator, plan, report, share
from ..terminal import progress
from . import FAILED, FINE, INTERRUPTED, code_of, emit
from .compare import asked, resumable, sweep_options


def options(p: argparse.ArgumentParser) -> None:
    where = p.add_mutually_exclusive_group(required=True)
    where.add_argument("--local", type=kinds.count, metavar="N", help="N workers on this box, to try it out")
    where.add_argument("--scheduler", metavar="ADDRESS", help="of a Dask scheduler: tcp://host:8786")
    where.add_argument("--ssh", metavar="HOSTFILE", help="a line: [user@]host[:port] [its checkout]")
    p.add_argument("--plan", action="store_true", help="only say how long it takes on which hosts")
    p.add_argument("--resume", nargs="+", metavar="RECORD.jsonl", help="finish what is incomplete there")
    sweep_options(p)


def call(args: argparse.Namespace) -> int:
    if args.local is not None and args.local < 1:
        raise ValueError(f"--local must be at least 1, got {args.local}")
    folder = sweeping.record_folder(args.records)
    known = [folder, record.PUBLISHED / "records"]
    resumed = share.resume([(path, *resumable(path)) for path in map(record.one, args.resume or [])])
    durations = plan.Durations(path for place in known for path in place.rglob("*.jsonl"))
    given = {k: getattr(args, k) for k in ("preset", "seed", "timeout", "threads", "rounds", "budget")}
    arguments = [word for k, v in given.items() if v is not None for word in (f"--{k}", str(v))]
    arguments += ["-q", "--scenario", *args.scenario]
    try:
        with contextlib.ExitStack() as stack:
            client = cluster.connect(stack, args.local, args.scheduler, args.ssh)
            run = coordinator.Fleet(client, asked(args), folder, resumed, arguments, durations.round_seconds)
            if not args.plan:
                return _fleet_sweep(args, run)
            run.announce()
    except ImportError as error:
        print(f"python -m benchmarks fleet: needs {error.name}: pip install 'convzoo[fleet]'", file=sys.stderr)
        return FAILED
    found = plan.plan(run, durations, sweeping.preset(args.preset, args.rounds, args.budget))
    if args.json:
        emit("fleet-plan", found)
    else:
        plan.show(found)
    return FINE if found["hosts"] else FAILED


def _fleet_sweep(args: argparse.Namespace, run: Any) -> int:
    with progress(1, args.quiet or args.json) as run.progress:
        run.run()
    document = report.document(run, args.baseline)
    if args.json:
        emit("fleet", document)
    else:
        report.show(document, run)
    if run.interrupted:
        return INTERRUPTED
    code = code_of([c.status for share in run.shares.values() for c in share.cells])
    unfinished = any(share["status"] != "complete" for share in document["shares"])
    return FAILED if unfinished and code == FINE else code
