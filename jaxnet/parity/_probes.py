"""Other inputs and weights for a part of a program, which would show a mistake that is hidden."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np

from jaxnet.parity._generic import numbers, weight
from jaxnet.parity._losses import Loss
from jaxnet.parity._reference import Layer, filled
from jaxnet.parity._tree import leaves
from jaxnet.parity._updates import Update


def probes(reference: Any) -> Iterator[tuple[str, Any]]:
    """Other inputs and weights for a part of a program, each with what is said if they help."""
    if isinstance(reference, Layer):
        yield from _layer_probes(reference)
    elif isinstance(reference, Loss):
        yield from _loss_probes(reference)
    elif isinstance(reference, Update):
        yield "larger gradients show it", _larger_gradients(reference, 1e3)


def _layer_probes(layer: Layer) -> Iterator[tuple[str, Layer]]:
    for name, array in {**layer.parameters, **layer.buffers}.items():
        if array.dtype.kind == "f" and array.size and np.all(array == array.flat[0]):
            words = f'its {name} is {array.flat[0]:.6g} throughout; weights="generic" shows it'
            other: Any = {name: weight(array, name)}
            if name in layer.parameters:
                yield words, dataclasses.replace(layer, parameters={**layer.parameters, **other})
            else:
                yield words, dataclasses.replace(layer, buffers={**layer.buffers, **other})
    inputs = {p: a for p, a in leaves(dict(layer.inputs)) if isinstance(a, np.ndarray)}
    for path, array in inputs.items():
        for words, other in _arrays(array, path):
            name = "the input" if path in ("0", "input") else f"the input {path}"
            changed = filled(layer.inputs, {path: other})
            yield f"{name} hides it; {words} show it", dataclasses.replace(layer, inputs=changed)
    mode = "evaluation" if layer.training else "training"
    yield f"only {mode} mode shows it", dataclasses.replace(layer, training=not layer.training)
    if len(inputs) == 1:
        ((path, array),) = inputs.items()
        for axis, size in enumerate(array.shape):
            more = [numbers(array, path), np.take(numbers(array, "more"), [0], axis)]
            longer = filled(layer.inputs, {path: np.concatenate([array, *more], axis)})
            words = f"axis {axis} of the input has the size {size}; {2 * size + 1} shows it"
            yield words, dataclasses.replace(layer, inputs=longer, cotangents={})


def _arrays(array: np.ndarray, name: str) -> Iterator[tuple[str, np.ndarray]]:
    """Other arrays of a shape and dtype, and how they are called."""
    if array.dtype.kind in "fb":
        drawn = numbers(array, name)
        yield "random numbers of the same shape", drawn
        if array.dtype.kind == "f":
            yield "larger numbers", 30 * drawn
            yield "numbers far from zero", 30 + drawn


def _loss_probes(loss: Loss) -> Iterator[tuple[str, Loss]]:
    for name, array in loss.records[0].arguments.items():
        if not isinstance(array, np.ndarray) or not array.size:
            continue
        if name == "target" and array.dtype.kind == "i":
            index = loss.config["ignore_index"]
            words = f"no target is {index}; some that are ignored show it"
            yield words, _with_argument(loss, name, np.where(array % 2 == 0, index, array))
        for words, other in _arrays(array, name):
            yield f"{name} hides it; {words} show it", _with_argument(loss, name, other)


def _with_argument(loss: Loss, name: str, array: np.ndarray) -> Loss:
    """The first record of a loss with another argument."""
    first = loss.records[0]
    changed = dataclasses.replace(first, arguments={**first.arguments, name: array}, rest=())
    return dataclasses.replace(loss, records=(changed,))


def _larger_gradients(update: Update, factor: float) -> Update:
    records = tuple(
        dataclasses.replace(
            record,
            gradient=factor * record.gradient,
            raw=factor * record.raw,
            clip=dataclasses.replace(
                record.clip,
                norm=factor * record.clip.norm,
                own=factor * record.clip.own,
                units=factor * record.clip.units,
            ),
        )
        for record in update.records
    )
    return dataclasses.replace(update, records=records)
