"""jaxnet/train/_progress.py and _bar.py: what is seen of a run in terminals of every width."""

import io
import re

import pytest
from rich.console import Console

from jaxnet.train._bar import Bar

METRICS = [("val_loss", 0.34125), ("loss", 0.5), ("accuracy", 0.875), ("lr", 0.001)]


def drawn(width, metrics=METRICS, total: int | None = 60_000) -> str:
    """The line of a run in its third epoch, and nothing else: one that is too long is two."""
    console = Console(width=width, file=io.StringIO(), force_terminal=True, color_system=None)
    bar = Bar(console=console, auto_refresh=False)
    bar.add_task("epoch 3/30", total=total, completed=6_000, metrics=metrics)
    console.print(bar.get_renderable())
    assert isinstance(console.file, io.StringIO)
    (line,) = console.file.getvalue().splitlines()
    assert len(line.rstrip()) <= width
    return " ".join(line.split())


@pytest.mark.parametrize(
    ("width", "words"),
    [
        (5, "0.341"),
        (6, "0.3412"),
        (15, "val_loss 0.3412"),
        (20, "10% val_loss 0.3412"),
        (40, "epoch 3/30 10% val_loss 0.3412 -:--:--"),
        (60, "epoch 3/30 ━━ 10% val_loss 0.3412 -:--:--"),
        (80, "epoch 3/30 ━━ 10% val_loss 0.3412, loss 0.5, lr 0.001 -:--:--"),
        (
            120,
            "epoch 3/30 ━━ 10% val_loss 0.3412, loss 0.5, accuracy 0.875, lr 0.001 "
            "6,000/60,000 rows -:--:--",
        ),
    ],
)
def test_the_monitored_metric_is_seen_in_every_width(width, words):
    line = drawn(width)
    assert re.sub("[━╸╺ ]+", " ", line) == words.replace(" ━━ ", " ")
    assert ("━" in line) == ("━" in words)


def test_what_has_no_end_and_what_has_no_metrics_yet():
    assert drawn(80, total=None) == (
        "epoch 3/30 val_loss 0.3412, loss 0.5, accuracy 0.875, lr 0.001 6,000 rows"
    )
    assert drawn(10, metrics=[]) == "epoch 3/30"
    assert drawn(9, metrics=[]) == "10%"


def test_no_width_breaks_the_line():
    for width in range(1, 100):
        for value in (-1.2345e-10, float("nan"), 3.0):
            assert drawn(width, [("val_loss", value), ("[bold]x", 1.0)]) != ""
