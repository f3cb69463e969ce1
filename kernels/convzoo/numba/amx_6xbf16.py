"""Six products of bfloat16 parts on the CPU's matrix unit are one float32 product, at twice the FMA peak.

After    numba/register_tile   (new here: the matrix unit multiplies, not the vector units)
Idea     A float32 number has 24 bits, bfloat16 keeps 8 of them: x = x0 + x1 + x2, exactly, and w likewise. Of the
         nine products of parts x0 w0 is the number itself but for 2**-8 of it; x0 w1 and x1 w0 mend that to
         2**-16, and x0 w2, x1 w1, x2 w0 to 2**-24. The three that are left out are as small as the
         rounding of a float32 product. The unit multiplies bfloat16 16 times as fast as FMA units
         multiply float32, so six products take 6/16 of the time: the ceiling is 2.7 times theirs.
         The five small products of all channels and taps are added first and x0 w0 last, so that their
         roundings are 2**-8 of the main sum's; and a sum of 32 channels is rounded once, not 32 times.
         Both make the error smaller than that of FMA kernels.
Shapes   x[N,C,H,W] or [N,H,W,C] · w[K,C/G,R,S] → y[N,K,P,Q] or [N,P,Q,K]   float32
         inside: w[G,K/32,C/32,R,S,part,2] tiles of 16 x 32 bfloat16 made by pack; x as parts in panels
Threads  Numba's, with shares of the panels or of the output channels; one thread below 2 MFLOP. The
         interpreter lock is released
Cost     FLOP   6·2·N·ceil32(K/G)·G·P·Q·ceil32(C/G)·R·S in bfloat16; sums of padding columns beside them
         bytes  p.min_bytes, w at 6 bytes a number, once a panel; x is read once a panel and, where threads share
                output channels, once a thread; its parts (6 bytes a number) are written to L2 and
                read from it K/32 times, twice where sums have two passes
Limits   a CPU with AMX tiles and bfloat16, and a system that permits them; at least 16 channels a group
         numbers below 2**-110 lose their last parts, below 2**-126 they are zero: the error is then up
         to n · 2**-126, the allowance for underflow that every kernel has. Infinity, NaN, and numbers from
         2**127 on take a slow path in float64 (see _implicit_gemm)
Source   Henry, Tang and Heinecke, Leveraging the bfloat16 Artificial Intelligence Datatype For
         Higher-Precision Computations, 2019 (arXiv:1904.06376), for the parts and products; the rest own
"""

from convzoo.numba import _implicit_gemm
from convzoo.plan import Plan
from convzoo.problem import Conv2d

ALGORITHM = "gemm"
DTYPES = ("float32",)
PRODUCTS = 6


def plan(p: Conv2d) -> Plan:
    return _implicit_gemm.plan(p, PRODUCTS)
