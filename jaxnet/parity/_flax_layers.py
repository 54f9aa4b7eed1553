"""The layers of flax.nnx beside torch's: which arrays of the one are which of the other."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from flax import nnx

from jaxnet._names import join, members, named_modules
from jaxnet.parity._alone import usual_order
from jaxnet.parity._foreign_model import is_kind, known_of
from jaxnet.parity._layouts import Made, Piece
from jaxnet.parity._program import joined
from jaxnet.parity._trace import Trace

_NORMS: Mapping[type[nnx.Module], str] = {
    nnx.LayerNorm: "LayerNorm",
    nnx.RMSNorm: "RMSNorm",
    nnx.GroupNorm: "GroupNorm",
    nnx.BatchNorm: "BatchNorm",
    nnx.InstanceNorm: "InstanceNorm",
}
_LSTMS = (nnx.LSTMCell, nnx.OptimizedLSTMCell)
_CELLS = (*_LSTMS, nnx.GRUCell, nnx.SimpleCell)
_PLAIN = (nnx.Linear, nnx.LinearGeneral, nnx.Conv, nnx.ConvTranspose, nnx.Embed, nnx.PReLU)
_RECURRENT = {"LSTM": _LSTMS, "GRU": (nnx.GRUCell,), "RNN": (nnx.SimpleCell,)}
_SPATIAL = ("Conv", "BatchNorm", "GroupNorm", "InstanceNorm")


@dataclasses.dataclass(frozen=True)
class Unit:
    """The arrays of one layer of a recorded program.

    Attributes:
        name: The name of its module; "lstm:l1" for the second layer of a recurrent one.
        module: The name of its module; "" for a parameter of a module of the user's own.
        cls: The name of its class; "" for such a parameter.
        config: The arguments of its constructor.
        parameters: The full names of its parameters by what they are: "weight", "weight_ih".
        buffers: Those of its buffers.
        shapes: The shapes of all of these by full name.
    """

    name: str
    module: str
    cls: str
    config: Mapping[str, Any]
    parameters: Mapping[str, str]
    buffers: Mapping[str, str]
    shapes: Mapping[str, tuple[int, ...]]


def recorded_units(trace: Trace, model: str = "") -> list[Unit]:
    """The layers with parameters of a recorded model, in the order of its parameters."""
    found: dict[str, dict[str, dict[str, str]]] = {}
    about: dict[str, str] = {}
    for phase, known in (("parameters", trace.parameters), ("buffers", trace.buffers)):
        for name in known:
            if model and not name.startswith(f"{model}."):
                continue
            owner, _, own = name.rpartition(".")
            outer, _, last = owner.rpartition(".")
            if last == "out_proj" and _cls(trace, outer) == "MultiheadAttention":
                owner, own = outer, f"out_proj.{own}"
            unit = owner
            if _cls(trace, owner) in _RECURRENT:
                own, _, layer = own.partition("_l")
                reverse = layer.endswith("_reverse")
                layer = layer.removesuffix("_reverse")
                own = own.removesuffix("_reverse")
                unit = f"{owner}:l{layer}{'_reverse' if reverse else ''}"
            elif not _cls(trace, owner):
                unit = name
                if phase == "buffers":
                    continue  # a constant of the user's own, which the port may have as a number
            about[unit] = owner
            found.setdefault(unit, {"parameters": {}, "buffers": {}})[phase][own] = name
    units = []
    for unit, arrays in found.items():
        owner = about[unit]
        every = {**arrays["parameters"], **arrays["buffers"]}
        shapes = {
            n: tuple((trace.parameters.get(n) or trace.buffers[n])["shape"]) for n in every.values()
        }
        cls = _cls(trace, owner)
        config = trace.modules[owner].config if cls else {}
        if arrays["parameters"] or cls:
            units.append(
                Unit(unit, owner, cls, config, arrays["parameters"], arrays["buffers"], shapes)
            )
    return units


def _cls(trace: Trace, module: str) -> str:
    """The class of one of torch's own modules; "" for one of the user's."""
    known = trace.modules.get(module)
    return known.cls if known and known.qualname.startswith("torch.nn.") else ""


@dataclasses.dataclass(frozen=True)
class Layer:
    """The arrays of one layer of the model.

    Attributes:
        name: The name of its module, or of the array.
        module: The module; None for a parameter of a module of the user's own.
        variables: Its arrays by what they are: "kernel", "query.kernel".
        counted: Whether its name has a number from the library, which counts modules of a class.
    """

    name: str
    module: nnx.Module | None
    variables: Mapping[str, nnx.Variable[Any]]
    counted: bool = False

    @property
    def spelled(self) -> str:
        """The name, without numbers that are not the user's."""
        return re.sub(r"_\d+(?=\.|$)", "", self.name) if self.counted else self.name

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self.variables[name].shape)


