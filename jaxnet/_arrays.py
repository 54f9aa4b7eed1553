"""Arrays of numpy, JAX and PyTorch as one another's, without importing PyTorch."""

from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np

_BY_NUMPY = (
    *("bool", "uint8", "int8", "int16", "int32", "int64", "uint16", "uint32", "uint64"),
    *("float16", "float32", "float64", "complex64", "complex128"),
)
_BY_ML_DTYPES = (
    "bfloat16",
    "float8_e4m3fn",
    "float8_e4m3fnuz",
    "float8_e5m2",
    "float8_e5m2fnuz",
    "float8_e8m0fnu",
)

DTYPES: dict[str, np.dtype] = {
    **{name: np.dtype(name) for name in _BY_NUMPY},
    **{name: np.dtype(getattr(ml_dtypes, name)) for name in _BY_ML_DTYPES},
}
"""numpy's dtype for each of torch's names: "float32" for torch.float32, and so on."""


def is_array(value: Any) -> bool:
    """Whether a value is a numpy array or scalar, a JAX array or a torch tensor."""
    return isinstance(value, np.ndarray | np.generic | jax.Array) or is_tensor(value)


def is_tensor(value: Any) -> bool:
    """Whether a value is a torch tensor."""
    return any(t.__module__ == "torch" and t.__name__ == "Tensor" for t in type(value).__mro__)


def as_numpy(value: Any) -> np.ndarray:
    """An array of numpy, JAX or PyTorch as numpy's, without a copy where possible.

    Args:
        value: A value for which `is_array` is True.

    Raises:
        TypeError: numpy and ml_dtypes have no such numbers: random keys of JAX, or a tensor
            that is sparse or quantized.
    """
    if is_tensor(value):
        name = str(value.dtype).removeprefix("torch.")
        if name not in DTYPES:
            raise TypeError(f"a torch tensor of {name}, which numpy does not have")
        tensor = value.detach().cpu().resolve_conj().resolve_neg()
        # Tensors of bfloat16 and float8 have no numpy(); float32 represents them exactly.
        if DTYPES[name].isbuiltin != 1:
            return tensor.float().numpy().astype(DTYPES[name])
        return tensor.numpy()
    return np.asarray(value)


def check_fits(name: str, value: Any) -> None:
    """Refuses integers of 64 bits that JAX, which cuts them to 32 bits, would change.

    Args:
        name: The name of the argument, for the error.
        value: Any value; only arrays and lists on the host are looked at.

    Raises:
        ValueError: A number is outside the integers of 32 bits, and jax_enable_x64 is not set.

    >>> check_fits("target", np.array([2**40]))
    Traceback (most recent call last):
    ...
    ValueError: target: 1099511627776 does not fit the 32 bits of JAX's integers; give smaller \
numbers, or run jax.config.update("jax_enable_x64", True) first
    """
    if isinstance(value, jax.Array) or getattr(jax.config, "jax_enable_x64"):  # noqa: B009
        return
    if isinstance(value, list | tuple) or hasattr(value, "detach"):
        value = as_numpy(value)
    if not (isinstance(value, np.ndarray | np.generic) and value.dtype.name in ("int64", "uint64")):
        return
    limits = np.iinfo(np.int32 if value.dtype.kind == "i" else np.uint32)
    for found in (value.min(), value.max()) if value.size else ():
        if not limits.min <= found <= limits.max:
            raise ValueError(
                f"{name}: {found} does not fit the 32 bits of JAX's integers; give smaller "
                'numbers, or run jax.config.update("jax_enable_x64", True) first'
            )


def as_jax(name: str, value: Any) -> jax.Array:
    """An argument as an array of JAX, after `check_fits`."""
    check_fits(name, value)
    return jnp.asarray(value)


def on_devices(x: Any, sharding: jax.sharding.Sharding) -> jax.Array:
    """An array where a sharding says, also on devices of other processes.

    Args:
        x: An array of numpy, or of JAX on the devices of this process (then every process has
            the same one) or of several; random keys too.
        sharding: The devices, and which part each has.
    """
    if sharding.is_fully_addressable:
        return jax.device_put(x, sharding)
    if isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        data = on_devices(jax.random.key_data(x), sharding)
        return jax.random.wrap_key_data(data, impl=jax.random.key_impl(x))
    if isinstance(x, jax.Array) and not x.is_fully_addressable:
        return jax.device_put(x, sharding)  # from process to process
    host = np.asarray(x)
    # device_put would first ask all processes whether the numbers are the same.
    return jax.make_array_from_callback(host.shape, sharding, lambda part: host[part])
