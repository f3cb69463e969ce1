"""Hosts as the coordinator knows them, and whether it lets them measure."""

from __future__ import annotations

import platform
from dataclasses import dataclass, field
from typing import Any

from .. import record
from ..compare import GPU_BACKENDS

GROUPS = {"cuda": ("numba_cuda", "cupy", "torch_cuda"), "mps": ("torch_mps",)}


@dataclass
class Host:
    """A Dask worker: where it is, what it declared, and what it said it is (empty until it did)."""

    address: str
    box: str  # one measurement at a time there
    declared: dict[str, float]
    about: dict[str, Any] = field(default_factory=dict)
    refused: str = ""  # why it may not measure
    lost: bool = False
    slices: int = 0
    seconds: float = 0.0

    @property
    def machine(self) -> str:
        return self.about.get("machine", "")

    @property
    def fit(self) -> bool:
        return bool(self.about) and not self.refused and not self.lost

    def why_not(self, kernel: str) -> str | None:
        """Why it cannot run a kernel: a library that is missing, or a resource that it did not declare."""
        backend = kernel.partition("/")[0]
        if backend not in self.about["backends"]:
            return f"the host knows no backend {backend}"
        if backend not in self._offered():
            return "no host of this class declares it"
        return self.about["backends"][backend]["why_not"]

    def _offered(self) -> set[str]:
        """Backends that its declared resources name, or all where they name none."""
        every = set(self.about["backends"])
        groups = GROUPS | {"cpu": every - set(GPU_BACKENDS)}
        named = {backend for word in self.declared for backend in groups.get(word, (word,))}
        return named & every or every


def ours() -> dict[str, Any]:
    """What hosts are compared with: suite, commit and checkout of this process."""
    return {"suite": record.SUITE, "root": str(record.ROOT), "node": platform.node(), **record.commit()}


def objection(about: dict[str, Any], ours: dict[str, Any]) -> str:
    """Why a host may not measure for this coordinator, or nothing: it must run what the record will say it ran."""
    if "why" in about:
        return about["why"]
    if about["suite"] != ours["suite"]:
        return f"has suite {about['suite']}, and the coordinator {ours['suite']}"
    if about["commit"] != ours["commit"]:
        return f"is at commit {about['commit'][:10]}, and the coordinator at {ours['commit'][:10]}"
    same_tree = (about["root"], about["node"]) == (ours["root"], ours["node"])
    if about["dirty"] and not same_tree:
        return "has uncommitted changes in its checkout"
    if ours["dirty"] and not same_tree:
        return "is elsewhere, and the coordinator's checkout has uncommitted changes"
    return ""


def misfit(about: dict[str, Any], first: dict[str, Any]) -> str:
    """What makes a host another one than the first of its class: other versions must not share a record."""
    for name, backend in about["backends"].items():
        theirs = first["backends"][name]
        if backend["usable"] and theirs["usable"] and backend["about"] != theirs["about"]:
            return f"has {name} {backend['about']}, and another host of its class {theirs['about']}"
    mine, other = (x["hardware"]["python"] for x in (about, first))
    return f"has Python {mine}, and another host of its class {other}" if mine != other else ""
