"""A layer taken apart: pictures of every kind go in, the parts add up, the figure is drawn."""

from __future__ import annotations

import sys

import numpy as np
import pytest

import convzoo
from convzoo.reference import oracle
from reports import __main__ as command

Image = pytest.importorskip("PIL.Image", reason="pictures need Pillow: pip install 'convzoo[report]'")
pytest.importorskip("matplotlib", reason="the figure needs matplotlib: pip install 'convzoo[report]'")

from reports import decompose, mosaic  # noqa: E402
from reports.values import Unreadable  # noqa: E402

KERNEL = "numpy/shifted"  # quick; the command's default, numpy/per_channel, takes a second
TORCH = "the comparison needs torch: pip install 'convzoo[cpu]'"


@pytest.fixture(scope="module")
def layer():
    x = decompose.photograph(decompose.default_photograph())
    return decompose.take_apart(x, *decompose.weights(0), KERNEL)


def saved(folder, picture, name="a.png", **options):
    """The path of a picture, given as Pillow's or as an array of pixels."""
    path = folder / name
    picture = Image.fromarray(picture) if isinstance(picture, np.ndarray) else picture
    picture.save(path, **options)
    return path


def test_default_photograph_is_a_photograph():
    x = decompose.photograph(decompose.default_photograph())
    assert x.shape == (1, 3, 128, 128) and x.dtype == np.float32 and x.flags.c_contiguous
    assert 0 <= x.min() < 0.1 and 0.9 < x.max() <= 1
    assert not np.allclose(x[0, 0], x[0, 2], atol=0.05)  # it has colours


def test_weights_are_drawn_as_torch_draws_them():
    torch = pytest.importorskip("torch", reason=TORCH)
    w, b = decompose.weights(3)
    theirs = torch.nn.Conv2d(3, 4, 5)
    assert (w.shape, b.shape) == (tuple(theirs.weight.shape), tuple(theirs.bias.shape))
    assert w.dtype == b.dtype == np.float32
    for ours, reference in ((w, theirs.weight), (b, theirs.bias)):
        assert np.abs(ours).max() <= 75**-0.5 and reference.abs().max() <= 75**-0.5
    assert w.std() == pytest.approx(75**-0.5 / 3**0.5, rel=0.1)
    assert np.array_equal(w, decompose.weights(3)[0]) and not np.array_equal(w, decompose.weights(4)[0])


def test_parts_add_up_to_the_layer(layer):
    p = convzoo.Conv2d(1, 3, 128, 128, 4, 5, 5)
    want = oracle(p, layer.x, layer.w, layer.b)[0]
    assert layer.maps.shape == (4, 3, 124, 124) and layer.sums.dtype == np.float32
    assert np.abs(layer.sums - want).mean() < decompose.TOLERANCE
    assert np.abs(layer.whole[0] - want).mean() < decompose.TOLERANCE
    alone = oracle(convzoo.Conv2d(1, 1, 128, 128, 1, 5, 5, bias=False), layer.x[:, 1:2], layer.w[2:3, 1:2], None)
    assert np.abs(layer.maps[2, 1] - alone[0, 0]).max() < 1e-6


def grey_ramp(high, wide, top):
    return np.linspace(0, top, high * wide).reshape(high, wide)


@pytest.mark.parametrize("size", [(1, 1), (3, 2), (1, 500), (128, 128), (301, 200)])
def test_pictures_of_any_size(tmp_path, size):
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    x = decompose.photograph(saved(tmp_path, pixels))
    assert x.shape == (1, 3, 128, 128) and 0 <= x.min() <= x.max() <= 1
    if size == (128, 128):
        assert np.array_equal(x[0].transpose(1, 2, 0), pixels.astype(np.float32) / np.float32(255))