def model_layers(model: nnx.Module, attention: bool) -> list[Layer]:
    """The layers with parameters of a model of flax.nnx, in the order of its attributes.

    Args:
        model: The model.
        attention: Whether an attention counts as one layer, as torch's does; the recorded
            program may have one for each of its projections instead.
    """
    whole = (*_CELLS, nnx.MultiHeadAttention) if attention else _CELLS
    found: list[Layer] = []
    inside: set[int] = set()
    seen: set[int] = set()
    for name, module in named_modules(model):
        if id(module) in inside:
            continue
        own: dict[str, nnx.Variable[Any]] = {}
        parts = named_modules(module) if is_kind(module, whole) else [("", module)]
        for part, owner in parts:
            inside.add(id(owner))
            for key, value in members(owner):
                if isinstance(value, nnx.Param | nnx.BatchStat) and id(value) not in seen:
                    seen.add(id(value))
                    own[join(part, key)] = value
        known = known_of(module)
        counted = known is not None and known.counted
        if is_kind(module, (*whole, *_PLAIN, *_NORMS)):
            if own:
                found.append(Layer(name, module, own, counted))
        else:
            params = {k: v for k, v in own.items() if isinstance(v, nnx.Param)}
            found += [Layer(join(name, k), None, {"": v}, counted) for k, v in params.items()]
    return found


def made_of(layer: Layer, unit: Unit, related: bool = False) -> dict[str, Made] | None:
    """How the arrays of a layer are made of those of a recorded one; None if they are not.

    Args:
        layer: The layer.
        unit: The recorded one.
        related: Whether any two kinds of normalisation may be meant to be the same layer.

    Returns:
        The arrays by their full names in the model.
    """
    try:
        pieces = _pieces(layer, {**unit.parameters, **unit.buffers}, unit, related)
    except KeyError:
        return None
    if pieces is None or pieces.keys() != layer.variables.keys():
        return None
    made = {n: Made(tuple(p), layer.shape(n)) for n, p in pieces.items()}
    used = {name for one in made.values() for name in one.names}
    if not used >= set(unit.parameters.values()):
        return None
    zeros = {n: np.broadcast_to(np.float32(0), shape) for n, shape in unit.shapes.items()}
    try:
        for n, one in made.items():
            found = [np.shape(piece.of(zeros)) for piece in one.pieces]
            if not _fits(layer, n, found):
                return None
    except ValueError:
        return None
    return {joined(layer.name, n): one for n, one in made.items()}


def _fits(layer: Layer, name: str, found: Sequence[tuple[int, ...]]) -> bool:
    shape = layer.shape(name)
    if len(found) > 1:
        return (*found[0][:-1], sum(each[-1] for each in found)) == shape
    if layer.module is None:  # a class token may be (1, 1, E), (1, E) or (E,)
        return [n for n in found[0] if n > 1] == [n for n in shape if n > 1]
    return found[0] == shape


