"""Pictures of runs. The only place that imports matplotlib.

Each PNG carries, as its "Description", what it shows in words.
"""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

__all__ = ["Panel", "Series", "save_bars", "save_images", "save_panels", "view_classify"]


@dataclasses.dataclass(frozen=True)
class Series:
    """One line or set of points.

    Attributes:
        name: shown in the legend, unless it begins with "_".
        x, y: the same length.
        style: matplotlib's short form, such as "-", "o" or "kx".
        band: lower and upper values around y, drawn as a shade.
    """

    name: str
    x: ArrayLike
    y: ArrayLike
    style: str = "-"
    band: tuple[ArrayLike, ArrayLike] | None = None


@dataclasses.dataclass(frozen=True)
class Panel:
    """One set of axes.

    Attributes:
        title, xlabel, ylabel: as written on it.
        series: what is drawn.
        log: whether y grows by factors.
        log_x: whether x does, with a tick at each value.
    """

    title: str
    xlabel: str
    ylabel: str
    series: Sequence[Series]
    log: bool = False
    log_x: bool = False


def save_panels(path: str | os.PathLike[str], panels: Sequence[Panel]) -> None:
    """Draws panels side by side into a PNG."""
    figure, all_axes = _figure(len(panels), width=6.0, height=4.2)
    for axes, panel in zip(all_axes, panels, strict=True):
        for series in panel.series:
            x, y = np.asarray(series.x), np.asarray(series.y)
            (line,) = axes.plot(x, y, series.style, label=series.name, markersize=6)
            if x.size == 1 and line.get_marker() == "None":
                line.set_marker(".")  # a line of one point is nothing
            if series.band is not None:
                low, high = series.band
                axes.fill_between(x, low, high, alpha=0.2, color=axes.lines[-1].get_color())
        axes.set_title(panel.title)
        axes.set_xlabel(panel.xlabel)
        axes.set_ylabel(panel.ylabel)
        if panel.log:
            axes.set_yscale("log")
        if panel.log_x:
            ticks = sorted({float(x) for series in panel.series for x in np.ravel(series.x)})
            axes.set_xscale("log")
            axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
            axes.set_xticks([], minor=True)
        elif all(np.asarray(series.x).dtype.kind in "iu" for series in panel.series):
            axes.locator_params(axis="x", integer=True)  # no half epochs
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
    _save(figure, path, " ".join(_words(panel) for panel in panels))


def save_images(
    path: str | os.PathLike[str],
    images: np.ndarray | Sequence[np.ndarray],
    titles: Sequence[str],
    columns: int = 6,
) -> None:
    """Draws images with a title above each into a PNG.

    Args:
        path: of the PNG.
        images: uint8 (N, H, W, 3), or pictures (H, W, 3) of different sizes.
        titles: one for each image.
        columns: images in a row.
    """
    rows = -(-len(images) // columns)
    figure, all_axes = _figure(columns, rows=rows, width=1.9, height=2.1)
    for axes in all_axes:
        axes.axis("off")
    for axes, image, title in zip(all_axes, images, titles, strict=False):
        axes.imshow(image)
        axes.set_title(title, fontsize=8)
    named = ", ".join([*titles[:24], *(["and so on"] if len(titles) > 24 else [])])
    _save(figure, path, f"{len(images)} images: {named}.")


def save_bars(
    path: str | os.PathLike[str],
    names: Sequence[str],
    bars: Mapping[str, Sequence[Sequence[float]]],
    title: str,
    ylabel: str,
    digits: int = 2,
    from_zero: bool = True,
) -> None:
    """Draws groups of bars into a PNG: means, values as dots, standard deviations as whiskers.

    Args:
        path: of the PNG.
        names: one for each group.
        bars: for each kind of bar, the values of each group.
        title: above the picture.
        ylabel: of the values.
        digits: of the means written above the bars, after the point.
        from_zero: whether the bars begin at 0, or a little below the lowest value, which
            shows small differences but no proportions.
    """
    figure, (axes,) = _figure(1, width=max(6.0, 1.1 * len(names) + 1), height=4.2)
    width = 0.8 / len(bars)
    lowest = min(min(values) for groups in bars.values() for values in groups)
    for i, (kind, groups) in enumerate(bars.items()):
        x = np.arange(len(names)) + (i - (len(bars) - 1) / 2) * width
        means = np.array([np.mean(values) for values in groups])
        spreads = np.array([np.std(v, ddof=1) if len(v) > 1 else 0.0 for v in groups])
        axes.bar(x, means, width * 0.95, label=kind)
        for place, values, mean, spread in zip(x, groups, means, spreads, strict=True):
            if spread:
                axes.errorbar(place, mean, spread, color="black", capsize=4, linewidth=1)
                axes.plot([place + 0.2 * width] * len(values), values, "k.", markersize=3)
            top = (place, max(mean + spread, *values))
            text = {"textcoords": "offset points", "ha": "center", "fontsize": 7}
            axes.annotate(f"{mean:.{digits}f}", top, (0, 3), **text)
    axes.set_xticks(np.arange(len(names)), [name.replace("_", "\n") for name in names])
    axes.margins(y=0.15)
    axes.set_ylim(bottom=0.0 if from_zero else max(0.0, lowest - 0.1))
    axes.set_title(title)
    axes.set_ylabel(ylabel)
    axes.legend(frameon=False, ncols=len(bars))
    heights = [
        f"{name} {', '.join(f'{kind} {np.mean(groups[i]):.3f}' for kind, groups in bars.items())}"
        for i, name in enumerate(names)
    ]
    _save(figure, path, f"Bars. {title}: {ylabel}. {'; '.join(heights)}.")


def _words(panel: Panel) -> str:
    """A panel for those who cannot see it: axes, and where each line starts and ends."""
    lines = []
    for series in panel.series:
        y = np.asarray(series.y)
        ends = f" from {y[0]:.4g} to {y[-1]:.4g}" if "-" in series.style and y.size else ""
        if not series.name.startswith("_"):
            lines.append(f"{series.name}{ends}")
    return f"{panel.title}: {panel.ylabel} against {panel.xlabel}. {'; '.join(lines)}."


def _save(figure: Any, path: str | os.PathLike[str], description: str) -> None:
    figure.savefig(path, dpi=120, metadata={"Description": " ".join(description.split())})


def view_classify(
    path: str | os.PathLike[str],
    images: np.ndarray,
    ps: np.ndarray,
    titles: Sequence[str],
    classes: Sequence[str],
) -> None:
    """Draws each image beside a bar chart of its class probabilities into a PNG.

    Args:
        path: of the PNG.
        images: uint8 (N, H, W, C) with one or three channels.
        ps: probabilities (N, classes).
        titles: one for each image.
        classes: their names.
    """
    figure, all_axes = _figure(2, rows=len(images), width=3.0, height=2.6)
    places = np.arange(len(classes))
    rows = zip(all_axes[::2], all_axes[1::2], images, ps, titles, strict=True)
    for picture, chart, image, p, title in rows:
        picture.imshow(image[..., 0] if image.shape[-1] == 1 else image, cmap="gray")
        picture.axis("off")
        picture.set_title(title, fontsize=9)
        chart.barh(places, p)
        chart.set_yticks(places, list(classes))
        chart.invert_yaxis()
        chart.set_xlim(0, 1.1)
        chart.set_title("Class probability", fontsize=9)
    figure.savefig(path, dpi=120)


def _figure(columns: int, *, rows: int = 1, width: float, height: float) -> Any:
    # The object interface needs no display and leaves no global state behind.
    from matplotlib.figure import Figure

    size = (width * columns, height * rows)
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    return figure, list(grid.flat)
