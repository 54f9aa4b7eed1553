"""Models of equinox: a module, and its state.

A module of equinox computes one example, and `jax.vmap` makes it one of a batch. What a layer is
given and gives inside of jax.vmap is brought out of it, in the form that torch's layer has: a
`custom_vmap` around the call meets the whole batch.
"""

import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.custom_batching import custom_vmap

from jaxnet._intercept import is_intercepted
from jaxnet._names import dotted, join
from jaxnet.parity._draws import zeros
from jaxnet.parity._foreign_model import (
    Arrays,
    ForeignLayer,
    ForeignModel,
    Form,
    Known,
    Leaf,
    Library,
    called,
    filled,
    heads_of,
    norm_names,
)
from jaxnet.parity._jax_draws import is_batched, supplied
from jaxnet.parity._port import SubjectError

# The first class that fits counts.
_KINDS: tuple[tuple[type, type], ...] = (
    (eqx.nn.MultiheadAttention, nnx.MultiHeadAttention),
    (eqx.nn.Linear, nnx.Linear),
    (eqx.nn.Conv, nnx.Conv),
    (eqx.nn.ConvTranspose, nnx.ConvTranspose),
    (eqx.nn.Embedding, nnx.Embed),
    (eqx.nn.PReLU, nnx.PReLU),
    (eqx.nn.BatchNorm, nnx.BatchNorm),
    (eqx.nn.LayerNorm, nnx.LayerNorm),
    (eqx.nn.RMSNorm, nnx.RMSNorm),
    (eqx.nn.GroupNorm, nnx.GroupNorm),
    (eqx.nn.LSTMCell, nnx.OptimizedLSTMCell),
)
_NAMES: Mapping[type, Mapping[str, str]] = {
    nnx.Embed: {"weight": "embedding"},
    nnx.Linear: {"weight": "kernel"},
    nnx.Conv: {"weight": "kernel"},
    nnx.ConvTranspose: {"weight": "kernel"},
    nnx.OptimizedLSTMCell: {
        "weight_ih": "dense_i.kernel",
        "weight_hh": "dense_h.kernel",
        "bias": "dense_h.bias",
    },
}
_STATISTICS = {
    f"{name}_state_index.{i}": statistic
    for name in ("batch", "ema")
    for i, statistic in enumerate(("mean", "var"))
}

# While a layer is traced for the shape of its output alone.
_quiet: ContextVar[bool] = ContextVar("jaxnet_equinox_quiet", default=False)


class Equinox(Library):
    """A model of equinox.

    Args:
        module: The module.
        state: Its state, of eqx.nn.make_with_state.
    """

    title = "equinox model"

    def __init__(self, module: Any, state: Any = None) -> None:
        self.module, self.state = module, state
        self.params, self.rest = eqx.partition(module, eqx.is_inexact_array)
        self.parts = _parts(module)
        names = [getattr(part, "axis_name", None) for part in self.parts.values()]
        self.axis = next((name for name in names if isinstance(name, str)), "batch")

    def trees(self) -> tuple[Any, Any]:
        return self.params, self.state

    def _given(self) -> tuple[Arrays, Arrays]:
        leaves, form = jax.tree_util.tree_flatten_with_path(self.params)
        trained = tuple(Leaf(dotted(path), tuple(array.shape)) for path, array in leaves)
        names = {}
        if self.state is not None:
            for path, index in _indices(self.module):
                value = self.state.get(index)
                for inner, array in jax.tree_util.tree_leaves_with_path(value):
                    names[id(array)] = join(dotted(path), dotted(inner))
        arrays, state_form = jax.tree.flatten(self.state)
        states = (
            Leaf(names.get(id(a), f"state.{i}"), tuple(jnp.shape(a)), nnx.Variable)
            for i, a in enumerate(arrays)
        )
        return Arrays(form, trained), Arrays(state_form, tuple(states))

    def known(self) -> Mapping[str, Known]:
        return {name: _known(part, self.shapes_in(name)) for name, part in self.parts.items()}

    def order(self) -> list[str]:
        return []  # of the attributes, and not of calls

    def params_of(self, model: ForeignModel) -> Any:
        return self._module(model)

    def _module(self, model: ForeignModel) -> Any:
        """The module with the numbers of a model, each of whose layers is met when it is called."""
        module = eqx.combine(self.trained.tree(model.arrays()), self.rest)
        return _met(module, _Layers(model.layers()))

    def run(self, model: ForeignModel, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        module = self._module(model)
        if any(map(is_batched, jax.tree.leaves((args, kwargs)))):  # inside of the user's jax.vmap
            if self.state is not None:
                raise SubjectError(
                    "check: loss: the equinox model has a state, and is called inside of jax.vmap; "
                    "accepted is model(inputs) of the whole batch, which calls jax.vmap itself and "
                    "keeps the state"
                )
            return module(*args, **filled(self.title, module.__call__, len(args), kwargs))
        sizes = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(args)}
        if len(sizes) != 1 or () in sizes:
            raise SubjectError(
                f"check: model: the equinox model is given arrays of the shapes "
                f"{[jnp.shape(leaf) for leaf in jax.tree.leaves(args)]}; accepted are arrays whose "
                "first axis is the batch, over which jax.vmap maps it"
            )
        ((rows,),) = sizes
        state = None if self.state is None else self.states.tree(model.arrays())
        more: dict[str, Any] = {"key": jax.random.split(jax.random.key(0), rows)}
        if state is not None:
            more["state"] = state
        given = filled(self.title, module.__call__, len(args), kwargs, more)
        if state is not None and "state" not in given:
            raise SubjectError(
                "check: model: a state was given, and the forward pass of the equinox model has no "
                "argument of the name 'state'; accepted is __call__(self, x, state) that returns "
                "its output and the new state"
            )
        axes = {name: 0 if name == "key" else None for name in given}

        def one(args: Any, given: Any) -> Any:
            return module(*args, **given)

        mapped = jax.vmap(
            one,
            in_axes=(0, axes),
            out_axes=0 if state is None else (0, None),
            axis_name=self.axis,
            axis_size=rows,
        )
        if state is None:
            return mapped(tuple(args), given)
        output, state = mapped(tuple(args), given)
        model.put(self.states.named(state))
        return output

    def explained(self, error: Exception) -> str:
        if isinstance(error, NameError) and "axis name" in str(error):
            return (
                "its batch norms have several axis_name; accepted is one, over which "
                "the batch is mapped"
            )
        return ""


