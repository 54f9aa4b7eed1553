"""The state of a training run as one pytree."""

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Generic, Self, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.typing import DTypeLike

from jaxnet._mixed_precision import cast_floats
from jaxnet._names import named_variables
from jaxnet.precision import check_x64
from jaxnet.train._wiring import check_average, check_optimizer, optimizer_text

M = TypeVar("M", bound=nnx.Module)
Arrays = dict[str, jax.Array]


@dataclasses.dataclass(frozen=True, repr=False)
class Structure(Generic[M]):
    """A model without its numbers; hashable, so that it can be a static part of a pytree."""

    graphdef: nnx.GraphDef[M]
    paths: tuple[tuple[str, tuple[Any, ...]], ...]

    def __repr__(self) -> str:
        return f"Structure({self.model_name}, {len(self.paths)} arrays)"

    @property
    def model_name(self) -> str:
        """The name of the model's class."""
        return getattr(self.graphdef.nodes[0], "type", type(self)).__name__


def split(model: M) -> tuple[Structure[M], Arrays, Arrays]:
    """Separates a model into its structure, parameters and buffers.

    Args:
        model: The model, any flax.nnx module; it is not changed.

    Returns:
        The structure, then two flat dictionaries of arrays under torch's dotted names
        ("fc1.weight"), of the parameters and of the buffers. A parameter with several names
        is there once, under the first of them. What `sow` has recorded in the model is left
        out, since it belongs to one call.
    """
    parts: Any = nnx.split(model, nnx.Param, nnx.Intermediate, ...)
    graphdef, params, sown, buffers = parts
    if sown:
        model = nnx.merge(graphdef, params, sown, buffers)
        nnx.pop(model, nnx.Intermediate)
        return split(model)
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
    """For each name of a variable the first of the variable's names, in torch's order.

    Flax names a shared variable by the first of its names in alphabetical order.
    """
    # A module of plain flax loses the order of its assignments when it is merged.
    if not hasattr(model, "named_parameters"):
        return {}
    first: dict[int, str] = {}
    return {
        name: first.setdefault(id(variable), name)
        for name, variable in named_variables(model, remove_duplicate=False)
    }


def merge(structure: Structure[M], params: Arrays, buffers: Arrays) -> M:
    """Builds a model from what `split` returned: a new object that shares nothing with the old.

    Args:
        structure: The structure.
        params: The parameters by name.
        buffers: The buffers by name.
    """
    arrays = {**params, **buffers}
    state = nnx.from_flat_state([(path, arrays[name]) for name, path in structure.paths])
    return nnx.merge(structure.graphdef, state)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, repr=False)
class TrainState(Generic[M]):
    """A training run between two steps: a pytree that no step changes in place.

    Where PyTorch keeps these in the module, the optimizer and the global generator, a step
    takes the whole state and returns a new one.

    Attributes:
        step: The number of steps that are done, an int32 scalar.
        params: The parameters by torch's dotted names, such as "fc1.weight".
        buffers: The arrays that are not trained, such as running statistics, by name.
        opt_state: The state of the optimizer.
        key: The random key of the run; a step uses `fold_in(key, step)`.
        average: The state of a running average of the weights, or None.
        structure: The model without its numbers; a static part of the pytree.
        optimizer: The text form of the optimizer that `create` was given, static too, by which a
            step knows that it has the same numbers; "" for one that is not of jaxnet.
        cast: The dtype that `create` was given, static too, to which a step casts the floating
            arrays of its batch; None where batches stay as they are.
    """

    step: jax.Array
    params: Arrays
    buffers: Arrays
    opt_state: Any
    key: jax.Array
    structure: Structure[M] = dataclasses.field(metadata={"static": True})
    average: Any = None
    optimizer: str = dataclasses.field(default="", metadata={"static": True})
    # Not named `dtype`: NumPy takes what has that attribute for an array.
    cast: np.dtype[Any] | None = dataclasses.field(default=None, metadata={"static": True})

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
        """The model with the numbers of this state, as a new object.

        Args:
            averaged: Whether the model has the running average of the weights.
            training: Whether the model is in training mode; by default it is in evaluation
                mode, unlike a new module of PyTorch.

        Raises:
            ValueError: `averaged` is True and the state has no running average.
        """
        source: Any = self.average if averaged else self
        if source is None:
            raise ValueError("averaged: this state keeps no average; give `average` to create")
        model = merge(self.structure, source.params, source.buffers)
        _ = model.train() if training else model.eval()
        return model

    def replace(self, **changes: Any) -> Self:
        """A copy of the state with some fields changed.

        Args:
            **changes: The new values of the fields, by name.
        """
        return dataclasses.replace(self, **changes)


