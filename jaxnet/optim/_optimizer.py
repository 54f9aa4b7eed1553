"""The parts of every optimizer: its state, its hyperparameters, the loop over parameters."""

import functools
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType, SimpleNamespace
from typing import Any, NamedTuple, ParamSpec, Self

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax import lax

from jaxnet import _hints as hints
from jaxnet._names import named_leaves
from jaxnet.precision import promoted

Scalars = dict[str, jax.Array]


class OptimizerState(NamedTuple):
    """The state of every optimizer of `jaxnet.optim`; all that can change is an array.

    Attributes:
        step: The number of updates so far, int32.
        missed: The number of these updates in which each parameter had no gradient, int32, in
            the order of the pytree's leaves. Torch's "step" of a parameter is `step - missed`.
        hyperparams: The hyperparameters by name, 0-d arrays. A number b that the rule also
            uses as 1 - b is stored as `one_minus_b`: 1 - 0.999 is 0.001 to seven digits in
            double precision, but only to four after 0.999 has been rounded to float32.
        shared: Further numbers that change from step to step, by name: for each parameter one,
            which depends only on how often the parameter had a gradient.
        slots: The arrays of each parameter by torch's name ("exp_avg", ...), as pytrees
            like the parameters, in the parameters' dtypes.
    """

    step: jax.Array
    missed: jax.Array
    hyperparams: Scalars
    shared: Scalars
    slots: dict[str, Any]


class Optimizer(optax.GradientTransformationExtraArgs):  # type: ignore[misc]  # optax has no types
    """An optax transformation that also has the arguments that it was built with.

    `update(grads, state, params, has_gradient={"head.weight": False})` leaves a parameter and its
    slots alone, as torch does where `grad` is None; parameters that are not named have a gradient.

    Attributes:
        name: The name of torch's class.
        defaults: The values of torch's arguments by name, in double precision.
        groups: The optimizers of the parameter groups. An optimizer without groups is
            itself its only group.
        partition: A function of the parameters that gives the names of the parameters in
            each group.
    """

    name: str
    defaults: dict[str, Any]
    partition: Callable[[Any], list[list[str]]]
    _groups: tuple["Optimizer", ...] | None

    def __new__(
        cls,
        init: Callable[[Any], Any],
        update: Callable[..., tuple[Any, Any]],
        name: str = "",
        defaults: Mapping[str, Any] | None = None,
        groups: tuple["Optimizer", ...] | None = None,
        partition: Callable[[Any], list[list[str]]] | None = None,
    ) -> Self:
        self = super().__new__(cls, init, update)
        self.partition = partition or (lambda params: [list(named_leaves(params))])
        self.name = name
        self.defaults = dict(defaults or {})
        self._groups = groups
        return self

    def around(
        self, name: str, init: Callable[[Any], Any], update: Callable[..., tuple[Any, Any]]
    ) -> "Optimizer":
        """A transformation around this one that has the same parameter groups."""
        return Optimizer(init, update, name, None, self.groups, self.partition)

    def __getattr__(self, name: str) -> Any:
        # Python calls this only if there is no such attribute.
        raise hints.missing_attribute(self, name, hints.OPTIMIZER)

    @property
    def groups(self) -> tuple["Optimizer", ...]:
        return (self,) if self._groups is None else self._groups

    def __repr__(self) -> str:
        if self._groups is not None:
            return f"{self.name}({', '.join(map(repr, self._groups))})"
        return f"{self.name}({', '.join(f'{k}={v}' for k, v in self.defaults.items())})"


Rounding = Callable[[jax.Array], jax.Array]

Rule = Callable[..., tuple[jax.Array, dict[str, jax.Array | None]]]
"""`rule(param, grad, state, hyper, rounded)` gives (change, new state).

The mathematics of an optimizer for one parameter, an array of any shape. `param` and its
gradient `grad` are in float32 or float64, whatever is stored. `state` is what torch keeps for the
parameter, by torch's names (`state["exp_avg"]`), and the second result is the same after the
step. `hyper` has the hyperparameters as attributes (`hyper.lr`), and with them the numbers
of this step (the `scalars` of `make_optimizer`). `rounded` rounds to the dtype
that the parameter is stored in; it stands where torch stores an intermediate result, so that
bfloat16 runs are torch's too, and does nothing for float32. The change is added to the
parameter, so that it goes downhill with a minus sign.
"""


def zeros(param: jax.Array, hyperparams: Scalars) -> jax.Array:
    """Zeros like the parameter: the first value of most slots."""
    del hyperparams
    return jnp.zeros_like(param)


