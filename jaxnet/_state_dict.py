"""A model's parameters and buffers as a dictionary under torch's names, and back."""

import warnings
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxnet._arrays import as_numpy, is_array
from jaxnet._names import join, named_modules, named_variables

_MOST_LINES = 100  # of an error
# What torch puts before every name: DataParallel and its like, torch.compile, averaged models.
_PREFIXES = ("module.", "_orig_mod.")


class IncompatibleKeys(NamedTuple):
    """The names that `load_state_dict` found on one side only, as torch returns them.

    Attributes:
        missing_keys: The names that only the model has.
        unexpected_keys: The names that only the state_dict has.
    """

    missing_keys: list[str]
    unexpected_keys: list[str]

    def __repr__(self) -> str:
        if not self.missing_keys and not self.unexpected_keys:
            return "<All keys matched successfully>"
        return (
            f"IncompatibleKeys(missing_keys={self.missing_keys}, "
            f"unexpected_keys={self.unexpected_keys})"
        )


def state_dict(model: Any) -> dict[str, np.ndarray]:
    """Parameters and buffers under torch's names and in torch's order, as numpy arrays.

    A module that several attributes of the model refer to appears under each of its names.
    `num_batches_tracked` is int64, as in torch, also where JAX counts in int32. Unlike
    torch's tensors, the arrays do not follow later changes of the model.

    Args:
        model: The model, any flax.nnx module.

    Returns:
        A dict of the arrays by dotted name, such as "fc1.weight".
    """
    arrays = {name: np.asarray(variable[...]) for name, variable in _variables(model).items()}
    for name in arrays:
        if _counts_batches(name):
            arrays[name] = arrays[name].astype(np.int64)
    return arrays


def load_state_dict(
    model: Any, state_dict: Mapping[str, Any], strict: bool = True
) -> IncompatibleKeys:
    """Writes arrays into a model by name, all or none.

    Values are cast to the model's dtypes as torch's `copy_` casts: floats are rounded,
    a float becomes an integer without its fraction, anything but 0 is True, and a
    complex number loses its imaginary part with a warning. As in torch, one number in
    an array of shape (1,) fills an array without axes, and `num_batches_tracked` may be
    missing where the state_dict does not say that its normalisation layer is of
    version 2. A weight that nn.utils computes (weight_norm, spectral_norm) may be there under the
    names of torch's older or newer form. Unlike torch, an integer that the model's dtype cannot
    represent is an error, and so are two values for one array that the model has under two
    names (torch keeps the last).

    Args:
        model: The model, which is changed in place; an error leaves it as it was.
        state_dict: The arrays by name, of numpy, JAX or torch; a number counts as an array
            without axes.
        strict: Whether missing and unexpected names are errors.

    Returns:
        The missing and the unexpected names, as torch returns them.

    Raises:
        ValueError: The state_dict does not fit the model. The message lists the names that
            are missing or unexpected, or whose shape, dtype or values do not fit, or the
            prefix that all names have, such as "module." of DataParallel.
        TypeError: The state_dict is no mapping, but the path of a file or a model.
    """
    # All values are cast and checked before the first is assigned: a state_dict that does
    # not fit leaves the model as it was.
    if not isinstance(state_dict, Mapping):
        raise TypeError(
            f"state_dict: {type(state_dict).__name__}; accepted is a mapping from names to arrays, "
            'such as weights.load("net.pt") or model.state_dict()'
        )
    variables = _variables(model)
    state_dict = _in_this_form(model, state_dict)
    arrays: dict[str, np.ndarray] = {}
    first_names: dict[int, str] = {}  # by the variable's id, its first name in the model
    faults = []
    for name, variable in variables.items():
        if name not in state_dict:
            continue
        try:
            arrays[name] = _fitted(state_dict[name], variable)
        except (TypeError, ValueError) as fault:
            faults.append(f"{name}: {fault}")
            continue
        first = first_names.setdefault(id(variable), name)
        if first != name and arrays[first].tobytes() != arrays[name].tobytes():
            faults.append(f"{name}: other values than {first}, the same array in the model")
    keys = IncompatibleKeys(
        [n for n in variables if n not in state_dict and not _may_be_missing(n, state_dict)],
        [name for name in state_dict if name not in variables],
    )
    if strict and (prefix := _prefix(variables, state_dict)):
        raise ValueError(
            f"state_dict: its names begin with {prefix!r}, those of {type(model).__name__} do not; "
            f"give {{name.removeprefix({prefix!r}): array for name, array in state_dict.items()}}"
        )
    if strict:
        faults += [f"{name}: missing" for name in keys.missing_keys]
        faults += [f"{name!s:.200}: unexpected" for name in keys.unexpected_keys]
    if faults:
        more = [f"and {len(faults) - _MOST_LINES} more"] if len(faults) > _MOST_LINES else []
        raise ValueError(
            f"state_dict: it does not fit {type(model).__name__}:\n  "
            + "\n  ".join([*faults[:_MOST_LINES], *more])
        )
    for name, array in arrays.items():
        _assign(variables[name], array)
    return keys


