"""Winograd's kernels: transforms that are exact, errors as promised, one compilation for all shapes."""

from __future__ import annotations

import dataclasses
import itertools
import os
import subprocess
import sys
import time
from fractions import Fraction

import numpy as np
import pytest

import convzoo
from convzoo import Conv2d, Unsupported
from convzoo.reference import bounds, examine, inputs, judge, magnitude, oracle

pytest.importorskip("numba", reason="needs numba: pip install numba")

from convzoo.numba import _winograd, _winograd_code, winograd, winograd_decomposed, winograd_small

FILES = {"numba/winograd": winograd, "numba/winograd_small": winograd_small}
TRANSFORMS = [(3, winograd.POINTS), (3, winograd.FEWER), (3, winograd_small.POINTS), *winograd_decomposed.FRAMES]
both = pytest.mark.parametrize("name", FILES)

# tails of vectors, panels, tiles and blocks; images smaller than a tile; padding beyond the filter
SHAPES = [
    "n1c1h1w1k1r3s3-p1",
    "n1c3h3w3k2r3s3",
    "n2c17h5w23k33r3s3-p1_2_0_3",
    "n3c16h9w14k15r3s3-p0_1_5_3-nobias",
    "n1c65h13w19k31r3s3-p4_0_0_6",
    "n1c130h4w67k64r3s3-p1",
    "n5c33h7w7k100r3s3-p1",
]


# filters that are cut: one piece and many, pieces that lack taps in columns, in rows, in both; vectors that
# several pieces share, and a piece that begins in the middle of one; images smaller than the filter; whole
# vectors of which none has a product at infinity
CUT = [
    "n1c3h17w19k5r7s7-st2-p3",
    "n2c5h9w23k33r5s5-p2_1_0_3",
    "n1c35h11w12k18r3s3-st2-p1-nobias",
    "n1c1h12w40k3r5s20-st2",
    "n3c16h6w14k15r1s7-p0_0_3_3",
    "n1c19h13w7k31r4s1-p5_0_0_6",
    "n1c32h9w7k40r3s1-p1_1_0_0",
    "n1c2h4w3k2r3s3-st2-p3",
    "n1c66h9w10k40r2s2-st3x1",
    "n2c9h3w70k17r2s6-st1x2-p1",
]


def multiply(*matrices):
    product, *rest = matrices
    for other in rest:
        columns = list(zip(*other, strict=True))
        product = [[sum(a * b for a, b in zip(row, c, strict=True)) for c in columns] for row in product]
    return product


def transposed(matrix):
    return [list(row) for row in zip(*matrix, strict=True)]


@pytest.mark.parametrize("r, points", TRANSFORMS)
def test_transforms_are_exact(r, points):
    """y = AT ((G g GT) * (BT d B)) A is the convolution of a tile, in fractions, without any rounding.

    Tiles with fewer outputs a side need fewer of the same transformed filters: the first ones.
    """
    A = len(points.split(",")) + 1
    whole = _winograd_code.matrices(points, r)[1]
    rng = np.random.default_rng(0)
    d = [[Fraction(int(v), 7) for v in row] for row in rng.integers(-99, 100, (A, A))]
    g = [[Fraction(int(v), 5) for v in row] for row in rng.integers(-99, 100, (r, r))]
    for high, wide in itertools.product(range(1, A - r + 2), repeat=2):
        AT, G, BT = zip(*(_winograd_code.matrices(points, r, n) for n in (high, wide)), strict=True)
        for n, outputs in enumerate((high, wide)):
            assert {len(row) for row in AT[n] + BT[n]} == {outputs + r - 1} and len(AT[n]) == outputs
            assert G[n] == whole[: outputs + r - 1]
        u = multiply(G[0], g, transposed(G[1]))
        tile = [row[: wide + r - 1] for row in d[: high + r - 1]]
        v = multiply(BT[0], tile, transposed(BT[1]))
        products = [[a * b for a, b in zip(*rows, strict=True)] for rows in zip(u, v, strict=True)]
        want = [
            [sum(d[i + k][j + s] * g[k][s] for k in range(r) for s in range(r)) for j in range(wide)]
            for i in range(high)
        ]
        assert multiply(AT[0], products, transposed(AT[1])) == want


def test_small_transforms_only_add_and_halve():
    AT, G, BT = _winograd_code.matrices(winograd_small.POINTS)
    assert {abs(c) for row in AT + BT for c in row} == {0, 1}
    assert {abs(c) for row in G for c in row} == {0, Fraction(1, 2), 1}


