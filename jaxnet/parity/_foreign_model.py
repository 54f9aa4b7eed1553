"""A model of another library as modules of flax.nnx, one for each of its layers.

The rest of parity sees these alone. They hold the arrays as flax.nnx has them, a Linear's weight
as `kernel` (in, out), and a call of the model runs the library with its own arrays: a `Library`
puts these together, runs its model, and says which layer each call belongs to.
"""

import contextlib
import dataclasses
import functools
import inspect
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxnet._names import dotted, join, named_modules, named_variables
from jaxnet.parity._port import SubjectError

# What the layer that is called now runs.
_proceed: ContextVar[Callable[..., Any]] = ContextVar("jaxnet_foreign_layer")

# The layers whose calls are under way.
_called: ContextVar[tuple[Any, ...]] = ContextVar("jaxnet_foreign_layers", default=())

# Arguments of forward passes that say whether the model is trained, with what they are then.
FLAGS = {
    **dict.fromkeys(("train", "training", "is_training", "is_train", "train_mode"), True),
    **dict.fromkeys(("deterministic", "eval", "evaluate", "evaluation", "is_eval"), False),
    **dict.fromkeys(("inference", "test", "use_running_average"), False),
}


@dataclass(frozen=True, eq=False)
class Known:
    """What is known of a layer.

    Attributes:
        cls: Its class.
        kind: The class of flax.nnx that computes the same; None for a class of the user's own.
        names: The names that flax.nnx has for its arrays, by its own.
        forms: How flax.nnx has these arrays, by its own names, where that is not as they are.
        config: Attributes that flax's layer has as well and that say how its arrays are meant.
        channels_first: Whether its images are torch's, (N, C, H, W).
        counted: Whether its name has a number from the library, which counts modules of a class.
    """

    cls: type
    kind: type | None
    names: Mapping[str, str]
    forms: Mapping[str, "Form"]
    config: Mapping[str, Any]
    channels_first: bool = False
    counted: bool = False


@dataclass(frozen=True)
class Form:
    """How flax.nnx has an array that the library has otherwise.

    Attributes:
        axes: The order into which its axes are brought; None for their own.
        shape: The shape that it is then given; None for its own.
    """

    axes: tuple[int, ...] | None = None
    shape: tuple[int, ...] | None = None

    def of(self, own: Any) -> Any:
        """flax's array."""
        x = own if self.axes is None else own.transpose(self.axes)
        return x if self.shape is None else x.reshape(self.shape)

    def back(self, array: Any, shape: tuple[int, ...]) -> Any:
        """The library's array, of this shape."""
        axes = tuple(range(len(shape))) if self.axes is None else self.axes
        x = array.reshape(tuple(shape[i] for i in axes))
        return x.transpose(tuple(axes.index(i) for i in range(len(axes))))


@dataclass(frozen=True)
class Leaf:
    """One array of the library's.

    Attributes:
        name: Its dotted name among the modules.
        shape: Its shape in the library.
        kind: The class of the variable that holds it.
        form: How flax.nnx has it.
    """

    name: str
    shape: tuple[int, ...]
    kind: type[nnx.Variable[Any]] = nnx.Param
    form: Form = Form()


@dataclass(frozen=True, eq=False)
class Arrays:
    """The place of arrays in a pytree of the library's.

    Attributes:
        form: The structure of the pytree.
        leaves: Its arrays in order.
    """

    form: Any
    leaves: tuple[Leaf, ...]

    def tree(self, arrays: Mapping[str, Any]) -> Any:
        """The pytree, from flax's arrays by name."""
        made = [leaf.form.back(arrays[leaf.name], leaf.shape) for leaf in self.leaves]
        return jax.tree.unflatten(self.form, made)

    def named(self, tree: Any) -> dict[str, Any]:
        """flax's arrays by name, from the pytree."""
        own = zip(self.leaves, self.form.flatten_up_to(tree), strict=True)
        return {leaf.name: leaf.form.of(jnp.asarray(array)) for leaf, array in own}


