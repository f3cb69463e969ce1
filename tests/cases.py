"""The problems that every kernel is tested on: a fixed list, and geometry drawn by hypothesis.

They are small, and chosen to break index arithmetic. They are not the benchmarks' problems, on purpose:
a kernel that is tuned for those shapes must still be right on these.
"""

from __future__ import annotations

from hypothesis import strategies as st

from convzoo import Conv2d

_LISTED = {
    "plain": "n1c3h8w9k4r3s3-p1",
    "one-of-everything": "n1c1h1w1k1r1s1",
    "odd-sizes": "n2c3h7w11k5r3s2",
    "even-filter": "n1c2h8w6k3r2s4-p1",
    "batch": "n5c2h6w5k3r3s3-p1",
    # stride
    "stride-2": "n1c3h9w8k4r3s3-st2-p1",
    "strides-differ": "n1c2h11w13k3r3s3-st2x3-p1",
    "stride-leaves-a-rest": "n1c2h10w12k3r3s3-st4x5",
    "stride-beyond-filter": "n1c3h10w11k2r2s1-st3x4",
    # padding
    "four-paddings": "n1c2h6w7k3r4s3-p1_2_0_3",
    "pad-begin-only": "n2c2h5w6k3r3s3-p2_0_1_0",
    "pad-end-only": "n2c2h5w6k3r3s3-p0_2_0_1",
    "pad-beyond-filter": "n1c2h4w3k2r2s3-p4_5_3_6",
    "pad-and-strides": "n1c2h8w9k3r3s4-st2x3-p0_3_2_1",
    # dilation
    "dilation": "n1c2h9w12k3r3s3-d2x3",
    "dilation-and-pad": "n1c2h6w7k3r3s2-p2_1_3_0-d2x4",
    "dilation-and-stride": "n1c2h12w13k3r3s2-st3x2-p1-d2x3",
    # groups
    "groups-2": "n2c6h5w6k4r3s3-p1-g2",
    "groups-3-uneven": "n1c6h5w7k9r2s3-p1_0_2_1-g3",
    "groups-1-in-many-out": "n1c3h6w5k12r3s3-g3",
    "groups-many-in-1-out": "n1c12h5w6k3r3s3-g3",
    "depthwise": "n2c6h7w6k6r3s3-p1-g6",
    "depthwise-multiplier": "n1c4h6w7k12r3s3-p1-g4",
    "depthwise-stride-2": "n1c5h9w8k5r3s3-st2-p1-g5",
    "all-options": "n2c6h9w8k4r3s2-st2x3-p1_2_3_0-d2x3-g2",
    # filters of unusual size
    "1x1": "n2c5h4w6k7r1s1",
    "1x1-stride-2": "n1c5h7w6k4r1s1-st2",
    "1x1-padded": "n1c3h4w3k2r1s1-p1_0_2_1",
    "1x1-groups": "n1c6h4w5k4r1s1-g2",
    "tall-5x1": "n1c3h9w6k4r5s1-p2_2_0_0",
    "wide-1x7": "n1c3h5w12k4r1s7-p0_0_3_3",
    "filter-is-the-padded-input": "n2c3h4w3k5r6s5-p1",
    "filter-beyond-the-input": "n1c2h3w2k3r5s4-p2_1_1_2",
    "dilated-beyond-the-input": "n1c2h3w4k2r3s3-p2_3_1_2-d3x3",
    "11x11": "n1c1h13w12k2r11s11-st2-p1",
    # outputs of unusual size
    "one-output-row": "n1c3h3w9k4r3s3",
    "one-output-column": "n1c3h9w3k4r3s3",
    "one-pixel-image": "n1c4h1w1k3r3s3-p1",
    "one-row-image": "n1c3h1w17k2r1s3-p0_0_1_1",
    "one-column-image": "n1c3h17w1k2r3s1-p1_1_0_0",
    # tails of tiles and vectors
    "channels-7-9": "n1c7h3w7k9r1s3",
    "channels-8-8": "n1c8h3w7k8r1s3",
    "channels-9-7": "n1c9h3w7k7r1s3",
    "channels-15-17": "n1c15h3w7k17r1s3",
    "channels-16-16": "n1c16h3w7k16r1s3",
    "channels-17-15": "n1c17h3w7k15r1s3",
    "channels-31-33": "n1c31h3w6k33r1s2",
    "channels-32-32": "n1c32h3w6k32r1s2",
    "channels-33-31": "n1c33h3w6k31r1s2",
    "channels-65": "n1c65h2w3k65r1s1",
    "columns-15": "n1c1h4w17k2r3s3",
    "columns-16": "n1c1h4w18k2r3s3",
    "columns-17": "n1c1h4w19k2r3s3",
    "columns-33-strided": "n1c1h5w67k2r3s3-st2",
    "columns-65": "n1c1h4w67k2r3s3",
    "rows-33": "n1c2h35w4k2r3s3",
    "pixels-1089": "n1c2h33w33k2r3s3-p1",
    "thousands-of-taps": "n1c460h3w3k2r3s3",
    "several-blocks": "n1c20h36w37k36r3s3-p1",
    # empty
    "no-images": "n0c3h5w6k4r3s3-p1",
    "no-input-channels": "n2c0h5w6k4r3s3-p1",
    "no-input-channels-no-bias": "n2c0h5w6k4r3s3-p1-nobias",
    "no-filters": "n2c3h5w6k0r3s3-p1",
    "no-rows": "n1c2h0w4k3r2s2-p1",
    # no bias, dtype, layout
    "no-bias": "n1c3h7w6k4r3s3-p1-nobias",
    "no-bias-all-options": "n2c6h9w8k4r3s2-st2x3-p1_2_3_0-d2x3-g2-nobias",
    "f64": "n1c3h7w6k4r3s3-p1-f64",
    "f64-all-options": "n2c6h9w8k4r3s2-st2x3-p1_2_3_0-d2x3-g2-f64",
    "f64-depthwise": "n2c9h7w6k9r3s3-p1-g9-nobias-f64",
    "f64-1x1": "n2c17h4w5k15r1s1-f64",
    "f64-no-images": "n0c3h5w6k4r3s3-f64",
    "nhwc": "n2c3h7w6k4r3s3-p1-nhwc",
    "nhwc-all-options": "n2c6h9w8k4r3s2-st2x3-p1_2_3_0-d2x3-g2-nhwc",
    "nhwc-depthwise": "n1c9h7w6k9r3s3-p1-g9-nhwc",
    "nhwc-1x1": "n2c5h4w6k7r1s1-nobias-nhwc",
    "nhwc-no-input-channels": "n1c0h4w5k3r3s3-nhwc",
    "nhwc-no-filters": "n2c3h5w6k0r3s3-p1-nhwc",
    "nhwc-f64": "n2c6h9w8k4r3s2-st2x3-p1_2_3_0-d2x3-g2-nobias-f64-nhwc",
}
CASES = {stress: Conv2d.parse(text) for stress, text in _LISTED.items()}

