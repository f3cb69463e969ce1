"""Networks whose layers follow from a few numbers of their papers: every convolution of one pass, in its order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from convzoo.problem import Conv2d

Named = tuple[str, Conv2d]


def _conv(
    name: str, size: int, c: int, k: int, r: int, s: int = 0, *, same: bool = True, d: int = 1, **more: int
) -> Named:
    """One image of size x size and filters of r x s (s = r unless told), padded to keep the size at stride 1."""
    s = s or r
    rows, columns = (d * (taps // 2) if same else 0 for taps in (r, s))
    padding = (rows, rows, columns, columns)
    options = {"stride": more.get("stride", 1), "groups": more.get("groups", 1), "bias": bool(more.get("bias"))}
    return name, Conv2d(1, c, size, size, k, r, s, padding=padding, dilation=d, **options)  # type: ignore[arg-type]


def _bottlenecks(size: int, widths: Sequence[int], rates: Sequence[Sequence[int]], groups: int = 1) -> Iterator[Named]:
    """The four stages of a residual network of 50 layers; a stage with rates above 1 keeps its size and dilates."""
    yield _conv("conv1", size, 3, 64, 7, stride=2)
    size, c = (size + 3) // 4, 64
    for stage, (width, dilations) in enumerate(zip(widths, rates, strict=True), 2):
        k = 64 * 2**stage
        for block, d in enumerate(dilations):
            name = f"res{stage}{'abcdef'[block]}"
            stride = 2 if block == 0 and stage > 2 and max(dilations) == 1 else 1
            if block == 0:
                yield _conv(f"{name}_branch1", size, c, k, 1, stride=stride)
            yield _conv(f"{name}_branch2a", size, c, width, 1)
            yield _conv(f"{name}_branch2b", size, width, width, 3, d=d, stride=stride, groups=groups)
            size, c = -(-size // stride), k
            yield _conv(f"{name}_branch2c", size, width, k, 1)


def resnext() -> Iterator[Named]:
    """Xie et al., Aggregated Residual Transformations (CVPR 2017), table 1: ResNeXt-50 32x4d, stride on the 3x3."""
    return _bottlenecks(224, (128, 256, 512, 1024), [[1] * n for n in (3, 4, 6, 3)], 32)


def deeplab() -> Iterator[Named]:
    """Chen et al., Rethinking Atrous Convolution (2017), section 3: ResNet-50 at 513 x 513 with output stride 16.

    The last stage dilates by 2 times the multi-grid (1, 2, 4); the pyramid by 6, 12 and 18; 21 classes.
    """
    yield from _bottlenecks(513, (64, 128, 256, 512), [[1] * 3, [1] * 4, [1] * 6, [2, 4, 8]])
    yield _conv("aspp1", 33, 2048, 256, 1)
    for d in (6, 12, 18):
        yield _conv(f"aspp_d{d}", 33, 2048, 256, 3, d=d)
    yield _conv("aspp_pool", 1, 2048, 256, 1)
    yield _conv("project", 33, 5 * 256, 256, 1)
    yield _conv("classes", 33, 256, 21, 1, bias=1)


def densenet() -> Iterator[Named]:
    """Huang et al., Densely Connected Convolutional Networks (CVPR 2017), table 1: DenseNet-121, growth 32."""
    yield _conv("conv0", 224, 3, 64, 7, stride=2)
    size, c = 56, 64
    for block, layers in enumerate((6, 12, 24, 16), 1):
        for layer in range(1, layers + 1):
            yield _conv(f"block{block}_{layer}_1x1", size, c, 128, 1)
            yield _conv(f"block{block}_{layer}_3x3", size, 128, 32, 3)
            c += 32
        if block < 4:
            yield _conv(f"transition{block}", size, c, c // 2, 1)
            size, c = size // 2, c // 2


def efficientnet() -> Iterator[Named]:
    """Tan and Le, EfficientNet (ICML 2019), table 1: B0, with the squeezes to a quarter of a block's input."""
    yield _conv("stem", 224, 3, 32, 3, stride=2)
    size, c = 112, 32
    rows = ((1, 16, 1, 1, 3), (6, 24, 2, 2, 3), (6, 40, 2, 2, 5), (6, 80, 3, 2, 3), (6, 112, 3, 1, 5))
    for stage, (expand, k, blocks, first, r) in enumerate((*rows, (6, 192, 4, 2, 5), (6, 320, 1, 1, 3)), 1):
        for block in range(blocks):
            name, stride, wide = f"mb{stage}{'abcd'[block]}", first if block == 0 else 1, c * expand
            if expand > 1:
                yield _conv(f"{name}_expand", size, c, wide, 1)
            yield _conv(f"{name}_depthwise", size, wide, wide, r, stride=stride, groups=wide)
            yield _conv(f"{name}_squeeze", 1, wide, c // 4, 1, bias=1)
            yield _conv(f"{name}_excite", 1, c // 4, wide, 1, bias=1)
            size, c = size // stride, k
            yield _conv(f"{name}_project", size, wide, k, 1)
    yield _conv("head", size, c, 1280, 1)


def inception() -> Iterator[Named]:
    """Szegedy et al., Rethinking the Inception Architecture (CVPR 2016), table 1: Inception-v3 at 299 x 299.

    Its figures leave widths open: those are of the authors' models/inception/slim/inception_model.py.
    """
    yield _conv("stem1", 299, 3, 32, 3, same=False, stride=2)
    yield _conv("stem2", 149, 32, 32, 3, same=False)
    yield _conv("stem3", 147, 32, 64, 3)
    yield _conv("stem4", 73, 64, 80, 1)
    yield _conv("stem5", 73, 80, 192, 3, same=False)
    for block, c, pooled in (("a1", 192, 32), ("a2", 256, 64), ("a3", 288, 64)):
        chains = ([(64, 1, 1)], [(48, 1, 1), (64, 5, 5)], [(64, 1, 1), (96, 3, 3), (96, 3, 3)], [(pooled, 1, 1)])
        yield from _chains(block, 35, c, chains)
    yield _conv("b_3x3", 35, 288, 384, 3, same=False, stride=2)
    yield from _chains("b", 35, 288, [[(64, 1, 1), (96, 3, 3)]])
    yield _conv("b_last", 35, 96, 96, 3, same=False, stride=2)
    for block, k in (("c1", 128), ("c2", 160), ("c3", 160), ("c4", 192)):
        double = [(k, 1, 1), (k, 7, 1), (k, 1, 7), (k, 7, 1), (192, 1, 7)]
        yield from _chains(block, 17, 768, ([(192, 1, 1)], [(k, 1, 1), (k, 1, 7), (192, 7, 1)], double, [(192, 1, 1)]))
    yield from _chains("d", 17, 768, ([(192, 1, 1)], [(192, 1, 1), (192, 1, 7), (192, 7, 1)]))
    yield _conv("d_first", 17, 192, 320, 3, same=False, stride=2)
    yield _conv("d_last", 17, 192, 192, 3, same=False, stride=2)
    for block, c in (("e1", 1280), ("e2", 2048)):
        yield from _chains(block, 8, c, ([(320, 1, 1)], [(384, 1, 1)], [(448, 1, 1), (384, 3, 3)], [(192, 1, 1)]))
        for fork in ("double", "triple"):  # both see the same 384 channels
            yield _conv(f"{block}_{fork}_1x3", 8, 384, 384, 1, 3)
            yield _conv(f"{block}_{fork}_3x1", 8, 384, 384, 3, 1)


def _chains(block: str, size: int, c: int, chains: Sequence[Sequence[tuple[int, int, int]]]) -> Iterator[Named]:
    """Branches of an Inception block, each a chain of convolutions of (output channels, rows, columns)."""
    for number, chain in enumerate(chains, 1):
        inputs = c
        for step, (k, r, s) in enumerate(chain):
            yield _conv(f"{block}_{number}{'abcde'[step]}", size, inputs, k, r, s)
            inputs = k