class ForeignLayer(nnx.Module):
    """A layer of another library's model, or a part of the model that holds some."""

    def __init__(self, known: Known | None = None) -> None:
        self._known = nnx.static(known)
        for name, value in ({} if known is None else known.config).items():
            setattr(self, name, nnx.static(value))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return _proceed.get()(*args, **kwargs)


class ForeignModel(ForeignLayer):
    """A model of another library; a call runs its forward pass for training.

    Attributes:
        library: How the library runs it.
        double: Whether what says float32 by itself is to compute in float64.
    """

    def __init__(self, library: "Library", known: Known | None = None) -> None:
        super().__init__(known)
        self.library = nnx.static(library)
        self.double = nnx.static(False)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.library.run(self, args, kwargs)

    @property
    def params(self) -> Any:
        """The parameters as the library has them, of the step that is computed."""
        return self.library.params_of(self)

    def arrays(self) -> dict[str, Any]:
        """flax's arrays by name."""
        return {name: variable.get_value() for name, variable in named_variables(self)}

    def put(self, arrays: Mapping[str, Any]) -> None:
        """Takes arrays over that a call has changed."""
        variables = dict(named_variables(self))
        for name, array in arrays.items():
            variables[name].set_value(array)

    def layers(self) -> dict[str, ForeignLayer]:
        """The modules below it, by the names that the library has for their layers."""
        below = ((name, module) for name, module in named_modules(self) if name)
        return {_own(n): module for n, module in below if isinstance(module, ForeignLayer)}


# Attributes of a ForeignModel itself, as whose no layer or array can be kept.
_ATTRIBUTES = frozenset((*dir(ForeignModel), "library", "double", "_known"))


def _free(name: str) -> str:
    """The name in a ForeignModel of what the library calls so: no name of an attribute of it."""
    first, dot, rest = name.partition(".")
    return f"{first}_{dot}{rest}" if first.rstrip("_") in _ATTRIBUTES else name


def _own(name: str) -> str:
    """The library's name, from that in a ForeignModel."""
    first, dot, rest = name.partition(".")
    return f"{first[:-1]}{dot}{rest}" if first.rstrip("_") in _ATTRIBUTES else name


