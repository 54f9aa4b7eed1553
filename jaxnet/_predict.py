"""`jaxnet predict`: the outputs of an exported model for images and tables."""

import argparse
import csv
import io
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from jaxnet._model_file import ModelFile, ModelFileError, rows_in_words
from jaxnet._predict_inputs import TABLES, Images, InputError, Tables

_SHOWN = 20  # rows on a terminal
_WIDE = 8  # columns
_PATIENCE = 2.0  # seconds before there is a bar


class PredictError(Exception):
    """What is wrong with the command, and what to write instead."""


def run(options: argparse.Namespace) -> int:
    """Runs the command.

    Raises:
        PredictError: What was given does not fit, or nothing was predicted.
    """
    _check_output(options)
    tables = [path for path in options.files if path.suffix.lower() in TABLES]
    if tables and len(tables) < len(options.files):
        other = next(path for path in options.files if path not in tables)
        raise PredictError(f"{tables[0]}, {other}: tables and images; give them to two commands")
    for name in ("size", "resize", "as_stored") if tables else ("columns",):
        if getattr(options, name):
            kind = "images" if tables else "tables"
            raise PredictError(f"--{name.replace('_', '-')}: it is for {kind}")
    if (options.mean is None) != (options.std is None):
        raise PredictError("--mean, --std: one without the other; give both or none")
    try:
        model = ModelFile(options.model)
        classes = _classes(options, model.outputs)
        if options.batch_size and model.rows not in (None, options.batch_size):
            raise PredictError(f"--batch-size {options.batch_size}: {model.takes()}")
        source: Images | Tables
        if tables:
            source = Tables(model, options.files, options.columns, options.mean, options.std)
        else:
            source = Images(
                model, options.files, options.size, options.resize, options.mean, options.std,
                not options.as_stored,
            )  # fmt: skip
        names, outputs = _predicted(model, source, model.rows or options.batch_size or 32)
    except (InputError, ModelFileError) as error:
        raise PredictError(str(error)) from error
    failed = list(source.failed)
    if names:
        if source.words:
            print(source.words, file=sys.stderr)
        head, lines, bad = _lines(options, model.outputs, outputs, classes)
        failed += [f"{' '.join(names[i])}: the outputs are not finite" for i in bad]
        rows = [[*name, *cells] for name, cells in zip(names, lines, strict=True)]
        _give(options, [*source.columns, *head], rows)
    for words in failed:
        print(f"error: {words}", file=sys.stderr)
    if not names:
        raise PredictError("nothing was predicted, and nothing was written")
    return int(bool(failed))


def _check_output(options: argparse.Namespace) -> None:
    if options.output in (None, "-"):
        return
    path = Path(options.output)
    if path.suffix.lower() != ".csv":
        raise PredictError(
            f"--output {path}: what is written is a .csv, such as -o predictions.csv"
        )
    for given in (options.model, options.classes, *options.files):
        if given is not None and path.exists() and given.exists() and path.samefile(given):
            raise PredictError(f"--output {path}: this file is read; name another")
    if path.is_dir():
        raise PredictError(f"--output {path}: it is a folder")
    if not path.parent.is_dir():
        raise PredictError(f"--output {path}: there is no folder {path.parent}")
    if not os.access(path.parent, os.W_OK):
        raise PredictError(f"--output {path}: nothing can be written into {path.parent}")


def _classes(options: argparse.Namespace, outputs: list[tuple[tuple[int, ...], np.dtype]]
) -> list[str] | None:  # fmt: skip
    """The names of the classes; numbers with --top alone; None where the outputs are asked for."""
    if options.classes is None and options.top is None and not options.softmax:
        return None
    shape = outputs[0][0]
    if len(outputs) > 1 or len(shape) != 1:
        raise PredictError(
            f"--classes, --top, --softmax: the model {options.model} gives "
            f"{rows_in_words(outputs)}; accepted is one output for each class, (rows, classes)"
        )
    if options.classes is None and options.top is None:
        return None
    if (options.top or 1) > shape[0]:
        raise PredictError(f"--top {options.top}: the model gives {shape[0]} classes")
    if options.classes is None:
        return list(map(str, range(shape[0])))
    from jaxnet.data import read_text

    try:
        text = read_text(options.classes, "utf-8-sig")
    except (OSError, ValueError) as error:
        what = error.strerror if isinstance(error, OSError) else None
        raise PredictError(f"--classes {options.classes}: {what or error}") from error
    names = [line.strip() for line in text.rstrip().split("\n")]
    if "" in names:
        at = names.index("") + 1
        raise PredictError(f"--classes {options.classes}, line {at}: it is empty")
    if len(names) != shape[0]:
        raise PredictError(
            f"--classes {options.classes}: it names {len(names)} classes, and the model "
            f"{options.model} gives {shape[0]}"
        )
    return names


