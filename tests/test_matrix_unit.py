"""Kernels on the CPU's matrix unit: the unit emulated, right on any CPU, and the same numbers as the real one."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("numba", reason="needs numba: pip install numba")

from numba import njit

from convzoo import Conv2d, Unsupported
from convzoo.catalog import load
from convzoo.numba import _amx, _implicit_gemm
from convzoo.numba._simd import call
from convzoo.reference import examine, inputs

KERNELS = {6: "numba/amx_6xbf16", 3: "numba/amx_3xbf16", 1: "numba/amx_bf16"}
BACK = (_amx.entry, _implicit_gemm.compiled)  # what is compiled is kept by these

# tails of channels, outputs and pixels; strides as phases; several images and bands in a panel; groups
SHAPES = [
    "n2c33h7w9k35r1s1",
    "n3c40h7w7k20r1s1-st2",
    "n1c16h5w6k7r1s1-st3x2-nobias",
    "n3c32h7w7k40r3s3-p1",
    "n1c48h9w23k33r3s3-st2-p1",
    "n2c64h11w13k48r3s5-p1_2_0_3-d2-g2",
    "n1c17h6w5k7r2s3-st3x2-p2",
    "n2c20h1w1k10r1s1",
    "n1c16h3w40k5r1s1-p2",
]
LAYOUTS = ("", "-nhwc")
# of ``sums(count, 3)`` on an Intel Xeon with AMX, 2026-12-01: the first digits of SHA-256
HARDWARE = {6: "910411817f3c2ae3", 3: "8f50443f8d3e043c", 1: "a01963cb8ad1db1e"}


@pytest.fixture
def emulated(monkeypatch):
    monkeypatch.setenv("CONVZOO_MATRIX_UNIT", "emulated")


def convolve(count: int, p: Conv2d, x, w, b):
    plan = load(KERNELS[count]).plan(p)
    return plan.run(x, plan.pack(w, b))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", SHAPES)
def test_all_tails_pass_the_whole_verdict(emulated, shape, layout):
    p = Conv2d.parse(shape + layout)
    kernel = load(KERNELS[6])
    verdict = examine(kernel, p)
    assert verdict.ok, verdict.why
    assert verdict.score <= 3


@pytest.mark.parametrize("count", [3, 1])
@pytest.mark.parametrize("shape", ["n2c33h7w9k35r1s1", "n1c48h9w23k33r3s3-st2-p1-nhwc"])
def test_fewer_products_keep_what_they_promise(emulated, count, shape):
    p, kernel = Conv2d.parse(shape), load(KERNELS[count])
    verdict = examine(kernel, p)
    assert verdict.ok, verdict.why


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.data())
def test_every_pixel_of_y_is_in_a_tile(data):
    number = st.integers(1, 20)
    draw = {name: data.draw(number) for name in "HWRS"}
    pads = tuple(data.draw(st.integers(0, 5)) for _ in range(4))
    stride = (data.draw(st.integers(1, 3)), data.draw(st.integers(1, 3)))
    try:
        p = Conv2d(N=2, C=16, K=8, padding=pads, stride=stride, **draw)
    except ValueError:
        return
    rows, images = data.draw(st.integers(1, p.P)), 1
    pitch, lines = _implicit_gemm.lines_of(p, rows)[2:]
    for shape in _implicit_gemm.shapes(p, rows, pitch):
        found = set()
        for first, segments in _implicit_gemm.cut(p, rows, images, pitch, lines, shape):
            assert 1 <= shape[0] <= 16
            for pixel, row, number_of in segments:
                assert row + number_of <= shape[0]
                for i in range(number_of):
                    r, q = divmod(first + row + i, pitch)
                    assert pixel + i == r * p.Q + q
                    found.add(pixel + i)
        assert found == set(range(rows * p.Q))


# --- the instruction -----------------------------------------------------------------------------------


def tiles_of_numbers(count: int, steps: int):
    """Operands of ``SUMS`` made of bfloat16 numbers of both signs and many sizes; the bias last."""
    parts = {6: 3, 3: 2, 1: 1}[count]
    rng = np.random.default_rng(7)
    size = steps * parts * 2 * 512
    values = (rng.standard_normal(2 * size) * 2.0 ** rng.integers(-20, 20, 2 * size)).astype(np.float32)
    x, w = (values.view(np.uint32) >> 16).astype(np.uint16).reshape(2, size)
    return x, w, rng.standard_normal(512).astype(np.float32), parts


def sums(count: int, steps: int, real: bool):
    x, w, bias, parts = tiles_of_numbers(count, steps)
    y, table = np.zeros((32, 32), np.float32), np.arange(steps) * parts * 2 * _amx.TILE
    tiles = _amx.configuration([16] * 8)
    address, _ = _amx.entry(_amx.SUMS, count, 16, _amx.REAL * real)
    told = int(real)

    @njit
    def multiply(address, x, w, y, table, bias, tiles):
        _amx.configure(told, tiles.ctypes.data)
        at = (x.ctypes.data, x.ctypes.data + 1024, 2048, 64, table.ctypes.data, w.ctypes.data, table.size)
        call(address, (*at, bias.ctypes.data, y.ctypes.data, 128, 2048, 64))
        _amx.release(told)

    multiply(address, x, w, y, table, bias, tiles)
    return y


def manual(count: int, steps: int):
    """The same by Intel's manual, TDPBF16PS: even and odd products summed apart, to nearest, zero if tiny."""
    x, w, bias, parts = tiles_of_numbers(count, steps)
    shape = (steps, parts, 2, 16, 16, 2)
    x, w = ((a.astype(np.uint32) << 16).view(np.float32).reshape(shape) for a in (x, w))
    y = np.repeat(bias.reshape(2, 16, 16)[:, :, None], 2, axis=2).astype(np.float32)  # [left][row][right][column]
    for group in _amx.PRODUCTS[count]:
        for step in range(steps):
            for w_part, x_part in group:
                for l in range(2):
                    for r in range(2):
                        left, right = w[step, w_part, l], x[step, x_part, r]
                        apart = np.zeros((2, 16, 16), np.float32)
                        for j in range(16):
                            for half in range(2):
                                products = np.multiply.outer(left[:, j, half], right[j, :, half])
                                apart[half] += products
                        y[l, :, r] += apart[0] + apart[1]
    return y.reshape(32, 32)


