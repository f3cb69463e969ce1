"""Named sets of problems, each with its source. A problem is its string: nothing needs this table to be read.

Benchmark shapes are not the test shapes, on purpose: the tests' list is ``tests/cases.py``.
"""

from __future__ import annotations

import difflib
import os.path
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from convzoo.problem import Conv2d

from . import networks


@dataclass(frozen=True)
class Layer:
    """One problem of a set, with a name for people and how often it occurs in the network."""

    name: str
    problem: Conv2d
    count: int = 1


@cache
def problem_of(name: str) -> Conv2d | None:
    """The problem of that name, or None where it is none of this version's."""
    try:
        return Conv2d.parse(name)
    except (ValueError, OverflowError):
        return None


def kind(name: str) -> str:
    """Layout, type and batch of a problem: those of one kind may be ranked together."""
    p = problem_of(name)
    return f"{p.layout}, {p.dtype}, batch {p.N}" if p else "other problems"


def order_of_kinds(name: str) -> tuple[str, str, int, str]:
    """Sorts the kinds of problems: NCHW first, and small batches first."""
    p = problem_of(name)
    return (p.layout, p.dtype, p.N, "") if p else ("~", "", 0, name)


def _layers(text: str) -> list[Layer]:
    """Lines of ``name problem [xCOUNT]``."""
    found = []
    for line in text.strip().splitlines():
        name, problem, *times = line.split()
        found.append(Layer(name, Conv2d.parse(problem), int(times[0][1:]) if times else 1))
    return found


def _counted(network: Iterable[tuple[str, Conv2d]]) -> list[Layer]:
    """The distinct layers of a network, each by the name of its first, and how often it runs."""
    names: dict[Conv2d, str] = {}
    counts: Counter[Conv2d] = Counter()
    for name, problem in network:
        names.setdefault(problem, name)
        counts[problem] += 1
    return [Layer(name, problem, counts[problem]) for problem, name in names.items()]


# The notebook this project grew from: an RGB photograph of 128 x 128, 3 -> 4 channels, 5 x 5, bias.
SEED = _layers("seed n1c3h128w128k4r5s5")

# Own: small enough for plain Python loops, so that every kernel appears in one table.
TINY = _layers("""
square   n1c4h12w12k4r3s3-p1
odd      n1c3h11w13k5r3s2-st2x1-p1_0_2_1
""")

# Own: one knob at a time around 64 channels, 56 x 56, 3 x 3.
LADDER = _layers("""
C16    n1c16h56w56k64r3s3-p1
C64    n1c64h56w56k64r3s3-p1
C256   n1c256h56w56k64r3s3-p1
K16    n1c64h56w56k16r3s3-p1
K256   n1c64h56w56k256r3s3-p1
H14    n1c64h14w14k64r3s3-p1
H28    n1c64h28w28k64r3s3-p1
H112   n1c64h112w112k64r3s3-p1
R1     n1c64h56w56k64r1s1
R5     n1c64h56w56k64r5s5-p2
R7     n1c64h56w56k64r7s7-p3
N4     n4c64h56w56k64r3s3-p1
N16    n16c64h56w56k64r3s3-p1
""")

# He et al., Deep Residual Learning (CVPR 2016), table 1, the 20 distinct layers and their counts as in
# oneDNN's benchdnn list shapes_resnet_50 (stride on the first 1x1 of a block).
RESNET50 = _layers("""
conv1            n1c3h224w224k64r7s7-st2-p3-nobias    x1
res2a_branch1    n1c64h56w56k256r1s1-nobias           x4
res2a_branch2a   n1c64h56w56k64r1s1-nobias            x1
res2a_branch2b   n1c64h56w56k64r3s3-p1-nobias         x3
res2b_branch2a   n1c256h56w56k64r1s1-nobias           x2
res3a_branch1    n1c256h56w56k512r1s1-st2-nobias      x1
res3a_branch2a   n1c256h56w56k128r1s1-st2-nobias      x1
res3a_branch2b   n1c128h28w28k128r3s3-p1-nobias       x4
res3a_branch2c   n1c128h28w28k512r1s1-nobias          x4
res3b_branch2a   n1c512h28w28k128r1s1-nobias          x3
res4a_branch1    n1c512h28w28k1024r1s1-st2-nobias     x1
res4a_branch2a   n1c512h28w28k256r1s1-st2-nobias      x1
res4a_branch2b   n1c256h14w14k256r3s3-p1-nobias       x6
res4a_branch2c   n1c256h14w14k1024r1s1-nobias         x6
res4b_branch2a   n1c1024h14w14k256r1s1-nobias         x5
res5a_branch1    n1c1024h14w14k2048r1s1-st2-nobias    x1
res5a_branch2a   n1c1024h14w14k512r1s1-st2-nobias     x1
res5a_branch2b   n1c512h7w7k512r3s3-p1-nobias         x3
res5a_branch2c   n1c512h7w7k2048r1s1-nobias           x3
res5b_branch2a   n1c2048h7w7k512r1s1-nobias           x2
""")

