"""Which of the rows of a test run by default, and which with --slow."""

from collections.abc import Iterable
from typing import Any

import pytest


def slow_among(rows: Iterable[Any], slow: Iterable[Any]) -> list[Any]:
    """The rows for `parametrize`: those in `slow` run with --slow, the others always."""
    rows, slow = list(rows), list(slow)
    unknown = [row for row in slow if row not in rows]
    assert not unknown, f"no rows: {unknown}"
    return [pytest.param(row, marks=pytest.mark.slow) if row in slow else row for row in rows]
