"""A net of one convolution layer in ncnn, which does 3 x 3 filters by Winograd on x86, too.

After    onnxruntime/builtin   (new here: fewer multiplications, by Winograd's algorithm)
Idea     ncnn is written for phones and has hand-made kernels for AVX-512 beside those for NEON. At stride
         1 it gives 3 x 3 filters to Winograd's F(2x2), F(4x4) or F(6x6), by a table of sizes, others to
         a matrix product or to direct loops on 16 channels at a time. The weights are transformed when
         the net is loaded: that is what pack does. float16 and bfloat16 storage are switched off, and
         F(4x4), which blows the weights up four times, where few pixels share the reading of many: F(2x2)
         then steps in and halves the time of 512 channels at 7 x 7, against the library's own choice.
Shapes   x[N,C,H,W] or [N,H,W,C] · w[K,C/G,R,S] → y[N,K,P,Q] or [N,P,Q,K]   float32
Threads  OpenMP, as many as the net was told
Cost     FLOP   2·N·K·P·Q·C/G·R·S for the definition; Winograd multiplies up to 5.06 times less
         bytes  p.min_bytes, and what the library adds: x and y are copied to and from blocks of channels
Limits   normwise accuracy where it chooses Winograd; one image after the other, so a batch has nothing to
         gain; nhwc is turned by the net's first and last layer, Permute; no float64; what the library
         allocates inside is not in the declared workspace
Source   own; ncnn's operator and param-file descriptions (docs/developer-guide, BSD-3-Clause)
"""

from convzoo.plan import Plan
from convzoo.problem import Conv2d

from ._layer import plan_layer

ALGORITHM = "winograd"
ACCURACY = "normwise"
DTYPES = ("float32",)
MANY_WEIGHTS, FEW_PIXELS = 2**17, 256  # for one tap; in one image. Measured with 32 MB of L3


def plan(p: Conv2d) -> Plan:
    heavy = p.K * p.C // p.groups >= MANY_WEIGHTS and p.P * p.Q <= FEW_PIXELS
    return plan_layer(p, use_winograd43_convolution=not heavy)