@pytest.mark.parametrize(
    ("mode", "name"), [("L", "a.png"), ("1", "a.png"), ("P", "a.gif"), ("CMYK", "a.jpg"), ("YCbCr", "a.jpg")]
)
def test_pictures_of_any_mode(tmp_path, mode, name):
    gradient = np.repeat(grey_ramp(140, 140, 255).astype(np.uint8)[..., None], 3, axis=2)
    path = saved(tmp_path, Image.fromarray(gradient).convert(mode), name)
    x = decompose.photograph(path)
    assert x[0, :, :8].mean() < 0.1 and x[0, :, -8:].mean() > 0.9
    assert np.allclose(x[0, 0].mean(axis=1), x[0, 1].mean(axis=1), atol=0.05)


def test_sixteen_bits_are_not_cut_off(tmp_path):
    x = decompose.photograph(saved(tmp_path, grey_ramp(150, 150, 65535).astype(np.uint16)))
    assert x[0, 0, 0, 0] < 0.02 and x[0, 0, -1, -1] > 0.98
    assert len(np.unique(x)) > 256
    dark = decompose.photograph(saved(tmp_path, grey_ramp(150, 150, 300).astype(np.uint16)))
    assert dark.max() < 0.01  # not stretched: a dark picture stays dark


def test_float_pictures_are_scaled_to_their_brightest(tmp_path):
    for top in (0.5, 1000.0):
        pixels = Image.fromarray(grey_ramp(130, 130, top).astype(np.float32))
        x = decompose.photograph(saved(tmp_path, pixels, "a.tiff"))
        assert x.max() == pytest.approx(min(top, 1), rel=0.02)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparent_pixels_show_white_paper(tmp_path, mode):
    picture = Image.new("RGBA", (130, 130), (0, 0, 0, 0))
    picture.paste((255, 0, 0, 255), (0, 0, 65, 130))
    x = decompose.photograph(saved(tmp_path, picture.convert(mode)))
    assert x[0, :, :, 100:].min() == 1 and x[0, 2, :, :40].max() < 0.5


def test_orientation_of_a_camera_is_followed(tmp_path):
    pixels = np.zeros((140, 140, 3), np.uint8)
    pixels[:70] = 255  # bright above
    exif = Image.Exif()
    exif[0x0112] = 3  # the camera was upside down
    x = decompose.photograph(saved(tmp_path, pixels, exif=exif))
    assert x[0, :, :50].max() < 0.1 and x[0, :, 80:].min() > 0.9


def test_files_that_are_no_pictures(tmp_path):
    text, cut = tmp_path / "a.png", tmp_path / "b.png"
    text.write_text("no picture")
    cut.write_bytes(saved(tmp_path, np.zeros((90, 90, 3), np.uint8), name="c.png").read_bytes()[:60])
    for path, words in ((text, "not a picture"), (cut, "b.png"), (tmp_path, "directory"), (tmp_path / "d", "no such")):
        with pytest.raises(Unreadable, match=words):
            decompose.photograph(path)


@pytest.mark.parametrize("suffix", mosaic.SUFFIXES)
def test_figure_is_drawn_and_is_the_same_again(tmp_path, layer, suffix):
    first, again = tmp_path / f"deep/er/first{suffix}", tmp_path / f"again{suffix}"
    for path in (first, again):
        mosaic.draw(layer, KERNEL, path)
    content = first.read_bytes()
    assert content == again.read_bytes()
    assert content.startswith({".png": b"\x89PNG", ".svg": b"<?xml", ".pdf": b"%PDF"}[suffix])


def test_figure_names_every_pair(layer, monkeypatch, tmp_path):
    words, write = [], mosaic.Sheet.write

    def noted(sheet, x, y, text, **style):
        words.append(text)
        write(sheet, x, y, text, **style)

    monkeypatch.setattr(mosaic.Sheet, "write", noted)
    mosaic.draw(layer, KERNEL, tmp_path / "a.png")
    for k in range(4):
        assert f"y[{k}]" in words
        assert all(f"x[{c}] * w[{k},{c}]" in words for c in range(3))
    assert words.count("=") == 5 and words.count("+") == 14


