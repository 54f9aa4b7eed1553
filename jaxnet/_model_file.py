"""A file of `train.export`: what it takes and gives, and its outputs for any number of rows."""

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import export as jax_export

from jaxnet._extras import needed


class ModelFileError(Exception):
    """What is wrong with a model file, or with what it was given."""


class ModelFile:
    """The model of a file that `train.export` wrote.

    Such a file must be trusted: it is a program.

    Args:
        path: Path of the file.

    Attributes:
        inputs: The shape without the rows, and the dtype, of each input.
        outputs: The same of each output.
        rows: The only number of rows that the model takes; None for any.

    Raises:
        ModelFileError: It is no such file, it runs on no device here, or what it takes and gives
            are not arrays with the rows along axis 0.
        ImportError: flatbuffers is not installed.
    """

    def __init__(self, path: Path) -> None:
        needed("flatbuffers", "jaxnet predict", "flatbuffers")
        self.path = path
        try:
            content = bytearray(path.read_bytes())
        except OSError as error:
            raise ModelFileError(f"{path}: {error.strerror or error}") from error
        try:
            exported = jax_export.deserialize(content)
            takes, gives = list(exported.in_avals), list(exported.out_avals)
        except Exception as error:  # of a file with any bytes, any error
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise ModelFileError(
                f"{path}: no sound file of train.export, or one of another version of JAX: {reason}"
            ) from error
        if exported.nr_devices != 1:
            raise ModelFileError(
                f"{path}: a program of {exported.nr_devices} devices; write it with train.export"
            )
        in_order: Any = jax.tree.structure((tuple(range(len(takes))), {}))
        if not takes or exported.in_tree != in_order:
            raise ModelFileError(
                f"{path}: it takes {exported.in_tree}; accepted is a model whose inputs are "
                "arrays. Use it from Python: jax.export.deserialize"
            )
        rows = {str(x.shape[0]) if x.shape else "none" for x in (*takes, *gives)}
        if len(rows) != 1 or rows == {"none"} or not gives:
            raise ModelFileError(
                f"{path}: it takes {in_words(takes)} and gives {in_words(gives)}; accepted is a "
                "model with the rows along axis 0 of each"
            )
        self.inputs = [_one_row(path, x) for x in takes]
        self.outputs = [_one_row(path, x) for x in gives]
        first = takes[0].shape[0]
        self.rows = int(first) if jax_export.is_symbolic_dim(first) is False else None
        self._device = _device(path, exported.platforms)
        wide = any(np.dtype(x.dtype).itemsize == 8 for x in (*takes, *gives))
        self._setting = (lambda: jax.enable_x64(True)) if wide else contextlib.nullcontext
        self._call = jax.jit(exported.call)

    def takes(self) -> str:
        """What the model takes, in words."""
        rows = "any number of rows" if self.rows is None else f"{self.rows} rows at a time"
        return f"{self.path} takes {rows_in_words(self.inputs)}, {rows}"

    def __call__(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        """The outputs for some rows, at most `rows` of them where that is a number.

        Fewer rows than a model takes are filled up, by two different rows in two calls, which
        must not change the outputs of the others.

        Raises:
            ModelFileError: They did change them, or the program does not run here.
        """
        count = len(inputs[0])
        missing = 0 if self.rows is None else self.rows - count
        if not missing:
            return self._outputs(inputs)
        found = []
        for fill in (lambda x: x[:1], lambda x: (x[:1] == 0).astype(x.dtype)):
            filled = [np.concatenate([x, np.repeat(fill(x), missing, axis=0)]) for x in inputs]
            found.append([x[:count] for x in self._outputs(filled)])
        if any(a.tobytes() != b.tobytes() for a, b in zip(*found, strict=True)):
            raise ModelFileError(
                f"{self.path}: it takes {self.rows} rows at a time, and the outputs of a row "
                f"depend on the other rows, so that the last {count} cannot be filled up; give a "
                f"multiple of {self.rows} rows"
            )
        return found[0]

    def _outputs(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        try:
            with jax.default_device(self._device), self._setting():
                found = [np.asarray(x) for x in jax.tree.leaves(self._call(*inputs))]
        except Exception as error:
            reason = " ".join(str(error).split())[:300]
            raise ModelFileError(f"{self.path}: it does not run here: {reason}") from error
        # What numpy has no numbers for, as bfloat16, fits float32.
        return [x.astype(np.float32) if x.dtype.kind == "V" else x for x in found]


def _device(path: Path, platforms: Sequence[str]) -> Any:
    """The first device that the program was made for; one of the default platform, if it can be."""
    for device in (*jax.devices(), *jax.devices("cpu")):
        names = {"gpu": ("cuda", "rocm")}.get(device.platform, (device.platform,))
        if set(names) & set(platforms):
            return device
    raise ModelFileError(
        f"{path}: it was made for {', '.join(platforms)}, and here are {jax.default_backend()} and "
        'the CPU; write it with platforms=("cpu", "cuda")'
    )


def _one_row(path: Path, x: Any) -> tuple[tuple[int, ...], np.dtype]:
    if not all(isinstance(size, int) for size in x.shape[1:]):
        raise ModelFileError(
            f"{path}: {in_words([x])}; accepted are shapes that only leave the rows"
        )
    return tuple(x.shape[1:]), np.dtype(x.dtype)


def rows_in_words(arrays: Sequence[tuple[tuple[int, ...], np.dtype]]) -> str:
    """Shapes without the rows, and dtypes, in words."""
    return " and ".join(f"(rows, {_sizes(s)}) {d}" if s else f"(rows,) {d}" for s, d in arrays)


def in_words(arrays: Sequence[Any]) -> str:
    """Whole shapes and dtypes, in words."""
    return " and ".join(f"({_sizes(x.shape)}) {x.dtype}" for x in arrays) or "nothing"


def _sizes(shape: Sequence[Any]) -> str:
    return ", ".join(map(str, shape))