def make_optimizer(
    name: str,
    defaults: Mapping[str, Any],
    hyperparams: Mapping[str, Any],
    rule: Rule,
    slots: Mapping[str, Callable[[jax.Array, Scalars], jax.Array | None]] | None = None,
    scalars: Callable[[SimpleNamespace, jax.Array], dict[str, Any]] | None = None,
    shared: Mapping[str, Callable[[Scalars], jax.Array]] | None = None,
    check_leaf: Callable[[str, jax.Array], None] | None = None,
) -> Optimizer:
    """Makes an optimizer from the rule for one parameter.

    Args:
        name: The name of torch's class.
        defaults: The values of torch's arguments by name. With `maximize` among them the
            sign of the gradient is turned round.
        hyperparams: The hyperparameters in the state, by name. A weight_decay of 0 is left
            out.
        rule: The mathematics for one parameter, a `Rule`.
        slots: The functions of (parameter, hyperparameters) that give the first value of
            each slot.
        scalars: The function of (hyper, t) that gives the numbers of a step. t counts for each
            parameter the steps in which it had a gradient, this one included (a float array
            (parameters,)); a number is 0-d or has this shape too. Those whose names are in
            `shared` are stored for the next step.
        shared: The functions of the hyperparameters that give the first value of each
            shared number in the state.
        check_leaf: A function of (name, parameter) that raises an error if the rule does
            not work for the parameter.
    """
    slots, shared = dict(slots or {}), dict(shared or {})
    maximize = bool(defaults.get("maximize", False))
    # A weight_decay of 0 in the state would be data, and every step would read all parameters
    # once more to multiply them by it.
    hyperparams = {
        key: value for key, value in hyperparams.items() if key != "weight_decay" or given(value)
    }

    def init(params: Any) -> OptimizerState:
        for where, leaf in named_leaves(params).items():
            if not jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
                raise TypeError(
                    f"{name}: parameter {where!r} is of dtype {jnp.result_type(leaf)}; "
                    "only real floating-point parameters can be trained"
                )
            if check_leaf is not None:
                check_leaf(where, leaf)
        h = {key: jnp.asarray(value, jnp.result_type(float)) for key, value in hyperparams.items()}
        leaves: list[Any]
        treedef: Any
        leaves, treedef = jax.tree.flatten(params)
        leaves = [jnp.asarray(leaf) for leaf in leaves]
        return OptimizerState(
            step=jnp.zeros((), jnp.int32),
            missed=jnp.zeros(len(leaves), jnp.int32),
            hyperparams=h,
            shared={key: jnp.full(len(leaves), begin(h)) for key, begin in shared.items()},
            slots={
                key: treedef.unflatten([begin(leaf, h) for leaf in leaves])
                for key, begin in slots.items()
            },
        )

    def update(
        grads: Any,
        state: OptimizerState,
        params: Any = None,
        *,
        has_gradient: Mapping[str, Any] = MappingProxyType({}),
        **extra: Any,
    ) -> tuple[Any, OptimizerState]:
        del extra
        if params is None:
            raise ValueError(f"{name}: update(grads, state, params) needs the parameters")
        treedef: Any
        leaves, treedef = jax.tree.flatten(params)
        # Torch leaves a parameter whose grad is None alone, momentum, decay and step included.
        has = [has_gradient.get(where, True) for where in named_leaves(params)]
        flat_grads = treedef.flatten_up_to(grads)
        flat_slots = {key: treedef.flatten_up_to(tree) for key, tree in state.slots.items()}
        step, missed = state.step + 1, state.missed
        known = {**state.hyperparams, **state.shared}
        if "weight_decay" in known:
            known["keep"] = 1 - known["lr"] * known["weight_decay"]
        if scalars is not None:
            t = (step - missed).astype(jnp.result_type(float))
            known |= scalars(SimpleNamespace(**known), t)
        now_shared = {key: known[key] for key in shared}
        if not all(given is True for given in has):
            counts = jnp.stack([jnp.asarray(given, bool) for given in has])
            missed = jnp.where(counts, missed, missed + 1)
            now_shared = {k: jnp.where(counts, v, state.shared[k]) for k, v in now_shared.items()}
        # The numbers are cast once for each dtype among the parameters.
        cast: dict[Any, dict[str, jax.Array]] = {}
        updates, new_slots = [], {key: [] for key in slots}  # type: ignore[var-annotated]
        for i, (leaf, grad) in enumerate(zip(leaves, flat_grads, strict=True)):
            dtype = jnp.result_type(leaf)
            wide = promoted(dtype, jnp.float32)
            if has[i] is False:
                updates.append(jnp.zeros_like(leaf, wide))
                for key in slots:
                    new_slots[key].append(flat_slots[key][i])
                continue
            if dtype not in cast:
                cast[dtype] = {key: jnp.asarray(value, wide) for key, value in known.items()}
            hyper = SimpleNamespace(
                **{
                    key: value if value.ndim == 0 else lax.index_in_dim(value, i, keepdims=False)
                    for key, value in cast[dtype].items()
                },
                machine_eps=float(jnp.finfo(dtype).eps),
            )
            # The rule computes in float32 or wider. The new slots are cast back to the parameter's
            # dtype; the change is added by optax.apply_updates, which casts the sum.
            own = {
                key: None if flat[i] is None else flat[i].astype(wide)
                for key, flat in flat_slots.items()
            }
            gradient = jnp.asarray(grad, wide)
            if maximize:
                gradient = -gradient
            change, new = rule(jnp.asarray(leaf, wide), gradient, own, hyper, rounding(dtype))
            if has[i] is not True:  # `accumulate` knows it only when it runs
                given = jnp.asarray(has[i])
                change = jnp.where(given, change, 0)
                new = {
                    key: None if old is None else jnp.where(given, jnp.asarray(new[key]), old)
                    for key, old in own.items()
                }
            updates.append(change)
            for key in slots:
                value = new[key]
                new_slots[key].append(None if value is None else value.astype(dtype))
        return treedef.unflatten(updates), OptimizerState(
            step=step,
            missed=missed,
            hyperparams=state.hyperparams,
            shared=now_shared,
            slots={key: treedef.unflatten(values) for key, values in new_slots.items()},
        )

    return Optimizer(init, update, name, defaults)


