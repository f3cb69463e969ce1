"""One kernel on one problem: its time beside what it should cost, what the machine allows, and what ran.

The time is of one process and one round: enough to see which bound is near, not enough to rank kernels; for
that there is ``compare``.
"""

from __future__ import annotations

import argparse
import re
from dataclasses import asdict, replace
from time import monotonic, sleep
from typing import Any

from convzoo.catalog import find

from .. import formula, hardware, machine_file, problems, roofline
from .. import options as kinds
from ..ceilings import Pulse
from ..compare import PATIENCE, STEADY
from ..processes import Worker
from ..stopwatch import Effort
from ..terminal import console
from ..words import bytes_text, seconds_text
from . import chosen, code_of, emit

EFFORT = Effort(sample=0.01, warm_up=0.03, budget=0.3, fewest=3, most=30)


def explain(kernel: str, problem: Any, scenario: str, threads: int, timeout: float = 120.0) -> dict[str, Any]:
    """Everything that is known about a cell; without a time where its status is not ok."""
    k = find(kernel)
    machine = hardware.machine_name()
    found = {
        "kernel": kernel,
        "problem": str(problem),
        "scenario": scenario,
        "threads": threads,
        "machine": machine,
        "idea": k.headline,
        "algorithm": k.algorithm,
        "accuracy": k.accuracy,
        "flops": problem.flops,
        "useful_flops": roofline.useful_flops(problem),
        "min_bytes": problem.min_bytes,
        "cost": {key: asdict(cost) for key, cost in formula.costs(k.doc, problem).items()},
    }
    ceilings = machine_file.load(machine).get("ceilings") or {}
    known = roofline.rates(ceilings, "fma_gflops_per_s", threads).get("float32", 0.0)
    pulse = Pulse(threads, known) if k.backend.device == "cpu" else None
    try:
        found |= _measured(kernel, problem, scenario, threads, timeout, pulse)
    finally:
        if pulse:
            pulse.close()
    return (found := found | _limits(k, problem, ceilings, threads, found)) | {"diagnosis": diagnosis(found)}


def _limits(k: Any, problem: Any, ceilings: dict[str, Any], threads: int, found: dict[str, Any]) -> dict[str, Any]:
    """What the machine allows, and how much of it was reached; or why that is not known."""
    if k.backend.device != "cpu":
        return {"bounds": None, "no_bounds": "the ceilings are of the CPU, and this backend runs on a GPU"}
    if not ceilings:
        return {"bounds": None, "no_bounds": "no ceilings: run python -m benchmarks machine"}
    limits = bounds(problem, ceilings, threads, k.accuracy)
    if limits is None:
        return {
            "bounds": None,
            "no_bounds": f"no ceilings for {threads} threads and {problem.dtype}: run python -m benchmarks machine",
        }
    if "seconds" in found:
        limits |= {
            "of_fma": limits["fma_seconds"] / found["seconds"],
            "of_bandwidth": limits["bytes_seconds"] / found["seconds"],
            "of_limit": limits["seconds"] / found["seconds"],
        }
        moved = found["cost"].get("bytes", {}).get("value") or problem.min_bytes
        limits["moved_gb_per_s"] = moved / found["seconds"] / 1e9
    return {"bounds": limits}


def _measured(
    kernel: str, problem: Any, scenario: str, threads: int, timeout: float, pulse: Pulse | None
) -> dict[str, Any]:
    """The worker's reply on a steady host, in a process of its own; beside it one output's time, and one thread's."""
    worker = Worker(kernel.partition("/")[0], threads)
    request = {"kernel": kernel, "scenario": scenario, "seed": 0, "effort": asdict(EFFORT)}
    try:
        hello = worker.greet(timeout)
        if "status" in hello:
            return {"status": hello["status"], "why": f"while importing: {hello['why']}", "fingerprint": {}}
        enough, share = monotonic() + PATIENCE, 1.0
        while True:
            if pulse:
                share = pulse.share()
            if share >= STEADY or monotonic() > enough:
                reply = worker.ask(request | {"problem": str(problem)}, timeout)
                share = min(share, pulse.share()) if pulse else share
                if share >= STEADY or monotonic() > enough or reply["status"] != "ok":
                    break
            sleep(0.2)
        lost = reply.pop("lost", None)
        found = {
            "why": "",
            "fingerprint": {},
            "libraries": hello.get("about", {}),
            "host_share": round(share, 2),
        } | reply
        if reply["status"] == "ok" and not lost:
            one = worker.ask(request | {"problem": str(_one_output(problem))}, timeout)
            found |= {"call_seconds": one["seconds"]} if one["status"] == "ok" else {}
    finally:
        worker.close()
    if threads > 1 and found["status"] == "ok":
        alone = _measured(kernel, problem, scenario, 1, timeout, None)
        found |= {"alone_seconds": alone["seconds"]} if alone["status"] == "ok" else {}
    return found


