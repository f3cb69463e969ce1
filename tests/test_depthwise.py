"""numba/depthwise on shapes that its three ways split differently: planes, channels and sheets."""

from __future__ import annotations

import pytest
import trial

import convzoo
from convzoo import Conv2d
from convzoo.reference import examine

NAME = "numba/depthwise"
SHAPES = [
    # planes: columns around one, two and half a vector, rows around a tile, both strides and filters
    "n2c3h7w7k3r3s3-p1-g3",
    "n1c2h1w1k2r3s3-p1-g2",
    "n1c3h8w15k3r3s3-p1-g3-nobias",
    "n1c2h9w16k2r3s3-g2",
    "n2c2h15w33k2r3s3-p1-g2",
    "n1c2h13w34k2r3s3-p0_1_1_0-g2",
    "n3c2h3w70k2r3s3-st2-p1-g2",
    "n1c5h14w14k5r3s3-st2-p1-g5",
    "n1c2h16w31k2r3s3-st2-p2_0_0_1-g2",
    "n1c3h11w19k6r5s5-p2-g3",
    "n2c2h12w37k2r5s5-st2-p1_2_2_1-g2",
    "n1c2h11w18k2r7s7-p3_3_2_3-g2",
    "n1c3h6w9k9r3s3-p3_4_1_5-g3",
    # sheets: other filters, strides that differ, dilation, padding beyond what masks hold
    "n1c3h9w20k3r3s3-p0_0_9_9-g3",
    "n2c3h9w20k6r7s2-p3_3_1_0-g3",
    "n1c2h9w40k2r3s3-st1x2-p1-g2",
    "n1c2h9w23k4r3s3-st3-p1-g2",
    "n1c4h17w18k4r3s3-p2-d2x3-g4",
    "n1c1h9w40k3r3s3-p1",
    "n1c3h9w8k6r3s3-p1-g3-nhwc",
    "n2c5h7w6k15r2s3-st2x1-p1-g5-nhwc",
    # channels: around one and two vectors, tiles of 8, 4, 2 and 1 pixels, edges on both sides
    "n2c16h5w17k16r3s3-p1-g16-nhwc",
    "n1c17h6w9k17r3s3-st2-p1-g17-nhwc",
    "n1c33h3w8k33r5s5-p2-g33-nhwc",
    "n1c9h9w12k9r7s7-p3-g9-nhwc",
    "n1c3h4w5k3r3s4-p4_3_5_2-st2x1-d2x3-g3-nhwc",
    "n1c7h4w30k7r1s1-g7-nobias-nhwc",
    "n1c1h4w9k1r3s3-p1-nhwc",
]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("bits", [pytest.param(128, marks=pytest.mark.slow), 256, 512])
@pytest.mark.parametrize("text", SHAPES)
def test_every_way_is_right_with_every_width(monkeypatch, text, bits, dtype):
    monkeypatch.setenv("CONVZOO_VECTOR_BITS", str(bits))
    p = Conv2d.parse(text + ("-f64" if dtype == "float64" else ""))
    kernel = convzoo.load(NAME)
    trial.expect(examine(kernel, p, 0, trial.plan(kernel, p)), NAME, p, 0)


def test_shares_end_in_the_middle_of_planes():
    """Rows of two threads meet inside a plane; a batch goes on with the first channel's weights."""
    kernel = convzoo.load(NAME)
    for text in ("n1c3h115w60k3r3s3-p1-g3", "n3c5h61w40k5r3s3-p1-g5", "n3c5h61w40k10r3s3-st2-g5"):
        p = Conv2d.parse(text)
        assert p.flops > 3e5  # else one thread does it
        trial.expect(examine(kernel, p, 1, trial.plan(kernel, p)), NAME, p, 1)


def test_a_filter_for_each_channel_is_needed():
    with pytest.raises(convzoo.Unsupported, match="groups = C"):
        convzoo.load(NAME).plan(Conv2d.parse("n1c4h8w8k4r3s3-p1-g2"))


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_another_shape_needs_no_compilation(layout):
    kernel = convzoo.load(NAME)
    shapes = [Conv2d(9, 8 * i, 7 * i, 60 + i, 8 * i, 3, 3, padding=1, groups=8 * i, layout=layout) for i in (1, 2, 3)]
    codes = {kernel.plan(p).code for p in shapes}
    assert len(codes) == 1
