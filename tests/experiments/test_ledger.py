"""experiments/harness/ledger.py"""

from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest

from experiments.harness import ledger, tables

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


NEAR = np.array([0.996, 0.998, 1.0, 1.002, 1.004])


def planted(section, name, factors):
    """The figures of a section as five runs would give them, one of them planted."""
    figures: dict = {}
    for key, figure in ledger.documented(section).items():
        home, _, last = key.rpartition(".")
        values = float(figure) * (factors if key == name or home == name else NEAR)
        (figures.setdefault(home, {}) if home else figures)[last] = values
    return ledger.compare_over_seeds(section, figures)


@pytest.mark.parametrize(
    ("section", "figure", "factors", "verdict"),
    [
        ("cifar2.net", "val_accuracy", NEAR, "ok"),
        ("cifar2.net", "val_accuracy", 0.8 * NEAR, "OFF"),
        ("cifar2.net", "val_accuracy", 1 + 9 * (NEAR - 1), "no power"),  # 0.76 to 1.02
        ("cifar2.net", "train_loss.10", NEAR, "ok"),
        ("cifar2.net", "train_loss.10", 1.5 * NEAR, "OFF"),
        ("cifar2.net", "train_loss.10", NEAR**90, "no power"),
        ("thermometer.mlp", "output.1", NEAR, "ok"),
        ("thermometer.mlp", "output.1", -NEAR, "OFF"),
        ("thermometer.mlp", "hidden_grad.0", np.array([-9.0, 9.0, 2.0, 1.0, -3.0]), "no power"),
        ("thermometer.mlp", "hidden_grad.0", np.array([90.0, 95.0, 99.0, 91.0, 92.0]), "OFF"),
    ],
)
def test_seeds_give_an_interval_that_has_to_have_power(section, figure, factors, verdict):
    rows = planted(section, figure, factors)
    (row,) = [row for row in rows if row.figure == f"{section}.{figure}"]
    assert row.verdict == verdict
    low, high = map(float, row.allowed.split(" to "))
    assert low < high
    if "loss" in figure:
        assert low > 0  # however wide the interval is, no loss is negative
    others = {other.verdict for other in rows if not other.figure.startswith(row.figure[:-2])}
    assert others == {"ok"}


@pytest.mark.parametrize(("factor", "verdict"), [(1.0, "ok"), (1.04, "OFF")])
def test_a_curve_that_is_off_at_no_epoch_may_be_off_as_a_whole(factor, verdict):
    """The seeds take turns in being low and high: 4 % lie within each epoch's interval."""
    noise = [np.roll([-0.05, -0.02, 0.0, 0.02, 0.05], epoch) for epoch in range(11)]
    names = [n for n in ledger.documented("cifar2.net") if n.startswith("train_loss.")]
    figures = {n.split(".")[1]: float(ledger.documented("cifar2.net")[n]) for n in names}
    ours = {k: factor * f * np.exp(e) for (k, f), e in zip(figures.items(), noise, strict=True)}
    rows = ledger.compare_over_seeds("cifar2.net", {"train_loss": ours}, complete=False)
    verdicts = {row.figure: row.verdict for row in rows}
    assert {verdicts[f"cifar2.net.{name}"] for name in names} == {"ok"}
    assert verdicts["cifar2.net.train_loss.mean"] == verdict
    if factor > 1:
        assert "ours lies above the document's at 11 of 11" in rows[-1].rule


def test_a_curve_that_is_cut_short_has_no_row_of_its_own():
    ours = {"train_loss": {1: [0.55, 0.56, 0.57], 10: [0.33, 0.33, 0.34]}}
    rows = ledger.compare_over_seeds("cifar2.net", ours, complete=False)
    assert not [row for row in rows if row.figure.endswith(".mean")]


def test_one_run_gets_no_verdict():
    rows = ledger.compare_over_seeds("cifar2.net", {"val_accuracy": [0.5]}, complete=False)
    assert [r.verdict for r in rows if r.figure.endswith("val_accuracy")] == ["-"]


def test_a_text_is_held_to_the_letter():
    for given, verdict in (("bennet", "ok"), ("Bennet", "OFF")):
        rows = ledger.compare("text", {"words": ["impossible", "mr", given]}, complete=False)
        assert [r.verdict for r in rows if r.figure == "text.words.2"] == [verdict]


@pytest.mark.parametrize("name", ["cifar2_fc", "cifar2_net", "regression13", "thermometer"])
def test_committed_tables_judge_only_with_power(name):
    lines = (RESULTS / f"{name}.md").read_text(encoding="utf-8").splitlines()
    rows = [line.strip("|").split("|") for line in lines if "prediction interval of" in line]
    rows = [[cell.strip() for cell in row] for row in rows if len(row) == 8]
    assert rows
    for figure, documented, _, _, allowed, verdict, _, _ in rows:
        low, high = map(float, allowed.split(" to "))
        power = ledger._has_power(figure, float(documented), low, high)
        assert verdict == ("ok" if power else "no power"), figure


def test_a_summary_says_how_much_was_judged_and_what_is_excluded(tmp_path, capsys):
    rows = ledger.compare("autograd", {"loss": 6.0846, "z": [-2.1098]}, complete=False)
    rows += planted("thermometer.mlp", "hidden_grad", np.array([-9.0, 9.0, 2.0, 1.0, -3.0]))
    tables.show_ledger(rows)
    said = " ".join(capsys.readouterr().out.split())
    assert "18 of 18 figures hold, to 2 % or less; 54 not judged" in said
    assert said.endswith("8 without power, 46 not run")
