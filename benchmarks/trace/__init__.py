"""The convolutions of a network, as a file of problems: from a torch module that runs, or from an ONNX graph.

Equal layers are one problem with a count, so that a report can weigh each by how often it runs. What is no
plain 2-D convolution (transposed, 1-D, 3-D, quantised) is counted and named, never dropped without a word.
"""

from __future__ import annotations

import json
import re
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from convzoo import Conv2d

SCHEMA = "convzoo.problems/1"
NAMED = 5  # names that are told of the layers left out for one reason; the file has all


@dataclass
class Trace:
    """The distinct layers in the order in which they first run, and the names of what was left out, by reason."""

    source: str
    names: dict[Conv2d, str] = field(default_factory=dict)
    counts: Counter[Conv2d] = field(default_factory=Counter)
    left_out: dict[str, list[str]] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def add(self, name: str, problem: Conv2d) -> None:
        with self.lock:
            self.names.setdefault(problem, re.sub(r"\s+", "_", name) or "conv")
            self.counts[problem] += 1

    def leave_out(self, name: str, reason: str) -> None:
        with self.lock:
            self.left_out.setdefault(reason, []).append(name or "without a name")

    def document(self) -> dict[str, Any]:
        """The file: what ``convzoo.problem.read_problems`` reads, with its source."""
        problems = [{"problem": str(p), "count": self.counts[p], "name": n} for p, n in self.names.items()]
        left_out = {reason: len(names) for reason, names in self.left_out.items()}
        found = {"schema": SCHEMA, "source": self.source, "problems": problems, "left_out": left_out}
        return found | ({"left_out_names": self.left_out} if left_out else {})


def trace(source: str, inputs: Sequence[tuple[int, ...]]) -> Trace:
    """The convolutions of ``source``, a path of an ONNX file or ``package.module:callable``."""
    if source.endswith(".onnx") or Path(source).is_file():
        from . import onnx_graph

        return onnx_graph.convolutions(Path(source), inputs)
    if ":" not in source:
        raise ValueError(f"{source}: must be an ONNX file, or package.module:callable that makes a torch module")
    from . import torch_module

    return torch_module.convolutions(source, inputs)


def shape(text: str) -> tuple[int, ...]:
    """1x3x224x224 as (1, 3, 224, 224), and ``scalar`` as the shape of no dimensions."""
    if text == "scalar":
        return ()
    if not re.fullmatch(r"\d+([x,]\d+)*", text) or 0 in (sizes := tuple(map(int, re.split("[x,]", text)))):
        raise ValueError(f"an input's shape must look like 1x3x224x224, got {text!r}")
    return sizes


def default_path(source: str) -> Path:
    """resnet50.json for models/resnet50.onnx and for torchvision.models:resnet50."""
    name = Path(source).stem if ":" not in source else source.rpartition(":")[2]
    return Path(re.sub(r"[^\w.-]", "_", name) + ".json")


def write(found: Trace, path: Path) -> None:
    """Write the file. ValueError where something else lies in its place."""
    if path.exists():
        try:
            here = json.loads(path.read_text(encoding="utf-8")).get("schema")
        except (ValueError, AttributeError):
            here = None
        if here != SCHEMA:
            raise ValueError(f"{path}: is another file, no list of problems; name one with --out")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found.document(), indent=1) + "\n", encoding="utf-8")


def left_out_words(found: Trace) -> str:
    """``; left out: 2 ConvTranspose (up1, up2)``, or nothing."""
    told = []
    for reason, names in found.left_out.items():
        more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
        told.append(f"{len(names)} {reason} ({', '.join(names[:NAMED])}{more})")
    return f"; left out: {', '.join(told)}" if told else ""
