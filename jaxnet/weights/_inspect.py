"""What weights files hold, what is different between two, and one kind written as another."""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxnet._arrays import DTYPES, is_array
from jaxnet._names import few
from jaxnet._state_dict import common_prefix
from jaxnet.weights._files import load, save


def read(path: Path, key: str | None) -> dict[str, np.ndarray]:
    """The arrays of a file by dotted name, those of objects and nested dicts too.

    Args:
        path: The file, as `jaxnet.weights.load` takes it.
        key: The dotted name of the part that is meant, such as "model" or "state.ema"; None for
            the whole.

    Raises:
        ValueError: There is no such part, or it has no arrays.
        OSError: The file cannot be read.
    """
    arrays = _whole(path)
    if key is None:
        return arrays
    part = _part(arrays, key)
    if not part:
        parts = sorted({name.rpartition(".")[0] for name in arrays} - {""})
        raise ValueError(f"--key {key}: {path} has no such part; it has {few(parts) or 'none'}")
    return part


def _whole(path: Path) -> dict[str, np.ndarray]:
    arrays: dict[str, np.ndarray] = {}
    for name, array in _flat(load(path, only="tensors"), ""):
        if name in arrays:
            raise ValueError(f"{path}: it has two arrays with the dotted name {name}")
        arrays[name] = array
    if not arrays:
        raise ValueError(f"{path}: it holds no tensors")
    return arrays


def _part(arrays: Mapping[str, np.ndarray], key: str) -> dict[str, np.ndarray]:
    return {n.removeprefix(f"{key}."): a for n, a in arrays.items() if n.startswith(f"{key}.")}


def _flat(value: Any, prefix: str) -> Iterator[tuple[str, np.ndarray]]:
    if is_array(value):
        yield prefix.removesuffix(".") or "tensor", np.asarray(value)
        return
    items = value.items() if isinstance(value, Mapping) else enumerate(value or ())
    for name, part in items:
        yield from _flat(part, f"{prefix}{name}.")


def show(path: Path, key: str | None = None) -> tuple[Any, list[str]]:
    """A table of a file's arrays: names, shapes, dtypes and what their numbers are.

    Returns:
        A table of rich, and lines about all of them.
    """
    from rich.table import Table
    from rich.text import Text

    arrays = read(path, key)
    table = Table(box=None, pad_edge=False)
    for title in ("name", "shape", "dtype"):
        table.add_column(title, overflow="fold")
    for title in ("mean", "std", "least", "greatest"):
        table.add_column(title, justify="right")
    for name, array in arrays.items():
        shape = " x ".join(map(str, array.shape)) or "-"
        table.add_row(Text(name), shape, array.dtype.name, *_numbers(array))
    total, size = sum(a.size for a in arrays.values()), sum(a.nbytes for a in arrays.values())
    words = [f"{len(arrays)} arrays, {total:,} numbers, {size / 1e6:,.1f} MB"]
    if shared := _shared(arrays):
        words.append("the same memory: " + "; ".join(" = ".join(names) for names in shared))
    if prefix := common_prefix(arrays):
        words.append(f"all names begin with {prefix!r}: --strip {prefix} takes it away")
    return table, words


def _numbers(array: np.ndarray) -> list[str]:
    """Mean, standard deviation, least and greatest of an array; what is not finite is counted."""
    if not array.size:
        return ["-"] * 4
    wide = array if array.dtype.kind in "biuc" else array.astype(np.float64)
    finite = wide[np.isfinite(wide)] if array.dtype.kind in "fV" else wide.reshape(-1)
    if not finite.size:
        return ["-", "-", "nan or inf", "nan or inf"]
    if array.dtype.kind == "c":
        return [f"{finite.mean():.4g}", f"{finite.std():.4g}", "-", f"|{abs(finite).max():.4g}|"]
    lost = f" ({wide.size - finite.size} nan or inf)" if finite.size < wide.size else ""
    return [
        f"{finite.mean():.4g}",
        f"{finite.std():.4g}",
        f"{finite.min():.4g}",
        f"{finite.max():.4g}{lost}",
    ]


def _shared(arrays: Mapping[str, np.ndarray]) -> list[list[str]]:
    """The names of arrays that are one array in the file, as tied weights are."""
    by_place: dict[tuple[Any, ...], list[str]] = {}
    for name, array in arrays.items():
        if array.size:
            place = (array.__array_interface__["data"][0], array.shape, array.strides)
            by_place.setdefault(place, []).append(name)
    return [names for names in by_place.values() if len(names) > 1]


