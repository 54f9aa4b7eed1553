"""Recorded values in words; of a long series the ends and the range."""

import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

_INLINE = 8  # the most values of a list that are written out
_MOST = 80  # the most lines of the page; the rest is in the record


def flat_values(metrics: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The dotted name of every recorded value, with the value in words.

    Args:
        metrics: The measurements of a run.

    >>> flat_values({"a": {"loss": list(range(10))}, "n": 3})
    [('a.loss', '10 values: first 0, last 9, between 0 and 9'), ('n', '3')]
    """
    found = list(_walk(metrics, ""))
    if len(found) > _MOST:
        rest = len(found) - _MOST
        found = [*found[:_MOST], ("…", f"{rest} more are in record.json")]
    return found


def _walk(value: Any, name: str) -> Iterator[tuple[str, str]]:
    items: Sequence[tuple[str, Any]]
    if isinstance(value, Mapping):
        items = list(value.items())
    elif isinstance(value, list):
        items = [(str(i), item) for i, item in enumerate(value)]
    else:
        yield name, number(value)
        return
    inner = [item for _, item in items]
    if not inner:
        yield name, "none"
    elif len(inner) > _INLINE and all(_is_number(item) for item in inner):
        yield name, _series([float(item) for item in inner])
    elif isinstance(value, list) and not any(isinstance(item, (list, dict)) for item in inner):
        yield name, number(value)
    else:
        for key, item in items:
            yield from _walk(item, f"{name}.{key}" if name else str(key))


def _is_number(value: Any) -> bool:
    if isinstance(value, str):
        return value in ("nan", "inf", "-inf")  # JSON has no numbers for these
    if isinstance(value, int) and abs(value) > sys.float_info.max:
        return False
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _series(values: Sequence[float]) -> str:
    text = f"{len(values)} values: first {number(values[0])}, last {number(values[-1])}"
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        return text
    text += f", between {number(min(finite))} and {number(max(finite))}"
    odd = len(values) - len(finite)
    return f"{text}, {odd} not finite" if odd else text


def number(value: Any) -> str:
    """A value in words: a number by seven digits, a long list or text by its beginning."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "none"}[value]
    if isinstance(value, float):
        return f"{value:.7g}"
    if isinstance(value, (list, tuple)):
        words = ", ".join(number(item) for item in value[:_INLINE])
        more = len(value) - _INLINE
        return f"[{words}, … {more} more]" if more > 0 else f"[{words}]"
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {number(item)}" for key, item in value.items())
    text = str(value)
    return text if len(text) <= 300 else f"{text[:297]}..."
