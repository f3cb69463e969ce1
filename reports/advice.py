"""The answers of ``pick`` in words for a terminal: one block for each machine, then the machines together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks import words as say

from .pick import Wish

MOST = 12  # rows of one table; --json has them all


def page(answers: Sequence[dict[str, Any]], wanted: Wish) -> str:
    blocks = [_block(a, wanted) for a in answers]
    newest = [a for a in answers if a["suite"] == max(a["suite"] for a in answers)]  # others mean something else
    if len(newest) > 1 and any(x["kernel"] for a in newest for x in a["layers"]):
        blocks.insert(0, _machines(newest))  # the answer to "which machine" comes first
    return "\n\n".join(blocks)


def _block(a: dict[str, Any], wanted: Wish) -> str:
    head = f"On {a['machine']}, {a['threads']} threads, {wanted.scenario}, at least {wanted.accuracy}:"
    parts = [head, headline(a)]
    timed = [x for x in a["layers"] if x["kernel"]]
    if len(a["layers"]) > 1 and timed:
        parts.append(_layer_table(timed))
    if a["network"]:
        parts.append(_network_table(a["network"]))
    if any(x["weaker"] for x in timed):
        parts.append(_weaker(timed, a["network"]))
    if timed and not a["network"]:
        parts.append(f'In code: layer = convzoo.prepare(w, bias, ..., kernel="{timed[0]["kernel"]}"); y = layer(x)')
    rests = [
        f"  {r['record']}, {say.date_text(r['started'])}, commit {r['commit'][:10]}"
        + (" + uncommitted changes" if r["dirty"] else "")
        for r in a["rests_on"]
    ]
    if rests:
        parts.append("It rests on\n" + "\n".join(rests))
    if a["cannot_tell"]:
        parts.append("What it cannot tell\n" + "\n".join(f"  - {s}" for s in a["cannot_tell"]))
    return "\n\n".join(parts)


def headline(a: dict[str, Any]) -> str:
    """The answer in one sentence, or two."""
    timed = [x for x in a["layers"] if x["kernel"]]
    if not timed:
        whys = dict.fromkeys(x["why"] for x in a["layers"])
        return f"No answer: {'; '.join(whys)}."
    if a["network"] is None:
        return _one(timed[0])
    net = a["network"]
    of = f"all {net['of']} layers" if net["layers"] == net["of"] else f"{net['layers']} of {net['of']} layers"
    whole, mix = net["kernels"], net["mix"]
    if not whole:
        each = say.seconds_text(mix["seconds"])
        return f"No kernel runs {of}; the best of each takes {each} for {net['calls']} calls."
    level = [row["kernel"] for row in whole[1:] if row["slower"]["told_apart"] is False]
    rivals = f" The rounds cannot tell it from {_names(level)}." if level else ""
    runner = next((row for row in whole[1:] if row["kernel"] not in level), None)
    lead = f", {_times(runner['slower'])} faster than {runner['kernel']}" if runner else ""
    gain = 1 - mix["seconds"] / whole[0]["seconds"]
    more = (
        f" The best kernel of each layer takes {say.seconds_text(mix['seconds'])}, {gain:.0%} less."
        if gain > 0.005
        else ""
    )
    return (
        f"One kernel for {of}: {whole[0]['kernel']}, {_seconds(whole[0])} for {net['calls']} calls{lead}.{rivals}{more}"
    )


def _one(x: dict[str, Any]) -> str:
    said = f"{x['kernel']}: {_seconds(x)}, {x['rounds']} rounds, {x['confidence'] or 0:.0%} confidence"
    if x["contestants"] == 1:
        return f"{said}. No other kernel with that guarantee ran, so there is nothing to compare it with."
    if x["tied"]:
        said += f". A tie: the rounds cannot tell it from {_names(x['tied'])}"
        lead = "the first that is slower for certain"
    else:
        lead = "the next"
    if x["next"]:
        n = x["next"]
        said += f". {_times(n)} faster than {n['kernel']}, {lead}"
    return said + "."


def _times(n: dict[str, Any]) -> str:
    """1.52x (1.40 - 1.66)."""
    value = n["speed"] if "speed" in n else n["times"]
    known = f" ({n['low']:.2f} – {n['high']:.2f})" if n.get("low") else " (not interleaved: no interval)"
    return f"{say.speed_text(value)}{known}"


def _seconds(x: dict[str, Any]) -> str:
    known = f" ({say.time_interval(x['low'], x['high'])})" if x.get("low") else ""
    return f"{say.seconds_text(x['seconds'])}{known}"


def _names(kernels: Sequence[str], most: int = 3) -> str:
    shown = list(kernels[:most])
    rest = len(kernels) - len(shown)
    if rest:
        return f"{', '.join(shown)} and {say.plural(rest, 'other')}"
    return " and ".join([", ".join(shown[:-1]), shown[-1]] if len(shown) > 1 else shown)


def _layer_table(timed: list[dict[str, Any]]) -> str:
    total = sum(x["count"] * x["seconds"] for x in timed)
    rows = [["layer", "calls", "share", "kernel", "time", "margin"]]
    heavy = sorted(timed, key=lambda x: -x["count"] * x["seconds"])
    for x in heavy[:MOST] if len(heavy) > MOST + 2 else heavy:
        share = f"{x['count'] * x['seconds'] / total:.0%}"
        rows.append([x["layer"], str(x["count"]), share, x["kernel"], say.seconds_text(x["seconds"]), _margin(x)])
    left = len(heavy) - len(rows) + 1
    more = f"\n  and {left} more layers that take less (--json has all)" if left else ""
    return "Layers, by what they take\n" + _columns(rows, {1, 2, 4}) + more


def _margin(x: dict[str, Any]) -> str:
    if x["tied"]:
        return f"tie with {_names(x['tied'], 2)}"
    if x["next"]:
        return f"{_times(x['next'])} over {x['next']['kernel']}"
    return "nothing to compare with" if x["contestants"] == 1 else "no rounds in common"


def _network_table(net: dict[str, Any]) -> str:
    rows = [["kernel", "whole", "interval", "against the first"]]
    for row in net["kernels"][:MOST]:
        rows.append([row["kernel"], say.seconds_text(row["seconds"]), _interval(row), _behind(row, net["kernels"][0])])
    rows.append([net["mix"]["kernel"], say.seconds_text(net["mix"]["seconds"]), _interval(net["mix"]), ""])
    done = f"{net['layers']} of {net['of']} layers" if net["layers"] < net["of"] else f"{net['of']} layers"
    text = f"The convolutions of {done} together, {net['calls']} calls\n" + _columns(rows, {1})
    if net["partial"]:
        some = [f"{p['kernel']} {p['layers']}" for p in net["partial"][:6]]
        more = f" and {len(net['partial']) - 6} more kernels" if len(net["partial"]) > 6 else ""
        text += f"\n  only some of the layers: {', '.join(some)}{more}"
    return text


def _interval(row: dict[str, Any]) -> str:
    return say.time_interval(row["low"], row["high"]) if row["low"] else say.NOTHING


def _behind(row: dict[str, Any], first: dict[str, Any]) -> str:
    if row is first:
        return "the fastest"
    told = row["slower"]["told_apart"]
    words = {None: " (not interleaved)", False: ": cannot tell", True: ""}[told]
    return f"{say.speed_text(row['slower']['times'])} as long{words}"


def _weaker(timed: list[dict[str, Any]], network: dict[str, Any] | None) -> str:
    found: dict[str, int] = {}
    for x in timed:
        for w in x["weaker"]:
            key = f"{w['kernel']} ({w['guarantee']})"
            found[key] = found.get(key, 0) + 1
    shown = ", ".join(f"{k} on {say.plural(n, 'layer')}" if len(timed) > 1 else k for k, n in found.items())
    bought = [
        f"{say.seconds_text(m['seconds'])} with --accuracy {m['accuracy']}" for m in (network or {}).get("weaker", [])
    ]
    buys = f": the best of each layer then takes {', '.join(bought)}" if bought else ""
    return f"Faster, with a weaker guarantee: {shown}. --accuracy lets them in{buys}."


def _machines(answers: Sequence[dict[str, Any]]) -> str:
    rows = [["machine", "threads", "one kernel", "time", "the best of each layer"]]

    def seconds(a: dict[str, Any]) -> tuple[int, float]:
        row = _best(a)
        done = sum(x["kernel"] is not None for x in a["layers"])
        return -done, row["seconds"] if row else float("inf")

    for a in sorted(answers, key=seconds):
        row, done = _best(a), sum(x["kernel"] is not None for x in a["layers"])
        some = "" if done == len(a["layers"]) else f" (of {done} of {len(a['layers'])} layers)"
        mix = say.seconds_text(a["network"]["mix"]["seconds"]) if a["network"] else say.NOTHING
        rows.append(
            [
                a["machine"],
                a["threads"],
                row["kernel"] if row else say.NOTHING,
                (_seconds(row) if row else say.NOTHING) + some,
                mix,
            ]
        )
    return (
        "Machines, the fastest first\n"
        + _columns(rows, set())
        + "\n  Each was measured on its own day: an interval holds within its machine, none for their ratio."
    )


def _best(a: dict[str, Any]) -> dict[str, Any] | None:
    if a["network"]:
        return next(iter(a["network"]["kernels"]), None)
    return next((x for x in a["layers"] if x["kernel"]), None)


def _columns(rows: list[list[str]], right: set[int]) -> str:
    wide = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [word.rjust(wide[i]) if i in right else word.ljust(wide[i]) for i, word in enumerate(row)]
        lines.append(("  " + "  ".join(cells)).rstrip())
    return "\n".join(lines)
