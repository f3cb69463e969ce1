"""``python -m tests.gpu_offline [--check]``: the table of GPU code; ``make gpu-offline`` has what it needs."""

import argparse
import sys

from .gpu_code import update

parser = argparse.ArgumentParser(prog="python -m tests.gpu_offline", description=__doc__)
parser.add_argument("--check", action="store_true", help="change nothing; exit 1 where the table is out of date")

if __name__ == "__main__":
    asked = parser.parse_args()
    try:
        sys.exit(update(asked.check))
    except ImportError as error:
        cure = "make gpu-offline, which installs convzoo[gpucheck] in an environment of its own"
        print(f"the GPU code needs {error.name or error}: {cure}", file=sys.stderr)
        sys.exit(2)
