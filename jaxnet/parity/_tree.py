"""Nested values of a traced program: taken apart into named arrays, and put together again.

Both programs' values go through here: tuples, lists, dictionaries, named tuples, dataclasses and
objects like Hugging Face's ModelOutput, with tensors or arrays as leaves.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from jaxnet._names import join


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of a nested value with their dotted paths, "" for a value that is one leaf.

    Args:
        value: The value. None is a leaf, as are numbers, texts and whatever has no parts.
        path: The path of the value itself.
    """
    parts = _parts(value)
    if parts is None:
        yield path, value
        return
    for name, part in parts.items():
        yield from leaves(part, join(path, name))


def _parts(value: Any) -> dict[str, Any] | None:
    fields = getattr(value, "_fields", None)
    if fields is not None and isinstance(value, tuple):
        return {name: getattr(value, name) for name in fields}
    if isinstance(value, tuple | list):
        return {str(i): part for i, part in enumerate(value)}
    if isinstance(value, Mapping):
        return {str(key): part for key, part in value.items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    return None


def to_json(value: Any, key_of: Callable[[str, Any], str | None], path: str = "") -> Any:
    """The form of a nested value as JSON, with the names of its arrays in their places.

    Args:
        value: The value.
        key_of: A function of a leaf's path and the leaf that returns the name under which its
            array is stored, or None for a leaf that is no array.
        path: The path of the value itself.

    Returns:
        {"array": name}, {"tuple": [...]}, {"list": [...]}, {"dict": {...}} (for named tuples and
        dataclasses too), {"value": ...} for None, booleans, numbers and texts, or
        {"text": repr} for anything else.
    """
    parts = _parts(value)
    if parts is None:
        key = key_of(path, value)
        if key is not None:
            return {"array": key}
        if value is None or isinstance(value, bool | int | float | str):
            return {"value": value}
        return {"text": repr(value)}
    inner = {name: to_json(part, key_of, join(path, name)) for name, part in parts.items()}
    if isinstance(value, tuple | list) and not hasattr(value, "_fields"):
        return {
            type(value).__name__ if type(value) in (tuple, list) else "tuple": [*inner.values()]
        }
    return {"dict": inner}


def from_json(form: Any, array_of: Callable[[str], Any]) -> Any:
    """The nested value that `to_json` gave the form of.

    Args:
        form: The form.
        array_of: A function of the name of an array that returns the array.
    """
    ((kind, content),) = form.items()
    if kind == "array":
        return array_of(content)
    if kind in ("tuple", "list"):
        values = [from_json(each, array_of) for each in content]
        return tuple(values) if kind == "tuple" else values
    if kind == "dict":
        return {name: from_json(each, array_of) for name, each in content.items()}
    return content


def renamed(form: Any, name_of: Callable[[str], str]) -> Any:
    """A form of `to_json` with other names of its arrays."""
    ((kind, content),) = form.items()
    if kind == "array":
        return {kind: name_of(content)}
    if kind in ("tuple", "list"):
        return {kind: [renamed(each, name_of) for each in content]}
    if kind == "dict":
        return {kind: {key: renamed(each, name_of) for key, each in content.items()}}
    return form


class _Key(str):
    """The name of an array, as a leaf of a recorded value."""


def keys_of(form: Any) -> dict[str, str]:
    """The names of the arrays in a form of `to_json` by their paths."""
    return {path: leaf for path, leaf in leaves(from_json(form, _Key)) if isinstance(leaf, _Key)}
