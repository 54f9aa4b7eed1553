"""What a names.toml says of axes and of flattened rows, beside the layers themselves."""

import dataclasses
import math
from collections.abc import Mapping, Sequence

from flax import nnx

from jaxnet.parity._flax_layers import Layer, Unit
from jaxnet.parity._foreign_model import class_of, is_kind
from jaxnet.parity._layouts import Made
from jaxnet.parity._port import SubjectError


def with_axes(
    file: str, layer: Layer, unit: Unit, made: Mapping[str, Made], axes: tuple[int, ...]
) -> dict[str, Made]:
    """An array of the model's own whose axes are torch's in the order that names.toml says."""
    where = f"{file}: [axes] {layer.name!r} = {[*axes]}"
    if layer.module is not None:
        raise SubjectError(
            f"{where}: it is a {class_of(layer.module).__name__}, whose axes are known; accepted "
            "is an array of the model's own. Leave this line out"
        )
    ((name, one),) = made.items()
    theirs, own = unit.shapes[one.names[0]], layer.shape("")
    # Axes of one number may be missing, as in a class token.
    wide = [n for n in own if n > 1]
    if len(axes) != len(theirs) or [theirs[i] for i in axes if theirs[i] > 1] != wide:
        raise SubjectError(
            f"{where}: torch's {one.names[0]} has the shape {theirs}, which is not {own} in "
            f"this order of its axes; accepted is an order of {[*range(len(theirs))]} that "
            "gives it"
        )
    return {name: dataclasses.replace(one, pieces=(dataclasses.replace(one.pieces[0], axes=axes),))}


def check_flattened(file: str, layer: Layer, sizes: Sequence[int]) -> None:
    """Raises SubjectError if a layer has not as many inputs as names.toml says."""
    where = f"{file}: [flattened] {layer.name!r} = {[*sizes]}"
    if not is_kind(layer.module, nnx.Linear):
        kind = "an array" if layer.module is None else f"a {class_of(layer.module).__name__}"
        raise SubjectError(
            f"{where}: it is {kind}; accepted is an nnx.Linear (a Dense of flax.linen) "
            "that is given flattened rows"
        )
    inputs = layer.shape("kernel")[0]
    if math.prod(sizes) != inputs:
        raise SubjectError(
            f"{where}: these are {math.prod(sizes)} numbers, and it has {inputs} inputs; "
            "accepted are torch's sizes C, H, W of what is flattened before it"
        )
