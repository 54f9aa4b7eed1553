"""Models of dm-haiku: what hk.transform returns, its parameters, and its state."""

import dataclasses
import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import haiku as hk
import jax
from flax import nnx

from jaxnet.parity._foreign_model import (
    Arrays,
    ForeignModel,
    Form,
    Known,
    Library,
    arrays_in,
    called,
    filled,
    heads_of,
    norm_names,
)
from jaxnet.parity._port import SubjectError

# The first class that fits counts.
_KINDS: tuple[tuple[type, type], ...] = (
    (hk.MultiHeadAttention, nnx.MultiHeadAttention),
    (hk.Linear, nnx.Linear),
    (hk.ConvND, nnx.Conv),
    (hk.ConvNDTranspose, nnx.ConvTranspose),
    (hk.Embed, nnx.Embed),
    (hk.BatchNorm, nnx.BatchNorm),
    (hk.LayerNorm, nnx.LayerNorm),
    (hk.RMSNorm, nnx.RMSNorm),
    (hk.GroupNorm, nnx.GroupNorm),
)
_NAMES = {
    "w": "kernel",
    "b": "bias",
    "offset": "bias",
    "embeddings": "embedding",
    # What haiku's own BatchNorm computes with in evaluation.
    "mean_ema.average": "mean",
    "var_ema.average": "var",
}


class Haiku(Library):
    """A model of dm-haiku.

    Args:
        transformed: What hk.transform or hk.transform_with_state returns.
        params: Its parameters.
        state: Its state, of hk.transform_with_state.
    """

    title = "haiku model"

    def __init__(self, transformed: Any, params: Any, state: Any = None) -> None:
        # None within a step of the user's own, which calls it.
        self.transformed, self.params = transformed, params
        self.with_state = isinstance(transformed, hk.TransformedWithState)
        if transformed is not None and self.with_state != (state is not None):
            kind, forms = (
                ("hk.transform_with_state", "(transformed, params, state)")
                if self.with_state
                else ("hk.transform", "(transformed, params)")
            )
            raise SubjectError(
                f"check: model: one of {kind} {'without' if self.with_state else 'with'} a state; "
                f"accepted is {forms}, what its init returns"
            )
        self.state = {} if state is None else state
        self._noted: dict[str, Any] = {}

    def trees(self) -> tuple[Any, Any]:
        return self.params, self.state

    def _given(self) -> tuple[Arrays, Arrays]:
        kinds = (self.params, nnx.Param), (self.state, nnx.Variable)
        trained, states = (arrays_in(tree, kind, _named) for tree, kind in kinds)
        return trained, states

    def known(self) -> Mapping[str, Known]:
        found = {}
        for name, module in self._noted.items():
            own = self.shapes_in(name)
            parts = name.split(".")
            owners = (".".join(parts[: i + 1]) for i in range(len(parts)))
            counted = any(_is_counted(o, self._noted[o]) for o in owners if o in self._noted)
            found[name] = dataclasses.replace(_known(module, own), counted=counted)
        return found

    @contextmanager
    def noting(self) -> Iterator[None]:
        def note(proceed: Any, args: Any, kwargs: Any, context: Any) -> Any:
            if context.method_name == "__call__":
                self._noted.setdefault(_named(context.module.module_name), context.module)
            return proceed(*args, **kwargs)

        with hk.intercept_methods(note):
            yield

    def run(self, model: ForeignModel, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        apply = self.transformed.apply
        original = getattr(apply, "_original_fn", None)
        given = dict(kwargs)
        if original is not None:
            given = filled(self.title, original, len(args), kwargs)
        layers = model.layers()

        def meet(proceed: Any, args: Any, kwargs: Any, context: Any) -> Any:
            if context.method_name != "__call__":  # a module has no name before its __init__
                return proceed(*args, **kwargs)
            layer = layers.get(_named(context.module.module_name))
            if layer is None:
                return proceed(*args, **kwargs)
            return called(layer, proceed, args, kwargs)

        arrays = model.arrays()
        first: list[Any] = [self.trained.tree(arrays)]
        if self.with_state:
            first.append(self.states.tree(arrays))
        if "rng" in inspect.signature(apply).parameters:
            first.append(jax.random.key(0))
        with hk.intercept_methods(meet):
            found = apply(*first, *args, **given)
        if not self.with_state:
            return found
        output, state = found
        model.put(self.states.named(state))
        return output

    def explained(self, error: Exception) -> str:
        words = str(error)
        if "non-stateful" in words or "get_state" in words or "set_state" in words:
            return (
                "the model has a state: transform it with hk.transform_with_state, and give "
                "(transformed, params, state)"
            )
        if "Unable to retrieve" in words:
            return (
                "the params or the state that were given are not all of the model's: give what its "
                "init returns"
            )
        return ""


def _named(name: str) -> str:
    """The dotted name of a module, or of an array of it."""
    return ".".join(part for part in name.split("/") if part != "~").replace(".~.", ".")


def _is_counted(name: str, module: Any) -> bool:
    """Whether haiku has named a module after its class: linear, linear_1."""
    last = re.sub(r"_\d+$", "", name.rpartition(".")[2])
    return last == re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", type(module).__name__).lower()


def _known(module: Any, shapes: Mapping[str, tuple[int, ...]]) -> Known:
    kind = next((ours for theirs, ours in _KINDS if isinstance(module, theirs)), None)
    names: dict[str, str] = {}
    forms: dict[str, Form] = {}
    config: dict[str, Any] = {}
    if kind is nnx.MultiHeadAttention:
        for own, shape in shapes.items():
            part, _, array = own.rpartition(".")
            heads = module.num_heads
            size = shape[-1] // heads
            names[own] = f"{'out' if part == 'linear' else part}.{_NAMES.get(array, array)}"
            if part == "linear" and array == "w":
                forms[own] = Form(shape=(heads, shape[0] // heads, shape[1]))
            elif part != "linear":
                forms[own] = Form(shape=heads_of(shape, heads) if array == "w" else (heads, size))
    elif kind is not None:
        names = {own: _NAMES.get(own, own) for own in shapes}
        for own, shape in shapes.items():
            if kind is nnx.ConvTranspose and own == "w":
                forms[own] = Form((*range(len(shape) - 2), len(shape) - 1, len(shape) - 2))
                config["transpose_kernel"] = False
            elif own in ("b", "scale", "offset", "mean_ema.average", "var_ema.average"):
                forms[own] = Form(shape=(max(shape, default=1),))
    elif norms := norm_names(shapes):
        kind, names = nnx.BatchNorm, norms
        forms = {own: Form(shape=(max(shapes[own]),)) for own in norms}
    data_format = getattr(module, "data_format", None) or getattr(module, "channel_index", "")
    first = str(data_format).startswith("NC") or data_format == 1
    return Known(type(module), kind, names, forms, config, first)