def _predicted(
    model: ModelFile, source: Images | Tables, batch_size: int
) -> tuple[list[tuple[str, ...]], list[np.ndarray]]:
    """The names and the outputs of all rows, with a bar where it takes longer."""
    from jaxnet.train._progress import Progress

    progress, began, done = Progress(), time.monotonic(), 0
    names: list[tuple[str, ...]] = []
    parts: list[list[np.ndarray]] = []
    try:
        for rows in source.batches(batch_size):
            if rows.names:
                parts.append(model(rows.inputs))
                names += rows.names
            done += rows.given
            if time.monotonic() - began > _PATIENCE:
                progress.start(source.count, done - rows.given)
                progress.advance(rows.given, "predict", {})
    finally:
        progress.close()
    return names, [np.concatenate(arrays) for arrays in zip(*parts, strict=True)]


def _lines(
    options: argparse.Namespace,
    shapes: list[tuple[tuple[int, ...], np.dtype]],
    outputs: list[np.ndarray],
    classes: list[str] | None,
) -> tuple[list[str], Iterator[list[str]], list[int]]:
    """The names of the columns, the cells of each row, and the rows that are not finite."""
    if classes is None and not options.softmax:
        head = []
        for i, (shape, _) in enumerate(shapes):
            first = "output" if len(shapes) == 1 else f"output_{i}"
            head += ["_".join([first, *map(str, at)]) for at in np.ndindex(*shape)]
        flat = [x.reshape(len(x), -1) for x in outputs]
        return head, ([str(n) for x in flat for n in x[i]] for i in range(len(flat[0]))), []
    values = outputs[0]
    with np.errstate(invalid="ignore"):
        bad = np.flatnonzero(~np.isfinite(values).all(1))
    values, name = _probabilities(options, values)
    if classes is None:
        head = [f"{name}_{i}" for i in range(values.shape[1])]
        return head, ([str(n) for n in row] for row in values), [int(i) for i in bad]
    top = options.top or 1
    # The first of equal ones, as argmax gives it.
    order = np.argsort(-values.astype(np.float64), axis=1, kind="stable")[:, :top]
    ends = [""] if top == 1 else [f"_{i}" for i in range(1, top + 1)]
    head = [f"{word}{end}" for end in ends for word in ("class", name)]
    broken = set(bad.tolist())

    def cells(i: int) -> list[str]:
        if i in broken:
            return [""] * len(head)
        return [cell for c in order[i] for cell in (classes[c], str(values[i, c]))]

    return head, (cells(i) for i in range(len(values))), sorted(broken)


def _probabilities(options: argparse.Namespace, values: np.ndarray) -> tuple[np.ndarray, str]:
    """The softmax if it is to be taken, and what the numbers are called."""
    finite = values[np.isfinite(values).all(1)]
    sure = len(finite) > 0 and (finite >= 0).all() and np.allclose(finite.sum(1), 1, atol=1e-3)
    if options.softmax is False:
        return values, "probability" if sure else "output"
    if sure and options.softmax is None:
        raise PredictError(
            f"{options.model}: its outputs are probabilities already, none negative and 1 in sum, "
            "of which the softmax would be something else; give --no-softmax, or --softmax if it "
            "is meant"
        )
    if values.shape[1] == 1:
        raise PredictError(
            f"{options.model}: it gives one output, whose softmax is 1; leave out --classes, --top "
            "and --softmax"
        )
    print("probability: the softmax of the model's outputs", file=sys.stderr)
    kind = values.dtype if values.dtype == np.float64 else np.dtype(np.float32)
    with np.errstate(invalid="ignore"):
        powers = np.exp(values.astype(np.float64) - values.astype(np.float64).max(1)[:, None])
        return (powers / powers.sum(1)[:, None]).astype(kind), "probability"


def _give(options: argparse.Namespace, head: list[str], lines: list[list[str]]) -> None:
    """Writes the CSV, or shows the first lines of it."""
    if options.output is None:
        _show(head, lines)
        return
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([head, *lines])
    # Names of files may be no UTF-8; their bytes stay.
    content = text.getvalue().encode("utf-8", "surrogateescape")
    if options.output == "-":
        print(content.decode("utf-8", "replace"), end="")
        return
    from jaxnet._files import write_bytes

    try:
        write_bytes(Path(options.output), content)
    except OSError as error:
        raise PredictError(f"--output {options.output}: {error.strerror or error}") from error
    rows = f"{len(lines)} row{'s' * (len(lines) != 1)}"
    print(f"written: {options.output}, {rows}", file=sys.stderr)


def _show(head: list[str], lines: list[list[str]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    wide = len(head) > _WIDE + 2
    shown = _WIDE if wide else len(head)
    table = Table(box=None, pad_edge=False)
    for name in [*head[:shown], *["..."] * wide]:
        table.add_column(name, overflow="fold")
    for line in lines[:_SHOWN]:
        cells = [_short(cell) for cell in line[:shown]]
        table.add_row(*map(Text, [*cells, *["..."] * wide]))
    console = Console(highlight=False)
    # A pipe has no width; a name that is cut there is of no use.
    if not console.is_terminal:
        console = Console(width=1000, highlight=False)
    console.print(table)
    left = len(lines) - _SHOWN
    if left > 0 or wide:
        more = f"{left} more rows" if left > 0 else f"{len(head) - shown} more columns"
        print(f"{more}: -o predictions.csv writes all")


def _short(cell: str) -> str:
    try:
        return f"{float(cell):.4g}" if "." in cell or "e" in cell else cell
    except ValueError:
        return cell
