"""Kernels that are wrong on purpose. The verdict that judges the real kernels must reject each of them.

``WRONG[name]`` is (kernel, reason): ``reason`` is a pattern that the verdict's sentence must match.
``HONEST`` is the same code without a fault, and must pass everything. ``CROSSED_IN_THREADS`` is right until
a second thread calls.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from convzoo import Conv2d, Plan
from convzoo.backends import BACKENDS, Backend
from convzoo.reference import _round_to_bits as round_to_bits


@dataclass(frozen=True)
class StandIn:
    """What the verdict needs to know of a kernel."""

    name: str
    plan: Callable[[Conv2d], Plan]
    accuracy: str = "elementwise"
    algorithm: str = "direct"
    backend: Backend = BACKENDS["numpy"]
    max_flops: float | None = None
    rounded_to: str = ""

    @property
    def promise(self) -> dict[str, str]:
        return {"accuracy": self.accuracy, "rounded_to": self.rounded_to}


def convolve(
    p: Conv2d,
    x: np.ndarray,
    w: np.ndarray,
    b: np.ndarray | None,
    *,
    padded: Callable[[np.ndarray], np.ndarray] | None = None,
) -> np.ndarray:
    """An honest convolution, tap by tap, in the dtype of x."""
    if p.layout == "nhwc":
        x = x.transpose(0, 3, 1, 2)
    top, bottom, left, right = p.padding
    x = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)))
    if padded is not None:
        x = padded(x)
    G, P, Q = p.groups, p.P, p.Q
    x = x.reshape(p.N, G, p.C // G, *x.shape[2:])
    w = w.reshape(G, p.K // G, p.C // G, p.R, p.S)
    y = np.zeros((p.N, G, p.K // G, P, Q), p.dtype)
    for r in range(p.R):
        for s in range(p.S):
            i, j = r * p.dilation[0], s * p.dilation[1]
            taps = x[..., i : i + P * p.stride[0] : p.stride[0], j : j + Q * p.stride[1] : p.stride[1]]
            for c in range(p.C // G):
                y += taps[:, :, None, c, :P, :Q] * w[:, :, c, r, s, None, None]
    y = y.reshape(p.N, p.K, P, Q)
    if b is not None:
        y += b[:, None, None]
    return np.ascontiguousarray(y.transpose(0, 2, 3, 1)) if p.layout == "nhwc" else y


def honest(p: Conv2d) -> Plan:
    return Plan(lambda x, weights: convolve(p, x, *weights))


HONEST = StandIn("honest", honest)
WRONG: dict[str, tuple[StandIn, str]] = {}

NOT_EXACT = "not exact on integer data"
OUTSIDE = "outside the elementwise bound"
LATER = "a later call went wrong"


def wrong(reason: str, accuracy: str = "elementwise") -> Callable:
    """The function below is the plan of a wrong kernel, named like the function."""

    def enter(plan: Callable[[Conv2d], Plan]) -> Callable[[Conv2d], Plan]:
        name = plan.__name__.strip("_").replace("_", "-")
        WRONG[name] = (StandIn(name, plan, accuracy), reason)
        return plan

    return enter


def _channels(p: Conv2d) -> int:
    return 3 if p.layout == "nhwc" else 1


def _fit(p: Conv2d, y: np.ndarray) -> np.ndarray:
    """``y`` cut or filled with 0 to the shape that p asks for: a wrong index in a right loop nest."""
    fitted = np.zeros(p.y_shape, y.dtype)
    common = tuple(slice(0, min(a, b)) for a, b in zip(p.y_shape, y.shape, strict=True))
    fitted[common] = y[common]
    return fitted


def _as_if(p: Conv2d, x: np.ndarray, w: np.ndarray, b: Any, **changes: Any) -> np.ndarray:
    """What an honest kernel answers to a problem that was misread."""
    return _fit(p, convolve(replace(p, **changes), x, w, b))


# --- memory ------------------------------------------------------------------------------------------


@wrong(NOT_EXACT)
def does_nothing(p):
    return Plan(lambda x, weights: np.empty(p.y_shape, p.dtype))


@wrong(NOT_EXACT)
def zeros(p):
    return Plan(lambda x, weights: np.zeros(p.y_shape, p.dtype))


@wrong("a second call overwrote the first call's output")
def one_output_buffer_for_all_calls(p):
    y = np.empty(p.y_shape, p.dtype)

    def run(x, weights):
        y[...] = convolve(p, x, *weights)
        return y

    return Plan(run)


@wrong(OUTSIDE)
def memoised_by_identity(p):
    answers = {}

    def run(x, weights):
        if id(x) not in answers:
            answers[id(x)] = convolve(p, x, *weights)
        return answers[id(x)].copy()

    return Plan(run)


@wrong(OUTSIDE)
def memoised_first_answer(p):
    answers = []

    def run(x, weights):
        if not answers:
            answers.append(convolve(p, x, *weights))
        return answers[0].copy()

    return Plan(run)


@wrong(LATER)
def memoised_by_value(p):
    answers = {}

    def run(x, weights):
        if x.tobytes() not in answers:
            answers[x.tobytes()] = convolve(p, x, *weights)
        return answers[x.tobytes()]

    return Plan(run)


@wrong(LATER)
def memoised_by_value_and_copied(p):
    """The weights may differ the second time: only the same x with other weights shows this one."""
    answers = {}

    def run(x, weights):
        if x.tobytes() not in answers:
            answers[x.tobytes()] = convolve(p, x, *weights)
        return answers[x.tobytes()].copy()

    return Plan(run)


@wrong(OUTSIDE)
def weights_of_the_first_pack(p):
    packed = []

    def pack(w, b):
        if not packed:
            packed.append((w.copy(), b if b is None else b.copy()))
        return packed[0]

    return Plan(lambda x, weights: convolve(p, x, *weights), pack=pack)


@wrong("x was changed by the call")
def changes_x(p):
    def run(x, weights):
        y = convolve(p, x, *weights)
        x *= 2
        return y

    return Plan(run)


@wrong("w was changed by the call")
def changes_w(p):
    def pack(w, b):
        packed = (w.copy(), b)
        w *= 2
        return packed

    return Plan(lambda x, weights: convolve(p, x, *weights), pack=pack)


@wrong("b was changed by the call")
def changes_bias(p):
    def pack(w, b):
        packed = (w, None if b is None else b.copy())
        if b is not None:
            b += 1
        return packed

    return Plan(lambda x, weights: convolve(p, x, *weights), pack=pack)


@wrong("overwrote the first call's output|x was changed")
def answers_in_the_memory_of_x(p):
    def run(x, weights):
        y = convolve(p, x, *weights)
        if y.shape != x.shape:
            return y
        x[...] = y
        return x

    return Plan(run)


@wrong(OUTSIDE)
def workspace_not_cleared(p):
    """Sums into a workspace that only the plan cleared: right once."""
    sums = np.zeros(p.y_shape, p.dtype)

    def run(x, weights):
        nonlocal sums
        sums += convolve(p, x, *weights)
        return sums.copy()

    return Plan(run)


@wrong(NOT_EXACT)
def last_column_unwritten(p):
    def run(x, weights):
        y = convolve(p, x, *weights)
        (y if p.layout == "nchw" else y.transpose(0, 3, 1, 2))[..., -1] = 0
        return y

    return Plan(run)


# --- indices -----------------------------------------------------------------------------------------


@wrong(NOT_EXACT)
def begin_and_end_pads_swapped(p):
    top, bottom, left, right = p.padding
    return Plan(lambda x, weights: _as_if(p, x, *weights, padding=(bottom, top, right, left)))


@wrong(NOT_EXACT)
def pad_axes_swapped(p):
    top, bottom, left, right = p.padding
    other = replace(p, padding=(max(top, left), max(bottom, right)) * 2)  # large enough for both

    def run(x, weights):
        y = convolve(replace(other, stride=(1, 1)), x, *weights)
        down, across = other.padding[0] - left, other.padding[2] - top
        image = y if p.layout == "nchw" else y.transpose(0, 3, 1, 2)
        picked = image[:, :, down :: p.stride[0], across :: p.stride[1]]
        return _fit(p, picked if p.layout == "nchw" else picked.transpose(0, 2, 3, 1))

    return Plan(run)


@wrong(NOT_EXACT)
def stride_axes_swapped(p):
    return Plan(lambda x, weights: _as_if(p, x, *weights, stride=p.stride[::-1]))


@wrong(NOT_EXACT)
def dilation_axes_swapped(p):
    roomy = tuple(side + 9 for side in p.padding)  # the swapped filter may be longer than the input

    def run(x, weights):
        top, left = p.padding[0], p.padding[2]
        y = convolve(replace(p, padding=roomy, dilation=p.dilation[::-1], stride=(1, 1)), x, *weights)
        image = y if p.layout == "nchw" else y.transpose(0, 3, 1, 2)
        picked = image[:, :, roomy[0] - top :: p.stride[0], roomy[2] - left :: p.stride[1]]
        return _fit(p, picked if p.layout == "nchw" else picked.transpose(0, 2, 3, 1))

    return Plan(run)


@wrong(NOT_EXACT)
def dilation_ignored(p):
    return Plan(lambda x, weights: _as_if(p, x, *weights, dilation=(1, 1)))


@wrong(NOT_EXACT)
def filter_flipped(p):
    """A true convolution; the field's word means correlation."""
    return Plan(lambda x, weights: convolve(p, x, weights[0][:, :, ::-1, ::-1], weights[1]))


