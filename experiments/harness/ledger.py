"""The figures that the documents (docs/pages/book.md) print, and the verdicts on ours."""

import dataclasses
import math
import tomllib
from collections.abc import Iterator, Mapping
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
        allowed: The largest difference that passes.
        verdict: "ok", "OFF", "not run", or "-" if too few seeds were run to judge.
        rule: The rule that gives `allowed`, in words.
    """

    figure: str
    documented: str
    ours: str
    difference: str
    allowed: str
    verdict: str
    rule: str = ""


_EQUAL = "equal"
_PRINTED = "half of the last digit and 1e-6 of the value"
_SEEDS = "99 % prediction interval of 3 or more seeds"
_WEAK = f"{_SEEDS}, wider than the figure itself: it could hardly fail"


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
                Row(label, _short(figure), _short(str(found[name])), "-", "-", verdict, _EQUAL)
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
            )
        )
    return rows


def compare_over_seeds(section: str, ours: Mapping[str, Any], complete: bool = True) -> list[Row]:
    """Compares our figures of several seeds with figures whose seed is unknown.

    The document's run is one more draw from the same distribution, so its figure
    has to lie within the 99 % prediction interval of ours (Student's t).

    Args:
        section: The name of the ledger's section.
        ours: Our figures, nested like the section, each an array with an entry for each seed.
        complete: Whether a missing figure is a failure.

    Returns:
        A row for each figure of the section.
    """
    import scipy.stats

    found = dict(_leaves(ours, kinds=Mapping))
    rows = []
    for name, figure in documented(section).items():
        label = f"{section}.{name}"
        if name not in found:
            rows.append(_missing(label, figure, complete))
            continue
        values = np.asarray(found[name], np.float64)
        n, mean = len(values), float(values.mean())
        difference = mean - float(figure)
        if n < 3:
            rows.append(
                Row(label, str(figure), f"{mean:.4f}", f"{difference:+.1e}", "-", "-", _SEEDS)
            )
            continue
        spread = float(values.std(ddof=1))
        reach = float(scipy.stats.t.ppf(0.995, n - 1)) * spread * math.sqrt(1 + 1 / n)
        allowed = reach + _half_digit(figure)
        rows.append(
            Row(
                label,
                str(figure),
                f"{mean:.4f} ± {spread:.4f} (n={n})",
                f"{difference:+.1e}",
                f"{allowed:.1e}",
                "ok" if abs(difference) <= allowed else "OFF",
                _SEEDS if allowed <= abs(float(figure)) else _WEAK,
            )
        )
    return rows


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