# Simonyan and Zisserman, Very Deep Convolutional Networks (ICLR 2015), configuration D.
VGG16 = _layers("""
conv1_1   n1c3h224w224k64r3s3-p1      x1
conv1_2   n1c64h224w224k64r3s3-p1     x1
conv2_1   n1c64h112w112k128r3s3-p1    x1
conv2_2   n1c128h112w112k128r3s3-p1   x1
conv3_1   n1c128h56w56k256r3s3-p1     x1
conv3_2   n1c256h56w56k256r3s3-p1     x2
conv4_1   n1c256h28w28k512r3s3-p1     x1
conv4_2   n1c512h28w28k512r3s3-p1     x2
conv5_1   n1c512h14w14k512r3s3-p1     x3
""")

# Howard et al., MobileNets (2017), table 1, width 1.0: first layer, depthwise and pointwise layers.
MOBILENET = _layers("""
conv1     n1c3h224w224k32r3s3-st2-p1-nobias              x1
dw1       n1c32h112w112k32r3s3-p1-g32-nobias             x1
pw1       n1c32h112w112k64r1s1-nobias                    x1
dw2       n1c64h112w112k64r3s3-st2-p1-g64-nobias         x1
pw2       n1c64h56w56k128r1s1-nobias                     x1
dw3       n1c128h56w56k128r3s3-p1-g128-nobias            x1
pw3       n1c128h56w56k128r1s1-nobias                    x1
dw4       n1c128h56w56k128r3s3-st2-p1-g128-nobias        x1
pw4       n1c128h28w28k256r1s1-nobias                    x1
dw5       n1c256h28w28k256r3s3-p1-g256-nobias            x1
pw5       n1c256h28w28k256r1s1-nobias                    x1
dw6       n1c256h28w28k256r3s3-st2-p1-g256-nobias        x1
pw6       n1c256h14w14k512r1s1-nobias                    x1
dw7       n1c512h14w14k512r3s3-p1-g512-nobias            x5
pw7       n1c512h14w14k512r1s1-nobias                    x5
dw8       n1c512h14w14k512r3s3-st2-p1-g512-nobias        x1
pw8       n1c512h7w7k1024r1s1-nobias                     x1
dw9       n1c1024h7w7k1024r3s3-p1-g1024-nobias           x1
pw9       n1c1024h7w7k1024r1s1-nobias                    x1
""")

# Baidu DeepBench, code/kernels/conv_problems.h: one layer or two of each application of its inference
# server set (speech, OCR, vision), where ResNet-50 and VGG do not already stand above.
DEEPBENCH = _layers("""
speech1   n1c1h161w700k32r5s20-st2-nobias
speech2   n1c32h79w341k32r5s10-st2-nobias
speech3   n1c64h80w350k64r3s3-p1-nobias
speech4   n1c128h40w175k256r5s5-st2-p1-nobias
ocr1      n1c1h48w480k16r3s3-p1-nobias
ocr2      n1c16h24w240k32r3s3-p1-nobias
ocr3      n1c64h6w60k128r3s3-p1-nobias
face1     n1c3h108w108k64r3s3-st2-p1-nobias
face2     n1c64h54w54k64r3s3-p1-nobias
face3     n1c128h14w14k256r3s3-p1-nobias
google1   n1c192h28w28k32r5s5-p2-nobias
google2   n1c512h14w14k48r5s5-p2-nobias
google3   n1c832h7w7k128r5s5-p2-nobias
google4   n1c832h7w7k256r1s1-nobias
vision1   n1c64h112w112k64r1s1-nobias
""")

# Own: sizes that divide nothing, where kernels lose what they gained on powers of two.
TAILS = _layers("""
prime      n1c61h53w59k67r3s3-p1
narrow     n1c33h7w127k17r3s3-p1
tall       n1c31h97w5k29r5s1-p2_2_0_0
pads       n1c19h41w43k23r4s6-p0_3_2_1
strides    n1c37h61w47k41r3s5-st3x2-p1
dilated    n1c29h47w53k31r3s3-p3-d3x2
groups     n1c45h39w41k27r3s3-p1-g9
""")

