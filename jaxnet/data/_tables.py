"""Tables of numbers in CSV files, their classes and their statistics."""

import csv
import dataclasses
import io
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from jaxnet.data._text import read_text


@dataclasses.dataclass(frozen=True)
class Table:
    """Numbers in named columns.

    Attributes:
        columns: the names.
        values: (rows, columns).
        source: the file that they come from, for errors.
        lines: of that file, where each row begins; empty if there is no file.
    """

    columns: tuple[str, ...]
    values: np.ndarray
    source: str = ""
    lines: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.values)

    def index(self, column: str) -> int:
        """The position of a column.

        Raises:
            ValueError: there is none of that name.
        """
        if column not in self.columns:
            raise ValueError(
                f"{self.source or 'column'}: no column {column!r}; there are "
                f"{', '.join(self.columns)}"
            )
        return self.columns.index(column)

    def column(self, name: str) -> np.ndarray:
        """The numbers of one column, (rows,)."""
        return self.values[:, self.index(name)]

    def split(self, target: str) -> tuple["Table", np.ndarray]:
        """All columns but one, and that one: what a net is given and what it is to say."""
        at = self.index(target)
        rest = self.columns[:at] + self.columns[at + 1 :]
        others = np.delete(self.values, at, axis=1)
        return Table(rest, others, self.source, self.lines), self.values[:, at]


def read_table(
    path: str | os.PathLike[str],
    *,
    delimiter: str = ",",
    columns: Sequence[str] | None = None,
    converters: Mapping[str, Callable[[str], float]] | None = None,
    dtype: DTypeLike = np.float32,
    encoding: str = "utf-8",
) -> Table:
    """Reads a CSV file whose first line names the columns.

    Args:
        path: of the file.
        delimiter: between the cells.
        columns: names of the columns to keep, in this order; all of them if None.
        converters: functions from text to number for columns that hold no plain
            numbers, such as dates.
        dtype: of the values. Floats are rounded to it; a number that is another one
            as an integer is refused.
        encoding: of the file.

    Returns:
        The table. Empty lines are passed over.

    Raises:
        ValueError: a column that is asked for is missing, a row has more or fewer
            cells than there are names, a quote is not closed, a cell is no finite
            number or none of `dtype`, or the bytes are not text; file, line and column
            are named.
        FileNotFoundError: the file is not there.
    """
    path = Path(path)
    # An editor's mark at the very start is no part of the first name.
    text = read_text(path, encoding).removeprefix("\ufeff")
    rows = csv.reader(io.StringIO(text), delimiter=delimiter, strict=True)
    line = 1  # where a row begins: a quoted cell may go over several
    names: list[str] | None = None
    values: list[list[float]] = []
    lines: list[int] = []
    converters = converters or {}
    kept: list[tuple[int, str, Callable[[str], float]]] = []
    try:
        for row in rows:
            if row and names is None:
                names = [name.strip() for name in row]
                kept = _kept(f"{path}, line {line}", names, columns, converters, delimiter)
            elif row and names is not None:
                if len(row) != len(names):
                    raise ValueError(
                        f"{path}, line {line}: {len(row)} cells, but the first line names "
                        f"{len(names)} columns (delimiter {delimiter!r})"
                    )
                values.append([_number(path, line, name, row[at], read) for at, name, read in kept])
                lines.append(line)
            line = rows.line_num + 1
    except csv.Error as error:
        raise ValueError(
            f"{path}, in the row that begins at line {line}: {error}; look for a quote too many or "
            "too few"
        ) from error
    if not values:
        raise ValueError(f"{path}: it holds no rows{'' if names else ' and no names'}")
    exact = np.array(values, np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        array = exact.astype(dtype)
    wrong = ~np.isfinite(array)
    if array.dtype.kind in "iub":
        # From 2^53 on the number may have changed already, as it was read.
        wrong = (array != exact) | (np.abs(exact) >= 2**53)
    if wrong.any():
        row_at, column_at = (int(i) for i in np.argwhere(wrong)[0])
        raise ValueError(
            f"{path}, line {lines[row_at]}, column {kept[column_at][1]!r}: "
            f"{values[row_at][column_at]:.17g} is no number of {array.dtype}; read it with another "
            "dtype"
        )
    return Table(tuple(name for _, name, _ in kept), array, str(path), tuple(lines))


def _kept(
    place: str,
    names: list[str],
    columns: Sequence[str] | None,
    converters: Mapping[str, Callable[[str], float]],
    delimiter: str,
) -> list[tuple[int, str, Callable[[str], float]]]:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"{place}: the column {twice[0]!r} is there twice")
    if isinstance(columns, str):
        raise ValueError(f"columns: {columns!r}, a text; give a list of names")
    wanted = list(names if columns is None else columns)
    for name in [*wanted, *converters]:
        if name not in names:
            raise ValueError(
                f"{place}: no column {name!r}; with the delimiter {delimiter!r} there are "
                f"{', '.join(map(repr, names[:40]))}"
            )
    return [(names.index(name), name, converters.get(name, _plain)) for name in wanted]


