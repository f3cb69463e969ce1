"""The profiles cpu, cuda12 and cuda13: their constraints fit what they constrain, and pip can install them.

The slow tests ask pip what it would install (``--dry-run``), from whatever index it is set up with.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

REPOSITORY = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PROFILES = {"cpu": None, "cuda12": "12", "cuda13": "13"}  # and the CUDA major they bring
WITH = ("bench", "report", "fleet", "test", "dev")  # what make installs beside a profile


def plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def needed(profile: str) -> dict[str, Requirement]:
    texts = list(PROJECT["dependencies"])
    for extra in (profile, *WITH, "peers"):
        texts += PROJECT["optional-dependencies"][extra]
    return {plain(r.name): r for r in map(Requirement, texts)}


def pinned(profile: str) -> dict[str, str]:
    text = (REPOSITORY / "constraints" / f"{profile}.txt").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return {plain(name): version for name, _, version in (line.partition("==") for line in lines)}


def majors(names: dict[str, str]) -> set[str]:
    """CUDA majors among distributions, by what NVIDIA and CuPy call theirs."""
    found = {m[1] for name in names if (m := re.search(r"(?:-cu|cuda)(1\d)x?$", name))}
    toolkit = names.get("cuda-toolkit", "").partition(".")[0]
    return found | ({toolkit} if toolkit else set())


@pytest.mark.parametrize("profile", PROFILES)
def test_constraints_pin_all_that_is_asked_for(profile):
    pins = pinned(profile)
    for name, requirement in needed(profile).items():
        assert name in pins, f"constraints/{profile}.txt: lacks {name}"
        assert requirement.specifier.contains(pins[name]), f"{requirement}, pinned to {pins[name]}"


def test_constraints_agree_where_cuda_has_no_say():
    with_cuda = {"torch", "cuda-bindings", "cuda-toolkit"}
    first, *others = ({n: v for n, v in pinned(p).items() if n not in with_cuda} for p in PROFILES)
    for other in others:
        assert {n: v for n, v in other.items() if n in first} == {n: v for n, v in first.items() if n in other}


def test_majors():
    assert majors({"nvidia-cublas-cu12": "12.8", "cupy-cuda13x": "14.2", "torch": "2.15"}) == {"12", "13"}
    assert majors({"cuda-toolkit": "13.2.2", "numba-cuda": "0.30"}) == {"13"}


@pytest.mark.slow
@pytest.mark.parametrize("profile", PROFILES)
def test_pip_resolves_it(profile, tmp_path):
    """About a minute each: pip downloads little more than metadata."""
    report = tmp_path / "report.json"
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--dry-run",
        "--ignore-installed",
        "--quiet",
        "--report",
        str(report),
        "-c",
        str(REPOSITORY / "constraints" / f"{profile}.txt"),
        *map(str, needed(profile).values()),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=900)
    assert done.returncode == 0, done.stderr[-2000:]
    chosen = {
        plain(found["metadata"]["name"]): found["metadata"]["version"].partition("+")[0]
        for found in json.loads(report.read_text(encoding="utf-8"))["install"]
    }
    pins = pinned(profile)
    assert set(needed(profile)) <= set(chosen)
    assert {n: chosen[n] for n in chosen if n in pins} == {n: pins[n] for n in chosen if n in pins}
    if PROFILES[profile]:
        assert majors(chosen) == {PROFILES[profile]}
