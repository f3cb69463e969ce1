"""File names are the registry: ``kernels/convzoo/<folder>/<idea>.py`` is the kernel ``<backend>/<idea>``.

A folder may serve several backends (``torch`` serves torch_cpu, torch_cuda and torch_mps). Files that
begin with ``_`` are building blocks, not kernels. What a kernel declares is read from its file without
importing it.
"""

from __future__ import annotations

import ast
import difflib
import fnmatch
import importlib
import importlib.util
import os
import sys
import weakref
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

from .backends import BACKENDS, Backend
from .plan import Plan, Unavailable, Unsupported
from .problem import Conv2d
from .reference import ACCURACIES

ROOT = Path(__file__).resolve().parent
ALGORITHMS = ("direct", "gemm", "winograd", "fft")
ROUNDED_TO = ("", "bfloat16", "float16")
DEFAULTS = {
    "ALGORITHM": "direct",
    "ACCURACY": "elementwise",
    "ROUNDED_TO": "",
    "MAX_FLOPS": None,
    "DTYPES": ("float32", "float64"),
}


@dataclass(frozen=True)
class Kernel:
    """One kernel on one backend; ``plan`` is the only thing that imports its file."""

    name: str
    backend: Backend = field(compare=False)
    path: Path = field(compare=False)
    algorithm: str
    accuracy: str
    rounded_to: str  # what a kernel of accuracy half rounds the inputs of a float32 problem to
    max_flops: float | None
    dtypes: tuple[str, ...]
    doc: str = field(repr=False)

    @property
    def headline(self) -> str:
        return self.doc.strip().splitlines()[0]

    @property
    def promise(self) -> dict[str, str]:
        """What the verdict holds it to."""
        return {"accuracy": self.accuracy, "rounded_to": self.rounded_to}

    def module(self) -> ModuleType:
        """The kernel's file, imported whether or not this machine can run it."""
        if self.path.is_relative_to(ROOT):
            return importlib.import_module(f"convzoo.{self.path.parent.name}.{self.path.stem}")
        return _module_at(self.path)

    def plan(self, p: Conv2d) -> Plan:
        """Compile and lay out everything that depends on shapes alone. Raises Unsupported."""
        if p.dtype not in self.dtypes:
            raise Unsupported(f"needs {' or '.join(self.dtypes)}, got {p.dtype}")
        if refusal := self.backend.refuses(p):
            raise Unsupported(refusal)
        if 0 in (*p.x_shape, *p.w_shape):
            return self._empty_sum(p)
        self.backend.used = True
        with self.backend.planning():
            plan = self.backend.safe(self.module().plan(p))
        _plans[plan] = self.backend
        return plan

    def _empty_sum(self, p: Conv2d) -> Plan:
        """y when there is nothing to sum: the bias, or zero, in whatever shape is asked for."""
        import numpy as np

        from .reference import host_dtype

        def pack(w: Any, b: Any) -> Any:
            y = np.zeros(p.y_shape, host_dtype(p))
            if b is not None and p.K:
                b = self.backend.to_host(b)
                y += b if p.layout == "nhwc" else b[:, None, None]
            return y

        return Plan(lambda x, y: self.backend.to_device(y), pack=pack)


_plans: weakref.WeakKeyDictionary[Plan, Backend] = weakref.WeakKeyDictionary()


def _forked() -> None:
    """In the child of a fork: plans whose library has lost its threads or its device say so, and do not hang."""
    for backend in BACKENDS.values():
        backend.forked()
    for plan, backend in list(_plans.items()):
        if backend.lost:

            def refuse(*_: Any, reason: str = f"{backend.name} {backend.lost}") -> Any:
                raise Unavailable(reason)

            object.__setattr__(plan, "run", refuse)
            object.__setattr__(plan, "pack", refuse)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)


@lru_cache(maxsize=64)
def _module_at(path: Path) -> ModuleType:
    """A kernel's file outside the package, imported once under a name that no package has."""
    spec = importlib.util.spec_from_file_location(f"kernel file {path}", path)
    if spec is None or spec.loader is None:
        raise ValueError(f"{path}: a kernel's file must end with .py")
    sys.modules[spec.name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@lru_cache(maxsize=1)
def _catalog() -> dict[str, Kernel]:
    found = {}
    for backend in BACKENDS.values():
        for path in sorted((ROOT / backend.folder).glob("[!_]*.py")):
            kernel = read(path, backend)
            found[kernel.name] = kernel
    return found


def read(path: Path, backend: Backend) -> Kernel:
    """What the kernel file at ``path`` declares, without importing it. ValueError if it is malformed."""
    tree = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
    declared = dict(DEFAULTS)
    for node in tree.body:
        targets = getattr(node, "targets", [getattr(node, "target", None)])
        for constant in (t.id for t in targets if isinstance(t, ast.Name) and t.id in DEFAULTS):
            try:
                assert isinstance(node, ast.Assign)
                declared[constant] = ast.literal_eval(node.value)
            except (AssertionError, ValueError):
                raise ValueError(f"{path}: {constant} must be a literal constant") from None
    choices_of = {"ALGORITHM": ALGORITHMS, "ACCURACY": ACCURACIES, "ROUNDED_TO": ROUNDED_TO}
    for constant, choices in choices_of.items():
        if declared[constant] not in choices:
            raise ValueError(f"{path}: {constant} must be one of {choices}, got {declared[constant]!r}")
    half_of_float32 = declared["ACCURACY"] == "half" and "float32" in declared["DTYPES"]
    if half_of_float32 != bool(declared["ROUNDED_TO"]):
        raise ValueError(
            f"{path}: ROUNDED_TO must be said where ACCURACY is 'half' and float32 among DTYPES, and only there, "
            f"got {declared['ROUNDED_TO']!r}"
        )
    return Kernel(
        f"{backend.name}/{path.stem}", backend, path, declared["ALGORITHM"], declared["ACCURACY"],
        declared["ROUNDED_TO"], declared["MAX_FLOPS"], tuple(declared["DTYPES"]), ast.get_docstring(tree) or "",
    )  # fmt: skip


def _backend(name: str) -> Backend:
    backend = name.partition("/")[0]
    if backend not in BACKENDS:
        raise ValueError(f"conv2d: kernel must begin with one of {', '.join(BACKENDS)}, got {name!r}")
    return BACKENDS[backend]


def names(*patterns: str) -> list[str]:
    """Names of all kernels, or of those that match any glob (``numba/*``); usable here or not."""
    every = list(_catalog())
    if not patterns:
        return every
    return [name for name in every if any(fnmatch.fnmatchcase(name, g) for g in patterns)]


def find(name: str) -> Kernel:
    """The kernel of that name, whether or not this machine can run it. ValueError for an unknown name."""
    if not isinstance(name, str):
        raise TypeError(f"conv2d: kernel must be a name, got {type(name).__name__}")
    try:
        return _catalog()[name]
    except KeyError:
        near = difflib.get_close_matches(name, _catalog(), n=3, cutoff=0.4)
        hint = f" (did you mean {' or '.join(near)}?)" if near else ""
        raise ValueError(
            f"conv2d: kernel must be 'auto' or one of convzoo.names(), got {name!r}{hint}"
        ) from None


def load(name: str, path: str | Path | None = None) -> Kernel:
    """The kernel of that name. Raises Unavailable, before its file is imported, where it cannot run.

    With ``path`` the kernel in that file, which need not lie in the catalog; the name begins with the
    backend that it is for.
    """
    kernel = find(name) if path is None else read(Path(path), _backend(name))
    if reason := kernel.backend.why_not():
        raise Unavailable(f"{name} {reason}")
    return kernel
