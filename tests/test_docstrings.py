"""The form of a kernel file: its docstring says the same things in the same order in every file."""

from __future__ import annotations

import ast
import itertools
import re
from pathlib import Path

import pytest

from convzoo.catalog import ACCURACIES, ALGORITHMS, DEFAULTS, ROOT

LABELS = ("After", "Idea", "Shapes", "Threads", "Cost", "Limits", "Source")
MANDATORY = {"Idea", "Shapes", "Cost", "Source"}
TEXT = 9  # the column where a label's text starts
WIDTH = 104  # of the first line, which tables and lists show
FILES = {
    f"{path.parent.name}/{path.stem}": path
    for path in sorted(ROOT.glob("*/[!_]*.py"))
    if path.parent.name != "reference"
}

LITERALS = {
    "ALGORITHM": lambda value: value in ALGORITHMS,
    "ACCURACY": lambda value: value in ACCURACIES,
    "MAX_FLOPS": lambda value: value is None or (isinstance(value, (int, float)) and value > 0),
    "DTYPES": lambda value: (
        isinstance(value, tuple) and len(value) > 0 and set(value) <= {*DEFAULTS["DTYPES"], "float16", "bfloat16"}
    ),
}


def faults(source: str, kernels: set[str]) -> list[str]:
    """What is wrong with the form of a kernel file, in words; ``kernels`` are the names After may give."""
    tree = ast.parse(source)
    doc = ast.get_docstring(tree, clean=False)
    if doc is None:
        return ["has no docstring"]
    return [*_docstring(doc, kernels), *_constants(tree), *_order(tree)]


def _docstring(doc: str, kernels: set[str]):
    first, *rest = doc.split("\n")
    if len(first) > WIDTH:
        yield f"first line has more than {WIDTH} characters"
    if not first.endswith(".") or re.search(r"[.!?] [A-Z]", first):
        yield "first line must be one sentence, ended by a full stop"
    if rest[:1] != [""]:
        yield "second line must be empty"
    if rest[-1:] != [""]:
        yield 'the closing """ must stand on a line of its own'
    found = []
    for number, line in enumerate(rest[1:-1], 3):
        if line != line.rstrip():
            yield f"line {number} ends in blanks"
        if not line:
            yield f"line {number} is empty: labels follow one another"
        elif line[0] != " ":
            label = line.split(" ")[0]
            found.append(label)
            if label not in LABELS:
                yield f"line {number} starts with {label!r}, which is not one of {', '.join(LABELS)}"
            elif line[:TEXT] != label.ljust(TEXT) or line[TEXT : TEXT + 1] in ("", " "):
                yield f"line {number}: the text of {label} must start in column {TEXT}"
            elif label == "After" and line[TEXT:].split()[0] not in kernels:
                yield f"After names {line[TEXT:].split()[0]!r}, which is no kernel"
        elif not found:
            yield f"line {number} stands before the first label"
        elif line[:TEXT] != " " * TEXT:
            yield f"line {number} must be indented by {TEXT}"
    if missing := MANDATORY - set(found):
        yield f"lacks {', '.join(sorted(missing))}"
    known = [label for label in found if label in LABELS]
    for a, b in itertools.pairwise(known):
        if LABELS.index(a) >= LABELS.index(b):
            yield f"{b} must stand before {a}" if a != b else f"{a} stands twice"


def _constants(tree: ast.Module):
    """The catalog reads them without importing the file: one plain literal each, at the top level."""
    for node in ast.walk(tree):
        targets = {
            ast.Assign: lambda n: n.targets,
            ast.AnnAssign: lambda n: [n.target],
            ast.AugAssign: lambda n: [n.target],
            ast.NamedExpr: lambda n: [n.target],
        }.get(type(node), lambda n: [])(node)
        for name in [t.id for target in targets for t in ast.walk(target) if isinstance(t, ast.Name)]:
            if name not in LITERALS:
                continue
            if node not in tree.body or not isinstance(node, ast.Assign) or len(targets) != 1:
                yield f"{name} must be a plain assignment at the top level"
                continue
            try:
                value = ast.literal_eval(node.value)
            except ValueError:
                yield f"{name} must be a literal constant"
            else:
                if not LITERALS[name](value):
                    yield f"{name} must not be {value!r}"


