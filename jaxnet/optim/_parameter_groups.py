"""Parameter groups and frozen parameters."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxnet._names import Where, matches, named_leaves, select
from jaxnet.optim._optimizer import Optimizer


def frozen() -> Optimizer:
    """The optimizer of parameters that are not trained.

    Returns:
        An optimizer without state and without parameter groups, whose updates are zero.
    """

    def update(
        grads: Any, state: tuple[()], params: Any = None, **extra: Any
    ) -> tuple[Any, tuple[()]]:
        del params, extra
        return jax.tree.map(jnp.zeros_like, grads), state

    return Optimizer(lambda params: (), update, "frozen", None, (), lambda params: [])


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
