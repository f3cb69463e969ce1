"""The matrix unit as it is meant: inputs rounded to bfloat16, one product, float32 sums.

After    numba/amx_3xbf16   (new here: one part a number, so nothing is left of the other 16 bits)
Idea     x0 w0 alone. Splitting x is then rounding it, and what is left to do is moved bytes: layers
         with few channels are bound by memory.
Shapes   x[N,C,H,W] or [N,H,W,C] · w[K,C/G,R,S] → y[N,K,P,Q] or [N,P,Q,K]   float32
         inside: w[G,K/32,C/32,R,S,2] tiles of 16 x 32 bfloat16 made by pack; x rounded in panels
Threads  as numba/amx_6xbf16
Cost     FLOP   2·N·ceil32(K/G)·G·P·Q·ceil32(C/G)·R·S in bfloat16
         bytes  p.min_bytes, w at 2 bytes a number; x rounded (2 bytes a number) is written to L2
Limits   as numba/amx_6xbf16
Source   Intel 64 and IA-32 Architectures Software Developer's Manual, volume 2: TDPBF16PS; the rest own
"""

from convzoo.numba import _implicit_gemm
from convzoo.plan import Plan
from convzoo.problem import Conv2d

ALGORITHM = "gemm"
ACCURACY = "half"
ROUNDED_TO = "bfloat16"
DTYPES = ("float32",)
PRODUCTS = 1


def plan(p: Conv2d) -> Plan:
    return _implicit_gemm.plan(p, PRODUCTS)