class _Layers:
    """The modules of the layers of one call of the model; equal to itself alone."""

    def __init__(self, layers: Mapping[str, ForeignLayer]) -> None:
        self.of = layers


def _is_layer(x: Any) -> bool:
    return isinstance(x, eqx.Module) and not isinstance(x, eqx.nn.StateIndex)


def _parts(module: Any) -> dict[str, Any]:
    """The modules in a module, and itself, by dotted name."""
    found: dict[str, Any] = {}

    def add(name: str, part: Any) -> None:
        found[name] = part
        inside = jax.tree_util.tree_leaves_with_path(
            part, is_leaf=lambda x: x is not part and _is_layer(x)
        )
        for path, each in inside:
            if _is_layer(each):
                add(join(name, dotted(path)), each)

    add("", module)
    return found


def _indices(module: Any) -> list[Any]:
    """The places of the state of a module, with their paths."""
    leaves = jax.tree_util.tree_leaves_with_path(
        module, is_leaf=lambda x: isinstance(x, eqx.nn.StateIndex)
    )
    return [(path, leaf) for path, leaf in leaves if isinstance(leaf, eqx.nn.StateIndex)]


def _met(module: Any, layers: _Layers, name: str = "") -> Any:
    """A module whose layers are met when they are called."""

    def inner(path: Any, part: Any) -> Any:
        return _met(part, layers, join(name, dotted(path))) if _is_layer(part) else part

    whole = jax.tree_util.tree_map_with_path(
        inner, module, is_leaf=lambda x: x is not module and _is_layer(x)
    )
    known = layers.of.get(name)
    if known is None or vars(known)["_known"] is None or vars(known)["_known"].kind is None:
        return whole
    own: Any = type(whole)
    cls = _met_class(own)
    made = object.__new__(cls)
    for key, value in vars(whole).items():
        object.__setattr__(made, key, value)
    object.__setattr__(made, "met_by", (layers, name))
    return made


@functools.cache
def _met_class(cls: Any) -> Any:
    """A class of equinox whose calls go through the modules of parity."""

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        layers, name = self.met_by
        function = functools.partial(cls.__call__, self)
        if _quiet.get() or not is_intercepted():
            return function(*args, **kwargs)
        return _meet(function, layers.of[name], getattr(self, "axis_name", None), args, kwargs)

    made = type(
        cls.__name__,
        (cls,),
        {
            "__annotations__": {"met_by": Any},
            "met_by": eqx.field(static=True, default=None),
            "__call__": functools.wraps(cls.__call__)(call),
            "__module__": cls.__module__,
            "__qualname__": cls.__qualname__,
        },
    )
    return made