SETS: dict[str, list[Layer]] = {
    "seed": SEED,
    "tiny": TINY,
    "ladder": LADDER,
    "resnet50": RESNET50,
    "vgg16": VGG16,
    "mobilenet": MOBILENET,
    "deepbench": DEEPBENCH,
    "tails": TAILS,
    "deeplab": _counted(networks.deeplab()),
    "inception": _counted(networks.inception()),
    "densenet": _counted(networks.densenet()),
    "resnext": _counted(networks.resnext()),
    "efficientnet": _counted(networks.efficientnet()),
}

# Sets that lie in files: 216 distinct layers of the nine "light" networks that come with onnx's backend tests,
# with the number of times that they occur in all nine (the file names its source).
FILES = {"onnx_light": Path(__file__).parent / "onnx_light.json"}

# Sets whose counts add up to one pass through a network.
NETWORKS = ("resnet50", "vgg16", "mobilenet", "deeplab", "inception", "densenet", "resnext", "efficientnet")

# What asv tracks over the history: the same dozen on every machine, forever (DESIGN: a static grid).
ASV_GRID = [
    "n1c4h12w12k4r3s3-p1",
    "n1c3h128w128k4r5s5",
    "n1c3h224w224k64r7s7-st2-p3-nobias",
    "n1c64h56w56k64r3s3-p1-nobias",
    "n1c256h14w14k256r3s3-p1-nobias",
    "n1c512h7w7k512r3s3-p1-nobias",
    "n1c64h56w56k256r1s1-nobias",
    "n1c1024h14w14k256r1s1-nobias",
    "n1c256h56w56k128r1s1-st2-nobias",
    "n1c128h56w56k128r3s3-p1-g128-nobias",
    "n1c61h53w59k67r3s3-p1",
    "n1c64h28w28k64r3s3-p1-nhwc",
]

PRESETS: dict[str, list[str]] = {
    "quick": [
        "n1c4h12w12k4r3s3-p1",
        "n1c3h128w128k4r5s5",
        "n1c64h56w56k64r3s3-p1",
        "n1c256h14w14k256r3s3-p1",
        "n1c64h56w56k256r1s1",
    ],
    "standard": ["tiny", "seed", "resnet50", "tails"],
    "full": list(SETS),
}


def resolve(words: list[str], batch: int | None = None, layout: str | None = None) -> list[Layer]:
    """Layers named by ``words``: set names, set/layer, problem strings, or files; each problem once.

    ``batch`` replaces N, ``layout`` the layout. Raises ValueError for a word that is none of these.
    """
    found: dict[Conv2d, Layer] = {}
    changes: dict[str, Any] = {"N": batch} if batch is not None else {}
    changes |= {"layout": layout} if layout else {}
    for word in words:
        for layer in _resolve_one(word):
            layer = replace(layer, problem=replace(layer.problem, **changes))
            found.setdefault(layer.problem, layer)
    return list(found.values())


def networks_in(layers: list[Layer]) -> dict[str, list[list[Any]]]:
    """Networks all of whose layers are among these, whatever batch and layout: name -> [layer, problem, count].

    A record carries them, so that a report can add up a network without this table. Of several batches
    or layouts the first one counts.
    """
    have: dict[Conv2d, Conv2d] = {}
    for layer in layers:
        have.setdefault(_single(layer.problem), layer.problem)
    return {
        name: [[x.name, str(have[_single(x.problem)]), x.count] for x in SETS[name]]
        for name in NETWORKS
        if all(_single(x.problem) in have for x in SETS[name])
    }


def _single(p: Conv2d) -> Conv2d:
    return replace(p, N=1, layout="nchw")


def _resolve_one(word: str) -> list[Layer]:
    family, _, name = word.partition("/")
    if family in SETS or family in FILES:
        every = SETS.get(family) or _from_file(FILES[family])
        chosen = [layer for layer in every if not name or layer.name == name]
        if not chosen:
            have = ", ".join(layer.name for layer in every)
            raise ValueError(f"problem set {family} has {have}; got {name!r}")
        return chosen
    if os.path.isfile(word):
        return _from_file(Path(word))
    try:
        p = Conv2d.parse(word)
    except ValueError as error:
        sets = [*SETS, *FILES]
        near = difflib.get_close_matches(word, sets, n=1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        files = f"there is no file {word}" if "." in word or "/" in word else "a file may list them"
        raise ValueError(f"{error}; the sets are {', '.join(sets)}{hint}; {files}") from None
    return [Layer(str(p), p)]


def _from_file(path: Path) -> list[Layer]:
    from convzoo.problem import read_problems  # here: an old commit that asv measures has none

    return [Layer(*found) for found in read_problems(path)]