def _one_output(p: Any) -> Any:
    """A problem of the same kind with next to no work: what its call takes is the call's own time."""
    high, wide = p.extent
    return replace(p, N=1, C=p.groups, H=high, W=wide, K=p.groups, padding=0, stride=1)


def diagnosis(x: dict[str, Any]) -> str:
    """What the time went to, in one or two sentences, by the first cause that the evidence shows."""
    if x["status"] != "ok":
        return f"There is no time to explain: {x['status']}."
    b, facts, seconds, threads = x["bounds"], x["fingerprint"], x["seconds"], x["threads"]
    call, alone = x.get("call_seconds", 0.0), x.get("alone_seconds", 0.0)
    reference = next((str(v) for v in facts.values() if re.search(r"\bref(?:erence)?\b", str(v))), "")
    vector = {"avx512f": 512, "avx2": 256, "avx": 256}.get(hardware.facts().get("vector") or "", 0)
    bits = facts.get("vector_bits", 0)
    steady = x.get("host_share", 1.0) >= STEADY
    doubt = "" if steady else f" The host gave {x['host_share']:.0%} of what it can: ask again on a quieter one."
    if call > 0.5 * seconds:
        said = f"The call is too short for its overhead: {call / seconds:.0%} of the time is taken for one output, too."
    elif reference:
        said = f"The library took its reference path ({reference}), which is written to be right, not to be fast."
    elif b and b["moved_gb_per_s"] > max(0.5, b["of_fma"]) * b["read_gb_per_s"]:
        said = (
            f"{b['level']} binds: {b['moved_gb_per_s']:.3g} of {b['read_gb_per_s']:.3g} GB/s. Only fewer bytes, or "
            "a smaller working set, would help."
        )
    elif steady and threads > 1 and 0 < alone < 1.2 * seconds:
        said = f"{threads} threads were asked for and one works: 1 thread takes {alone / seconds:.2g} times as long."
    elif "vector_bits" in facts and bits < vector:
        said = f"Its loops use {f'vectors of {bits} bits' if bits else 'no vectors'}, and this CPU has {vector} bits."
    elif facts.get("spills", 0) > 0 and not (b and b["of_fma"] > 0.7):
        said = (
            f"The registers do not suffice: {facts['spills']} vectors go to the stack or come back in innermost loops."
        )
    elif b and b["of_fma"] > 0.6:
        said = f"Arithmetic binds: {b['of_fma']:.0%} of the measured peak."
    elif b:
        said = (
            f"No known cause: {b['of_fma']:.0%} of the arithmetic peak, and {b['level']} at {b['moved_gb_per_s']:.3g} "
            f"of {b['read_gb_per_s']:.3g} GB/s."
        )
    else:
        said = f"Without ceilings only the code can be judged, and it shows no cause: {x['no_bounds']}."
    return said + doubt


def bounds(
    problem: Any, ceilings: dict[str, Any], threads: int, accuracy: str = "elementwise"
) -> dict[str, Any] | None:
    """The least times that arithmetic and compulsory traffic allow, and which of them binds.

    Arithmetic: FLOP that meet no padding, at the ceiling of FMA or matrix units for this accuracy; an
    algorithm with fewer multiplications may be quicker. Traffic: x, w and b read and y written once, at the
    bandwidth of the smallest level that holds them all. None where the ceilings were not measured for these
    threads and this dtype.
    """
    fma = roofline.arithmetic(ceilings, problem.dtype, threads, accuracy)
    level = roofline.level_of(problem.min_bytes, hardware.cache_bytes(), threads)
    bandwidth = roofline.rates(ceilings, "read_gb_per_s", threads).get(level)
    if not fma or bandwidth is None:
        return None
    by_fma = roofline.useful_flops(problem) / (fma * 1e9)
    by_bytes = problem.min_bytes / (bandwidth * 1e9)
    return {
        "fma_gflops_per_s": fma,
        "fma_seconds": by_fma,
        "level": level,
        "read_gb_per_s": bandwidth,
        "bytes_seconds": by_bytes,
        "seconds": max(by_fma, by_bytes),
        "binds": "arithmetic" if by_fma >= by_bytes else "traffic",
    }


