"""``selftest``: wrong kernels must be caught here, honest ones let through; with --null, how much is noise."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from .. import hardware, machine_file, null
from .. import options as kinds
from .. import selftest as trial
from ..terminal import console, progress
from . import FAILED, FINE, WRONG, chosen, emit


def options(p: argparse.ArgumentParser) -> None:
    p.add_argument(
        "--null",
        type=kinds.count,
        nargs="?",
        const=10,
        metavar="ROUNDS",
        help="instead: kernels against themselves; the false alarms and the smallest visible difference",
    )
    p.add_argument("--kernels", nargs="+", metavar="GLOB", default=["*"], help="families to try")
    p.add_argument("--bad", metavar="DIR", help="bad kernels of your own, as DIR/<backend>/<name>.py")
    p.add_argument("--seed", type=kinds.natural, default=0)


def call(args: argparse.Namespace) -> int:
    if args.null:
        return _null(args)
    chosen(args.kernels)
    own = Path(args.bad).resolve() if args.bad else None
    if own is not None and not list(own.glob("*/*.py")):
        raise ValueError(f"--bad must hold <backend>/<name>.py, got {args.bad}")
    with progress(1, args.json) as bar:
        rows = trial.run(args.kernels, own, bar, args.seed)
    fine = trial.passed(rows)
    if args.json:
        emit("selftest", {"passed": fine, "cells": rows, "sentence": trial.sentence(rows)})
    else:
        _show(rows)
    if not rows:
        return FAILED
    return FINE if fine else WRONG


def _null(args: argparse.Namespace) -> int:
    facts = hardware.facts()
    name, threads = hardware.machine_name(facts), hardware.usable_cpus()
    for text in hardware.warnings():
        print(f"warning: {text}", file=sys.stderr)
    kernels = [k for k in null.KERNELS if k in chosen(args.kernels or ["*"])]
    with progress(2 * len(kernels) * len(null.PROBLEMS) * args.null, args.json) as bar:
        found = null.experiment(threads, args.null, bar, kernels, 120)
    path = machine_file.save(name, hardware=facts, null={k: v for k, v in found.items() if k != "pairs"})
    if args.json:
        emit("null", {"machine": name, "path": str(path), **found})
        return FINE
    _null_table(found, name)
    print(f"kept in {path}")
    return FINE


def _show(rows: list[dict[str, Any]]) -> None:
    """Tables for a person: bad kernels by fault and backend, honest kernels."""
    from rich.text import Text

    out = console()
    bad = _table("bad kernels", "kernel", "must be", "is", "because")
    for r in (r for r in rows if r["bad"]):
        status = Text(r["status"], style="" if r["as_it_must"] else "bold red")
        bad.add_row(r["kernel"], r["expected"].replace(" ", " or "), status, Text(_short(r["why"])))
    honest = _table("honest kernels", "kernel", "is", "because")
    mine = [r for r in rows if not r["bad"]]
    for name in dict.fromkeys(r["kernel"] for r in mine):
        for status in dict.fromkeys(r["status"] for r in mine if r["kernel"] == name):
            same = [r for r in mine if (r["kernel"], r["status"]) == (name, status)]
            style = "" if all(r["as_it_must"] for r in same) else "bold red"
            on = f"{status} on {len(same)} problem" + "s" * (len(same) > 1)
            honest.add_row(name, Text(on, style=style), Text(_short(same[0]["why"])))
    out.print(bad)
    out.print()
    out.print(honest)
    out.print()
    out.print(trial.sentence(rows), style="bold", markup=False, soft_wrap=True)


def _table(title: str, *headings: str) -> Any:
    from rich.table import Table

    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    for heading in headings:
        table.add_column(heading, overflow="fold")
    return table


def _short(text: str) -> str:
    return text if len(text) < 75 else text[:74] + "…"


def _null_table(found: dict[str, Any], machine: str) -> None:
    """Each twin's ratio and interval, those that seem to differ marked, and what it comes to."""
    from rich.table import Table

    out = console()
    title = f"Kernels against themselves, {found['rounds']} rounds, {found['threads']} threads, {machine}"
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    for heading in ("kernel", "problem", "ratio", "interval", ""):
        table.add_column(heading)
    for x in found["pairs"]:
        told = f"{x['low']:.3f} - {x['high']:.3f}"
        alarm = "seems to differ" if x["alarm"] else ""
        table.add_row(x["kernel"], x["problem"], f"{x['ratio']:.3f}", told, alarm)
    out.print(table)
    out.print(
        f"{found['false_alarms']} of {found['twins']} twins seem to differ ({found['false_alarm_rate']:.1%}; "
        f"{found['expected_rate']:.1%} is what the intervals allow). In {found['rounds']} rounds a difference "
        f"of {found['median_visible']:.1%} shows in half of the cells, one of {found['smallest_visible']:.1%} "
        f"in nearly all.",
        markup=False,
        soft_wrap=True,
    )
