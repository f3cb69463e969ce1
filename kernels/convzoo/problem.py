"""The vocabulary: ``Conv2d`` names one convolution, and nothing here needs more than Python itself.

The operation, for every n, k, p, q::

    y[n,k,p,q] = b[k] + sum over c, r, s of
                 x[n, g*C/G + c, p*stride_h + r*dilation_h - top, q*stride_w + s*dilation_w - left] * w[k,c,r,s]

where g = k // (K/G) is the group of output channel k and x is 0 outside the image.

Glossary (the letters of cuDNN and CUTLASS; every file of this project uses them)
    N C H W       images in the batch, input channels, height, width
    K R S         output channels, filter height, filter width
    P Q           output height, output width
    G             groups: output channel k sees only the C/G input channels of its group
    x w b y       input, weights, bias, output
    n c h w k r s p q g    the loop indices that go with them
"""

from __future__ import annotations

import json
import operator
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

DTYPES = {"float32": "f32", "float64": "f64", "float16": "f16", "bfloat16": "bf16"}
ITEMSIZE = {"float32": 4, "float64": 8, "float16": 2, "bfloat16": 2}
LAYOUTS = ("nchw", "nhwc")


def whole(name: str, value: object) -> int:
    """``value`` as an int; TypeError for anything that is not a whole number (bool and 1.0 included)."""
    if type(value) is int:
        return value
    if not isinstance(value, bool):
        try:
            return operator.index(value)  # type: ignore[arg-type]
        except TypeError:
            pass
    raise TypeError(f"conv2d: {name} must be an int, got {value!r}")


def pair(name: str, value: object) -> tuple[int, int]:
    """``value`` as (h, w): an int counts for both. TypeError for a wrong kind, ValueError for a wrong length."""
    if type(value) is int:
        return (value, value)
    if isinstance(value, (tuple, list)):
        if len(value) != 2:
            raise ValueError(f"conv2d: {name} must be an int or a pair of ints, got {value!r}")
        h, w = value
    else:
        h = w = value
    try:
        return (whole(name, h), whole(name, w))
    except TypeError:
        raise TypeError(f"conv2d: {name} must be an int or a pair of ints, got {value!r}") from None