def show(x: dict[str, Any]) -> None:
    """The document of ``explain`` for a person."""
    from rich.table import Table

    out = console()

    def block(title: str, rows: list[tuple[str, str]]) -> None:
        out.print(f"\n{title}", style="bold", markup=False)
        table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
        table.add_column(no_wrap=True, min_width=16)
        table.add_column(overflow="fold")
        for name, text in rows:
            table.add_row(f"  {name}", text)
        out.print(table, markup=False)

    out.print(f"{x['kernel']} on {x['problem']}, {x['scenario']}", style="bold", markup=False)
    out.print(x["idea"], markup=False, soft_wrap=True)
    out.print(f"{x['threads']} threads, {x['machine']}", markup=False, soft_wrap=True)
    if x["status"] != "ok":
        out.print(f"\n{x['status']}: {x['why']}", style="bold red", markup=False, soft_wrap=True)
    else:
        error = x["error"]
        rate, stream = x["flops"] / x["seconds"] / 1e9, x["min_bytes"] / x["seconds"] / 1e9
        block(
            "measured (one process, one round)",
            [
                (
                    "a call",
                    f"{seconds_text(x['seconds'])}, quartiles {seconds_text(x['q25'])} - "
                    f"{seconds_text(x['q75'])}, {x['samples']} samples",
                ),
                ("speed", f"{rate:.4g} GFLOP/s of the definition, {stream:.4g} GB/s of compulsory traffic"),
                ("before", f"plan {seconds_text(x['plan_seconds'])}, pack {seconds_text(x['pack_seconds'])}"),
                ("workspace", bytes_text(x["workspace"])),
                ("verdict", f"right, {x['accuracy']}; error {error['score']:.2g} u·A"),
            ],
        )
    block("predicted by the docstring", _cost_rows(x["cost"]))
    block("what the machine allows", _bound_rows(x))
    if x["status"] == "ok":
        facts = [(name, str(value)) for name, value in x["fingerprint"].items()]
        block("what ran", facts or [("fingerprint", "none can be had for this backend")])
        out.print(f"\n{x['diagnosis']}", style="bold", markup=False, soft_wrap=True)


def _cost_rows(costs: dict[str, dict[str, Any]]) -> list[tuple[str, str]]:
    rows = []
    for name, cost in costs.items():
        value = "" if cost["value"] is None else f"{cost['value']:.4g} = "
        rows.append((name, value + cost["text"]))
    return rows


def _bound_rows(x: dict[str, Any]) -> list[tuple[str, str]]:

    useful = f"{x['useful_flops'] / 1e6:.4g} MFLOP ({x['flops'] / 1e6:.4g} with padding)"
    least = f"{bytes_text(x['min_bytes'])} at least"
    b = x["bounds"]
    if b is None:
        return [("arithmetic", useful), ("traffic", least), ("limit", x["no_bounds"])]
    rows = [
        ("arithmetic", f"{useful} at {b['fma_gflops_per_s']:.4g} GFLOP/s: {seconds_text(b['fma_seconds'])}"),
        (
            "traffic",
            f"{least}, fits {b['level']}, at {b['read_gb_per_s']:.4g} GB/s: {seconds_text(b['bytes_seconds'])}",
        ),
        ("limit", f"{seconds_text(b['seconds'])}: {b['binds']} binds"),
    ]
    if "of_limit" in b:
        rows.append(
            (
                "reached",
                f"{100 * b['of_limit']:.2g}% of the limit; {100 * b['of_fma']:.2g}% of the arithmetic ceiling, "
                f"{100 * b['of_bandwidth']:.2g}% of the bandwidth of {b['level']}",
            )
        )
    return rows


def options(p: argparse.ArgumentParser) -> None:
    p.add_argument("kernel", metavar="KERNEL")
    p.add_argument("problem", metavar="PROBLEM", help="a string, or set/layer: resnet50/conv1")
    p.add_argument("--scenario", choices=("eager", "packed"), default="packed")
    kinds.threads(p)
    p.add_argument("--timeout", type=kinds.seconds, metavar="SECONDS", default=120.0)


def call(args: argparse.Namespace) -> int:
    names = chosen([args.kernel])
    if len(names) > 1:
        raise ValueError(f"explain takes one kernel, and {args.kernel!r} matches {', '.join(names)}")
    layers = problems.resolve([args.problem])
    if len(layers) > 1:
        which = ", ".join(x.name for x in layers)
        raise ValueError(f"explain takes one problem: {args.problem}/LAYER with one of {which}")
    threads = args.threads or hardware.usable_cpus()
    asked = (names[0], layers[0].problem, args.scenario, threads, args.timeout)
    document = explain(*asked)
    if args.json:
        emit("explain", document)
    else:
        show(document)
    return code_of([document["status"]])
