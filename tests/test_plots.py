"""jaxnet/report/plots.py"""

import numpy as np
from matplotlib.figure import Figure

from jaxnet import data, report


def test_panels_and_images_are_drawn(tmp_path):
    line = report.Series("a", [1, 2, 3], [1.0, 2.0, 4.0], "C1-", ([0, 1, 2], [2, 3, 5]))
    report.save_panels(tmp_path / "a.png", [report.Panel("t", "x", "y", [line], log=True)])
    images = np.zeros((7, 4, 4, 3), np.uint8)
    report.save_images(tmp_path / "b.png", images, [str(i) for i in range(7)], columns=3)
    for name in ("a.png", "b.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


def test_a_curve_of_one_point_is_seen(tmp_path):
    pixels = []
    for y in ([0.5], []):
        series = report.Series("net", [1.0][: len(y)], y, "k-")
        frame = report.Series("frame", [0, 2], [0, 1], "w-")
        report.save_panels(tmp_path / "a.png", [report.Panel("t", "x", "y", [frame, series])])
        pixels.append(data.read_image(tmp_path / "a.png"))
    assert (pixels[0] != pixels[1]).any()


def test_log_x_has_a_tick_at_each_value(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: drawn.append(figure))
    lines = [report.Series("a", [1, 8, 64], [1, 2, 4]), report.Series("b", [4, 64], [1, 2])]
    report.save_panels(tmp_path / "a.png", [report.Panel("t", "x", "y", lines, log_x=True)])
    (axes,) = drawn[0].axes
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "linear")
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["1", "4", "8", "64"]


def test_digits_are_drawn_beside_their_probabilities(tmp_path):
    for channels in (1, 3):
        images = np.zeros((2, 28, 28, channels), np.uint8)
        ps = np.full((2, 10), 0.1)
        report.view_classify(tmp_path / "a.png", images, ps, ["a", "b"], list("0123456789"))
        assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
