"""The library's convolution in one call: cuDNN on CUDA, oneDNN on the CPU, MPSGraph on Apple's GPU.

After    torch/unfold   (new here: no columns in memory; the library chooses the algorithm)
Idea     Say what is wanted and let the library choose how. On CUDA every setting that decides speed or
         precision is told with the call: cuDNN tries its algorithms on the first call of a shape and
         keeps the fastest, and TF32 is not allowed, whatever the process-wide switches say.
Shapes   x[N,C,H,W] or [N,H,W,C] · w[K,C/G,R,S] → y[N,K,P,Q] or [N,P,Q,K]   float32, float64
Cost     FLOP   2·N·K·P·Q·C/G·R·S                     (the problem's own)
         bytes  p.min_bytes, and what the library adds: on the CPU it copies x, w and y to and from
                blocked orders at every call; four paddings that differ copy x once more
Limits   nhwc is a view with permuted axes, which CUDA and the CPU take as it is and MPS has copied; on
         CUDA the library may choose Winograd or FFT, which keep only a normwise bound; what the library
         allocates inside is not in the declared workspace
Source   own; PyTorch, aten/src/ATen/native/Convolution.cpp (BSD-3-Clause), read for its arguments
"""

import torch
import torch.nn.functional as F

from convzoo.plan import Plan
from convzoo.problem import Conv2d


def plan(p: Conv2d) -> Plan:
    device = torch.get_default_device().type
    top, bottom, left, right = p.padding
    even = top == bottom and left == right  # the library pads both sides alike; else x is padded first
    padding = (top, left) if even else (0, 0)

    def convolve(x, w, b):
        if device != "cuda":
            return F.conv2d(x, w, b, p.stride, padding, p.dilation, p.groups)
        transposed, output_padding = False, (0, 0)
        benchmark, deterministic, cudnn, allow_tf32 = True, False, True, False
        return torch._convolution(
            x, w, b, p.stride, padding, p.dilation, transposed, output_padding, p.groups,
            benchmark, deterministic, cudnn, allow_tf32,
        )  # fmt: skip

    def run(x, weights):
        w, b = weights
        if p.layout == "nhwc":
            x = x.permute(0, 3, 1, 2)
        if not even:
            x = F.pad(x, (left, right, top, bottom))
        if device == "mps":
            x = x.contiguous()  # MPS has read other memory orders wrongly, and silently
        y = convolve(x, w, b)
        return (y.permute(0, 2, 3, 1) if p.layout == "nhwc" else y).contiguous()

    tall, broad = p.padded
    copied = not even or (device == "mps" and p.layout == "nhwc")
    return Plan(run, workspace=p.itemsize * p.N * p.C * tall * broad if copied else 0)
