"""``python -m benchmarks``: what can be asked of the kernels; ``--help`` lists the verbs.

Exit codes: 0 fine; 1 an output was wrong, or with regress slower, or with reproduce not as published;
2 something failed to run, or nothing could run; 3 wrong usage; 130 ended by Ctrl-C, with everything that was
finished kept.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn

from . import options

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
    p.add_argument("--problems", nargs="+", metavar="SET|FILE|STRING", default=["tiny", "seed", "tails"])
    p.add_argument("--seed", type=options.natural, default=0)
    p.add_argument("--timeout", type=options.seconds, metavar="SECONDS", default=300.0, help="for one cell")

    p = verb("compare", "time kernels against each other, each output judged before and after")
    _sweep_options(p)
    p.add_argument("--machine", type=options.machine_name, metavar="NAME", help="default: made from the hardware")
    p.add_argument("--resume", metavar="RECORD.jsonl", help="go on with an interrupted run: a file, or its name")
    p.add_argument("--raw", action="store_true", help="keep every sample in the record")
    p.add_argument("--report", action="store_true", help="write the HTML and Markdown report of this run")

    p = verb("fleet", "the same sweep over many hosts, on Dask distributed")
    where = p.add_mutually_exclusive_group(required=True)
    where.add_argument("--local", type=options.count, metavar="N", help="N workers on this box, to try it out")
    where.add_argument("--scheduler", metavar="ADDRESS", help="of a Dask scheduler: tcp://host:8786")
    where.add_argument("--ssh", metavar="HOSTFILE", help="a line: [user@]host[:port] [its checkout]")
    p.add_argument("--plan", action="store_true", help="only say how long it takes on which hosts")
    p.add_argument("--resume", nargs="+", metavar="RECORD.jsonl", help="finish what is incomplete there")
    _sweep_options(p)

    p = verb("cost", "what kernels cost before they are fast, cold and warm, and when that pays off")
    p.add_argument("kernels", nargs="*", metavar="GLOB", help="default: all")
    p.add_argument("--problems", nargs="+", metavar="SET|FILE|STRING", default=["seed"])
    options.threads(p)
    p.add_argument("--timeout", type=options.seconds, metavar="SECONDS", default=120.0)

    p = verb("regress", "did it get slower or wrong? two commits, or two versions of a library")
    p.add_argument("base", nargs="?", metavar="BASE", help="the commit to compare with")
    p.add_argument("head", nargs="?", metavar="HEAD", help="default: the working tree as it is")
    p.add_argument(
        "--against",
        nargs=2,
        metavar=("OLD", "NEW"),
        help='two requirements, as "numba==0.67.0" "numba==0.68.1", on one commit (BASE, or the tree)',
    )
    p.add_argument("--kernels", nargs="+", metavar="GLOB", default=["*"])
    p.add_argument("--problems", nargs="+", metavar="SET|FILE|STRING", help="default: those of compare")
    p.add_argument("--scenario", nargs="+", choices=("eager", "packed"), default=["packed"])
    p.add_argument("--screen", type=options.count, metavar="N", default=4, help="rounds of every cell")
    p.add_argument("--confirm", type=options.count, metavar="N", help="rounds of suspects; default: what Holm needs")
    p.add_argument("--minimum", type=options.percent, metavar="PERCENT", default=2.0, help="smaller is no change")
    options.threads(p)
    p.add_argument("--timeout", type=options.seconds, metavar="SECONDS", default=120.0, help="for one cell")
    p.add_argument("--seed", type=options.natural, help="of data, order and coins; default: a new one, told in --json")
    p.add_argument("--markdown", metavar="FILE", help="what changed, for a pull request")
    p.add_argument("-q", "--quiet", action="store_true", help="no progress")

    p = verb("history", "steps in the committed asv results: commit, cell and size")
    p.add_argument("--results", metavar="DIR", help="default: results_dir of asv.conf.json")
    p.add_argument("--minimum", type=options.percent, metavar="PERCENT", default=2.0, help="smaller is no step")

    p = verb("selftest", "are wrong kernels caught here, and right ones let through?")
    p.add_argument(
        "--null",
        type=options.count,
        nargs="?",
        const=10,
        metavar="ROUNDS",
        help="instead: kernels against themselves; the false alarms and the smallest visible difference",
    )
    p.add_argument("--kernels", nargs="+", metavar="GLOB", default=["*"], help="families to try")
    p.add_argument("--bad", metavar="DIR", help="bad kernels of your own, as DIR/<backend>/<name>.py")
    p.add_argument("--seed", type=options.natural, default=0)

    p = verb("explain", "one kernel on one problem: time, what it should cost, ceilings, what ran")
    p.add_argument("kernel", metavar="KERNEL")
    p.add_argument("problem", metavar="PROBLEM", help="a string, or set/layer: resnet50/conv1")
    p.add_argument("--scenario", choices=("eager", "packed"), default="packed")
    options.threads(p)
    p.add_argument("--timeout", type=options.seconds, metavar="SECONDS", default=120.0)

    p = verb("trace", "the convolutions of your own network, as a file that is named where a set is")
    p.add_argument("source", metavar="FILE.onnx|package.module:callable")
    p.add_argument(
        "--input",
        action="append",
        metavar="1x3x224x224",
        default=[],
        help="shape of an input, in their order; a torch module needs it, an ONNX file may",
    )
    p.add_argument("--out", metavar="FILE.json", help="default: named after the network, here")

    p = verb("reproduce", "are published times so here? random cells of a record, measured again")
    p.add_argument("records", nargs="+", metavar="RECORDS", help="files, folders, or names of records and machines")
    p.add_argument("--cells", type=options.count, metavar="N", default=20, help="how many to draw; default: 20")
    p.add_argument(
        "--seed", type=options.natural, help="of the draw, data and order; default: a new one, which is told"
    )
    p.add_argument("--timeout", type=options.seconds, metavar="SECONDS", default=120.0, help="for one cell")
    p.add_argument("-q", "--quiet", action="store_true", help="no progress")

    verb("doctor", "this machine: hardware, libraries, threads, what would spoil timings")

    p = verb("machine", "write machines/<name>.json and tell asv about this machine")
    p.add_argument("--name", type=options.machine_name, metavar="NAME", help="default: made from the hardware")
    p.add_argument("--out", metavar="DIR", help="default: reports/out/machines")
    p.add_argument("--facts-only", action="store_true", help="do not measure the ceilings (10 s)")

    p = verb("export", "write a record's cells as asv results")
    p.add_argument("record", metavar="RECORD.jsonl")
    p.add_argument("--results", metavar="DIR", help="default: reports/results")

    p = verb("gpu", "tests, sanitizer and timings on a CUDA machine that reaches no network")
    p.add_argument("--out", metavar="DIR", default="gpu-results", help="default: gpu-results")
    p.add_argument("--budget", type=options.seconds, metavar="SECONDS", default=540.0)
    return top


def _sweep_options(p: argparse.ArgumentParser) -> None:
    """What is measured, how well, and where the record goes."""
    p.add_argument("--preset", choices=("quick", "standard", "full"), default="quick")
    p.add_argument("--kernels", nargs="+", metavar="GLOB", default=["*"])
    p.add_argument("--problems", nargs="+", metavar="SET|FILE|STRING", help="default: the preset's")
    p.add_argument("--batch", type=options.count, metavar="N", help="replace N of every problem")
    p.add_argument("--layout", choices=["nchw", "nhwc"], help="replace the layout of every problem")
    p.add_argument("--scenario", nargs="+", choices=("eager", "packed"), default=["packed"])
    p.add_argument("--baseline", metavar="KERNEL", help="default: torch's builtin on this device")
    options.threads(p)
    p.add_argument("--records", metavar="DIR", help="default: reports/out/records")
    p.add_argument("--rounds", type=options.count, metavar="N", help="exactly N rounds")
    p.add_argument("--budget", type=options.seconds, metavar="SECONDS", help="begin no round beyond this")
    p.add_argument("--timeout", type=options.seconds, metavar="SECONDS", default=120.0, help="for one cell")
    p.add_argument("--seed", type=options.natural, default=0)
    p.add_argument("-q", "--quiet", action="store_true", help="no progress")


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
    from . import hardware
    from .problems import resolve
    from .processes import Crew
    from .terminal import progress
    from .worker import repeat

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
    return code or _exit_code([r["status"] for r in rows])


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
    if {"crashed", "timeout", "mistrusted"} & set(statuses) or "ok" not in statuses:
        return FAILED
    return FINE


def compare(args: argparse.Namespace) -> int:
    from . import hardware, summary, terminal

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
        terminal.compare_tables(lines, baseline, header["machine"], sweep.threads)
        terminal.skip_list(cells)
        out = terminal.console()
        out.print(f"\n{sentence}", style="bold", markup=False, soft_wrap=True)
        for what, where in (("record", str(log.path)), *(("report", r) for r in report)):
            out.print(f"{what}: {where}", markup=False, soft_wrap=True)
    code = INTERRUPTED if sweep.interrupted else _exit_code([c.status for c in cells])
    return code


def _asked(args: argparse.Namespace) -> dict[str, Any]:
    """The part of a record's header that is the same on whatever machine."""
    from dataclasses import asdict

    from . import compare as sweeping
    from . import problems, record

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
    from . import compare as sweeping
    from . import hardware, machine_file, record

    asked = _asked(args)
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
        **asked,
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
    from . import compare as sweeping
    from . import record

    path = record.one(args.resume)
    header, lines = _resumable(path)
    return sweeping.resumed(header, lines, record.Record(path), args.timeout, args.raw), header


