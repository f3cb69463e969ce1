"""The data caches of this machine: what a block of work may fill, and how fast the last level answers.

Linux tells the sizes; elsewhere they are those of a common desktop. How far the last level is no system
tells, but sizes do: a core that shares 64 MB or more with many others has a second level of its own that is
large, because the way to the shared one is long (Intel's servers); small ones lie beside their cores (AMD's, desktops).
"""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

UNITS = {"K": 2**10, "M": 2**20, "G": 2**30}
FAR = 2**26  # bytes of a last level from which on it is far


@dataclass(frozen=True)
class Caches:
    """Bytes of each level that a core can use."""

    L1: int = 2**15
    L2: int = 2**19
    L3: int = 2**23

    @property
    def rate(self) -> int:
        """Bytes a cycle that a core reads from the last level: 8 measured on Intel (Emerald Rapids), 24 on a Zen 4."""
        return 6 if self.L3 >= FAR else 20


def told(folder: str = "/sys/devices/system/cpu/cpu0/cache") -> dict[str, str]:
    """The sizes as Linux writes them, {"L2": "2048K"}: data caches only; empty elsewhere."""
    found = {}
    for index in sorted(Path(folder).glob("index*")):
        try:
            level, kind, size = (
                (index / name).read_text().strip() for name in ("level", "type", "size")
            )
        except OSError:
            continue
        if kind != "Instruction":
            found[f"L{level}"] = size
    return found


@cache
def here() -> Caches:
    """Those of the machine that this runs on."""
    sizes = {level: int(size[:-1]) * UNITS[size[-1]] for level, size in told().items()}
    return Caches(**{level: sizes[level] for level in ("L1", "L2", "L3") if level in sizes})
