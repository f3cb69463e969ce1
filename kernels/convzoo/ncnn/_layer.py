"""A net of one convolution, as ncnn wants it told: lines of text for the layers, bytes for the weights."""

import os

import ncnn
import numpy as np

from convzoo.plan import Plan, Unsupported
from convzoo.problem import Conv2d

NARROW = {  # every way in which the library may store or compute in fewer bits
    "use_fp16_packed": False, "use_fp16_storage": False, "use_fp16_arithmetic": False,
    "use_bf16_packed": False, "use_bf16_storage": False,
}  # fmt: skip


def text(p: Conv2d) -> str:
    """The param file: a magic number, how many layers and blobs, and a line for each layer.

    A layer's line is its kind, name, numbers of inputs and outputs, their names, and settings by
    number, as ncnn's table of operators lists them.
    """
    top, bottom, left, right = p.padding
    kind = "Convolution" if p.groups == 1 else "ConvolutionDepthWise"  # depthwise takes any groups
    settings = {
        0: p.K, 1: p.S, 11: p.R, 2: p.dilation[1], 12: p.dilation[0], 3: p.stride[1], 13: p.stride[0],
        4: left, 15: right, 14: top, 16: bottom, 5: int(p.bias), 6: p.K * p.taps,
    }  # fmt: skip
    if p.groups > 1:
        settings[7] = p.groups
    x, y = ("x", "y") if p.layout == "nchw" else ("x_chw", "y_chw")
    numbers = " ".join(f"{key}={value}" for key, value in settings.items())
    lines = ["Input x 0 1 x", f"{kind} conv2d 1 1 {x} {y} {numbers}"]
    if p.layout == "nhwc":  # 4 and 3 are the orders h-w-c to c-h-w and back
        lines.insert(1, f"Permute first 1 1 x {x} 0=4")
        lines.append(f"Permute last 1 1 {y} y 0=3")
    return "\n".join(["7767517", f"{len(lines)} {len(lines)}", *lines, ""])


def plan_layer(p: Conv2d, **options: bool) -> Plan:
    """A plan whose pack builds the net with these options, and whose run gives it image after image."""
    tall, broad = p.padded
    if max(p.K * p.taps, tall * broad) >= 2**31:
        raise Unsupported(
            "needs fewer than 2**31 weights and pixels in a plane: ncnn counts in 32 bits"
        )
    threads = int(os.environ["CONVZOO_THREADS"])
    # ncnn's own planes begin at multiples of 16 bytes. An array whose planes do not is taken all the
    # same, and then read at wrong places where channels are split into groups: it has to be copied.
    aligned = p.x_shape[2] * p.x_shape[3] % 4 == 0

    def pack(w, b):
        net = ncnn.Net()
        net.opt.num_threads = threads
        for name, value in (NARROW | options).items():
            setattr(net.opt, name, value)
        weights = bytes(4) + w.tobytes() + (b"" if b is None else b.tobytes())  # four 0: plain float32
        if net.load_param_mem(text(p)) != 0:
            raise RuntimeError(f"ncnn does not take the layer:\n{text(p)}")
        net.load_model_mem(weights)
        return net

    def convolve(image, net):
        image = ncnn.Mat(image)
        with net.create_extractor() as extractor:
            extractor.input("x", image if aligned else image.clone())
            status, y = extractor.extract("y")
        if status != 0:
            raise RuntimeError(f"ncnn failed with status {status}")
        return y.numpy()

    def run(x, net):
        if p.N == 1:
            y = convolve(x[0], net)[None]  # ncnn's own memory, which y keeps alive
            # ncnn begins each plane at a multiple of 16 bytes: there may be gaps
            return y if y.flags.c_contiguous else np.ascontiguousarray(y)
        y = np.empty(p.y_shape, np.float32)
        for n in range(p.N):
            y[n] = convolve(x[n], net)
        return y

    x_copy = 0 if aligned else p.C * p.H * p.W
    y_copy = 0 if p.N == 1 and p.y_shape[2] * p.y_shape[3] % 4 == 0 else p.K * p.P * p.Q
    return Plan(run, pack=pack, workspace=p.itemsize * (x_copy + y_copy))
