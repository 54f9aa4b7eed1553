"""How the arrays of a plain flax model are made of torch's: parameters, and activations.

flax stores a Linear's weight as `kernel` (in, out) and a convolution's as (h, w, in, out), keeps
the heads of an attention apart and adds the two biases of an LSTM. All of this is linear: an array
of the model is put together from pieces of torch's, and the way back is the transposed of it.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

Arrays = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Piece:
    """A part of an array of the model, as it is made of torch's.

    Attributes:
        names: The names of torch's arrays, which are added.
        part: The number of the part of their first axis, and into how many equal ones it is cut.
        shape: The shape that the part is given first; None for its own.
        axes: The order into which the axes are then brought; None for that which they have.
        flipped: The axes that are then reversed.
    """

    names: tuple[str, ...]
    part: tuple[int, int] = (0, 1)
    shape: tuple[int, ...] | None = None
    axes: tuple[int, ...] | None = None
    flipped: tuple[int, ...] = ()

    def of(self, arrays: Arrays) -> Any:
        """The piece."""
        x = sum(arrays[name] for name in self.names[1:])
        x = arrays[self.names[0]] + x if self.names[1:] else arrays[self.names[0]]
        number, count = self.part
        if count > 1:
            size = x.shape[0] // count
            x = x[number * size : (number + 1) * size]
        x = x if self.shape is None else x.reshape(self.shape)
        x = x if self.axes is None else x.transpose(self.axes)
        return jnp.flip(x, self.flipped) if self.flipped else x


@dataclasses.dataclass(frozen=True)
class Made:
    """An array of the model.

    Attributes:
        pieces: Its parts along the last axis.
        shape: Its shape.
    """

    pieces: tuple[Piece, ...]
    shape: tuple[int, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """torch's arrays that it is made of."""
        return tuple(dict.fromkeys(name for piece in self.pieces for name in piece.names))

    @property
    def summands(self) -> int:
        """How many of torch's numbers are added in one of its numbers."""
        return len(self.pieces[0].names)

    def of(self, arrays: Arrays) -> Any:
        """The array, from torch's."""
        parts = [piece.of(arrays) for piece in self.pieces]
        return (parts[0] if len(parts) == 1 else jnp.concatenate(parts, -1)).reshape(self.shape)


def to_model(made: Mapping[str, Made], arrays: Arrays) -> dict[str, Any]:
    """The model's arrays by name, from torch's parameters or buffers."""
    return {name: one.of(arrays) for name, one in made.items()}


def gradients_to_model(made: Mapping[str, Made], gradients: Arrays) -> dict[str, Any]:
    """The gradients by the model's arrays, from those by torch's.

    The gradient by a sum is that by each of its summands.
    """
    return {name: one.of(gradients) / one.summands for name, one in made.items()}


def to_torch(made: Mapping[str, Made], arrays: Arrays, like: Arrays) -> dict[str, Any]:
    """torch's arrays, from the model's; of a sum each summand has an equal share.

    Args:
        made: How the model's arrays are made.
        arrays: The model's arrays by name.
        like: Arrays of torch's shapes by name.
    """
    given = {name: jnp.asarray(arrays[name]) / one.summands for name, one in made.items()}
    if not given:
        return {}
    dtype = jnp.result_type(*given.values())
    shapes = {n: jax.ShapeDtypeStruct(jnp.shape(a), dtype) for n, a in like.items()}
    back = jax.linear_transpose(lambda torch: to_model(made, torch), shapes)
    (found,) = back({name: x.astype(dtype) for name, x in given.items()})
    return dict(found)


@dataclasses.dataclass(frozen=True)
class View:
    """An activation of the model in torch's layout, and back.

    Attributes:
        torch: The function of the model's array.
        model: The function of torch's.
    """

    torch: Callable[[Any], Any]
    model: Callable[[Any], Any]


SAME = View(lambda x: x, lambda x: x)


def _ordered(axes: tuple[int, ...]) -> View:
    back = tuple(axes.index(i) for i in range(len(axes)))
    return View(lambda x: x.transpose(axes), lambda x: x.transpose(back))


def channels_last(rank: int) -> View:
    """(N, H, W, C) beside torch's (N, C, H, W), for any number of spatial axes."""
    return SAME if rank < 3 else _ordered((0, rank - 1, *range(1, rank - 1)))


def swapped() -> View:
    """(N, L, E) beside torch's (L, N, E), or the other way round."""
    return _ordered((1, 0, 2))


def flattened(sizes: tuple[int, ...]) -> View:
    """Rows that were flattened in the order H, W, C beside torch's, in C, H, W.

    Args:
        sizes: The sizes (C, H, W).
    """
    channels, *space = sizes
    inner = channels_last(len(sizes) + 1)

    def torch(x: Any) -> Any:
        return inner.torch(x.reshape(-1, *space, channels)).reshape(x.shape)

    def model(x: Any) -> Any:
        return inner.model(x.reshape(-1, channels, *space)).reshape(x.shape)

    return View(torch, model)


def view_of(kind: str, own: tuple[int, ...], torch: tuple[int, ...]) -> View:
    """The view of an activation, as the layer that it belongs to has it.

    Args:
        kind: "channels" for a layer of flax's whose channels are the last axis, "swapped" for
            one with another order of time and batch, "heads" for one whose features have several
            axes where torch's have one, "flat C H W" for a layer of features that
            were flattened in another order, "whole" for a whole model, whose layout only the
            shapes tell, "" for any other.
        own: The shape of the model's array.
        torch: The shape of torch's.
    """
    if kind.startswith("flat "):
        sizes = tuple(map(int, kind.split()[1:]))
        return flattened(sizes) if own and own[-1] == math.prod(sizes) else SAME
    if kind == "heads" and math.prod(own) == math.prod(torch):
        return View(lambda x: x.reshape(torch), lambda x: x.reshape(own))
    if kind == "channels" and len(own) == len(torch):
        return channels_last(len(own))
    last = len(own) == len(torch) > 2 and (own[0], own[-1], *own[1:-1]) == torch
    if kind == "whole" and own != torch and last:
        return channels_last(len(own))
    if kind == "swapped" and len(own) == len(torch) == 3:
        # Given the batch in the place of the time, the layer computes something else.
        return SAME if own == torch and own[0] != own[1] else swapped()
    if len(own) == len(torch) == 3 and own != torch and (own[1], own[0], own[2]) == torch:
        return swapped()
    return SAME
