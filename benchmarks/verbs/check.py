"""``check``: the verdict on outputs, without timing."""

from __future__ import annotations

import argparse
from typing import Any

from .. import hardware
from .. import options as kinds
from ..problems import resolve
from ..processes import Crew
from ..terminal import console, progress
from ..worker import repeat
from . import INTERRUPTED, chosen, code_of, emit


def options(p: argparse.ArgumentParser) -> None:
    p.add_argument("kernels", nargs="*", metavar="GLOB", help="default: all")
    p.add_argument("--problems", nargs="+", metavar="SET|FILE|STRING", default=["tiny", "seed", "tails"])
    p.add_argument("--seed", type=kinds.natural, default=0)
    p.add_argument("--timeout", type=kinds.seconds, metavar="SECONDS", default=300.0, help="for one cell")


def call(args: argparse.Namespace) -> int:
    layers = resolve(args.problems)
    names = chosen(args.kernels or ["*"])
    rows: list[dict[str, Any]] = []
    crew = Crew(hardware.usable_cpus(), args.timeout)
    code = None
    try:
        with progress(len(names) * len(layers), quiet=args.json) as bar:
            for name, problem in ((n, str(x.problem)) for n in names for x in layers):
                bar.step(f"{name} {problem}")
                reply = crew.ask({"kernel": name, "problem": problem, "seed": args.seed})
                row = {"kernel": name, "problem": problem, "why": "", **reply}
                if row["status"] == "wrong":
                    row["repeat"] = repeat(name, problem, args.seed)
                rows.append(row)
    except KeyboardInterrupt:
        code = INTERRUPTED
    finally:
        crew.close()
    _show_check(rows, args.json)
    return code or code_of([r["status"] for r in rows])


def _show_check(rows: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        emit("check", {"cells": rows})
        return
    out = console()
    for name in dict.fromkeys(r["kernel"] for r in rows):
        mine = [r for r in rows if r["kernel"] == name]
        right = [r for r in mine if r["status"] == "ok"]
        best = f", error at most {max(r['score'] for r in right):.2g} u·A" if right else ""
        out.print(f"{name}: {len(right)} of {len(mine)} problems right{best}", markup=False)
        for status, why in dict.fromkeys((r["status"], r["why"]) for r in mine if r["status"] != "ok"):
            hit = [r for r in mine if (r["status"], r["why"]) == (status, why)]
            bad = status in ("wrong", "crashed")
            where = f" on {hit[0]['problem']}" if bad else ""
            text = f"  {len(hit)} {status}{where}: {why.removeprefix(name + ' ')}"
            out.print(text, style="bold red" if bad else None, markup=False, soft_wrap=True)
            if "repeat" in hit[0]:
                out.print(f"  repeat: {hit[0]['repeat']}", markup=False, soft_wrap=True)
