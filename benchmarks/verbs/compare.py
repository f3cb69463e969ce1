"""``compare``: kernels timed against each other, and the record of it."""

from __future__ import annotations

import argparse
import subprocess
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from .. import compare as sweeping
from .. import evidence, hardware, machine_file, problems, record, summary, terminal
from .. import options as kinds
from ..terminal import console
from ..words import bytes_text, seconds_text
from . import FAILED, FINE, INTERRUPTED, chosen, code_of, emit


def options(p: argparse.ArgumentParser) -> None:
    sweep_options(p)
    p.add_argument("--machine", type=kinds.machine_name, metavar="NAME", help="default: made from the hardware")
    p.add_argument("--resume", metavar="RECORD.jsonl", help="go on with an interrupted run: a file, or its name")
    p.add_argument("--raw", action="store_true", help="keep every sample in the record")
    p.add_argument("--report", action="store_true", help="write the HTML and Markdown report of this run")


def sweep_options(p: argparse.ArgumentParser) -> None:
    """What is measured, how well, and where the record goes."""
    p.add_argument("--preset", choices=("quick", "standard", "full"), default="quick")
    p.add_argument("--kernels", nargs="+", metavar="GLOB", default=["*"])
    p.add_argument("--problems", nargs="+", metavar="SET|FILE|STRING", help="default: the preset's")
    p.add_argument("--batch", type=kinds.count, metavar="N", help="replace N of every problem")
    p.add_argument("--layout", choices=["nchw", "nhwc"], help="replace the layout of every problem")
    p.add_argument("--scenario", nargs="+", choices=("eager", "packed"), default=["packed"])
    p.add_argument("--baseline", metavar="KERNEL", help="default: torch's builtin on this device")
    kinds.threads(p)
    p.add_argument("--records", metavar="DIR", help="default: reports/out/records")
    p.add_argument("--rounds", type=kinds.count, metavar="N", help="exactly N rounds")
    p.add_argument("--budget", type=kinds.seconds, metavar="SECONDS", help="begin no round beyond this")
    p.add_argument("--timeout", type=kinds.seconds, metavar="SECONDS", default=120.0, help="for one cell")
    p.add_argument("--seed", type=kinds.natural, default=0)
    p.add_argument("-q", "--quiet", action="store_true", help="no progress")


def call(args: argparse.Namespace) -> int:
    for text in hardware.warnings():
        print(f"warning: {text}", file=sys.stderr)
    sweep, header = _resumed(args) if args.resume else _begun(args)
    log, cells = sweep.record, sweep.cells
    if header["dirty"]:
        print("note: the tree has uncommitted changes; the record says so", file=sys.stderr)
    quiet = args.quiet or args.json
    code = FINE
    try:
        with terminal.progress(len(cells) * sweep.preset.rounds[0], quiet) as sweep.progress:
            sweep.run()
        baseline = args.baseline or summary.default_baseline(cells)
        lines = sweep.summarize(baseline)
        sentence = summary.closing(cells, baseline, sweep.threads, header["machine"])
        ended = "interrupted" if sweep.interrupted else "complete"
        log.add(
            {
                "kind": "end",
                "status": ended,
                "libraries": sweep.about,
                "sentence": sentence,
                "import_seconds": sweep.imports,
            }
        )
    except OSError as error:
        print(
            f"the record could not be written ({error}); every cell that was finished is in {log.path}: "
            f"mend that, then --resume {log.path}",
            file=sys.stderr,
        )
        return FAILED
    finally:
        log.close()
    report = _report(log.path) if args.report else []
    if args.json:
        skipped = [c.key | {"status": c.status, "why": c.why} for c in cells if c.status != "ok"]
        emit(
            "compare",
            {
                "run": header,
                "cells": lines,
                "skipped": skipped,
                "sentence": sentence,
                "record": str(log.path),
                "report": report,
            },
        )
    else:
        tables(lines, baseline, header["machine"], sweep.threads)
        skip_list(cells)
        out = terminal.console()
        out.print(f"\n{sentence}", style="bold", markup=False, soft_wrap=True)
        for what, where in (("record", str(log.path)), *(("report", r) for r in report)):
            out.print(f"{what}: {where}", markup=False, soft_wrap=True)
    code = INTERRUPTED if sweep.interrupted else code_of([c.status for c in cells])
    return code


def asked(args: argparse.Namespace) -> dict[str, Any]:
    """The part of a record's header that is the same on whatever machine."""
    preset = sweeping.preset(args.preset, args.rounds, args.budget)
    layers = problems.resolve(args.problems or problems.PRESETS[args.preset], args.batch, args.layout)
    kernels = chosen(args.kernels)
    if args.baseline:
        kernels = list(dict.fromkeys([*kernels, *chosen([args.baseline])]))
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": record.command(),
        "preset": args.preset,
        "sampling": asdict(preset),
        "scenarios": args.scenario,
        "seed": args.seed,
        "kernels": kernels,
        "problems": [[x.name, str(x.problem), x.count] for x in layers],
        "networks": problems.networks_in(layers),
    }


