"""Differences before any arithmetic: of initial weights, of inputs and of targets."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import numpy as np

from jaxnet.parity._traps._trap import Trap

WEIGHTS, INPUTS, TARGETS = "weights", "inputs", "targets"
ALL = (WEIGHTS, INPUTS, TARGETS)
# So many numbers show what distribution they are from.
_MANY = 200
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@dataclasses.dataclass(frozen=True)
class Value:
    """An array that both programs begin with: a reference for these traps.

    Attributes:
        kind: "weights", "inputs" or "targets".
        array: Torch's.
        other: The JAX program's, for the faults that are a choice among many (the order of a
            batch's samples).
    """

    kind: str
    array: np.ndarray
    other: np.ndarray

    @property
    def config(self) -> Mapping[str, Any]:
        return {"shape": self.array.shape, "dtype": self.array.dtype.name}

    def mapped(self, change: Callable[[np.ndarray], np.ndarray]) -> Self:
        """Another array in place of torch's."""
        with np.errstate(all="ignore"):  # a fault that is tried may be absurd
            return dataclasses.replace(self, array=np.asarray(change(self.array)))

    def observe(self) -> dict[str, np.ndarray]:
        return {"value": self.array}


def _wide(array: np.ndarray) -> np.ndarray:
    return array.astype(np.float64) if array.dtype.kind in "biu" else array


def _map(change: Callable[..., np.ndarray]) -> Callable[..., Value]:
    """A change of the array, given the constants and options of the row."""
    return lambda value, **values: value.mapped(lambda array: change(array, **values))


def _transposed(array: np.ndarray) -> np.ndarray:
    if array.ndim < 2:
        raise ValueError("there is one axis only")
    return np.swapaxes(array, 0, 1)


def _moved_axis(source: int, target: int) -> Callable[[np.ndarray], np.ndarray]:
    def change(array: np.ndarray) -> np.ndarray:
        if array.ndim < 3:
            raise ValueError("there are no channels")
        return np.moveaxis(array, source, target)

    return change


def _image_axis(array: np.ndarray) -> int:
    """The axis of three colours."""
    for axis in (1, array.ndim - 1, 0):
        if axis < array.ndim and array.ndim > 2 and array.shape[axis] == 3:
            return axis
    raise ValueError("there are no three colours")


def _along(values: Sequence[float], array: np.ndarray, axis: int) -> np.ndarray:
    return np.reshape(values, [-1 if i == axis else 1 for i in range(array.ndim)])


def _imagenet(array: np.ndarray, inverse: bool) -> np.ndarray:
    axis = _image_axis(array)
    mean, std = (_along(v, array, axis) for v in _IMAGENET)
    return array * std + mean if inverse else (array - mean) / std


def _order(value: Value) -> Value:
    """Torch's samples in the JAX program's order, where they are the same samples."""
    a, b = value.array, value.other
    if a.shape != b.shape or a.ndim < 1 or len(a) < 2:
        raise ValueError("the shapes differ")
    rows, others = (x.reshape(len(x), -1) for x in (a, b))
    first, second = (np.lexsort(x.T[::-1]) for x in (rows, others))
    order = np.empty(len(a), int)
    order[second] = first
    return value.mapped(lambda array: array[order])


def _first(value: Value) -> Value:
    count = len(value.other) if value.other.ndim else 0
    if not 0 < count < len(value.array):
        raise ValueError("there are not fewer samples")
    return value.mapped(lambda array: array[:count])


def _one_hot(value: Value) -> Value:
    if value.array.dtype.kind not in "iu" or value.other.ndim != value.array.ndim + 1:
        raise ValueError("there is no axis of classes")
    classes = value.other.shape[-1]
    return value.mapped(lambda array: (array[..., None] == np.arange(classes)).astype(float))


def _classes(value: Value) -> Value:
    """One-hot targets of torch's as class numbers."""
    if value.array.ndim != value.other.ndim + 1:
        raise ValueError("there is an axis of classes")
    return value.mapped(lambda array: array.argmax(-1))


def _rounded(array: np.ndarray, dtype: str) -> np.ndarray:
    if dtype == "float16":
        return array.astype(np.float16).astype(np.float64)
    # bfloat16 is float32 without the lower half of its bits, rounded to even.
    bits = array.astype(np.float32).view(np.uint32)
    bits = (bits + 0x7FFF + ((bits >> 16) & 1)) & np.uint32(0xFFFF0000)
    return bits.view(np.float32).astype(np.float64)


