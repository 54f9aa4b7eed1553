"""Plots of runs as PNG files. The only module that imports matplotlib.

The metadata of each PNG have a "Title", and a "Description" that says in words what is shown.
"""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

__all__ = ["Panel", "Series", "make_figure", "save_bars", "save_figure", "save_images",
           "save_panels"]  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Series:
    """One line, or one set of points, in a panel.

    Attributes:
        name: The name in the legend; one that begins with "_" is not shown.
        x, y: The coordinates of the points, of the same length.
        style: Line and marker in matplotlib's short form, such as "-", "o" or "kx".
        band: The lower and upper values of a shaded band around y.
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
        title, xlabel, ylabel: The title of the panel and the labels of its axes.
        series: The lines and points that are drawn.
        log: Whether the y axis has a logarithmic scale.
        log_x: Whether the x axis has a logarithmic scale; up to 12 different values get a
            tick each.
    """

    title: str
    xlabel: str
    ylabel: str
    series: Sequence[Series]
    log: bool = False
    log_x: bool = False


def save_panels(path: str | os.PathLike[str], panels: Sequence[Panel]) -> None:
    """Draws panels side by side into a PNG.

    A legend is drawn below a panel that has more than one named series. Points that a style marks
    are joined by a line only if there are more than two of them. A line that a later one covers
    is drawn wider.

    Args:
        path: Path of the PNG file.
        panels: The panels, from left to right.
    """
    figure, all_axes = make_figure(len(panels), width=6.0, height=4.2)
    for axes, panel in zip(all_axes, panels, strict=True):
        for series in panel.series:
            x, y = np.asarray(series.x), np.asarray(series.y)
            (line,) = axes.plot(x, y, series.style, label=series.name, markersize=6)
            if x.size == 1 and line.get_marker() == "None":
                line.set_marker(".")  # a line of one point would be invisible
            if x.size == 2 and line.get_marker() != "None":
                line.set_linestyle("None")  # two measured points are no curve
            if series.band is not None:
                low, high = series.band
                axes.fill_between(x, low, high, alpha=0.2, color=axes.lines[-1].get_color())
        _widen_covered(axes.lines, panel.log)
        axes.set_title(panel.title)
        axes.set_xlabel(panel.xlabel)
        axes.set_ylabel(panel.ylabel)
        if panel.log:
            axes.set_yscale("log")
        if panel.log_x:
            axes.set_xscale("log")
            ticks = sorted({float(x) for series in panel.series for x in np.ravel(series.x)})
            if len(ticks) <= 12:
                axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
                axes.set_xticks([], minor=True)
        elif all(
            x.dtype.kind in "iu" for series in panel.series if (x := np.asarray(series.x)).size
        ):
            _whole_ticks(axes, panel.series)
        axes.grid(alpha=0.3)
        named = sum(not series.name.startswith("_") for series in panel.series)
        if named > 1:
            _legend_below(axes, named, -0.14)
    title = "; ".join(panel.title for panel in panels)
    save_figure(figure, path, title, " ".join(_words(panel) for panel in panels))


def _widen_covered(lines: Sequence[Any], log: bool) -> None:
    """Widens each line that lies within a hundredth of the panel's height of a later one."""
    heights = [np.asarray(line.get_ydata(), np.float64) for line in lines]
    if log:
        with np.errstate(divide="ignore", invalid="ignore"):
            heights = [np.log(y) for y in heights]
    finite = np.concatenate([y[np.isfinite(y)] for y in heights] or [np.zeros(0)])
    near = 0.01 * np.ptp(finite) if finite.size else 0.0
    for i in reversed(range(len(lines))):
        for j in range(i + 1, len(lines)):
            same_x = np.array_equal(lines[i].get_xdata(), lines[j].get_xdata())
            if same_x and heights[i].size and np.all(np.abs(heights[i] - heights[j]) <= near):
                lines[i].set_linewidth(lines[j].get_linewidth() + 2.5)
                break


def _legend_below(axes: Any, names: int, y: float) -> None:
    """Puts the legend below the axes, where it hides nothing."""
    axes.legend(
        loc="upper center",
        bbox_to_anchor=(0.5, y),
        ncols=min(names, 3),
        frameon=False,
        fontsize=8,
    )


def _whole_ticks(axes: Any, series: Sequence[Series]) -> None:
    """Puts ticks only at whole numbers of the x axis, also where there is only one number."""
    values = {int(x) for one in series for x in np.ravel(np.asarray(one.x))}
    if not values:
        return
    if len(values) == 1:
        (only,) = values
        axes.set_xlim(only - 0.5, only + 0.5)
        axes.set_xticks([only])
    else:
        axes.locator_params(axis="x", integer=True)


