"""The figures that the documents (docs/pages/book.md) print, and the verdicts on ours."""

import dataclasses
import math
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class Row:
    """One figure of the documents beside ours.

    Attributes:
        figure: The name of the figure in the ledger.
        documented: The figure as it is printed.
        ours: Our figure, or the mean and spread of our figures over seeds.
        difference: Our figure less the documented one.
        allowed: The largest difference that passes, or the interval that the figure has to lie in.
        verdict: "ok", "OFF", "not run", "no power" if the interval excludes next to nothing, or
            "-" if too few seeds were run to judge.
        rule: The rule that gives `allowed`, in words.
        within: The largest relative error of the figure that would still pass; None where there
            is none, as for a text.
    """

    figure: str
    documented: str
    ours: str
    difference: str
    allowed: str
    verdict: str
    rule: str = ""
    within: float | None = None


_EQUAL = "equal"
_PRINTED = "half of the last digit and 1e-6 of the value"
_SEEDS = "99 % prediction interval of 3 or more seeds"
POWER = (
    "A figure whose seed is unknown is judged only if its interval excludes half and double the "
    "figure (of an accuracy: half and double the share of errors). An interval of losses is one "
    "of their logarithms, and so never reaches below 0."
)
_CURVE = 5  # a curve of so many epochs or more is judged as a whole too


@cache
def _ledger() -> dict[str, Any]:
    # Decimal keeps the printed digits, trailing zeros included.
    text = Path(__file__).with_name("ledger.toml").read_text(encoding="utf-8")
    return tomllib.loads(text, parse_float=Decimal)


def documented(section: str) -> dict[str, Any]:
    """The figures of a section of the ledger, flat: {"loss.1": ...}.

    Args:
        section: The name of the section, such as "thermometer.split".
    """
    found: Any = _ledger()
    for name in section.split("."):
        found = found[name]
    return dict(_leaves(found))


def _leaves(
    value: Any, name: str = "", kinds: Any = (Mapping, list, tuple, np.ndarray)
) -> Iterator[tuple[str, Any]]:
    """The values in nested containers, with their dotted names."""
    if isinstance(value, kinds):
        items = value.items() if isinstance(value, Mapping) else enumerate(value)
        for key, item in items:
            yield from _leaves(item, f"{name}.{key}" if name else str(key), kinds)
    else:
        yield name, value


def compare(section: str, ours: Mapping[str, Any], complete: bool = True) -> list[Row]:
    """Compares our figures with all figures of a section.

    Args:
        section: The name of the ledger's section.
        ours: Our figures, nested like the section; further figures are allowed.
        complete: Whether a missing figure is a failure. It is none when the
            settings ask for a shorter run than the document's.

    Returns:
        A row for each figure of the section.
    """
    found = dict(_leaves(dict(ours)))
    rows = []
    for name, figure in documented(section).items():
        label = f"{section}.{name}"
        if name not in found:
            rows.append(_missing(label, figure, complete))
            continue
        if isinstance(figure, str):
            verdict = "ok" if found[name] == figure else "OFF"
            rows.append(
                Row(label, _short(figure), _short(str(found[name])), "-", "-", verdict, _EQUAL, 0.0)
            )
            continue
        value, (allowed, rule) = float(found[name]), _allowed(figure)
        if math.isnan(float(figure)):
            ok, difference = math.isnan(value), 0.0 if math.isnan(value) else math.inf
        else:
            difference = value - float(figure)
            ok = abs(difference) <= allowed
        verdict = "ok" if ok else "OFF"
        rows.append(
            Row(
                label,
                str(figure),
                f"{value:.8g}",
                f"{difference:+.1e}",
                f"{allowed:.1e}",
                verdict,
                rule,
                _part(allowed, float(figure)),
            )
        )
    return rows


def compare_over_seeds(section: str, ours: Mapping[str, Any], complete: bool = True) -> list[Row]:
    """Compares our figures of several seeds with figures whose seed is unknown.

    The document's run is one more draw from the same distribution, so its figure has to lie
    within the 99 % prediction interval of ours (Student's t). A figure inside an interval without
    `POWER` is not judged. The figures of one run err together: a curve that lies above the
    document's at every epoch may hold at each of them. So a curve of several epochs has a row for
    its mean too, which varies less than its figures do.

    Args:
        section: The name of the ledger's section.
        ours: Our figures, nested like the section, each an array with an entry for each seed.
        complete: Whether a missing figure is a failure.

    Returns:
        A row for each figure of the section, and one for each curve.
    """
    found = dict(_leaves(ours, kinds=Mapping))
    rows = []
    curves: dict[str, list[str]] = {}
    for name, figure in documented(section).items():
        label = f"{section}.{name}"
        if name in found:
            rows.append(_over_seeds(label, [figure], [found[name]]))
        else:
            rows.append(_missing(label, figure, complete))
        home, _, key = name.rpartition(".")
        if "loss" in home and key.isdecimal():
            curves.setdefault(home, []).append(name)
    for home, names in curves.items():
        if len(names) >= _CURVE and found.keys() >= {*names}:
            figures = [documented(section)[name] for name in names]
            rows.append(
                _over_seeds(f"{section}.{home}.mean", figures, [found[name] for name in names])
            )
    return rows