def _plain(cell: str) -> float:
    if "_" in cell:  # Python reads 1_000 as a number; a table means something else by it
        raise ValueError("not a number")
    return float(cell)


def _number(path: Path, line: int, name: str, cell: str, read: Callable[[str], float]) -> float:
    try:
        value = float(read(cell))
    except Exception as error:  # a converter may raise anything
        shown = "an empty cell" if not cell.strip() else f"{cell[:40]!r} is no number"
        raise ValueError(f"{path}, line {line}, column {name!r}: {shown}") from error
    if not np.isfinite(value):
        raise ValueError(f"{path}, line {line}, column {name!r}: {cell!r} is not finite")
    return value


def one_hot(labels: ArrayLike, num_classes: int, dtype: DTypeLike = np.float32) -> np.ndarray:
    """A 1 at the place of each label, 0 elsewhere: `zeros.scatter_(1, labels[:, None], 1)`.

    Args:
        labels: whole numbers from 0 to num_classes - 1, of any shape.
        num_classes: length of the new last axis.
        dtype: of the result.

    >>> one_hot([2, 0], 3)
    array([[0., 0., 1.],
           [1., 0., 0.]], dtype=float32)
    """
    given = np.asarray(labels)
    places = given.astype(np.int64)
    if (places != given).any():
        odd = given[places != given].ravel()[0]
        raise ValueError(f"labels: {odd} is no whole number")
    wrong = (places < 0) | (places >= num_classes)
    if wrong.any():
        raise ValueError(
            f"labels: {places[wrong].ravel()[0]}; with {num_classes} classes accepted is 0 to "
            f"{num_classes - 1}"
        )
    return (places[..., None] == np.arange(num_classes)).astype(dtype)


@dataclasses.dataclass(frozen=True)
class Statistics:
    """Mean and standard deviation of each column; keep those of the training rows."""

    mean: np.ndarray
    std: np.ndarray

    @classmethod
    def of(cls, values: np.ndarray) -> "Statistics":
        """Of the rows of (rows, columns); the deviation has n - 1 below, as torch's.

        Both are of the values' dtype, float64 for integers.
        """
        if len(values) < 2:
            raise ValueError(f"values: {len(values)} rows; a deviation needs at least 2")
        kind = _float_kind(values)
        exact = np.asarray(values, np.float64)
        # Rounding leaves a constant column a deviation of some 1e-17.
        std = np.where(exact.max(axis=0) == exact.min(axis=0), 0, exact.std(axis=0, ddof=1))
        return cls(exact.mean(axis=0).astype(kind), std.astype(kind))

    def apply(self, values: np.ndarray) -> np.ndarray:
        """(values - mean) / std, of (rows, columns)."""
        if values.shape[1:] != self.mean.shape:
            raise ValueError(
                f"values: shape {values.shape}; accepted is (rows, {len(self.mean)}), as measured"
            )
        if (self.std == 0).any():
            at = int(np.argmax(self.std == 0))
            raise ValueError(f"values: column {at} is constant; leave it out, it says nothing")
        return (values - self.mean[None]) / self.std[None]


def standardize(values: np.ndarray) -> np.ndarray:
    """Each column to mean 0 and variance 1: `(x - x.mean(0)) / x.var(0).sqrt()` in torch.

    For data that is split, take `Statistics.of(training)` and apply it to all parts.
    """
    return Statistics.of(values).apply(values)


def _float_kind(values: np.ndarray) -> np.dtype:
    """The values' own dtype if it is a float, float64 for whole numbers."""
    return np.dtype(np.float64) if values.dtype.kind in "iub" else values.dtype
