"""im2col in two library calls: unfold writes every window as a column, one matrix product does the rest.

Idea     The R x S windows of all C channels that one output sees are one column of C·R·S numbers. With
         all P·Q columns side by side, the filters, one a row, times the columns are the outputs. The
         matrix product is the best-tuned routine there is; the price is R·S copies of x.
         With groups the columns split into G blocks, each with its own rows of filters: one batched
         product. For nhwc the product is taken the other way round, so that it lands in that order.
Shapes   x[N,C,H,W] or [N,H,W,C] · w[K,C/G,R,S] → y[N,K,P,Q] or [N,P,Q,K]   float32, float64
Cost     FLOP   2·N·K·P·Q·C/G·R·S                     (the problem's own)
         bytes  the columns, written and read: itemsize·2·N·C·R·S·P·Q, beside x, w and y
Limits   the columns of the whole batch are in memory at once; x is copied once by unfold, once more
         from nhwc and once more where the four paddings differ; with groups the batched product copies
         w for every image; a matrix product has no argument for its precision, so a process-wide
         switch to TF32 or bfloat16 is refused
Source   own; Chellapilla, Puri and Simard 2006, "High Performance Convolutional Neural Networks for
         Document Processing"
"""

import torch
import torch.nn.functional as F

from convzoo.plan import Plan, Unsupported
from convzoo.problem import Conv2d

ALGORITHM = "gemm"


def refuse_rounding(device: str) -> None:
    """Raise Unsupported where a process-wide switch would let float32 products be rounded first."""
    settings = getattr(torch.backends, "cuda" if device == "cuda" else "mkldnn")
    precision = getattr(getattr(settings, "matmul", None), "fp32_precision", None)
    if precision is None:  # torch before 2.9 has the older switch only
        precision = {"highest": "ieee"}.get(torch.get_float32_matmul_precision(), "tf32")
    if precision not in ("none", "ieee"):
        raise Unsupported(f"needs matrix products in full float32, but torch is set to {precision!r}")


def plan(p: Conv2d) -> Plan:
    device = torch.get_default_device().type
    strict = p.dtype == "float32" and device in ("cpu", "cuda")
    top, bottom, left, right = p.padding
    even = top == bottom and left == right  # unfold pads both sides alike; else x is padded first
    padding = (top, left) if even else (0, 0)
    G, taps, pixels = p.groups, p.taps, p.P * p.Q

    def run(x, weights):
        w, b = weights
        if strict:
            refuse_rounding(device)
        if p.layout == "nhwc":
            x = x.permute(0, 3, 1, 2).contiguous()  # unfold wants nchw
        if not even:
            x = F.pad(x, (left, right, top, bottom))
        columns = F.unfold(x, (p.R, p.S), p.dilation, padding, p.stride)
        columns = columns.view(p.N, G, taps, pixels)
        filters = w.view(G, p.K // G, taps)
        if p.layout == "nhwc":
            y = columns.mT @ filters.mT  # (N, G, P·Q, K/G)
            y = y.transpose(1, 2).reshape(p.y_shape).contiguous()
        else:
            y = (filters @ columns).view(p.y_shape)
            b = None if b is None else b[:, None, None]
        return y if b is None else y.add_(b)

    copies = 1 + (p.layout == "nhwc") + (not even)  # unfold makes one copy of its own (torch 2.13)
    tall, broad = p.padded
    elements = p.N * p.C * (p.R * p.S * pixels + copies * tall * broad)
    if G > 1:
        elements += p.N * p.K * taps  # w once for every image
        elements += p.N * p.K * pixels if p.layout == "nhwc" else 0  # y before its groups are joined
    return Plan(run, workspace=p.itemsize * elements)