def _order(tree: ast.Module):
    """docstring, imports, constants and bodies, plan."""
    *before, last = tree.body
    if not (isinstance(last, ast.FunctionDef) and last.name == "plan"):
        yield "plan must be the last thing in the file"
    elif [a.arg for a in last.args.args] != ["p"]:
        yield "plan must take p alone"
    imports = [isinstance(node, (ast.Import, ast.ImportFrom)) for node in before[1:]]
    if imports != sorted(imports, reverse=True):
        yield "imports must follow the docstring"


@pytest.mark.parametrize("name", FILES)
def test_kernel_file(name):
    found = faults(FILES[name].read_text(encoding="utf-8"), set(FILES))
    assert not found, f"{FILES[name]}: " + "; ".join(found)


def test_there_are_kernel_files():
    assert "numpy/per_channel" in FILES


# --- teeth -------------------------------------------------------------------------------------------

GOOD = '''"""One new thing, said in one sentence.

After    numpy/per_channel   (new here: nothing)
Idea     An idea that needs
         two lines.
Shapes   x[N,C,H,W]
Threads  none
Cost     FLOP   2
            deeper lines are fine
Limits   none
Source   own
"""

import numpy as np

ACCURACY = "elementwise"
TILE = 8 * 2


def _body():
    import math

    return math.pi


def plan(p):
    pass
'''

BAD = {
    "has no docstring": ('"""One', 'x = """One'),
    "first line has more": ("sentence.", "sentence" + " long" * 22 + "."),
    "one sentence": ("sentence.", "sentence. And another."),
    "one sentence, ended": ("sentence.", "sentence"),
    "second line": ("sentence.\n\n", "sentence.\n"),
    "stand on a line of its own": ('own\n"""', 'own"""'),
    "ends in blanks": ("two lines.", "two lines.  "),
    "is empty": ("Shapes", "\nShapes"),
    "'Note'": ("Threads  ", "Note     "),
    "'idea'": ("Idea ", "idea "),
    "text of Idea must start": ("Idea     An", "Idea   An"),
    "text of Shapes must start": ("Shapes   x", "Shapes    x"),
    "text of Source must start": ("Source   own", "Source"),
    "After names 'numpy/nothing'": ("After    numpy/per_channel", "After    numpy/nothing"),
    "before the first label": ("After    numpy/per_channel   (new here: nothing)", "    words"),
    "must be indented": ("         two lines.", "    two lines."),
    "lacks Cost": ("Cost     FLOP   2\n            deeper lines are fine\n", ""),
    "lacks Source": ("Source   own\n", ""),
    "Shapes must stand before Threads": ("Shapes   x[N,C,H,W]\nThreads  none", "Threads  none\nShapes   x[N,C,H,W]"),
    "Limits stands twice": ("Limits   none", "Limits   none\nLimits   more"),
    "literal constant": ('ACCURACY = "elementwise"', "ACCURACY = str()"),
    "must not be 'sloppy'": ('"elementwise"', '"sloppy"'),
    "MAX_FLOPS must not be -1": ("TILE = 8 * 2", "MAX_FLOPS = -1"),
    "MAX_FLOPS must not be '1e6'": ("TILE = 8 * 2", "MAX_FLOPS = '1e6'"),
    "DTYPES must not be ('int8',)": ("TILE = 8 * 2", "DTYPES = ('int8',)"),
    "MAX_FLOPS must be a plain": ("TILE = 8 * 2", "MAX_FLOPS: float = 1e6"),
    "ALGORITHM must be a plain": ("TILE = 8 * 2", "if True:\n    ALGORITHM = 'gemm'"),
    "DTYPES must be a plain": ("TILE = 8 * 2", "MORE = DTYPES = ('float32',)"),
    "plan must be the last": ("def plan(p):", "def plans(p):"),
    "plan must take p alone": ("def plan(p):", "def plan(p, q):"),
    "imports must follow": ("TILE = 8 * 2", "TILE = 8 * 2\nimport math"),
}


def test_good_file_has_no_faults():
    assert faults(GOOD, {"numpy/per_channel"}) == []


@pytest.mark.parametrize("fault, change", BAD.items(), ids=BAD.keys())
def test_bad_file_is_seen(fault, change):
    assert change[0] in GOOD
    found = faults(GOOD.replace(*change), {"numpy/per_channel"})
    assert any(fault in words for words in found), found


def test_checker_reads_the_files_that_the_catalog_reads():
    from convzoo.catalog import _catalog

    assert {Path(kernel.path) for kernel in _catalog().values()} == set(FILES.values())