def test_values_that_are_not_finite_are_drawn(layer, tmp_path):
    broken = decompose.Layer(*(np.full_like(a, np.nan) for a in vars(layer).values()))
    mosaic.draw(broken, KERNEL, tmp_path / "a.png")


def test_command_prints_shapes_and_both_errors(tmp_path, monkeypatch, capsys):
    pytest.importorskip("torch", reason=TORCH)
    monkeypatch.chdir(tmp_path)
    picture = saved(tmp_path, np.random.default_rng(1).integers(0, 256, (200, 150, 3), np.uint8)).name
    assert command.main(["decompose", picture, "--kernel", KERNEL, "--seed", "5"]) == 0
    said = capsys.readouterr().out
    for words in ("(1, 3, 128, 128)", "(4, 3, 5, 5)", "(1, 1, 124, 124)", "(1, 4, 124, 124)"):
        assert words in said
    assert said.count("  ok (must be below 1e-07)") == 2 and "figure: decomposition.png" in said
    assert (tmp_path / "decomposition.png").stat().st_size > 10_000


def test_wrong_layer_is_exit_code_1(tmp_path, monkeypatch, capsys):
    pytest.importorskip("torch", reason=TORCH)
    real = decompose.take_apart

    def mirrored(x, w, b, kernel):  # a true convolution turns the filter around
        wrong = real(x, w[..., ::-1, ::-1].copy(), b, kernel)
        return decompose.Layer(x, w, b, wrong.maps, wrong.sums, wrong.whole)

    monkeypatch.setattr(decompose, "take_apart", mirrored)
    assert command.main(["decompose", "--kernel", KERNEL, "--out", str(tmp_path / "a.png")]) == 1
    assert capsys.readouterr().out.count("NOT OK") == 2


def test_weaker_guarantee_has_no_limit(layer, capsys):
    pytest.importorskip("torch", reason=TORCH)
    rough = decompose.Layer(layer.x, layer.w, layer.b, layer.maps, layer.sums + 1, layer.whole)
    assert decompose.compare(rough, KERNEL, "tf32")
    assert not decompose.compare(rough, KERNEL, "normwise")
    assert "no limit: the kernel guarantees tf32" in capsys.readouterr().out


def test_without_torch_the_figure_is_kept_and_the_exit_code_is_2(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torch", None)  # import torch now raises ImportError
    out = tmp_path / "a.svg"
    assert command.main(["decompose", "--kernel", KERNEL, "--out", str(out)]) == 2
    said = capsys.readouterr()
    assert out.exists() and "needs torch" in said.err and said.err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--kernel", "numpy/shiftd"], 3, "did you mean numpy/shifted"),
        (["--out", "a.gif"], 3, "must end in .png, .svg, .pdf"),
        (["missing.jpg"], 3, "no such file"),
        (["--kernel", "torch_mps/builtin"], 2, "torch"),
    ],
)
def test_refusals_are_one_sentence(tmp_path, monkeypatch, capsys, arguments, code, words):
    monkeypatch.chdir(tmp_path)
    if "torch_mps/builtin" in arguments and _has_mps():
        pytest.skip("this machine has an MPS device")
    try:
        found = command.main(["decompose", *arguments])
    except SystemExit as stopped:
        found = stopped.code
    said = capsys.readouterr()
    assert found == code and words in said.err and said.err.count("\n") == 1


def _has_mps():
    try:
        convzoo.load("torch_mps/builtin")
    except convzoo.Unavailable:
        return False
    return True


def test_kernel_that_refuses_the_layer_is_exit_code_2(tmp_path, monkeypatch, capsys):
    def refuses(*arguments):
        raise convzoo.Unsupported("needs R = S = 3")

    monkeypatch.setattr(decompose, "take_apart", refuses)
    assert command.main(["decompose", "--kernel", KERNEL, "--out", str(tmp_path / "a.png")]) == 2
    assert "cannot do this layer: needs R = S = 3" in capsys.readouterr().err
