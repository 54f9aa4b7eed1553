"""Containers of parameters: ParameterList and ParameterDict."""

import operator
from collections import OrderedDict
from collections.abc import Iterable, Iterator, KeysView, Mapping
from typing import Any, Self

import jax
import numpy as np
from flax import nnx

from jaxnet._arrays import is_tensor
from jaxnet.nn._module import Module, Parameter

# The names that torch's printed form gives the dtypes of a dictionary's parameters.
_TYPENAMES = {
    "float32": "Float", "float64": "Double", "float16": "Half", "bfloat16": "BFloat16",
    "int32": "Int", "int64": "Long", "int16": "Short", "int8": "Char", "uint8": "Byte",
    "bool": "Bool", "complex64": "ComplexFloat", "complex128": "ComplexDouble",
}  # fmt: skip


class _Values(Module):
    """The storing, the printing and the refusal of calls of both containers."""

    def _store(self, name: str, value: Any) -> None:
        if isinstance(value, jax.Array | np.ndarray):
            value = Parameter(jax.numpy.asarray(value))
        elif is_tensor(value):  # as an object of another kind it would not be trained
            value = Parameter(value)  # raises the error that says what to write
        setattr(self, name, value)

    def _described(self, name: str, value: Any, dtype: str) -> str:
        if not isinstance(value, nnx.Variable):
            return f"  ({name}): Object of type: {type(value).__name__}"
        kind = "Parameter" if isinstance(value, nnx.Param) else "Tensor"
        size = "x".join(map(str, value.shape))
        return f"  ({name}): {kind} containing: [torch.{dtype} of size {size}]"

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError(
            f"{type(self).__name__} holds parameters and computes nothing; index it: self.params[0]"
        )


class ParameterList(_Values):
    """A list of parameters that are part of the model: torch.nn.ParameterList.

    Arrays become parameters, named "0", "1" and so on; other objects are kept as they are.

    Args:
        values: An iterable of parameters, arrays or other objects.

    Raises:
        TypeError: A value is a torch tensor.

    >>> import jax.numpy as jnp
    >>> params = ParameterList([jnp.ones(2), jnp.zeros((2, 3))])
    >>> [name for name, _ in params.named_parameters()], len(params)
    (['0', '1'], 2)
    """

    def __init__(self, values: Iterable[Any] | None = None) -> None:
        self._size = 0
        if values is not None:
            self.extend(values)

    def _name_at(self, index: int) -> str:
        position = operator.index(index)
        if not -len(self) <= position < len(self):
            raise IndexError(f"ParameterList: index {position} is out of range; it has {len(self)}")
        return str(position % len(self))

    def __getitem__(self, index: int | slice) -> Any:
        """Returns one element, or for a slice a ParameterList that shares the parameters."""
        if isinstance(index, slice):
            return type(self)(self[i] for i in range(*index.indices(len(self))))
        return getattr(self, self._name_at(index))

    def __setitem__(self, index: int, value: Any) -> None:
        self._store(self._name_at(index), value)

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[Any]:
        return (self[i] for i in range(len(self)))

    def __iadd__(self, values: Iterable[Any]) -> Self:
        return self.extend(values)

    def append(self, value: Any) -> Self:
        """Adds an element at the end and returns this list."""
        self._size += 1
        self[self._size - 1] = value
        return self

    def extend(self, values: Iterable[Any]) -> Self:
        """Adds elements at the end and returns this list.

        Raises:
            TypeError: The argument is not an iterable, or is an array.
        """
        if not isinstance(values, Iterable) or isinstance(values, jax.Array | np.ndarray):
            raise TypeError(
                f"ParameterList.extend: {type(values).__name__}; accepted is a list of parameters"
            )
        for value in list(values):
            self.append(value)
        return self

    def extra_repr(self) -> str:
        return "\n".join(
            self._described(str(i), v, str(getattr(v, "dtype", ""))) for i, v in enumerate(self)
        )


