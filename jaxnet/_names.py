"""Dotted names of arrays and modules, and patterns that choose among them.

Every part of jaxnet that uses a name such as "fc1.weight" takes it from here: the modules
themselves, training states, checkpoints, optimizers, penalties, and weights files. So does
every argument that chooses parameters (`Where`).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Any

import jax
from flax import nnx

Where = str | Sequence[str] | Callable[[str, Any], bool]
"""A choice of parameters: a pattern, a list of patterns, or a function of (name, parameter).

A pattern has to fit the whole dotted name. `*` stands for any characters, dots among them,
`?` for one, and `[01]` for one of several: "*.bias" are all biases below the model itself,
"layer1.*" is everything in `layer1`, "fc?.weight" are fc1.weight, fc2.weight and so on.
"""


def join(prefix: str, name: str) -> str:
    """The dotted name of something under a prefix; the prefix "" adds nothing."""
    return f"{prefix}.{name}" if prefix else name


def dotted(path: Sequence[Any]) -> str:
    """The name of a leaf of a pytree from its path: the keys, joined by dots.

    Args:
        path: A path from `jax.tree_util.tree_leaves_with_path`.
    """
    return jax.tree_util.keystr(tuple(path), simple=True, separator=".")


def named_leaves(tree: Any, is_leaf: Callable[[Any], bool] | None = None) -> dict[str, Any]:
    """The leaves of a pytree by dotted name, in the pytree's order.

    Two leaves whose keys join to the same name stay apart: the second is called "name#2".

    Args:
        tree: Any pytree, such as a dictionary of parameters or a training state.
        is_leaf: A function that says whether a part of the tree counts as a leaf, as in
            `jax.tree.flatten`.

    >>> list(named_leaves({"fc1": {"weight": 1.0, "bias": 2.0}, "steps": (3, 4)}))
    ['fc1.bias', 'fc1.weight', 'steps.0', 'steps.1']
    """
    named: dict[str, Any] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree, is_leaf=is_leaf):
        name = plain = dotted(path)
        count = 1
        while name in named:
            count += 1
            name = f"{plain}#{count}"
        named[name] = leaf
    return named


def members(module: nnx.Module) -> list[tuple[str, nnx.Module | nnx.Variable[Any]]]:
    """The arrays and modules that are attributes of a module itself, with their names.

    Their order is torch's, that of the assignments, which `jaxnet.nn.Module` remembers;
    a module of plain flax has the order of its attributes. What `sow` has recorded is no part
    of the model.
    """
    own = vars(module)
    values = [(name, own[name]) for name in getattr(module, "_members", own)]
    return [
        (name, value)
        for name, value in values
        if isinstance(value, nnx.Module | nnx.Variable) and not isinstance(value, nnx.Intermediate)
    ]


def named_modules(
    module: nnx.Module, prefix: str = "", remove_duplicate: bool = True
) -> Iterator[tuple[str, nnx.Module]]:
    """A module and all modules below it with their dotted names, parents before children.

    Args:
        module: Any flax module, of jaxnet or not.
        prefix: The name of the module itself.
        remove_duplicate: Whether a module with several names comes only once, under the first.
    """
    yield from _named_modules(module, prefix, set() if remove_duplicate else None)


def _named_modules(
    module: nnx.Module, prefix: str, seen: set[int] | None
) -> Iterator[tuple[str, nnx.Module]]:
    if seen is not None:
        if id(module) in seen:
            return
        seen.add(id(module))
    yield prefix, module
    for name, value in members(module):
        if isinstance(value, nnx.Module):
            yield from _named_modules(value, join(prefix, name), seen)


def named_variables(
    module: nnx.Module,
    kind: type[nnx.Variable[Any]] = nnx.Variable,
    prefix: str = "",
    recurse: bool = True,
    remove_duplicate: bool = True,
) -> Iterator[tuple[str, nnx.Variable[Any]]]:
    """The arrays of a module with their dotted names, in the order of torch's state_dict.

    A module's own parameters come first, then its other arrays, then its children's.

    Args:
        module: Any flax module, of jaxnet or not.
        kind: The class of the arrays, such as `nn.Parameter` or `nn.Buffer`.
        prefix: The name of the module itself.
        recurse: Whether the modules below are included.
        remove_duplicate: Whether an array with several names comes only once, under the first.
    """
    owners = named_modules(module, prefix, remove_duplicate) if recurse else [(prefix, module)]
    seen = set()
    for owner_name, owner in owners:
        own = [(name, v) for name, v in members(owner) if isinstance(v, kind)]
        # sorted() is stable: parameters come first, and both groups keep their order.
        for name, variable in sorted(own, key=lambda item: not isinstance(item[1], nnx.Param)):
            if id(variable) not in seen:
                if remove_duplicate:
                    seen.add(id(variable))
                yield join(owner_name, name), variable


def matches(where: Where, name: str, leaf: Any) -> bool:
    """Whether a choice includes a parameter.

    Args:
        where: The choice: a pattern, a list of patterns, or a function.
        name: The dotted name of the parameter.
        leaf: The parameter, which only a function looks at.

    >>> matches("*.bias", "fc1.bias", None), matches(["conv*", "fc1.*"], "fc2.bias", None)
    (True, False)
    """
    if callable(where):
        return bool(where(name, leaf))
    patterns = [where] if isinstance(where, str) else where
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def select(owner: str, where: Where | None, named: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters that a choice includes, in their order in `named`.

    Args:
        owner: The function and argument that the choice was given to, for errors:
            "l2_penalty: where".
        where: The choice; None includes everything.
        named: All parameters by dotted name.

    Raises:
        TypeError: The choice is neither text, nor a list of texts, nor a function.
        ValueError: A pattern, or the function, fits none of the names.

    >>> list(select("where", "*.bias", {"fc1.weight": 1, "fc1.bias": 2}))
    ['fc1.bias']
    """
    if where is None:
        return dict(named)
    if not callable(where):
        patterns = [where] if isinstance(where, str) else where
        if not isinstance(patterns, Sequence) or not all(isinstance(p, str) for p in patterns):
            raise TypeError(
                f'{owner}: {where!r}; accepted are a pattern such as "*.bias", a list of '
                "patterns, and a function of (name, parameter)"
            )
        for pattern in patterns:
            if not any(fnmatchcase(name, pattern) for name in named):
                raise ValueError(f"{owner}: {pattern!r} fits no name; {_way_out(pattern, named)}")
    chosen = {name: leaf for name, leaf in named.items() if matches(where, name, leaf)}
    if not chosen:
        raise ValueError(f"{owner}: {where!r} fits none of {list(named)}")
    return chosen


def _way_out(pattern: str, named: Mapping[str, Any]) -> str:
    """The end of the error "fits no name": a pattern that fits, or similar names."""
    for candidate in (f"{pattern}.*", f"*.{pattern}", f"*{pattern}*"):
        if pattern and any(fnmatchcase(name, candidate) for name in named):
            return f"{candidate!r} does. A pattern has to fit the whole name; {_listed(named)}"
    near = get_close_matches(pattern, list(named), n=5, cutoff=0.5)
    return f"near are {near}" if near else _listed(named)


def few(names: Sequence[str], most: int = 4) -> str:
    """The first of some names, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _listed(named: Mapping[str, Any], most: int = 20) -> str:
    names = list(named)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"there are {names[:most]}{more}"


def is_module(x: Any) -> bool:
    """Whether it is a module of flax.nnx, as all of jaxnet's are; for `is_leaf` of jax.tree."""
    return isinstance(x, nnx.Module)