# What the tests of arrays, threads and layers use: every option at once, in two dtypes and layouts.
AWKWARD = {name: CASES[name] for name in ("all-options", "nhwc-f64", "1x1", "depthwise")}


@st.composite
def problems(draw: st.DrawFn) -> Conv2d:
    """A problem built backwards, from its output to its input, so that none has to be thrown away.

    Strides, dilations and the four paddings are drawn apart, and the rest that a stride leaves over is
    drawn too: square and symmetric problems would let swapped axes and swapped sides live.
    """

    def upto(most: int, least: int = 1) -> int:
        return draw(st.integers(least, most))

    groups = draw(st.sampled_from((1, 1, 2, 3)))
    filters, strides, dilations, sizes, padding = [], [], [], [], []
    for _axis in "hw":
        taps, stride, dilation, outputs = upto(5), upto(3), upto(3), upto(8)
        span = (outputs - 1) * stride + dilation * (taps - 1) + 1 + upto(stride - 1, 0)
        begin = upto(min(5, span - 1), 0)
        end = upto(min(5, span - 1 - begin), 0)
        filters.append(taps)
        strides.append(stride)
        dilations.append(dilation)
        sizes.append(span - begin - end)
        padding += [begin, end]
    return Conv2d(
        upto(2),
        groups * upto(4),
        *sizes,
        groups * upto(4),
        *filters,
        stride=tuple(strides),
        padding=tuple(padding),
        dilation=tuple(dilations),
        groups=groups,
        bias=draw(st.booleans()),
        dtype=draw(st.sampled_from(("float32", "float32", "float64"))),
        layout=draw(st.sampled_from(("nchw", "nchw", "nhwc"))),
    )