def _pieces(
    layer: Layer, of: Mapping[str, str], unit: Unit, related: bool
) -> dict[str, list[Piece]] | None:
    """The pieces of each array of a layer.

    Raises:
        KeyError: The recorded layer lacks one of the arrays.
    """
    module, cls = layer.module, unit.cls
    has = layer.variables.keys()

    def plain(**names: str) -> dict[str, list[Piece]]:
        return {own: [Piece((of[theirs],))] for own, theirs in names.items() if own in has}

    if module is None:
        if len(of) != 1:
            return None
        ((_, name),) = of.items()
        return {"": [Piece((name,), axes=usual_order(unit.shapes[name], layer.shape("")))]}
    if is_kind(module, nnx.MultiHeadAttention) and cls == "MultiheadAttention":
        return _attention(layer, of)
    if is_kind(module, _CELLS):
        kinds = _RECURRENT.get(cls) or _RECURRENT.get(cls.removesuffix("Cell"))
        return _cell(layer, of) if kinds and is_kind(module, kinds) else None
    if is_kind(module, nnx.Embed) and cls == "Embedding":
        return plain(embedding="weight")
    if is_kind(module, nnx.PReLU) and cls == "PReLU":
        return {"negative_slope": [Piece((of["weight"],), shape=layer.shape("negative_slope"))]}
    if is_kind(module, nnx.Linear | nnx.LinearGeneral) and cls == "Linear":
        return _linear(layer, of)
    if is_kind(module, nnx.ConvTranspose) and cls.startswith("ConvTranspose"):
        space = tuple(range(2, len(layer.shape("kernel"))))
        # Without `transpose_kernel` flax does not turn the kernel around, and torch does.
        last, flipped = (
            ((1, 0), ()) if getattr(module, "transpose_kernel", False) else ((0, 1), space)
        )
        kernel = Piece((of["weight"],), axes=(*space, *last), flipped=tuple(i - 2 for i in flipped))
        return {"kernel": [kernel], **plain(bias="bias")}
    if is_kind(module, nnx.Conv) and cls.startswith("Conv") and "Transpose" not in cls:
        rank = len(layer.shape("kernel"))
        kernel = Piece((of["weight"],), axes=(*range(2, rank), 1, 0))
        return {"kernel": [kernel], **plain(bias="bias")}
    own = next((name for kind, name in _NORMS.items() if is_kind(module, kind)), None)
    if own is not None and cls.startswith((*_NORMS.values(),) if related else own):
        return plain(scale="weight", bias="bias", mean="running_mean", var="running_var")
    return None


def apart(unit: Unit) -> list[Unit]:
    """The arrays of a recorded layer, each as a layer of its own."""
    return [
        dataclasses.replace(unit, name=name, parameters={key: name}, buffers={})
        for key, name in unit.parameters.items()
    ]


def _linear(layer: Layer, of: Mapping[str, str]) -> dict[str, list[Piece]]:
    kernel = layer.shape("kernel")
    found: dict[str, list[Piece]] = {}
    if is_kind(layer.module, nnx.LinearGeneral):
        outputs = getattr(layer.module, "out_features", ())
        count = len(outputs) if isinstance(outputs, tuple | list) else 1
        given, out = kernel[: len(kernel) - count], kernel[len(kernel) - count :]
        axes = (*range(count, len(kernel)), *range(count))
        found["kernel"] = [Piece((of["weight"],), shape=(*out, *given), axes=axes)]
        if "bias" in layer.variables:
            found["bias"] = [Piece((of["bias"],), shape=out)]
        return found
    found["kernel"] = [Piece((of["weight"],), axes=(1, 0))]
    if "bias" in layer.variables:
        found["bias"] = [Piece((of["bias"],))]
    return found


def rows_turned(made: Mapping[str, Made], sizes: Sequence[int]) -> dict[str, Made]:
    """A Linear whose inputs were flattened in the order H, W, C.

    Args:
        made: How its arrays are made otherwise.
        sizes: The sizes C, H, W.
    """

    def turned(one: Made) -> Made:
        if len(one.shape) < 2:
            return one
        (piece,) = one.pieces
        rank = len(sizes)
        shape = (*one.shape[1:], *sizes)
        axes = (*range(2, rank + 1), 1, 0)
        return dataclasses.replace(
            one, pieces=(dataclasses.replace(piece, shape=shape, axes=axes),)
        )

    return {name: turned(one) for name, one in made.items()}


