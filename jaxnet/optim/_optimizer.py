"""The parts of every optimizer: its state, its hyperparameters, the loop over parameters."""

import functools
import math
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
from jaxnet._checks import is_number
from jaxnet._names import named_leaves
from jaxnet.precision import promoted

Scalars = dict[str, jax.Array]

PAIRS = {
    "betas": ("beta1", "beta2"),
    "etas": ("etaminus", "etaplus"),
    "step_sizes": ("step_size_min", "step_size_max"),
}
"""The arguments of torch that consist of two hyperparameters, and the names of the two."""

COMPLEMENT = "one_minus_"
"""The prefix of a hyperparameter that the state stores as 1 minus its value."""


class OptimizerState(NamedTuple):
    """The state of every optimizer of `jaxnet.optim`; all that can change is an array.

    Attributes:
        step: The number of updates so far, int32; one for all parameters. Torch counts for each
            parameter only the updates in which it had a gradient.
        hyperparams: The hyperparameters by name, 0-d arrays. A number b that the rule also
            uses as 1 - b is stored as `one_minus_b`: 1 - 0.999 is 0.001 to seven digits in
            double precision, but only to four after 0.999 has been rounded to float32.
        shared: Further numbers that change from step to step and belong to no parameter,
            0-d arrays by name.
        slots: The arrays of each parameter by torch's name ("exp_avg", ...), as pytrees
            like the parameters, in the parameters' dtypes.
    """

    step: jax.Array
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
step. `hyper` has the hyperparameters as attributes (`hyper.lr`), and with them what all
parameters share at this step (the `scalars` of `make_optimizer`). `rounded` rounds to the dtype
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
        scalars: The function of (hyper, t) that gives, at step t (a float array), the
            numbers that all parameters share. Those whose names are in `shared` are stored
            for the next step.
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
            hyperparams=h,
            shared={key: begin(h) for key, begin in shared.items()},
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
        # Torch leaves a parameter whose grad is None alone, momentum and decay included.
        has = [has_gradient.get(where, True) for where in named_leaves(params)]
        flat_grads = treedef.flatten_up_to(grads)
        flat_slots = {key: treedef.flatten_up_to(tree) for key, tree in state.slots.items()}
        step = state.step + 1
        known = {**state.hyperparams, **state.shared}
        if "weight_decay" in known:
            known["keep"] = 1 - known["lr"] * known["weight_decay"]
        if scalars is not None:
            t = step.astype(jnp.result_type(float))
            known |= scalars(SimpleNamespace(**known), t)
        # The shared numbers are cast once for each dtype among the parameters.
        cast: dict[Any, SimpleNamespace] = {}
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
                cast[dtype] = SimpleNamespace(
                    **{key: jnp.asarray(value, wide) for key, value in known.items()},
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
            change, new = rule(jnp.asarray(leaf, wide), gradient, own, cast[dtype], rounding(dtype))
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
            hyperparams=state.hyperparams,
            shared={key: known[key] for key in shared},
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


def complement(value: Any) -> Any:
    """1 - value; for a Python number in double precision, so that float32 has all its digits."""
    return 1 - value


def check(owner: str, **values: Any) -> None:
    """Refuses hyperparameters, given by torch's names, that are out of range or no numbers.

    Traced arrays have no value yet and are accepted. The error names the owner.
    """
    for name, value in values.items():
        parts = PAIRS.get(name)
        if parts is None:
            _check_one(owner, name, value, *_RANGES.get(name, _AT_LEAST_0))
            continue
        if not isinstance(value, (tuple, list)) or len(value) != 2:
            raise ValueError(f"{owner}: {name}: {value!r}; accepted are two numbers")
        for i, (part, number) in enumerate(zip(parts, value, strict=True)):
            _check_one(owner, f"{name}[{i}]", number, *_RANGES.get(part, _AT_LEAST_0))


_AT_LEAST_0 = (lambda x: 0 <= x < math.inf, "a finite number, at least 0")
_FRACTION = (lambda x: 0 <= x < 1, "[0, 1)")
_RANGES: dict[str, tuple[Callable[[float], bool], str]] = {
    "beta1": _FRACTION,
    "beta2": _FRACTION,
    "rho": (lambda x: 0 <= x <= 1, "[0, 1]"),
    "dampening": (math.isfinite, "a finite number"),
    "lambd": (math.isfinite, "a finite number"),
    "t0": (math.isfinite, "a finite number"),
    "beta2_decay": (lambda x: -math.inf < x <= 0, "a finite number, at most 0"),
    "d": (lambda x: 1 <= x < math.inf, "a finite number, at least 1"),
    "etaminus": (lambda x: 0 < x < 1, "(0, 1)"),
    "etaplus": (lambda x: 1 < x < math.inf, "a finite number above 1"),
}


def _check_one(
    owner: str, name: str, value: Any, accepts: Callable[[float], bool], words: str
) -> None:
    if isinstance(value, jax.core.Tracer):
        return
    if isinstance(value, (jax.Array, np.ndarray)) and value.ndim == 0:
        value = float(value)
    if not is_number(value):
        raise TypeError(f"{owner}: {name}: {value!r}; accepted is {words}")
    if not accepts(float(value)):
        raise ValueError(f"{owner}: {name}: {value}; accepted is {words}")


def stored(name: str, value: Any, keys: Any) -> dict[str, Any]:
    """The numbers, by name, that a state with the hyperparameters `keys` stores for an argument.

    They are none if the state does not have the hyperparameter.
    """
    found = {}
    for part, number in zip(*_parts(name, value), strict=True):
        if part in keys:
            found[part] = number
        elif COMPLEMENT + part in keys:
            found[COMPLEMENT + part] = complement(number)
    return found


def _parts(name: str, value: Any) -> tuple[tuple[str, ...], tuple[Any, ...]]:
    return (PAIRS[name], tuple(value)) if name in PAIRS else ((name,), (value,))


def states(opt_state: Any) -> list[OptimizerState]:
    """The states of the parameter groups in order, at any depth of an optimizer's state."""
    found = jax.tree.leaves(opt_state, is_leaf=_is_state)
    return [leaf for leaf in found if _is_state(leaf)]


def map_states(change: Callable[[int, OptimizerState], OptimizerState], opt_state: Any) -> Any:
    """An optimizer's state with change(i, state) in place of the state of each group i."""
    treedef: Any
    leaves, treedef = jax.tree.flatten(opt_state, is_leaf=_is_state)
    count = iter(range(len(leaves)))
    leaves = [change(next(count), leaf) if _is_state(leaf) else leaf for leaf in leaves]
    return treedef.unflatten(leaves)


def _is_state(x: Any) -> bool:
    return isinstance(x, OptimizerState)


def set_hyperparams(opt_state: Any, group: int | None = None, **values: Any) -> Any:
    """Changes hyperparameters in an optimizer's state; nothing is compiled anew.

    Args:
        opt_state: The state of an optimizer of `jaxnet.optim`, plain or wrapped.
        group: The number of the parameter group. None is every group.
        **values: The new values by torch's names (`lr`, `betas`, ...), numbers or 0-d arrays.

    Returns:
        A new state.

    Raises:
        ValueError: There is no such group, a value is out of range, or a chosen group does not
            have the hyperparameter, because it is another optimizer's or was built with 0. A
            0 is then accepted.

    >>> from jaxnet import optim
    >>> state = optim.SGD(lr=0.1).init({"weight": jnp.zeros(3)})
    >>> state = optim.set_hyperparams(state, lr=0.01)
    >>> round(float(optim.get_hyperparams(state)["lr"]), 6)
    0.01
    """
    found = states(opt_state)
    chosen = range(len(found)) if group is None else [group]
    if not found or not all(0 <= i < len(found) for i in chosen):
        raise ValueError(f"group: {group}; the state has {len(found)} parameter groups")
    check("set_hyperparams", **values)
    for name, value in values.items():
        lack = [i for i in chosen if not stored(name, value, found[i].hyperparams)]
        off = not isinstance(value, jax.core.Tracer) and np.ndim(value) == 0 and value == 0
        if lack and (len(lack) == len(chosen) or not off):
            others = [i for i in chosen if i not in lack]
            raise ValueError(
                f"{name}: no hyperparameter of group {lack[0]}; there are "
                f"{sorted(get_hyperparams(found[lack[0]]))}. One that was 0 when the "
                "optimizer was built, as momentum or weight_decay, cannot be turned on later: "
                "build it with the value"
                + (f", or change the groups that have it, group={others[0]}" if others else "")
            )

    def change(i: int, state: OptimizerState) -> OptimizerState:
        if i not in chosen:
            return state
        new = dict(state.hyperparams)
        for name, value in values.items():
            for key, number in stored(name, value, new).items():
                new[key] = jnp.broadcast_to(jnp.asarray(number, new[key].dtype), new[key].shape)
        return state._replace(hyperparams=new)

    return map_states(change, opt_state)


def get_hyperparams(opt_state: Any, group: int = 0) -> dict[str, Any]:
    """The hyperparameters of a parameter group.

    Args:
        opt_state: The state of an optimizer of `jaxnet.optim`, plain or wrapped.
        group: The number of the parameter group.

    Returns:
        The values by torch's names, 0-d arrays; pairs such as `betas` are tuples.

    Raises:
        ValueError: There is no such group.
    """
    found = states(opt_state)
    if not 0 <= group < len(found):
        raise ValueError(f"group: {group}; the state has {len(found)} parameter groups")
    plain: dict[str, Any] = {
        key.removeprefix(COMPLEMENT): 1 - value if key.startswith(COMPLEMENT) else value
        for key, value in found[group].hyperparams.items()
    }
    for name, parts in PAIRS.items():
        if all(part in plain for part in parts):
            plain[name] = tuple(plain.pop(part) for part in parts)
    return plain


def learning_rates(opt_state: Any) -> dict[str, float]:
    """The learning rates in an optimizer's state, as numbers on the host.

    Args:
        opt_state: The state of an optimizer. If the optimizer is not of jaxnet.optim, there
            are no learning rates in it.

    Returns:
        The rates by name: "lr" for the first parameter group, "lr_1" for the second, and so
        on.

    >>> from jaxnet import optim
    >>> learning_rates(optim.SGD(lr=0.5).init({"w": jnp.ones(2)}))
    {'lr': 0.5}
    """
    rates = {
        "lr" if i == 0 else f"lr_{i}": state.hyperparams["lr"]
        for i, state in enumerate(states(opt_state))
        if "lr" in state.hyperparams
    }
    # By way of text, so that 0.1 in float32 becomes 0.1 and not 0.10000000149.
    return {name: float(str(rate)) for name, rate in jax.device_get(rates).items()}
