"""The measure itself: the oracle against hand-typed numbers and two libraries; data, bounds, verdicts."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
from cases import CASES, problems
from hypothesis import given
from hypothesis import strategies as st
from wrong_kernels import HONEST, convolve
from wrong_kernels import round_to_bits as to_bits

from convzoo import Conv2d
from convzoo.reference import ACCURACIES, TIERS, allowed, inputs, judge, known_once, magnitude, oracle, window_of
from convzoo.reference.bounds import REACH, of_tiles

# --- the oracle against numbers computed by hand -----------------------------------------------------

NINE = [[[[1, 2, 3], [4, 5, 6], [7, 8, 9]]]]
TWO_BY_TWO = [[[[1, 2], [3, 4]]]]

BY_HAND = {
    "correlation, not convolution": ("n1c1h3w3k1r2s2-nobias", NINE, TWO_BY_TWO, None, [[[[37, 47], [67, 77]]]]),
    "bias": ("n1c1h3w3k1r2s2", NINE, TWO_BY_TWO, [1000], [[[[1037, 1047], [1067, 1077]]]]),
    "padding above and to the left": (
        "n1c1h3w3k1r2s2-p1_0_1_0-nobias",
        NINE,
        TWO_BY_TWO,
        None,
        [[[[4, 11, 18], [18, 37, 47], [36, 67, 77]]]],
    ),
    "padding below and to the right": (
        "n1c1h3w3k1r2s2-p0_1_0_1-nobias",
        NINE,
        TWO_BY_TWO,
        None,
        [[[[37, 47, 21], [67, 77, 33], [23, 26, 9]]]],
    ),
    "stride 2 down, 1 across": (
        "n1c1h3w3k1r2s2-st2x1-p1_0_1_0-nobias",
        NINE,
        TWO_BY_TWO,
        None,
        [[[[4, 11, 18], [36, 67, 77]]]],
    ),
    "stride 1 down, 2 across": (
        "n1c1h3w3k1r2s2-st1x2-p1_0_1_0-nobias",
        NINE,
        TWO_BY_TWO,
        None,
        [[[[4, 18], [18, 47], [36, 77]]]],
    ),
    "dilation 2": ("n1c1h3w3k1r2s2-d2-nobias", NINE, TWO_BY_TWO, None, [[[[1 + 6 + 21 + 36]]]]),
    "dilation 1 down, 2 across": (
        "n1c1h3w3k1r2s2-d1x2-nobias",
        NINE,
        TWO_BY_TWO,
        None,
        [[[[1 + 6 + 12 + 24], [4 + 12 + 21 + 36]]]],
    ),
    "channels are summed, filters are apart": (
        "n1c2h1w2k2r1s1",
        [[[[1, 2]], [[3, 4]]]],
        [[[[10]], [[100]]], [[[1]], [[-1]]]],
        [5, 6],
        [[[[315, 425]], [[4, 4]]]],
    ),
    "two images": ("n2c1h1w2k1r1s2-nobias", [[[[1, 2]]], [[[3, 4]]]], [[[[10, 1]]]], None, [[[[12]]], [[[34]]]]),
    "two groups of two channels": (
        "n1c4h1w1k2r1s1-g2-nobias",
        [[[[1]], [[2]], [[3]], [[4]]]],
        [[[[1]], [[10]]], [[[100]], [[1000]]]],
        None,
        [[[[21]], [[4300]]]],
    ),
    "depthwise, two filters a channel": (
        "n1c2h1w2k4r1s1-g2-nobias",
        [[[[1, 2]], [[3, 4]]]],
        [[[[1]]], [[[10]]], [[[100]]], [[[1000]]]],
        None,
        [[[[1, 2]], [[10, 20]], [[300, 400]], [[3000, 4000]]]],
    ),
    "nhwc": (
        "n1c2h1w2k2r1s1-nhwc",
        [[[[1, 3], [2, 4]]]],
        [[[[10]], [[100]]], [[[1]], [[-1]]]],
        [5, 6],
        [[[[315, 4], [425, 4]]]],
    ),
    "no channels": (
        "n1c0h2w2k2r1s1",
        np.zeros((1, 0, 2, 2)),
        np.zeros((2, 0, 1, 1)),
        [7, 8],
        [[[[7, 7], [7, 7]], [[8, 8], [8, 8]]]],
    ),
    "nothing but padding": (
        "n1c1h1w1k1r1s1-st9-p9-nobias",
        [[[[5]]]],
        [[[[3]]]],
        None,
        [[[[0, 0, 0], [0, 15, 0], [0, 0, 0]]]],
    ),
}


@pytest.mark.parametrize("text, x, w, b, y", BY_HAND.values(), ids=BY_HAND.keys())
def test_oracle_by_hand(text, x, w, b, y):
    p = Conv2d.parse(text)
    x, w = np.array(x, np.float32), np.array(w, np.float32)
    b = None if b is None else np.array(b, np.float32)
    assert (x.shape, w.shape) == (p.x_shape, p.w_shape)
    got = oracle(p, x, w, b)
    assert got.dtype == np.float64 and got.shape == p.y_shape
    np.testing.assert_array_equal(got, y)


# --- the oracle against two libraries ----------------------------------------------------------------


@given(p=problems(), seed=st.integers(0, 9))
def test_oracle_against_scipy(p, seed):
    signal = pytest.importorskip("scipy.signal")
    x, w, b = inputs(p, seed, "integers")
    image = x.transpose(0, 3, 1, 2) if p.layout == "nhwc" else x
    top, bottom, left, right = p.padding
    image = np.pad(image, ((0, 0), (0, 0), (top, bottom), (left, right)))
    stuffed = np.zeros((*w.shape[:2], *p.extent), w.dtype)
    stuffed[:, :, :: p.dilation[0], :: p.dilation[1]] = w
    y = np.zeros((p.N, p.K, p.P, p.Q))
    for n, k in np.ndindex(p.N, p.K):
        first = k // (p.K // p.groups) * (p.C // p.groups)
        for c in range(p.C // p.groups):
            full = signal.correlate(image[n, first + c], stuffed[k, c], mode="valid", method="direct")
            y[n, k] += full[:: p.stride[0], :: p.stride[1]]
    if b is not None:
        y += b[:, None, None]
    want = y.transpose(0, 2, 3, 1) if p.layout == "nhwc" else y
    np.testing.assert_array_equal(oracle(p, x, w, b), want)


@given(p=problems(), seed=st.integers(0, 9))
def test_oracle_against_torch(p, seed):
    torch = pytest.importorskip("torch")
    data = inputs(p, seed, "exact")
    x, w, b = (None if a is None else torch.from_numpy(a.astype(np.float64)) for a in data)
    if p.layout == "nhwc":
        x = x.permute(0, 3, 1, 2)
    top, bottom, left, right = p.padding
    x = torch.nn.functional.pad(x, (left, right, top, bottom))
    y = torch.nn.functional.conv2d(x, w, b, p.stride, 0, p.dilation, p.groups).numpy()
    want = y.transpose(0, 2, 3, 1) if p.layout == "nhwc" else y
    np.testing.assert_array_equal(oracle(p, *data), want)


# --- test data ---------------------------------------------------------------------------------------

VARIED = [
    p
    for stress, p in CASES.items()
    if stress in ("all-options", "thousands-of-taps", "depthwise", "f64-1x1", "nhwc-f64", "no-images")
] + [Conv2d.parse("n1c3000h3w3k2r3s3"), Conv2d.parse("n1c520h3w3k2r3s3-f64")]
varied = pytest.mark.parametrize("p", VARIED, ids=str)
tiers = pytest.mark.parametrize("tier", TIERS)


def test_known_answers_are_those_of_the_data_asked_for_and_nobody_can_change_them():
    p, q = Conv2d(1, 2, 5, 4, 3, 2, 2), Conv2d(1, 2, 5, 4, 3, 2, 2, layout="nhwc")

    def negative(p, seed):
        return tuple(-a for a in inputs(p, seed))

    found = []
    for data in (inputs, negative):
        for problem in (p, q):
            for seed in (0, 1, 0):
                found.append(known_once(data, problem, seed))
                want = data(problem, seed)
                assert np.array_equal(found[-1][0], oracle(problem, *want))
                assert np.array_equal(found[-1][1], magnitude(problem, *want))
    assert found[0] is found[2], "and are kept"
    for a in found[0]:
        with pytest.raises(ValueError, match="read-only"):
            a[...] = 0


@given(problems())
def test_window_of_a_pixel_holds_the_outputs_that_change_with_it(p):
    p = dataclasses.replace(p, dtype="float64")
    x, w, b = inputs(p, 0)
    for at in [(0, 0, 0, 0), (p.N - 1, p.C - 1, p.H - 1, p.W - 1), (0, p.C // 2, p.H // 2, p.W // 2)]:
        before = oracle(p, x, w, b)
        changed = x.copy()
        (changed.transpose(0, 3, 1, 2) if p.layout == "nhwc" else changed)[at] += 1
        assert np.array_equal(oracle(p, changed, w, b) != before, window_of(p, *at))


@varied
@tiers
def test_inputs_have_the_form_of_the_problem(p, tier):
    x, w, b = inputs(p, 0, tier)
    assert (x.shape, w.shape) == (p.x_shape, p.w_shape)
    assert (b is None) == (not p.bias)
    for a in (x, w) if b is None else (x, w, b):
        assert a.dtype == p.dtype and a.flags.c_contiguous and a.flags.writeable
        assert np.isfinite(a).all()


@varied
@tiers
def test_inputs_depend_on_the_seed_alone(p, tier):
    first, again, other = inputs(p, 5, tier), inputs(p, 5, tier), inputs(p, 6, tier)
    for a, b, c in zip(first, again, other, strict=True):
        if a is not None:
            np.testing.assert_array_equal(a, b)
            assert a.size < 4 or not np.array_equal(a, c)


@varied
@pytest.mark.parametrize("seed", range(4))
def test_exact_inputs_are_exact_in_any_order(p, seed):
    """Wide odd integers on one side, +-1 on the other, and no partial sum beyond the exact range."""
    x, w, b = inputs(p, seed, "exact")
    wide, narrow = (x, w) if seed % 2 == 0 else (w, x)
    kept = wide[wide != 0]
    assert (kept % 2 != 0).all()
    assert set(np.unique(narrow)) <= {-1, 0, 1}
    most = {"float32": 4095, "float64": 2**30 - 1}[p.dtype]
    assert np.abs(wide).max(initial=0) <= most
    assert wide.size < 100 or np.abs(wide).max() > 0.9 * most
    limit = {"float32": 2**24, "float64": 2**53}[p.dtype]
    assert magnitude(p, x, w, b).max(initial=0) < limit
    assert b is None or (b == np.round(b)).all()


@varied
@pytest.mark.parametrize("seed", range(4))
def test_wide_inputs_make_one_product_an_output(p, seed):
    x, w, b = inputs(p, seed, "wide")
    most, sums = (22, 2.0**24) if p.dtype == "float32" else (48, 2.0**53)
    if w.size:
        assert ((w != 0).sum(axis=(1, 2, 3)) == 1).all()
        filters = np.abs(w[w != 0])
        assert {int(np.log2(a)) + 1 for a in filters[: min(3, p.K)]} <= {1, most // 2, most}
        assert p.K < 3 or len({int(np.log2(a)) for a in filters[:3]}) == 3
    if x.size > 60:
        assert {1, most // 2, most} <= {int(np.log2(a)) + 1 for a in np.abs(x).ravel()}
    y, A = oracle(p, x, w, b), magnitude(p, x, w, b)
    assert (y.astype(p.dtype)[sums > A] == y[sums > A]).all()
    assert p.K < 3 or not x.size or (sums > A).mean() > 0.3, "most are products of few enough bits"


def test_exact_inputs_use_the_bits_that_tf32_drops():
    x = inputs(Conv2d.parse("n1c8h9w9k8r3s3"), 0, "exact")[0]
    assert (to_bits(x, 11) != x).mean() > 0.3
    assert (to_bits(x, 8) != x).mean() > 0.7
    wide = inputs(Conv2d.parse("n1c8h9w9k8r3s3"), 1, "exact")[1]
    assert (to_bits(wide, 11) != wide).mean() > 0.3


def test_exact_inputs_leave_most_taps_where_there_are_thousands():
    p = Conv2d.parse("n1c3000h3w3k2r3s3")
    for seed in (0, 1):
        w = inputs(p, seed, "exact")[1]
        assert ((w != 0).sum(axis=(1, 2, 3)) == 4000).all()


def test_tf32_may_be_asked_for_exact_data_of_its_own_width():
    x = inputs(Conv2d.parse("n1c8h9w9k8r3s3"), 0, "exact", "tf32")[0]
    np.testing.assert_array_equal(to_bits(x, 11), x)


def test_unknown_tier():
    with pytest.raises(ValueError, match="tier must be one of random, spot, exact, wide, integers, got 'odd'"):
        inputs(CASES["plain"], 0, "odd")


def test_rounding_to_bits():
    """Checked on float16, which has 11 bits, too, and on ties."""
    a = np.random.default_rng(0).standard_normal(1000).astype(np.float32)
    np.testing.assert_array_equal(to_bits(a, 11), a.astype(np.float16).astype(np.float32))
    ties = np.array([1 + 2**-11, 1 + 3 * 2**-11, -1 - 2**-11], np.float32)
    np.testing.assert_array_equal(to_bits(ties, 11), np.float32([1, 1 + 2**-9, -1]))


# --- guarantees --------------------------------------------------------------------------------------


@given(p=problems(), seed=st.integers(0, 9), scale=st.sampled_from((1e-20, 1e-3, 1.0, 1e6)))
def test_guarantees_are_nested(p, seed, scale):
    x, w, b = inputs(p, seed)
    x = (x * scale).astype(p.dtype)
    A = magnitude(p, x, w, b)
    limits = [allowed(p, x, w, A, accuracy) for accuracy in ACCURACIES]
    for stronger, weaker in itertools.pairwise(limits):
        assert (stronger <= weaker).all()
    assert limits[0].shape == p.y_shape and (limits[0] > 0).all()


@given(p=problems(), seed=st.integers(0, 9))
def test_honest_results_keep_every_guarantee(p, seed):
    data = inputs(p, seed)
    y = convolve(p, *data)
    for accuracy in ACCURACIES:
        verdict = judge(y, p, *data, accuracy=accuracy)
        assert verdict.ok, verdict.why
        assert verdict.budget <= 1


@pytest.mark.parametrize("kind", ["scaled", "relu", "image", "constant", "cancelling", "denormal"])
def test_honest_results_pass_on_unkind_data(kind):
    p = Conv2d.parse("n1c40h6w5k3r3s3-p1")
    x, w, b = inputs(p, 3)
    rng = np.random.default_rng(1)
    if kind == "scaled":
        x *= 10 ** rng.uniform(-6, 6, x.shape).astype(np.float32)
    elif kind == "relu":
        x = np.maximum(x, 0)
    elif kind == "image":
        x = rng.integers(0, 256, x.shape).astype(np.float32)
    elif kind == "constant":
        x[...], w[...] = 0.7, 0.7
    elif kind == "cancelling":
        w[:, 20:] = -w[:, :20]
        x[:, 20:] = x[:, :20]
    else:
        x *= np.float32(1e-39)
        b *= np.float32(1e-39)
    verdict = judge(convolve(p, x, w, b), p, x, w, b, accuracy="elementwise")
    assert verdict.ok, verdict.why


def test_half_precision_rounding_is_within_half():
    for dtype, bits in (("float16", 11), ("bfloat16", 8)):
        p = dataclasses.replace(CASES["plain"], dtype=dtype)
        x, w, b = inputs(p, 0)
        y = convolve(dataclasses.replace(p, dtype="float32"), *(a.astype(np.float32) for a in (x, w, b)))
        y = to_bits(y, bits) if dtype == "bfloat16" else y.astype(np.float16)
        verdict = judge(y, p, x, w, b, accuracy="half")
        assert verdict.ok, verdict.why


# --- verdicts ----------------------------------------------------------------------------------------


def _judged(change, text="n1c2h4w5k3r2s3", tier="random", accuracy="elementwise"):
    p = Conv2d.parse(text)
    data = inputs(p, 0, tier)
    return judge(change(convolve(p, *data)), p, *data, accuracy=accuracy, tier=tier)


def test_verdict_on_a_right_output():
    verdict = _judged(lambda y: y)
    assert verdict.ok and verdict.why == ""
    assert 0 < verdict.mean_error <= verdict.max_error < 1e-5
    assert 0 < verdict.score < 20 and 0 < verdict.budget <= 1
    exact = _judged(lambda y: y, tier="exact")
    assert exact.ok and exact.max_error == exact.score == 0


def test_verdict_says_what_is_wrong_and_where():
    def spoil(y):
        y[0, 1, 2, 0] += 1000
        y[0, 2, 0, 1] += 1
        return y

    p = Conv2d.parse("n1c2h4w5k3r2s3")
    data = inputs(p, 0, "exact")
    right = oracle(p, *data)[0, 1, 2, 0]
    assert _judged(spoil, tier="exact").why == (
        f"2 of 27 outputs not exact on integer data; worst at [0, 1, 2, 0]: "
        f"got {right + 1000:.9g}, expected {right:.9g} within 0"
    )
    assert "2 of 27 outputs outside the elementwise bound; worst at [0, 1, 2, 0]" in _judged(spoil).why


@pytest.mark.parametrize(
    "change, why",
    [
        (lambda y: y[..., :-1], "y is float32 (1, 3, 3, 2), must be float32 (1, 3, 3, 3)"),
        (lambda y: y.astype(np.float64), "y is float64 (1, 3, 3, 3), must be float32 (1, 3, 3, 3)"),
        (lambda y: y.astype(">f4"), "y is >f4 (1, 3, 3, 3), must be float32 (1, 3, 3, 3)"),
        (lambda y: None, "y is NoneType, not an array"),
        (lambda y: y.swapaxes(2, 3), "y must be C-contiguous and writable"),
    ],
)
def test_verdict_on_a_malformed_output(change, why):
    assert _judged(change).why == why


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("tier", ["random", "exact", "integers"])
@pytest.mark.parametrize("accuracy", ["elementwise", "tilewise", "normwise", "tf32"])
def test_verdict_never_passes_what_is_not_finite(value, tier, accuracy):
    def spoil(y):
        y[0, 0, 0, 0] = value
        return y

    verdict = _judged(spoil, tier=tier, accuracy=accuracy)
    assert not verdict.ok
    assert "1 of 27" in verdict.why and "worst at [0, 0, 0, 0]" in verdict.why


def test_verdict_lets_an_empty_output_pass():
    p = CASES["no-images"]
    data = inputs(p, 0)
    assert judge(np.empty(p.y_shape, np.float32), p, *data, accuracy="elementwise").ok


def test_small_error_passes_as_random_and_fails_as_exact():
    def nudge(y):
        return np.nextafter(y, np.float32(np.inf))

    assert _judged(nudge, text="n1c30h4w5k3r2s3").ok
    assert not _judged(nudge, text="n1c30h4w5k3r2s3", tier="exact").ok


def test_integers_tier_wants_the_nearest_integer():
    assert _judged(lambda y: y + np.float32(1), tier="integers", accuracy="tf32").why
    text = "n1c300h4w5k3r2s3"
    assert _judged(lambda y: y + np.float32(0.6), text, "integers", "tf32").why
    assert not _judged(lambda y: y + np.float32(1e-3), text, "integers", "normwise").why


def test_tf32_rounding_is_rejected_as_elementwise_and_accepted_as_tf32():
    p = Conv2d.parse("n1c4h6w6k4r3s3-p1")
    data = inputs(p, 0, "exact")
    x, w, b = data
    y = convolve(p, to_bits(x, 11), to_bits(w, 11), b)
    assert not judge(y, p, *data, accuracy="elementwise", tier="exact").ok
    assert judge(y, p, *data, accuracy="tf32").ok
    data = inputs(p, 0)
    y = convolve(p, to_bits(data[0], 11), to_bits(data[1], 11), data[2])
    assert not judge(y, p, *data, accuracy="elementwise").ok
    assert judge(y, p, *data, accuracy="tf32").ok


def test_honest_stand_in_is_honest():
    """The tests above lean on it: here it is compared with the oracle bit by bit."""
    for p in VARIED[:2]:
        data = inputs(p, 0, "exact")
        plan = HONEST.plan(p)
        np.testing.assert_array_equal(plan.run(data[0], plan.pack(*data[1:])), oracle(p, *data))


@given(p=problems(), seed=st.integers(0, 9))
def test_largest_pixels_within_reach_are_those_that_near_outputs_read(p, seed):
    """T of ``bounds``, output by output, from the words of its definition."""
    x, w, _ = inputs(p, seed)
    image = np.abs(x.transpose(0, 3, 1, 2) if p.layout == "nhwc" else x).astype(np.float64)
    got = of_tiles(p, x, w)
    got = got.transpose(0, 3, 1, 2) if p.layout == "nhwc" else got
    n, k, i, j = (seed % size for size in got.shape)
    rows, columns = (
        slice(max(0, (at - REACH) * stride - before), max(0, (at + REACH) * stride - before + extent))
        for at, stride, before, extent in zip((i, j), p.stride, p.padding[::2], p.extent, strict=True)
    )
    first = k // (p.K // p.groups) * (p.C // p.groups)
    largest = image[n, first : first + p.C // p.groups, rows, columns].max(axis=(1, 2), initial=0)
    want = (largest * np.abs(w[k]).sum(axis=(1, 2), dtype=np.float64)).sum()
    assert np.isclose(got[n, k, i, j], want)


def test_a_stride_of_any_size_has_a_tilewise_bound():
    """One output an axis: what lies between two windows is not looked at, nor made room for."""
    p = Conv2d(1, 2, 5, 6, 3, 1, 1, stride=2**40)
    x, w, b = inputs(p, 0, "random")
    bound = allowed(p, x, w, magnitude(p, x, w, b), "tilewise")
    assert bound.shape == p.y_shape and (bound > 0).all()
