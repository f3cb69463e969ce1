"""The memory order that the libraries prefer: the channels of one pixel lie side by side.

After    torch/builtin   (new here: x and w in the order N, H, W, C; lines # 1 and # 2)
Idea     A product over channels reads neighbours when the channel is the fastest axis, so oneDNN's and
         cuDNN's best kernels want that order and convert anything else. Weights are put in it once, by
         pack. An nhwc problem has it already: its x, seen with permuted axes, is this order, and so is
         the result. An nchw problem is converted inside run, x on the way in and y on the way out.
Shapes   x[N,C,H,W] or [N,H,W,C] · w[K,C/G,R,S] → y[N,K,P,Q] or [N,P,Q,K]   float32, float64
Cost     FLOP   2·N·K·P·Q·C/G·R·S                     (the problem's own)
         bytes  nhwc: p.min_bytes; nchw: x and y twice more each, for the conversions
Limits   the CPU and CUDA only: MPS has read this order wrongly, and silently; on CUDA the library may
         choose Winograd or FFT, which keep only a normwise bound; the library's own workspace is not
         counted
Source   own; PyTorch's tutorial "Channels Last Memory Format in PyTorch"
"""

import torch
import torch.nn.functional as F

from convzoo.plan import Plan, Unsupported
from convzoo.problem import Conv2d


def plan(p: Conv2d) -> Plan:
    device = torch.get_default_device().type
    if device not in ("cpu", "cuda"):
        raise Unsupported(f"needs the CPU or CUDA: {device} is known to misread channels_last arrays")
    top, bottom, left, right = p.padding
    even = top == bottom and left == right  # the library pads both sides alike; else x is padded first
    padding = (top, left) if even else (0, 0)

    def pack(w, b):
        # clone, not contiguous: a 1x1 filter is in both orders at once, and would stay the user's array
        return w.clone(memory_format=torch.channels_last), None if b is None else b.clone()  # 1

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
        nhwc = p.layout == "nhwc"
        x = x.permute(0, 3, 1, 2) if nhwc else x.contiguous(memory_format=torch.channels_last)  # 2
        if not even:
            x = F.pad(x, (left, right, top, bottom))
        y = convolve(x, w, b)
        return (y.permute(0, 2, 3, 1) if nhwc else y).contiguous()

    tall, broad = p.padded
    converted = p.N * (p.C * p.H * p.W + p.K * p.P * p.Q) if p.layout == "nchw" else 0
    padded = 0 if even else p.N * p.C * tall * broad
    return Plan(run, pack=pack, workspace=p.itemsize * (converted + padded))
