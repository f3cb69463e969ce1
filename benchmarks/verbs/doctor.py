"""``doctor``: this machine, and what would spoil timings."""

from __future__ import annotations

import argparse
from typing import Any

from convzoo.backends import BACKENDS

from .. import hardware, machine_file, record
from ..terminal import console
from ..words import bytes_text
from . import FINE, emit


def options(p: argparse.ArgumentParser) -> None:
    """None of its own."""


def call(args: argparse.Namespace) -> int:
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
