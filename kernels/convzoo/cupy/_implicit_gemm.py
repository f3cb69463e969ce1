"""What the tensor-core kernels of this folder share on the host: x and w in rows, arguments, tiles.

An implicit GEMM multiplies rows of x (the window of one output pixel) with rows of w (one filter). Both
run over the same depth: taps r, s and within a tap the channels of one group, which are padded to a
multiple of four so that a row is made of whole, aligned 16-byte chunks.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cupy
import numpy as np

from convzoo.cupy._nvrtc import compiled
from convzoo.plan import Unsupported
from convzoo.problem import Conv2d

DEPTH = 32  # floats of a row that one step of a kernel takes: 128 bytes
TILE = 32  # pixels and channels that a block of _channels_last.cu turns over
LIMIT = 2**31
MANY_BLOCKS = 264  # two for each of an H100's or H200's multiprocessors


def up_to(size: int, multiple: int) -> int:
    return -(-size // multiple) * multiple


def channels(p: Conv2d) -> int:
    """Channels of one group as the kernel sees them."""
    return up_to(p.C // p.groups, 4)


def depth(p: Conv2d) -> int:
    return up_to(p.R * p.S * channels(p), DEPTH)


def blocks(p: Conv2d, rows: int, columns: int) -> int:
    return -(-p.N * p.P * p.Q // rows) * -(-(p.K // p.groups) // columns) * p.groups


def tile(p: Conv2d, choices: tuple[tuple[int, int], ...]) -> tuple[int, int]:
    """Pixels and filters of a block: the first of ``choices`` (largest first) that makes many blocks.

    Where half of the last tile of 128 filters would stay empty, tiles have 64.
    """
    most = 64 if -(p.K // p.groups) % 128 >= 64 else 128
    fit = [choice for choice in choices if choice[1] <= most]
    return next((choice for choice in fit if blocks(p, *choice) >= MANY_BLOCKS), fit[-1])


def shared_bytes(rows: int, columns: int, stages: int) -> int:
    """Dynamic shared memory of a block: its stages, and 16 bytes for each pixel's window."""
    return 4 * DEPTH * (rows + columns) * stages + 16 * rows


def check_sizes(p: Conv2d, rows: int, columns: int) -> None:
    tall, broad = p.padded
    image, grid = tall * broad * p.groups * channels(p), blocks(p, rows, columns)
    largest = max(2 * image, p.N * p.P * p.Q + rows, p.K + columns, depth(p), grid)
    if largest >= LIMIT:
        raise Unsupported(
            "needs a padded image below 2**30 and N*P*Q, K, C/G*R*S and a grid below 2**31: the kernel's "
            "indices are ints"
        )


def arguments(p: Conv2d) -> list[np.int32]:
    """The kernels' arguments after the arrays; CuPy would pass a Python int as 64 bits."""
    # where no step is taken its size may be anything, beyond an int, too
    taken = zip((*p.stride, *p.dilation), (p.P, p.Q, p.R, p.S), strict=True)
    steps = (step if count > 1 else 1 for step, count in taken)
    top, _, left, _ = p.padding
    sizes = (p.N * p.P * p.Q, p.H, p.W, p.K, p.P, p.Q, p.R, p.S, p.groups, channels(p), depth(p))
    return [np.int32(number) for number in (*sizes, *steps, top, left, p.layout == "nhwc")]


def as_it_is(p: Conv2d) -> bool:
    """Whether x has its channels last and in fours already."""
    return p.layout == "nhwc" and (p.C // p.groups) % 4 == 0


def workspace(p: Conv2d) -> int:
    return 0 if as_it_is(p) else p.itemsize * p.N * p.H * p.W * p.groups * channels(p)


def pixels(p: Conv2d) -> Callable[[Any], Any]:
    """A function that gives x as [N,H,W,G,channels]: itself where it is that and aligned, else a copy."""
    if as_it_is(p):
        return lambda x: x if _address(x) % 16 == 0 else x.copy()
    tiles = -(-p.H * p.W // TILE) * -(-p.groups * channels(p) // TILE) * p.N
    if tiles >= LIMIT:
        raise Unsupported("needs fewer than 2**31 tiles of 32 pixels x 32 channels in x")
    kernel = compiled(Path(__file__).with_name("_channels_last.cu"), "channels_last")
    sizes = (p.H * p.W, p.groups, p.C // p.groups, channels(p), p.layout == "nhwc")
    arguments = [np.int32(size) for size in sizes]

    def copy(x):
        rows = cupy.empty((p.N, p.H, p.W, p.groups, channels(p)), "float32")
        kernel((tiles,), (TILE, 8), (x, rows, *arguments))
        return rows

    return copy


def _address(x: Any) -> int:
    memory = getattr(x, "__cuda_array_interface__", None) or x.__array_interface__
    return memory["data"][0]


def filters(p: Conv2d, w: Any, columns: int) -> Any:
    """w as [G,filters,depth], filters a multiple of ``columns``; always a copy."""
    outputs, inputs = p.K // p.groups, p.C // p.groups
    taps = cupy.zeros((p.groups, outputs, p.R, p.S, channels(p)), "float32")
    taps[..., :inputs] = w.reshape(p.groups, outputs, inputs, p.R, p.S).transpose(0, 1, 3, 4, 2)
    taps = taps.reshape(p.groups, outputs, -1)
    rows = cupy.zeros((p.groups, up_to(outputs, columns), depth(p)), "float32")
    rows[:, :outputs, : taps.shape[2]] = taps
    return rows