def relu_layer(p: Conv2d):
    x, w, b = inputs(p, 0)
    return np.maximum(x, 0), w, b


def rms_error(y, want):
    return float(np.sqrt(np.mean((y.astype(np.float64) - want) ** 2)))


@pytest.mark.parametrize(
    "problem", ["n1c64h30w30k64r3s3-p1", "n1c256h14w14k64r3s3-p1", "n1c512h7w7k64r3s3-p1", "n1c512h9w7k512r3s3-p1"]
)
@pytest.mark.parametrize("name, factor", [("numba/winograd", 4), ("numba/winograd_small", 2)])
def test_error_is_a_small_multiple_of_the_direct_one(name, factor, problem):
    torch = pytest.importorskip("torch", reason="needs torch to compare errors with")
    p = Conv2d.parse(problem)
    x, w, b = relu_layer(p)
    want = oracle(p, x, w, b)
    plan = convzoo.load(name).plan(p)
    error = rms_error(plan.run(x, plan.pack(w, b)), want)
    theirs = torch.nn.functional.conv2d(*map(torch.from_numpy, (x, w, b)), padding=1).numpy()
    assert error <= factor * rms_error(theirs, want)
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    chain = np.zeros(p.y_shape, np.float32)  # one product after another, as the textbook has it
    for c in range(p.C):
        for r in range(3):
            for s in range(3):
                window = padded[:, c : c + 1, r : r + p.P, s : s + p.Q]
                chain += window * w[:, c, r, s][None, :, None, None]
    assert error <= factor * rms_error(chain + b[None, :, None, None], want)


@both
@pytest.mark.parametrize(
    "registers, dtype, layout",
    [
        (None, "float32", "nchw"),
        (None, "float32", "nhwc"),
        (None, "float64", "nchw"),
        (None, "float64", "nhwc"),
        ((32, 16), "float32", "nchw"),
        pytest.param((32, 16), "float64", "nhwc", marks=pytest.mark.slow),
    ],
)
def test_odd_shapes(name, registers, dtype, layout, monkeypatch):
    """Also with the vectors and registers of AVX2, which any processor with AVX-512 has, too."""
    if registers:
        if _winograd.processor()[0] < 32:
            pytest.skip("needs a processor with AVX2")
        monkeypatch.setattr(_winograd, "processor", lambda: registers)
    kernel = convzoo.load(name)
    for seed, text in enumerate(SHAPES):
        p = dataclasses.replace(Conv2d.parse(text), dtype=dtype, layout=layout)
        verdict = examine(kernel, p, seed)
        assert verdict.ok, f"{p}, seed {seed}: {verdict.why}"


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize(
    "name, filters", [*((name, "r3s3-p1") for name in FILES), ("numba/winograd_decomposed", "r5s4-p2")]
)
def test_last_tiles_of_every_size(name, filters, layout):
    """One tile in a row or a column, and several; blocks that begin and end anywhere in an image."""
    kernel = convzoo.load(name)
    for high, wide in itertools.product((2, 5, 7, 8), (3, 6, 8, 9)):
        for images, channels, outputs in ((3, 33, 70), (1, 50, 17)):
            text = f"n{images}c{channels}h{high}w{wide}k{outputs}{filters}"
            p = dataclasses.replace(Conv2d.parse(text), layout=layout)
            verdict = examine(kernel, p, high * wide)
            assert verdict.ok, f"{p}: {verdict.why}"


def test_vectors_are_as_wide_as_the_environment_says(monkeypatch):
    monkeypatch.setenv("CONVZOO_VECTOR_BITS", "128")
    p = Conv2d.parse(SHAPES[2])
    assert _winograd.processor()[0] == 16 and _winograd.recipe_of(p, winograd.POINTS).lanes == 4
    verdict = examine(convzoo.load("numba/winograd"), p, 0)
    assert verdict.ok, verdict.why


