"""jaxnet/train/_progress.py and _bar.py: what is seen of a run in terminals of every width."""

import io
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

from jaxnet import train
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


def test_compiling_within_compiling_is_counted_once(capsys):
    """Else an epoch that compiled would have taken less than no time."""

    traced = []

    def step(state, batch):
        traced.append(len(traced) + 1.0)

        @jax.jit  # another program whenever the step is traced
        def slow_to_compile(x):
            for _ in range(300):
                x = jnp.sin(x) + traced[-1]
            return x

        with jax.ensure_compile_time_eval():
            factor = slow_to_compile(jnp.ones(3)).sum()
        return state + 1, {"loss": factor * batch.mean()}

    train.fit(jnp.int32(0), step, np.ones((4, 2), np.float32), batch_size=2, epochs=1)
    (line,) = re.findall("epoch 1.*", capsys.readouterr().out)
    assert float(line.split()[-2]) >= 0
