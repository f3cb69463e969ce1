"""What this process may use of its machine: processors and memory, less where a control group allows less.

Linux has two versions of control groups, and a machine may use both at once. A process lies in one group of
each hierarchy, and the limit of every group above it holds, too.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

ROOT = Path("/")


def cpus() -> int:
    """Processors this process may run on: the affinity mask, cut down by a CPU quota."""
    try:
        count = len(os.sched_getaffinity(0))
    except AttributeError:  # macOS and Windows have no such call
        count = os.cpu_count() or 1
    quota = cpu_quota()
    return max(1, min(count, int(quota + 0.5))) if quota else count


def cpu_quota() -> float | None:
    """CPUs that the control groups allow, or None where there is no limit."""
    found = []
    for group in _groups("cpu"):
        period = _number(group / "cpu.cfs_period_us")
        if period:
            found.append(_number(group / "cpu.cfs_quota_us", -1) / period)
        else:
            words = _words(group / "cpu.max")
            found.append(
                int(words[0]) / int(words[1]) if len(words) == 2 and words[0].isdecimal() else 0
            )
    return min((quota for quota in found if quota > 0), default=None)


def memory() -> int | None:
    """Bytes that this process may hold in memory, or None where the system does not tell."""
    try:
        found = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    except (AttributeError, ValueError, OSError):  # not a POSIX system
        found = []
    for group in _groups("memory"):
        found += [_number(group / name) for name in ("memory.max", "memory.limit_in_bytes")]
    return min((limit for limit in found if limit > 0), default=None)


def _groups(controller: str) -> Iterator[Path]:
    """The folders of this process's control groups that may limit ``controller``, and of all above them."""
    paths = {}  # of the group, by what /proc/self/cgroup calls its hierarchy; version 2 has no name
    for line in _lines(ROOT / "proc/self/cgroup"):
        _, names, path = line.split(":", 2)
        paths |= dict.fromkeys(names.split(","), path)
    for line in _lines(ROOT / "proc/self/mountinfo"):
        where, _, kind = line.partition(" - ")
        kind, _, options = kind.partition(" ")
        name = controller if kind == "cgroup" and controller in options.split()[-1].split(",") else ""
        if (kind != "cgroup2" and not name) or name not in paths:
            continue
        inside, mount = where.split()[3:5]
        folder = top = ROOT / mount.lstrip("/")
        below = os.path.relpath(
            paths[name], inside
        )  # with a namespace of its own, the group is the mount
        if not below.startswith(".."):
            folder = top / below
        yield from (group for group in (folder, *folder.parents) if group.is_relative_to(top))


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(errors="replace").splitlines()
    except OSError:
        return []


def _words(path: Path) -> list[str]:
    return " ".join(_lines(path)).split()


def _number(path: Path, default: int = 0) -> int:
    """The whole number in a file; ``default`` where there is no such file, or "max" in it."""
    try:
        return int("".join(_words(path)))
    except ValueError:
        return default
