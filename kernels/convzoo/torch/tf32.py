"""Permission to round: the tensor cores multiply numbers of 11 significant bits and add in float32.

After    torch/channels_last   (new here: allow_tf32=True, line # 1)
Idea     TF32 keeps float32's range but only 11 of its 24 bits. The tensor cores of NVIDIA's GPUs since
         Ampere multiply it many times faster than float32. This is what cuDNN convolutions do in torch
         unless somebody says otherwise; here it is asked for by name, and judged as what it is.
Shapes   x[N,C,H,W] or [N,H,W,C] · w[K,C/G,R,S] → y[N,K,P,Q] or [N,P,Q,K]   float32
Cost     FLOP   2·N·K·P·Q·C/G·R·S                     (the problem's own, on the tensor cores)
         bytes  nhwc: p.min_bytes; nchw: x and y twice more each, for the conversions
Limits   CUDA only; each input is rounded once, relative error 2^-11; GPUs older than Ampere, and layers
         for which cuDNN knows nothing faster, compute in float32 all the same
Source   own; NVIDIA A100 white paper, "Tensor Float 32"; PyTorch notes "CUDA semantics"
"""

import torch
import torch.nn.functional as F

from convzoo.plan import Plan, Unsupported
from convzoo.problem import Conv2d

ACCURACY = "tf32"
DTYPES = ("float32",)


def plan(p: Conv2d) -> Plan:
    device = torch.get_default_device().type
    if device != "cuda":
        raise Unsupported(f"needs CUDA: TF32 is a mode of NVIDIA's tensor cores, not of {device}")
    top, bottom, left, right = p.padding
    even = top == bottom and left == right  # cuDNN pads both sides alike; else x is padded first
    padding = (top, left) if even else (0, 0)

    def pack(w, b):
        # clone, not contiguous: a 1x1 filter is in both orders at once, and would stay the user's array
        return w.clone(memory_format=torch.channels_last), None if b is None else b.clone()

    def convolve(x, w, b):
        transposed, output_padding = False, (0, 0)
        benchmark, deterministic, cudnn, allow_tf32 = True, False, True, True  # 1
        return torch._convolution(
            x, w, b, p.stride, padding, p.dilation, transposed, output_padding, p.groups,
            benchmark, deterministic, cudnn, allow_tf32,
        )  # fmt: skip

    def run(x, weights):
        w, b = weights
        nhwc = p.layout == "nhwc"
        x = x.permute(0, 3, 1, 2) if nhwc else x.contiguous(memory_format=torch.channels_last)
        if not even:
            x = F.pad(x, (left, right, top, bottom))
        y = convolve(x, w, b)
        return (y.permute(0, 2, 3, 1) if nhwc else y).contiguous()

    tall, broad = p.padded
    converted = p.N * (p.C * p.H * p.W + p.K * p.P * p.Q) if p.layout == "nchw" else 0
    padded = 0 if even else p.N * p.C * tall * broad
    return Plan(run, pack=pack, workspace=p.itemsize * (converted + padded))
