"""Weights of which some numbers are zero for good: torch.nn.utils.prune.

A pruned parameter `weight` becomes the parameter `weight_orig` and the buffer `weight_mask` of
zeros and ones, whose product is the weight. Masks are chosen outside of compiled functions.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Never, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet._checks import is_integer, is_number
from jaxnet._hints import module_getattr
from jaxnet._names import named_modules
from jaxnet.nn._draw import Rngs, draw_uniform
from jaxnet.nn._module import Buffer
from jaxnet.nn.utils._derived import add_rule, own_variable, remove_rule, rules

__all__ = [
    "L1Unstructured",
    "RandomUnstructured",
    "custom_from_mask",
    "global_unstructured",
    "identity",
    "is_pruned",
    "l1_unstructured",
    "ln_structured",
    "random_structured",
    "random_unstructured",
    "remove",
]

if not TYPE_CHECKING:  # so that type checkers know which names are there
    __getattr__ = module_getattr("jaxnet.nn.utils.prune")
del TYPE_CHECKING, module_getattr

M = TypeVar("M")
Amount = int | float


@dataclasses.dataclass(frozen=True)
class _Rule:
    name: str

    def compute(self, module: Any, calling: bool) -> jax.Array:
        del calling
        original, mask = getattr(module, f"{self.name}_orig"), getattr(module, f"{self.name}_mask")
        return mask[...].astype(original.dtype) * original[...]

    def other_names(self, module: Any) -> dict[str, str]:
        del module
        return {}

    def assign(self, module: Any, value: Any) -> Never:
        raise ValueError(
            f"{type(module).__name__}.{self.name}: it is computed at every call; assign "
            f"{self.name}_orig, or call prune.remove first"
        )


def _count(amount: Amount, size: int) -> int:
    """How many of `size` things are pruned: that number, or that fraction of them."""
    if not is_number(amount):
        raise TypeError(f"amount: {amount!r}; accepted are an integer and a float")
    if is_integer(amount):
        if not 0 <= amount <= size:
            raise ValueError(f"amount: {amount}; there are {size}, so accepted is 0 to {size}")
        return int(amount)
    if not 0 <= amount <= 1:
        raise ValueError(f"amount: {amount}; accepted is a fraction from 0 to 1, or an integer")
    return round(amount * size)


def _without(largest: np.ndarray, count: int) -> np.ndarray:
    """A mask of ones with zeros at the largest `count` of some numbers."""
    mask = np.ones(len(largest), bool)
    mask[np.argsort(-largest, kind="stable")[:count]] = False
    return mask


@dataclasses.dataclass(frozen=True)
class L1Unstructured:
    """Prunes the numbers with the least absolute values, for `global_unstructured`.

    This is torch.nn.utils.prune.L1Unstructured.

    Args:
        amount: The number of numbers to prune, or as a float their fraction.
    """

    amount: Amount

    def compute_mask(self, t: np.ndarray) -> np.ndarray:
        """The mask of an array (n,), False where it is pruned."""
        return _without(-np.abs(t), _count(self.amount, t.size))


@dataclasses.dataclass(frozen=True)
class RandomUnstructured:
    """Prunes numbers at random, for `global_unstructured`: torch.nn.utils.prune.RandomUnstructured.

    Args:
        amount: The number of numbers to prune, or as a float their fraction.
        rngs: The source of the random numbers. A `Generator` gives those that torch draws.
    """

    amount: Amount
    rngs: Rngs

    def compute_mask(self, t: np.ndarray) -> np.ndarray:
        """The mask of an array (n,), False where it is pruned."""
        count = _count(self.amount, t.size)
        drawn = np.asarray(draw_uniform(self.rngs, t.shape, 0, 1, t.dtype)) if count else t
        return _without(drawn, count)


_Choice = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""A function of the importance scores and the mask before that gives the mask."""


def _prune(
    what: str, module: Any, name: str, choose: _Choice, importance_scores: Any = None
) -> Any:
    """Prunes a parameter, further if it is pruned already.

    Args:
        what: The function that is called, for errors.
        module: The module.
        name: The name of the parameter.
        choose: The function that gives the mask.
        importance_scores: The scores; None for the parameter's numbers.
    """
    pruned = isinstance(rules(module).get(name), _Rule)
    variable = None if pruned else own_variable(what, module, name)
    weight = np.asarray(getattr(module, name)[...])
    scores = weight if importance_scores is None else np.asarray(importance_scores)
    if scores.shape != weight.shape:
        raise ValueError(
            f"{what}: importance_scores: shape {scores.shape}; that of {name!r} is {weight.shape}"
        )
    before = np.asarray(getattr(module, f"{name}_mask")[...]) if pruned else np.ones_like(weight)
    mask = jnp.asarray(choose(scores, before).astype(weight.dtype))
    if variable is not None:
        delattr(module, name)
        setattr(module, f"{name}_orig", variable)
        add_rule(module, name, _Rule(name))
    setattr(module, f"{name}_mask", Buffer(mask))
    return module