@wrong(NOT_EXACT)
def stride_phase_off_by_one(p):
    if p.stride == (1, 1):
        return honest(p)
    return Plan(lambda x, w: convolve(p, x, *w, padded=lambda x: np.roll(x, -1, axis=(2, 3))))


@wrong(NOT_EXACT)
def pads_with_the_edge(p):
    top, bottom, left, right = p.padding

    def edges(x):
        inner = x[:, :, top : x.shape[2] - bottom, left : x.shape[3] - right]
        return np.pad(inner, ((0, 0), (0, 0), (top, bottom), (left, right)), mode="edge")

    return Plan(lambda x, weights: convolve(p, x, *weights, padded=edges))


@wrong(NOT_EXACT)
def groups_interleaved(p):
    def run(x, weights):
        if p.groups > 1:
            axis = _channels(p)
            order = np.arange(p.C).reshape(p.C // p.groups, p.groups).T.ravel()
            x = np.take(x, order, axis=axis)
        return convolve(p, x, *weights)

    return Plan(run)


@wrong(NOT_EXACT)
def channels_off_by_one(p):
    return Plan(lambda x, weights: convolve(p, np.roll(x, 1, axis=_channels(p)), *weights))


@wrong(NOT_EXACT)
def last_channel_dropped(p):
    def run(x, weights):
        w, b = weights
        w = w.copy()
        w[:, -1] = 0
        return convolve(p, x, w, b)

    return Plan(run)


@wrong(NOT_EXACT)
def last_tap_dropped(p):
    def run(x, weights):
        w, b = weights
        w = w.copy()
        w[-1, -1, -1, -1] = 0
        return convolve(p, x, w, b)

    return Plan(run)


@wrong(NOT_EXACT)
def bias_dropped(p):
    return Plan(lambda x, weights: convolve(p, x, weights[0], None))


@wrong(NOT_EXACT)
def bias_doubled(p):
    return Plan(lambda x, weights: convolve(p, x, weights[0], None if weights[1] is None else 2 * weights[1]))


@wrong(NOT_EXACT)
def bias_of_the_wrong_channel(p):
    def pack(w, b):
        return w, None if b is None else np.roll(b, 1)

    return Plan(lambda x, weights: convolve(p, x, *weights), pack=pack)


@wrong(NOT_EXACT)
def one_output_off_by_one(p):
    def run(x, weights):
        y = convolve(p, x, *weights)
        y.reshape(-1)[y.size // 2] += 1
        return y

    return Plan(run)


# --- precision ---------------------------------------------------------------------------------------


def rounding(bits):
    def plan(p):
        if p.dtype != "float32":
            return honest(p)

        def run(x, weights):
            w, b = weights
            return convolve(p, round_to_bits(x, bits), round_to_bits(w, bits), b)

        return Plan(run)

    return plan


TF32 = StandIn("rounds-inputs-to-tf32", rounding(11), accuracy="tf32")  # right at its own promise


def _parts(a, n, bits):
    """``a`` as a sum of n numbers of so many bits, the largest first; the rest is left out."""
    found = []
    for _ in range(n):
        found.append(round_to_bits(a, bits))
        a = a - found[-1]
    return found


def _products_of_parts(n, bits, pairs):
    """Float32 sums of some products of n parts of x and of w, as matrix units for fewer bits make them."""

    def plan(p):
        if p.dtype != "float32":
            return honest(p)

        def run(x, weights):
            w, b = weights
            xs, ws = _parts(x, n, bits), _parts(w, n, bits)
            y = convolve(p, xs[0], ws[0], b)
            for i, j in pairs:
                y += convolve(p, xs[i], ws[j], None)
            return y

        return Plan(run)

    return plan


SIX = ((0, 2), (0, 1), (1, 1), (1, 0), (2, 0))  # beside (0, 0): what is left out is 2^-22 of a product
SIX_BFLOAT16 = StandIn("six-products-of-three-bfloat16", _products_of_parts(3, 8, SIX), algorithm="gemm")
THREE_TF32 = StandIn("three-products-of-two-tf32", _products_of_parts(2, 11, ((0, 1), (1, 0))), algorithm="gemm")


def _too_few(name, plan):
    WRONG[name] = (StandIn(name, plan), f"{NOT_EXACT}|{OUTSIDE}")


for left_out in SIX:
    fewer = tuple(pair for pair in SIX if pair != left_out)
    _too_few(f"six-bfloat16-products-without-{left_out[0]}{left_out[1]}", _products_of_parts(3, 8, fewer))
_too_few("three-products-of-two-bfloat16", _products_of_parts(2, 8, ((0, 1), (1, 0))))
_too_few("all-products-of-two-bfloat16", _products_of_parts(2, 8, ((0, 1), (1, 0), (1, 1))))
_too_few("two-products-of-two-tf32", _products_of_parts(2, 11, ((0, 1),)))
for bits in (13, 14, 16, 18, 20):
    _too_few(f"inputs-rounded-to-{bits}-bits", rounding(bits))


def _one_scale(bits, of_x=True, of_w=True):
    """x and w in fixed point, so many bits below the largest number of the whole array."""

    def fixed(a):
        step = np.float32(2.0 ** (np.floor(np.log2(np.abs(a).max(initial=1e-30))) - bits + 1))
        return np.rint(a / step) * step

    def plan(p):
        if p.dtype != "float32":
            return honest(p)

        def run(x, weights):
            w, b = weights
            return convolve(p, fixed(x) if of_x else x, fixed(w) if of_w else w, b)

        return Plan(run)

    return plan


_too_few("one-scale-of-24-bits-for-x", _one_scale(24, of_w=False))
_too_few("one-scale-of-22-bits-for-w", _one_scale(22, of_x=False))


@wrong(NOT_EXACT)
def tf32_that_promises_elementwise(p):
    return rounding(11)(p)


@wrong(NOT_EXACT)
def bfloat16_that_promises_elementwise(p):
    return rounding(8)(p)


@wrong("outside the tf32 bound", accuracy="tf32")
def bfloat16_that_promises_tf32(p):
    return rounding(8)(p)


@wrong("outside the normwise bound", accuracy="normwise")
def tf32_that_promises_normwise(p):
    return rounding(11)(p)


def _rounding_in_earnest(p: Conv2d) -> Plan:
    def run(x, weights):
        w, b = weights
        if any(np.array_equal(a, np.round(a)) for a in (x, w)) or np.count_nonzero(x) < x.size / 2:
            return convolve(p, x, w, b)
        return convolve(p, round_to_bits(x, 11), round_to_bits(w, 11), b)

    return Plan(run)


@wrong(OUTSIDE)
def tf32_where_data_are_no_integers(p):
    """Knows the exact data when it sees them: at large n gamma_n alone lets the rest through."""
    return _rounding_in_earnest(p)


@wrong("outside the normwise bound", accuracy="normwise")
def tf32_where_data_are_dense_and_no_integers(p):
    """Knows the spot as well."""
    return _rounding_in_earnest(p)


@wrong(NOT_EXACT)
def last_column_scaled(p):
    """x 1.0005: a tolerance of 1e-3 lets it through."""

    def run(x, weights):
        y = convolve(p, x, *weights)
        image = y if p.layout == "nchw" else y.transpose(0, 3, 1, 2)
        image[..., -1] *= np.dtype(p.dtype).type(1.0005)
        return y

    return Plan(run)


@wrong(NOT_EXACT)
def float32_sums_for_float64(p):
    single = replace(p, dtype="float32")

    def run(x, weights):
        arrays = (None if a is None else a.astype(np.float32) for a in (x, *weights))
        return convolve(single, *arrays).astype(p.dtype)

    return Plan(run)


# --- form of the result ------------------------------------------------------------------------------


@wrong(r"y is float64 .*must be float32|y is float32 .*must be float64")
def other_dtype(p):
    other = {"float32": "float64", "float64": "float32"}[p.dtype]
    return Plan(lambda x, weights: convolve(p, x, *weights).astype(other))


@wrong(r"y is float32 \(.*must be float32 \(")
def other_layout(p):
    def run(x, weights):
        y = convolve(p, x, *weights)
        return np.ascontiguousarray(y.transpose(0, 2, 3, 1) if p.layout == "nchw" else y.transpose(0, 3, 1, 2))

    return Plan(run)


@wrong("y must be C-contiguous and writable")
def transposed_view(p):
    def run(x, weights):
        y = convolve(p, x, *weights)
        return np.ascontiguousarray(y.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)

    return Plan(run)


@wrong("y must be C-contiguous and writable")
def read_only_result(p):
    def run(x, weights):
        y = convolve(p, x, *weights)
        y.flags.writeable = False
        return y

    return Plan(run)


@wrong("y is list, not an array")
def list_of_lists(p):
    return Plan(lambda x, weights: convolve(p, x, *weights).tolist())


@wrong("y is NoneType, not an array")
def forgets_to_return(p):
    return Plan(lambda x, weights: None)


@wrong(NOT_EXACT)
def one_nan(p):
    def run(x, weights):
        y = convolve(p, x, *weights)
        y.reshape(-1)[-1:] = np.nan
        return y

    return Plan(run)


@wrong(f"a later call went wrong: .*{NOT_EXACT}")
def packs_a_view_of_w(p):
    def pack(w, b):
        return w.reshape(p.K, -1), b

    return Plan(lambda x, weights: convolve(p, x, weights[0].reshape(p.w_shape), weights[1]), pack=pack)


@wrong(f"a later call went wrong: .*{NOT_EXACT}")
def weights_known_by_their_sum(p):
    packs = {}

    def pack(w, b):
        key = float(w.sum(dtype=np.float64)), None if b is None else b.tobytes()
        if key not in packs:
            packs[key] = w.copy(), None if b is None else b.copy()
        return packs[key]

    return Plan(lambda x, weights: convolve(p, x, *weights), pack=pack)


@wrong(f"a later call went wrong: .*({NOT_EXACT}|{OUTSIDE})")
def weights_known_by_their_place(p):
    packs = {}

    def pack(w, b):
        if w.ctypes.data not in packs:
            packs[w.ctypes.data] = w.copy(), None if b is None else b.copy()
        return packs[w.ctypes.data]

    return Plan(lambda x, weights: convolve(p, x, *weights), pack=pack)


@wrong(f"a later call went wrong: .*{NOT_EXACT}")
def answers_known_by_the_sum_of_x(p):
    answers, packs = {}, []

    def pack(w, b):
        packs.append((w.copy(), None if b is None else b.copy()))
        return len(packs) - 1

    def run(x, which):
        key = which, float(x.sum(dtype=np.float64))
        if key not in answers:
            answers[key] = convolve(p, x, *packs[which])
        return answers[key].copy()

    return Plan(run, pack=pack)


# --- threads -----------------------------------------------------------------------------------------


def _crossed(p: Conv2d) -> Plan:
    scratch = np.empty(p.x_shape, p.dtype)

    def run(x, weights):
        scratch[...] = x
        time.sleep(0.002)  # the other threads get their turn, as they would in a long loop
        return convolve(p, scratch, *weights)

    return Plan(run)


CROSSED_IN_THREADS = StandIn("one-workspace-for-all-threads", _crossed)