@pytest.mark.parametrize("count", KERNELS)
def test_the_emulation_follows_the_manual(count):
    assert np.array_equal(sums(count, 3, real=False), manual(count, 3))


@pytest.mark.parametrize("count, stored", HARDWARE.items())
def test_the_emulation_gives_what_the_hardware_gave(count, stored):
    assert hashlib.sha256(sums(count, 3, real=False).tobytes()).hexdigest()[:16] == stored


@pytest.mark.parametrize("count", KERNELS)
@pytest.mark.parametrize("shape", ["n2c33h7w9k35r1s1", "n3c32h7w7k40r3s3-p1", "n1c48h9w23k33r3s3-st2-p1-nhwc"])
def test_real_and_emulated_kernels_agree_in_every_bit(monkeypatch, count, shape):
    monkeypatch.delenv("CONVZOO_MATRIX_UNIT", raising=False)
    if _amx.unit() != "real":
        pytest.skip("needs a CPU with AMX tiles and bfloat16, and a system that permits them")
    p = Conv2d.parse(shape)
    data = inputs(p, 0, "random")
    real = convolve(count, p, *data)
    monkeypatch.setenv("CONVZOO_MATRIX_UNIT", "emulated")
    assert np.array_equal(convolve(count, p, *data), real)


# --- faults that the verdict must see ------------------------------------------------------------------


def forgotten(monkeypatch, digest: int) -> None:
    """Nothing compiled before is used again, here or from the disk."""
    monkeypatch.setattr(_amx, "DIGEST", _amx.DIGEST ^ digest)
    for kept in BACK:
        kept.cache_clear()


SMALL, MAIN = _amx.PRODUCTS[6]
PRODUCT_FAULTS = {
    "one product left out": (SMALL[:-1], MAIN),
    "the other product of second parts left out": (((0, 2), (0, 1), (1, 0), (2, 0)), MAIN),
    "parts of x swapped": (((0, 1), (0, 2), (1, 1), (1, 0), (2, 0)), ((0, 1),)),
    "one product twice": ((*SMALL, (0, 1)), MAIN),
}


