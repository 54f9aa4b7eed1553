"""Dropout layers and functions, with random keys from `nn.keys` instead of a global generator.

The random masks differ from torch's, whose x86 builds draw them with a vendor library. Masks
that were recorded in torch can be replayed with `nn.draws`. As in torch, the remaining numbers
are multiplied by 1 / (1 - p), only in training, and nothing is drawn for p = 0, p = 1 or an
empty input.
"""

import math
import warnings

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxnet._keys import keep_mask
from jaxnet.nn._module import Module


def _check_probability(p: float) -> None:
    if not 0 <= p <= 1:  # written so that nan is refused too
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
        # As in torch a product, so nan and infinity become nan instead of 0.
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
        # As in torch a product, so nan and infinity become nan instead of 0.
        return input * 0
    low = 1.7580993408473766  # SELU(x) approaches -low for x to minus infinity
    # The factor a and the summand a p low restore mean 0 and variance 1 after the dropout.
    a = 1 / math.sqrt((low * low * p + 1) * (1 - p))
    kept = keep_mask(name, shape, 1 - p, key, input.shape)
    return jnp.where(kept, input * a + low * a * p, -low * a * (1 - p))


def _channels(input: jax.Array, leading: int) -> tuple[int, ...]:
    """The shape of a mask with one number for each channel."""
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
    """Zeroes numbers with probability p and multiplies the others by 1 / (1 - p).

    Args:
        input: An array of floats of any shape.
        p: The probability that a number is zeroed.
        training: Whether numbers are zeroed at all; if False the input is returned.
        inplace: An argument of torch that has no effect, since JAX's arrays never change.
        key: A random key. Without it the open `nn.keys` context supplies one.

    Returns:
        An array with the shape and dtype of the input.

    Raises:
        ValueError: The probability p is not in [0, 1], or there is no key.
        TypeError: The input has no float dtype.
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
    """Zeroes whole channels of (N, C, L) or (C, L): torch.nn.functional.dropout1d.

    The arguments are those of `dropout`.
    """
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
    """Zeroes whole channels of (N, C, H, W): torch.nn.functional.dropout2d.

    As in torch, an input with another number of axes is read as (N, C, ...), with a warning.
    For a single image (C, H, W) write `dropout2d(x[None])[0]`.

    The arguments are those of `dropout`.
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
    """Zeroes whole channels of (N, C, D, H, W) or (C, D, H, W): torch.nn.functional.dropout3d.

    As in torch, an input with another number of axes is read as (C, ...), with a warning.

    The arguments are those of `dropout`.
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
    """Replaces numbers by SELU's lower limit, and keeps mean 0 and variance 1.

    With L = 1.758... and a = ((L^2 p + 1)(1 - p))^(-1/2), a number x becomes -a (1 - p) L with
    probability p, and a x + a p L otherwise (Klambauer et al., 2017).

    The arguments are those of `dropout`, but as in torch `training` is False by default.
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
    """Applies `alpha_dropout` to whole channels of (N, C, ...).

    The arguments are those of `alpha_dropout`.
    """
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
    """Zeroes numbers with probability p in training mode: torch.nn.Dropout.

    In training mode the layer takes its key from the open `nn.keys` context. A step from
    `make_train_step` opens this context.

    Args:
        p: The probability that a number is zeroed.
        inplace: An argument of torch that has no effect, since JAX's arrays never change.

    Raises:
        ValueError: The probability p is not in [0, 1].
    """

    def __call__(self, input: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        return dropout(input, self.p, self.training)


class Dropout1d(_Dropout):
    """Zeroes whole channels of (N, C, L) or (C, L): torch.nn.Dropout1d. As in `Dropout`."""

    def __call__(self, input: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        return dropout1d(input, self.p, self.training)


class Dropout2d(_Dropout):
    """Zeroes whole channels of (N, C, H, W): torch.nn.Dropout2d.

    The arguments are those of `Dropout`. Other numbers of axes are read as in `dropout2d`.
    """

    def __call__(self, input: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        return dropout2d(input, self.p, self.training)


class Dropout3d(_Dropout):
    """Zeroes whole channels of (N, C, D, H, W) or (C, D, H, W): torch.nn.Dropout3d.

    The arguments are those of `Dropout`. Other numbers of axes are read as in `dropout3d`.
    """

    def __call__(self, input: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        return dropout3d(input, self.p, self.training)


class AlphaDropout(_Dropout):
    """Dropout that keeps mean 0 and variance 1 after SELU: torch.nn.AlphaDropout.

    The arguments are those of `Dropout`, and the formula is that of `alpha_dropout`.
    """

    def __call__(self, input: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        return alpha_dropout(input, self.p, self.training)


class FeatureAlphaDropout(_Dropout):
    """Applies `AlphaDropout` to whole channels of (N, C, ...): torch.nn.FeatureAlphaDropout.

    The arguments are those of `Dropout`.
    """

    def __call__(self, input: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        return feature_alpha_dropout(input, self.p, self.training)
