"""torch.fft: discrete Fourier transforms, with the arguments n (or s), dim and norm.

`norm` is "backward" (the inverse is divided by n), "forward" (the transform is) or "ortho"
(both by its root). Integers become float32.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike, DTypeLike

from jaxnet._arrays import as_jax
from jaxnet._checks import check_choice, check_integer
from jaxnet._hints import module_getattr
from jaxnet.ops._absent import FFT
from jaxnet.ops._arguments import axes, dtype_of, floating, named, op

__all__ = [
    "fft",
    "fft2",
    "fftfreq",
    "fftn",
    "fftshift",
    "hfft",
    "ifft",
    "ifft2",
    "ifftn",
    "ifftshift",
    "ihfft",
    "irfft",
    "irfft2",
    "irfftn",
    "rfft",
    "rfft2",
    "rfftfreq",
    "rfftn",
]

if not TYPE_CHECKING:  # so that type checkers know which names are there
    __getattr__ = module_getattr("jaxnet.ops.fft", FFT)
del TYPE_CHECKING, FFT, module_getattr


_NORMS = (None, "backward", "forward", "ortho")


class Transform(Protocol):
    """A transform along one axis."""

    def __call__(
        self, input: ArrayLike, n: int | None = None, dim: int = -1, norm: str | None = None
    ) -> jax.Array: ...


class TransformN(Protocol):
    """A transform along several axes."""

    def __call__(
        self,
        input: ArrayLike,
        s: Sequence[int] | None = None,
        dim: Sequence[int] | None = None,
        norm: str | None = None,
    ) -> jax.Array: ...


def _one(name: str, function: Callable[..., Any], doc: str) -> Transform:
    def call(
        input: ArrayLike, n: int | None = None, dim: int = -1, norm: str | None = None
    ) -> jax.Array:
        check_choice("norm", norm, _NORMS)
        if n is not None:
            check_integer("n", n, least=1)
        return function(floating("input", input), n, dim, norm)

    return named(call, name, doc)


def _many(name: str, function: Callable[..., Any], doc: str, last_two: bool = False) -> TransformN:
    def call(
        input: ArrayLike,
        s: Sequence[int] | None = None,
        dim: Sequence[int] | None = None,
        norm: str | None = None,
    ) -> jax.Array:
        if dim is None and last_two:
            dim = (-2, -1)
        check_choice("norm", norm, _NORMS)
        return function(floating("input", input), s, dim, norm)

    return named(call, name, doc)


fft = _one("fft", jnp.fft.fft, "The Fourier transform along an axis.")
ifft = _one("ifft", jnp.fft.ifft, "The inverse of `fft`.")
rfft = _one("rfft", jnp.fft.rfft, "The transform of reals: its n // 2 + 1 first numbers.")
irfft = _one("irfft", jnp.fft.irfft, "The inverse of `rfft`, of length n, by default even.")
hfft = _one("hfft", jnp.fft.hfft, "The transform of a Hermitian signal, which is real.")
ihfft = _one("ihfft", jnp.fft.ihfft, "The inverse of `hfft`.")
fftn = _many("fftn", jnp.fft.fftn, "The transform along several axes, all by default.")
ifftn = _many("ifftn", jnp.fft.ifftn, "The inverse of `fftn`.")
rfftn = _many("rfftn", jnp.fft.rfftn, "The transform of reals along several axes.")
irfftn = _many("irfftn", jnp.fft.irfftn, "The inverse of `rfftn`.")
fft2 = _many("fft2", jnp.fft.fftn, "The transform along two axes, by default the last.", True)
ifft2 = _many("ifft2", jnp.fft.ifftn, "The inverse of `fft2`.", True)
rfft2 = _many("rfft2", jnp.fft.rfftn, "The transform of reals along two axes.", True)
irfft2 = _many("irfft2", jnp.fft.irfftn, "The inverse of `rfft2`.", True)


def _dtype(dtype: DTypeLike | None) -> Any:
    return dtype_of("dtype", dtype) or jnp.float32


@op
def fftfreq(n: int, d: float = 1.0, *, dtype: DTypeLike | None = None) -> jax.Array:
    """The frequencies of the numbers of `fft`, for n samples that are d apart."""
    return jnp.fft.fftfreq(n, d, dtype=_dtype(dtype))


@op
def rfftfreq(n: int, d: float = 1.0, *, dtype: DTypeLike | None = None) -> jax.Array:
    """The frequencies of the numbers of `rfft`, for n samples that are d apart."""
    return jnp.fft.rfftfreq(n, d, dtype=_dtype(dtype))


@op
def fftshift(input: ArrayLike, dim: int | Sequence[int] | None = None) -> jax.Array:
    """The frequency 0 moved to the middle of axes, all by default."""
    x = as_jax("input", input)
    return jnp.fft.fftshift(x, axes("dim", dim, x.ndim))


@op
def ifftshift(input: ArrayLike, dim: int | Sequence[int] | None = None) -> jax.Array:
    """The inverse of `fftshift`."""
    x = as_jax("input", input)
    return jnp.fft.ifftshift(x, axes("dim", dim, x.ndim))
