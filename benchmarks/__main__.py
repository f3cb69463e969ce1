"""``python -m benchmarks``: what can be asked of the kernels; ``--help`` lists the verbs.

Exit codes: 0 fine; 1 an output was wrong, or with regress slower, or with reproduce not as published;
2 something failed to run, or nothing could run; 3 wrong usage; 130 ended by Ctrl-C, with everything that was
finished kept.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from typing import NoReturn

from . import options
from .verbs import FAILED, INTERRUPTED, USAGE

VERBS = {
    "list": "every kernel: algorithm, guarantee, usable here or why not",
    "check": "the verdict on kernels' outputs, without timing",
    "compare": "time kernels against each other, each output judged before and after",
    "fleet": "the same sweep over many hosts, on Dask distributed",
    "cost": "what kernels cost before they are fast, cold and warm, and when that pays off",
    "regress": "did it get slower or wrong? two commits, or two versions of a library",
    "history": "steps in the committed asv results: commit, cell and size",
    "selftest": "are wrong kernels caught here, and right ones let through?",
    "explain": "one kernel on one problem: time, what it should cost, ceilings, what ran",
    "trace": "the convolutions of your own network, as a file that is named where a set is",
    "reproduce": "are published times so here? random cells of a record, measured again",
    "doctor": "this machine: hardware, libraries, threads, what would spoil timings",
    "machine": "write machines/<name>.json and tell asv about this machine",
    "export": "write a record's cells as asv results",
    "gpu": "tests, sanitizer and timings on a CUDA machine that reaches no network",
}


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(USAGE, f"{self.prog}: {message}\n")


def main(argv: list[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    top = Parser(prog="python -m benchmarks", description="Ask the kernels: right? how fast? where?")
    verbs = top.add_subparsers(dest="verb", required=True, metavar="VERB", parser_class=Parser)
    for name, text in VERBS.items():
        p = verbs.add_parser(name, help=text, description=text)
        p.add_argument("--json", action="store_true", help="one JSON document on standard output")
        if name in argv[:1]:
            room = importlib.import_module(f".verbs.{name}", __package__)
            room.options(p)
            p.set_defaults(call=room.call)
    args = top.parse_args(argv)
    if reason := options.too_many(args):
        top.exit(USAGE, f"python -m benchmarks {args.verb}: {reason}\n")
    try:
        return args.call(args)
    except (ValueError, FileNotFoundError) as error:
        top.exit(USAGE, f"python -m benchmarks {args.verb}: {error}\n")
    except OSError as error:
        top.exit(FAILED, f"python -m benchmarks {args.verb}: {error}\n")
    except KeyboardInterrupt:
        return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
