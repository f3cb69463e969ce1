"""Which commit a record names: convzoo's own, and never that of somebody's repository around it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ASK = "from benchmarks import record; c = record.commit(); print(c['commit'], c['dirty'])"
pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="needs git")


def asked(at: Path, **environment: str) -> list[str]:
    env = {k: v for k, v in os.environ.items() if k != "CONVZOO_COMMIT"}
    env |= {"PYTHONPATH": f"{at / 'kernels'}{os.pathsep}{at}"} | environment
    done = subprocess.run([sys.executable, "-c", ASK], env=env, cwd=at, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def git(at: Path, *arguments: str) -> str:
    command = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-C", str(at), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def copied(into: Path) -> Path:
    for part in ("kernels", "benchmarks"):
        shutil.copytree(ROOT / part, into / part, ignore=shutil.ignore_patterns("__pycache__"))
    return into


@pytest.fixture
def theirs(tmp_path) -> Path:
    """Somebody's repository with convzoo unpacked inside."""
    git(tmp_path, "init", "-q")
    copied(tmp_path / "vendor")
    git(tmp_path, "add", "vendor/kernels/convzoo/__init__.py")
    git(tmp_path, "commit", "-q", "-m", "somebody's")
    return tmp_path / "vendor"


def test_a_repository_around_this_folder_is_not_ours(theirs):
    assert asked(theirs) == ["unknown", "True"]
    assert asked(theirs, CONVZOO_COMMIT="a" * 40) == ["a" * 40, "False"]
    (theirs / "COMMIT").write_text("b" * 40 + "\n")
    assert asked(theirs) == ["b" * 40, "False"]


@pytest.mark.parametrize("name", ["GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_COMMON_DIR", "GIT_NAMESPACE"])
def test_what_a_hook_has_set_does_not_matter(theirs, tmp_path_factory, name):
    own = copied(tmp_path_factory.mktemp("own"))
    git(own, "init", "-q")
    git(own, "add", ".")
    git(own, "commit", "-q", "-m", "ours")
    head = git(own, "rev-parse", "HEAD")
    assert asked(own, **{name: str(theirs.parent / ".git")}) == [head, "False"]
    assert asked(own, GIT_TEST_ASSUME_DIFFERENT_OWNER="1") == [head, "False"], "a checkout of another user"
