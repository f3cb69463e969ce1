"""Who may import whom, read from the source: kernels, benchmarks and reports are rooms with doors."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
STANDARD = set(sys.stdlib_module_names) | {"__future__"}
LIBRARIES = {
    "python": {"numpy"},
    "numpy": {"numpy"},
    "numba": {"numpy", "numba"},
    "numba_cuda": {"numpy", "numba"},
    "cupy": {"numpy", "cupy"},
    "torch": {"numpy", "torch"},
    "onnxruntime": {"numpy", "onnx", "onnxruntime"},
    "openvino": {"numpy", "openvino"},
    "ncnn": {"numpy", "ncnn"},
}
VOCABULARY = {"convzoo.problem", "convzoo.plan", "convzoo.caches"}
FRAMEWORK = {
    f"convzoo.{name}"
    for name in ("problem", "plan", "caches", "limits", "reference", "arguments", "backends", "catalog")
} | {"convzoo.auto", "convzoo.conv2d"}
# what each file of the framework may import beside the standard library, at its top level
CORE = {
    "__init__": FRAMEWORK,
    "problem": set(),
    "plan": set(),
    "caches": set(),
    "limits": set(),
    "arguments": {"numpy", "convzoo.limits"} | VOCABULARY,
    "auto": VOCABULARY,
    "reference": {"numpy", "convzoo.reference"} | VOCABULARY,
    "backends": {"numpy", "convzoo.limits", "convzoo.arguments"} | VOCABULARY,
    "catalog": {"numpy", "convzoo.reference", "convzoo.arguments", "convzoo.backends"} | VOCABULARY,
    "conv2d": {"numpy"} | FRAMEWORK - {"convzoo.conv2d"},
}
# of benchmarks the floor that knows no kernel and measures nothing: reports stand on it, too
GROUND = {"problems", "networks", "record", "significance", "evidence", "roofline", "words"}
REPORTS = {f"benchmarks.{name}" for name in GROUND} | {
    "convzoo.problem",
    "numpy",
    "matplotlib",
    "jinja2",
    "markupsafe",
    "asv",
    "PIL",
}
# what asv's suite needs, which for that reason needs numpy and convzoo alone
FOR_THE_SUITE = {"stopwatch", "subject", "worker", "trust", "hardware"}
VAGUE = {"utils", "util", "helpers", "helper", "common", "base", "misc", "tools"}
ASV_FUNCTION = re.compile(r"(time|timeraw|track|mem|peakmem|kernel)_")
ASV_CLASS = re.compile(r"(Time|Timeraw|TimeRaw|Track|Mem|PeakMem)[A-Z_]")


@dataclass(frozen=True)
class Import:
    """One imported module, as an absolute name; ``top`` where importing the file imports it, too."""

    module: str
    line: int
    top: bool


def imports(path: Path, package: str) -> Iterator[Import]:
    """All imports of a file that lies in ``package``. ``from a import b`` counts as a and as a.b."""

    def visit(node: ast.AST, top: bool) -> Iterator[Import]:
        if isinstance(node, ast.Import):
            yield from (Import(alias.name, node.lineno, top) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            start = ".".join([*parts, *([node.module] if node.module else [])])
            for alias in node.names:
                yield Import(f"{start}.{alias.name}", node.lineno, top)
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            return
        inner = top and not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        for child in ast.iter_child_nodes(node):
            yield from visit(child, inner)

    yield from visit(ast.parse(path.read_text(encoding="utf-8")), True)


def within(module: str, allowed: set[str]) -> bool:
    """Whether ``module`` is one of ``allowed`` or lies inside one."""
    return any(module == name or module.startswith(name + ".") for name in allowed)


def faults(root: Path) -> list[str]:
    """Every broken rule below ``root``, as ``file:line: what``."""
    found = [*_kernels(root), *_benchmarks(root), *_reports(root), *_names(root)]
    return [f"{path.relative_to(root)}:{line}: {what}" for path, line, what in found]


def _kernels(root: Path) -> Iterator[tuple[Path, int, str]]:
    home = root / "kernels" / "convzoo"
    for path in sorted([*home.glob("*.py"), *home.glob("reference/*.py")]):
        package = ".".join(path.parent.relative_to(root / "kernels").parts)
        name = path.stem if package == "convzoo" else path.parent.name
        for found in imports(path, package):
            if not found.top and not found.module.startswith("convzoo."):
                continue  # libraries inside functions: that is what backends.py is for
            if found.top and name not in CORE:
                yield path, found.line, "is no known file of the framework: say here what it may import"
                break
            if not within(found.module, STANDARD | CORE[name] | (set() if found.top else FRAMEWORK)):
                yield path, found.line, f"must not import {found.module}"
    for path in sorted(set(home.glob("*/*.py")) - set(home.glob("reference/*.py"))):
        folder = path.parent.name
        if folder not in LIBRARIES:
            yield path, 1, f"lies in {folder}, which is no backend's folder"
            continue
        # a kernel may use the building blocks of its folder, a building block those, too
        blocks = {f"convzoo.{folder}.{block.stem}" for block in path.parent.glob("_*.py")}
        for found in imports(path, f"convzoo.{folder}"):
            if not within(found.module, STANDARD | LIBRARIES[folder] | VOCABULARY | blocks):
                yield path, found.line, f"must not import {found.module}"
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Try) and any(
                isinstance(inner, (ast.Import, ast.ImportFrom)) for inner in ast.walk(node)
            ):
                yield path, node.lineno, "must not try an import: backends.py knows what is missing"


# the building blocks that know a CPU's matrix unit: its ceiling is measured with them
UNIT = {"convzoo.numba._amx", "convzoo.numba._simd"}


def _kernel_folders(module: str) -> bool:
    return within(module, {f"convzoo.{folder}" for folder in LIBRARIES})


def _benchmarks(root: Path) -> Iterator[tuple[Path, int, str]]:
    room = root / "benchmarks"
    for path in sorted(room.rglob("*.py")):
        package = ".".join(path.parent.relative_to(root).parts)
        suite, ground = path.parent == room / "suite", path.parent == room and path.stem in GROUND
        mine = {f"benchmarks.{name}" for name in GROUND} | {"benchmarks.suite"} if ground or suite else {"benchmarks"}
        mine |= {f"benchmarks.{name}" for name in FOR_THE_SUITE} if suite else set()
        libraries = {"convzoo.problem"} if ground else {"convzoo", "numpy"}
        for found in imports(path, package):
            if path == room / "ceilings.py" and within(found.module, UNIT):
                continue
            if within(found.module, {"reports", "tests"}) or _kernel_folders(found.module):
                yield path, found.line, f"must not import {found.module}"
            elif within(found.module, {"benchmarks"}) and not within(found.module, mine):
                yield path, found.line, f"must not import {found.module}: it is above this floor"
            elif within(found.module, {"benchmarks.suite"}) and not suite:
                yield path, found.line, f"must not import {found.module}: it is asv's alone"
            elif found.top and not within(found.module, STANDARD | libraries | {"benchmarks"}):
                yield path, found.line, f"must import {found.module} inside a function: not everybody has it"
        if not suite or path.name == "bench_conv2d.py":  # whose functions are meant to be taken
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and ASV_FUNCTION.match(node.name):
                yield path, node.lineno, f"asv would take the function {node.name} for a benchmark"
            if isinstance(node, ast.ClassDef) and ASV_CLASS.match(node.name):
                yield path, node.lineno, f"asv would take the class {node.name} for a benchmark"


def _reports(root: Path) -> Iterator[tuple[Path, int, str]]:
    for path in sorted((root / "reports").rglob("*.py")):
        package = ".".join(path.parent.relative_to(root).parts)
        allowed = STANDARD | REPORTS | {"reports"}
        if path.relative_to(root) == Path("reports/decompose.py"):
            allowed |= {"convzoo", "torch"}
        for found in imports(path, package):
            if not within(found.module, allowed) or _kernel_folders(found.module):
                yield path, found.line, f"must not import {found.module}"


def _names(root: Path) -> Iterator[tuple[Path, int, str]]:
    for room in ("kernels", "benchmarks", "reports", "tests"):
        for path in sorted((root / room).rglob("*.py")):
            if path.stem.strip("_") in VAGUE:
                yield path, 1, "a module's name says what is in it: not utils, helpers, common or base"
        if room != "tests":
            for path in sorted((root / room).rglob("test_*.py")):
                yield path, 1, "tests lie in tests/"
    for path in sorted((root / "kernels").glob("__init__.py")):
        yield path, 1, "kernels/ is a source root, not a package"


def test_rooms():
    found = faults(REPOSITORY)
    assert not found, "\n".join(found)


def test_rooms_are_not_empty():
    assert len(list((REPOSITORY / "kernels" / "convzoo").glob("*/*.py"))) > 0


@pytest.mark.parametrize("statement", ["import convzoo", "import convzoo.catalog; convzoo.names()"])
def test_importing_imports_no_optional_library(statement):
    """numba is a dependency, and yet its import takes longer than all the rest together."""
    code = (
        f"import sys; {statement}; "
        "print(*sorted({'torch', 'cupy', 'numba', 'asv', 'scipy', 'matplotlib', 'onnx', 'onnxruntime', "
        "'openvino', 'ncnn'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.split() == []


# --- teeth -------------------------------------------------------------------------------------------

PLANTED = {
    "kernels/convzoo/numpy/k.py": {
        "import numba": "must not import numba",
        "import convzoo": "must not import convzoo",
        "from convzoo import Conv2d": "must not import convzoo.Conv2d",
        "from convzoo.numpy import per_channel": "must not import convzoo.numpy.per_channel",
        "from . import per_channel": "must not import convzoo.numpy.per_channel",
        "from .per_channel import plan": "must not import convzoo.numpy.per_channel.plan",
        "from ..reference import oracle": "must not import convzoo.reference.oracle",
        "from convzoo.backends import BACKENDS": "must not import convzoo.backends",
        "from benchmarks import problems": "must not import benchmarks.problems",
        "def f():\n    import scipy": "must not import scipy",
        "try:\n    import numpy\nexcept ImportError:\n    pass": "must not try an import",
    },
    "kernels/convzoo/torch/k.py": {"import numba": "must not import numba"},
    "kernels/convzoo/jax/k.py": {"import jax": "which is no backend's folder"},
    "kernels/convzoo/problem.py": {
        "import numpy": "must not import numpy",
        "from .plan import Plan": "must not import convzoo.plan",
    },
    "kernels/convzoo/reference/verdict.py": {
        "from convzoo.backends import BACKENDS": "must not import convzoo.backends",
        "import scipy": "must not import scipy",
    },
    "kernels/convzoo/backends.py": {"import torch": "must not import torch"},
    "kernels/convzoo/catalog.py": {"from .numpy import per_channel": "must not import convzoo.numpy"},
    "kernels/convzoo/conv2d.py": {
        "def f():\n    from .numpy import per_channel": "must not import convzoo.numpy.per_channel"
    },
    "kernels/convzoo/extra.py": {"import os": "is no known file of the framework"},
    "kernels/__init__.py": {"": "is a source root"},
    "kernels/convzoo/helpers.py": {"": "not utils, helpers"},
    "kernels/convzoo/numpy/_common.py": {"": "not utils, helpers"},
    "tests/utils.py": {"": "not utils, helpers"},
    "benchmarks/k.py": {
        "import torch": "must import torch inside a function",
        "class A:\n    import rich": "must import rich.* inside a function",
        "if True:\n    from asv import results": "must import asv.results inside a function",
        "def f():\n    import reports.load": "must not import reports.load",
        "from tests.cases import CASES": "must not import tests.cases",
        "from convzoo.numpy import per_channel": "must not import convzoo.numpy.per_channel",
        "def f():\n    from convzoo.numba.direct import plan": "must not import convzoo.numba.direct",
        "from .suite import bench_conv2d": "must not import benchmarks.suite.bench_conv2d: it is asv's alone",
    },
    "benchmarks/verbs/k.py": {"import rich": "must import rich inside a function"},
    "benchmarks/evidence.py": {
        "import numpy": "must import numpy inside a function",
        "import convzoo": "must import convzoo inside a function",
        "def f():\n    from . import compare": "must not import benchmarks.compare: it is above this floor",
        "from benchmarks.worker import main": "must not import benchmarks.worker.main: it is above this floor",
    },
    "benchmarks/suite/k.py": {
        "import torch": "must import torch inside a function",
        "from benchmarks.compare import Sweep": "must not import benchmarks.compare.Sweep: it is above this floor",
        "def f():\n    from benchmarks.fleet import cluster": "must not import benchmarks.fleet.cluster",
        "def time_it(): pass": "asv would take the function time_it",
        "class A:\n    def peakmem_it(self): pass": "asv would take the function peakmem_it",
        "def f():\n    def track_it(): pass": "asv would take the function track_it",
        "class TimeIt: pass": "asv would take the class TimeIt",
        "class Track_it: pass": "asv would take the class Track_it",
    },
    "benchmarks/test_k.py": {"": "tests lie in tests/"},
    "reports/k.py": {
        "import convzoo": "must not import convzoo",
        "from convzoo.catalog import names": "must not import convzoo.catalog",
        "def f():\n    import torch": "must not import torch",
        "from benchmarks.worker import repeat": "must not import benchmarks.worker",
        "import pandas": "must not import pandas",
    },
    "reports/decompose.py": {
        "from convzoo.numpy.per_channel import plan": "must not import convzoo.numpy",
        "import benchmarks": "must not import benchmarks",
    },
}
ALLOWED = {
    "kernels/convzoo/numpy/k.py": (
        "import math\nimport numpy as np\nfrom numpy.lib import stride_tricks\n"
        "from convzoo.plan import Plan\nfrom ..problem import Conv2d\nfrom ._blocks import one\n"
        "from . import _blocks\nfrom convzoo.numpy._blocks import one"
    ),
    "kernels/convzoo/numpy/_blocks.py": "import numpy\none = 1",
    "kernels/convzoo/backends.py": "import os\ndef f():\n    import torch",
    "benchmarks/k.py": (
        "from __future__ import annotations\nimport json\nimport numpy\nimport convzoo\nfrom . import other\n"
        "from .other import one\nfrom typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import torch\n"
        "def timer():\n    import rich, torch\ndef time_it(): pass\nclass TimeIt: pass"
    ),
    "benchmarks/evidence.py": "import math\nfrom convzoo.problem import Conv2d\nfrom .record import Run",
    "benchmarks/suite/k.py": (
        "import numpy\nimport convzoo\nfrom . import asv_type\nfrom benchmarks import stopwatch\n"
        "from benchmarks.trust.guard import unguarded\ndef timer(): pass\nclass Timer: pass\nclass Memory: pass"
    ),
    "reports/k.py": (
        "import json\nfrom benchmarks.record import ROOT\nimport matplotlib.pyplot\n"
        "from convzoo.problem import Conv2d\nfrom . import load"
    ),
    "reports/decompose.py": "import convzoo\nimport torch\nfrom convzoo import conv2d",
}


def plant(root: Path, name: str, source: str) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(source + "\n", encoding="utf-8")


def test_allowed_imports_are_allowed(tmp_path):
    for name, source in ALLOWED.items():
        plant(tmp_path, name, source)
    assert faults(tmp_path) == []


@pytest.mark.parametrize(
    "name, source, what", [(name, source, what) for name, each in PLANTED.items() for source, what in each.items()]
)
def test_planted_fault_is_seen(tmp_path, name, source, what):
    plant(tmp_path, name, source)
    found = faults(tmp_path)
    assert len(found) == 1 and found[0].startswith(name + ":")
    assert re.search(what.replace("(", r"\("), found[0]), found
