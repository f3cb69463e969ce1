"""What ``reproduce`` found, for a person: a table, what to know, and one sentence."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from ..terminal import console
from ..words import seconds_text
from .agreement import INSIDE
from .verdict import AGREES, BUSY, DISAGREES, NOTHING, OUTSIDE, failures, outside, pairs, told

FALSIFIED = math.log(1.2)  # how large a falsification is that the reader is told about


def sentence(found: dict[str, Any]) -> str:
    """The verdict, what it rests on, and what it could have seen."""
    said = {
        AGREES: "What was published and what is measured here agree",
        DISAGREES: "What was published and what is measured here do not agree",
        NOTHING: "Nothing could be told",
    }[found["verdict"]]
    seed = f"seed {found['seed']}"
    if found["same_class"]:
        cells = told(found)
        inside = sum(x["verdict"] == INSIDE for x in cells)
        busy = sum(x["verdict"] == BUSY for x in found["cells"])
        left = f" This machine was too busy to tell of {busy} more." if busy else ""
        return (
            f"{said}: {inside} of {len(cells)} cells are inside ({seed}).{left} {_on_the_whole(found)}{_power(cells)}"
        )
    same, turned, untold = pairs(found)
    taus = [o["tau"] for o in found["orders"] if o["tau"] is not None]
    mean = f", Kendall's tau {sum(taus) / len(taus):.2f} over {len(taus)} problems" if taus else ""
    return (
        f"{said}. The machines are of different classes, so that only the order of kernels can be compared: of "
        f"{same + len(turned)} pairs that both tell apart {same} stand in the same order{mean} ({seed}); "
        f"{untold} pairs are too close to tell."
    )


def _on_the_whole(found: dict[str, Any]) -> str:
    drifts = sorted({f"{r['drift']:.2f}" for r in found["records"] if r["drift"] != 1.0})
    return f"On the whole a call takes {', '.join(drifts)} times what was recorded. " if drifts else ""


def _power(cells: list[dict[str, Any]]) -> str:
    """In how many of these cells a falsification would have been seen, had it been in that cell alone."""

    def noticed(way: str) -> int:
        needed = [x[f"noticed_if_claimed_{way}_by"] for x in cells]
        return sum(n is not None and math.log(n) <= FALSIFIED for n in needed)

    return (
        f"A cell that claimed to be {math.expm1(FALSIFIED):.0%} faster would have been named in at least "
        f"{noticed('faster')} of them, one that claimed to be slower in {noticed('slower')}."
    )


def show(found: dict[str, Any]) -> None:
    """A line per cell, what was left out, and the sentence."""
    from rich.table import Table

    out = console()
    table = Table(box=None, pad_edge=False)
    limits = ("at least", "at most", "") if found["same_class"] else ()
    for heading in ("kernel", "problem", "scenario", "recorded", "here", "here/rec.", *limits):
        table.add_column(heading, overflow="fold")
    for x in sorted(found["cells"], key=lambda x: (x["problem"], x["there"]["seconds"])):
        there, here = x["there"], x.get("here")
        row = [x["kernel"], x["problem"], x["scenario"]]
        row.append(f"{seconds_text(there['low'])} - {seconds_text(there['high'])}")
        row.append(seconds_text(here["seconds"]) if here else "-")
        row.append(f"{here['seconds'] / there['seconds']:.2f}" if here else "-")
        if limits:
            row += [f"{x[k]:.2f}" if x.get(k) else "?" for k in ("low", "high")] + [x["verdict"]]
        table.add_row(*row, style="bold red" if x["verdict"] in (*OUTSIDE, "wrong") else None)
    out.print(table)
    out.print()
    for text in _notes(found):
        out.print(text, markup=False, soft_wrap=True)
    for text in found["objections"]:
        out.print(text, style="bold red", markup=False, soft_wrap=True)
    out.print(f"\n{sentence(found)}", style="bold", markup=False, soft_wrap=True)


def _notes(found: dict[str, Any]) -> list[str]:
    """What a reader should know that is no objection."""
    said = [f"{n} cells were not drawn: the kernel {why}" for why, n in found["left_out"].items()]
    said += [*found["notes"], *failures(found)]
    slow = [outside(x) for x in found["cells"] if x["verdict"] in OUTSIDE]
    said += [f"{text}; was that machine busy?" for text in slow if text not in found["objections"]]
    said += [f"the other way round here: {pair}" for pair in pairs(found)[1]]
    for r in found["records"]:
        name = Path(r["path"]).name
        if r["threads"] != r["threads_here"]:
            said.append(f"{name}: {r['threads']} threads, here {r['threads_here']}")
        if r["other_libraries"]:
            said.append(f"{name}: other versions: {'; '.join(r['other_libraries'])}")
    return said
