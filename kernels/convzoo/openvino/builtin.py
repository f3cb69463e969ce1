"""A model with one convolution, compiled by OpenVINO: constants are laid out before the first image.

After    onnxruntime/builtin   (new here: the engine picks oneDNN's kernels and the orders between them)
Idea     The weights are constants of the model, so compiling it re-orders them once: that is what pack
         does. The engine asks oneDNN for its best kernel and adds the re-orderings of x and y that it
         needs; it works in nhwc where it can, so for an nhwc problem, whose model begins and ends with a
         Transpose, most of them vanish. Compiled for latency: one stream with all threads, and float32
         asked for by name, because by default the library may compute in bfloat16.
Shapes   x[N,C,H,W] or [N,H,W,C] · w[K,C/G,R,S] → y[N,K,P,Q] or [N,P,Q,K]   float32
Threads  the library's own pool (TBB), bound to cores as is its default; calls from several threads each
         take an inference request of their own, and a compiled model keeps those for the next calls
Cost     FLOP   2·N·K·P·Q·C/G·R·S                     (the problem's own)
         bytes  p.min_bytes, and for nchw x and y once more each, read and written, to and from nhwc
Limits   compiling takes tens of milliseconds, which makes it a poor choice where weights change at every
         call; float64 would be rounded to float32 inside; an x that is read-only is copied first; what
         the library allocates inside is not in the declared workspace
Source   own; OpenVINO's documentation of the CPU device and of inference requests
"""

import os
from collections import deque

import numpy as np
import openvino
from openvino import opset13 as ops

from convzoo.plan import Plan
from convzoo.problem import Conv2d

DTYPES = ("float32",)


def one_convolution(p: Conv2d, w: np.ndarray, b: np.ndarray | None) -> openvino.Model:
    top, bottom, left, right = p.padding
    parameter = x = ops.parameter(p.x_shape, np.float32)
    where = (list(p.stride), [top, left], [bottom, right], list(p.dilation))
    if p.layout == "nhwc":
        x = ops.transpose(x, ops.constant([0, 3, 1, 2]))
    if p.groups == 1:
        y = ops.convolution(x, ops.constant(w), *where)
    else:
        split = w.reshape(p.groups, p.K // p.groups, *w.shape[1:])
        y = ops.group_convolution(x, ops.constant(split), *where)
    if b is not None:
        y = ops.add(y, ops.constant(b.reshape(1, p.K, 1, 1)))
    if p.layout == "nhwc":
        y = ops.transpose(y, ops.constant([0, 2, 3, 1]))
    return openvino.Model([y], [parameter], "conv2d")


def plan(p: Conv2d) -> Plan:
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": int(os.environ["CONVZOO_THREADS"]),
    }

    def pack(w, b):
        compiled = openvino.Core().compile_model(one_convolution(p, w, b), "CPU", settings)
        return compiled, deque([compiled.create_infer_request()])

    def run(x, weights):
        compiled, idle = weights
        try:
            request = idle.pop()
        except IndexError:  # as many calls are under way as there are requests
            request = compiled.create_infer_request()
        if not x.flags.writeable:
            x = x.copy()  # the library shares memory only with arrays that may be written to
        y = np.empty(p.y_shape, np.float32)
        request.set_input_tensor(openvino.Tensor(x, shared_memory=True))
        request.set_output_tensor(openvino.Tensor(y, shared_memory=True))
        request.infer()
        idle.append(request)
        return y

    return Plan(run, pack=pack)