def create(
    model: M,
    optimizer: optax.GradientTransformation,
    seed: int = 0,
    average: Any = None,
    dtype: DTypeLike | None = None,
) -> TrainState[M]:
    """The training state before the first step.

    Args:
        model: The model. Its numbers are copied, so it can be used and changed afterwards.
        optimizer: The optimizer of the training step.
        seed: The seed of the run's random key, for dropout and the like.
        average: An `optim.AveragedModel`, to keep a running average of the weights; None for
            no average.
        dtype: The dtype of the whole run, such as jnp.float64 for PyTorch's `model.double()` and
            `x.double()`: floating parameters and buffers are cast to it here, so that the
            optimizer's state has it too, and the floating arrays of every batch in the steps, in
            evaluation and in prediction. Integers stay. None leaves all as it is.

    Raises:
        TypeError: The model is no module, the optimizer none, or the average none.
        ValueError: The dtype is no floating one, or float64 and jax_enable_x64 is not set.
    """
    if not isinstance(model, nnx.Module):
        raise TypeError(f"create: model: {type(model).__name__}; accepted is a flax.nnx module")
    check_optimizer("create", optimizer)
    check_average("create", average)
    kind = None if dtype is None else jnp.dtype(dtype)
    if kind is not None and not jnp.issubdtype(kind, jnp.floating):
        raise ValueError(f"create: dtype: {kind}; accepted is a floating dtype")
    check_x64("create: dtype", kind)
    # Copied, because a compiled step may be given the state's memory (donation), and the
    # model would be left with deleted arrays.
    structure, params, buffers = split(model)
    params, buffers = jax.tree.map(copied, (params, buffers))
    if kind is not None:
        params, buffers = cast_floats((params, buffers), kind)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        buffers=buffers,
        opt_state=optimizer.init(params),
        key=jax.random.key(seed),
        structure=structure,
        average=None if average is None else average.init(params, buffers),
        optimizer=optimizer_text(optimizer),
        cast=kind,
    )


@contextmanager
def keeping_attributes(model: nnx.Module) -> Iterator[None]:
    """Refuses a change of the model's plain attributes inside, which would be lost.

    A model is built anew in every step, and only its arrays (parameters and buffers) go on to the
    next one. An attribute that is first set inside is left alone: no step before can have set it.

    Raises:
        ValueError: An attribute that was there before has another value afterwards.
    """
    before = {id(m): (path, m, _plain(m)) for path, m in nnx.iter_modules(model)}
    yield
    for path, module, attributes in before.values():
        now = vars(module)
        for name, (old, inside) in attributes.items():
            new = now.get(name)
            simple = isinstance(old, bool | int | float | str | tuple) and type(old) is type(new)
            same = new is old or (simple and bool(np.all(new == old)))
            if not same or inside != _inside(new):
                where = ".".join(map(str, (*path, name)))
                raise ValueError(
                    f"model: the forward pass changes the attribute {where!r}, whose new value is "
                    f"lost after the step. Make it a buffer, self.{name} = nn.Buffer(jnp.zeros("
                    f"shape)) in __init__ and self.{name}[...] = value in __call__, for what the "
                    "next step needs; return it, or leave it out of __init__, for what only this "
                    "step's loss needs"
                )


def _plain(module: nnx.Module) -> dict[str, tuple[Any, Any]]:
    """The attributes that are no arrays or modules of the model, and what is in them."""
    modes = ("training", "deterministic", "use_running_average", "_members")
    return {
        name: (value, _inside(value))
        for name, value in vars(module).items()
        if name not in modes
        and not name.startswith(("_pytree__", "_object__"))
        and not isinstance(value, nnx.Module | nnx.Variable)
    }


def _inside(value: Any) -> Any:
    """What tells whether something was put into a list or a dictionary."""
    if isinstance(value, list | set):
        return list(map(id, value))
    return {k: id(v) for k, v in value.items()} if isinstance(value, dict) else None


def copied(x: Any) -> jax.Array:
    """A copy of an array, whose dtype is not weak.

    With a weak dtype the first step would compile another program than all later ones.
    """
    if isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        # device_put of random keys forgets their devices, and shares what lies on several.
        data = copied(jax.random.key_data(x))
        return jax.random.wrap_key_data(data, impl=jax.random.key_impl(x))
    traced = isinstance(x, jax.core.Tracer)  # as where only shapes are asked for
    if isinstance(x, jax.Array) and not traced and not x.is_fully_addressable:
        # device_put refuses what lies on devices of other processes too.
        parts = [jax.device_put(each.data, may_alias=False) for each in x.addressable_shards]
        return jax.make_array_from_single_device_arrays(x.shape, x.sharding, parts)
    # device_put needs no program, where jnp.copy compiles one for every shape, which was most
    # of the time that a model with many shapes took to start. But device_put copies only
    # arrays of JAX; it may share the memory of numpy's.
    if isinstance(x, jax.Array) and not getattr(x, "weak_type", False):
        return jax.device_put(x, may_alias=False)
    # jnp.array copies large arrays of numpy late, so that a write after it would show.
    return jnp.array(np.array(x) if isinstance(x, np.ndarray) else x, getattr(x, "dtype", None))
