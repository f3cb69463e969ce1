"""``python -m reports``: what the records say; ``--help`` lists the verbs.

Exit codes: 0 fine; 1 a mismatch (the layer is too far from torch, a committed file is out of date, or a
file was refused); 2 something is missing here or cannot be used; 3 wrong usage, or a file that cannot be used.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from .merge import Verdict

FINE, MISMATCH, MISSING, USAGE = 0, 1, 2, 3
ROOM = Path(__file__).resolve().parent
GUARANTEES = ("elementwise", "tilewise", "normwise", "tf32", "half")

GPU_TABLE = ROOM / "gpu_code.json"


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(USAGE, f"{self.prog}: {message}\n")


def natural(word: str) -> int:
    value = int(word)
    if value < 0:
        raise ValueError
    return value


natural.__name__ = "whole number of 0 or more"  # argparse puts it into its sentence


def parser() -> Parser:
    top = Parser(prog="python -m reports", description="What the records say.")
    verbs = top.add_subparsers(dest="verb", required=True, metavar="VERB", parser_class=Parser)

    text = "take one layer apart on a photograph, and compare the sum of its parts with torch"
    p = verbs.add_parser("decompose", help=text, description=text)
    p.add_argument("image", nargs="?", type=Path, metavar="IMAGE", help="default: a sample photograph")
    p.add_argument("--kernel", metavar="NAME", default="numpy/per_channel", help="default: %(default)s")
    p.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        default=Path("decomposition.png"),
        help="a .png, .svg or .pdf file; default: %(default)s",
    )
    p.add_argument("--seed", type=natural, metavar="N", default=0, help="of the weights; default: 0")

    text = "the report of everything committed here: one HTML page, Markdown with figures, CSV, JSON"
    p = verbs.add_parser("build", help=text, description=text)
    p.add_argument("--out", type=Path, metavar="DIR", help="default: reports, and the table of README.md")
    p.add_argument("--room", type=Path, metavar="DIR", default=ROOM, help="default: reports")
    p.add_argument("--check", action="store_true", help="write nothing; exit 1 if a file is out of date")

    text = "the same report of one record or several alone, and of documents of regress --json"
    p = verbs.add_parser("render", help=text, description=text)
    p.add_argument("records", nargs="*", metavar="RECORD|REGRESS.json", help="files or names; default: every record")
    p.add_argument("--out", type=Path, metavar="DIR", help="default: reports/out/<record>/")

    text = "take records, machine files and asv results of another machine into this repository"
    p = verbs.add_parser("import", help=text, description=text)
    p.add_argument("paths", nargs="+", type=Path, metavar="DIR|FILE")
    p.add_argument("--into", type=Path, metavar="DIR", default=ROOM, help="default: reports")
    p.add_argument("--dry-run", action="store_true", help="say what would happen, write nothing")
    p.add_argument("--json", action="store_true", help="one JSON document on standard output")

    text = "move records of this machine, which lie in reports/out, to those that git keeps, after the checks of import"
    p = verbs.add_parser("publish", help=text, description=text)
    p.add_argument("records", nargs="+", metavar="RECORD", help="files, or names of records and machines")
    p.add_argument("--into", type=Path, metavar="DIR", default=ROOM, help="default: reports")
    p.add_argument("--dry-run", action="store_true", help="say what would happen, write nothing")
    p.add_argument("--json", action="store_true", help="one JSON document on standard output")

    text = "write the page that retells the seed: its code runs, its times come from a record"
    p = verbs.add_parser("retell", help=text, description=text)
    p.add_argument("--record", type=Path, metavar="RECORD.jsonl", help="default: the newest that has the layer")
    p.add_argument("--out", type=Path, metavar="FILE", default=ROOM / "seed.md", help="default: reports/seed.md")
    p.add_argument("--check", action="store_true", help="change nothing; exit 1 if the page is out of date")

    text = "which kernel for these layers: the fastest with that guarantee, by how much, how sure"
    p = verbs.add_parser("pick", help=text, description=text)
    p.add_argument("problems", metavar="PROBLEM|SET|FILE", help="a problem, a set in the records, or a file of layers")
    p.add_argument("--accuracy", choices=GUARANTEES, default="elementwise", help="at least; default: %(default)s")
    p.add_argument("--scenario", choices=("packed", "eager"), default="packed", help="default: %(default)s")
    p.add_argument("--layout", choices=("nchw", "nhwc"), help="default: as the problems say")
    p.add_argument("--batch", type=natural, metavar="N", help="default: as the problems say")
    p.add_argument("--machine", metavar="NAME", help="default: each that has records")
    p.add_argument("--records", type=Path, metavar="DIR", help="default: reports/out and reports/records")
    p.add_argument("--json", action="store_true", help="one JSON document on standard output")

    text = "write the page on GPU code, gpu_code.md, beside its table"
    p = verbs.add_parser("gpu-code", help=text, description=text)
    p.add_argument("table", nargs="?", type=Path, metavar="gpu_code.json", default=GPU_TABLE)
    p.add_argument("--check", action="store_true", help="change nothing; exit 1 if it is out of date")
    return top


def decompose(args: argparse.Namespace) -> int:
    from .decompose import decompose

    return decompose(args.image, args.kernel, args.out, args.seed)


def build(args: argparse.Namespace) -> int:
    from .build import committed, stale, written
    from .markdown import readme_table, replaced

    room, out = args.room.resolve(), (args.out or args.room).resolve()
    found, content = committed(room, out)
    for why in found.left_out:
        print(f"left out: {why}", file=sys.stderr)
    readme = room.parent / "README.md"
    before = after = b""
    if args.out is None:  # the report is where it belongs, and so the README speaks of it
        before, after = replaced(readme, readme_table(found.runs))
    if args.check:
        old = stale(content, out) + ([str(readme)] if before != after else [])
        for name in old:
            print(f"{name} is out of date; to write it: python -m reports build", file=sys.stderr)
        return MISMATCH if old else FINE
    paths = written(content, out)
    if before != after:
        readme.write_bytes(after)
        paths.append(readme)
    print(*paths, sep="\n")
    return MISSING if found.left_out else FINE


def render(args: argparse.Namespace) -> int:
    from benchmarks.record import OWN, named

    from .build import of_findings, written
    from .collect import EVERY, collect, records_in
    from .values import Unreadable

    try:
        records = [path for word in args.records for path in named(word)] if args.records else records_in(*EVERY)
    except FileNotFoundError as error:
        raise Unreadable(str(error)) from None
    found = collect(records)
    if found.left_out and args.records:  # a record that was named must be one
        raise Unreadable(found.left_out[0])
    out = args.out or OWN / (folder_of(records) if args.records else "all")
    print(*written(of_findings(found), out), sep="\n")
    return FINE


def folder_of(records: list[Path]) -> str:
    name = "".join(c if c.isalnum() or c in "-_" else "-" for c in records[0].stem) or "record"
    return name if len(records) == 1 else f"{name}-and-{len(records) - 1}-more"


def import_(args: argparse.Namespace) -> int:
    from .merge import merge

    return _taken(args, merge(args.paths, args.into, args.dry_run))


def publish(args: argparse.Namespace) -> int:
    from .merge import publish

    return _taken(args, publish(args.records, args.into, args.dry_run))


def _taken(args: argparse.Namespace, verdicts: list[Verdict]) -> int:
    from .merge import told

    fine, trouble = told(verdicts, args.dry_run)
    if args.json:
        files = [
            {
                "path": str(v.path),
                "kind": v.kind,
                "status": v.status,
                "why": v.why,
                "to": str(v.to) if v.to else None,
                "notes": v.notes,
            }
            for v in verdicts
        ]
        emit(args.verb, {"dry_run": args.dry_run, "files": files})
    else:
        print(*fine, sep="\n")
    print(*trouble, sep="\n", end="\n" if trouble else "", file=sys.stderr)
    if not verdicts:
        return MISSING
    return MISMATCH if trouble else FINE


def retell(args: argparse.Namespace) -> int:
    from .retell import Failed, newest, page, written_from
    from .values import Unreadable

    here = args.out.read_text(encoding="utf-8") if args.check else ""
    if args.record:
        record = args.record.resolve()
    elif args.check:
        record = ROOM / (written_from(here) or "no record named in its first line")
        if not record.is_file():
            raise Unreadable(f"{args.out} was written from {record}, which is not there: retell writes it anew")
    else:
        record = newest(ROOM / "records")
    name = record.relative_to(ROOM) if record.is_relative_to(ROOM) else record
    try:
        text = page(record, name.as_posix())
    except Failed as error:
        print(f"python -m reports retell: {error}", file=sys.stderr)
        return MISMATCH
    except ImportError as error:
        sentence = f"the page needs {error.name}: pip install 'convzoo[cpu]'"
        print(f"python -m reports retell: {sentence}", file=sys.stderr)
        return MISSING
    if args.check and text == here:
        print(f"{args.out} is up to date")
        return FINE
    if args.check:
        print(f"{args.out} is out of date; to write it: python -m reports retell", file=sys.stderr)
        return MISMATCH
    args.out.write_text(text, encoding="utf-8", newline="\n")
    print(f"{args.out} written")
    return FINE


def pick(args: argparse.Namespace) -> int:
    from . import advice
    from .collect import EVERY, collect, records_in
    from .pick import answer, wish
    from .values import Unreadable

    found = collect(records_in(*([args.records] if args.records else EVERY)))
    for why in found.left_out:
        print(f"left out: {why}", file=sys.stderr)
    names = list(dict.fromkeys(run.machine for run in found.runs))
    if not names:
        raise Unreadable(f"{args.records or ROOM / 'records'} holds no record: python -m benchmarks compare makes one")
    if args.machine not in (None, *names):
        raise Unreadable(f"there is no record of machine {args.machine}; there are {', '.join(names)}")
    wanted = wish(args.problems, found.runs, args.accuracy, args.scenario, args.layout, args.batch)
    answers = [answer(run, wanted) for run in found.runs if args.machine in (None, run.machine)]
    if args.json:
        asked = {k: getattr(wanted, k) for k in ("word", "accuracy", "scenario")}
        emit("pick", {"asked": asked, "machines": answers})
    else:
        print(advice.page(answers, wanted))
    return FINE if any(x["kernel"] for a in answers for x in a["layers"]) else MISSING


def emit(schema: str, document: dict[str, Any]) -> None:
    print(json.dumps({"schema": f"convzoo.{schema}/1", **document}, indent=1, allow_nan=False))


def gpu_code(args: argparse.Namespace) -> int:
    from .gpu_code import load, page

    file, text = args.table.with_suffix(".md"), page(load(args.table))
    if file.exists() and file.read_text(encoding="utf-8") == text:
        print(f"{file} is up to date")
        return FINE
    if args.check:
        print(f"{file} is out of date; to write it: python -m reports gpu-code", file=sys.stderr)
        return MISMATCH
    file.write_text(text, encoding="utf-8")
    print(f"{file} written")
    return FINE


VERBS = {
    "build": build,
    "decompose": decompose,
    "gpu-code": gpu_code,
    "import": import_,
    "pick": pick,
    "publish": publish,
    "render": render,
    "retell": retell,
}


def main(argv: list[str] | None = None) -> int:
    top = parser()
    args = top.parse_args(argv)
    from .values import Unreadable

    try:
        return VERBS[args.verb](args)
    except Unreadable as error:
        top.exit(USAGE, f"python -m reports {args.verb}: {error}\n")
    except BrokenPipeError:  # the reader, as head does, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FINE
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        where = f"{error.filename}: " if error.filename else ""
        top.exit(USAGE, f"python -m reports {args.verb}: {where}{reason}\n")
    except ImportError as error:
        needs = (error.name or str(error)).partition(".")[0]
        sentence = f"needs {needs}: pip install 'convzoo[report]'"
        top.exit(MISSING, f"python -m reports {args.verb}: {sentence}\n")


if __name__ == "__main__":
    sys.exit(main())
