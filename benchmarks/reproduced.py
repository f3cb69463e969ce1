"""What ``reproduce`` found, in words: does the record describe this machine?"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from .agreement import FAST, INSIDE, SLOW, TOGETHER
from .published import name
from .reproduce import BUSY, FALSIFIED, INSIDE_SHARE, OUTSIDE, SIMILAR
from .terminal import console, seconds_text

AGREES, DISAGREES, NOTHING = "agrees", "disagrees", "could not be told"


def objections(document: dict[str, Any]) -> list[str]:
    """What speaks against the records, a sentence each.

    A machine that was busy makes an honest record slow here and there: too slow counts in more than one cell
    of ten. Nothing makes an honest record fast.
    """
    found = [f"{Path(r['path']).name}: {flaw}" for r in document["records"] for flaw in r["flaws"]]
    for r in document["records"]:
        if abs(math.log(r["drift"])) > TOGETHER:
            found.append(
                f"{Path(r['path']).name}: everything takes {r['drift']:.2f} times as long here as it says"
            )
    told = _told(document)
    few = sum(x["verdict"] != INSIDE for x in told) <= (1 - INSIDE_SHARE) * len(told)
    for x in document["cells"]:
        if x["verdict"] == "wrong":
            found.append(f"{name(x)}: a wrong output here: {x['why']}")
        elif x["verdict"] == FAST or (x["verdict"] == SLOW and not few):
            found.append(_outside(x))
    same, turned, _ = _pairs(document)
    if same + len(turned) and same < SIMILAR * (same + len(turned)):
        found.append("the kernels stand in another order here")
    return found


def remarks(document: dict[str, Any]) -> list[str]:
    """Cells that are outside without speaking against the records."""
    spoken = objections(document)
    found = [_outside(x) for x in document["cells"] if x["verdict"] in OUTSIDE]
    return [f"{text}; was that machine busy?" for text in found if text not in spoken]


def _told(document: dict[str, Any]) -> list[dict[str, Any]]:
    return [x for x in document["cells"] if x["verdict"] in (INSIDE, *OUTSIDE)]


def _outside(x: dict[str, Any]) -> str:
    here = x["here"]
    return (
        f"{name(x)}: {x['verdict']}: it says {_times(x['there'])}; here {_times(here)} in "
        f"{len(here['round_seconds'])} rounds, the best {x['best_ratio']:.2f} times the best there"
    )


def _times(side: dict[str, Any]) -> str:
    return (
        f"{seconds_text(side['seconds'])} ({seconds_text(side['low'])} - {seconds_text(side['high'])})"
    )


def _pairs(document: dict[str, Any]) -> tuple[int, list[str], int]:
    """Pairs in the same order, those in the reverse in words, and those that nobody tells apart."""
    turned = [f"{a} before {b} on {o['problem']}" for o in document["orders"] for a, b in o["reversed"]]
    same, untold = (sum(o[k] for o in document["orders"]) for k in ("same", "untold"))
    return same, turned, untold


def failures(document: dict[str, Any]) -> list[str]:
    """Cells of which nothing can be said, because they failed to run here."""
    fine = (INSIDE, *OUTSIDE, BUSY, "wrong", "ok")
    return [
        f"{name(x)}: {x['verdict']} {x['why']}".strip()
        for x in document["cells"]
        if x["verdict"] not in fine
    ]


def verdict(document: dict[str, Any]) -> str:
    if objections(document):
        return DISAGREES
    same, turned, _ = _pairs(document)
    enough = 2 * len(_told(document)) >= len(document["cells"])
    return AGREES if enough or same + len(turned) else NOTHING


def sentence(document: dict[str, Any]) -> str:
    """The verdict, what it rests on, and what it could have seen."""
    said = {
        AGREES: "What was published and what is measured here agree",
        DISAGREES: "What was published and what is measured here do not agree",
        NOTHING: "Nothing could be told",
    }[verdict(document)]
    seed = f"seed {document['seed']}"
    if document["same_class"]:
        told = _told(document)
        inside = sum(x["verdict"] == INSIDE for x in told)
        busy = sum(x["verdict"] == BUSY for x in document["cells"])
        left = f" This machine was too busy to tell of {busy} more." if busy else ""
        return (
            f"{said}: {inside} of {len(told)} cells are inside ({seed}).{left} {_on_the_whole(document)}"
            f"{_power(told)}"
        )
    same, turned, untold = _pairs(document)
    taus = [o["tau"] for o in document["orders"] if o["tau"] is not None]
    mean = f", Kendall's tau {sum(taus) / len(taus):.2f} over {len(taus)} problems" if taus else ""
    return (
        f"{said}. The machines are of different classes, so that only the order of kernels can be compared: of "
        f"{same + len(turned)} pairs that both tell apart {same} stand in the same order{mean} ({seed}); "
        f"{untold} pairs are too close to tell."
    )


def _on_the_whole(document: dict[str, Any]) -> str:
    drifts = {f"{r['drift']:.2f}" for r in document["records"] if r["drift"] != 1.0}
    return (
        f"On the whole a call takes {', '.join(sorted(drifts))} times what was recorded. "
        if drifts
        else ""
    )


def _power(told: list[dict[str, Any]]) -> str:
    """In how many of these cells a falsification would have been seen, had it been in that cell alone."""

    def noticed(way: str) -> int:
        needed = [x[f"noticed_if_claimed_{way}_by"] for x in told]
        return sum(n is not None and math.log(n) <= FALSIFIED for n in needed)

    return (
        f"A cell that claimed to be {math.expm1(FALSIFIED):.0%} faster would have been named in at least "
        f"{noticed('faster')} of them, one that claimed to be slower in {noticed('slower')}."
    )


def show(document: dict[str, Any]) -> None:
    """A line per cell, what was left out, and the sentence."""
    from rich.table import Table

    out = console()
    table = Table(box=None, pad_edge=False)
    limits = ("at least", "at most", "") if document["same_class"] else ()
    for heading in ("kernel", "problem", "scenario", "recorded", "here", "here/rec.", *limits):
        table.add_column(heading, overflow="fold")
    for x in sorted(document["cells"], key=lambda x: (x["problem"], x["there"]["seconds"])):
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
    for text in notes(document):
        out.print(text, markup=False, soft_wrap=True)
    for text in objections(document):
        out.print(text, style="bold red", markup=False, soft_wrap=True)
    out.print(f"\n{sentence(document)}", style="bold", markup=False, soft_wrap=True)


def notes(document: dict[str, Any]) -> list[str]:
    """What a reader should know that is no objection."""
    found = [f"{n} cells were not drawn: the kernel {why}" for why, n in document["left_out"].items()]
    found += [*document["notes"], *failures(document), *remarks(document)]
    found += [f"the other way round here: {pair}" for pair in _pairs(document)[1]]
    for r in document["records"]:
        name = Path(r["path"]).name
        if r["threads"] != r["threads_here"]:
            found.append(f"{name}: {r['threads']} threads, here {r['threads_here']}")
        if r["other_libraries"]:
            found.append(f"{name}: other versions: {'; '.join(r['other_libraries'])}")
    return found