class Library:
    """How a library runs a model of given arrays; each library has a class of its own.

    Attributes:
        title: What errors call the model.
        trained: Its parameters.
        states: Its other arrays, such as running statistics.
    """

    title = "model"
    trained: Arrays
    states: Arrays

    def run(self, model: ForeignModel, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """The output of the forward pass; the states that it changes are those of the model."""
        raise NotImplementedError

    def params_of(self, model: ForeignModel) -> Any:
        """The parameters as the loss of the user's own may read them."""
        return self.trained.tree(model.arrays())

    def noting(self) -> contextlib.AbstractContextManager[Any]:
        """Notes the layers that are called inside, if the library has to be run to know them."""
        return contextlib.nullcontext()

    def wide(self) -> contextlib.AbstractContextManager[Any]:
        """Lets layers that name float32 compute in float64 inside."""
        return contextlib.nullcontext()

    def known(self) -> Mapping[str, Known]:
        """What is known of the layers that were noted, by name."""
        return {}

    def order(self) -> list[str]:
        """The names of the layers that were noted, in the order of their first calls."""
        return [*map(_free, self.known())]

    def shapes_in(self, layer: str) -> dict[str, tuple[int, ...]]:
        """The shapes of the arrays of a layer, by the library's names within it."""
        prefix = f"{layer}." if layer else ""
        leaves = (leaf for arrays in self._places for leaf in arrays.leaves)
        return {
            leaf.name.removeprefix(prefix): leaf.shape
            for leaf in leaves
            if leaf.name.startswith(prefix)
        }

    def fits(self) -> bool:
        """Whether a layer that was noted has parameters of the model."""
        noted = self.known()
        return any(leaf.name.rpartition(".")[0] in noted for leaf in self._places[0].leaves)

    def unseen(self) -> str:
        """What of the model cannot be looked into, in words; "" for nothing."""
        return ""

    def explained(self, error: Exception) -> str:
        """The way out of an error of the library's; "" where it says it itself."""
        return ""

    def model(self) -> ForeignModel:
        """The modules, with the arrays that the user gave."""
        known = self.known()
        self.trained, self.states = (self._as_flax(one, known) for one in self._places)
        model = ForeignModel(self, known.get(""))
        for arrays, tree in zip((self.trained, self.states), self.trees(), strict=True):
            kinds = {leaf.name: leaf.kind for leaf in arrays.leaves}
            for name, array in arrays.named(tree).items():
                _place(model, name, kinds[name](array), known)
        return model

    def trees(self) -> tuple[Any, Any]:
        """The parameters and the other arrays, as the user gave them."""
        raise NotImplementedError

    @functools.cached_property
    def _places(self) -> tuple[Arrays, Arrays]:
        """The places of these, with the library's own names."""
        return self._given()

    def _given(self) -> tuple[Arrays, Arrays]:
        """Finds these places."""
        raise NotImplementedError

    def _as_flax(self, arrays: Arrays, known: Mapping[str, Known]) -> Arrays:
        """The places with flax's names and forms where the layer is known."""
        leaves = []
        for leaf in arrays.leaves:
            owner = _owner(leaf.name, known)
            if owner is None:
                leaves.append(dataclasses.replace(leaf, name=_free(leaf.name)))
                continue
            own = leaf.name[len(owner) + 1 :] if owner else leaf.name
            layer = known[owner]
            name = layer.names.get(own, own)
            form = layer.forms.get(own, Form())
            kind = nnx.BatchStat if name in ("mean", "var") else leaf.kind
            full = _free(join(owner, name))
            leaves.append(dataclasses.replace(leaf, name=full, form=form, kind=kind))
        return Arrays(arrays.form, tuple(leaves))


def _owner(name: str, known: Mapping[str, Known]) -> str | None:
    """The layer of the highest level that an array belongs to and whose arrays are renamed."""
    parts = name.split(".")
    owners = [".".join(parts[:i]) for i in range(len(parts))]
    return next((o for o in owners if o in known and (known[o].names or known[o].forms)), None)


def _place(
    model: ForeignModel, name: str, variable: nnx.Variable[Any], known: Mapping[str, Known]
) -> None:
    """Puts an array into the module of its layer."""
    module: Any = model
    *path, last = name.split(".")
    for i, part in enumerate(path):
        if part not in vars(module):
            layer = _own(".".join(path[: i + 1]))
            setattr(module, part, ForeignLayer(known.get(layer)))
        module = vars(module)[part]
    setattr(module, last, variable)


def arrays_in(
    tree: Any, kind: type[nnx.Variable[Any]], rename: Callable[[str], str] = str
) -> Arrays:
    """The places of the arrays of a pytree.

    Args:
        tree: The pytree.
        kind: The class of the variables that hold them.
        rename: A function of the name of a leaf that gives its dotted name.
    """
    own, form = jax.tree_util.tree_flatten_with_path(tree)
    names = [rename(dotted(path)) for path, _ in own]
    shapes = [tuple(jnp.shape(array)) for _, array in own]
    leaves = (Leaf(name, shape, kind) for name, shape in zip(names, shapes, strict=True))
    return Arrays(form, tuple(leaves))


def called(
    layer: ForeignLayer, proceed: Callable[..., Any], args: Sequence[Any], kwargs: Any
) -> Any:
    """The output of a call of the library's layer, which goes through the module of that layer.

    What a layer calls of itself, as by super().__call__, is a part of its call.
    """
    if any(one is layer for one in _called.get()):
        return proceed(*args, **kwargs)
    token, inside = _proceed.set(proceed), _called.set((*_called.get(), layer))
    try:
        return layer(*args, **kwargs)
    finally:
        _proceed.reset(token)
        _called.reset(inside)


def filled(
    title: str, function: Callable[..., Any], given: int, kwargs: Mapping[str, Any],
    more: Mapping[str, Any] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """The arguments of a forward pass by keyword, with those that say that the model is trained.

    Args:
        title: What errors call the model.
        function: The forward pass.
        given: How many arguments it is given by position.
        kwargs: Those that it is given by keyword.
        more: Further arguments, for the parameters of these names that it has.

    Raises:
        SubjectError: It needs another argument.
    """
    found = dict(kwargs)
    parameters = [*inspect.signature(function).parameters.values()]
    known = {**FLAGS, **(more or {})}
    for i, one in enumerate(parameters):
        by_position = one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD)
        if one.name in found or (by_position and i < given):
            continue
        if one.name in known and one.kind is not one.POSITIONAL_ONLY:
            found[one.name] = known[one.name]
        elif one.default is one.empty and one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD):
            raise SubjectError(
                f"check: model: the forward pass of the {title} needs {one.name!r}, which the loss "
                f"does not give it; what says that the model is trained may be called "
                f"{', '.join(FLAGS)}. Write the loss yourself, as a function of (model, batch) "
                f"that calls model(inputs, {one.name}=...)"
            )
    return found


