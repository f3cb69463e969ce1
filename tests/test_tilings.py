"""Whatever an estimate of time may choose, the output is right.

``tests.mutation.compiled_mutants.CHOICES`` leaves these functions out: no mistake in them makes a kernel wrong.
Winograd's choices are tried in test_winograd, by ``test_every_split_computes_all_outputs``.
"""

import pytest

pytest.importorskip("numba", reason="the kernels are Numba's: pip install convzoo[numba]")

from convzoo import Conv2d
from convzoo.catalog import find
from convzoo.numba import _pixels, _simd, pointwise, register_tile
from convzoo.reference import examine
from tests.mutation import compiled_mutants

NCHW = "n2c6h7w9k18r3s2-st2x1-p1_2_0_3-d2x1-g2"
NHWC = "n2c3h7w6k9r2s3-p1-nhwc"
PLAIN = "n1c3h6w7k13r1s1"


def verdict(name, text):
    kernel, p = find(name), Conv2d.parse(text)
    return examine(kernel, p, 0, kernel.module().plan(p))


@pytest.mark.parametrize("tile", _simd.tile_heights())
@pytest.mark.parametrize("text", [NCHW, NHWC])
def test_register_tile_with_any_tile_and_any_band(tile, text, monkeypatch):
    P = Conv2d.parse(text).P
    for rows in (1, 2, P - 1, P, P + 1):
        monkeypatch.setattr(register_tile, "tiling", lambda p, U, *_, rows=rows: (float(tile != U), rows))
        answer = verdict("numba/register_tile", text)
        assert answer.ok, answer.why


@pytest.mark.parametrize("tile", _simd.tile_heights())
@pytest.mark.parametrize("text", [PLAIN, "n2c3h7w9k9r1s1-nhwc", "n2c3h9w8k9r1s1-st2x3"])
def test_pointwise_with_any_tile_and_any_block(tile, text, monkeypatch):
    for rows in (1, 2, 5, 1000):
        monkeypatch.setattr(pointwise, "tiling", lambda p, *of, rows=rows: (float(of[3] != tile), min(rows, of[1] + 1)))
        answer = verdict("numba/pointwise", text)
        assert answer.ok, answer.why


@pytest.mark.parametrize("name", ["numba/few_channels", "numba/depthwise"])
@pytest.mark.parametrize("text", ["n2c3h9w8k6r3s2-st2x1-p1_2_0_3-d1x2-g3", "n2c2h6w20k2r3s3-g2"])
def test_pixels_with_any_band(name, text, monkeypatch):
    P = Conv2d.parse(text).P
    for rows in range(1, P + 2):
        monkeypatch.setattr(_pixels, "best_rows", lambda *_, rows=rows: rows)
        answer = verdict(name, text)
        assert answer.ok, answer.why


def test_what_is_left_out_is_tried():
    assert {
        "numba/register_tile": {"tiling"},
        "numba/pointwise": {"tiling"},
        "numba/_pixels": {"best_rows"},
        "numba/_winograd": {"products_of", "sub_block", "split_of"},
    } == compiled_mutants.CHOICES
