"""Models of flax.linen: a module and its variables."""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import flax.linen as linen
import jax
from flax import nnx
from flax.core import unfreeze
from flax.errors import FlaxError

from jaxnet.parity._foreign_model import (
    Arrays,
    ForeignModel,
    Known,
    Leaf,
    Library,
    arrays_in,
    as_float64,
    called,
    filled,
    norm_names,
)
from jaxnet.parity._port import SubjectError

# Where the two have the same arrays under the same names. The first class that fits counts.
_KINDS: tuple[tuple[type, type], ...] = (
    (linen.MultiHeadDotProductAttention, nnx.MultiHeadAttention),
    (linen.Dense, nnx.Linear),
    (linen.DenseGeneral, nnx.LinearGeneral),
    (linen.ConvTranspose, nnx.ConvTranspose),
    (linen.Conv, nnx.Conv),
    (linen.Embed, nnx.Embed),
    (linen.PReLU, nnx.PReLU),
    (linen.BatchNorm, nnx.BatchNorm),
    (linen.LayerNorm, nnx.LayerNorm),
    (linen.RMSNorm, nnx.RMSNorm),
    (linen.GroupNorm, nnx.GroupNorm),
    (linen.InstanceNorm, nnx.InstanceNorm),
    (linen.LSTMCell, nnx.LSTMCell),
    (linen.OptimizedLSTMCell, nnx.LSTMCell),  # no subclass of it, with the same arrays
    (linen.RNN, nnx.RNN),
    (linen.Bidirectional, nnx.Bidirectional),
)
_RENAMED: Mapping[type, Mapping[str, str]] = {
    nnx.LSTMCell: {"if.kernel": "if_.kernel"},
}


class Linen(Library):
    """A model of flax.linen.

    Args:
        module: The module.
        variables: Its variables, what `module.init` returns.
    """

    title = "flax.linen model"

    def __init__(self, module: Any, variables: Mapping[str, Any]) -> None:
        self.module = module  # None within a step of the user's own, which calls it
        self.variables = unfreeze(dict(variables))
        self._noted: dict[str, Any] = {}
        if "params" not in self.variables:
            raise SubjectError(
                f"check: model: the variables of the flax.linen model have the collections "
                f"{', '.join(map(str, self.variables)) or 'none'}; accepted is what module.init "
                'returns, a dictionary {"params": ..., "batch_stats": ...}'
            )

    def trees(self) -> tuple[Any, Any]:
        rest = {name: tree for name, tree in self.variables.items() if name != "params"}
        return self.variables["params"], rest

    def _given(self) -> tuple[Arrays, Arrays]:
        params, rest = self.trees()
        trained, states = arrays_in(params, nnx.Param), arrays_in(rest, nnx.Variable)
        taken = {leaf.name for leaf in trained.leaves}
        leaves = []
        for leaf in states.leaves:  # a layer's statistics are arrays of the layer
            collection, _, name = leaf.name.partition(".")
            name = name if name not in taken else f"{name}#{collection}"
            taken.add(name)
            kind = nnx.BatchStat if collection == "batch_stats" else nnx.Variable
            leaves.append(Leaf(name, leaf.shape, kind))
        return trained, Arrays(states.form, tuple(leaves))

    def known(self) -> Mapping[str, Known]:
        return {n: _known(module, self.shapes_in(n)) for n, module in self._noted.items()}

    @contextmanager
    def noting(self) -> Iterator[None]:
        def note(proceed: Any, args: Any, kwargs: Any, context: Any) -> Any:
            if context.method_name == "__call__":
                self._noted.setdefault(".".join(context.module.path), context.module)
            return proceed(*args, **kwargs)

        with linen.intercept_methods(note):
            yield

    @contextmanager
    def wide(self) -> Iterator[None]:
        def widened(proceed: Any, args: Any, kwargs: Any, context: Any) -> Any:
            with as_float64(context.module):
                return proceed(*args, **kwargs)

        with linen.intercept_methods(widened):
            yield

    def run(self, model: ForeignModel, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        arrays = model.arrays()
        rest = self.states.tree(arrays)
        given = filled(self.title, type(self.module).__call__, len(args) + 1, kwargs)
        layers = model.layers()

        def meet(proceed: Any, args: Any, kwargs: Any, context: Any) -> Any:
            layer = layers.get(".".join(context.module.path))
            if layer is None or context.method_name != "__call__":
                return proceed(*args, **kwargs)
            return called(layer, proceed, args, kwargs)

        wide = self.wide() if model.double else nullcontext()
        with linen.intercept_methods(meet), wide:
            found = self.module.apply(
                {"params": self.trained.tree(arrays), **rest},
                *args,
                rngs={"params": jax.random.key(0)},  # the others come from it
                mutable=[*rest] or False,
                **given,
            )
        if not rest:
            return found
        output, changed = found
        after = {**rest, **unfreeze(changed)}
        structure: Any = jax.tree.structure
        grown = [name for name, tree in after.items() if structure(tree) != structure(rest[name])]
        if grown:
            kept = ", ".join(name for name in self.variables if name not in grown)
            raise SubjectError(
                f"check: model: a call of the flax.linen model adds to the collection "
                f"{', '.join(map(repr, grown))}, as its sow does. Leave out of the variables what "
                f"grows with each call, and give {kept}"
            )
        model.put(self.states.named(after))
        return output

    def explained(self, error: Exception) -> str:
        if not isinstance(error, FlaxError | ValueError):
            return ""
        words = str(error)
        if "collection" in words or "Collection" in type(error).__name__:
            own = ", ".join(self.variables)
            return (
                f"the variables that were given have the collections {own}. Give all that "
                "module.init returns, (module, module.init(key, inputs))"
            )
        if "use_running_average" in words or "deterministic" in words:
            return (
                "nothing says that the model is trained: give its __call__ an argument train that "
                "its layers are told by, or write the loss yourself, as a function of (model, "
                "batch) that calls model(inputs, ...) with what it needs"
            )
        return ""


def _known(module: Any, shapes: Mapping[str, tuple[int, ...]]) -> Known:
    kind = next((ours for theirs, ours in _KINDS if isinstance(module, theirs)), None)
    names = {} if kind is None else _RENAMED.get(kind, {})
    config: dict[str, Any] = {}
    if kind is nnx.ConvTranspose:
        config["transpose_kernel"] = module.transpose_kernel
    elif kind is nnx.LinearGeneral:
        config["out_features"] = module.features
    elif kind is nnx.RNN:
        config |= {"time_major": module.time_major, "reverse": module.reverse}
    elif kind is nnx.Bidirectional:
        config["time_major"] = module.time_major
    elif kind is None and (norms := norm_names(shapes)):
        kind, names = nnx.BatchNorm, norms
    # Linen's own names, as Dense_0.
    counted = any(re.fullmatch(r"[A-Z]\w*_\d+", part) for part in module.path)
    return Known(type(module), kind, names, {}, config, counted=counted)
