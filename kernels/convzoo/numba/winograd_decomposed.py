"""Winograd's scheme for filters of any size and stride: pieces of a filter become input channels.

After    numba/winograd   (new here: a filter that is cut up)
Idea     The points of Winograd's scheme multiply with the taps of a filter, and so do rounding errors; and a
         filter that moves two pixels at a time shares too few of them with its neighbours. Both go away
         when the filter is cut. Its taps in even columns meet even pixels alone, and those in odd columns
         odd pixels: two images in which it moves one pixel at a time. A long row of taps is a short one and
         another short one some pixels further on. The output is the sum over the pieces, just as it is the
         sum over channels, so the pieces are read as further channels of one layer with a small filter.
         Pieces have 2, 3 or 4 taps a side, whichever needs the fewest products. A 7 x 7 filter with stride
         2 is four pieces of 4 or 3 taps a side; with F(3x3, 4x4) that is 16 products an output, not 49.
         A piece that lacks the last tap has no product at the point infinity, and its zeros are left out.
         The error is that of a whole tile, not of each output for itself.
Shapes   x[N,C,H,W] or [N,H,W,C] · w[K,C,R,S] → y[N,K,P,Q] or [N,P,Q,K]   float32, float64
         inside, for vectors of L, D = pieces·C and A = 5 or 6 points a side: u[K/2L,A²,D,2L] made by
         pack, V[A²,sub,D/L,tiles,L], M[A²,tiles,2L]; few channels of several pieces share a vector
Threads  Numba's, as in numba/winograd: private tiles, or with few tiles a share of the panels. The
         interpreter lock is held then; it is released for the small problems, which stay on the
         calling thread
Cost     FLOP   from 1/1.8 (3 x 3, stride 2) to 1/3.6 (7 x 7, stride 2) of the definition's for P and Q that
                a tile divides, and the transforms of D channels of x and K of y
         bytes  x read once for each piece whose pixels overlap, from cache; u, 3 to 11 times w, once for
                each block of tiles; V and M as in numba/winograd; y written once
Limits   a stride of at most 2 in a row; no dilation, no groups; 3 x 3 with stride 1 is numba/winograd
         a filter of one row or column saves nothing in the other direction
         u must stay in the last-level cache: with many channels and few tiles direct kernels are faster
         an infinity or NaN spreads over its tile
Source   Huang et al., DWM: A Decomposable Winograd Method for Convolution Acceleration, AAAI 2020
         (arXiv:2002.00552); Lavin and Gray, Fast Algorithms for Convolutional Neural Networks, CVPR 2016.
         That pieces become channels of one transform, and the zeros at infinity: own
"""

from convzoo.plan import Plan, Unsupported
from convzoo.problem import Conv2d

from ._winograd import layer, products_of

ALGORITHM = "winograd"
ACCURACY = "tilewise"
# Taps of a piece a side and points, beside infinity: tiles of 4, 4 and 3 outputs a side.
FRAMES = (
    (2, "5/8,-5/8,8/5,-8/5"),
    (3, "0,5/8,-5/8,8/5,-8/5"),
    (4, "0,5/8,-5/8,8/5,-8/5"),
)
STRIDE = 2  # of pixels in a row, the most that the code that reads them knows


def plan(p: Conv2d) -> Plan:
    if p.stride[1] > STRIDE:
        raise Unsupported(f"needs a stride of at most {STRIDE} in a row, got {p.stride[1]}")
    if (p.R, p.S) == (1, 1):
        raise Unsupported("needs more than one tap: R = S = 1 has no products to save")
    if (p.R, p.S, p.stride) == (3, 3, (1, 1)):
        raise Unsupported("needs a filter to cut: 3 x 3 with stride 1 is numba/winograd")
    r, points = min(FRAMES, key=lambda frame: products_of(p, *frame))
    return layer(p, points, r)
