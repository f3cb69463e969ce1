"""One convolution layer taken apart: each output map is a sum of one-channel convolutions plus a bias.

A photograph goes through a layer of 3 -> 4 channels with 5 x 5 filters. Every (input, output) pair is
convolved on its own by the kernel that was asked for; the sums are compared with torch.nn.Conv2d, and so
is the kernel's own answer for the whole layer.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .values import Unreadable

SIDE, CHANNELS, MAPS, FILTER = 128, 3, 4, 5  # the layer that this project grew from
TOLERANCE = 1e-7  # mean absolute error of outputs of size 1 in float32, about one rounding
BOUNDED = ("elementwise", "tilewise", "normwise")  # guarantees that promise float32 results


@dataclass(frozen=True)
class Layer:
    """A layer taken apart; maps[k, c] is x[c] convolved with w[k, c], sums[k] adds them up with b[k]."""

    x: np.ndarray
    w: np.ndarray
    b: np.ndarray
    maps: np.ndarray
    sums: np.ndarray
    whole: np.ndarray


def default_photograph() -> Path:
    """The portrait of Grace Hopper that comes with matplotlib."""
    from matplotlib.cbook import get_sample_data

    return Path(str(get_sample_data("grace_hopper.jpg", asfileobj=False)))


def photograph(path: Path) -> np.ndarray:
    """The middle square of a picture as x (1, 3, 128, 128), float32 in [0, 1]. Unreadable if it is none."""
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with Image.open(path) as opened:
            pixels = _pixels(ImageOps.exif_transpose(opened), ImageOps.fit)
    except UnidentifiedImageError:
        raise Unreadable(f"{path} is not a picture that Pillow knows") from None
    except (Image.DecompressionBombError, SyntaxError, ValueError) as error:
        raise Unreadable(f"{path} cannot be used as a picture: {error}") from None
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise Unreadable(f"{path} cannot be read: {reason}") from None
    return np.ascontiguousarray(pixels.transpose(2, 0, 1)[None], np.float32)


def _pixels(picture: Any, fit: Any) -> np.ndarray:
    """Rows, columns and red, green, blue of the picture cut to a square, 0 to 1, on white."""
    from PIL import Image

    size = (SIDE, SIDE)
    if picture.mode == "F" or picture.mode.startswith("I"):  # one channel, deeper than 8 bits
        grey = np.nan_to_num(np.asarray(picture, np.float32))
        brightest = float(grey.max(initial=0))
        full = 1.0 if brightest <= 1 else 65535.0 if picture.mode != "F" else brightest
        small = np.asarray(fit(Image.fromarray(grey / np.float32(full)), size))
        return np.repeat(small.clip(0, 1)[..., None], CHANNELS, axis=2)
    if picture.mode in ("RGBA", "RGBa", "LA", "La", "PA") or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        paper = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(paper, picture)
    return np.asarray(fit(picture.convert("RGB"), size), np.float32) / np.float32(255)


def weights(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """w and b drawn as torch.nn.Conv2d draws them: uniform within 1 / sqrt(products in one output)."""
    rng = np.random.default_rng(seed)
    bound = 1 / math.sqrt(CHANNELS * FILTER * FILTER)
    w = rng.uniform(-bound, bound, (MAPS, CHANNELS, FILTER, FILTER))
    return w.astype(np.float32), rng.uniform(-bound, bound, MAPS).astype(np.float32)


def take_apart(x: np.ndarray, w: np.ndarray, b: np.ndarray, kernel: str) -> Layer:
    """Every pair of channels through ``kernel`` on its own, their sums, and the layer in one call."""
    from convzoo import conv2d

    def alone(k: int, c: int) -> np.ndarray:
        return conv2d(x[:, c : c + 1], w[k : k + 1, c : c + 1], kernel=kernel)[0, 0]

    maps = np.array([[alone(k, c) for c in range(CHANNELS)] for k in range(MAPS)])
    sums = maps[:, 0].copy()
    for c in range(1, CHANNELS):
        sums += maps[:, c]
    sums += b[:, None, None]
    return Layer(x, w, b, maps, sums, conv2d(x, w, b, kernel=kernel))


def torch_layer(x: np.ndarray, w: np.ndarray, b: np.ndarray) -> np.ndarray:
    """What torch.nn.Conv2d with these weights makes of x, in float32 on the CPU."""
    import torch

    layer = torch.nn.Conv2d(CHANNELS, MAPS, FILTER, device="cpu", dtype=torch.float32)
    layer.load_state_dict({"weight": torch.from_numpy(w.copy()), "bias": torch.from_numpy(b.copy())})
    with torch.no_grad():
        return layer(torch.from_numpy(x.copy())).numpy()


def show_shapes(layer: Layer, source: str) -> None:
    rows = (
        ("image", layer.x.shape, source),
        ("weights", layer.w.shape, "drawn like torch.nn.Conv2d's"),
        ("one map", (1, 1, *layer.maps.shape[2:]), f"one of {MAPS * CHANNELS}, x[c] * w[k,c]"),
        ("output", layer.whole.shape, f"each y[k] adds {CHANNELS} maps and b[k]"),
    )
    for name, shape, note in rows:
        print(f"{name:8} {shape!s:18} {note}")


def compare(layer: Layer, kernel: str, guarantee: str) -> bool:
    """Print both mean absolute errors against torch; whether a kernel that must be near them is."""
    want = torch_layer(layer.x, layer.w, layer.b)
    fine = True
    for name, got in ((f"sum of {kernel} maps", layer.sums), (f"{kernel} layer", layer.whole[0])):
        error = float(np.abs(got.astype(np.float64) - want[0]).mean())
        if guarantee in BOUNDED:
            near = error < TOLERANCE
            fine = fine and near
            verdict = f"{'ok' if near else 'NOT OK'} (must be below {TOLERANCE:.0e})"
        else:
            verdict = f"no limit: the kernel guarantees {guarantee}"
        print(f"mean |{name} - torch.nn.Conv2d| = {error:.2e}  {verdict}")
    return fine


def decompose(image: Path | None, kernel: str, out: Path, seed: int) -> int:
    """Draw the figure and print the comparison. 0 fine, 1 too far from torch, 2 not possible here."""
    from convzoo import Unavailable, Unsupported, load

    from .mosaic import SUFFIXES, draw

    if out.suffix.lower() not in SUFFIXES:
        raise Unreadable(f"--out must end in {', '.join(SUFFIXES)}, got {out}")
    try:
        guarantee = "elementwise" if kernel == "auto" else load(kernel).accuracy
    except Unavailable as reason:
        return _sorry(str(reason))
    except ValueError as error:  # an unknown name, and the nearest ones
        raise Unreadable(str(error).removeprefix("conv2d: ")) from None
    path = image or default_photograph()
    x = photograph(path)
    try:
        layer = take_apart(x, *weights(seed), kernel)
    except (Unavailable, Unsupported) as reason:
        return _sorry(f"{kernel} cannot do this layer: {reason}")
    show_shapes(layer, path.name)
    draw(layer, kernel, out)
    try:
        fine = compare(layer, kernel, guarantee)
    except ImportError:
        print(f"figure: {out}")
        return _sorry("the comparison needs torch: pip install 'convzoo[cpu]'")
    print(f"figure: {out}")
    return 0 if fine else 1


def _sorry(sentence: str) -> int:
    print(f"python -m reports decompose: {sentence}", file=sys.stderr)
    return 2