@pytest.mark.parametrize(
    "registers, dtype, layout",
    [
        (None, "float32", "nchw"),
        (None, "float32", "nhwc"),
        ((32, 16), "float32", "nchw"),
        pytest.param((32, 16), "float32", "nhwc", marks=pytest.mark.slow),
        pytest.param(None, "float64", "nchw", marks=pytest.mark.slow),
        pytest.param(None, "float64", "nhwc", marks=pytest.mark.slow),
        pytest.param((32, 16), "float64", "nhwc", marks=pytest.mark.slow),
    ],
)
def test_filters_that_are_cut(registers, layout, dtype, monkeypatch):
    if registers:
        if _winograd.processor()[0] < 32:
            pytest.skip("needs a processor with AVX2")
        monkeypatch.setattr(_winograd, "processor", lambda: registers)
    kernel = convzoo.load("numba/winograd_decomposed")
    for seed, text in enumerate(CUT):
        p = dataclasses.replace(Conv2d.parse(text), dtype=dtype, layout=layout)
        verdict = examine(kernel, p, seed)
        assert verdict.ok, f"{p}, seed {seed}: {verdict.why}"


@pytest.mark.parametrize("text", CUT)
def test_pieces_have_each_tap_once(text):
    """Also that starts say which pieces are whole, and that no product is counted that is not made."""
    p = Conv2d.parse(text)
    for r, points in winograd_decomposed.FRAMES:
        w = 1 + np.arange(p.C * p.R * p.S, dtype=np.float64).reshape(p.w_shape[1:])
        pieces = _winograd.pieces_of(p, r)
        cut = np.zeros((len(pieces.at), p.C, r, r))
        cut.put(_winograd.places_of(p, r), w)
        assert np.array_equal(np.sort(cut[cut != 0]), w.ravel())
        for (h, v), piece in zip(pieces.at, cut, strict=True):
            taps = w[:, h :: p.stride[0], v :: p.stride[1]][:, :r, :r]
            assert np.array_equal(piece[:, : taps.shape[1], : taps.shape[2]], taps)
        there = (cut != 0).any(1)  # [pieces, r, r]
        one, two, three = pieces.starts
        whole = there.any(2).all(1), there.any(1).all(1)
        assert np.array_equal(np.flatnonzero(whole[0]), np.arange(two))
        assert np.array_equal(np.flatnonzero(whole[1]), np.arange(one, three))
        _, G, _ = _winograd_code.matrices(points, r)
        G = np.array(G, np.float64)
        u = np.abs(G) @ cut[:, 0] @ np.abs(G).T  # of positive taps, so that none cancel
        m = len(G) - r + 1
        sizes = [[min(m, n - i) + r - 1 for i in range(0, n, m)] for n in (p.P, p.Q)]
        tiles = [np.count_nonzero(u[:, :h, :w]) for h, w in itertools.product(*sizes)]
        assert _winograd.products_of(p, r, points) == p.N * p.C * sum(tiles)


@pytest.mark.parametrize(
    "problem", ["n1c64h30w30k64r3s3-st2-p1", "n1c3h60w60k64r7s7-st2-p3", "n1c64h20w20k32r5s5-p2", "n1c64h17w17k64r1s7"]
)
def test_error_of_pieces_is_a_small_multiple_of_the_direct_one(problem):
    torch = pytest.importorskip("torch", reason="needs torch to compare errors with")
    p = Conv2d.parse(problem)
    x, w, b = relu_layer(p)
    want = oracle(p, x, w, b)
    plan = convzoo.load("numba/winograd_decomposed").plan(p)
    theirs = torch.nn.functional.conv2d(*map(torch.from_numpy, (x, w, b)), stride=p.stride, padding=p.padding[::2])
    assert rms_error(plan.run(x, plan.pack(w, b)), want) <= 4 * rms_error(theirs.numpy(), want)


@pytest.mark.parametrize("threads", [1, 2, 3, 7, 64])
@pytest.mark.parametrize(
    "points, r, cut",
    [(points, 3, False) for points in (winograd.POINTS, winograd.FEWER, winograd_small.POINTS)]
    + [(points, r, True) for r, points in winograd_decomposed.FRAMES],
)
def test_every_split_computes_all_outputs(points, r, cut, threads):
    """The parts of a split are run one after another, so that any number of threads can be tried."""
    whole = ("n2c20h13w29k70r3s3-p1", "n1c40h7w7k200r3s3-p1", "n1c5h4w4k3r3s3-p1")
    for text in CUT[:7] if cut else whole:
        p = Conv2d.parse(text)
        recipe = _winograd.recipe_of(p, points, r)
        numbers = _winograd.numbers_of(p, recipe, threads)
        parts = numbers.tile_parts * numbers.panel_parts
        assert parts <= threads and numbers.blocks % numbers.tile_parts == 0
        x, w, b = inputs(p, 0, "integers")
        y = np.full(p.y_shape, np.nan, p.dtype)
        u, bias = _winograd.layer(p, points, r).pack(w, b)
        memory = _winograd.aligned((parts * numbers.bytes,), "uint8")
        memory.view(p.dtype)[:] = np.nan  # nothing may be read that was not written
        launch = _winograd.launcher(p.dtype, False)
        function = _winograd.address_of(_winograd.compiled(recipe))
        launch(function, parts, x, u, bias, y, memory.ctypes.data, numbers.flat)
        assert np.abs(y - oracle(p, x, w, b)).max() < 0.01


