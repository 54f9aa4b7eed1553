"""jaxnet/plots.py"""

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from jaxnet import data, plots


def test_panels_and_images_are_drawn(tmp_path):
    line = plots.Series("a", [1, 2, 3], [1.0, 2.0, 4.0], "C1-", ([0, 1, 2], [2, 3, 5]))
    plots.save_panels(tmp_path / "a.png", [plots.Panel("t", "x", "y", [line], log=True)])
    images = np.zeros((7, 4, 4, 3), np.uint8)
    plots.save_images(tmp_path / "b.png", images, [str(i) for i in range(7)], columns=3)
    for name in ("a.png", "b.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


def test_wide_images_get_low_rows(tmp_path):
    for shape, size in (((4, 4, 3), (480, 264)), ((2, 4, 3), (480, 144))):
        images = [np.zeros(shape, np.uint8)] * 2
        plots.save_images(tmp_path / "a.png", images, ["a", "b"], columns=2, width=2.0)
        assert data.read_image(tmp_path / "a.png").shape[:2] == size[::-1]


def test_a_curve_of_one_point_is_seen(tmp_path):
    pixels = []
    for y in ([0.5], []):
        series = plots.Series("net", [1.0][: len(y)], y, "k-")
        frame = plots.Series("frame", [0, 2], [0, 1], "w-")
        plots.save_panels(tmp_path / "a.png", [plots.Panel("t", "x", "y", [frame, series])])
        pixels.append(data.read_image(tmp_path / "a.png"))
    assert (pixels[0] != pixels[1]).any()


def test_log_x_has_a_tick_at_each_value(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: drawn.append(figure))
    lines = [plots.Series("a", [1, 8, 64], [1, 2, 4]), plots.Series("b", [4, 64], [1, 2])]
    plots.save_panels(tmp_path / "a.png", [plots.Panel("t", "x", "y", lines, log_x=True)])
    (axes,) = drawn[0].axes
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "linear")
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["1", "4", "8", "64"]


def drawn(monkeypatch, panel, path):
    figures = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: figures.append(figure))
    plots.save_panels(path, [panel])
    return figures[0].axes[0]


def test_one_epoch_has_one_tick(tmp_path, monkeypatch):
    panel = plots.Panel("t", "epoch", "loss", [plots.Series("a", [3], [0.5])])
    axes = drawn(monkeypatch, panel, tmp_path / "a.png")
    assert axes.get_xticks().tolist() == [3]
    assert axes.get_xlim() == (2.5, 3.5)


def test_a_legend_is_for_several_names(tmp_path, monkeypatch):
    one = [plots.Series("a", [1, 2], [1, 2]), plots.Series("_b", [1, 2], [2, 1])]
    for series, there in ((one, False), ([*one, plots.Series("c", [1], [1])], True)):
        panel = plots.Panel("t", "x", "y", series)
        axes = drawn(monkeypatch, panel, tmp_path / "a.png")
        assert (axes.get_legend() is not None) == there


def test_many_values_on_a_log_axis_get_the_usual_ticks(tmp_path, monkeypatch):
    panel = plots.Panel("t", "x", "y", [plots.Series("a", range(1, 99), range(98))], log_x=True)
    axes = drawn(monkeypatch, panel, tmp_path / "a.png")
    assert axes.get_xscale() == "log"
    assert len(axes.get_xticks()) < 20


def test_pictures_say_what_they_show(tmp_path):
    line = plots.Series("net", [1, 2, 3], [4.0, 2.0, 1.0])
    plots.save_panels(tmp_path / "a.png", [plots.Panel("Loss", "epoch", "mean", [line])])
    plots.save_images(tmp_path / "b.png", np.zeros((1, 4, 4, 3), np.uint8), ["dog"], title="Pets")
    for name, words in (
        ("a.png", {"Title": "Loss", "Description": "Loss: mean against epoch. net from 4 to 1."}),
        ("b.png", {"Title": "Pets", "Description": "1 images: dog."}),
    ):
        with Image.open(tmp_path / name) as image:
            assert {key: image.info[key] for key in words} == words


def test_two_measured_points_are_not_joined_and_the_legend_hides_nothing(tmp_path, monkeypatch):
    names = {"ends": "C0-", "two": "C1--o", "three": "C2--o"}
    lines = [plots.Series(name, range(1, 4 if name == "three" else 3),
                          [1, 2, 3][: 3 if name == "three" else 2], style)
             for name, style in names.items()]  # fmt: skip
    axes = drawn(monkeypatch, plots.Panel("t", "epoch", "loss", lines), tmp_path / "a.png")
    styles = {line.get_label(): line.get_linestyle() for line in axes.lines}
    assert styles == {"ends": "-", "two": "None", "three": "--"}
    assert all(float(tick).is_integer() for tick in axes.get_xticks())
    axes.figure.canvas.draw()
    assert axes.get_legend().get_window_extent().y1 < axes.get_window_extent().y0


def test_a_line_under_another_is_seen(tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr(plots, "save_figure", lambda figure, *words: figures.append(figure))
    ys = {"under": [1.0, 2.0, 3.0], "far": [3.0, 2.0, 1.0], "over": [1.0, 2.01, 3.0]}
    lines = [plots.Series(name, [1, 2, 3], y) for name, y in ys.items()]
    plots.save_panels(tmp_path / "lines.png", [plots.Panel("t", "x", "y", lines)])
    under, far, over = figures[0].axes[0].lines
    assert under.get_linewidth() > over.get_linewidth() == far.get_linewidth()


@pytest.mark.parametrize(("from_zero", "foot", "marks"), [(True, 0.0, 0), (False, 0.77, 2)])
def test_bars_begin_at_0_or_say_so_and_end_where_they_are_told(
    from_zero, foot, marks, tmp_path, monkeypatch
):
    figures = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: figures.append(figure))
    bars = {"training": [[0.87], [0.99]], "validation": [[0.9], [0.88]]}
    plots.save_bars(tmp_path / "a.png", ["a", "b"], bars, "t", "fraction", 2, from_zero, top=1.0)
    (axes,) = figures[0].axes
    assert axes.get_ylim() == pytest.approx((foot, 1.0))
    assert sum(len(line.get_xdata()) for line in axes.lines) == marks
    axes.figure.canvas.draw()
    assert axes.get_legend().get_window_extent().y1 < axes.get_window_extent().y0
