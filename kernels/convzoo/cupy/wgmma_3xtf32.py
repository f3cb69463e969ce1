"""Hopper's own matrix instruction: four warps multiply 64 rows at once, and go on while it works.

After    cupy/tensor_core_3xtf32   (new here: wgmma, asynchronous, its second operand from shared memory)
Idea     mma.sync cannot feed Hopper's tensor cores; wgmma (HGMMA) takes up to 128 filters straight from
         shared memory, in the 128-byte swizzle that the copies (LDGSTS) wrote, and 64 pixels from
         registers. That decides who is split where. x is split on the fly, in registers, into big and
         small parts. The weights are known ahead: pack splits them once, and a block copies both parts.
         Each of two warpgroups sums 64 pixels x 128 filters, the small products apart. While the tensor
         cores have one group of products at work, the warps load and split the next eight channels, and
         copies of the steps behind come in.
Shapes   x[N,C,H,W] or [N,H,W,C] · w[K,C/G,R,S] → y[N,K,P,Q] or [N,P,Q,K]   float32
         inside: x[N·P·Q, R·S·C/G] @ w[2, K/G, R·S·C/G]ᵀ for each group
Threads  block 256 (2 warpgroups); tile 128 pixels x 128 filters, 256 x 64 or 128 x 64
Cost     FLOP   3 · 2·N·K·P·Q·C/G·R·S on the tensor cores
         bytes  x read R·S·⌈K/128⌉ times, both parts of w ⌈N·P·Q/128⌉ times, mostly from L2; y once
Limits   compute capability 9.0 exactly (sm_90a) and NVRTC 12.9; at least 32 products in an output, since
         tensor cores cut their sums (cupy/tensor_core_3xtf32 takes fewer); overflow, Inf and denormals
         as there. Plain pipelines: no TMA, no warps that only copy, no clusters that share w
         nhwc with C/G a multiple of 4 is read in place; all else is first copied, inside run, to
         channels-last with C/G padded to fours (nchw costs that copy; y is written in its own layout)
Source   own; PTX ISA, "Asynchronous warpgroup-level matrix instructions"; for the three products see
         cupy/tensor_core_3xtf32
"""

from pathlib import Path

import cupy

from convzoo.cupy import _implicit_gemm as gemm
from convzoo.cupy._nvrtc import compiled
from convzoo.plan import Plan, Unsupported
from convzoo.problem import Conv2d

ALGORITHM = "gemm"
DTYPES = ("float32",)
SOURCE = Path(__file__).with_suffix(".cu")
TILES = ((128, 128), (256, 64), (128, 64))
FEW_TAPS = 32


def split(w):
    """[2,...]: w rounded to 11 bits (to nearest, ties away from zero), and the rest, rounded as well."""

    def rounded(v):
        bits = (v.view("uint32") + cupy.uint32(0x1000)) & cupy.uint32(0xFFFFE000)
        return cupy.where(cupy.isfinite(v), bits.view("float32"), v)

    big = rounded(w)
    return cupy.stack((big, rounded(w - big)))


def plan(p: Conv2d) -> Plan:
    capability = cupy.cuda.Device().compute_capability
    if capability != "90":
        raise Unsupported(
            f"needs compute capability 9.0 (Hopper), got {capability[:-1]}.{capability[-1]}: "
            "no other GPU has wgmma"
        )
    if p.taps < FEW_TAPS:
        raise Unsupported(
            f"needs C/G*R*S >= {FEW_TAPS}, got {p.taps}: tensor cores cut their sums, which the bound on "
            "a shorter sum does not allow"
        )
    rows, columns = gemm.tile(p, TILES)
    gemm.check_sizes(p, rows, columns)
    stages = 3 if (rows, columns) == TILES[-1] else 4  # the smallest tile: two blocks at once
    shared = gemm.shared_bytes(rows, 2 * columns, stages)
    kernel = compiled(
        SOURCE, "wgmma_3xtf32", shared, "sm_90a", ROWS=rows, COLUMNS=columns, STAGES=stages
    )
    pixels = gemm.pixels(p)
    grid, arguments = (gemm.blocks(p, rows, columns),), gemm.arguments(p)
    no_bias = None if p.bias else cupy.zeros(p.K, "float32")

    def pack(w, b):
        return split(gemm.filters(p, w, columns)), no_bias if b is None else b.copy()

    def run(x, weights):
        w, b = weights
        y = cupy.empty(p.y_shape, "float32")
        x = pixels(x)
        kernel(grid, (256,), (x, w, b, y, *arguments), shared_mem=shared)
        return y

    return Plan(run, pack=pack, workspace=gemm.workspace(p), code=(kernel,))