def _in_this_form(model: Any, state_dict: Mapping[str, Any]) -> Mapping[str, Any]:
    """The state_dict with the names of the model's form of weight_norm and spectral_norm."""
    renamed: dict[str, str] = {}
    for prefix, module in named_modules(model, remove_duplicate=False):
        for names in getattr(module, "_other_names", list)():
            others = {join(prefix, other): join(prefix, name) for name, other in names.items()}
            if others.keys() <= state_dict.keys() and state_dict.keys().isdisjoint(others.values()):
                renamed |= others
    if not renamed:
        return state_dict
    changed = OrderedDict((renamed.get(name, name), a) for name, a in state_dict.items())
    changed._metadata = getattr(state_dict, "_metadata", None)  # type: ignore[attr-defined]
    return changed


def common_prefix(names: Iterable[Any]) -> str:
    """What torch has put before every name, such as "module.", or "" for nothing."""
    given = [name for name in names if type(name) is str and name != "n_averaged"]
    prefix = ""
    while given and (first := next((p for p in _PREFIXES if given[0].startswith(p)), None)):
        if not all(name.startswith(first) for name in given):
            break
        prefix, given = prefix + first, [name.removeprefix(first) for name in given]
    return prefix


def _prefix(names: Mapping[str, Any], state_dict: Mapping[str, Any]) -> str:
    """What stands before the model's names in every name of a state_dict, or "" for nothing."""
    prefix = common_prefix(state_dict)
    known = any(str(name).removeprefix(prefix) in names for name in state_dict)
    return prefix if known else ""


def _fitted(value: Any, variable: nnx.Variable[Any]) -> np.ndarray:
    """A value in the variable's shape and dtype."""
    if not is_array(value) and not isinstance(value, bool | int | float | complex):
        raise TypeError(f"{type(value).__name__} is no array")
    array = as_numpy(value) if is_array(value) else np.asarray(value)
    if array.shape == (1,) and variable.shape == ():
        array = array.reshape(())
    if array.shape != variable.shape:
        raise ValueError(f"shape {array.shape}, the model has {variable.shape}")
    dtype = np.dtype(variable.dtype)
    if array.dtype.kind in "OSUMm" or array.dtype.names:
        raise TypeError(f"dtype {array.dtype}, which is no number")
    if array.dtype.kind == "c" and dtype.kind != "c":
        warnings.warn(
            "Casting complex values to real discards the imaginary part", UserWarning, stacklevel=3
        )
        array = array.real
    if dtype.kind in "iu" and array.dtype.kind != "b" and array.size:
        least, most = np.iinfo(dtype).min, np.iinfo(dtype).max
        # Compared as Python's numbers, since numpy would round or refuse the limits.
        if not (least <= array.min().item() and array.max().item() <= most):
            raise ValueError(f"{array.dtype} values that {dtype} cannot hold")
    with np.errstate(over="ignore", invalid="ignore"):
        return array.astype(dtype)


def _assign(variable: nnx.Variable[Any], array: np.ndarray) -> None:
    current = variable[...]
    # A model that was put on a device, or spread over several, stays there.
    if isinstance(current, jax.Array) and current.committed:
        variable.set_value(jax.device_put(array, current.sharding))
    else:
        variable.set_value(jnp.asarray(array))


def _counts_batches(name: str) -> bool:
    return name.rpartition(".")[2] == "num_batches_tracked"


def _may_be_missing(name: str, state_dict: Any) -> bool:
    """Whether torch fills in this name: BatchNorm counts batches only since its version 2."""
    metadata = getattr(state_dict, "_metadata", None)
    layer = metadata.get(name.rpartition(".")[0]) if isinstance(metadata, Mapping) else None
    version = layer.get("version") if isinstance(layer, Mapping) else None
    return _counts_batches(name) and (not isinstance(version, int) or version < 2)


def _variables(model: Any) -> dict[str, nnx.Variable[Any]]:
    """The variables of a state_dict in torch's order; one with two names is there twice."""
    found = named_variables(model, remove_duplicate=False)
    return {name: v for name, v in found if v.get_metadata("persistent", True)}
