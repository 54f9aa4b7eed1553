"""experiments/harness/ledger.py"""

from decimal import Decimal
from pathlib import Path

import pytest

from experiments.harness import ledger

RESULTS = Path(ledger.__file__).parents[1] / "results"


def test_half_of_the_last_printed_digit():
    for figure, half in (("0.5480", 5e-5), ("0.548", 5e-4), ("-4.9680e8", 5e3)):
        found, rule = ledger._allowed(Decimal(figure))
        assert found == pytest.approx(half + 1e-6 * abs(float(figure)), rel=1e-12)
        assert rule == "half of the last digit and 1e-6 of the value"


def test_a_figure_on_the_border_of_its_last_digit_has_room_for_float32s_rounding():
    """In float64 this gradient is 3.9682517; float32 sums in two orders give these two."""
    allowed, _ = ledger._allowed(Decimal("3.9682"))
    for ours in (3.9682493, 3.9682519):
        assert abs(ours - 3.9682) < allowed
    assert abs(3.96826 - 3.9682) > allowed


def test_relative_where_the_digits_are_finer_than_float32():
    allowed, rule = ledger._allowed(Decimal("5802484.5"))
    assert allowed == pytest.approx(58.0, rel=1e-2)
    assert rule == "1e-5 of the value"


def test_off_by_one_digit_is_off():
    good = ledger.compare("autograd", {"loss": 6.08464}, complete=False)
    bad = ledger.compare("autograd", {"loss": 6.0847}, complete=False)
    assert [r.verdict for r in good if r.figure == "autograd.loss"] == ["ok"]
    assert [r.verdict for r in bad if r.figure == "autograd.loss"] == ["OFF"]


def test_missing_figures_fail_a_complete_run():
    rows = ledger.compare("autograd", {})
    assert [row.verdict for row in rows] == ["OFF"] * 48
    rows = ledger.compare("autograd", {}, complete=False)
    assert [row.verdict for row in rows] == ["not run"] * 48


def test_nan_is_a_figure():
    name = "thermometer.manual_diverging.loss.100"
    for value, verdict in ((float("nan"), "ok"), (1.0, "OFF"), (float("inf"), "OFF")):
        rows = ledger.compare("thermometer.manual_diverging", {"loss": {100: value}}, False)
        assert [r.verdict for r in rows if r.figure == name] == [verdict]


def test_seeds_give_a_prediction_interval():
    near = {"val_accuracy": [0.88, 0.89, 0.90, 0.885, 0.895]}
    far = {"val_accuracy": [0.80, 0.801, 0.802, 0.799, 0.80]}
    for values, verdict in ((near, "ok"), (far, "OFF")):
        rows = ledger.compare_over_seeds("cifar2.net", values, complete=False)
        assert [r.verdict for r in rows if r.figure.endswith("val_accuracy")] == [verdict]


def test_one_run_gets_no_verdict():
    rows = ledger.compare_over_seeds("cifar2.net", {"val_accuracy": [0.5]}, complete=False)
    assert [r.verdict for r in rows if r.figure.endswith("val_accuracy")] == ["-"]


def test_a_text_is_held_to_the_letter():
    for given, verdict in (("bennet", "ok"), ("Bennet", "OFF")):
        rows = ledger.compare("text", {"words": ["impossible", "mr", given]}, complete=False)
        assert [r.verdict for r in rows if r.figure == "text.words.2"] == [verdict]


def test_an_interval_that_is_wider_than_its_figure_is_said_to_be_weak():
    for values, weak in (([0.88, 0.89, 0.90], False), ([-9.0, 9.0, 2.0], True)):
        rows = ledger.compare_over_seeds("cifar2.net", {"val_accuracy": values}, complete=False)
        (row,) = [row for row in rows if row.figure.endswith("val_accuracy")]
        assert row.verdict == "ok"
        assert ("could hardly fail" in row.rule) == weak


@pytest.mark.parametrize("name", ["cifar2_fc", "cifar2_net", "regression13", "thermometer"])
def test_committed_tables_say_which_figures_could_hardly_fail(name):
    lines = (RESULTS / f"{name}.md").read_text(encoding="utf-8").splitlines()
    rows = [line.strip("| ").split(" | ") for line in lines if "prediction interval of" in line]
    rows = [row for row in rows if len(row) == 7]
    assert rows
    for figure, documented, _, _, allowed, _, rule in rows:
        wide = float(allowed) > abs(float(documented))
        assert ("it could hardly fail" in rule) == wide, figure
