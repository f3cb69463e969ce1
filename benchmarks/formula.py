"""What a kernel's docstring says that it costs, and the number where that is written as a formula.

The Cost label has a line for FLOP and one for bytes, either a formula in the letters of the problem
(``2·N·K·P·Q·C/G·R·S``), prose, or prose that ends in one. Only a formula that stands for the whole line has a
value; everything else is shown as it is written.
"""

from __future__ import annotations

import ast
import math
import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

Number = int | float | Fraction


@dataclass(frozen=True)
class Cost:
    """One line of the Cost label; ``value`` is None where its text is prose."""

    text: str
    value: int | float | None


def costs(doc: str, problem: Any) -> dict[str, Cost]:
    """The lines of the Cost label by name, ``FLOP`` and ``bytes``; ``with`` holds what stands before."""
    names = names_of(problem)
    found: dict[str, Cost] = {}
    for key, text in _lines(doc).items():
        shown = re.sub(r"\s+", " ", re.sub(r"\s{2,}(?=\w+ = )", ", ", text))
        found[key] = Cost(shown, None if key == "with" else _value(text, names))
    return found


def names_of(p: Any) -> dict[str, Number]:
    """What a formula may name. ``stride`` and ``dilation`` alone only where both directions agree."""
    names: dict[str, Number] = {letter: getattr(p, letter) for letter in "NCHWKRSPQ"}
    names |= {"G": p.groups, "itemsize": p.itemsize, "taps": p.taps}
    names |= {"p.min_bytes": p.min_bytes, "p.flops": p.flops}
    for name in ("stride", "dilation"):
        h, w = getattr(p, name)
        names |= {f"{name}_h": h, f"{name}_w": w}
        if h == w:
            names[name] = h
    return names | dict(zip(("top", "bottom", "left", "right"), p.padding, strict=True))


def _lines(doc: str) -> dict[str, str]:
    """The text after each word FLOP or bytes under Cost; further lines are joined by one blank."""
    label = re.search(r"^Cost {5}(.*(?:\n {9}.*)*)", doc, re.MULTILINE)
    found: dict[str, str] = {}
    key = "with"
    for line in label[1].split("\n") if label else []:
        text = line.removeprefix(" " * 9)
        if start := re.match(r"(FLOP|bytes)\s+", text):
            key, text = start[1], text[start.end() :]
        found[key] = f"{found[key]} {text.strip()}" if key in found else text.strip()
    return found


def _value(text: str, names: Mapping[str, Number]) -> int | float | None:
    """The number of a line ``[prose: ]formula[  name = formula][  (prose)][, prose]``, or None."""
    main, *beside = re.split(r"\s{2,}", text)
    known = dict(names)
    for part in beside:
        if definition := re.fullmatch(r"([A-Za-z]\w*) = (.+)", part):
            value = evaluate(definition[2], known)
            if value is None:
                return None
            known[definition[1]] = value
        elif not re.fullmatch(r"\(.*\)", part):
            return None
    if ";" in main:
        return None
    formula, rest = _head(main.rpartition(": ")[2], known)
    if not re.search(r"[·/]|p\.", formula) or "·" in rest:
        return None
    return evaluate(formula, known)


_TOKEN = re.compile(r"\s*(?:(?P<number>\d+(?:\.\d+)?)|(?P<name>[A-Za-z][\w.']*)|(?P<sign>[-·×*/+()⌈⌉⌊⌋,²³]))")
_FUNCTIONS: dict[str, Callable[..., Number]] = {
    "ceil": math.ceil,
    "floor": math.floor,
    "log2": math.log2,
    "min": min,
    "max": max,
}


def _head(text: str, names: Mapping[str, Number]) -> tuple[str, str]:
    """The longest beginning that can be a formula, and the words after it."""
    end, depth = 0, 0
    while token := _TOKEN.match(text, end):
        if token["name"] and token["name"].rstrip(".") not in (*names, *_FUNCTIONS):
            break
        depth += {"(": 1, ")": -1}.get(token["sign"] or "", 0)
        if token["sign"] == "," and depth == 0:
            break  # a comma of the sentence, not between arguments
        end = token.end()
    return text[:end].rstrip(". "), text[end:]


_OPERATORS: dict[type, Callable[[Any, Any], Number]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: operator.pow,
}
_PYTHON = str.maketrans({"·": "*", "×": "*", "⌈": "ceil(", "⌉": ")", "⌊": "floor(", "⌋": ")", "²": "**2", "³": "**3"})


def evaluate(formula: str, names: Mapping[str, Number]) -> int | float | None:
    """The value of a formula of numbers, names, + - · × / ( ) ⌈ ⌉ ⌊ ⌋ ² ³ and log2; None if it is none.

    Division is exact, so that ``⌈P/16⌉`` is what it says.
    """
    try:
        tree = ast.parse(formula.translate(_PYTHON).strip(), mode="eval")
        value = _visit(tree.body, names)
    except (SyntaxError, KeyError, TypeError, ValueError, ArithmeticError):
        return None
    return int(value) if value == int(value) else float(value)


def _visit(node: ast.expr, names: Mapping[str, Number]) -> Number:
    """Value of a node; KeyError or TypeError for whatever is no part of a formula."""
    match node:
        case ast.Constant(value=int() as number):
            return Fraction(number)
        case ast.Constant(value=float() as number):
            return number
        case ast.Name() | ast.Attribute():
            value = names[ast.unparse(node)]
            return Fraction(value) if isinstance(value, int) else value
        case ast.UnaryOp(op=ast.USub()):
            return -_visit(node.operand, names)
        case ast.BinOp(left=left, op=op, right=right) if not (
            isinstance(op, ast.Pow) and ast.unparse(right) not in ("2", "3")
        ):
            return _OPERATORS[type(op)](_visit(left, names), _visit(right, names))
        case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]):
            return _FUNCTIONS[name](*(_visit(a, names) for a in arguments))
    raise TypeError(f"no part of a formula: {ast.unparse(node)}")
