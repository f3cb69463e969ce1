"""What the page shows, in words and positions: a run becomes plain dicts for the template."""

from __future__ import annotations

import shlex
from typing import Any

from . import standing, tables
from . import wording as say
from .cells import Cell, Run
from .values import mapping, number, sequence, text


def page(run: Run, number: int) -> dict[str, Any]:
    """Everything that the template says about one run."""
    alarms = [c for c in run.cells if c.group in ("wrong", "failed")]
    return {
        "id": f"run{number}",
        "name": run.name,
        "machine": run.said("machine", "machine not recorded"),
        "facts": facts(run),
        "sentence": sentence(run),
        "notices": notices(run),
        "alarms": _grouped(alarms),
        "alarm_words": alarm_words(alarms),
        "counts": counts(run),
        "reasons": _grouped(run.cells),
        "baseline": run.baseline or "none",
        "scenarios": [tables.scenario(run, s) for s in run.scenarios],
        "hardware": hardware(run),
        "libraries": libraries(run),
        "ceilings": ceilings(run),
        "noise": noise(run),
        "commit": commit(run),
        "command": command(run),
        "check": check(run, alarms),
        "schema": run.said("schema"),
        "suite": run.said("suite"),
        "effective": any(c.effective for c in run.cells if c.ran),
        "device": any(c.numbers.get("device_seconds") is not None for c in run.cells),
        "failing": bool(alarms),
        "seed": seed(run),
    }


def facts(run: Run) -> list[tuple[str, str]]:
    return [
        ("date", say.date_text(run.said("started"))),
        ("commit", commit(run)),
        ("threads", run.said("threads")),
        ("scenario", " and ".join(run.scenarios) or "none"),
        ("preset", run.said("preset")),
        ("rounds", _rounds(run)),
    ]


def _rounds(run: Run) -> str:
    found = sorted({int(c.numbers["rounds"] or 0) for c in run.cells if c.ran})
    return (
        say.NOTHING if not found else f"{found[0]}" if len(found) == 1 else f"{found[0]} to {found[-1]}"
    )


def commit(run: Run) -> str:
    known = run.said("commit", "unknown")
    shown = known[:10] if known != "unknown" else "unknown commit"
    return f"{shown} + uncommitted changes" if run.header.get("dirty") else shown


def sentence(run: Run) -> str:
    if run.sentence:
        return run.sentence
    ran = sum(c.ran for c in run.cells)
    return (
        f"The run was cut off before it could say who won; {say.plural(ran, 'cell')} had been timed, and the "
        "medians on this page are computed from the rounds that were kept."
        if run.ended == "cut off"
        else "The record holds no sentence on who won."
    )


def notices(run: Run) -> list[str]:
    """What a reader must know before believing a number."""
    found = []
    if run.ended == "cut off":
        found.append(
            "The record has no end: the run was cut off. Cells whose turn had not come are missing."
        )
    elif run.ended != "complete":
        found.append(
            f"The run ended early ({run.ended}): some cells have fewer rounds than planned or none."
        )
    if run.header.get("dirty"):
        found.append(
            "The tree had uncommitted changes: the commit alone does not reproduce these numbers."
        )
    found += [f"While measuring: {text(w)}" for w in sequence(run.header.get("warnings")) if text(w)]
    return found


def alarm_words(alarms: list[Cell]) -> str:
    wrong = sum(c.group == "wrong" for c in alarms)
    parts = [say.plural(wrong, "wrong result")] if wrong else []
    for status in dict.fromkeys(c.status for c in alarms if c.group == "failed"):
        n = sum(c.status == status and c.group == "failed" for c in alarms)
        parts.append(f"{n} {status}")
    return ", ".join(parts)


def counts(run: Run) -> list[tuple[str, int, str]]:
    """(group, cells, what it means), for the groups that have a meaning here."""
    meaning = {
        "ran": "timed, and the timed outputs were right",
        "wrong": "an output was wrong, so there is no time",
        "failed": "crashed, timed out, or left no result",
        "skipped": "refused by the kernel, or something is missing on this machine",
        "unreached": "the run ended before their turn",
    }
    return [(g, sum(c.group == g for c in run.cells), m) for g, m in meaning.items()]


def _grouped(cells: list[Cell]) -> list[dict[str, Any]]:
    return [
        {
            "group": group, "status": status, "why": why, "count": len(found),
            "kernels": list(dict.fromkeys(c.kernel for c in found)),
            "problems": list(dict.fromkeys(c.problem for c in found)),
        }
        for (group, status, why), found in standing.reasons(cells).items()
    ]  # fmt: skip


def hardware(run: Run) -> list[tuple[str, str]]:
    """What the record knows about the machine, flat, in its order."""
    rows = []
    for key, value in mapping(run.header.get("hardware")).items():
        name = text(key).replace("_", " ")
        if key == "memory_bytes" and isinstance(value, (int, float)):
            rows.append(("memory", say.bytes_text(value)))
        elif isinstance(value, dict):
            rows.append((name, ", ".join(f"{text(k)} {text(v)}" for k, v in value.items()) or "none"))
        elif isinstance(value, list):
            gpus = [
                ", ".join(f"{text(k)} {text(v)}" for k, v in mapping(g).items()) or text(g)
                for g in value
            ]
            rows.append((name, "; ".join(gpus) or "none"))
        elif value is not None:
            rows.append((name, text(value)))
    return rows


CEILINGS = {
    "fma_gflops_per_s": "multiply-adds, GFLOP/s",
    "read_gb_per_s": "reading, GB/s",
    "copy_gb_per_s": "copying, GB/s",
}


def ceilings(run: Run) -> list[tuple[str, str]]:
    """What the machine could do at most when the run began, measured."""
    known = mapping(run.header.get("ceilings"))
    rows = []
    for key, name in CEILINGS.items():
        for threads, values in mapping(known.get(key)).items():
            told = [
                f"{text(k)} {v:g}" for k, x in mapping(values).items() if (v := number(x)) is not None
            ]
            if told:
                rows.append((f"{name}, {text(threads)} threads", ", ".join(told)))
    return rows


def noise(run: Run) -> str:
    """What the null experiment of this machine says about small differences."""
    null = mapping(run.header.get("null"))
    visible, alarms, twins = (
        number(null.get(k)) for k in ("smallest_visible", "false_alarms", "twins")
    )
    if visible is None or alarms is None or twins is None:
        return "No null experiment was recorded for this machine: how small a difference it can show is unknown."
    return (
        f"Kernels timed against themselves on this machine: {alarms:.0f} of {twins:.0f} twins seemed to differ, "
        f"and in {text(null.get('rounds'))} rounds a difference must exceed {visible:.1%} to be visible."
    )


def libraries(run: Run) -> list[tuple[str, str]]:
    return [
        (backend, ", ".join(f"{k} {v}" for k, v in about.items()) or "nothing was said")
        for backend, about in sorted(run.libraries.items())
    ]


def command(run: Run) -> str:
    words = [text(word) for word in sequence(run.header.get("command"))]
    return shlex.join(words) if words else "the command was not recorded"


def seed(run: Run) -> str:
    found = number(run.header.get("seed"))
    return "0" if found is None else f"{found:.0f}"


def check(run: Run, alarms: list[Cell]) -> str:
    """The command that judges one cell again without timing it."""
    cell = next(iter((*alarms, *run.cells)), None)
    words = [cell.kernel, cell.problem] if cell else ["KERNEL", "PROBLEM"]
    return shlex.join(
        ["python", "-m", "benchmarks", "check", words[0], "--problems", words[1], "--seed", seed(run)]
    )
