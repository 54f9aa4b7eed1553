"""Dropout: torch's layers, with keys from `nn.keys` in place of a global generator.

The masks are not torch's: its x86 builds draw them from a vendor library. Recorded
masks can be fed with `nn.masks`. The factor is torch's 1 / (1 - p), in training only.
As in torch, nothing is drawn for p = 0, p = 1 or an empty input.
"""

import math
import warnings

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxnet._keys import keep_mask
from jaxnet.nn._module import Module


def _check_probability(p: float) -> None:
    if not 0 <= p <= 1:  # also true of nan
        raise ValueError(f"p: dropout probability has to be between 0 and 1, but got {p}")


def _draws(input: jax.Array, p: float, training: bool) -> bool:
    _check_probability(p)
    if not training or p == 0 or input.size == 0:
        return False
    if not jnp.issubdtype(input.dtype, jnp.floating):
        raise TypeError(f"dropout: the input is {input.dtype}; accepted are floats")
    return True


def _drop(
    name: str,
    input: jax.Array,
    p: float,
    training: bool,
    shape: tuple[int, ...],
    key: jax.Array | None,
) -> jax.Array:
    if not _draws(input, p, training):
        return input
    if p == 1:
        return input * 0
    kept = keep_mask(name, shape, 1 - p, key, input.shape)
    return jnp.where(kept, input * (1 / (1 - p)), 0)


def _alpha_drop(
    name: str,
    input: Float[Array, "*shape"],
    p: float,
    training: bool,
    shape: tuple[int, ...],
    key: jax.Array | None,
) -> Float[Array, "*shape"]:
    if not _draws(input, p, training):
        return input
    if p == 1:
        return input * 0
    low = 1.7580993408473766  # minus SELU's limit on the left
    a = 1 / math.sqrt((low * low * p + 1) * (1 - p))
    kept = keep_mask(name, shape, 1 - p, key, input.shape)
    return jnp.where(kept, input * a + low * a * p, -low * a * (1 - p))


def _channels(input: jax.Array, leading: int) -> tuple[int, ...]:
    """The mask's shape when one number is drawn for each channel."""
    return input.shape[:leading] + (1,) * (input.ndim - leading)


def _check_features(name: str, input: jax.Array) -> None:
    if input.ndim < 2:
        raise ValueError(f"{name}: the input has shape {input.shape}; accepted is (N, C, ...)")


def dropout(
    input: Float[Array, "*shape"],
    p: float = 0.5,
    training: bool = True,
    inplace: bool = False,
    *,
    key: jax.Array | None = None,
) -> Float[Array, "*shape"]:
    """Zeroes numbers with probability p and multiplies the rest by 1 / (1 - p).

    Args:
        input: floats of any shape.
        p: probability that a number is dropped.
        training: if not, the input is given back.
        inplace: torch's argument; arrays never change, so it has no effect.
        key: random key; without it the open `nn.keys` context gives one.

    Raises:
        ValueError: p lies outside [0, 1], or there is no key.
    """
    return _drop("dropout", input, p, training, input.shape, key)


def dropout1d(
    input: Float[Array, "*shape"],
    p: float = 0.5,
    training: bool = True,
    inplace: bool = False,
    *,
    key: jax.Array | None = None,
) -> Float[Array, "*shape"]:
    """Drops whole channels of (N, C, L) or (C, L). See `dropout`."""
    if input.ndim not in (2, 3):
        raise ValueError(
            f"dropout1d: the input has shape {input.shape}; accepted are (N, C, L) and (C, L)"
        )
    return _drop("dropout1d", input, p, training, _channels(input, input.ndim - 1), key)


def dropout2d(
    input: Float[Array, "*shape"],
    p: float = 0.5,
    training: bool = True,
    inplace: bool = False,
    *,
    key: jax.Array | None = None,
) -> Float[Array, "*shape"]:
    """Drops whole channels of (N, C, H, W). See `dropout`.

    As torch does now, with a warning, inputs with another number of axes are read
    as (N, C, ...); an image (C, H, W) without a batch wants `dropout2d(x[None])[0]`.
    """
    _check_features("dropout2d", input)
    if input.ndim != 4:
        warnings.warn(
            f"dropout2d: an input of shape {input.shape} is read as (N, C, ...), as torch does; "
            "add a batch axis to (C, H, W), or use dropout1d or dropout",
            stacklevel=2,
        )
    return _drop("dropout2d", input, p, training, _channels(input, 2), key)


