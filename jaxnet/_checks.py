"""The checks of arguments that many functions share: whole numbers, flags, and words.

Each raises a ValueError of the form "name: what was given; accepted is what" and returns
nothing. The name begins with the function's own where that is not clear from the call:
"LBFGS: max_iter". A check that only one function needs is defined beside that function.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np


def is_integer(value: Any) -> bool:
    """Whether a value is a whole number of Python or numpy; True and False do not count."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    """Whether a value is a real number of Python or numpy; True and False do not count."""
    return is_integer(value) or isinstance(value, float | np.floating)


def check_integer(name: str, value: Any, least: int | None = None, most: int | None = None) -> None:
    """Refuses a value that is not a whole number, or lies outside the bounds.

    Args:
        name: The argument's name, for the error.
        value: The value that was given.
        least: The smallest value that is accepted; None for no bound.
        most: The largest value that is accepted; None for no bound.

    >>> check_integer("batch_size", 0, least=1)
    Traceback (most recent call last):
    ...
    ValueError: batch_size: 0; accepted is an integer, at least 1
    """
    above = is_integer(value) and (least is None or value >= least)
    if above and (most is None or value <= most):
        return
    bounds = "" if least is None else f", at least {least}"
    if most is not None:
        bounds = f", at most {most}" if least is None else f" from {least} to {most}"
    raise ValueError(f"{name}: {value!r}; accepted is an integer{bounds}")


def check_choice(name: str, value: Any, choices: Iterable[Any], also: str = "") -> None:
    """Refuses a value that is not one of the accepted ones.

    Args:
        name: The argument's name, for the error.
        value: The value that was given.
        choices: The values that are accepted.
        also: A further kind of accepted value in words, for the error; the caller has
            checked it before.

    >>> check_choice("mode", "max", ("fan_in", "fan_out"))
    Traceback (most recent call last):
    ...
    ValueError: mode: 'max'; accepted are 'fan_in' and 'fan_out'
    """
    known = list(choices)
    # An array is never compared: `==` would give an array, whose truth is ambiguous.
    plain = isinstance(value, str | int | float)
    if any(value is choice or (plain and value == choice) for choice in known):
        return
    words = [*map(repr, known), *([also] if also else [])]
    listed = " and ".join(filter(None, [", ".join(words[:-1]), words[-1]]))
    raise ValueError(f"{name}: {value!r}; accepted {'are' if len(words) > 1 else 'is'} {listed}")


def better(monitor: str, mode: str | None) -> str:
    """Which way a metric gets better: "min" or "max".

    Args:
        monitor: The name of the metric, with or without "val_" before.
        mode: What was given: "min", "max", or None to go by the name.

    Raises:
        ValueError: The mode is another word, or None for a name that does not tell.

    >>> better("val_accuracy", None), better("val_loss", None)
    ('max', 'min')
    """
    if mode is not None:
        check_choice("mode", mode, ("min", "max"))
        return mode
    words = set(monitor.lower().replace("-", "_").split("_"))
    found = {way for way, names in _BETTER.items() if words & names}
    if len(found) != 1:
        raise ValueError(
            f"mode: None does not tell which way {monitor!r} gets better; give mode='max' or 'min'"
        )
    return found.pop()


_BETTER = {
    "min": frozenset(("loss", "error", "mae", "mse", "rmse")),
    "max": frozenset(("accuracy", "acc", "f1", "precision", "recall", "auc", "r2", "iou", "dice")),
}


def check_flag(name: str, value: Any) -> None:
    """Refuses a value that is neither True nor False.

    Args:
        name: The argument's name, for the error.
        value: The value that was given.

    >>> check_flag("drop_last", "yes")
    Traceback (most recent call last):
    ...
    ValueError: drop_last: 'yes'; accepted are True and False
    """
    if not isinstance(value, bool | np.bool_):
        raise ValueError(f"{name}: {value!r}; accepted are True and False")
