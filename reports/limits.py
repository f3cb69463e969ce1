"""The roof of a run: what its machine's measured ceilings allow with its threads."""

from __future__ import annotations

from benchmarks import roofline
from benchmarks.problems import problem_of
from benchmarks.roofline import Roof
from convzoo.problem import Conv2d

from .cells import Run
from .values import mapping, number, text


def threads(run: Run) -> str:
    return text(run.header.get("threads"), "1")


def arithmetic(run: Run, dtype: str) -> float | None:
    """Measured GFLOP/s of multiply-adds with the threads of the run."""
    return number(roofline.rates(_ceilings(run), "fma_gflops_per_s", threads(run)).get(dtype), above=0)


def bandwidths(run: Run) -> dict[str, float]:
    """Measured GB/s of reading, by level, with the threads of the run."""
    return {text(k): v for k, v in roofline.rates(_ceilings(run), "read_gb_per_s", threads(run)).items()}


def roof(run: Run, problem: Conv2d, device: str = "cpu") -> Roof | None:
    """None for a GPU, whose ceilings no record holds, and where this machine's were not measured."""
    if device != "cpu":
        return None
    caches = mapping(mapping(run.header.get("hardware")).get("caches"))
    return roofline.roof(problem, _ceilings(run), caches, int(number(run.header.get("threads"), above=0) or 1))


def _ceilings(run: Run) -> dict[str, dict[str, dict[str, float]]]:
    """Of a record that may hold anything: numbers by kind, threads and name."""
    return {
        kind: {
            n: {k: v for k, x in mapping(values).items() if (v := number(x, above=0)) is not None}
            for n, values in mapping(each).items()
        }
        for kind, each in mapping(run.header.get("ceilings")).items()
    }


def roofs(run: Run) -> dict[str, Roof]:
    """By problem of the run, its roof on this machine's CPU."""
    found = {}
    for name in run.problems:
        problem = problem_of(name)
        if problem is not None and (one := roof(run, problem)) is not None:
            found[name] = one
    return found
