"""A graph with one Conv node, compiled by ONNX Runtime: the engine may re-order what it knows ahead.

After    torch/packed   (new here: an inference engine, which is given the graph before the first image)
Idea     The weights are initializers of the graph, so the session re-orders them once, when it is made:
         that is what pack does. The engine computes on blocks of 8 or 16 channels (NCHWc) and puts a
         re-ordering of x before the node and one of y after it; for nhwc the graph begins and ends
         with a Transpose, which the engine merges with those re-orderings. run binds x and a fresh y
         to the session, so neither is copied on the way in or out.
Shapes   x[N,C,H,W] or [N,H,W,C] · w[K,C/G,R,S] → y[N,K,P,Q] or [N,P,Q,K]   float32
Threads  a pool in each session, whose threads spin a while for the next call, as is the library's way
Cost     FLOP   2·N·K·P·Q·C/G·R·S                     (the problem's own)
         bytes  p.min_bytes, and x and y once more each, read and written, to and from blocks
Limits   making a session takes milliseconds, which makes it a poor choice where weights change at every
         call; the library's Conv knows no float64 on the CPU; what the library allocates inside is not
         in the declared workspace
Source   own; ONNX operator Conv-11; ONNX Runtime's documentation of thread management and I/O binding
"""

import os

import numpy as np
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from convzoo.plan import Plan, Unsupported
from convzoo.problem import Conv2d

DTYPES = ("float32",)
OPSET, IR_VERSION = 13, 8  # old enough for every onnxruntime that this project allows


def one_convolution(p: Conv2d, w: np.ndarray, b: np.ndarray | None) -> bytes:
    """The model file of this problem, weights included."""
    top, bottom, left, right = p.padding
    values = {"w": w} if b is None else {"w": w, "b": b}
    x, y = ("x", "y") if p.layout == "nchw" else ("x_nchw", "y_nchw")
    nodes = [
        helper.make_node(
            "Conv", [x, *values], [y], kernel_shape=[p.R, p.S], pads=[top, left, bottom, right],
            strides=p.stride, dilations=p.dilation, group=p.groups,
        )
    ]  # fmt: skip
    if p.layout == "nhwc":
        nodes.insert(0, helper.make_node("Transpose", ["x"], [x], perm=[0, 3, 1, 2]))
        nodes.append(helper.make_node("Transpose", [y], ["y"], perm=[0, 2, 3, 1]))
    graph = helper.make_graph(
        nodes, "conv2d",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, p.x_shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, p.y_shape)],
        [numpy_helper.from_array(a, name) for name, a in values.items()],
    )  # fmt: skip
    opset = helper.make_opsetid("", OPSET)
    return helper.make_model(graph, opset_imports=[opset], ir_version=IR_VERSION).SerializeToString()


def settings(threads: int, cpus: list[int]) -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads  # the calling thread is one of them
    options.inter_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    if 1 < threads <= len(cpus):
        # all but the calling thread; the library counts processors from 1
        places = ";".join(str(cpu + 1) for cpu in cpus[1:threads])
        options.add_session_config_entry("session.intra_op_thread_affinities", places)
    return options


def plan(p: Conv2d) -> Plan:
    if p.itemsize * p.K * p.taps >= 2**31 - 2**16:
        raise Unsupported("needs weights of less than 2 GiB: a model in memory may not be larger")
    options = settings(
        int(os.environ["CONVZOO_THREADS"]),
        [int(cpu) for cpu in os.environ.get("CONVZOO_CPUS", "").split(",") if cpu],
    )

    def pack(w, b):
        model = one_convolution(p, w, b)
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    def run(x, session):
        y = np.empty(p.y_shape, np.float32)
        binding = session.io_binding()
        binding.bind_input("x", "cpu", 0, np.float32, p.x_shape, x.ctypes.data)
        binding.bind_output("y", "cpu", 0, np.float32, p.y_shape, y.ctypes.data)
        session.run_with_iobinding(binding)
        return y

    return Plan(run, pack=pack)