def save_images(
    path: str | os.PathLike[str],
    images: np.ndarray | Sequence[np.ndarray],
    titles: Sequence[str],
    columns: int = 6,
    title: str = "",
    width: float = 1.9,
) -> None:
    """Draws images with a title above each into a PNG.

    Args:
        path: Path of the PNG file.
        images: The images, uint8 (N, H, W, 3), or a list of (H, W, 3) of different sizes.
        titles: A title for each image.
        columns: The number of images in a row.
        title: A title of the whole, for the file's "Title"; it is not drawn.
        width: The width of an image with its margin, in inches.
    """
    rows = -(-len(images) // columns)
    # A row is as high as its columns are wide, or as its widest images need, plus the title.
    shape = max(min(image.shape[0] / image.shape[1], 1) for image in images)
    figure, all_axes = make_figure(columns, rows=rows, width=width, height=width * shape + 0.2)
    for axes in all_axes:
        axes.axis("off")
    for axes, image, above in zip(all_axes, images, titles, strict=False):
        axes.imshow(image)
        axes.set_title(above, fontsize=8)
    named = ", ".join([*titles[:24], *(["and so on"] if len(titles) > 24 else [])])
    save_figure(figure, path, title, f"{len(images)} images: {named}.")


def save_bars(
    path: str | os.PathLike[str],
    names: Sequence[str],
    bars: Mapping[str, Sequence[Sequence[float]]],
    title: str,
    ylabel: str,
    digits: int = 2,
    from_zero: bool = True,
    top: float | None = None,
) -> None:
    """Draws groups of bars into a PNG: means, values as dots, standard deviations as whiskers.

    Args:
        path: Path of the PNG file.
        names: A name for each group.
        bars: The values of each group, for each kind of bar.
        title: The title above the plot.
        ylabel: The label of the y axis.
        digits: The number of digits after the point in the means above the bars.
        from_zero: Whether the bars begin at 0. False lets them begin a little below the
            lowest value, which shows small differences but no proportions; a mark on the axis
            says so.
        top: The end of the y axis, such as 1 for fractions; None leaves it open.
    """
    figure, (axes,) = make_figure(1, width=max(6.0, 1.1 * len(names) + 1), height=4.2)
    width = 0.8 / len(bars)
    lowest = min(min(values) for groups in bars.values() for values in groups)
    for i, (kind, groups) in enumerate(bars.items()):
        x = np.arange(len(names)) + (i - (len(bars) - 1) / 2) * width
        means = np.array([np.mean(values) for values in groups])
        spreads = np.array([np.std(v, ddof=1) if len(v) > 1 else 0.0 for v in groups])
        axes.bar(x, means, width * 0.95, label=kind)
        for at, values, mean, spread in zip(x, groups, means, spreads, strict=True):
            if spread:
                axes.errorbar(at, mean, spread, color="black", capsize=4, linewidth=1)
                axes.plot([at + 0.2 * width] * len(values), values, "k.", markersize=3)
            highest = (at, max(mean + spread, *values))
            text = {"textcoords": "offset points", "ha": "center", "fontsize": 7}
            axes.annotate(f"{mean:.{digits}f}", highest, (0, 3), **text)
    axes.set_xticks(np.arange(len(names)), [name.replace("_", "\n") for name in names])
    axes.margins(y=0.15)
    bottom = 0.0 if from_zero else max(0.0, lowest - 0.1)
    axes.set_ylim(bottom, top)
    if bottom > 0:
        # Two slanted strokes at the foot of the axis: it does not begin at 0.
        mark = {"marker": [(-1, -0.6), (1, 0.6)], "color": "black", "clip_on": False}
        axes.plot([0, 0], [0.02, 0.045], transform=axes.transAxes, linestyle="none",
                  markersize=10, **mark)  # fmt: skip
    axes.set_title(title, pad=14)  # room for the values above bars that end at the top
    axes.set_ylabel(ylabel)
    axes.spines[["top", "right"]].set_visible(False)
    if len(bars) > 1:
        lines = max(name.replace("_", "\n").count("\n") for name in names)
        _legend_below(axes, len(bars), -0.1 - 0.055 * lines)
    heights = [
        f"{name} {', '.join(f'{kind} {np.mean(groups[i]):.3f}' for kind, groups in bars.items())}"
        for i, name in enumerate(names)
    ]
    save_figure(figure, path, title, f"Bars. {title}: {ylabel}. {'; '.join(heights)}.")


def _words(panel: Panel) -> str:
    """A panel in words: its axes, and the values at which each line starts and ends."""
    lines = []
    for series in panel.series:
        y = np.asarray(series.y)
        ends = f" from {y[0]:.4g} to {y[-1]:.4g}" if "-" in series.style and y.size else ""
        if not series.name.startswith("_"):
            lines.append(f"{series.name}{ends}")
    return f"{panel.title}: {panel.ylabel} against {panel.xlabel}. {'; '.join(lines)}."


def make_figure(columns: int, *, rows: int = 1, width: float, height: float) -> Any:
    """A matplotlib figure and its axes, row by row, for a plot that `save_figure` writes.

    Args:
        columns: The number of axes side by side.
        rows: The number of axes above one another.
        width: The width of one of the axes in inches.
        height: The height of one of the axes in inches.

    Returns:
        The figure and a list of its axes.
    """
    # The object interface needs no display and leaves no global state behind.
    from matplotlib.figure import Figure

    size = (width * columns, height * rows)
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    return figure, list(grid.flat)


def save_figure(figure: Any, path: str | os.PathLike[str], title: str, description: str) -> None:
    """Writes a figure as a PNG file whose metadata say what it shows.

    Args:
        figure: The figure of `make_figure`.
        path: Path of the PNG file.
        title: A caption, for the file's "Title".
        description: A description in words for those who cannot see the figure, for the
            file's "Description".
    """
    words = {"Title": title, "Description": description}
    metadata = {key: " ".join(text.split()) for key, text in words.items() if text.strip()}
    figure.savefig(path, dpi=120, metadata=metadata)
