"""The batches of both programs, compared before anything runs, and in what they differ."""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from jaxnet.parity._judgement import unlike
from jaxnet.parity._result import Finding, SiteResult
from jaxnet.parity._trace import Step, Trace
from jaxnet.parity._tree import leaves

# What numbers that were computed in another order may be apart, relative to the largest.
_CLOSE = 1e-5


def batch_findings(trace: Trace, batches: Iterable[Any]) -> list[Finding]:
    """The differences of the recorded batches and those of the program's own loader.

    Args:
        trace: The trace.
        batches: The program's batches in order, at least as many as were recorded.

    Returns:
        One finding for each array of a batch that differs, with its cause where it is seen in the
        numbers. The check goes on with torch's batches.
    """
    own = iter(batches)
    found: dict[str, Finding] = {}
    rows = _Rows(trace)
    for step in trace.steps:
        for number in range(len(step.batches)):
            given = list(itertools.islice(own, 1))
            if not given:
                message = (
                    f"there are no more batches; torch's program takes one in step {step.index}"
                )
                found.setdefault("", _finding(step, f"batch:{number}", message, "as many batches"))
                return list(found.values())
            theirs = [*leaves(step.batch(number))]
            ours = [*leaves(given[0])]
            if [path for path, _ in theirs] != [path for path, _ in ours]:
                message = (
                    f"the batch has the parts {', '.join(p or 'one array' for p, _ in ours)}; "
                    f"torch's {', '.join(p or 'one array' for p, _ in theirs)}"
                )
                found.setdefault("", _finding(step, f"batch:{number}", message, "torch's parts"))
                continue
            for (path, torch), (_, jax) in zip(theirs, ours, strict=True):
                if path in found or not hasattr(torch, "dtype"):
                    continue
                said = difference(np.asarray(torch), np.asarray(jax), rows)
                if said is not None:
                    name = path and f" {path}"
                    message, fix = said
                    found[path] = _finding(
                        step, f"batch:{number}{path and '.' + path}", f"batch{name}: {message}", fix
                    )
        step.forget()
    return list(found.values())


def _finding(step: Step, site: str, message: str, fix: str) -> Finding:
    result = SiteResult(step.index, site, "preflight", unlike(message), site.partition(":")[2])
    return Finding(
        site, step.index, "preflight", "preflight", message, fix=fix, results=[result],
        origin="batch",
    )  # fmt: skip


class _Rows:
    """In which recorded batch each row is."""

    def __init__(self, trace: Trace) -> None:
        self._known: dict[bytes, int] = {}
        for step in trace.steps:
            for number in range(len(step.batches)):
                for _, array in leaves(step.batch(number)):
                    if getattr(array, "ndim", 0) > 1:
                        for row in array:
                            self._known.setdefault(row.tobytes(), step.index)
            step.forget()

    def steps(self, array: np.ndarray, dtype: Any) -> set[int]:
        """The steps in which all rows of an array are found; empty if one is not."""
        found = {self._known.get(row.astype(dtype).tobytes(), -1) for row in array}
        return set() if -1 in found else found


def difference(torch: np.ndarray, jax: np.ndarray, rows: Any = None) -> tuple[str, str] | None:
    """What two arrays of a batch differ in, and what to do; None if they are the same.

    Args:
        torch: The recorded array.
        jax: The program's own.
        rows: `_Rows` of the trace, to know rows again.
    """
    kinds = [_kind(torch), _kind(jax)]
    if torch.shape == jax.shape and kinds[0] == kinds[1] and _close(torch, jax):
        narrow = torch.dtype.kind == "f" and jax.dtype.itemsize < 4 <= torch.dtype.itemsize
        if narrow:
            return f"its dtype is {jax.dtype}; torch's is {torch.dtype}", f"dtype {torch.dtype}"
        return None
    if kinds[0] == kinds[1] == "integer" and (said := _classes(torch, jax)):
        return said
    if (said := _one_hot(torch, jax)) is not None:
        return said
    alike = torch.ndim == jax.ndim > 0 and torch.shape[1:] == jax.shape[1:]
    if alike and len(torch) != len(jax):
        return (
            f"it has {len(jax)} rows; torch's has {len(torch)}",
            f"batches of {len(torch)}, and torch's drop_last",
        )
    for axes, words in _layouts(torch.ndim):
        moved = np.transpose(torch, axes)
        if moved.shape == jax.shape and axes != tuple(range(torch.ndim)):
            if _close(moved, jax):
                return (
                    f"its axes are in another order: {words}",
                    f"torch's layout, {torch.shape}",
                )
            if (scaled := _affine(moved, jax, jax.ndim - 1)) is not None:
                message = f"its axes are in another order, {words}, and {scaled}"
                return message, f"torch's layout, {torch.shape}, and its normalisation"
    if torch.shape != jax.shape:
        flat = torch.size == jax.size and _close(torch.ravel(), jax.ravel())
        more = ", with the same numbers in the same order" if flat else ""
        return f"its shape is {jax.shape}; torch's is {torch.shape}{more}", f"shape {torch.shape}"
    if torch.ndim and _same_rows(torch, jax):
        return (
            "it has torch's rows in another order",
            "torch's order: jaxnet.random.Generator(seed) shuffles as torch does",
        )
    if rows is not None and torch.ndim > 1 and (steps := rows.steps(jax, torch.dtype)):
        named = ", ".join(map(str, sorted(steps)))
        return (
            f"its rows are those that torch takes in step {named}: the data set is shuffled "
            "in another order",
            "torch's order: jaxnet.random.Generator(seed) shuffles as torch does",
        )
    if torch.ndim > 1 and torch.shape[1] > 1 and _close(torch[:, ::-1], jax):
        return "its channels are in the opposite order (BGR for RGB)", "torch's order of channels"
    if (scaled := _affine(torch, jax, 1)) is not None:
        return scaled, "torch's range and normalisation"
    if kinds[0] != kinds[1]:
        return f"its dtype is {jax.dtype}; torch's is {torch.dtype}", f"dtype {torch.dtype}"
    return (
        f"its numbers are others: {_range(jax)}; torch's {_range(torch)}",
        "torch's data in torch's order, or the same augmentation",
    )