def test_small_is_exact_on_integers():
    """The bound that its docstring gives, met from below, with data that adds up and data that does not."""
    kernel = convzoo.load("numba/winograd_small")
    p = Conv2d.parse("n1c444h6w7k3r3s3-p1")
    rng = np.random.default_rng(0)
    most = (2**16 - 1) // p.C
    for signs in (1, rng.choice([-1, 1], p.w_shape)):
        x = rng.integers(most - 2, most + 1, p.x_shape).astype(p.dtype)
        w = np.broadcast_to(np.asarray(signs, p.dtype), p.w_shape).copy()
        b = rng.integers(-2048, 2049, p.K).astype(p.dtype)
        plan = kernel.plan(p)
        assert np.array_equal(plan.run(x, plan.pack(w, b)), oracle(p, x, w, b))


def amplified(points: str, r: int, outputs: int) -> Fraction:
    """kappa of ``reference.bounds``: what the transforms of one side make of the largest pixel and the sum of taps."""
    AT, G, BT = _winograd_code.matrices(points, r, outputs)
    each = [max(map(abs, g)) * sum(map(abs, b)) for g, b in zip(G, BT, strict=False)]
    return max(sum(abs(a) * e for a, e in zip(row, each, strict=True)) for row in AT)


@pytest.mark.parametrize("r, points", TRANSFORMS)
def test_transforms_amplify_and_reach_as_little_as_tilewise_allows(r, points):
    A = len(points.split(",")) + 1
    every = [amplified(points, r, outputs) for outputs in range(1, A - r + 2)]
    assert max(every) ** 2 <= bounds.AMPLIFIED
    assert A - 1 <= bounds.REACH, "a piece may lack all but one of its r taps: m + r - 2 outputs"
    assert 2 * (A + 3 + r + 2 + A + 3) + 1 <= bounds.ROUNDINGS
    assert (every[-1] == 4) == (points == winograd_small.POINTS)


def test_points_of_others_amplify_more_than_tilewise_allows():
    """Why ncnn, which has them, promises less."""
    assert 29 < amplified("0,1,-1,2,-2", 3, 4) < 30 and 40 < amplified("0,1,-1,2,-2,1/2,-1/2", 3, 6) < 41


def wide_data(p: Conv2d, seed: int, decades: float):
    """Normal numbers, each scaled by a power of ten of its own, over so many decades."""
    rng = np.random.default_rng(seed)

    def draw(shape):
        scale = 10 ** rng.uniform(-decades / 2, decades / 2, shape)
        return (rng.standard_normal(shape) * scale).astype(p.dtype)

    return draw(p.x_shape), draw(p.w_shape), draw(p.K)


@pytest.mark.parametrize("decades", [0, 12])
@pytest.mark.parametrize(
    "name, text",
    [(name, f"n1c{c}h20w21k32r3s3-p1") for name in FILES for c in (1, 32, 100)]
    + [("numba/winograd_decomposed", text) for text in CUT],
)
def test_error_of_tiles_keeps_its_bound(name, text, decades):
    """The bound is proved, for any data; on what the verdict draws itself the error is half of what it holds to."""
    p = Conv2d.parse(text)
    plan = convzoo.load(name).plan(p)
    for seed in range(2):
        x, w, b = wide_data(p, seed, decades)
        for values in (x, inputs(p, seed, "spot")[0]):
            y = plan.run(values, plan.pack(w, b))
            assert judge(y, p, values, w, b, accuracy="tilewise").ok
            A = magnitude(p, values, w, b)
            error = np.abs(y - oracle(p, values, w, b)) / bounds.likely(p, A + bounds.of_tiles(p, values, w))
            assert error.max() < (1 if decades else 0.5)


