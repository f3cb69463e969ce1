"""``python -m benchmarks``: list, check, compare, doctor, machine, export, gpu.

Exit codes: 0 fine; 1 an output was wrong; 2 something failed to run, or nothing could run; 3 wrong usage;
130 ended by Ctrl-C, with everything that was finished kept.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn

FINE, WRONG, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 3, 130


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(USAGE, f"{self.prog}: {message}\n")


def parser() -> Parser:
    top = Parser(prog="python -m benchmarks", description="Ask the kernels: right? how fast? where?")
    verbs = top.add_subparsers(dest="verb", required=True, metavar="VERB", parser_class=Parser)

    def verb(name: str, text: str) -> argparse.ArgumentParser:
        p = verbs.add_parser(name, help=text, description=text)
        p.add_argument("--json", action="store_true", help="one JSON document on standard output")
        return p

    p = verb("list", "every kernel: algorithm, guarantee, usable here or why not")
    p.add_argument("kernels", nargs="*", metavar="GLOB")

    p = verb("check", "the verdict on kernels' outputs, without timing")
    p.add_argument("kernels", nargs="*", metavar="GLOB", help="default: all")
    p.add_argument("--problems", nargs="+", metavar="SET|STRING", default=["tiny", "seed", "tails"])
    p.add_argument("--seed", type=int, default=0)

    p = verb("compare", "time kernels against each other, each output judged before and after")
    p.add_argument("--preset", choices=("quick", "standard", "full"), default="quick")
    p.add_argument("--kernels", nargs="+", metavar="GLOB", default=["*"])
    p.add_argument("--problems", nargs="+", metavar="SET|STRING", help="default: the preset's")
    p.add_argument("--batch", type=int, metavar="N", help="replace N of every problem")
    p.add_argument("--scenario", nargs="+", choices=("eager", "packed"), default=["packed"])
    p.add_argument("--baseline", metavar="KERNEL", help="default: torch's builtin on this device")
    p.add_argument("--threads", type=int, metavar="N", help="default: all usable CPUs")
    p.add_argument("--machine", metavar="NAME", help="default: made from the hardware")
    p.add_argument("--records", metavar="DIR", help="default: reports/records")
    p.add_argument("--rounds", type=int, metavar="N", help="exactly N rounds")
    p.add_argument("--budget", type=float, metavar="SECONDS", help="begin no round beyond this")
    p.add_argument("--timeout", type=float, metavar="SECONDS", default=120.0, help="for one cell")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--raw", action="store_true", help="keep every sample in the record")
    p.add_argument(
        "--report", action="store_true", help="write the HTML and Markdown report of this run"
    )
    p.add_argument("-q", "--quiet", action="store_true", help="no progress")

    verb("doctor", "this machine: hardware, libraries, threads, what would spoil timings")

    p = verb("machine", "write reports/machines/<name>.json and tell asv about this machine")
    p.add_argument("--name", metavar="NAME", help="default: made from the hardware")
    p.add_argument("--out", metavar="DIR", help="default: reports/machines")

    p = verb("export", "write a record's cells as asv results")
    p.add_argument("record", metavar="RECORD.jsonl")
    p.add_argument("--results", metavar="DIR", help="default: reports/results")

    p = verb("gpu", "tests, sanitizer and timings on a CUDA machine that reaches no network")
    p.add_argument("--out", metavar="DIR", default="gpu-results", help="default: gpu-results")
    p.add_argument("--budget", type=float, metavar="SECONDS", default=540.0)
    return top


def chosen(globs: list[str]) -> list[str]:
    """Kernels that match; ValueError, with the nearest names, when one glob matches none."""
    import difflib

    import convzoo

    for glob in globs:
        if not convzoo.names(glob):
            near = difflib.get_close_matches(glob, convzoo.names(), n=3, cutoff=0.3)
            hint = f" (did you mean {', '.join(near)}?)" if near else ""
            raise ValueError(f"no kernel matches {glob!r}{hint}")
    return convzoo.names(*globs)


def emit(schema: str, document: dict[str, Any]) -> None:
    print(json.dumps({"schema": f"convzoo.{schema}/1", **document}, indent=1, allow_nan=False))


def list_kernels(args: argparse.Namespace) -> int:
    from convzoo.catalog import find

    rows = []
    for name in chosen(args.kernels or ["*"]):
        k = find(name)
        reason = k.backend.why_not()
        rows.append({
            "kernel": name, "algorithm": k.algorithm, "accuracy": k.accuracy, "usable": reason is None,
            "why_not": reason, "max_flops": k.max_flops, "idea": k.headline,
        })  # fmt: skip
    if args.json:
        emit("list", {"kernels": rows})
        return FINE
    from rich.table import Table

    from .terminal import console

    table = Table(box=None, pad_edge=False)
    for heading in ("kernel", "algorithm", "guarantee", "usable here"):
        table.add_column(heading)
    for r in rows:
        usable = "yes" if r["usable"] else f"no: {r['why_not']}"
        table.add_row(r["kernel"], r["algorithm"], r["accuracy"], usable)
    console().print(table)
    return FINE


def check(args: argparse.Namespace) -> int:
    from convzoo import Unavailable, Unsupported, load
    from convzoo.reference import examine

    from .problems import resolve
    from .terminal import progress
    from .worker import refuse_to_check, repeat

    layers = resolve(args.problems)
    names = chosen(args.kernels or ["*"])
    rows: list[dict[str, Any]] = []
    try:
        with progress(len(names) * len(layers), quiet=args.json) as bar:
            for name in names:
                for layer in layers:
                    p = layer.problem
                    row: dict[str, Any] = {"kernel": name, "problem": str(p), "status": "ok", "why": ""}
                    bar.step(f"{name} {p}")
                    try:
                        kernel = load(name)
                        refuse_to_check(kernel, p)
                        verdict = examine(kernel, p, args.seed)
                        row |= {"score": verdict.score, "budget": verdict.budget}
                        if not verdict.ok:
                            again = repeat(name, str(p), args.seed)
                            row |= {"status": "wrong", "why": verdict.why, "repeat": again}
                    except Unavailable as reason:
                        row |= {"status": "unavailable", "why": str(reason)}
                    except Unsupported as reason:
                        row |= {"status": "unsupported", "why": str(reason)}
                    except Exception as error:  # the kernel's own fault, told as such
                        row |= {"status": "crashed", "why": f"{type(error).__name__}: {error}"}
                    rows.append(row)
    except KeyboardInterrupt:
        _show_check(rows, args.json)
        return INTERRUPTED
    _show_check(rows, args.json)
    return _exit_code([r["status"] for r in rows])


def _show_check(rows: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        emit("check", {"cells": rows})
        return
    from .terminal import console

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


def _exit_code(statuses: list[str]) -> int:
    if "wrong" in statuses:
        return WRONG
    if {"crashed", "timeout"} & set(statuses) or "ok" not in statuses:
        return FAILED
    return FINE


def compare(args: argparse.Namespace) -> int:
    from dataclasses import replace

    from . import compare as sweeping
    from . import hardware, problems, record, terminal

    preset = sweeping.PRESETS[args.preset]
    if args.rounds:
        preset = replace(preset, rounds=(args.rounds, args.rounds))
    if args.budget:
        preset = replace(preset, seconds=args.budget)
    layers = problems.resolve(args.problems or problems.PRESETS[args.preset], args.batch)
    kernels = chosen(args.kernels)
    if args.baseline:
        kernels = list(dict.fromkeys([*kernels, *chosen([args.baseline])]))
    threads = args.threads or hardware.usable_cpus()
    facts = hardware.facts()
    machine = args.machine or hardware.machine_name(facts)
    state = record.commit()
    header = {
        "suite": record.SUITE, "method": "compare", "machine": machine, "hardware": facts,
        "started": datetime.now(UTC).isoformat(timespec="seconds"), **state,
        "commit_date": record.commit_date(state["commit"]), "command": record.command(),
        "preset": args.preset, "threads": threads, "scenarios": args.scenario, "seed": args.seed,
        "warnings": hardware.warnings(),
    }  # fmt: skip
    cells = [
        sweeping.Cell(kernel, layer, scenario)
        for kernel in kernels for layer in layers for scenario in args.scenario
    ]  # fmt: skip
    path = record.new_path(sweeping.record_folder(args.records), machine, args.preset)
    log = record.Record(path, header)
    for text in header["warnings"]:
        print(f"warning: {text}", file=sys.stderr)
    if state["dirty"]:
        print("note: the tree has uncommitted changes; the record says so", file=sys.stderr)
    quiet = args.quiet or args.json
    with terminal.progress(len(cells) * preset.rounds[0], quiet) as bar:
        sweep = sweeping.Sweep(cells, preset, threads, args.seed, log, args.timeout, args.raw, bar)
        sweep.run()
    baseline = args.baseline or sweeping.default_baseline(cells)
    lines = sweep.summarize(baseline)
    sentence = sweeping.verdict_sentence(cells, baseline, threads, machine)
    ended = "interrupted" if sweep.interrupted else "complete"
    log.add({"kind": "end", "status": ended, "libraries": sweep.about, "sentence": sentence})
    log.close()
    report = _report(path) if args.report else []
    if args.json:
        skipped = [c.key | {"status": c.status, "why": c.why} for c in cells if c.status != "ok"]
        emit("compare", {
            "run": header, "cells": lines, "skipped": skipped, "sentence": sentence,
            "record": str(path), "report": report,
        })  # fmt: skip
    else:
        terminal.compare_tables(lines, baseline, machine, threads)
        terminal.skip_list(cells)
        out = terminal.console()
        out.print(f"\n{sentence}", style="bold", markup=False, soft_wrap=True)
        for what, where in (("record", str(path)), *(("report", r) for r in report)):
            out.print(f"{what}: {where}", markup=False, soft_wrap=True)
    return INTERRUPTED if sweep.interrupted else _exit_code([c.status for c in cells])


def _report(path: Path) -> list[str]:
    """The report of one record, made by the reports room in a process of its own."""
    command = [sys.executable, "-m", "reports", "render", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parent.parent)
    if done.returncode:
        print(f"the report could not be written: {done.stderr.strip()}", file=sys.stderr)
    return done.stdout.splitlines()


def doctor(args: argparse.Namespace) -> int:
    from convzoo.backends import BACKENDS

    from . import hardware, record

    facts, warnings = hardware.facts(), hardware.warnings()
    backends = {}
    for name, backend in BACKENDS.items():
        reason = backend.why_not()
        backends[name] = {"usable": reason is None, "why_not": reason}
        if reason is None:
            backends[name]["about"] = backend.about()
    document = {
        "machine": hardware.machine_name(facts), "hardware": facts, "backends": backends,
        "warnings": warnings, **record.commit(),
    }  # fmt: skip
    if args.json:
        emit("doctor", document)
        return FINE
    from .terminal import bytes_text, console

    out = console()
    out.print(document["machine"], style="bold", markup=False)
    for key, value in facts.items():
        shown = bytes_text(value) if key == "memory_bytes" and value else value
        out.print(f"  {key:18} {shown}", markup=False, soft_wrap=True)
    for name, state in backends.items():
        said = state.get("about") or f"no: {state['why_not']}"
        if isinstance(said, dict):
            said = ", ".join(f"{k} {v}" for k, v in said.items())
        out.print(f"  {name:18} {said}", markup=False, soft_wrap=True)
    for text in warnings:
        out.print(f"warning: {text}", style="yellow", markup=False, soft_wrap=True)
    if not warnings:
        out.print("nothing here would spoil timings")
    return FINE


def machine(args: argparse.Namespace) -> int:
    from . import hardware, record

    facts = hardware.facts()
    name = args.name or hardware.machine_name(facts)
    folder = Path(args.out).resolve() if args.out else record.ROOT / "reports" / "machines"
    path = folder / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    document = {"schema": "convzoo.machine/1", "machine": name, "hardware": facts}
    path.write_text(json.dumps(document, indent=1) + "\n")
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


def export(args: argparse.Namespace) -> int:
    from . import record

    results = Path(args.results) if args.results else record.ROOT / "reports" / "results"
    folder = record.export_to_asv(Path(args.record), results)
    if args.json:
        emit("export", {"results": str(folder)})
    else:
        print(folder)
    return FINE


def gpu(args: argparse.Namespace) -> int:
    from convzoo.backends import BACKENDS

    from . import gpu as machine_room

    missing = {name: BACKENDS[name].why_not() for name in machine_room.BACKENDS}
    if all(missing.values()):
        for name, reason in missing.items():
            print(f"{name} {reason}", file=sys.stderr)
        return FAILED
    code = machine_room.run(Path(args.out).resolve(), args.budget)
    return code if code in (FINE, WRONG) else FAILED


VERBS = {
    "list": list_kernels, "check": check, "compare": compare, "doctor": doctor,
    "machine": machine, "export": export, "gpu": gpu,
}  # fmt: skip


def main(argv: list[str] | None = None) -> int:
    top = parser()
    args = top.parse_args(argv)
    try:
        return VERBS[args.verb](args)
    except (ValueError, FileNotFoundError) as error:
        top.exit(USAGE, f"python -m benchmarks {args.verb}: {error}\n")
    except KeyboardInterrupt:
        return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