TRAPS: tuple[Trap, ...] = (
    Trap(
        "value-transposed",
        (WEIGHTS, INPUTS),
        _map(_transposed),
        "The first two axes are exchanged.",
        "the axes of torch's array: the weights of Linear are (outputs, inputs)",
        when=lambda config: len(config["shape"]) > 1,
    ),
    Trap(
        "inputs-channels-last",
        (INPUTS,),
        _map(_moved_axis(1, -1)),
        "The channels are the last axis; torch's are the second.",
        "inputs of shape (N, C, H, W): jnp.moveaxis(x, -1, 1)",
    ),
    Trap(
        "inputs-channels-first",
        (INPUTS,),
        _map(_moved_axis(-1, 1)),
        "The last axis of torch's inputs is the second one.",
        "inputs with the axes of the torch program",
    ),
    Trap(
        "inputs-colours",
        (INPUTS,),
        _map(lambda array: np.flip(array, _image_axis(array))),
        "The colours are in the other order (BGR against RGB).",
        "x[:, ::-1]; OpenCV reads BGR, Pillow RGB",
    ),
    Trap(
        "inputs-order",
        (INPUTS, TARGETS),
        _order,
        "The samples of the batch are the same in another order.",
        "the loader's order of the torch program: jaxnet.data.DataLoader with its generator, "
        "shuffle=True",
    ),
    Trap(
        "inputs-fewer",
        (INPUTS, TARGETS),
        _first,
        "The last samples of the batch are missing.",
        "the batch size and drop_last of the torch program",
    ),
    Trap(
        "inputs-scaled",
        (INPUTS,),
        _map(lambda array, factor: _wide(array) * factor),
        "The inputs are {factor:.6g} times torch's.",
        "the scaling of the torch program: ToTensor() divides bytes by 255",
        constants={"factor": (1 / 255, 255.0, 1 / 256, 2.0, 0.5)},
    ),
    Trap(
        "inputs-normalized",
        (INPUTS,),
        _map(lambda array, mean, std: (_wide(array) - mean) / std),
        "The inputs are torch's minus {mean:.6g}, over {std:.6g}: they are normalised in another "
        "way.",
        "the normalisation of the torch program",
        constants={"mean": (0.5, 0.1307, 0.0), "std": (0.5, 0.3081, 1.0, 1 / 255)},
    ),
    Trap(
        "inputs-imagenet",
        (INPUTS,),
        _map(_imagenet),
        "The inputs differ by the normalisation with the means and deviations of ImageNet.",
        "the normalisation of the torch program",
        options={"inverse": (False, True)},
    ),
    Trap(
        "targets-shifted",
        (TARGETS,),
        _map(lambda array, shift: array + shift),
        "The targets are torch's {shift:+d}.",
        "class numbers from 0",
        options={"shift": (1, -1)},
    ),
    Trap(
        "targets-one-hot",
        (TARGETS,),
        _one_hot,
        "The targets are one-hot; torch's are class numbers.",
        "class numbers, or a loss of one-hot targets that is torch's",
    ),
    Trap(
        "targets-class-numbers",
        (TARGETS,),
        _classes,
        "The targets are class numbers; torch's are one-hot or probabilities.",
        "targets as in the torch program",
    ),
    Trap(
        "value-rounded",
        (WEIGHTS, INPUTS),
        _map(_rounded),
        "The numbers are rounded to {dtype}; torch's are {torch[dtype]}.",
        "the dtype of the torch program",
        options={"dtype": ("float16", "bfloat16")},
    ),
    Trap(
        "weights-constant",
        (WEIGHTS,),
        _map(lambda array, constant: np.full_like(array, constant, np.float64)),
        "All numbers are {constant:.6g}; torch's are not.",
        "the initialisation of torch (jaxnet.nn's with rngs=Generator(seed)), or its weights",
        options={"constant": (0.0, 1.0)},
    ),
    Trap(
        "weights-scaled",
        (WEIGHTS,),
        _map(lambda array, factor: array * factor),
        "The numbers are {factor:.6g} times torch's.",
        "the bound of torch's initialisation",
        constants={"factor": (0.5, 2.0, math.sqrt(3), 1 / math.sqrt(3), math.sqrt(2))},
    ),
)


def of_distribution(torch: np.ndarray, jax: np.ndarray) -> str:
    """What other random numbers of a weight have in common with torch's, in a sentence.

    Args:
        torch: Torch's initial values.
        jax: The JAX program's.
    """
    a, b = np.asarray(torch, np.float64).ravel(), np.asarray(jax, np.float64).ravel()
    if a.shape != b.shape:
        return f"The shape is {np.shape(jax)}; torch's is {np.shape(torch)}."
    if np.array_equal(np.sort(a), np.sort(b)):
        return "The numbers are torch's in another order."
    if not np.std(a):
        return f"The numbers are random; torch's are all {a[0]:.4g}."
    if not np.std(b):
        return f"The numbers are all {b[0]:.4g}; torch's are random."
    # Deviations of n numbers are known to 1 / sqrt(2 n) each; more than three of these apart.
    spread, known = float(np.std(b) / np.std(a)), 3 / math.sqrt(a.size)
    if abs(math.log(spread)) > known:
        return (
            f"The numbers are other random ones, with {spread:.2g} times the standard deviation of "
            "torch's: another initialisation."
        )
    forms = ["uniform" if _is_uniform(x) else "not uniform" for x in (a, b)]
    if a.size >= _MANY and forms[0] != forms[1]:
        return (
            f"The numbers are {forms[1]}, torch's are {forms[0]}: another initialisation of the "
            "same standard deviation."
        )
    return (
        "The numbers are other random ones of torch's distribution: another seed, or layers in "
        "another order."
    )


def _is_uniform(x: np.ndarray) -> bool:
    """Whether the fourth moment is nearer that of a uniform distribution than a normal one's."""
    centred = x - x.mean()
    return bool(np.mean(centred**4) / np.mean(centred**2) ** 2 < 2.3)