def _attention(layer: Layer, of: Mapping[str, str]) -> dict[str, list[Piece]]:
    """torch's one matrix of query, key and value, cut into those of flax's heads."""
    found: dict[str, list[Piece]] = {}
    for i, name in enumerate(("query", "key", "value")):
        width, heads, size = layer.shape(f"{name}.kernel")
        apart = of.get(f"{name[0]}_proj_weight")
        weight, part = (apart, (0, 1)) if apart else (of["in_proj_weight"], (i, 3))
        piece = Piece((weight,), part, (heads, size, width), (2, 0, 1))
        found[f"{name}.kernel"] = [piece]
        if f"{name}.bias" in layer.variables:
            found[f"{name}.bias"] = [Piece((of["in_proj_bias"],), (i, 3), (heads, size))]
    heads, size, width = layer.shape("out.kernel")
    found["out.kernel"] = [
        Piece((of["out_proj.weight"],), shape=(width, heads, size), axes=(1, 2, 0))
    ]
    if "out.bias" in layer.variables:
        found["out.bias"] = [Piece((of["out_proj.bias"],))]
    return found


def _cell(layer: Layer, of: Mapping[str, str]) -> dict[str, list[Piece]]:
    """A recurrent cell, whose one bias is the sum of torch's two, if it has not both as well.

    In a GRU that is not the same: torch multiplies the second bias of n by the reset gate.

    The gates of both are in the order i, f, g, o, and r, z, n.
    """
    has = layer.variables.keys()
    biases = tuple(of[name] for name in ("bias_ih", "bias_hh") if name in of)

    def bias(own: str, other: str, name: str) -> tuple[str, ...]:
        """torch's biases that one of the cell's is made of: `name` if it has another as well."""
        if own not in has or not biases:
            return ()
        return (of[name],) if other in has else biases

    if is_kind(layer.module, nnx.LSTMCell):
        found = {}
        for i, gate in enumerate("ifgo"):
            x = "if_" if gate == "f" else f"i{gate}"
            given, kept = f"{x}.bias", f"h{gate}.bias"
            found[f"{x}.kernel"] = [Piece((of["weight_ih"],), (i, 4), axes=(1, 0))]
            found[f"h{gate}.kernel"] = [Piece((of["weight_hh"],), (i, 4), axes=(1, 0))]
            for own, names in (
                (given, bias(given, kept, "bias_ih")),
                (kept, bias(kept, given, "bias_hh")),
            ):
                if names:
                    found[own] = [Piece(names, (i, 4))]
        return found
    found = {
        "dense_i.kernel": [Piece((of["weight_ih"],), axes=(1, 0))],
        "dense_h.kernel": [Piece((of["weight_hh"],), axes=(1, 0))],
    }
    for own, names in (
        ("dense_i.bias", bias("dense_i.bias", "dense_h.bias", "bias_ih")),
        ("dense_h.bias", bias("dense_h.bias", "dense_i.bias", "bias_hh")),
    ):
        if names:
            found[own] = [Piece(names)]
    return found


def layout_of(layer: Layer, unit: Unit) -> str:
    """The kind of the layer's activations for `_layouts.view_of`."""
    module = layer.module
    if getattr(module, "torch_layout", False):  # a subclass of flax's that says so
        return ""
    if is_kind(module, nnx.MultiHeadAttention):
        return "" if unit.config.get("batch_first") else "swapped"
    if is_kind(module, nnx.LinearGeneral):
        return "heads"
    known = known_of(module)
    last = unit.cls.startswith(_SPATIAL) and not (known and known.channels_first)
    return "channels" if last else ""
