"""Tensor cores: a warp multiplies 16x8 by 8x8 at once, while copies of the next steps are on their way.

After    cupy/raw_naive   (new here: mma.sync, cp.async pipelines, a block's tiles in shared memory)
Idea     An implicit GEMM: row m of x is the window of output pixel m, never written to memory but
         gathered, 16 bytes at a time, by cp.async (LDGSTS), which passes the registers by. Three stages
         of shared memory: one is multiplied while two fill. Chunks are swizzled so that neither copies
         nor ldmatrix (LDSM) meet in a bank. mma.m16n8k8 (HMMA) takes operands rounded to TF32 (11 bits;
         to nearest, since the tensor cores themselves would cut) and adds in float32. Depth runs over
         taps and channels as if they were one index: few channels waste but a last, short step.
Shapes   x[N,C,H,W] or [N,H,W,C] · w[K,C/G,R,S] → y[N,K,P,Q] or [N,P,Q,K]   float32
         inside: x[N·P·Q, R·S·C/G] @ w[K/G, R·S·C/G]ᵀ for each group
Threads  block 128 (4 warps, 2 by 2); tile 128 pixels x 128 filters, smaller for small layers
Cost     FLOP   2·N·K·P·Q·C/G·R·S                     (the problem's own, on the tensor cores)
         bytes  x read R·S·⌈K/128⌉ times and w ⌈N·P·Q/128⌉ times, mostly from L2; y written once
Limits   compute capability 8.0; an input's relative error is 2^-11, Inf and NaN pass as they are
         nhwc with C/G a multiple of 4 is read in place; all else is first copied, inside run, to
         channels-last with C/G padded to fours (nchw costs that copy; y is written in its own layout)
Source   own; PTX ISA, "Matrix Fragments for mma.m16n8k8", cp.async, ldmatrix; the tiling is CUTLASS's
"""

from pathlib import Path

import cupy

from convzoo.cupy import _implicit_gemm as gemm
from convzoo.cupy._nvrtc import compiled
from convzoo.plan import Plan, Unsupported
from convzoo.problem import Conv2d

ALGORITHM = "gemm"
ACCURACY = "tf32"
DTYPES = ("float32",)
SOURCE = Path(__file__).with_name("tensor_core.cu")
TILES = ((128, 128), (128, 64), (64, 128), (64, 64))
STAGES = 3


def plan(p: Conv2d) -> Plan:
    capability = cupy.cuda.Device().compute_capability
    if int(capability) < 80:
        raise Unsupported(
            f"needs compute capability 8.0 or later, got {capability[:-1]}.{capability[-1]}"
        )
    rows, columns = gemm.tile(p, TILES)
    gemm.check_sizes(p, rows, columns)
    shared = gemm.shared_bytes(rows, columns, STAGES)
    kernel = compiled(SOURCE, "tensor_core", shared, ROWS=rows, COLUMNS=columns, PRODUCTS=1)
    pixels = gemm.pixels(p)
    grid, arguments = (gemm.blocks(p, rows, columns),), gemm.arguments(p)
    no_bias = None if p.bias else cupy.zeros(p.K, "float32")

    def pack(w, b):
        return gemm.filters(p, w, columns), no_bias if b is None else b.copy()

    def run(x, weights):
        w, b = weights
        y = cupy.empty(p.y_shape, "float32")
        x = pixels(x)
        kernel(grid, (128,), (x, w, b, y, *arguments), shared_mem=shared)
        return y

    return Plan(run, pack=pack, workspace=gemm.workspace(p), code=(kernel,))
