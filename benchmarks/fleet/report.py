"""What a fleet's sweep came to, for a person and as one JSON document."""

from __future__ import annotations

from typing import Any

from .. import terminal
from ..verbs.compare import skip_list, tables
from .coordinator import Fleet


def document(run: Fleet, baseline: str | None) -> dict[str, Any]:
    """Ends the records. ``overhead_seconds`` is what boxes waited while there was something for them to do."""
    shares = [
        share.close(baseline, run.interrupted, lambda kernel, m=machine: run.why_not(m, kernel))
        for machine, share in run.shares.items()
    ]
    hosts = [
        {
            "host": h.address,
            "machine": h.machine,
            "declared": h.declared,
            "slices": h.slices,
            "seconds": h.seconds,
            "lost": h.lost,
            "refused": h.refused,
        }
        for h in run.hosts.values()
    ]
    slices = [
        {
            "host": host.address,
            "problems": [str(x.problem) for x in piece.layers],
            "kernels": piece.kernels,
            "complete": piece.complete,
        }
        for _, piece, host in run.pieces.values()
    ]
    return {
        "status": "interrupted" if run.interrupted else "complete",
        "shares": shares,
        "hosts": hosts,
        "slices": slices,
        "measuring_seconds": sum(h.seconds for h in run.hosts.values()),
        "overhead_seconds": run.waited,
    }


def show(found: dict[str, Any], run: Fleet) -> None:
    """For each machine class what ``compare`` shows; then the hosts, and what is not finished."""
    out = terminal.console()
    for share in found["shares"]:
        if share["record"]:
            tables(share["cells"], share["baseline"], share["machine"], share["threads"])
        skip_list(run.shares[share["machine"]].cells)
        if share["sentence"]:
            out.print(f"\n{share['sentence']}", style="bold", markup=False, soft_wrap=True)
    for h in found["hosts"]:
        state = f"refused: {h['refused']}" if h["refused"] else "lost" if h["lost"] else "there to the end"
        out.print(
            f"{h['host']} ({h['machine'] or 'unknown'}): {h['slices']} slices in {h['seconds']:.0f} s, {state}",
            markup=False,
            soft_wrap=True,
        )
    left = [share["record"] for share in found["shares"] if share["status"] != "complete" and share["record"]]
    for share in found["shares"]:
        for text in share["incomplete"]:
            out.print(f"incomplete: {text}", style="bold red", markup=False, soft_wrap=True)
        if share["record"]:
            out.print(f"record: {share['record']}", markup=False, soft_wrap=True)
    if left:
        out.print(f"finish it: the same command with --resume {' '.join(left)}", markup=False, soft_wrap=True)
