"""Winograd's scheme with the smallest tile, F(2x2, 3x3), whose transforms are additions alone.

After    numba/winograd   (new here: the points 0, 1, -1 and infinity)
Idea     Four outputs from 16 products instead of 36. That saves less than F(4x4, 3x3), but the transforms
         of x and y only add, those of the filters only add and halve, and on average the result is about
         as accurate as a direct sum. The transformed filters are 16/9 of w, not four times as large:
         where there are many channels and few tiles, their bytes are the time.
         An output gets the rounding errors of all 16 pixels of its tile: beside a spot on black, where it
         is small itself, they are up to fifteen times what an elementwise bound allows.
         Integers stay exact in float32 while C·max|x|·max|w| < 2^16.
Shapes   x[N,C,H,W] or [N,H,W,C] · w[K,C,3,3] → y[N,K,P,Q] or [N,P,Q,K]   float32, float64
         inside, for vectors of L: u[K/2L,16,C,2L] made by pack, V[16,sub,C/L,tiles,L], M[16,tiles,2L]
Threads  Numba's, as in numba/winograd: private tiles, or with few tiles a share of the panels. The
         interpreter lock is held then; it is released for the small problems, which stay on the
         calling thread
Cost     FLOP   2·16·T·K·C for T = N·P/2·Q/2 tiles, 1/2.25 of the definition's for even P and Q, and
                32·T·C + 24·T·K for the transforms
         bytes  x read 4 times, from cache; u, 16/9 of w, once for each block of tiles; V written once
                and read K/2L times from L2, M written and read once; y written once
Limits   above a few tiles numba/winograd needs only 4/9 of its products
         C or K below a vector leave lanes empty; K is filled up to a multiple of 2L
         an infinity or NaN spreads over its tile
Source   Lavin and Gray, Fast Algorithms for Convolutional Neural Networks, CVPR 2016; Winograd,
         Arithmetic Complexity of Computations, 1980. Schedule: Gelashvili, Shavit and Zlateski,
         L3 Fusion, arXiv:1912.02165, 2019
"""

from convzoo.plan import Plan
from convzoo.problem import Conv2d

from ._winograd import layer, only_3x3

ALGORITHM = "winograd"
ACCURACY = "tilewise"
POINTS = "0,1,-1"  # and infinity


def plan(p: Conv2d) -> Plan:
    only_3x3(p)
    return layer(p, POINTS)