def _begun(args: argparse.Namespace) -> tuple[Any, dict[str, Any]]:
    """A new sweep and the header of its record."""
    threads = args.threads or hardware.usable_cpus()
    facts = hardware.facts()
    machine = args.machine or hardware.machine_name(facts)
    state = record.commit()
    header = {
        "suite": record.SUITE,
        "method": record.METHOD,
        "machine": machine,
        "hardware": facts,
        **state,
        "commit_date": record.commit_date(state["commit"]),
        "threads": threads,
        "warnings": hardware.warnings(),
        **asked(args),
        "ceilings": machine_file.ceilings(machine, facts, threads),
        "null": machine_file.load(machine).get("null"),
    }
    path = record.new_path(sweeping.record_folder(args.records), machine, args.preset)
    log = record.Record(path, header)
    found = sweeping.Sweep(
        sweeping.cells_of(header),
        sweeping.preset(args.preset, args.rounds, args.budget),
        threads,
        args.seed,
        log,
        args.timeout,
        args.raw,
        ceilings=header["ceilings"],
        watch=True,
    )
    return found, header


def _resumed(args: argparse.Namespace) -> tuple[Any, dict[str, Any]]:
    """The sweep of an interrupted record, with what it had finished. ValueError where it cannot go on."""
    path = record.one(args.resume)
    header, lines = resumable(path)
    return sweeping.resumed(header, lines, record.Record(path), args.timeout, args.raw), header


def resumable(path: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Header and other lines of a record that this tree can go on with. ValueError where it cannot."""
    lines = list(record.read(path))
    if not lines:
        raise ValueError(f"{path}: holds no run: begin a new record")
    header = lines[0]
    now = record.commit()
    if (header["commit"], header["dirty"]) != (now["commit"], now["dirty"]) or now["dirty"]:
        raise ValueError(
            f"{path}: was measured at commit {header['commit'][:8]}"
            f"{' with uncommitted changes' if header['dirty'] else ''}, and this tree is at "
            f"{now['commit'][:8]}{' with uncommitted changes' if now['dirty'] else ''}: begin a new record"
        )
    return header, lines[1:]


def _report(path: Path) -> list[str]:
    """The report of one record, made by the reports room in a process of its own."""
    command = [sys.executable, "-m", "reports", "render", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=record.ROOT)
    if done.returncode:
        print(f"the report could not be written: {done.stderr.strip()}", file=sys.stderr)
    return done.stdout.splitlines()


def tables(lines: list[dict[str, Any]], baseline: str | None, machine: str, threads: int) -> None:
    """One table per problem and scenario, fastest first; bold is the fastest of the strongest guarantee."""
    from rich.table import Table
    from rich.text import Text

    out = console()
    for problem, scenario in dict.fromkeys((x["problem"], x["scenario"]) for x in lines):
        mine = [x for x in lines if (x["problem"], x["scenario"]) == (problem, scenario)]
        mine.sort(key=lambda x: x.get("seconds", float("inf")))
        name = f" ({mine[0]['layer']})" if mine[0]["layer"] != problem else ""
        title = f"{problem}{name}, {scenario}, {mine[0]['flops'] / 1e6:.4g} MFLOP, {threads} threads, {machine}"
        table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
        headings = ("time", "interval", "GFLOP/s", f"x {baseline}", "err u·A", "guarantee", "workspace")
        table.add_column("kernel")
        for heading in headings:
            table.add_column(heading, justify="left" if heading == "guarantee" else "right")
        right = [x for x in mine if x["status"] == "ok"]
        best = min(right, key=lambda x: evidence.strength(x["accuracy"]), default=None)
        for x in mine:
            if x["status"] != "ok":
                table.add_row(x["kernel"], Text(x["status"], style="bold red"), x["why"][:60])
                continue
            speed = f"{x['vs_baseline']:.2f}" if "vs_baseline" in x else "-"
            table.add_row(
                x["kernel"],
                seconds_text(x["seconds"]),
                f"{seconds_text(x['low'])} - {seconds_text(x['high'])}",
                f"{x['gflops_per_s']:.4g}",
                speed,
                f"{x['error']['score']:.2g}",
                x["accuracy"],
                bytes_text(x["workspace"]),
                style="bold" if x is best else None,
            )
        out.print(table)
        out.print()


def skip_list(cells: list[sweeping.Cell]) -> None:
    """Why cells have no time, a line for each reason; what went wrong stands out."""
    out = console()
    for (status, why), found in summary.skips(cells).items():
        kernels = sorted({c.kernel for c in found})
        who = ", ".join(kernels[:4]) + (f" and {len(kernels) - 4} more" if len(kernels) > 4 else "")
        style = None if status in ("unsupported", "unavailable") else "bold red"
        out.print(f"{len(found)} {status}: {why} ({who})", style=style, markup=False, soft_wrap=True)
