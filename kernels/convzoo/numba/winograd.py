"""Sixteen outputs of a 3 x 3 filter from 36 products instead of 144: Winograd's F(4x4, 3x3).

After    numba/im2col   (new here: a transform that turns taps into fewer products)
Idea     Outputs next to each other share pixels. Take a tile of 6 x 6 pixels as a polynomial of two
         variables and the filter as another: their product is settled by its values at 36 points, one
         multiplication each, and the 16 outputs are combinations of them. With sums over channels the
         multiplications become 36 matrix products, one for each point; the transforms are a few
         additions for each pixel and are shared by all channels on the other side.
         A tile at the edge with fewer outputs needs fewer points: it takes some of the same 36, so
         that filters are transformed once for all. 14 x 14 outputs cost 484 products, not 576.
         The points decide the rounding errors: 0, +-5/8, +-8/5 and infinity are reciprocal pairs, which
         keeps powers near 1. The error is that of a whole tile, not of each output for itself.
         Where filters outgrow the last-level cache, their bytes are the time: then tiles have 3 x 3
         outputs and 25 points, without 0; likewise where those cover y with no more products.
Shapes   x[N,C,H,W] or [N,H,W,C] · w[K,C,3,3] → y[N,K,P,Q] or [N,P,Q,K]   float32, float64
         inside, for vectors of L and F = 36 or 25: u[K/2L,F,C,2L] made by pack, V[F,sub,C/L,tiles,L],
         M[F,tiles,2L]
Threads  Numba's. A thread transforms blocks of its own tiles, so that V and M stay in its L2 cache, and
         meets them with all panels of filters; with few tiles the threads share out the panels, and each
         transforms all tiles. The interpreter lock is held then, so calls from several Python threads
         take turns; it is released for the small problems, which stay on the calling thread
Cost     FLOP   2·36·T·K·C for T = N·P/4·Q/4 tiles, 1/4 of the definition's for P and Q that 4 divides,
                and about 12·12·T·C + 13·10·T·K for the transforms
         bytes  x read 2.25 times, from cache; u, four (F(3x3): 2.8) times w, once for each block of tiles;
                V written once and read K/2L times from L2, M written and read once; y written once
Limits   at 64 channels the transforms take a fifth of the time
         u must stay in the last-level cache: 512 x 512 channels (26 MB) and few tiles run at its speed
         C or K below a vector leave lanes empty; K is filled up to a multiple of 2L
         an infinity or NaN spreads over its tile; packing writes four times the bytes that it reads
Source   Lavin and Gray, Fast Algorithms for Convolutional Neural Networks, CVPR 2016; Winograd,
         Arithmetic Complexity of Computations, 1980. Points: Alam et al., arXiv:2201.10369, 2022.
         Schedule: Gelashvili, Shavit and Zlateski, L3 Fusion, arXiv:1912.02165, 2019. Fewer of the same
         points at the edge: own
"""

from convzoo.plan import Plan
from convzoo.problem import Conv2d

from ._winograd import layer, only_3x3, products_of

ALGORITHM = "winograd"
ACCURACY = "tilewise"
POINTS = "0,5/8,-5/8,8/5,-8/5"  # and infinity: tiles of 4 x 4 outputs
FEWER = "5/8,-5/8,8/5,-8/5"  # and infinity: tiles of 3 x 3
OUTGROWN = 30e6  # bytes of transformed filters that the last-level cache does not keep
WAIT = {False: 3, True: 9}  # products in the time in which one number of them arrives, if outgrown


def products(p: Conv2d, points: str) -> int:
    """For all tiles and one filter, or those in whose time its numbers arrive if that takes longer."""
    numbers = (len(points.split(",")) + 1) ** 2 * p.C
    return max(products_of(p, 3, points), WAIT[numbers * p.K * p.itemsize > OUTGROWN] * numbers)


def plan(p: Conv2d) -> Plan:
    only_3x3(p)
    return layer(p, min((FEWER, POINTS), key=lambda points: products(p, points)))