def _meet(
    function: Callable[..., Any], layer: ForeignLayer, axis: str | None, args: Any, kwargs: Any
) -> Any:
    """The output of a layer, whose call is met where no jax.vmap is around it.

    Args:
        function: The call of the layer.
        layer: Its module.
        axis: The name of the batch that the layer takes means over.
        args: Its arguments by position.
        kwargs: Those by keyword.
    """
    leaves, form = jax.tree.flatten((args, kwargs))
    places = [i for i, leaf in enumerate(leaves) if isinstance(leaf, jax.Array | np.ndarray)]

    def run(arrays: Sequence[Any]) -> tuple[Any, Any]:
        """The output of the layer and its new state."""
        args, kwargs = jax.tree.unflatten(form, _with(leaves, places, arrays))
        output = function(*args, **kwargs)
        if isinstance(output, tuple) and len(output) == 2 and _is_state(output[1]):
            return output
        return output, None

    def mapped(maps: Sequence[_Map], named: bool) -> Callable[[Sequence[Any]], tuple[Any, Any]]:
        """The layer within the loops over the batch and the like; the last is the outermost."""
        made = run
        for i, (size, axes) in enumerate(maps):
            name = axis if named and i + 1 == len(maps) else None
            made = jax.vmap(made, (axes,), (0, None), axis_name=name, axis_size=size)
        return made

    def meet(arrays: list[Any], maps: Sequence[_Map]) -> tuple[Any, Any]:
        if not any(map(is_batched, arrays)):
            given = jax.tree.unflatten(form, _with(leaves, places, arrays))
            return _called(layer, mapped(maps, named=True), given, places)

        @custom_vmap
        def plain(arrays: list[Any]) -> tuple[Any, Any]:
            with _shapes_alone():
                return mapped(maps, named=False)(arrays)

        @plain.def_vmap
        def rule(size: int, are_mapped: Any, arrays: list[Any]) -> Any:
            axes = [0 if each else None for each in are_mapped[0]]
            output = meet(arrays, [*maps, (size, axes)])
            return output, (jax.tree.map(lambda _: True, output[0]), _no(output[1]))

        return plain(arrays)

    output, state = meet([leaves[i] for i in places], [])
    return output if state is None else (output, state)


# How many times a layer is mapped, and over which axis of each of its arrays.
_Map = tuple[int, list[int | None]]


def _called(
    layer: ForeignLayer, run: Callable[[Sequence[Any]], tuple[Any, Any]], given: Any,
    places: Sequence[int],
) -> tuple[Any, Any]:  # fmt: skip
    """The output and the state of a layer, whose module is called without its state."""
    args, kwargs = given
    states = [x for x in (*args, *kwargs.values()) if _is_state(x)]
    after = states[-1] if states else None
    shown = [i for i, x in enumerate(args) if not _is_state(x)]
    hidden = {name: x for name, x in kwargs.items() if _is_state(x)}

    def proceed(*new: Any, **named: Any) -> Any:
        nonlocal after
        leaves = jax.tree.leaves((tuple(_with(args, shown, new)), {**named, **hidden}))
        output, after = run([leaves[i] for i in places])
        return output

    named = {name: x for name, x in kwargs.items() if name not in hidden}
    output = called(layer, proceed, [args[i] for i in shown], named)
    return output, after


def _with(values: Sequence[Any], places: Sequence[int], new: Sequence[Any]) -> list[Any]:
    """Values with others in some places."""
    found = list(values)
    for i, value in zip(places, new, strict=True):
        found[i] = value
    return found


def _is_state(x: Any) -> bool:
    return isinstance(x, eqx.nn.State)


def _no(tree: Any) -> Any:
    return jax.tree.map(lambda _: False, tree)


@contextmanager
def _shapes_alone() -> Iterator[None]:
    """A layer is traced inside for the shape of its output; it meets and draws nothing."""
    token = _quiet.set(True)
    try:
        with supplied(zeros, foreign=True):
            yield
    finally:
        _quiet.reset(token)


def _known(part: Any, shapes: Mapping[str, tuple[int, ...]]) -> Known:
    kind = next((ours for theirs, ours in _KINDS if isinstance(part, theirs)), None)
    names: dict[str, str] = {}
    forms: dict[str, Form] = {}
    config: dict[str, Any] = {}
    if kind is nnx.MultiHeadAttention:
        for own, shape in shapes.items():
            projection, _, array = own.partition(".")
            projection = projection.removesuffix("_proj").replace("output", "out")
            heads, is_weight = part.num_heads, array == "weight"
            names[own] = f"{projection}.{'kernel' if is_weight else array}"
            turned = shape[::-1]
            if projection == "out":
                inside = (heads, turned[0] // heads, turned[-1])
                forms[own] = Form((1, 0), inside) if is_weight else Form()
            elif is_weight:
                forms[own] = Form((1, 0), heads_of(turned, heads))
            else:
                forms[own] = Form(shape=(heads, shape[0] // heads))
    elif kind is not None:
        table = {"weight": "scale", **_STATISTICS, **_NAMES.get(kind, {})}
        if kind is nnx.PReLU:
            table = {"negative_slope": "negative_slope"}
        names = {own: table.get(own, own) for own in shapes}
        for own, shape in shapes.items():
            if names[own].endswith("kernel"):
                forms[own] = Form((*range(2, len(shape)), 1, 0))
            elif own == "bias" and kind in (nnx.Conv, nnx.ConvTranspose):
                forms[own] = Form(shape=shape[:1])
        if kind is nnx.ConvTranspose:
            config["transpose_kernel"] = False
    elif norms := norm_names(shapes):
        kind, names = nnx.BatchNorm, norms
        forms = {own: Form(shape=(math.prod(shapes[own]),)) for own in norms}
    return Known(type(part), kind, names, forms, config, channels_first=True)
