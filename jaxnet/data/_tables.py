"""Tables of numbers in CSV files, one-hot vectors, and the statistics of columns."""

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
    """A table of numbers with named columns.

    Attributes:
        columns: The names of the columns.
        values: The numbers, (rows, columns).
        source: The path of the file, for errors; empty if there is none.
        lines: The number of the line in the file at which each row begins; empty if there is
            no file.
    """

    columns: tuple[str, ...]
    values: np.ndarray
    source: str = ""
    lines: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.values)

    def index(self, column: str) -> int:
        """The position of a column.

        Args:
            column: The name of the column.

        Raises:
            ValueError: There is no column of this name.
        """
        if column not in self.columns:
            raise ValueError(
                f"{self.source or 'column'}: no column {column!r}; there are "
                f"{', '.join(self.columns)}"
            )
        return self.columns.index(column)

    def column(self, name: str) -> np.ndarray:
        """The numbers of the column with this name, (rows,)."""
        return self.values[:, self.index(name)]

    def split(self, target: str) -> tuple["Table", np.ndarray]:
        """Separates the input of a model from the target.

        Args:
            target: The name of the column with the target.

        Returns:
            A table of all other columns, and the numbers of the target, (rows,).

        Raises:
            ValueError: There is no column of this name.
        """
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
        path: The path of the CSV file.
        delimiter: The character between the cells.
        columns: The names of the columns in the result, in this order. None is all columns.
        converters: The functions from text to number, by column name, for columns such as
            dates that do not consist of plain numbers.
        dtype: The dtype of the values. Numbers are rounded to a floating dtype. For an
            integer dtype they have to be whole.
        encoding: The encoding of the file.

    Returns:
        The table. Empty lines are ignored.

    Raises:
        ValueError: A column is missing, a row has more or fewer cells than there are names,
            a quote is not closed, a cell is no finite number or does not fit `dtype`, or
            the bytes are not text. The error names the file, line and column.
        FileNotFoundError: The file does not exist.
    """
    path = Path(path)
    # A byte order mark at the start is no part of the first column's name.
    text = read_text(path, encoding).removeprefix("\ufeff")
    rows = csv.reader(io.StringIO(text), delimiter=delimiter, strict=True)
    line = 1  # The line at which a row begins; a quoted cell may go over several lines.
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
    # The conversion to dtype is done on the whole array and checked after it.
    exact = np.array(values, np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        array = exact.astype(dtype)
    wrong = ~np.isfinite(array)
    if array.dtype.kind in "iub":
        # From 2^53 on float64 does not have all integers: reading the cell may have changed it.
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
    """The position, name and converter of each column in the result, after a check."""
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
    """The number in a cell."""
    if "_" in cell:  # Python accepts 1_000 as a number; in a table it is none.
        raise ValueError("not a number")
    return float(cell)


def _number(path: Path, line: int, name: str, cell: str, read: Callable[[str], float]) -> float:
    """The finite number in a cell; an error names the file, line and column."""
    try:
        value = float(read(cell))
    except Exception as error:  # A converter of the user may raise any error.
        shown = "an empty cell" if not cell.strip() else f"{cell[:40]!r} is no number"
        raise ValueError(f"{path}, line {line}, column {name!r}: {shown}") from error
    if not np.isfinite(value):
        raise ValueError(f"{path}, line {line}, column {name!r}: {cell!r} is not finite")
    return value


def one_hot(labels: ArrayLike, num_classes: int, dtype: DTypeLike = np.float32) -> np.ndarray:
    """One-hot vectors of labels: torch.nn.functional.one_hot, with a choice of dtype.

    Args:
        labels: The labels, whole numbers from 0 to num_classes - 1, of any shape.
        num_classes: The number of classes, the length of the new last axis.
        dtype: The dtype of the result, where torch always has int64.

    Returns:
        An array (..., num_classes) with 1 at the position of each label and 0 elsewhere.

    Raises:
        ValueError: A label is out of range or no whole number.

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
    """The mean and standard deviation of each column.

    Those of the training rows are applied to the validation and test rows too.

    Attributes:
        mean: The means, (columns,).
        std: The standard deviations, (columns,).
    """

    mean: np.ndarray
    std: np.ndarray

    @classmethod
    def of(cls, values: np.ndarray) -> "Statistics":
        """The statistics of rows.

        Args:
            values: The numbers, (rows, columns), with at least two rows.

        Returns:
            The statistics in the dtype of the values (float64 for integers). As in torch,
            the standard deviation divides by n - 1.

        Raises:
            ValueError: There are fewer than two rows.
        """
        if len(values) < 2:
            raise ValueError(f"values: {len(values)} rows; a deviation needs at least 2")
        kind = _float_kind(values)
        exact = np.asarray(values, np.float64)
        # By comparison, because rounding can give a constant column a deviation of about 1e-17.
        std = np.where(exact.max(axis=0) == exact.min(axis=0), 0, exact.std(axis=0, ddof=1))
        return cls(exact.mean(axis=0).astype(kind), std.astype(kind))

    def apply(self, values: np.ndarray) -> np.ndarray:
        """Standardizes rows.

        Args:
            values: The numbers, (rows, columns).

        Returns:
            The numbers (values - mean) / std.

        Raises:
            ValueError: The number of columns differs, or a column is constant.
        """
        self._check(values)
        if (self.std == 0).any():
            at = int(np.argmax(self.std == 0))
            raise ValueError(f"values: column {at} is constant; leave it out, it says nothing")
        return (values - self.mean[None]) / self.std[None]

    def invert(self, values: np.ndarray) -> np.ndarray:
        """Undoes `apply`, such as for the predictions of a model with standardized labels.

        Args:
            values: The standardized numbers, (rows, columns).

        Returns:
            The numbers values * std + mean, which differ from those that were standardized by
            the rounding of their dtype.

        Raises:
            ValueError: The number of columns differs.

        >>> labels = np.array([[5.0], [6.0], [7.0]])
        >>> known = Statistics.of(labels)
        >>> known.invert(known.apply(labels)).tolist()
        [[5.0], [6.0], [7.0]]
        """
        self._check(values)
        return values * self.std[None] + self.mean[None]

    def _check(self, values: np.ndarray) -> None:
        if values.shape[1:] != self.mean.shape:
            raise ValueError(
                f"values: shape {values.shape}; accepted is (rows, {len(self.mean)}), as measured"
            )


def standardize(values: np.ndarray) -> np.ndarray:
    """Scales each column to mean 0 and variance 1.

    In torch it is `(x - x.mean(0)) / x.var(0).sqrt()`. For data that are split,
    `Statistics.of(training)` is applied to all parts instead.

    Args:
        values: The numbers, (rows, columns), with at least two rows.

    Returns:
        The scaled numbers.

    Raises:
        ValueError: There are fewer than two rows, or a column is constant.
    """
    return Statistics.of(values).apply(values)


def _float_kind(values: np.ndarray) -> np.dtype:
    """The dtype of the values if it is floating, else float64."""
    return np.dtype(np.float64) if values.dtype.kind in "iub" else values.dtype
