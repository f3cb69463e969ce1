"""The same layer in ncnn with Winograd switched off: every product is formed, every sum is plain.

After    ncnn/builtin   (new here: the elementwise guarantee, and what it costs)
Idea     One option of the net takes Winograd out of the choice. What is left is a matrix product on
         packed blocks of 16 channels for most filters, direct loops for some.
Shapes   x[N,C,H,W] or [N,H,W,C] · w[K,C/G,R,S] → y[N,K,P,Q] or [N,P,Q,K]   float32
Threads  OpenMP, as many as the net was told
Cost     FLOP   2·N·K·P·Q·C/G·R·S                     (the problem's own)
         bytes  p.min_bytes, and what the library adds: x and y are copied to and from blocks of channels
Limits   one image after the other, so a batch has nothing to gain; nhwc is turned by the net's first and
         last layer, Permute; no float64; what the library allocates inside is not in the declared
         workspace
Source   own; ncnn's operator and param-file descriptions (docs/developer-guide, BSD-3-Clause)
"""

from convzoo.plan import Plan
from convzoo.problem import Conv2d

from ._layer import plan_layer

ALGORITHM = "gemm"
DTYPES = ("float32",)


def plan(p: Conv2d) -> Plan:
    return plan_layer(p, use_winograd_convolution=False)
