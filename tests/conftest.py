"""Options and fixtures of the suite. Kernels are found through ``convzoo.names()``, never by a list."""

from __future__ import annotations

import fnmatch
import importlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trial
from hypothesis import HealthCheck, settings

import convzoo
from convzoo import catalog
from convzoo.backends import BACKENDS
from convzoo.catalog import find

REPOSITORY = Path(__file__).resolve().parent.parent

# Numba warns that small problems leave a GPU idle. They are meant to be small, and warnings are errors.
os.environ.setdefault("NUMBA_CUDA_LOW_OCCUPANCY_WARNINGS", "0")

# "quick" draws the same examples on every run and machine; --hypothesis-profile=long draws new ones.
_ANY_FIXTURE = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
settings.register_profile("quick", max_examples=25, derandomize=True, deadline=None, suppress_health_check=_ANY_FIXTURE)
settings.register_profile("long", max_examples=1000, deadline=None, suppress_health_check=_ANY_FIXTURE, print_blob=True)
settings.load_profile("quick")


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("convzoo")
    group.addoption(
        "--require",
        default="",
        metavar="BACKENDS",
        help="backends that must be usable here, by comma: a skip because one is not becomes a failure",
    )
    group.addoption(
        "--kernels",
        default="*",
        metavar="GLOBS",
        help="only kernels whose name matches one of these, by comma: 'numba/*,numpy/fft'",
    )
    group.addoption(
        "--kills",
        type=int,
        default=50,
        metavar="N",
        help="how often the slow robustness test kills a coordinator or a worker",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "kernels(glob): give the test only kernels of that name")
    unknown = _required(config) - set(BACKENDS)
    if unknown:
        raise pytest.UsageError(
            f"--require must name backends ({', '.join(BACKENDS)}), got {', '.join(sorted(unknown))}"
        )


def _required(config: pytest.Config) -> set[str]:
    return {name.strip() for name in config.getoption("--require").split(",") if name.strip()}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Every kernel, usable here or not, for a test that asks for ``kernel`` or ``kernel_name``."""
    if "kernel_name" not in metafunc.fixturenames:
        return
    globs = [glob.strip() for glob in metafunc.config.getoption("--kernels").split(",")]
    wanted = convzoo.names(*globs)
    for mark in metafunc.definition.iter_markers("kernels"):
        wanted = [name for name in wanted if fnmatch.fnmatchcase(name, mark.args[0])]
    metafunc.parametrize("kernel_name", wanted)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what this machine cannot run. Here, not in the fixture: the summary has one line a kernel."""
    name = getattr(getattr(item, "callspec", None), "params", {}).get("kernel_name")
    if name is None or "kernel" not in item.fixturenames:  # type: ignore[attr-defined]
        return
    kernel = find(name)
    if reason := kernel.backend.why_not():
        if kernel.backend.name in _required(item.config):
            pytest.fail(f"--require {kernel.backend.name}: {kernel.name} {reason}", pytrace=False)
        pytest.skip(f"{kernel.name} {reason}")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo) -> Any:
    """Every failure of a kernel ends with the line that repeats it."""
    report = yield
    params = getattr(getattr(item, "callspec", None), "params", {})
    if report.failed and call.when == "call":
        line = f'repeat: python -m pytest "{item.nodeid}"'
        if isinstance(params.get("kernel_name"), str) and isinstance(params.get("p"), convzoo.Conv2d):
            line += "\n" + trial.repeat(params["kernel_name"], params["p"])
        report.sections.append(("how to repeat it", line))
    return report


@pytest.fixture
def kernel(kernel_name: str) -> Any:
    """A kernel that this machine can run."""
    return convzoo.load(kernel_name)


@pytest.fixture(scope="session")
def build_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where CUDA sources compiled for the CPU lie, each built once for all tests."""
    if shutil.which("g++") is None:
        pytest.skip("needs g++ to compile CUDA sources for the CPU")
    return tmp_path_factory.mktemp("cuda_on_cpu")


@pytest.fixture
def drop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, str, str], Path]]:
    """``drop(folder, stem, source)`` adds a kernel file to a catalog of its own."""
    monkeypatch.setattr(catalog, "ROOT", tmp_path)
    catalog._catalog.cache_clear()

    def dropped(folder: str, stem: str, source: str) -> Path:
        path = tmp_path / folder / f"{stem}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(source, encoding="utf-8")
        package = importlib.import_module(f"convzoo.{folder}")
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(path.parent)])
        monkeypatch.delattr(package, stem, raising=False)
        monkeypatch.delitem(sys.modules, f"convzoo.{folder}.{stem}", raising=False)
        importlib.invalidate_caches()
        catalog._catalog.cache_clear()
        return path

    yield dropped
    monkeypatch.undo()
    catalog._catalog.cache_clear()


@pytest.fixture(scope="module")
def clean_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A committed copy of the tree: only what is committed can be resumed."""
    root = tmp_path_factory.mktemp("clean") / "tree"
    root.mkdir()
    for name in ("kernels", "benchmarks"):
        subprocess.run(["cp", "-r", str(REPOSITORY / name), str(root / name)], check=True)
    (root / ".gitignore").write_text("__pycache__/\n")
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@example.org"]
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "all"]):
        subprocess.run([*git, *command], cwd=root, check=True)
    return root


def pytest_terminal_summary(terminalreporter: Any) -> None:
    if trial.refused:
        each = ", ".join(f"{name} {n}" for name, n in sorted(trial.refused.items()))
        terminalreporter.write_line(f"problems refused by the kernel itself: {each}")
