"""benchmarks: the parts that figures hang on."""

import math
import re

import numpy as np
import pytest

from benchmarks import devices, growth, startup
from benchmarks.training import rows

SIZES = np.array([1.0, 10.0, 100.0])


@pytest.mark.parametrize(
    ("cost", "expected"),
    [
        (2 + 3 * SIZES, (2, 3)),
        (3 * SIZES, (0, 3)),
        (np.full(3, 2.0), (2, 0)),
        (3 * SIZES - np.array([2.9, 0, 0]), (0, None)),  # a line through these starts below 0
        (2 - SIZES / 100, (None, 0)),
    ],
)
def test_the_line_of_growth(cost, expected):
    for found, value in zip(growth.line(SIZES, cost), expected, strict=True):
        assert found > 0 if value is None else found == pytest.approx(value, abs=1e-9)


def test_batches_take_all_rows_before_one_comes_again():
    _, _, batches = rows(growth.AXES["data"].works[256])
    order = batches.ravel()
    assert order.shape == (640,)
    for start in (0, 256):
        assert sorted(order[start : start + 256]) == list(range(256))
    assert not np.array_equal(order[:256], order[256:512])


@pytest.mark.long
def test_a_process_tells_when_its_first_step_is_done(tmp_path):
    found = startup.launch("jaxnet", "MLP 784-128-64-10", tmp_path)
    assert 0 < sum(found.phases.values()) < found.seconds
    assert math.isnan(found.memory) or 100 < found.memory < 2000
    assert (tmp_path / "compiled").is_dir()


def test_a_process_that_fails_is_no_figure(tmp_path, capfd):
    with pytest.raises(RuntimeError, match=re.escape("startup --process jaxnet nothing ended")):
        startup.launch("jaxnet", "nothing", tmp_path)
    assert "KeyError: 'nothing'" in capfd.readouterr().err


def test_what_a_step_sends_is_read_from_its_program():
    """Of data parallel training all gradients, once; of cut parameters these too."""
    work = devices.WORKS["MLP"]
    whole = devices.bytes_sent(work, 8, None)
    assert whole.parameters == 4 * (784 * 512 + 512 + 512 * 512 + 512 + 512 * 16 + 16)
    assert whole.summed == pytest.approx(whole.parameters, rel=1e-3)
    assert [what for what, _, _ in whole.rows] == ["gradients, summed"]
    cut = devices.bytes_sent(work, 8, "fsdp")
    assert [found for _, found, _ in cut.rows] == [
        pytest.approx(whole.parameters, rel=1e-3),
        pytest.approx(whole.parameters, rel=1e-3),
    ]
    assert (whole.other, cut.other) == (0, 0)


def test_collectives_are_counted_by_their_bytes():
    text = """
  %a = f32[4,8]{1,0} all-gather(f32[1,8]{1,0} %x), channel_id=1, dimensions={0}
  %b = (f32[16]{0}, s32[]) all-reduce-start(f32[16]{0} %y, s32[] %z), channel_id=2
  %c = f32[2]{0} reduce-scatter(f32[16]{0} %w), channel_id=3, dimensions={0}
  %d = f32[16]{0} add(f32[16]{0} %y, f32[16]{0} %y)
"""
    assert devices.sent(text, 8) == {"all-gather": 128, "all-reduce": 68, "reduce-scatter": 64}


def test_sending_is_worked_out_by_rings():
    cards = devices.Cards(speed=1e12, near=100.0, far=10.0)
    assert cards.seconds(summed=100, gathered=0, devices=2) == pytest.approx(1.0)  # 1/2 * 200 / 100
    assert cards.seconds(summed=0, gathered=100, devices=16) == pytest.approx(15 / 16 * 10)
