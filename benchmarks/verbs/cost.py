"""What a kernel costs before it is fast: import, plan, pack, transfer, first call; and when that pays off.

Each kernel gets two processes of its own. The first begins with an empty compilation cache (cold), the second
finds what the first left (warm).
"""

from __future__ import annotations

import argparse
import math
import os
import tempfile
from dataclasses import asdict
from itertools import pairwise
from typing import Any

from .. import hardware, problems
from .. import options as kinds
from ..processes import Worker
from ..stopwatch import Effort
from ..terminal import console, progress
from ..words import seconds_text
from . import chosen, code_of, emit

STEPS = ("import", "plan", "pack", "transfer", "first")


def ladder(kernel: str, problem: str, threads: int, timeout: float) -> dict[str, Any]:
    """Seconds of every step, cold and warm, and of a call once all is done; or status and why not."""
    found: dict[str, Any] = {"kernel": kernel, "problem": problem, "status": "ok", "why": ""}
    with tempfile.TemporaryDirectory() as cache:
        kept = os.environ.get("NUMBA_CACHE_DIR")
        os.environ["NUMBA_CACHE_DIR"] = cache  # inherited by the workers; other libraries have no cache here
        try:
            for state in ("cold", "warm"):
                reply = _one_process(kernel, problem, threads, timeout)
                if reply["status"] != "ok":
                    return found | {k: reply[k] for k in ("status", "why")}
                found[state] = {step: reply[f"{step}_seconds"] for step in STEPS}
                found["run"] = reply["seconds"]
        finally:
            if kept is None:
                del os.environ["NUMBA_CACHE_DIR"]
            else:
                os.environ["NUMBA_CACHE_DIR"] = kept
    return found


def _one_process(kernel: str, problem: str, threads: int, timeout: float) -> dict[str, Any]:
    worker = Worker(kernel.partition("/")[0], threads)
    try:
        hello = worker.greet(timeout)
        if "status" in hello:
            return hello
        effort = asdict(Effort(0.005, 0.01, 0.1, 3, 20))
        request = {"kernel": kernel, "problem": problem, "scenario": "packed", "seed": 0}
        reply = worker.ask(request | {"effort": effort}, timeout)
        return {"import_seconds": hello.get("import_seconds", 0.0)} | reply
    finally:
        worker.close()


def startup(line: dict[str, Any], state: str) -> float:
    """Seconds before the second call can begin."""
    return sum(line[state].values())


def break_even(slow: dict[str, Any], quick: dict[str, Any], state: str) -> int | None:
    """Calls after which ``quick`` has overtaken ``slow``, everything counted; None if it never does.

    0 where it is ahead from the start.
    """
    behind = startup(quick, state) - startup(slow, state)
    gain = slow["run"] - quick["run"]
    if behind <= 0:
        return 0 if gain >= 0 else None
    return math.ceil(behind / gain) if gain > 0 else None


def pay_offs(lines: list[dict[str, Any]], state: str) -> list[tuple[str, str, int]]:
    """(slower, quicker, calls) along the order of start-up cost: only kernels that win at some count."""
    ok = sorted((x for x in lines if x["status"] == "ok"), key=lambda x: startup(x, state))
    front: list[dict[str, Any]] = []
    for line in ok:
        if not front or line["run"] < front[-1]["run"]:
            front.append(line)
    return [(a["kernel"], b["kernel"], break_even(a, b, state) or 0) for a, b in pairwise(front)]


def options(p: argparse.ArgumentParser) -> None:
    p.add_argument("kernels", nargs="*", metavar="GLOB", help="default: all")
    p.add_argument("--problems", nargs="+", metavar="SET|FILE|STRING", default=["seed"])
    kinds.threads(p)
    p.add_argument("--timeout", type=kinds.seconds, metavar="SECONDS", default=120.0)


def call(args: argparse.Namespace) -> int:
    threads = args.threads or hardware.usable_cpus()
    todo = [(k, str(x.problem)) for x in problems.resolve(args.problems) for k in chosen(args.kernels or ["*"])]
    lines = []
    with progress(len(todo), args.json) as bar:
        for kernel, problem in todo:
            bar.step(f"{kernel} {problem}")
            lines.append(ladder(kernel, problem, threads, args.timeout))
    if args.json:
        emit("cost", {"threads": threads, "machine": hardware.machine_name(), "cells": lines})
    else:
        _tables(lines, threads, hardware.machine_name())
    return code_of([x["status"] for x in lines])


def _tables(lines: list[dict[str, Any]], threads: int, machine: str) -> None:
    """The steps before a kernel is fast, cold and warm, cheapest start first; then when each pays off."""
    from rich.table import Table

    out = console()
    for problem in dict.fromkeys(x["problem"] for x in lines):
        mine = [x for x in lines if x["problem"] == problem]
        ok = sorted((x for x in mine if x["status"] == "ok"), key=lambda x: startup(x, "warm"))
        title = f"{problem}, packed, {threads} threads, {machine}"
        table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
        table.add_column("kernel")
        headings = ("import", "plan, cold", "plan, warm", "pack", "transfer", "first call", "then a call")
        for heading in headings:
            table.add_column(heading, justify="right")
        for x in ok:
            warm = x["warm"]
            steps = (warm["import"], x["cold"]["plan"], *(warm[k] for k in STEPS[1:]), x["run"])
            table.add_row(x["kernel"], *map(seconds_text, steps))
        out.print(table)
        for state in ("cold", "warm"):
            for slow, quick, calls in pay_offs(mine, state):
                out.print(f"  {state}: {quick} overtakes {slow} after {calls} calls", markup=False)
        for x in mine:
            if x["status"] != "ok":
                out.print(f"  {x['kernel']}: {x['status']}: {x['why']}", markup=False, soft_wrap=True)
        out.print()