P = ParamSpec("P")


def without_parameters(build: Callable[P, Optimizer]) -> Callable[P, Optimizer]:
    """Makes a constructor refuse the parameters, which torch's take as the first argument."""

    @functools.wraps(build)
    def checked(*args: P.args, **kwargs: P.kwargs) -> Optimizer:
        first = args[0] if args else kwargs.get("params")
        is_array = isinstance(first, jax.Array | np.ndarray)  # such as a traced learning rate
        if isinstance(first, Iterable | nnx.Module) and not is_array:
            name = build.__name__
            settings = ", ".join(f"{k}={value!r}" for k, value in kwargs.items() if k != "params")
            raise TypeError(
                f"{name}: the parameters are not given to the optimizer; write "
                f"optimizer = optim.{name}({settings}) and state = train.create(model, optimizer). "
                "Parameter groups are written as optim.groups([(pattern, optimizer)], default)"
            )
        return build(*args, **kwargs)

    return checked


def rounding(dtype: Any) -> Rounding:
    """A function that rounds float32 results to a narrower dtype, as torch's operations do.

    It is no cast to the dtype and back, because XLA may leave such a pair of casts out.
    """
    info = jnp.finfo(dtype)
    if info.bits >= 32:
        return lambda x: x
    return lambda x: lax.reduce_precision(x, info.nexp, info.nmant)


def given(value: Any) -> bool:
    """Whether a term with this factor is computed: the factor is not 0, or is an array."""
    return isinstance(value, jax.Array) or value != 0


def lerp(a: jax.Array, b: jax.Array, weight: jax.Array) -> jax.Array:
    """a + weight (b - a) as torch.lerp computes it, exact for the weights 0 and 1."""
    near = weight < 0.5
    return jnp.where(near, a, b) + (b - a) * jnp.where(near, weight, weight - 1)


def coupled_decay(param: jax.Array, grad: jax.Array, hyper: Any, rounded: Rounding) -> jax.Array:
    """grad + weight_decay param, or grad if the optimizer was built without weight decay."""
    if not hasattr(hyper, "weight_decay"):
        return grad
    return rounded(grad + hyper.weight_decay * param)


def decoupled_decay(param: jax.Array, hyper: Any, rounded: Rounding) -> jax.Array:
    """(1 - lr weight_decay) param, or param if the optimizer was built without weight decay."""
    if not hasattr(hyper, "weight_decay"):
        return param
    return rounded(shrink(param, hyper.keep))


def shrink(param: jax.Array, keep: jax.Array) -> jax.Array:
    """The product keep param, rounded before anything is added to it.

    Torch stores this product. If a parameter hardly changes, the rounding error is the same
    at every step and adds up, so the product must not be fused with the addition that
    follows. Setting the sign that the product has anyway prevents this.
    """
    sign = jnp.where(keep < 0, -param, param)
    return jnp.copysign(keep * param, sign)


def one_minus_power(one_minus_beta: jax.Array, t: jax.Array) -> jax.Array:
    """1 - beta^t from 1 - beta. In float32 the plain formula loses 4 digits at the first step."""
    return -jnp.expm1(t * jnp.log1p(-one_minus_beta))
