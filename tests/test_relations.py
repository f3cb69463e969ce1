"""Relations that any convolution keeps, checked without an oracle: each side is computed by the kernel.

A relation is a function ``relation(t, conv, known) -> (left, right)`` of trial data ``t``. On small
integers the sides are equal, bit for bit, for a kernel that promises ``elementwise``. For the others the
relation is evaluated a second time, with ``conv`` replaced by the error that the promise allows and
``known`` by zeros: the same sums and permutations then yield how far apart the sides may be.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pytest
import trial
from wrong_kernels import HONEST, WRONG

import convzoo
from convzoo import Conv2d, Unsupported
from convzoo.reference import allowed, magnitude

ROUNDS = 4


@dataclass(frozen=True)
class Geometry:
    """Stride, pads, dilation and groups of one call, in NCHW; ``replace`` makes the other side's."""

    stride: tuple[int, int] = (1, 1)
    pads: tuple[tuple[int, int], tuple[int, int]] = ((0, 0), (0, 0))
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1


class Trial:
    """Data of one round, drawn from its seed: the same for every relation and kernel."""

    def __init__(self, seed: int):
        self.seed = seed
        rng = np.random.default_rng(seed)
        g = (1, 2, 1, 3)[seed % 4]
        Cg, Kg = int(rng.integers(1, 4)), int(rng.integers(1, 4))
        r, s = (int(v) for v in rng.permutation([1, 2, 3, 4])[:2])
        dilation = tuple(int(v) for v in rng.permutation([1, 2, 3])[:2])
        stride = tuple(int(v) for v in rng.permutation([1, 2, 3])[:2])
        pads = tuple(tuple(int(v) for v in rng.permutation(4)[:2]) for _ in range(2))
        self.g = Geometry(stride, pads, dilation, g)
        self.extent = (dilation[0] * (r - 1) + 1, dilation[1] * (s - 1) + 1)
        self.N, self.C, self.K, self.R, self.S = 1 + seed % 3, Cg * g, Kg * g, r, s
        self.H, self.W = (e + int(rng.integers(0, 6)) for e in self.extent)
        self._rng = rng

    def integers(self, *shape: int) -> np.ndarray:
        return self._rng.integers(-9, 10, shape).astype(self.dtype)

    @property
    def dtype(self) -> str:
        return "float64" if self.seed % 4 == 1 else "float32"

    @property
    def layout(self) -> str:
        return "nhwc" if self.seed % 4 == 2 else "nchw"

    @cached_property
    def x(self) -> np.ndarray:
        return self.integers(self.N, self.C, self.H, self.W)

    @cached_property
    def w(self) -> np.ndarray:
        return self.integers(self.K, self.C // self.g.groups, self.R, self.S)

    @cached_property
    def b(self) -> np.ndarray:
        return self.integers(self.K)

    def problem(self) -> Conv2d:
        return problem(self.x, self.w, None, self.g, self.layout)


def problem(x: np.ndarray, w: np.ndarray, b: Any, g: Geometry, layout: str = "nchw") -> Conv2d:
    (N, C, H, W), (K, _, R, S) = x.shape, w.shape
    return Conv2d(
        N, C, H, W, K, R, S, g.stride, g.pads[0] + g.pads[1], g.dilation, g.groups, b is not None, str(x.dtype), layout
    )


Conv = Callable[..., np.ndarray]
Relation = Callable[[Trial, Conv, Callable[[Any], Any]], tuple[Any, Any]]
RELATIONS: dict[str, Relation] = {}


def relation(f: Relation) -> Relation:
    RELATIONS[f.__name__.strip("_").replace("_", " ")] = f
    return f


# --- linearity ---------------------------------------------------------------------------------------


@relation
def shape_is_right(t, conv, known):
    """conv itself looks at the dtype."""
    y = conv(t.x, t.w, t.b, t.g)
    P, Q = (
        (size + sum(pads) - extent) // stride + 1
        for size, pads, extent, stride in zip((t.H, t.W), t.g.pads, t.extent, t.g.stride, strict=True)
    )
    return known(np.array(y.shape)), known(np.array([t.N, t.K, P, Q]))


@relation
def additive_in_x(t, conv, known):
    other = t.integers(*t.x.shape)
    left = conv(t.x + other, t.w, None, t.g)
    return left, conv(t.x, t.w, None, t.g) + conv(other, t.w, None, t.g)


@relation
def additive_in_w(t, conv, known):
    other = t.integers(*t.w.shape)
    left = conv(t.x, t.w + other, None, t.g)
    return left, conv(t.x, t.w, None, t.g) + conv(t.x, other, None, t.g)


@relation
def bias_is_added(t, conv, known):
    return conv(t.x, t.w, t.b, t.g), conv(t.x, t.w, None, t.g) + known(t.b.reshape(1, -1, 1, 1))


@relation
def no_weight_leaves_the_bias(t, conv, known):
    y = conv(t.x, np.zeros_like(t.w), t.b, t.g)
    return y, known(np.broadcast_to(t.b.reshape(1, -1, 1, 1), y.shape))


@relation
def scaling_by_a_power_of_two(t, conv, known):
    """Exact in floating point, whatever the data: no rounding changes."""
    scale = np.dtype(t.dtype).type(2.0**20)
    return conv(t.x * scale, t.w / 4, None, t.g), conv(t.x, t.w, None, t.g) * (scale / 4)


# --- geometry ----------------------------------------------------------------------------------------


@relation
def padding_is_explicit_zeros(t, conv, known):
    bare = replace(t.g, pads=((0, 0), (0, 0)))
    return conv(t.x, t.w, t.b, t.g), conv(np.pad(t.x, ((0, 0), (0, 0), *t.g.pads)), t.w, t.b, bare)


@relation
def stride_takes_every_nth(t, conv, known):
    each = conv(t.x, t.w, t.b, replace(t.g, stride=(1, 1)))
    return conv(t.x, t.w, t.b, t.g), each[:, :, :: t.g.stride[0], :: t.g.stride[1]]


@relation
def dilation_is_a_stuffed_filter(t, conv, known):
    stuffed = np.zeros((*t.w.shape[:2], *t.extent), t.dtype)
    stuffed[:, :, :: t.g.dilation[0], :: t.g.dilation[1]] = t.w
    return conv(t.x, t.w, t.b, t.g), conv(t.x, stuffed, t.b, replace(t.g, dilation=(1, 1)))


@relation
def groups_are_a_block_diagonal(t, conv, known):
    G = t.g.groups
    dense = np.zeros((t.K, t.C, t.R, t.S), t.dtype)
    for g in range(G):
        k, c = slice(g * t.K // G, (g + 1) * t.K // G), slice(g * t.C // G, (g + 1) * t.C // G)
        dense[k, c] = t.w[k]
    return conv(t.x, t.w, t.b, t.g), conv(t.x, dense, t.b, replace(t.g, groups=1))


@relation
def height_and_width_transpose(t, conv, known):
    g = Geometry(t.g.stride[::-1], t.g.pads[::-1], t.g.dilation[::-1], t.g.groups)
    turned = conv(t.x.swapaxes(2, 3), t.w.swapaxes(2, 3), t.b, g)
    return conv(t.x, t.w, t.b, t.g), turned.swapaxes(2, 3)


@relation
def flipping_both_flips_the_output(t, conv, known):
    g = replace(t.g, stride=(1, 1))
    flipped = replace(g, pads=tuple(side[::-1] for side in g.pads))
    left = conv(t.x, t.w, None, g)
    return left, conv(t.x[:, :, ::-1, ::-1], t.w[:, :, ::-1, ::-1], None, flipped)[:, :, ::-1, ::-1]


@relation
def moving_x_moves_y(t, conv, known):
    """Rows that enter from above push the output down by one for every stride of rows."""
    g = replace(t.g, pads=((0, 0), t.g.pads[1]))
    rows = np.concatenate([t.integers(t.N, t.C, 2 * g.stride[0], t.W), t.x], axis=2)
    return conv(t.x, t.w, t.b, g), conv(rows, t.w, t.b, g)[:, :, 2:]


# --- batch and channels ------------------------------------------------------------------------------


@relation
def images_are_apart(t, conv, known):
    one_by_one = [conv(t.x[n : n + 1], t.w, t.b, t.g) for n in range(t.N)]
    return conv(t.x, t.w, t.b, t.g), np.concatenate(one_by_one)


@relation
def input_channels_may_be_permuted(t, conv, known):
    G, Cg = t.g.groups, t.C // t.g.groups
    order = np.roll(np.arange(Cg), 1)
    x = t.x.reshape(t.N, G, Cg, t.H, t.W)[:, :, order].reshape(t.x.shape)
    return conv(t.x, t.w, t.b, t.g), conv(x, t.w[:, order], t.b, t.g)


@relation
def output_channels_may_be_permuted(t, conv, known):
    """Within their groups."""
    Kg = t.K // t.g.groups
    order = (np.arange(t.g.groups)[:, None] * Kg + np.roll(np.arange(Kg), 1)).ravel()
    return conv(t.x, t.w, t.b, t.g)[:, order], conv(t.x, t.w[order], t.b[order], t.g)


@relation
def groups_may_be_permuted(t, conv, known):
    G = t.g.groups

    def rolled(a, axis):
        return np.roll(a, a.shape[axis] // G, axis)

    return rolled(conv(t.x, t.w, t.b, t.g), 1), conv(rolled(t.x, 1), rolled(t.w, 0), rolled(t.b, 0), t.g)


# --- special filters and images ----------------------------------------------------------------------


@relation
def impulse_shows_the_flipped_filter(t, conv, known):
    (h, v), G = t.extent, t.g.groups
    c = (t.seed + 1) % t.C
    x = np.zeros((1, t.C, 2 * h - 1, 2 * v - 1), t.dtype)
    x[0, c, h - 1, v - 1] = 1
    y = conv(x, t.w, None, Geometry(dilation=t.g.dilation, groups=G))[0]
    want = np.zeros_like(y)
    group = c // (t.C // G)
    k = slice(group * t.K // G, (group + 1) * t.K // G)
    want[k, :: t.g.dilation[0], :: t.g.dilation[1]] = t.w[k, c % (t.C // G), ::-1, ::-1]
    return y, known(want)


@relation
def delta_is_the_identity(t, conv, known):
    delta = np.zeros((t.C, 1, 2 * t.R + 1, 2 * t.S + 1), t.dtype)
    delta[:, 0, t.R, t.S] = 1
    g = Geometry(pads=((t.R, t.R), (t.S, t.S)), groups=t.C)
    return conv(t.x, delta, None, g), known(t.x)


@relation
def one_by_one_is_a_matrix_product(t, conv, known):
    w = t.integers(t.K, t.C, 1, 1)
    return conv(t.x, w, None, Geometry()), known(np.einsum("nchw,kc->nkhw", t.x, w[:, :, 0, 0]))


@relation
def filter_of_full_size_is_a_dot_product(t, conv, known):
    w = t.integers(2, t.C, t.H, t.W)
    y = conv(t.x, w, None, Geometry())
    return y[:, :, 0, 0], known(np.einsum("nchw,kchw->nk", t.x, w))


@relation
def ones_count_the_window(t, conv, known):
    """A closed form for every window that padding cuts."""
    x, w = np.ones((1, 1, t.H, t.W), t.dtype), np.ones((1, 1, t.R, t.S), t.dtype)
    y = conv(x, w, None, replace(t.g, groups=1))
    counts = [
        [sum(0 <= i * stride + tap * dilation - pads[0] < size for tap in range(taps)) for i in range(outputs)]
        for stride, dilation, pads, size, taps, outputs in zip(
            t.g.stride, t.g.dilation, t.g.pads, (t.H, t.W), (t.R, t.S), y.shape[2:], strict=True
        )
    ]
    return y[0, 0], known(np.outer(*counts).astype(t.dtype))


@relation
def adjoint(t, conv, known):
    """<conv x, z> = <x, conv* z>, where conv* turns the filter and spreads z out by the stride.

    x and z are not negative, so that in the evaluation of bounds the products add up, too.
    """
    G, (sh, sw) = t.g.groups, t.g.stride
    x = np.abs(t.x)
    y = conv(x, t.w, None, t.g)
    z = np.abs(t.integers(*y.shape))
    spread = np.zeros((t.N, t.K, (z.shape[2] - 1) * sh + 1, (z.shape[3] - 1) * sw + 1), t.dtype)
    spread[:, :, ::sh, ::sw] = z
    turned = t.w.reshape(G, t.K // G, t.C // G, t.R, t.S).swapaxes(1, 2)[..., ::-1, ::-1]
    turned = turned.reshape(t.C, t.K // G, t.R, t.S)
    # conv* maps to the padded image: all of it is computed, the padding is cut off afterwards
    whole = tuple((e - 1, e - 1) for e in t.extent)
    back = conv(spread, turned, None, Geometry((1, 1), whole, t.g.dilation, G))
    inner = np.zeros_like(x, shape=(t.N, t.C, t.H + sum(t.g.pads[0]), t.W + sum(t.g.pads[1])))
    top, left = t.g.pads[0][0], t.g.pads[1][0]
    inner[:, :, top : top + t.H, left : left + t.W] = x
    inner = inner[:, :, : back.shape[2], : back.shape[3]]  # a stride may leave the last rows unread
    back = back[:, :, : inner.shape[2], : inner.shape[3]]
    return np.vdot(y.astype("f8"), z.astype("f8")), np.vdot(back.astype("f8"), inner.astype("f8"))


# --- the check ---------------------------------------------------------------------------------------


def _in_layout(conv: Callable[[Conv2d, Any, Any, Any], np.ndarray], layout: str) -> Conv:
    """``conv`` of a problem and arrays, as a function of NCHW arrays and a geometry."""

    def call(x: np.ndarray, w: np.ndarray, b: np.ndarray | None, g: Geometry) -> np.ndarray:
        p = problem(x, w, b, g, layout)
        if layout == "nchw":
            return conv(p, x, w, b)
        return np.ascontiguousarray(conv(p, x.transpose(0, 2, 3, 1), w, b).transpose(0, 3, 1, 2))

    return call


def _through_the_front_door(kernel: Any) -> Callable[[Conv2d, Any, Any, Any], np.ndarray]:
    def conv(p, x, w, b):
        y = convzoo.conv2d(x, w, b, **trial.options(p), kernel=kernel.name)
        assert y.dtype == p.dtype
        return y

    return conv


def _slack(kernel: Any) -> Callable[[Conv2d, Any, Any, Any], np.ndarray]:
    """In the place of a result: the error that the kernel's promise allows it."""

    def bound(p, x, w, b):
        if kernel.accuracy == "elementwise":
            return np.zeros(p.y_shape)
        return np.ascontiguousarray(allowed(p, x, w, magnitude(p, x, w, b), kernel.accuracy))

    return bound


def broken(kernel: Any, name: str, conv: Any, seed: int) -> str | None:
    """None, or how ``kernel`` breaks the relation in the round of ``seed``."""
    t = Trial(seed)
    left, right = RELATIONS[name](t, _in_layout(conv, t.layout), lambda a: a)
    if kernel.accuracy == "elementwise":
        apart = np.zeros(np.shape(left))
    else:
        sides = RELATIONS[name](Trial(seed), _in_layout(_slack(kernel), t.layout), np.zeros_like)
        apart = sides[0] + sides[1]
    if np.shape(left) != np.shape(right):
        return f"one side has shape {np.shape(left)}, the other {np.shape(right)}"
    left, right = np.asarray(left, np.float64), np.asarray(right, np.float64)
    bad = ~(np.abs(left - right) <= apart)
    if not bad.any():
        return None
    at = tuple(int(i) for i in np.argwhere(bad)[0])
    return f"{int(bad.sum())} of {bad.size} differ, first at {list(at)}: {left[at]:.9g}, {right[at]:.9g}"


def _conv_or_skip(kernel: Any, p: Conv2d) -> Any:
    if reason := trial.too_much(kernel, p):
        pytest.skip(f"{kernel.name} {reason}")
    return _through_the_front_door(kernel)


@pytest.mark.parametrize("name", RELATIONS)
def test_relation(kernel, name):
    done = 0
    for seed in range(ROUNDS):
        p = Trial(seed).problem()
        if trial.too_much(kernel, p):
            continue
        try:
            with trial.repeatable(kernel.name, p, seed):
                why = broken(kernel, name, _through_the_front_door(kernel), seed)
        except Unsupported:
            trial.refused[kernel.name] += 1
            continue
        done += 1
        if why:
            trial.fail(kernel.name, p, seed, f"'{name}' does not hold: {why}")
    if not done:
        pytest.skip(f"{kernel.name} does none of these problems")


def test_nan_reaches_the_outputs_whose_window_covers_it(kernel):
    """Exactly these, and 0 * NaN counts; transforms may spread it over its image, not into others."""
    t = Trial(3)
    p = t.problem()
    conv = _in_layout(_conv_or_skip(kernel, p), t.layout)
    x, c, h, v = t.x.copy(), t.C - 1, t.H // 2, t.W - 1
    x[:1, c, h, v] = np.nan
    x = np.concatenate([x, t.x])
    w = t.w.copy()
    w[:, :, 0, 0] = 0
    with trial.refusals(kernel), np.errstate(invalid="ignore"):
        got = np.isnan(conv(x, w, t.b, t.g))
        marked = np.zeros_like(x)
        marked[:1, c, h, v] = 1
        covered = conv(marked, np.ones_like(w), None, t.g) > 0.5
    assert covered.any() and not covered.all()
    assert got[covered].all(), "a NaN was lost"
    if kernel.algorithm in ("direct", "gemm"):
        assert np.array_equal(got, covered), "a NaN reached an output that does not see it"
    else:
        assert not got[1:].any(), "a NaN reached another image"


@pytest.mark.parametrize("sign", [1, -1])
def test_infinity_stays_infinite(kernel, sign):
    t = Trial(0)
    p = t.problem()
    if kernel.algorithm not in ("direct", "gemm"):
        pytest.skip("a transform turns an infinity into NaN")
    conv = _in_layout(_conv_or_skip(kernel, p), t.layout)
    x, w = t.x.copy(), np.abs(t.w) + 1
    x[:, 0, t.H // 2, t.W // 2] = sign * np.inf
    with trial.refusals(kernel):
        y = conv(x, w, None, t.g)
        covered = conv(np.isinf(x).astype(t.dtype), np.ones_like(w), None, t.g) > 0.5
    assert covered.any()
    assert np.array_equal(y == sign * np.inf, covered) and not np.isnan(y).any()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_denormals(kernel, dtype):
    """A CPU keeps them (sums of them are exact); a device may flush them, but to 0 and not to noise."""
    t = Trial(1)
    x, w, tiny = t.x.astype(dtype), np.sign(t.w).astype(dtype), np.finfo(dtype).smallest_subnormal
    p = problem(x, w, None, t.g)
    conv = _in_layout(_conv_or_skip(kernel, p), "nchw")
    with trial.refusals(kernel):
        whole, small = conv(x, w, None, t.g), conv(x * tiny, w, None, t.g)
    if kernel.backend.device == "cpu" and kernel.accuracy == "elementwise":
        np.testing.assert_array_equal(small, whole * tiny)
    assert (np.abs(small - whole * tiny) <= p.taps * np.finfo(dtype).smallest_normal).all()


# --- teeth -------------------------------------------------------------------------------------------

MISREAD = {
    "begin-and-end-pads-swapped": {"padding is explicit zeros", "ones count the window"},
    "stride-axes-swapped": {"stride takes every nth", "ones count the window"},
    "dilation-axes-swapped": {"dilation is a stuffed filter"},
    "dilation-ignored": {"dilation is a stuffed filter", "ones count the window"},
    "filter-flipped": {"impulse shows the flipped filter"},
    "groups-interleaved": {"groups are a block diagonal"},
    "bias-dropped": {"bias is added", "no weight leaves the bias"},
    "bias-doubled": {"bias is added", "no weight leaves the bias"},
    "pads-with-the-edge": {"padding is explicit zeros", "ones count the window"},
    "last-tap-dropped": {"delta is the identity", "one by one is a matrix product"},
    "channels-off-by-one": {"impulse shows the flipped filter"},
    "other-dtype": {"shape is right"},
}


def _broken_by(kernel: Any) -> set[str]:
    def conv(p, x, w, b):
        plan = kernel.plan(p)
        y = plan.run(np.array(x, order="C"), plan.pack(np.array(w, order="C"), b))
        assert y.dtype == p.dtype
        return y

    found = set()
    for name in RELATIONS:
        for seed in range(ROUNDS):
            try:
                if broken(kernel, name, conv, seed):
                    found.add(name)
            except (AssertionError, ValueError):
                found.add(name)
    return found


def test_honest_kernel_breaks_no_relation():
    assert _broken_by(HONEST) == set()


@pytest.mark.parametrize("name, some", MISREAD.items(), ids=MISREAD.keys())
def test_wrong_kernel_breaks_relations(name, some):
    assert _broken_by(WRONG[name][0]) & some


def test_every_relation_has_teeth():
    """Each relation is broken by at least one wrong kernel."""
    alive = set(RELATIONS)
    for kernel, _ in WRONG.values():
        if kernel.accuracy == "elementwise" and alive:
            alive -= _broken_by(kernel)
    assert not alive, f"no wrong kernel breaks: {sorted(alive)}"