def is_kind(module: Any, kinds: Any) -> bool:
    """Whether a layer is one of these classes of flax.nnx, of whatever library it comes from."""
    known = known_of(module)
    own = type(module) if known is None or known.kind is None else known.kind
    return issubclass(own, kinds)


def known_of(module: Any) -> Known | None:
    """What is known of a layer of another library; None for one of flax.nnx."""
    found: Known | None = vars(module)["_known"] if isinstance(module, ForeignLayer) else None
    return found


def class_of(module: Any) -> type:
    """The class of a layer in the library that it comes from."""
    known = known_of(module)
    return type(module) if known is None else known.cls


def float32_names(module: Any) -> list[str]:
    """The attributes of a layer in which it names float32."""
    found = []
    for name in ("dtype", "param_dtype"):
        own = inspect.getattr_static(module, name, None)  # a property is computed, and not kept
        with contextlib.suppress(TypeError):  # no dtype, but something of the user's own
            if own is not None and jnp.dtype(own) == jnp.float32:
                found.append(name)
    return found


@contextlib.contextmanager
def as_float64(module: Any) -> Iterator[None]:
    """Lets a layer that names float32 compute in float64 inside."""
    before = {name: getattr(module, name) for name in float32_names(module)}
    try:
        for name in before:
            object.__setattr__(module, name, jnp.float64)
        yield
    finally:
        for name, own in before.items():
            object.__setattr__(module, name, own)


def heads_of(kernel: tuple[int, ...], heads: int) -> tuple[int, int, int]:
    """The shape (in, heads, size) of a projection (in, heads * size)."""
    return kernel[0], heads, math.prod(kernel[1:]) // heads


def norm_names(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, str]:
    """The names that an nnx.BatchNorm has for the arrays of a layer of the user's own.

    Args:
        shapes: The shapes of its arrays by name.

    Returns:
        They by its own names; {} for a layer of another kind.
    """
    floats = {name: shape for name, shape in shapes.items() if math.prod(shape) > 1}
    if len({math.prod(shape) for shape in floats.values()}) != 1:
        return {}
    found = {}
    for name in floats:
        first, _, last = name.partition(".")
        words = {word for word in ("mean", "var", "scale", "bias") if word in name.lower()}
        if len(words) == 1:
            found[name] = words.pop()
        elif last in ("0", "1"):  # a pair of the two
            found[name] = ("mean", "var")[int(last)]
        else:
            found[name] = {**_SCALES, **_OFFSETS}.get(first.lower(), "")
    right = {"scale", "bias", "mean", "var"}
    complete = {*found.values()} <= right and {*found.values()} >= {"mean", "var"}
    return found if complete and len({*found.values()}) == len(found) else {}


_SCALES = dict.fromkeys(("weight", "gamma", "w", "g"), "scale")
_OFFSETS = dict.fromkeys(("offset", "beta", "b"), "bias")
