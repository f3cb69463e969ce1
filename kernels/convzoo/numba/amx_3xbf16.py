"""Three of the six products of bfloat16 parts: twice as fast again, with the accuracy of TF32 or better.

After    numba/amx_6xbf16   (new here: two parts a number, and the product of the second parts left out)
Idea     x0 + x1 holds 16 of the 24 bits of x. x0 w0 + x0 w1 + x1 w0 lacks x1 w1 and the third parts: about 3 in
         2**16 of a product, 1/20 of what rounding x and w to TF32 may cost.
Shapes   x[N,C,H,W] or [N,H,W,C] · w[K,C/G,R,S] → y[N,K,P,Q] or [N,P,Q,K]   float32
         inside: w[G,K/32,C/32,R,S,part,2] tiles of 16 x 32 bfloat16 made by pack; x as parts in panels
Threads  as numba/amx_6xbf16
Cost     FLOP   3·2·N·ceil32(K/G)·G·P·Q·ceil32(C/G)·R·S in bfloat16
         bytes  p.min_bytes, w at 4 bytes a number; the parts of x (4 bytes a number) are written to L2
Limits   as numba/amx_6xbf16
Source   Henry, Tang and Heinecke, 2019 (arXiv:1904.06376), for the parts and products; the rest own
"""

from convzoo.numba import _implicit_gemm
from convzoo.plan import Plan
from convzoo.problem import Conv2d

ALGORITHM = "gemm"
ACCURACY = "tf32"
DTYPES = ("float32",)
PRODUCTS = 3


def plan(p: Conv2d) -> Plan:
    return _implicit_gemm.plan(p, PRODUCTS)
