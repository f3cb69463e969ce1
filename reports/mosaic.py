"""The picture of a layer taken apart: every column is a sum, read from the top down."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from .decompose import Layer

SUFFIXES = (".png", ".svg", ".pdf")
TINTS = (("red", "#a3201a"), ("green", "#1d6b3c"), ("blue", "#1f4f96"))
INK, QUIET, PAPER = "#22262b", "#6b7280", "#ffffff"
SCALES = ("outputs y", "maps x[c] * w[k,c]", "filters w")
# White is zero; orange and blue stay apart for every kind of colour vision, and their ends stay light enough
# for a photograph to be seen in them.
SIGNED = ("#1b4f8a", "#5b9bd0", "#bcd9ee", "#ffffff", "#fbd3ad", "#ee8b45", "#a8420f")
# Inches: a map, the space between rows and between columns, the margins.
MAP, ROW_GAP, COLUMN_GAP, LEFT, RIGHT, TOP, BOTTOM = 1.72, 0.42, 0.24, 0.4, 1.1, 1.55, 1.25


class Sheet:
    """A figure of squares; ``square(row, column)`` gives the axes of one, from the top left."""

    def __init__(self, rows: int, columns: int):
        from matplotlib.figure import Figure

        self.columns = columns
        self.width = LEFT + (columns + 1) * (MAP + COLUMN_GAP) - MAP + RIGHT
        self.height = TOP + rows * (MAP + ROW_GAP) - ROW_GAP + BOTTOM
        self.figure = Figure(figsize=(self.width, self.height), facecolor=PAPER)

    def corner(self, row: int, column: int) -> tuple[float, float]:
        """Left and lower edge in inches; the inputs keep a wider distance from the maps."""
        left = LEFT + column * (MAP + COLUMN_GAP) + (COLUMN_GAP if column else 0)
        return left, self.height - TOP - MAP - row * (MAP + ROW_GAP)

    def axes(self, left: float, low: float, wide: float, high: float) -> Any:
        box = (left / self.width, low / self.height, wide / self.width, high / self.height)
        axes = self.figure.add_axes(box)
        axes.set(xticks=[], yticks=[])
        for spine in axes.spines.values():
            spine.set(color=INK, linewidth=0.6)
        return axes

    def square(self, row: int, column: int) -> Any:
        return self.axes(*self.corner(row, column), MAP, MAP)

    def write(self, x: float, y: float, words: str, **style: Any) -> None:
        style = {"color": INK, "ha": "center", "va": "center", "fontsize": 12} | style
        self.figure.text(x / self.width, y / self.height, words, parse_math=False, **style)

    def title(self, row: int, column: int, words: str, sign: str = "", **style: Any) -> None:
        """Above a square, its name; ``sign`` is what joins it to the squares above."""
        left, low = self.corner(row, column)
        style = {"family": "DejaVu Sans Mono", "fontsize": 11.5, "va": "baseline"} | style
        if sign:
            self.write(left + 0.09, low + MAP + 0.09, sign, fontsize=17, color=QUIET, va="baseline")
        self.write(left + (0.26 if sign else 0), low + MAP + 0.11, words, ha="left", **style)


def draw(layer: Layer, kernel: str, out: Path) -> None:
    """Save the figure of ``layer``; the same layer gives the same bytes."""
    from matplotlib import rc_context, style

    count, channels = layer.maps.shape[:2]
    sheet = Sheet(1 + channels, 1 + count)
    with style.context("default"), rc_context({"svg.hashsalt": "convzoo"}):
        _inputs(sheet, layer)
        images = _outputs(sheet, layer)
        _scales(sheet, images)
        _words(sheet, layer, kernel)
        out.parent.mkdir(parents=True, exist_ok=True)
        kept_out = {".png": {"Software": None}, ".svg": {"Date": None}, ".pdf": {"CreationDate": None}}
        sheet.figure.savefig(out, dpi=110, metadata=kept_out[out.suffix.lower()])


def _inputs(sheet: Sheet, layer: Layer) -> None:
    """First column: the photograph, and below it the channels it is made of."""
    picture = layer.x[0].transpose(1, 2, 0)
    sheet.square(0, 0).imshow(picture)
    sheet.title(0, 0, "x", weight="bold", fontsize=14)
    for c, (name, color) in enumerate(TINTS):
        sheet.square(1 + c, 0).imshow(_printed(picture[..., c], color))
        sheet.title(1 + c, 0, f"x[{c}] {name}", "+" if c else "=", color=color, weight="bold")


def _printed(channel: np.ndarray, ink: str) -> np.ndarray:
    """One channel as a print in one ink: paper where it is bright, ink where it is dark."""
    from matplotlib.colors import to_rgb

    dark = np.array(to_rgb(ink))
    return dark + channel[..., None] * (1 - dark)


def _outputs(sheet: Sheet, layer: Layer) -> list[Any]:
    """The other columns: y[k] on top, its partial maps below; one image of each of the three scales."""
    limits = [_limit(a) for a in (layer.sums, layer.maps, layer.w)]
    shown: list[Any] = []
    for k in range(layer.maps.shape[0]):
        shown.append(_signed(sheet.square(0, 1 + k), layer.sums[k], limits[0]))
        sheet.title(0, 1 + k, f"y[{k}]", weight="bold", fontsize=14)
        for c in range(layer.maps.shape[1]):
            shown.append(_signed(sheet.square(1 + c, 1 + k), layer.maps[k, c], limits[1]))
            sheet.title(1 + c, 1 + k, f"x[{c}] * w[{k},{c}]", "+" if c else "=")
            left, low = sheet.corner(1 + c, 1 + k)
            inset = sheet.axes(left + MAP - 0.55, low + 0.06, 0.49, 0.49)
            for spine in inset.spines.values():
                spine.set(color=PAPER, linewidth=2.2)
            shown.append(_signed(inset, layer.w[k, c], limits[2], "evenly"))
        bias = f"b[{k}] ({layer.b[k]:.3f})".replace("-", "\u2212")
        sheet.title(1 + layer.maps.shape[1], 1 + k, bias, "+")
    return shown[:3]


def _limit(a: np.ndarray) -> float:
    finite = np.abs(a[np.isfinite(a)])
    return float(finite.max(initial=0)) or 1.0


def _signed(axes: Any, values: np.ndarray, limit: float, grow: str = "root") -> Any:
    """A signed image; with "root" the colour grows with the root of the value, so faint maps show too."""
    from matplotlib.colors import FuncNorm, LinearSegmentedColormap, Normalize

    colors = LinearSegmentedColormap.from_list("signed", SIGNED)
    norm = FuncNorm((_root, _square)) if grow == "root" else Normalize()
    norm.vmin, norm.vmax = -limit, limit
    return axes.imshow(values, cmap=colors, norm=norm, interpolation="nearest")


def _root(v: Any) -> Any:
    return np.sign(v) * np.sqrt(np.abs(v))


def _square(v: Any) -> Any:
    return np.sign(v) * np.square(v)


def _scales(sheet: Sheet, images: list[Any]) -> None:
    """One bar for each kind of image, beside the first rows."""
    for row, (image, words) in enumerate(zip(images, SCALES, strict=True)):
        left, low = sheet.corner(row, sheet.columns)
        bar = sheet.figure.colorbar(image, cax=sheet.axes(left, low, 0.13, MAP))
        bar.set_ticks([float(image.norm.inverse(part)) for part in (0, 0.25, 0.5, 0.75, 1)])
        bar.ax.set_yticklabels([f"{v:.2g}".replace("-", "\u2212") for v in bar.get_ticks()])
        bar.ax.minorticks_off()
        bar.outline.set_linewidth(0.6)
        bar.ax.tick_params(labelsize=10, color=QUIET, labelcolor=INK)
        sheet.write(left + 0.86, low + MAP / 2, words, rotation=270, fontsize=10.5, color=QUIET)


def _words(sheet: Sheet, layer: Layer, kernel: str) -> None:
    count, channels, P, Q = layer.maps.shape
    R, S = layer.w.shape[2:]
    left, top = LEFT, sheet.height
    sheet.write(left, top - 0.42, "One convolution layer, taken apart", ha="left", fontsize=21, weight="bold")
    how = (
        f"{channels} \u2192 {count} channels, {R} \u00d7 {S} filters, {layer.x.shape[2]} \u00d7 "
        f"{layer.x.shape[3]} \u2192 {P} \u00d7 {Q}. Every column reads from the top down:\nan output map is the "
        "sum of one map per input channel, plus a bias."
    )
    sheet.write(left, top - 0.9, how, ha="left", color=QUIET, linespacing=1.35)
    foot = (
        f"Each of the {count * channels} maps is one channel convolved with one filter (the small square) "
        f"by {kernel}. White is zero,\norange above, blue below. Images of one kind share one scale; for maps "
        "the colour grows with the root of the\nvalue, so that faint ones are seen."
    )
    sheet.write(left, 0.42, foot, ha="left", fontsize=10.5, color=QUIET, linespacing=1.4)