def dropout3d(
    input: Float[Array, "*shape"],
    p: float = 0.5,
    training: bool = True,
    inplace: bool = False,
    *,
    key: jax.Array | None = None,
) -> Float[Array, "*shape"]:
    """Drops whole channels of (N, C, D, H, W) or (C, D, H, W). See `dropout`.

    As torch does now, with a warning, inputs with another number of axes are read
    as (C, ...).
    """
    if input.ndim not in (4, 5):
        warnings.warn(
            f"dropout3d: an input of shape {input.shape} is read as (C, ...), as torch does; "
            "use dropout for such an input",
            stacklevel=2,
        )
    shape = _channels(input, 2 if input.ndim == 5 else 1)
    return _drop("dropout3d", input, p, training, shape, key)


def alpha_dropout(
    input: Float[Array, "*shape"],
    p: float = 0.5,
    training: bool = False,
    inplace: bool = False,
    *,
    key: jax.Array | None = None,
) -> Float[Array, "*shape"]:
    """Sets numbers to SELU's lower limit and rescales: zero mean and unit variance stay.

    kept: a x + a p L; dropped: -a (1 - p) L; L = 1.758..., a = ((L^2 p + 1)(1 - p))^(-1/2).
    Arguments as `dropout`'s, but `training` is False by default, as in torch.
    """
    return _alpha_drop("alpha_dropout", input, p, training, input.shape, key)


def feature_alpha_dropout(
    input: Float[Array, "*shape"],
    p: float = 0.5,
    training: bool = False,
    inplace: bool = False,
    *,
    key: jax.Array | None = None,
) -> Float[Array, "*shape"]:
    """`alpha_dropout` of whole channels of (N, C, ...)."""
    _check_features("feature_alpha_dropout", input)
    return _alpha_drop("feature_alpha_dropout", input, p, training, _channels(input, 2), key)


class _Dropout(Module):
    def __init__(self, p: float = 0.5, inplace: bool = False) -> None:
        _check_probability(p)
        self.p = p
        self.inplace = inplace

    def extra_repr(self) -> str:
        return f"p={self.p}, inplace={self.inplace}"


class Dropout(_Dropout):
    """Zeroes numbers with probability p in training: torch.nn.Dropout.

    Args:
        p: probability that a number is dropped.
        inplace: torch's argument; arrays never change, so it has no effect.

    In training mode it takes its key from the open `nn.keys` context; a step from
    `make_train_step` opens one.
    """

    def __call__(self, input: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        return dropout(input, self.p, self.training)


class Dropout1d(_Dropout):
    """Drops whole channels of (N, C, L) or (C, L): torch.nn.Dropout1d. See `Dropout`."""

    def __call__(self, input: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        return dropout1d(input, self.p, self.training)


class Dropout2d(_Dropout):
    """Drops whole channels of (N, C, H, W): torch.nn.Dropout2d.

    See `Dropout` for the arguments, and `dropout2d` for an input of three axes.
    """

    def __call__(self, input: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        return dropout2d(input, self.p, self.training)


class Dropout3d(_Dropout):
    """Drops whole channels of (N, C, D, H, W) or (C, D, H, W): torch.nn.Dropout3d."""

    def __call__(self, input: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        return dropout3d(input, self.p, self.training)


class AlphaDropout(_Dropout):
    """Dropout that keeps SELU's zero mean and unit variance: torch.nn.AlphaDropout."""

    def __call__(self, input: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        return alpha_dropout(input, self.p, self.training)


class FeatureAlphaDropout(_Dropout):
    """`AlphaDropout` of whole channels of (N, C, ...): torch.nn.FeatureAlphaDropout."""

    def __call__(self, input: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        return feature_alpha_dropout(input, self.p, self.training)