def _unstructured(method: L1Unstructured | RandomUnstructured) -> _Choice:
    def choose(scores: np.ndarray, before: np.ndarray) -> np.ndarray:
        mask = before.copy()
        mask[before == 1] = method.compute_mask(scores[before == 1])
        return mask

    return choose


def _structured(what: str, dim: int, keep: Callable[[np.ndarray], np.ndarray]) -> _Choice:
    """Prunes entries of an axis, of those that are not all pruned before.

    Args:
        what: The function that is called, for errors.
        dim: The axis.
        keep: The function that gives the mask of the entries, of the scores with the axis first.
    """

    def choose(scores: np.ndarray, before: np.ndarray) -> np.ndarray:
        if scores.ndim < 2 or not -scores.ndim <= dim < scores.ndim:
            raise ValueError(
                f"{what}: dim: {dim} of shape {scores.shape}; accepted are the axes of an array "
                "with at least two"
            )
        mask = np.moveaxis(before.copy(), dim, 0)
        there = np.flatnonzero(mask.reshape(len(mask), -1).any(1))
        kept = keep(np.moveaxis(scores, dim, 0)[there])
        mask[there[~kept]] = 0
        return np.moveaxis(mask, 0, dim)

    return choose


def identity(module: M, name: str) -> M:
    """Prunes nothing, with a mask of ones: torch.nn.utils.prune.identity.

    Args:
        module: The module, which is changed in place.
        name: The name of the parameter.

    Returns:
        The module.
    """
    return _prune("identity", module, name, lambda scores, before: before)


def l1_unstructured(module: M, name: str, amount: Amount, importance_scores: Any = None) -> M:
    """Prunes the numbers with the least absolute values: torch.nn.utils.prune.l1_unstructured.

    Args:
        module: The module, which is changed in place.
        name: The name of the parameter.
        amount: The number of numbers to prune, or as a float their fraction. A parameter that
            is pruned already is pruned further, by so many of the numbers that are left.
        importance_scores: An array like the parameter whose values count in place of the
            parameter's.

    Returns:
        The module.

    Raises:
        TypeError: The amount is no number.
        ValueError: The module has no such parameter, the amount is out of range, or the scores
            have another shape.

    >>> from jaxnet import nn
    >>> from jaxnet.random import Generator
    >>> layer = l1_unstructured(nn.Linear(2, 3, rngs=Generator(0)), "weight", amount=2)
    >>> layer.weight_mask[...].sum().item(), [name for name, _ in layer.named_parameters()]
    (4.0, ['bias', 'weight_orig'])
    """
    choose = _unstructured(L1Unstructured(amount))
    return _prune("l1_unstructured", module, name, choose, importance_scores)


def random_unstructured(module: M, name: str, amount: Amount, *, rngs: Rngs) -> M:
    """Prunes numbers at random: torch.nn.utils.prune.random_unstructured.

    Args:
        module, name, amount: As in `l1_unstructured`.
        rngs: The source of the random numbers. A `Generator` gives those that torch draws.

    Returns:
        The module.
    """
    choose = _unstructured(RandomUnstructured(amount, rngs))
    return _prune("random_unstructured", module, name, choose)


def ln_structured(
    module: M, name: str, amount: Amount, n: float, dim: int, importance_scores: Any = None
) -> M:
    """Prunes the entries of an axis with the least norms: torch.nn.utils.prune.ln_structured.

    Args:
        module, name, importance_scores: As in `l1_unstructured`.
        amount: The number of entries to prune, or as a float their fraction.
        n: The order of the norm, such as 1, 2 or inf.
        dim: The axis, such as 0 for the output channels of a convolution.

    Returns:
        The module.

    Raises:
        TypeError: The amount is no number.
        ValueError: The module has no such parameter, it has no such axis or only one, the amount
            is out of range, or the scores have another shape.
    """

    def keep(entries: np.ndarray) -> np.ndarray:
        norms = np.linalg.norm(entries.reshape(len(entries), -1), n, axis=1)
        return _without(-norms, _count(amount, len(entries)))

    choose = _structured("ln_structured", dim, keep)
    return _prune("ln_structured", module, name, choose, importance_scores)


