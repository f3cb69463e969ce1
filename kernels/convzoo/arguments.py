"""One validator for every kernel: TypeError for a wrong kind, ValueError for a wrong value.

It runs before any backend is called, because two well-known libraries hang or abort on input that is
refused here. The wording is always ``conv2d: <argument> <rule>, got <value>``; the first fault wins.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any

import numpy as np

from . import limits
from .problem import Conv2d, pair, whole

DTYPES = ("float32", "float64")


def library(a: Any) -> str | None:
    """The library that array ``a`` belongs to: numpy, torch, cupy, numba_cuda; None if it is no array.

    A subclass counts as its library's own array, unless its numbers are not simply in its memory.
    """
    if isinstance(a, np.ndarray):
        return None if isinstance(a, np.ma.MaskedArray) else "numpy"
    for name, kind in (("torch", "Tensor"), ("cupy", "ndarray")):
        module = sys.modules.get(name)
        if module is not None and isinstance(a, whole := getattr(module, kind, ())):
            dispatch = getattr(whole, "__torch_dispatch__", None)
            return name if getattr(type(a), "__torch_dispatch__", None) is dispatch else None
    if hasattr(type(a), "copy_to_host") and hasattr(a, "dtype"):
        return "numba_cuda"
    return None


def dtype_name(a: Any) -> str:
    """float32, float64 ...; the same name for both byte orders."""
    return a.dtype.name if isinstance(a.dtype, np.dtype) else str(a.dtype).rpartition(".")[2]


def check(
    x: Any, w: Any, bias: Any, stride: Any, padding: Any, dilation: Any, groups: Any, layout: Any
) -> Conv2d:
    """The problem that these arguments describe. Raises TypeError or ValueError as the module says."""
    _check_arrays({"x": x, "w": w} | ({} if bias is None else {"bias": bias}))
    _check_layout(layout)
    if len(x.shape) != 4:
        axes = "(N, C, H, W)" if layout == "nchw" else "(N, H, W, C)"
        raise ValueError(f"conv2d: x must be 4-D {axes}, got shape {tuple(x.shape)}")
    _check_weights(w, bias)
    N, C, H, W = map(int, x.shape)
    if layout == "nhwc":
        C, H, W = W, C, H
    p = _problem((N, C, H, W), w, bias, stride, padding, dilation, groups, layout)
    _check_memory(p)
    return p


def check_layer(
    w: Any, bias: Any, stride: Any, padding: Any, dilation: Any, groups: Any, layout: Any
) -> None:
    """Everything that ``check`` can say before an x is known."""
    _check_arrays({"w": w} | ({} if bias is None else {"bias": bias}))
    _check_layout(layout)
    _check_weights(w, bias)
    channels, R, S = map(int, w.shape[1:])
    high, wide = pair("dilation", dilation)
    fits = (max(1, high) * R, max(1, wide) * S)
    C = channels * max(1, whole("groups", groups))
    _problem((0, C, *fits), w, bias, stride, padding, dilation, groups, layout)


def check_choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
    """Raise unless ``value`` is one of ``choices``."""
    if not isinstance(value, str) or value not in choices:
        kind = ValueError if isinstance(value, str) else TypeError
        raise kind(f"conv2d: {name} must be one of {', '.join(choices)}, got {value!r}")


def _check_layout(layout: Any) -> None:
    if not isinstance(layout, str):
        raise TypeError(f"conv2d: layout must be 'nchw' or 'nhwc', got {layout!r}")
    if layout not in ("nchw", "nhwc"):
        raise ValueError(f"conv2d: layout must be 'nchw' or 'nhwc', got {layout!r}")


def _check_weights(w: Any, bias: Any) -> None:
    if len(w.shape) != 4:
        raise ValueError(f"conv2d: w must be 4-D (K, C/groups, R, S), got shape {tuple(w.shape)}")
    if bias is not None and tuple(bias.shape) != (w.shape[0],):
        raise ValueError(
            f"conv2d: bias must be 1-D of length K={w.shape[0]}, got shape {tuple(bias.shape)}"
        )


def _problem(
    sizes: tuple[int, int, int, int], w: Any, bias: Any,
    stride: Any, padding: Any, dilation: Any, groups: Any, layout: str,
) -> Conv2d:  # fmt: skip
    K, channels, R, S = map(int, w.shape)
    stride = pair("stride", stride)
    sides = _four_sides(padding, stride, dilation := pair("dilation", dilation), (R, S))
    groups = whole("groups", groups)
    if min(stride + dilation) >= 1 and min(sides) < 0:
        raise ValueError(f"conv2d: padding must be >= 0, got {padding!r}")
    p = Conv2d(
        *sizes, K, R, S, stride=stride, padding=sides, dilation=dilation,
        groups=groups, bias=bias is not None, dtype=dtype_name(w), layout=layout,
    )  # fmt: skip
    if channels != p.C // p.groups:
        raise ValueError(
            f"conv2d: w must have C/groups = {p.C // p.groups} input channels per group, got {channels}"
        )
    # what no output feels is 1, or the least: a kernel counts in integers of 64 bits
    (tall, broad), (high, wide) = p.padded, p.extent
    return replace(
        p,
        stride=(min(p.stride[0], tall - high + 1), min(p.stride[1], broad - wide + 1)),
        dilation=(p.dilation[0] if R > 1 else 1, p.dilation[1] if S > 1 else 1),
    )


def _check_arrays(arrays: dict[str, Any]) -> None:
    owners = {name: library(a) for name, a in arrays.items()}
    for name, owner in owners.items():
        if owner is None:
            raise TypeError(f"conv2d: {name} must be an array, got {type(arrays[name]).__name__}")
    dtypes = {name: dtype_name(a) for name, a in arrays.items()}
    for name, dtype in dtypes.items():
        if dtype == "object":
            raise TypeError(f"conv2d: {name} must be an array of numbers, got dtype object")
        if dtype not in DTYPES:
            raise TypeError(f"conv2d: {name} dtype must be float32 or float64, got {dtype}")
    for what, values in (("share one dtype", dtypes), ("come from one library", owners)):
        if len(set(values.values())) > 1:
            raise TypeError(f"conv2d: x, w and bias must {what}, got {', '.join(values.values())}")  # type: ignore[arg-type]
    if "torch" in owners.values():
        for name, a in arrays.items():
            if a.requires_grad:
                raise ValueError(
                    f"conv2d: {name} must not require grad (no kernel here computes one; pass "
                    f"{name}.detach()), got requires_grad=True"
                )
            if str(a.layout) != "torch.strided":
                raise TypeError(f"conv2d: {name} must be a dense tensor, got layout {a.layout}")


def _four_sides(
    padding: Any, stride: tuple[int, int], dilation: tuple[int, int], kernel: tuple[int, int]
) -> tuple[int, int, int, int]:
    """``padding`` as (top, bottom, left, right); "same" puts the odd pixel at the end, as torch does."""
    if isinstance(padding, str):
        if padding == "valid":
            return (0, 0, 0, 0)
        if padding != "same":
            raise ValueError(f"conv2d: padding must be 'same', 'valid' or ints, got {padding!r}")
        if stride != (1, 1):
            raise ValueError(f"conv2d: padding 'same' must have stride 1, got stride {stride}")
        h, w = (max(0, d * (n - 1)) for d, n in zip(dilation, kernel, strict=True))
        return (h // 2, h - h // 2, w // 2, w - w // 2)
    if isinstance(padding, (tuple, list)) and any(isinstance(v, (tuple, list)) for v in padding):
        if len(padding) != 2 or not all(isinstance(v, (tuple, list)) and len(v) == 2 for v in padding):
            raise ValueError(
                "conv2d: padding must be an int, a pair or ((top, bottom), (left, right)), "
                f"got {padding!r}"
            )
        return pair("padding", padding[0]) + pair("padding", padding[1])
    h, w = pair("padding", padding)
    return (h, h, w, w)


def _check_memory(p: Conv2d) -> None:
    """Refuse what no machine like this one can hold, before anything is allocated."""
    memory = limits.memory() or 2**46
    tall, broad = p.padded
    sizes = {"y": p.N * p.K * p.P * p.Q, "the padded x": p.N * p.C * tall * broad}
    for name, elements in sizes.items():
        if elements * p.itemsize > memory:
            raise ValueError(
                f"conv2d: {name} must fit in memory ({memory / 2**30:.1f} GiB), "
                f"got {elements * p.itemsize / 2**30:.1f} GiB"
            )