def _resumable(path: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Header and other lines of a record that this tree can go on with. ValueError where it cannot."""
    from . import record

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
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parent.parent)
    if done.returncode:
        print(f"the report could not be written: {done.stderr.strip()}", file=sys.stderr)
    return done.stdout.splitlines()


def cost(args: argparse.Namespace) -> int:
    from . import cost as ladders
    from . import hardware, problems, terminal

    threads = args.threads or hardware.usable_cpus()
    todo = [(k, str(x.problem)) for x in problems.resolve(args.problems) for k in chosen(args.kernels or ["*"])]
    lines = []
    with terminal.progress(len(todo), args.json) as bar:
        for kernel, problem in todo:
            bar.step(f"{kernel} {problem}")
            lines.append(ladders.ladder(kernel, problem, threads, args.timeout))
    if args.json:
        emit("cost", {"threads": threads, "machine": hardware.machine_name(), "cells": lines})
    else:
        terminal.cost_tables(lines, threads, hardware.machine_name())
    return _exit_code([x["status"] for x in lines])


def regress(args: argparse.Namespace) -> int:
    import secrets

    from . import checkout, findings, hardware, problems, record, terminal
    from . import regress as room

    for name in ("screen", "confirm", "threads"):
        if (n := getattr(args, name)) is not None and n < 1:
            raise ValueError(f"--{name} must be at least 1, got {n}")
    if args.minimum < 0:
        raise ValueError(f"--minimum must not be negative, got {args.minimum}")
    if args.markdown and not Path(args.markdown).resolve().parent.is_dir():
        raise ValueError(f"--markdown {args.markdown}: there is no such folder")
    threads = args.threads or hardware.usable_cpus()
    layers = problems.resolve(args.problems or problems.PRESETS["quick"])
    try:
        sides = checkout.sides(args.base, args.head, args.against)
        kernels = {role: checkout.kernels_of(s, args.kernels, threads) for role, s in sides.items()}
    except checkout.Unprepared as error:
        print(f"python -m benchmarks regress: {error}", file=sys.stderr)
        return FAILED
    if not any(kernels.values()):
        raise ValueError(f"no kernel matches {' '.join(args.kernels)} on either side")
    warnings = hardware.warnings() + [s.note for s in sides.values() if s.note]
    for text in warnings:
        print(f"warning: {text}", file=sys.stderr)
    pairs = room.pairs_of(kernels, layers, args.scenario)
    seed = secrets.randbelow(2**31) if args.seed is None else args.seed
    with terminal.progress(len(pairs), args.quiet or args.json) as bar:
        run = room.Regression(
            pairs,
            sides,
            threads,
            seed,
            args.screen,
            args.confirm,
            args.minimum / 100,
            timeout=args.timeout,
            progress=bar,
        )
        run.run()
    lines, summary = [run.line(pair) for pair in pairs], run.summary()
    labels = (sides["base"].label, sides["head"].label)
    document = {
        "machine": hardware.machine_name(),
        "threads": threads,
        "seed": seed,
        "warnings": warnings,
        "status": "interrupted" if run.interrupted else "complete",
        "command": record.command(),
        **{role: s.about | {"libraries": run.about[role]} for role, s in sides.items()},
        "summary": summary,
        "cells": lines,
        "sentence": findings.sentence(lines, summary, *labels),
    }
    if args.markdown:
        Path(args.markdown).write_text(findings.markdown(document), encoding="utf-8")
    if args.json:
        emit("regress", document)
    else:
        findings.show(document)
    if run.interrupted:
        return INTERRUPTED
    return WRONG if findings.failing(lines) else FINE if summary["compared"] else FAILED


def history(args: argparse.Namespace) -> int:
    from . import history as room

    try:
        every = room.series(room.results_folder(args.results))
    except ImportError:
        print("history reads asv's results: pip install 'convzoo[bench]'", file=sys.stderr)
        return FAILED
    found = room.steps(every, args.minimum / 100)
    if args.json:
        steps = [step.line for step in found]
        emit("history", {"series": len(every), "steps": steps, "sentence": room.sentence(every, found)})
    else:
        room.show(every, found)
    return FINE


def explain(args: argparse.Namespace) -> int:
    from . import explain as explaining
    from . import hardware, problems

    names = chosen([args.kernel])
    if len(names) > 1:
        raise ValueError(f"explain takes one kernel, and {args.kernel!r} matches {', '.join(names)}")
    layers = problems.resolve([args.problem])
    if len(layers) > 1:
        which = ", ".join(x.name for x in layers)
        raise ValueError(f"explain takes one problem: {args.problem}/LAYER with one of {which}")
    threads = args.threads or hardware.usable_cpus()
    asked = (names[0], layers[0].problem, args.scenario, threads, args.timeout)
    document = explaining.explain(*asked)
    if args.json:
        emit("explain", document)
    else:
        explaining.show(document)
    return _exit_code([document["status"]])


def doctor(args: argparse.Namespace) -> int:
    from convzoo.backends import BACKENDS

    from . import hardware, machine_file, record

    facts, warnings = hardware.facts(), hardware.warnings()
    backends = {}
    for name, backend in BACKENDS.items():
        reason = backend.why_not()
        backends[name] = {"usable": reason is None, "why_not": reason}
        if reason is None:
            backends[name]["about"] = backend.about()
    name = hardware.machine_name(facts)
    known = machine_file.load(name)
    document = {
        "machine": name,
        "hardware": facts,
        "backends": backends,
        "warnings": warnings,
        "ceilings": known.get("ceilings"),
        "null": known.get("null"),
        "suite": record.SUITE,
        **record.commit(),
    }
    if args.json:
        emit("doctor", document)
        return FINE
    from .terminal import console
    from .words import bytes_text

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
    _show_machine_file(out, known)
    for text in warnings:
        out.print(f"warning: {text}", style="yellow", markup=False, soft_wrap=True)
    if not warnings:
        out.print("nothing here would spoil timings")
    return FINE


def _show_machine_file(out: Any, known: dict[str, Any]) -> None:
    """The measured ceilings and the null experiment of this machine, or how to have them measured."""
    ceilings, null = known.get("ceilings"), known.get("null")
    if not ceilings:
        out.print("  ceilings           not measured: python -m benchmarks machine")
    for kind in ("fma_gflops_per_s", "read_gb_per_s", "copy_gb_per_s") if ceilings else ():
        for threads, values in (ceilings or {})[kind].items():
            told = ", ".join(f"{k} {v:g}" for k, v in values.items())
            out.print(f"  {kind:18} {threads} threads: {told}", markup=False)
    if ceilings and "gpu" in ceilings:
        out.print(f"  gpu ceilings       {ceilings['gpu']}", markup=False, soft_wrap=True)
    if null:
        out.print(
            f"  null experiment    {null['false_alarms']} of {null['twins']} twins differed (expected "
            f"{null['expected_rate']:.1%}); a difference of {null['smallest_visible']:.1%} is visible "
            f"in {null['rounds']} rounds",
            markup=False,
            soft_wrap=True,
        )
    else:
        out.print("  null experiment    not made: python -m benchmarks selftest --null")


def machine(args: argparse.Namespace) -> int:
    from . import ceilings, hardware, machine_file, record

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


def export(args: argparse.Namespace) -> int:
    from . import record

    results = Path(args.results) if args.results else record.ROOT / "reports" / "results"
    folder = record.export_to_asv(record.one(args.record), results)
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


def selftest(args: argparse.Namespace) -> int:
    from . import selftest as trial
    from . import terminal

    if args.null:
        return _null(args)
    chosen(args.kernels)
    own = Path(args.bad).resolve() if args.bad else None
    if own is not None and not list(own.glob("*/*.py")):
        raise ValueError(f"--bad must hold <backend>/<name>.py, got {args.bad}")
    with terminal.progress(1, args.json) as bar:
        rows = trial.run(args.kernels, own, bar, args.seed)
    fine = trial.passed(rows)
    if args.json:
        emit("selftest", {"passed": fine, "cells": rows, "sentence": trial.sentence(rows)})
    else:
        trial.show(rows)
    if not rows:
        return FAILED
    return FINE if fine else WRONG


def _null(args: argparse.Namespace) -> int:
    from . import hardware, machine_file, null, terminal

    facts = hardware.facts()
    name, threads = hardware.machine_name(facts), hardware.usable_cpus()
    for text in hardware.warnings():
        print(f"warning: {text}", file=sys.stderr)
    kernels = [k for k in null.KERNELS if k in chosen(args.kernels or ["*"])]
    with terminal.progress(2 * len(kernels) * len(null.PROBLEMS) * args.null, args.json) as bar:
        found = null.experiment(threads, args.null, bar, kernels, 120)
    path = machine_file.save(name, hardware=facts, null={k: v for k, v in found.items() if k != "pairs"})
    if args.json:
        emit("null", {"machine": name, "path": str(path), **found})
        return FINE
    terminal.null_table(found, name)
    print(f"kept in {path}")
    return FINE


def trace(args: argparse.Namespace) -> int:
    from . import trace as tracing

    try:
        found = tracing.trace(args.source, [tracing.shape(text) for text in args.input])
    except ImportError as error:
        cures = {"onnx": "pip install 'convzoo[onnx]'", "torch": "pip install 'convzoo[cpu]'"}
        name = (error.name or str(error)).partition(".")[0]
        print(f"python -m benchmarks trace: needs {name}: {cures.get(name, error)}", file=sys.stderr)
        return FAILED
    if not found.counts:
        raise ValueError(f"{args.source}: has no 2-D convolution{tracing.left_out_words(found)}")
    out = Path(args.out) if args.out else None if args.json else tracing.default_path(args.source)
    if out:
        tracing.write(found, out)
    if args.json:
        emit("problems", {k: v for k, v in found.document().items() if k != "schema"})
    else:
        tracing.show(found, out)
    return FINE


def reproduce(args: argparse.Namespace) -> int:
    import secrets

    from . import hardware, machine_file, terminal
    from .reproduce import again, agreement, published, verdict, words

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
    with terminal.progress(len(drawn) * agreement.SCREENED, args.quiet or args.json) as bar:
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


def fleet(args: argparse.Namespace) -> int:
    import contextlib

    from . import compare as sweeping
    from . import record
    from .fleet import cluster, coordinator, plan, share

    if args.local is not None and args.local < 1:
        raise ValueError(f"--local must be at least 1, got {args.local}")
    folder = sweeping.record_folder(args.records)
    known = [folder, record.PUBLISHED / "records"]
    resumed = share.resume([(path, *_resumable(path)) for path in map(record.one, args.resume or [])])
    durations = plan.Durations(path for place in known for path in place.rglob("*.jsonl"))
    given = {k: getattr(args, k) for k in ("preset", "seed", "timeout", "threads", "rounds", "budget")}
    arguments = [word for k, v in given.items() if v is not None for word in (f"--{k}", str(v))]
    arguments += ["-q", "--scenario", *args.scenario]
    try:
        with contextlib.ExitStack() as stack:
            client = cluster.connect(stack, args.local, args.scheduler, args.ssh)
            run = coordinator.Fleet(client, _asked(args), folder, resumed, arguments, durations.round_seconds)
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
    from . import terminal
    from .fleet import report

    with terminal.progress(1, args.quiet or args.json) as run.progress:
        run.run()
    document = report.document(run, args.baseline)
    if args.json:
        emit("fleet", document)
    else:
        report.show(document, run)
    if run.interrupted:
        return INTERRUPTED
    code = _exit_code([c.status for share in run.shares.values() for c in share.cells])
    unfinished = any(share["status"] != "complete" for share in document["shares"])
    return FAILED if unfinished and code == FINE else code


VERBS = {
    "list": list_kernels,
    "check": check,
    "compare": compare,
    "cost": cost,
    "explain": explain,
    "doctor": doctor,
    "machine": machine,
    "export": export,
    "gpu": gpu,
    "selftest": selftest,
    "regress": regress,
    "history": history,
    "trace": trace,
    "reproduce": reproduce,
    "fleet": fleet,
}


def main(argv: list[str] | None = None) -> int:
    top = parser()
    args = top.parse_args(argv)
    if reason := options.too_many(args):
        top.exit(USAGE, f"python -m benchmarks {args.verb}: {reason}\n")
    try:
        return VERBS[args.verb](args)
    except (ValueError, FileNotFoundError) as error:
        top.exit(USAGE, f"python -m benchmarks {args.verb}: {error}\n")
    except OSError as error:
        top.exit(FAILED, f"python -m benchmarks {args.verb}: {error}\n")
    except KeyboardInterrupt:
        return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
