"""benchmarks: the parts that figures hang on."""

import math
import re

import numpy as np
import pytest

from benchmarks import growth, startup
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
