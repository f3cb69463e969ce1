"""Whatever an estimate of time may choose, the output is right.

``tests.mutation.compiled_mutants.CHOICES`` leaves these functions out: no mistake in them makes a kernel wrong.
Winograd's choices are tried in test_winograd, by ``test_every_split_computes_all_outputs``.
"""

import pytest

pytest.importorskip("numba", reason="the kernels are Numba's: pip install convzoo[numba]")

from convzoo import Conv2d
from convzoo.caches import Caches
from convzoo.catalog import find
from convzoo.numba import _pixels, _simd, _tiles, pointwise
from convzoo.reference import examine
from tests.mutation import compiled_mutants

NCHW = "n2c6h7w9k18r3s2-st2x1-p1_2_0_3-d2x1-g2"
DILATED = "n2c70h9w7k19r3s3-p4_5_3_2-d4"
THINNED = "n2c40h9w8k9r1s1-st2x3"
NHWC = "n2c3h7w6k9r2s3-p1-nhwc"
PLAIN = "n1c3h6w7k13r1s1"


def verdict(name, text):
    kernel, p = find(name), Conv2d.parse(text)
    return examine(kernel, p, 0, kernel.module().plan(p))


@pytest.mark.parametrize("tile", _simd.tile_heights())
@pytest.mark.parametrize("text", [NCHW, NHWC, DILATED, THINNED])
def test_register_tile_with_any_tile_and_any_band(tile, text, monkeypatch):
    p = Conv2d.parse(text)
    ways = [(rows, 1, "plain") for rows in (1, 2, p.P - 1, p.P)] + [(p.P, 2, "plain"), (p.P, 2, "rows")]
    for rows, together, order in [*ways, (p.P, 1, "columns")]:
        for copied in (True, False):
            for chunks in {1, _tiles.runs_of_weights(p)}:
                way = _tiles.Way(tile, rows, together, order, copied, chunks)
                monkeypatch.setattr(_tiles, "choose", lambda *_, way=way: way)
                answer = verdict("numba/register_tile", text)
                assert answer.ok, (way, answer.why)


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


NEAR, FAR = Caches(2**15, 2**20, 2**25), Caches(48 * 2**10, 2**21, 300 * 2**20)
SMALL = Caches(2**15, 2**18, 2**22)


@pytest.mark.parametrize("known", [NEAR, FAR, SMALL])
@pytest.mark.parametrize("text", ["n16c512h7w7k512r3s3-p1", "n16c512h28w28k1024r1s1-st2", "n1c832h7w7k128r5s5-p2"])
def test_blocks_fit_the_second_level(known, text):
    """A band of x, and twice a chunk of weights: the one that is used and the one that is asked for."""
    p = Conv2d.parse(text)
    way = _tiles.choose(p, 2, known)
    run = _tiles.RUN * p.R * p.S * 2 * _simd.lanes(p.dtype) * p.itemsize
    chunk = -(-_tiles.runs_of_weights(p) // way.chunks) * run
    assert chunk <= known.L2 / 6 + run
    if way.together > 1:
        high, wide = (p.P, p.Q) if _tiles.thinned(p) else p.padded if way.copied else (p.H, p.W)
        assert way.together * p.C * high * wide * p.itemsize + 2 * chunk <= known.L2


def test_the_way_follows_the_caches():
    """More images share a panel where the second level holds more, and weights are cut where it holds less."""
    small, near, far = (_tiles.choose(Conv2d.parse("n16c512h7w7k512r3s3-p1"), 2, known) for known in (SMALL, NEAR, FAR))
    assert small.together <= near.together < far.together
    assert small.chunks > near.chunks > far.chunks > 1
    assert FAR.rate < NEAR.rate == SMALL.rate


def test_what_is_left_out_is_tried():
    assert {
        "numba/_tiles": {"choose"},
        "numba/pointwise": {"tiling"},
        "numba/_pixels": {"best_rows"},
        "numba/_winograd": {"products_of", "sub_block", "split_of"},
    } == compiled_mutants.CHOICES