def _over_seeds(label: str, figures: Sequence[Any], ours: Sequence[Any]) -> Row:
    """Judges one figure, or the mean of several of one curve, by our values (figures, seeds)."""
    import scipy.stats

    logs = "loss" in label
    values, printed = np.asarray(ours, np.float64), np.asarray(figures, np.float64)
    n, above = values.shape[1], int((values.mean(axis=1) > printed).sum())
    if logs:  # of several figures the mean is the geometric one, in which each weighs the same
        tiny = np.finfo(np.float64).tiny
        values, printed = np.log(np.maximum(values, tiny)), np.log(printed)
    values, figure = values.mean(axis=0), float(printed.mean())
    mean, shown = float(values.mean()), values
    if logs:
        shown, figure = np.exp(values), math.exp(figure)
    text = str(figures[0]) if len(figures) == 1 else f"{figure:.6g}"
    difference = float(shown.mean()) - figure
    rule = _SEEDS
    if n < 3:
        return Row(label, text, f"{shown.mean():.4f}", f"{difference:+.1e}", "-", "-", rule)
    spread = float(values.std(ddof=1)) * math.sqrt(1 + 1 / n)
    reach = float(scipy.stats.t.ppf(0.995, n - 1)) * spread
    low, high = (math.exp(x) if logs else x for x in (mean - reach, mean + reach))
    if len(figures) > 1:
        gap = abs(mean - (math.log(figure) if logs else figure))
        p = 2 * float(scipy.stats.t.sf(gap / spread, n - 1)) if spread else float(gap == 0)
        rule += f", of the mean over {len(figures)} epochs (p = {p:.2g}); ours lies above the "
        rule += f"document's at {above} of {len(figures)}"
    else:
        low, high = low - _half_digit(figures[0]), high + _half_digit(figures[0])
    verdict = "ok" if low <= figure <= high else "OFF"
    if verdict == "ok" and not _has_power(label, figure, low, high):
        verdict = "no power"
    return Row(
        label,
        text,
        f"{shown.mean():.4f} ± {shown.std(ddof=1):.4f} (n={n})",
        f"{difference:+.1e}",
        f"{low:.4g} to {high:.4g}",
        verdict,
        rule,
        _part(max(figure - low, high - figure), figure),
    )


def _has_power(label: str, figure: float, low: float, high: float) -> bool:
    """Whether an interval excludes half and double the figure, as `POWER` says."""
    if "accuracy" in label:
        figure, low, high = 1 - figure, 1 - high, 1 - low
    return not any(low <= factor * figure <= high for factor in (0.5, 2.0))


def _part(difference: float, figure: float) -> float | None:
    """A difference as a part of the figure."""
    part = abs(difference / figure) if figure else abs(difference)
    return part if math.isfinite(part) else None


def check(what: str, found: str, holds: bool) -> dict[str, str]:
    """A row for a statement that is not a figure of the documents but has to hold too.

    Args:
        what: The statement that has to hold.
        found: The measurement in words.
        holds: Whether the statement holds.
    """
    return {"check": what, "found": found, "verdict": "ok" if holds else "OFF"}


def _missing(label: str, figure: Any, complete: bool) -> Row:
    return Row(label, str(figure), "-", "-", "-", "OFF" if complete else "not run")


def _half_digit(figure: Decimal | int) -> float:
    if isinstance(figure, int) or not figure.is_finite():
        return 0.0
    exponent = figure.as_tuple().exponent
    assert isinstance(exponent, int)
    return 0.5 * 10.0**exponent


def _short(text: str) -> str:
    return text if len(text) <= 24 else f"{text[:21]}..."


def _allowed(figure: Decimal | int) -> tuple[float, str]:
    if isinstance(figure, int) or not figure.is_finite():
        return 0.0, _EQUAL
    size = abs(float(figure))
    # Both programs round in float32, which adds to the rounding of the printed digits: the
    # document prints 3.9682 where float64 gives 3.9682517.
    digit, part = _half_digit(figure) + 1e-6 * size, 1e-5 * size
    return (digit, _PRINTED) if digit >= part else (part, "1e-5 of the value")