def convert(
    source: Path, target: Path, key: str | None, strip: str, dtype: str | None
) -> dict[str, np.ndarray]:
    """Writes the arrays of a file into another, whose suffix decides its format.

    Args:
        source: The file that is read.
        target: The file that is written.
        key: The dotted name of the part that is meant; None for the whole.
        strip: The beginning that is taken away from all names.
        dtype: The dtype of all numbers with a decimal point; None leaves them.

    Raises:
        ValueError: A name does not begin with `strip`, or a number does not fit the dtype.
    """
    arrays = read(source, key)
    if strip:
        arrays.pop("n_averaged", None)  # of an averaged model, which puts it beside the prefix
        others = [name for name in arrays if not name.startswith(strip)]
        if others:
            raise ValueError(f"--strip {strip}: not all names begin with it: {few(others)}")
        arrays = {name.removeprefix(strip): array for name, array in arrays.items()}
    if dtype is not None:
        arrays = {name: _as(array, dtype, name) for name, array in arrays.items()}
    save(target, arrays)
    return arrays


def _as(array: np.ndarray, dtype: str, name: str) -> np.ndarray:
    if array.dtype.kind not in "fV":
        return array
    with np.errstate(over="ignore"):
        changed = array.astype(DTYPES[dtype])
    lost = np.isfinite(array.astype(np.float64)) & ~np.isfinite(changed.astype(np.float64))
    if lost.any():
        raise ValueError(f"--dtype {dtype}: {int(lost.sum())} numbers of {name} are too large")
    return changed


def diff(first: Path, second: Path, key: str | None = None) -> tuple[list[str], bool]:
    """What is different between the arrays of two files.

    Names are compared as they are, and where none is in both, without what torch puts before
    them ("module.", "_orig_mod."). -0 equals 0 and nan nan. The part `key` is that of the files
    which have it.

    Returns:
        Lines, and whether both hold the same.
    """
    a, b = _whole(first), _whole(second)
    if key is not None:
        parts = _part(a, key), _part(b, key)
        if not any(parts):
            raise ValueError(f"--key {key}: neither {first} nor {second} has such a part")
        a, b = parts[0] or a, parts[1] or b
    lines: list[str] = []
    if a.keys().isdisjoint(b):
        a, b = (_without_prefix(each, path, lines) for each, path in ((a, first), (b, second)))
    notes, same = len(lines), 0
    for name in [*a, *(name for name in b if name not in a)]:
        if name not in b or name not in a:
            lines.append(f"{name}: only in {first if name in a else second}")
        elif what := _difference(a[name], b[name]):
            lines.append(f"{name}: {what}")
        else:
            same += 1
    equal = len(lines) == notes
    lines.append(f"{'SAME' if equal else 'DIFFERENT'}  {same} of {len(a.keys() | b)} arrays same")
    return lines, equal


def _without_prefix(
    arrays: dict[str, np.ndarray], path: Path, lines: list[str]
) -> dict[str, np.ndarray]:
    if prefix := common_prefix(arrays):
        lines.append(f"compared without {prefix!r}, with which all names of {path} begin")
    return {name.removeprefix(prefix): array for name, array in arrays.items()}


def _difference(a: np.ndarray, b: np.ndarray) -> str:
    """What is different between two arrays; "" for nothing."""
    if a.shape != b.shape:
        return f"shape {a.shape} and {b.shape}"
    wide = np.complex128 if "c" in a.dtype.kind + b.dtype.kind else np.float64
    exact = a.dtype.kind in "iub" and b.dtype.kind in "iub"
    x, y = (a, b) if exact else (a.astype(wide), b.astype(wide))
    unlike = (x != y) & ~((x != x) & (y != y))
    count = int(np.count_nonzero(unlike))
    if not count and a.dtype == b.dtype:
        return ""
    if not count:
        return f"dtype {a.dtype.name} and {b.dtype.name}, equal numbers"
    with np.errstate(all="ignore"):
        apart = np.abs(np.subtract(x, y, dtype=wide))[unlike]
    scale = float(np.max(np.abs(x[np.isfinite(x)]), initial=0.0))
    most = float(np.max(apart)) if np.isfinite(apart).all() else math.inf
    dtypes = "" if a.dtype == b.dtype else f" ({a.dtype.name} and {b.dtype.name})"
    part = f", {most / scale:.1e} of the largest" if scale and math.isfinite(most) else ""
    return f"{count} of {a.size} numbers differ, at most by {most:.3g}{part}{dtypes}"
