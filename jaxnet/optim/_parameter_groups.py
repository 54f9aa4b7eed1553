"""Parameter groups and frozen parameters."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from jaxnet._names import Where, dotted, matches, named_leaves, select
from jaxnet.optim._hyperparams import map_states, states
from jaxnet.optim._optimizer import Optimizer, OptimizerState


def frozen(optimizer: Optimizer | None = None) -> Optimizer:
    """The optimizer of parameters that are not trained.

    Args:
        optimizer: An optimizer whose state the parameters have, which waits for `regroup` to train
            them again. None for no state.

    Returns:
        An optimizer whose updates are zero; without state it has no parameter groups.
    """

    def update(
        grads: Any, state: tuple[()], params: Any = None, **extra: Any
    ) -> tuple[Any, tuple[()]]:
        del params, extra
        return jax.tree.map(jnp.zeros_like, grads), state

    if optimizer is None:
        return Optimizer(lambda params: (), update, "frozen", None, (), lambda params: [])

    def wait(grads: Any, state: Any, params: Any = None, **extra: Any) -> tuple[Any, Any]:
        without = dict.fromkeys(named_leaves(params), False)
        return optimizer.update(grads, state, params, **{**extra, "has_gradient": without})

    return optimizer.around("frozen", optimizer.init, wait)


def regroup(optimizer: Optimizer, opt_state: Any, params: Any, new: Optimizer) -> Any:
    """The state of a new optimizer that goes on where another one stopped.

    It does what `add_param_group` and a change of `requires_grad` do in torch in the middle of a
    run. A parameter keeps its moments and its number of steps if it had the same kind of optimizer
    before, and has a new state otherwise. The hyperparameters are those that `new` was built with;
    of what goes around the optimizers a schedule goes on, and all else begins anew.

    Args:
        optimizer: The optimizer so far.
        opt_state: Its state.
        params: The parameters.
        new: The new optimizer, such as `groups` with other choices.

    Raises:
        ValueError: The state is not the optimizer's, or has no state of each parameter (LBFGS).

    >>> from jaxnet import optim
    >>> params = {"body": jnp.ones(2), "head": jnp.ones(2)}
    >>> first = optim.groups([("body", optim.frozen())], optim.Adam(1e-2))
    >>> _, opt_state = first.update(params, first.init(params), params)
    >>> both = optim.groups([("body", optim.Adam(1e-3))], optim.Adam(1e-2))
    >>> opt_state = optim.regroup(first, opt_state, params, both)
    """
    found, parts = states(opt_state), optimizer.partition(params)
    if [own.missed.shape for own in found] != [(len(part),) for part in parts]:
        raise ValueError(
            f"regroup: opt_state: its groups do not have the parameters {parts} of {optimizer!r}"
        )
    old = {
        name: (own, i)
        for own, part in zip(found, parts, strict=True)
        for i, name in enumerate(part)
    }
    done = jnp.max(jnp.stack([jnp.zeros((), jnp.int32), *(own.step for own in found)]))
    news = new.partition(params)

    def kept(name: str, fresh: OptimizerState) -> tuple[OptimizerState, int] | None:
        own = old.get(name)
        same = own is not None and own[0].slots.keys() == fresh.slots.keys()
        return own if same and own[0].shared.keys() == fresh.shared.keys() else None  # type: ignore[index]

    def change(number: int, fresh: OptimizerState) -> OptimizerState:
        befores = [kept(name, fresh) for name in news[number]]

        def slot(key: str, path: Any, value: Any) -> Any:
            before = befores[news[number].index(dotted(path))]
            return value if before is None else _leaf(before[0].slots[key], dotted(path))

        missed = [done if b is None else done - b[0].step + b[0].missed[b[1]] for b in befores]
        return fresh._replace(
            step=done,
            missed=jnp.stack(missed) if missed else fresh.missed,
            shared={
                key: value.at[jnp.asarray([i for i, b in enumerate(befores) if b], int)].set(
                    jnp.asarray([b[0].shared[key][b[1]] for b in befores if b], value.dtype)
                )
                for key, value in fresh.shared.items()
            },
            slots={
                key: jax.tree_util.tree_map_with_path(partial(slot, key), tree)
                for key, tree in fresh.slots.items()
            },
        )

    return map_states(change, new.init(params))


def _leaf(tree: Any, name: str) -> Any:
    return named_leaves(tree)[name]


def groups(rules: Sequence[tuple[Where, Optimizer]], default: Optimizer) -> Optimizer:
    """Different optimizers for different parameters: torch's parameter groups.

    Args:
        rules: The pairs of a choice and an optimizer. The first choice that fits a parameter
            decides. A choice is a pattern of its dotted name ("*.bias", "head.*"), a
            list of patterns, or a function of (name, parameter), as everywhere in jaxnet.
        default: The optimizer of the parameters that no choice fits. It is the last group.

    Returns:
        One optimizer, whose groups are the rules' optimizers and the default, in this
        order, without the frozen ones.

    Raises:
        TypeError: An optimizer is not one of jaxnet.optim.
        ValueError: (In init) A pattern fits no parameter, or earlier rules have taken all
            that it fits. Thus a misspelt pattern is an error.

    An example with weight decay for matrices, and none for biases and norms:

    >>> from jaxnet import optim
    >>> no_decay = optim.AdamW(1e-3, weight_decay=0)
    >>> optimizer = optim.groups([(lambda name, p: p.ndim < 2, no_decay)], optim.AdamW(1e-3))

    An example with a frozen first layer:

    >>> optimizer = optim.groups([("conv1.*", optim.frozen())], optim.SGD(1e-2))
    """
    members = [optimizer for _, optimizer in rules] + [default]
    for i, optimizer in enumerate(members):
        if not isinstance(optimizer, Optimizer):
            raise TypeError(
                f"groups: optimizer {i}: {type(optimizer).__name__}; "
                "accepted is an optimizer of jaxnet.optim"
            )
    choices = [choice for choice, _ in rules]

    def init(params: Any) -> tuple[Any, ...]:
        named = named_leaves(params)
        parts = _assign(choices, named)
        for choice, part in zip(choices, parts, strict=False):
            select("groups: rules", choice, named)
            if not part:
                raise ValueError(
                    f"groups: rules: {choice!r} fits none of the parameters that are left; "
                    f"all are {list(named)}"
                )
        return tuple(
            optimizer.init({name: named[name] for name in part})
            for optimizer, part in zip(members, parts, strict=True)
        )

    def update(
        grads: Any, state: tuple[Any, ...], params: Any = None, **extra: Any
    ) -> tuple[Any, tuple[Any, ...]]:
        if params is None:
            raise ValueError("groups: update(grads, state, params) needs the parameters")
        named = named_leaves(params)
        treedef: Any = jax.tree.structure(params)
        gradients = dict(zip(named, treedef.flatten_up_to(grads), strict=True))
        updates: dict[str, Any] = {}
        new_state = []
        parts = _assign(choices, named)
        for optimizer, part, inner in zip(members, parts, state, strict=True):
            changes, inner = optimizer.update(
                {name: gradients[name] for name in part},
                inner,
                {name: named[name] for name in part},
                **extra,
            )
            new_state.append(inner)
            updates |= changes
        return treedef.unflatten([updates[name] for name in named]), tuple(new_state)

    def partition(params: Any) -> list[list[str]]:
        named = named_leaves(params)
        return [
            group
            for optimizer, part in zip(members, _assign(choices, named), strict=True)
            for group in optimizer.partition({name: named[name] for name in part})
        ]

    flat_groups = tuple(group for optimizer in members for group in optimizer.groups)
    return Optimizer(init, update, "groups", None, flat_groups, partition)


def _assign(choices: Sequence[Where], named: Mapping[str, Any]) -> list[list[str]]:
    """The names of the parameters of each choice, and last those that no choice fits."""
    parts: list[list[str]] = [[] for _ in range(len(choices) + 1)]
    for name, leaf in named.items():
        fits = (matches(choice, name, leaf) for choice in choices)
        parts[next((i for i, fit in enumerate(fits) if fit), -1)].append(name)
    return parts
