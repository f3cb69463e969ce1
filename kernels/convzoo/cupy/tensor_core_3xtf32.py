"""Float32 accuracy from tensor cores of 11 bits: each number is split in two, three products make one.

After    cupy/tensor_core_tf32   (new here: the split, in registers, and two more products)
Idea     v = big + small, big being v rounded to TF32 and small the rest, rounded as well: 22 bits of the
         24. x·w is then big·big + big·small + small·big; small·small, 2^-22 of it at most, is left out.
         The tensor cores (HMMA) multiply TF32 so much faster than float32 that three times the products
         still pay. But they cut sums off where float32 would round, so the small products are added up
         apart from the big ones, and both once at the end. Operands of up to 12 bits are split without
         loss: integers come out exact. Sums of fewer than 32 products go through float32 FMAs instead,
         since the bound on so short a sum allows no cuts, and such a layer waits for memory anyway.
Shapes   x[N,C,H,W] or [N,H,W,C] · w[K,C/G,R,S] → y[N,K,P,Q] or [N,P,Q,K]   float32
         inside: x[N·P·Q, R·S·C/G] @ w[K/G, R·S·C/G]ᵀ for each group
Threads  block 256 (8 warps of 64 pixels x 32 filters); tile 128 x 128, smaller for small layers
Cost     FLOP   3 · 2·N·K·P·Q·C/G·R·S on the tensor cores
         bytes  x read R·S·⌈K/128⌉ times and w ⌈N·P·Q/128⌉ times, mostly from L2; y written once
Limits   compute capability 8.0; the bound is met with room on data of all kinds, in a model of tensor
         cores that cut (tests); that no data could break it, if cores cut so, is not proved. Numbers
         above 3.4e38 overflow when rounded, and an Inf makes NaN (its small part is Inf - Inf); below
         2^-115 the small part fades into the denormals
         nhwc with C/G a multiple of 4 is read in place; all else is first copied, inside run, to
         channels-last with C/G padded to fours (nchw costs that copy; y is written in its own layout)
Source   own; Ootomo and Yokota, Recovering single precision accuracy from Tensor Cores while surpassing
         the FP32 theoretical peak performance, 2022; CUTLASS, example 28
"""

from pathlib import Path

import cupy

from convzoo.cupy import _implicit_gemm as gemm
from convzoo.cupy._nvrtc import compiled
from convzoo.plan import Plan, Unsupported
from convzoo.problem import Conv2d

ALGORITHM = "gemm"
DTYPES = ("float32",)
SOURCE = Path(__file__).with_name("tensor_core.cu")
TILES = ((128, 128), (128, 64), (64, 128), (64, 64))
STAGES = 3
FEW_TAPS = 32


def plan(p: Conv2d) -> Plan:
    capability = cupy.cuda.Device().compute_capability
    if int(capability) < 80:
        raise Unsupported(
            f"needs compute capability 8.0 or later, got {capability[:-1]}.{capability[-1]}"
        )
    rows, columns = gemm.tile(p, TILES)
    gemm.check_sizes(p, rows, columns)
    products = 0 if p.taps < FEW_TAPS else 3
    shared = gemm.shared_bytes(rows, columns, STAGES)
    kernel = compiled(SOURCE, "tensor_core", shared, ROWS=rows, COLUMNS=columns, PRODUCTS=products)
    pixels = gemm.pixels(p)
    grid, arguments = (gemm.blocks(p, rows, columns),), gemm.arguments(p)
    no_bias = None if p.bias else cupy.zeros(p.K, "float32")

    def pack(w, b):
        return gemm.filters(p, w, columns), no_bias if b is None else b.copy()

    def run(x, weights):
        w, b = weights
        y = cupy.empty(p.y_shape, "float32")
        x = pixels(x)
        kernel(grid, (2 * columns,), (x, w, b, y, *arguments), shared_mem=shared)
        return y

    return Plan(run, pack=pack, workspace=gemm.workspace(p), code=(kernel,))