def verdict_on(shape: str):
    p, kernel = Conv2d.parse(shape), load(KERNELS[6])
    return examine(kernel, p)


@pytest.mark.parametrize("fault", PRODUCT_FAULTS)
def test_a_wrong_set_of_products_is_found(emulated, monkeypatch, fault):
    monkeypatch.setitem(_amx.PRODUCTS, 6, PRODUCT_FAULTS[fault])
    forgotten(monkeypatch, 1 + list(PRODUCT_FAULTS).index(fault))
    try:
        assert not verdict_on("n1c48h7w9k35r3s3-p1").ok
    finally:
        for kept in BACK:
            kept.cache_clear()


def stale_tile(self, tile, address, stride, load=_amx.Tiles.load):
    if tile != 5:  # the second left tile keeps what it had
        load(self, tile, address, stride)


def lost_row(self, tile, address, stride, store=_amx.Tiles.store):
    self.rows = [*self.rows[:3], self.rows[3] - 1, *self.rows[4:]]
    store(self, tile, address, stride)


TILE_FAULTS = {"a stale tile": ("load", stale_tile), "the last row of a tile": ("store", lost_row)}


@pytest.mark.parametrize("fault", TILE_FAULTS)
def test_a_fault_in_a_tile_is_found(emulated, monkeypatch, fault):
    name, wrong = TILE_FAULTS[fault]
    monkeypatch.setattr(_amx.Tiles, name, wrong)
    forgotten(monkeypatch, 100 + list(TILE_FAULTS).index(fault))
    try:
        assert not verdict_on("n1c48h7w9k64r3s3-p1").ok
    finally:
        for kept in BACK:
            kept.cache_clear()


# --- numbers that parts cannot hold, and what is refused -------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("where", ["x", "w"])
@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan, 3e38, 2.0**127])
def test_numbers_beyond_the_parts_come_out_as_float32_has_them(emulated, value, where, layout):
    p = Conv2d.parse("n1c32h5w6k33r3s3-p1" + layout)
    x, w, b = inputs(p, 0, "random")
    w *= np.float32(1e-3)
    (x if where == "x" else w).flat[7] = value
    expected = np.empty(p.y_shape, np.float32)
    _implicit_gemm.plainly(x, w, b, expected, bool(layout), 1, p.stride, p.padding[::2], p.dilation)
    found = convolve(6, p, x, w, b)
    assert np.array_equal(found, expected, equal_nan=True)
    assert not np.isfinite(found).all() or abs(found).max() > 1e30


def test_what_lies_outside_of_the_image_is_no_infinity(emulated):
    """A tap in the padding multiplies nothing, so an infinite weight there makes no NaN."""
    p = Conv2d.parse("n1c16h1w1k3r3s3-p1")
    x, w, b = inputs(p, 0, "random")
    w[:, :, 0, 0] = np.inf
    assert np.isfinite(convolve(6, p, x, w, b)).all()


def test_few_channels_are_refused_in_words(emulated):
    for count in KERNELS:
        with pytest.raises(Unsupported, match="at least 16 channels a group"):
            load(KERNELS[count]).plan(Conv2d.parse("n1c30h8w8k32r3s3-g2"))


def test_a_cpu_without_the_unit(monkeypatch):
    p = Conv2d.parse("n1c32h8w8k32r3s3")
    monkeypatch.setattr(_amx, "permitted", lambda: False)
    monkeypatch.delenv("CONVZOO_MATRIX_UNIT", raising=False)
    with pytest.raises(Unsupported, match="matrix unit"):
        load(KERNELS[6]).plan(p)
    monkeypatch.setenv("CONVZOO_MATRIX_UNIT", "real")
    with pytest.raises(ValueError, match="no matrix unit"):
        load(KERNELS[6]).plan(p)
    monkeypatch.setenv("CONVZOO_MATRIX_UNIT", "maybe")
    with pytest.raises(ValueError, match="real, emulated or none, got 'maybe'"):
        load(KERNELS[6]).plan(p)
