"""Weights re-ordered ahead: oneDNN's blocked format is made once, not at every call.

After    torch/channels_last   (new here: pack asks the library for its own weight format)
Idea     oneDNN's kernels want weights in blocks of 16 output channels, and the ordinary call re-orders
         them every time: for a layer of many channels and few pixels that costs more than the sums.
         Inference engines do it once. Here pack does, and run hands over the finished blocks. The best
         format depends on the size of x, so plan passes it on.
Shapes   x[N,C,H,W] or [N,H,W,C] · w[K,C/G,R,S] → y[N,K,P,Q] or [N,P,Q,K]   float32
Cost     FLOP   2·N·K·P·Q·C/G·R·S                     (the problem's own)
         bytes  nhwc: p.min_bytes; nchw: x and y twice more each, for the conversions
Limits   the CPU only, with a torch that has oneDNN; the two operators are the ones that
         torch.compile's freezing uses, not public ones; nhwc is the order it works in, so an nchw
         problem is converted inside run
Source   own; PyTorch, torch/_inductor/fx_passes/mkldnn_fusion.py (BSD-3-Clause), read for the arguments
"""

import torch
import torch.nn.functional as F

from convzoo.plan import Plan, Unsupported
from convzoo.problem import Conv2d

DTYPES = ("float32",)


def plan(p: Conv2d) -> Plan:
    device = torch.get_default_device().type
    if device != "cpu":
        raise Unsupported(f"needs the CPU: oneDNN's weight format means nothing to {device}")
    if not torch.backends.mkldnn.is_available():
        raise Unsupported("needs a torch built with oneDNN (torch.backends.mkldnn.is_available())")
    convolve = torch.ops.mkldnn._convolution_pointwise.default
    reorder = torch.ops.mkldnn._reorder_convolution_weight.default
    top, bottom, left, right = p.padding
    even = top == bottom and left == right  # the library pads both sides alike; else x is padded first
    padding = (top, left) if even else (0, 0)
    size = (p.N, p.C, p.H, p.W) if even else (p.N, p.C, *p.padded)

    def pack(w, b):
        blocks = reorder(w, padding, p.stride, p.dilation, p.groups, size)
        return blocks, None if b is None else b.clone()

    def run(x, weights):
        blocks, b = weights
        nhwc = p.layout == "nhwc"
        x = x.permute(0, 3, 1, 2) if nhwc else x.contiguous(memory_format=torch.channels_last)
        if not even:
            x = F.pad(x, (left, right, top, bottom))
        y = convolve(x, blocks, b, padding, p.stride, p.dilation, p.groups, "none", [], "")
        return (y.permute(0, 2, 3, 1) if nhwc else y).contiguous()

    tall, broad = p.padded
    converted = p.N * (p.C * p.H * p.W + p.K * p.P * p.Q) if p.layout == "nchw" else 0
    padded = 0 if even else p.N * p.C * tall * broad
    return Plan(run, pack=pack, workspace=p.itemsize * (converted + padded))
