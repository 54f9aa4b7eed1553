"""The whole of a training run as one pytree."""

import dataclasses
from typing import Any, Generic, Self, TypeVar

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from jaxnet._names import named_variables

M = TypeVar("M", bound=nnx.Module)
Arrays = dict[str, jax.Array]


@dataclasses.dataclass(frozen=True, repr=False)
class Structure(Generic[M]):
    """What a model is apart from its numbers; hashable, so that it can be static."""

    graphdef: nnx.GraphDef[M]
    paths: tuple[tuple[str, tuple[Any, ...]], ...]

    def __repr__(self) -> str:
        return f"Structure({self.model_name}, {len(self.paths)} arrays)"

    @property
    def model_name(self) -> str:
        """The name of the model's class."""
        return getattr(self.graphdef.nodes[0], "type", type(self)).__name__


def split(model: M) -> tuple[Structure[M], Arrays, Arrays]:
    """Takes a model apart into structure, parameters and buffers.

    Returns:
        The structure, then two flat dictionaries under torch's dotted names
        ("fc1.weight"). A parameter that is used at several places is there once,
        under the first of its names.
    """
    parts: Any = nnx.split(model, nnx.Param, ...)
    graphdef, params, buffers = parts
    first_names = _first_names(model)
    paths: list[tuple[str, tuple[Any, ...]]] = []
    arrays: list[Arrays] = []
    for state in (params, buffers):
        flat = {}
        for path, variable in nnx.to_flat_state(state):
            name = ".".join(map(str, path))
            name = first_names.get(name, name)
            flat[name] = variable[...]
            paths.append((name, path))
        arrays.append(flat)
    return Structure(graphdef, tuple(paths)), arrays[0], arrays[1]


def _first_names(model: Any) -> dict[str, str]:
    """Every name of a variable to its first in torch's order; flax takes the alphabet's first."""
    if not hasattr(model, "named_parameters"):
        return {}  # plain flax knows no order of assignments once a model was put together again
    first: dict[int, str] = {}
    return {
        name: first.setdefault(id(variable), name)
        for name, variable in named_variables(model, remove_duplicate=False)
    }


def merge(structure: Structure[M], params: Arrays, buffers: Arrays) -> M:
    """Puts a model together again: a new object that owns none of the old one."""
    arrays = {**params, **buffers}
    state = nnx.from_flat_state([(path, arrays[name]) for name, path in structure.paths])
    return nnx.merge(structure.graphdef, state)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, repr=False)
class TrainState(Generic[M]):
    """A training run between two steps: a pytree that no step changes in place.

    Attributes:
        step: how many steps are done, int32.
        params: what is trained, by torch's dotted names.
        buffers: what is kept but not trained (running statistics), by name.
        opt_state: the optimizer's state.
        key: the run's random key; a step uses `fold_in(key, step)`.
        average: the state of a running average of the weights, or None.
        structure: the model without its numbers; static.
    """

    step: jax.Array
    params: Arrays
    buffers: Arrays
    opt_state: Any
    key: jax.Array
    structure: Structure[M] = dataclasses.field(metadata={"static": True})
    average: Any = None

    def __repr__(self) -> str:
        arrays = [x for x in jax.tree.leaves(self.params) if hasattr(x, "size")]
        numbers = sum(x.size for x in arrays)
        optimizer = len(jax.tree.leaves(self.opt_state))
        step = "" if isinstance(self.step, jax.core.Tracer) else f"step {self.step}, "
        return (
            f"TrainState({step}{self.structure.model_name}: {numbers:,} numbers in "
            f"{len(self.params)} parameters, {len(self.buffers)} buffers, {optimizer} arrays of "
            f"the optimizer{', with an average' if self.average is not None else ''})"
        )

    def model(self, averaged: bool = False, training: bool = False) -> M:
        """The model with the numbers of this state: a new object that shares none of it.

        Args:
            averaged: Whether it has the running average of the weights.
            training: Whether it is in training mode; in evaluation mode by default.

        Raises:
            ValueError: `averaged`, and the state keeps no average.
        """
        source: Any = self.average if averaged else self
        if source is None:
            raise ValueError("averaged: this state keeps no average; give `average` to create")
        model = merge(self.structure, source.params, source.buffers)
        _ = model.train() if training else model.eval()
        return model

    def replace(self, **changes: Any) -> Self:
        """A copy with some fields changed."""
        return dataclasses.replace(self, **changes)


def create(
    model: M, optimizer: optax.GradientTransformation, seed: int = 0, average: Any = None
) -> TrainState[M]:
    """The state before the first step.

    Args:
        model: its numbers are copied; it can be used and changed afterwards.
        optimizer: the transformation that the step will apply.
        seed: of the run's random key (dropout and the like).
        average: `optim.AveragedModel`, to keep a running average of the weights.

    Raises:
        TypeError: The model is no module, or the optimizer none.
    """
    if not isinstance(model, nnx.Module):
        raise TypeError(f"create: model: {type(model).__name__}; accepted is a flax.nnx module")
    check_optimizer("create", optimizer)
    structure, params, buffers = split(model)
    params, buffers = jax.tree.map(copied, (params, buffers))
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        buffers=buffers,
        opt_state=optimizer.init(params),
        key=jax.random.key(seed),
        structure=structure,
        average=None if average is None else average.init(params, buffers),
    )


def check_optimizer(owner: str, optimizer: Any) -> None:
    """Raises TypeError if it is no optimizer, but the function that makes one, for example."""
    if not (hasattr(optimizer, "init") and hasattr(optimizer, "update")):
        raise TypeError(
            f"{owner}: optimizer: {optimizer!r}; accepted is an optimizer of jaxnet.optim or "
            "optax, such as optim.SGD(lr=0.1)"
        )


def copied(x: Any) -> jax.Array:
    """A copy whose type is plain: a weak one would make the compiled step another program."""
    if isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        # device_put of random keys forgets their devices, and shares what lies on several.
        data = copied(jax.random.key_data(x))
        return jax.random.wrap_key_data(data, impl=jax.random.key_impl(x))
    # device_put makes no program, where jnp.copy compiles one for every shape: most of what
    # a model with many shapes took to start. It copies arrays of jax only: NumPy's it shares.
    if isinstance(x, jax.Array) and not getattr(x, "weak_type", False):
        return jax.device_put(x, may_alias=False)
    return jnp.array(x, dtype=getattr(x, "dtype", None))
