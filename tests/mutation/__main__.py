"""``make mutants``: is every mutant of the honest kernels rejected by the verdict, or argued away? (40 minutes)"""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from benchmarks import terminal

from . import mutants


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mutation", description=__doc__)
    parser.add_argument("--kernels", nargs="+", metavar="GLOB", default=["*"])
    parser.add_argument("--sample", type=int, metavar="N", help="N mutants only, drawn with --seed")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="one JSON document on standard output")
    args = parser.parse_args(argv)
    with terminal.progress(1, args.json) as bar:
        scores = mutants.run(args.kernels, args.sample, args.seed, bar)
    survivors = [line for score in scores for line in score["survivors"]]
    if args.json:
        print(json.dumps({"passed": not survivors, "mutants": scores, "sentence": sentence(scores)}, indent=1))
    else:
        show(scores)
    return int(bool(survivors or not scores))


def show(scores: list[dict[str, Any]]) -> None:
    """A table for a person, and the survivors."""
    out = terminal.console()
    out.print(_score_table(scores))
    for line in total(scores)["survivors"]:
        text = f"survivor {line['where']}: {line['change']}  in  {line['line']}"
        out.print(text, style="bold red", markup=False, soft_wrap=True)
    out.print()
    out.print(sentence(scores), style="bold", markup=False, soft_wrap=True)


def sentence(scores: list[dict[str, Any]]) -> str:
    every = total(scores)
    of = every["rejected"] + len(every["survivors"])
    text = f"{every['rejected']} of {of} mutants rejected ({percent(every)})"
    if every["mutants"] < every["places"]:
        text += f", {every['mutants']} having been drawn from {every['places']}"
    return text + "."


def _score_table(scores: list[dict[str, Any]]) -> Any:
    from rich.table import Table

    table = Table(title="generated mutants", title_justify="left", title_style="bold", box=None, pad_edge=False)
    table.add_column("kernel", overflow="fold")
    for heading in ("mutants", "rejected", "argued equivalent", "not reached here", "survived", "score"):
        table.add_column(heading, justify="right")
    for s in [*scores, total(scores)]:
        table.add_row(
            s["kernel"],
            _drawn(s),
            str(s["rejected"]),
            str(s["equivalent"]),
            str(s["unreached"]),
            str(len(s["survivors"])),
            percent(s),
        )
    return table


def _drawn(score: dict[str, Any]) -> str:
    """How many mutants were judged, and of how many where that is not all of them."""
    judged, places = score["mutants"], score["places"]
    return str(judged) if judged == places else f"{judged} of {places}"


def total(scores: list[dict[str, Any]]) -> dict[str, Any]:
    """The sum of all scores, as one more line."""
    counted = ("mutants", "places", "rejected", "equivalent", "unreached")
    return {
        "kernel": "all",
        **{key: sum(s[key] for s in scores) for key in counted},
        "survivors": [line for s in scores for line in s["survivors"]],
    }


def percent(score: dict[str, Any]) -> str:
    """Rejected mutants among those that could be rejected."""
    of = score["rejected"] + len(score["survivors"])
    return f"{100 * score['rejected'] / of:.2f} %" if of else "-"


if __name__ == "__main__":
    sys.exit(main())
