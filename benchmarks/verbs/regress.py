"""What a regression run says to people: a table, one sentence, and Markdown for a pull request."""

from __future__ import annotations

import argparse
import secrets
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from .. import checkout, hardware, problems, record
from .. import options as kinds
from ..regress import Regression, pairs_of
from ..significance import CHANGES, FAILURES, TIMED
from ..terminal import console, progress
from ..words import seconds_text
from . import FAILED, FINE, INTERRUPTED, WRONG, emit

MARKDOWN_LIMIT = 65_000  # characters; the sites that show pull requests refuse a little more


def changed(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What a reader must look at, worst first."""
    found = [line for line in lines if line["verdict"] in CHANGES]
    return sorted(found, key=lambda x: (CHANGES.index(x["verdict"]), -abs(x.get("ratio", 1) - 1)))


def failing(lines: list[dict[str, Any]]) -> bool:
    return any(line["verdict"] in FAILURES for line in lines)


def effect(line: dict[str, Any]) -> str:
    """1.10x slower (1.08 - 1.13)."""
    ratio, low, high = line["ratio"], line["low"], line["high"]
    word = "slower"
    if ratio < 1:
        ratio, low, high, word = 1 / ratio, 1 / high, 1 / low, "faster"
    return f"{ratio:.3f}x {word} ({low:.3f} - {high:.3f})"


def explanation(line: dict[str, Any]) -> str:
    """Why, as far as it is known: the fingerprint that moved, or what a side said."""
    words = list(line["moved"]) if line["verdict"] in TIMED else []
    for side in ("base", "head"):
        x = line[side]
        if x["failures"]:
            words.append(f"{side} failed in {x['failures']} of {x['visits']} measurements: {x['why']}")
        elif x["status"] not in ("ok", "absent"):
            words.append(f"{side} {x['status']}: {x['why']}")
    return "; ".join(words)


def sentence(lines: list[dict[str, Any]], summary: dict[str, Any], base: str, head: str) -> str:
    """The whole run in a sentence or two."""
    count = Counter(line["verdict"] for line in lines)
    parts = [f"{n} {what}" for what in CHANGES if (n := count[what])]
    if not summary["compared"]:
        rest = f" ({', '.join(parts)})" if parts else ""
        return f"No cell ran on both sides: nothing could be compared between {base} and {head}{rest}."
    quiet = count["cannot tell"]
    told = ", ".join([*parts, f"{quiet} cannot be told apart"] if quiet else parts)
    family = f"{summary['compared']} cell{'s' * (summary['compared'] != 1)} compared"
    if summary["visible"] is None:
        seen = f"{summary['confirming_rounds']} confirming rounds are too few to find a slow-down"
    else:
        seen = f"A slow-down of {summary['visible']:.1%} or more would have been found in 9 of 10 such runs"
    return f"{head} against {base}: {told} ({family}). {seen}; identical versions raise an alarm in at most 1 of 100."


def show(document: dict[str, Any]) -> None:
    from rich.table import Table
    from rich.text import Text

    out, rows = console(), changed(document["cells"])
    if rows:
        table = Table(box=None, pad_edge=False)
        for heading in ("kernel", "problem", "scenario", "verdict", "base", "head", "head is", "why"):
            table.add_column(heading, overflow="fold")
        for x in rows:
            style = "bold red" if x["verdict"] in FAILURES else None
            times = [seconds_text(x[s]["seconds"]) if "seconds" in x[s] else "-" for s in ("base", "head")]
            table.add_row(
                x["kernel"],
                x["problem"],
                x["scenario"],
                Text(x["verdict"], style=style or ""),
                *times,
                effect(x) if "ratio" in x else "-",
                Text(explanation(x)),
            )
        out.print(table)
        out.print()
    _show_refused(out, document["cells"])
    out.print(document["sentence"], style="bold", markup=False, soft_wrap=True)


def _show_refused(out: Any, lines: list[dict[str, Any]]) -> None:
    refused = Counter(
        line["head"]["why"].removeprefix(f"{line['kernel']} ") for line in lines if line["verdict"] == "refused"
    )
    for why, n in refused.items():
        out.print(f"{n} not compared: {why}", markup=False, soft_wrap=True)


def markdown(document: dict[str, Any]) -> str:
    """The changed cells for a pull request, within the length such a page may have."""
    rows = changed(document["cells"])
    summary = document["summary"]
    mark = "**Slower or newly wrong.**" if failing(rows) else "No cell is slower or newly wrong."
    top = [
        f"### {_cell(document['head']['label'])} against {_cell(document['base']['label'])}",
        "",
        f"{mark} {_cell(document['sentence'])}",
        "",
    ]
    bottom = [
        "",
        f"{summary['screening_rounds']} rounds of every cell, {summary['confirming_rounds']} more of "
        f"{summary['suspects']} suspects, noise of one round {summary['round_noise']:.1%}, "
        f"{document['threads']} threads, {_cell(document['machine'])}.",
        *(f"\nWarning: {_cell(text)}" for text in document["warnings"]),
        "",
        f"`{_cell(' '.join(document['command']))}`",
        "",
    ]
    if not rows:
        return "\n".join([*top[:-1], *bottom])
    table = ["| cell | verdict | base | head | head is | why |", "|---|---|--:|--:|---|---|"]
    room = MARKDOWN_LIMIT - sum(len(line) + 1 for line in (*top, *table, *bottom)) - 100
    shown = 0
    for x in rows:
        line = _row(x)
        room -= len(line) + 1
        if room < 0:
            break
        table.append(line)
        shown += 1
    if shown < len(rows):
        table += ["", f"{len(rows) - shown} further changed cells did not fit here."]
    return "\n".join([*top, *table, *bottom])


def _row(x: dict[str, Any]) -> str:
    times = [seconds_text(x[s]["seconds"]) if "seconds" in x[s] else "" for s in ("base", "head")]
    verdict = f"**{x['verdict']}**" if x["verdict"] in FAILURES else x["verdict"]
    name = f"`{x['kernel']}` `{x['problem']}` {x['scenario']}"
    measured = effect(x) if "ratio" in x else ""
    return "| " + " | ".join((name, verdict, *times, measured, _cell(explanation(x)))) + " |"


def _cell(text: str) -> str:
    """Text that stays inside one cell of a table and is not taken for markup of ours or others."""
    text = " ".join(text.split())[:500]
    for plain, safe in (("|", "\\|"), ("<", "&lt;"), ("@", "&#64;")):
        text = text.replace(plain, safe)
    return text


def options(p: argparse.ArgumentParser) -> None:
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
    p.add_argument("--screen", type=kinds.count, metavar="N", default=4, help="rounds of every cell")
    p.add_argument("--confirm", type=kinds.count, metavar="N", help="rounds of suspects; default: what Holm needs")
    p.add_argument("--minimum", type=kinds.percent, metavar="PERCENT", default=2.0, help="smaller is no change")
    kinds.threads(p)
    p.add_argument("--timeout", type=kinds.seconds, metavar="SECONDS", default=120.0, help="for one cell")
    p.add_argument("--seed", type=kinds.natural, help="of data, order and coins; default: a new one, told in --json")
    p.add_argument("--markdown", metavar="FILE", help="what changed, for a pull request")
    p.add_argument("-q", "--quiet", action="store_true", help="no progress")


def call(args: argparse.Namespace) -> int:
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
    pairs = pairs_of(kernels, layers, args.scenario)
    seed = secrets.randbelow(2**31) if args.seed is None else args.seed
    with progress(len(pairs), args.quiet or args.json) as bar:
        run = Regression(
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
        "sentence": sentence(lines, summary, *labels),
    }
    if args.markdown:
        Path(args.markdown).write_text(markdown(document), encoding="utf-8")
    if args.json:
        emit("regress", document)
    else:
        show(document)
    if run.interrupted:
        return INTERRUPTED
    return WRONG if failing(lines) else FINE if summary["compared"] else FAILED