class ParameterDict(_Values):
    """A dictionary of parameters that are part of the model: torch.nn.ParameterDict.

    Arrays become parameters; other objects are kept as they are. As in torch the names of a
    plain dict are sorted; an OrderedDict and pairs keep their order.

    Args:
        parameters: A mapping from names to parameters, arrays or other objects, or pairs.

    >>> import jax.numpy as jnp
    >>> params = ParameterDict({"right": jnp.ones(2), "left": jnp.zeros(2)})
    >>> list(params), params["right"].shape
    (['left', 'right'], (2,))
    """

    def __init__(self, parameters: Any = None) -> None:
        self._names: tuple[str, ...] = ()
        if parameters is not None:
            self.update(parameters)

    def __getitem__(self, key: str) -> Any:
        if key not in self._names:
            raise KeyError(key)
        return getattr(self, key)

    def __setitem__(self, key: str, value: Any) -> None:
        if not isinstance(key, str):
            raise TypeError(f"ParameterDict: the key {key!r}; accepted are strings")
        if not key or "." in key:
            raise KeyError(f"ParameterDict: {key!r}; a name must not be empty or hold a dot")
        if key not in self._names:
            if hasattr(self, key):
                raise KeyError(f"ParameterDict: {key!r} is the name of an attribute of its own")
            self._names = (*self._names, key)
        self._store(key, value)

    def __delitem__(self, key: str) -> None:
        self[key]  # raises KeyError for what is not in the dictionary
        self._names = tuple(name for name in self._names if name != key)
        delattr(self, key)

    def __len__(self) -> int:
        return len(self._names)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __reversed__(self) -> Iterator[str]:
        return reversed(self._names)

    def __contains__(self, key: object) -> bool:
        return key in self._names

    def __or__(self, other: Any) -> "ParameterDict":
        result = self.copy()
        result.update(other)
        return result

    def __ior__(self, other: Any) -> Self:
        self.update(other)
        return self

    def copy(self) -> "ParameterDict":
        """Returns a dictionary that shares the parameters."""
        return ParameterDict(self.items())

    def setdefault(self, key: str, default: Any = None) -> Any:
        """Returns the value of a key, which is the default from now on if there was none."""
        if key not in self:
            self[key] = default
        return self[key]

    def clear(self) -> None:
        """Removes everything."""
        for key in self._names:
            del self[key]

    def pop(self, key: str) -> Any:
        """Removes one value and returns it."""
        value = self[key]
        del self[key]
        return value

    def popitem(self) -> tuple[str, Any]:
        """Removes the last pair of a key and a value and returns it.

        Raises:
            KeyError: The dictionary is empty.
        """
        if not self._names:
            raise KeyError("ParameterDict.popitem: the dictionary is empty")
        key = self._names[-1]
        return key, self.pop(key)

    def get(self, key: str, default: Any = None) -> Any:
        """Returns the value of a key, or the default if there is none."""
        return self[key] if key in self else default  # noqa: SIM401

    def fromkeys(self, keys: Iterable[str], default: Any = None) -> "ParameterDict":
        """Returns a new dictionary with the same value for every key."""
        return ParameterDict((key, default) for key in keys)

    def keys(self) -> KeysView[str]:
        """Returns the names, in order."""
        return dict.fromkeys(self._names).keys()

    def items(self) -> list[tuple[str, Any]]:
        """Returns pairs of a name and a value, in order."""
        return [(name, self[name]) for name in self._names]

    def values(self) -> list[Any]:
        """Returns the values, in order."""
        return [self[name] for name in self._names]

    def update(self, parameters: Any) -> None:
        """Adds values from a mapping or from pairs; an existing name gets the new value.

        Raises:
            TypeError: The argument is neither a mapping nor an iterable of pairs.
        """
        if isinstance(parameters, ParameterDict | OrderedDict):
            parameters = parameters.items()
        elif isinstance(parameters, Mapping):
            parameters = sorted(parameters.items())
        try:
            pairs = [(key, value) for key, value in parameters]
        except (TypeError, ValueError):
            raise TypeError(
                f"ParameterDict.update: {type(parameters).__name__}; "
                "give a mapping, or pairs of name and parameter"
            ) from None
        for key, value in pairs:
            self[key] = value

    def extra_repr(self) -> str:
        lines = []
        for name, value in self.items():
            dtype = str(getattr(value, "dtype", ""))
            lines.append(self._described(name, value, f"{_TYPENAMES.get(dtype, dtype)}Tensor"))
        return "\n".join(lines)