@dataclass(frozen=True)
class Conv2d:
    """One convolution: shapes, stride, padding, dilation, groups, bias, dtype and layout.

    ``stride`` and ``dilation`` are (h, w), ``padding`` is (top, bottom, left, right); an int counts for
    all sides. ``layout="nhwc"`` means that x has shape (N, H, W, C) and y (N, P, Q, K), both
    C-contiguous; w is (K, C/G, R, S) in either layout.

    ``str(p)`` is a short name that carries every value that is not the default; ``Conv2d.parse`` reads it
    back. Raises TypeError for a wrong kind and ValueError for a wrong value.
    """

    N: int
    C: int
    H: int
    W: int
    K: int
    R: int
    S: int
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    bias: bool = True
    dtype: str = "float32"
    layout: str = "nchw"

    def __post_init__(self) -> None:
        def put(name: str, value: object) -> None:
            object.__setattr__(self, name, value)

        for name in "NCHWKRS":
            put(name, whole(name, getattr(self, name)))
            if getattr(self, name) < 0:
                raise ValueError(f"conv2d: {name} must be >= 0, got {getattr(self, name)}")
        put("stride", pair("stride", self.stride))
        put("dilation", pair("dilation", self.dilation))
        put("padding", self._four_sides(self.padding))
        put("groups", whole("groups", self.groups))
        put("bias", bool(self.bias))
        self._check_values()

    @staticmethod
    def _four_sides(value: object) -> tuple[int, ...]:
        if isinstance(value, (tuple, list)) and len(value) == 4:
            return tuple(whole("padding", v) for v in value)
        h, w = pair("padding", value)
        return (h, h, w, w)

    def _check_values(self) -> None:
        """The rules on values, in the order in which a user is told of them."""
        if self.dtype not in DTYPES:
            raise ValueError(f"conv2d: dtype must be one of {', '.join(DTYPES)}, got {self.dtype!r}")
        if self.layout not in LAYOUTS:
            raise ValueError(f"conv2d: layout must be 'nchw' or 'nhwc', got {self.layout!r}")
        for name in ("stride", "dilation"):
            if min(getattr(self, name)) < 1:
                raise ValueError(f"conv2d: {name} must be >= 1, got {getattr(self, name)}")
        if min(self.padding) < 0:
            raise ValueError(f"conv2d: padding must be >= 0, got {self.padding}")
        for name in ("stride", "dilation", "padding"):
            if max(getattr(self, name)) >= 2**60:
                raise ValueError(f"conv2d: {name} must be below 2**60, got {getattr(self, name)}")
        if self.groups < 1:
            raise ValueError(f"conv2d: groups must be >= 1, got {self.groups}")
        if self.R == 0 or self.S == 0:
            raise ValueError(f"conv2d: kernel must not be empty, got {self.R}x{self.S}")
        for name in "CK":
            if getattr(self, name) % self.groups:
                raise ValueError(
                    f"conv2d: groups must divide {name}, got groups={self.groups} and "
                    f"{name}={getattr(self, name)}"
                )
        (high, wide), (tall, broad) = self.extent, self.padded
        if high > tall or wide > broad:
            raise ValueError(
                f"conv2d: kernel extent must not exceed the padded input, got kernel extent "
                f"{high}x{wide} and padded input {tall}x{broad}"
            )
        shapes = {"x": self.x_shape, "w": self.w_shape, "y": self.y_shape}
        shapes |= {"the padded x": (self.N, self.C, tall, broad)}
        for name, shape in shapes.items():
            if _product(tuple(filter(None, shape))) >= 2**60:  # an empty array's other sizes count, too
                raise ValueError(f"conv2d: {name} must have fewer than 2**60 elements, got {shape}")

    @property
    def extent(self) -> tuple[int, int]:
        """Height and width that the dilated filter spans."""
        return (self.dilation[0] * (self.R - 1) + 1, self.dilation[1] * (self.S - 1) + 1)

    @property
    def padded(self) -> tuple[int, int]:
        """Height and width of one padded input channel."""
        top, bottom, left, right = self.padding
        return (self.H + top + bottom, self.W + left + right)

    @property
    def P(self) -> int:
        return (self.padded[0] - self.extent[0]) // self.stride[0] + 1

    @property
    def Q(self) -> int:
        return (self.padded[1] - self.extent[1]) // self.stride[1] + 1

    @property
    def x_shape(self) -> tuple[int, int, int, int]:
        if self.layout == "nhwc":
            return (self.N, self.H, self.W, self.C)
        return (self.N, self.C, self.H, self.W)

    @property
    def w_shape(self) -> tuple[int, int, int, int]:
        return (self.K, self.C // self.groups, self.R, self.S)

    @property
    def y_shape(self) -> tuple[int, int, int, int]:
        if self.layout == "nhwc":
            return (self.N, self.P, self.Q, self.K)
        return (self.N, self.K, self.P, self.Q)

    @property
    def taps(self) -> int:
        """Products in one output: C/G * R * S."""
        return self.C // self.groups * self.R * self.S

    @property
    def itemsize(self) -> int:
        return ITEMSIZE[self.dtype]

    @property
    def flops(self) -> int:
        """Floating-point operations of the definition: one multiply and one add per tap and output."""
        return 2 * self.N * self.K * self.P * self.Q * self.taps

    @property
    def min_bytes(self) -> int:
        """Compulsory traffic: x, w and b read once, y written once."""
        elements = _product(self.x_shape) + _product(self.w_shape) + _product(self.y_shape)
        return self.itemsize * (elements + (self.K if self.bias else 0))

    def __str__(self) -> str:
        text = "".join(f"{name.lower()}{getattr(self, name)}" for name in "NCHWKRS")
        if self.stride != (1, 1):
            text += "-st" + _short(self.stride)
        if self.padding != (0, 0, 0, 0):
            top, bottom, left, right = self.padding
            same = top == bottom == left == right
            text += f"-p{top}" if same else f"-p{top}_{bottom}_{left}_{right}"
        if self.dilation != (1, 1):
            text += "-d" + _short(self.dilation)
        if self.groups != 1:
            text += f"-g{self.groups}"
        if not self.bias:
            text += "-nobias"
        if self.dtype != "float32":
            text += "-" + DTYPES[self.dtype]
        if self.layout != "nchw":
            text += "-" + self.layout
        return text

    @classmethod
    def parse(cls, text: str) -> Conv2d:
        """The problem that ``str(p)`` printed as ``text``. ValueError where it is not of that form."""
        sizes = _SIZES.fullmatch(text)
        if sizes is None:
            raise ValueError(f"problem must look like {_EXAMPLE}, got {text!r}")
        found: dict[str, object] = {}
        for option in filter(None, sizes["options"].split("-")):
            for pattern, field, read in _OPTIONS:
                match = re.fullmatch(pattern, option)
                if match and field not in found:
                    found[field] = read(match)
                    break
            else:
                raise ValueError(f"problem must look like {_EXAMPLE}, got {option!r} in {text!r}")
        return cls(*(int(sizes[name]) for name in "nchwkrs"), **found)  # type: ignore[arg-type]


def _product(shape: tuple[int, ...]) -> int:
    total = 1
    for n in shape:
        total *= n
    return total


def _short(value: tuple[int, int]) -> str:
    return f"{value[0]}" if value[0] == value[1] else f"{value[0]}x{value[1]}"


_EXAMPLE = "n1c64h56w56k64r3s3[-st2|-st2x1][-p1|-p1_2_0_3][-d2][-g32][-nobias][-f64][-nhwc]"
_SIZES = re.compile(
    "".join(rf"{c}(?P<{c}>\d+)" for c in "nchwkrs") + r"(?P<options>(?:-[a-z0-9_]+)*)", re.ASCII
)
_OPTIONS = (
    (r"st(\d+)(?:x(\d+))?", "stride", lambda m: (int(m[1]), int(m[2] or m[1]))),
    (r"p(\d+)", "padding", lambda m: int(m[1])),
    (r"p(\d+)_(\d+)_(\d+)_(\d+)", "padding", lambda m: tuple(map(int, m.groups()))),
    (r"d(\d+)(?:x(\d+))?", "dilation", lambda m: (int(m[1]), int(m[2] or m[1]))),
    (r"g(\d+)", "groups", lambda m: int(m[1])),
    (r"nobias", "bias", lambda m: False),
    (r"f32|f64|f16|bf16", "dtype", lambda m: {v: k for k, v in DTYPES.items()}[m[0]]),
    (r"nchw|nhwc", "layout", lambda m: m[0]),
)


def read_problems(path: Path) -> list[tuple[str, Conv2d, int]]:
    """The layers of a file as (name, problem, count); a problem that stands there twice counts twice.

    Text has a layer a line, ``[name] problem [count]``, and # begins a comment. JSON is
    ``{"problems": [{"problem": "n1c3...", "count": 2, "name": "conv1"}]}``; count and name may be left out.
    ValueError says which line or entry is none.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError(
            f"{path}: problems are listed in UTF-8 text or in JSON, this is neither"
        ) from None
    found: dict[Conv2d, tuple[str, int]] = {}
    try:
        for where, name, problem, count in _entries(text) if text.lstrip()[:1] == "{" else _rows(text):
            try:
                p, n = Conv2d.parse(problem), whole("count", count)
                if n < 1:
                    raise ValueError(f"count must be 1 or more, got {n}")
            except (TypeError, ValueError) as error:
                raise ValueError(f"{where}: {str(error).removeprefix('conv2d: ')}") from None
            first, before = found.get(p, (name or problem, 0))
            found[p] = (first, before + n)
    except ValueError as error:
        raise ValueError(f"{path}, {error}") from None
    if not found:
        raise ValueError(f"{path} holds no problem; a line may say: conv1 n1c3h224w224k64r7s7-st2-p3 1")
    return [(name, p, count) for p, (name, count) in found.items()]


def _rows(text: str) -> Iterator[tuple[str, str, str, object]]:
    for number, line in enumerate(text.splitlines(), 1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        count = re.fullmatch(r"x?(\d+)", words[-1]) if len(words) > 1 else None
        rest = words[:-1] if count else words
        if len(rest) > 2:
            raise ValueError(
                f"line {number}: must be [name] problem [count], got {line.strip()[:80]!r}"
            )
        yield (
            f"line {number}",
            rest[0] if len(rest) == 2 else "",
            rest[-1],
            int(count[1]) if count else 1,
        )


def _entries(text: str) -> Iterator[tuple[str, str, str, object]]:
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not JSON: {error}") from None
    entries = document.get("problems")
    if not isinstance(entries, list):
        raise ValueError('the JSON must hold a list "problems"')
    for number, entry in enumerate(entries, 1):
        if not isinstance(entry, dict) or not isinstance(entry.get("problem"), str):
            raise ValueError(
                f'entry {number}: must be like {{"problem": "n1c3h8w8k4r3s3", "count": 1}}'
            )
        yield f"entry {number}", str(entry.get("name") or ""), entry["problem"], entry.get("count", 1)