def _kind(array: np.ndarray) -> str:
    if array.dtype.kind in "iub":
        return "integer"
    return "floating"


def _close(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether numbers are the same but for rounding, of the largest of their column."""
    if _kind(a) == _kind(b) == "integer":
        return np.array_equal(a, b)
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    finite = np.isfinite(a) & np.isfinite(b)
    if not np.array_equal(a[~finite], b[~finite], equal_nan=True):
        return False
    a, b = np.where(finite, a, 0.0), np.where(finite, b, 0.0)
    scale = np.max(np.abs(a), axis=tuple(range(a.ndim - 1)) or None, initial=0.0)
    return bool(np.all(np.abs(a - b) <= _CLOSE * scale))


def _classes(torch: np.ndarray, jax: np.ndarray) -> tuple[str, str] | None:
    """Whether integers are those of torch under other numbers."""
    if torch.shape != jax.shape or not torch.size:
        return None
    shift = np.unique(jax.astype(np.int64) - torch.astype(np.int64))
    if len(shift) == 1:
        words = f"its numbers are torch's {'+' if shift[0] > 0 else '-'} {abs(int(shift[0]))}"
        return words, "numbers as torch's program has them"
    pairs = set(zip(torch.ravel().tolist(), jax.ravel().tolist(), strict=True))
    firsts, seconds = ({pair[i] for pair in pairs} for i in (0, 1))
    if len(pairs) == len(firsts) == len(seconds) < torch.size:
        some = ", ".join(f"{b} for torch's {a}" for a, b in sorted(pairs)[:4] if a != b)
        return f"its classes are numbered in another order: {some}", "torch's order of the classes"
    return None


def _one_hot(torch: np.ndarray, jax: np.ndarray) -> tuple[str, str] | None:
    for one, other, words, fix in (
        (torch, jax, "it has one-hot vectors; torch's has numbers of classes", "argmax"),
        (jax, torch, "it has numbers of classes; torch's has one-hot vectors", "one_hot"),
    ):
        whole = one.ndim + 1 == other.ndim and other.shape[:-1] == one.shape
        if not whole or _kind(one) != "integer" or not np.array_equal(other.argmax(-1), one):
            continue
        if np.array_equal(other.sum(-1), np.ones(one.shape)):
            return words, fix
    return None


def _layouts(ndim: int) -> Iterator[tuple[tuple[int, ...], str]]:
    """Axes, by which torch's array becomes one of a usual other layout, and the layout's name."""
    letters = {3: "NCL", 4: "NCHW", 5: "NCDHW"}.get(ndim)
    if letters is None:
        yield from [((1, 0), "transposed")] if ndim == 2 else []
        return
    named = ["N" + letters[2:] + "C", "N" + letters[1] + letters[2:][::-1], letters[::-1]]
    for each in dict.fromkeys([*named, letters[1] + letters[0] + letters[2:]]):
        yield tuple(letters.index(letter) for letter in each), f"{each} for {letters}"


def _affine(torch: np.ndarray, jax: np.ndarray, axis: int) -> str | None:
    """Whether an array is torch's times a factor plus a number, of each channel or of all."""
    if _kind(torch) == "integer" and _kind(jax) == "integer":
        return None
    a, b = torch.astype(np.float64), jax.astype(np.float64)
    if not a.size or not np.all(np.isfinite(a)) or not np.all(np.isfinite(b)):
        return None

    def fitted(x: np.ndarray, y: np.ndarray) -> tuple[float, float] | None:
        spread = float(np.var(x))
        if not spread:
            return None
        slope = float(np.mean((x - x.mean()) * (y - y.mean())) / spread)
        start = float(y.mean() - slope * x.mean())
        return (slope, start) if slope and _close(y, slope * x + start) else None

    if (whole := fitted(a, b)) is not None:
        slope, start = whole
        small = abs(start) <= _CLOSE * float(np.max(np.abs(b), initial=0.0))
        more = "" if small else f" {'+' if start > 0 else '-'} {abs(start):.6g}"
        return f"it is torch's times {slope:.6g}{more} ({_range(jax)}; torch's {_range(torch)})"
    if a.ndim < 2 or axis >= a.ndim or a.shape[axis] > 64:
        return None
    parts = [fitted(x, y) for x, y in zip(_along(a, axis), _along(b, axis), strict=True)]
    if any(part is None for part in parts):
        return None
    known = [part for part in parts if part is not None][:4]
    factors = ", ".join(f"{slope:.4g} x {start:+.4g}" for slope, start in known)
    return f"each channel is torch's x normalised in another way: {factors}"


def _along(array: np.ndarray, axis: int) -> np.ndarray:
    return np.moveaxis(array, axis, 0)


def _same_rows(torch: np.ndarray, jax: np.ndarray) -> bool:
    def rows(array: np.ndarray) -> Sequence[bytes]:
        return sorted(row.tobytes() for row in array.astype(torch.dtype))

    return rows(torch) == rows(jax)


def _range(array: np.ndarray) -> str:
    if not array.size:
        return "none"
    return f"from {array.min():.4g} to {array.max():.4g}"