def random_structured(module: M, name: str, amount: Amount, dim: int, *, rngs: Rngs) -> M:
    """Prunes entries of an axis at random: torch.nn.utils.prune.random_structured.

    Args:
        module, name: As in `l1_unstructured`.
        amount: The number of entries to prune, or as a float their fraction.
        dim: The axis.
        rngs: The source of the random numbers. A `Generator` gives those that torch draws.

    Returns:
        The module.
    """

    def keep(entries: np.ndarray) -> np.ndarray:
        count = _count(amount, len(entries))
        drawn = np.asarray(draw_uniform(rngs, (len(entries),), 0, 1)) if count else entries[:, 0]
        return _without(-drawn, count)

    choose = _structured("random_structured", dim, keep)
    return _prune("random_structured", module, name, choose)


def custom_from_mask(module: M, name: str, mask: Any) -> M:
    """Prunes where a mask is 0: torch.nn.utils.prune.custom_from_mask.

    Args:
        module, name: As in `l1_unstructured`.
        mask: An array of zeros and ones like the parameter.

    Returns:
        The module.

    Raises:
        ValueError: The module has no such parameter, or the mask another shape.
    """
    given = np.asarray(mask)

    def choose(scores: np.ndarray, before: np.ndarray) -> np.ndarray:
        if given.shape != scores.shape:
            raise ValueError(
                f"custom_from_mask: mask: shape {given.shape}; that of {name!r} is {scores.shape}"
            )
        return before * given.astype(before.dtype)

    return _prune("custom_from_mask", module, name, choose)


def global_unstructured(
    parameters: Iterable[tuple[Any, str]],
    pruning_method: Callable[..., L1Unstructured | RandomUnstructured],
    importance_scores: Mapping[tuple[Any, str], Any] | None = None,
    **kwargs: Any,
) -> None:
    """Prunes several parameters as if they were one: torch.nn.utils.prune.global_unstructured.

    Args:
        parameters: The parameters, each as a pair of its module and its name there.
        pruning_method: The class `L1Unstructured` or `RandomUnstructured`.
        importance_scores: The arrays whose values count in place of the parameters', by the
            same pairs.
        **kwargs: The arguments of the class, such as amount=0.2.

    Raises:
        TypeError: The method is another one.
        ValueError: The amount is out of range, or a pair names no parameter.
    """
    if pruning_method not in (L1Unstructured, RandomUnstructured):
        raise TypeError(
            f"global_unstructured: pruning_method: {pruning_method!r}; accepted are "
            "prune.L1Unstructured and prune.RandomUnstructured"
        )
    pairs = list(parameters)
    for module, name in pairs:
        if not isinstance(rules(module).get(name), _Rule):
            own_variable("global_unstructured", module, name)
    given = importance_scores or {}
    arrays = [np.asarray(getattr(module, name)[...]) for module, name in pairs]
    scores = [np.asarray(given.get(p, a)) for p, a in zip(pairs, arrays, strict=True)]
    before = [
        np.asarray(getattr(module, f"{name}_mask")[...]) if name in rules(module) else 1 + 0 * a
        for (module, name), a in zip(pairs, arrays, strict=True)
    ]
    choose = _unstructured(pruning_method(**kwargs))
    flat = choose(*(np.concatenate([a.ravel() for a in each]) for each in (scores, before)))
    ends = np.cumsum([a.size for a in arrays])
    for (module, name), a, part in zip(pairs, arrays, np.split(flat, ends[:-1]), strict=True):
        custom_from_mask(module, name, part.reshape(a.shape))


def remove(module: M, name: str) -> M:
    """Makes a pruned parameter a parameter again, with its zeros: torch.nn.utils.prune.remove.

    Args:
        module: The module, which is changed in place.
        name: The name of the parameter.

    Returns:
        The module.

    Raises:
        ValueError: The parameter is not pruned.
    """
    rule = rules(module).get(name)
    if not isinstance(rule, _Rule):
        raise ValueError(f"prune.remove: {name!r} of {type(module).__name__} is not pruned")
    variable = getattr(module, f"{name}_orig")
    variable.set_value(rule.compute(module, calling=False))
    for suffix in ("_orig", "_mask"):
        delattr(module, name + suffix)
    remove_rule(module, name)
    setattr(module, name, variable)
    return module


def is_pruned(module: Any) -> bool:
    """Whether a parameter of a module, or of one below it, is pruned.

    This is torch.nn.utils.prune.is_pruned.

    Args:
        module: The module.
    """
    return any(
        isinstance(rule, _Rule) for _, m in named_modules(module) for rule in rules(m).values()
    )