@pytest.mark.parametrize("name", FILES)
def test_beside_a_spot_the_elementwise_bound_does_not_hold(name):
    """Why Winograd's scheme promises less, with the smallest tiles, too."""
    p, kernel = Conv2d.parse("n1c64h20w21k64r3s3-p1-nobias"), convzoo.load(name)
    plan, broken = kernel.plan(p), 0
    for seed in range(10):
        x, w, b = inputs(p, seed, "spot")
        broken += not judge(plan.run(x, plan.pack(w, b)), p, x, w, b, accuracy="elementwise").ok
    assert broken and kernel.accuracy == "tilewise"


@both
def test_further_shapes_are_planned_without_compiling(name):
    kernel = convzoo.load(name)
    kernel.plan(Conv2d.parse("n1c64h56w56k64r3s3-p1"))
    before = _winograd.compiled.cache_info().misses
    took = []
    for n in range(1, 6):
        p = Conv2d.parse(f"n{n}c128h28w{20 + n}k{60 + n}r3s3-p1")
        start = time.perf_counter()
        kernel.plan(p)
        took.append(time.perf_counter() - start)
    assert _winograd.compiled.cache_info().misses == before
    assert min(took) < 5e-3


def test_code_of_two_recipes_has_two_names():
    """Numba's cache once gave the code of one layout to the other, both being ``one_part``."""
    texts = ("n1c2h5w5k2r3s3", "n1c2h5w5k2r3s3-nhwc")
    recipes = [_winograd.recipe_of(Conv2d.parse(text), "0,1,-1") for text in texts]
    for functions in (
        [_winograd.compiled(recipe).py_func for recipe in recipes],
        [_winograd.work_of(recipe) for recipe in recipes],
    ):
        assert len({function.__qualname__ for function in functions}) == 2


@pytest.mark.slow
def test_code_that_two_processes_have_compiled_is_told_apart_by_a_third(tmp_path):
    """The inner functions of two recipes once had one name, and the linker took the first for both.

    The first process compiles what all share, so that the next two number their own functions alike.
    """
    code = (
        "import sys, convzoo; from convzoo.reference import examine\n"
        "for text in sys.argv[2:]:\n"
        "    p = convzoo.Conv2d.parse(text); print(examine(convzoo.load(sys.argv[1]), p, 0).why)"
    )
    one, two = "n1c32h9w8k5r3s3", "n1c32h9w8k5r3s3-nhwc"
    for kernel, *texts in ((winograd_small, one), (winograd, one), (winograd, two), (winograd, one, two)):
        some = ["numba/" + kernel.__name__.rpartition(".")[2], *texts]
        done = subprocess.run(
            [sys.executable, "-c", code, *some],
            capture_output=True,
            text=True,
            timeout=300,
            env=os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)},
        )
        assert (done.stdout.split(), done.returncode) == ([], 0), done.stderr


def test_next_process_finds_the_code_in_the_cache():
    p = Conv2d.parse("n1c2h5w5k2r3s3")
    recipe = _winograd.recipe_of(p, winograd.POINTS)
    _winograd.compiled(recipe)
    code = (
        "from convzoo import Conv2d; from convzoo.numba import _winograd, winograd;"
        f"recipe = _winograd.recipe_of(Conv2d.parse('{p}'), winograd.POINTS);"
        "print(sum(_winograd.compiled(recipe).stats.cache_hits.values()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.split() == ["1"]


@both
@pytest.mark.parametrize("problem", ["n1c2h8w8k2r5s5", "n1c2h8w8k2r3s3-st2", "n1c2h8w8k2r3s3-d2", "n1c2h8w8k2r3s3-g2"])
def test_other_problems_are_refused(name, problem):
    with pytest.raises(Unsupported, match="needs R = S = 3, stride 1"):
        convzoo.load(name).plan(Conv2d.parse(problem))


@pytest.mark.parametrize(
    "problem, why",
    [
        ("n1c2h8w8k2r3s3-p1", "3 x 3 with stride 1 is numba/winograd"),
        ("n1c2h8w8k2r1s1", "R = S = 1 has no products to save"),
        ("n1c2h8w8k2r3s3-st1x3", "a stride of at most 2 in a row, got 3"),
        ("n1c2h8w8k2r3s3-st2-d2", "needs dilation 1, groups 1"),
        ("n1c2h8w8k2r5s5-g2", "needs dilation 1, groups 1"),
    ],
)
def test_filters_that_are_not_cut(problem, why):
    with pytest.raises(Unsupported, match=why):
        convzoo.load("numba/winograd_decomposed").plan(Conv2d.parse(problem))
