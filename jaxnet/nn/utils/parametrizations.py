"""Parametrizations that are ready made: torch.nn.utils.parametrizations."""

from typing import Any, TypeVar

import jax
import jax.numpy as jnp

from jaxnet._checks import check_choice, check_integer
from jaxnet.nn._draw import Rngs, draw_normal
from jaxnet.nn._module import Buffer, Module
from jaxnet.nn.utils import _spectral_norm, _weight_norm
from jaxnet.nn.utils._derived import rules
from jaxnet.nn.utils._spectral_norm import (
    after_iterations,
    as_matrix,
    divided,
    drawn,
    normalized,
    output_dim,
)
from jaxnet.nn.utils._weight_norm import checked_dim, norm_except_dim, normed
from jaxnet.nn.utils.parametrize import register_parametrization
from jaxnet.precision import full_float32, promoted

__all__ = ["orthogonal", "spectral_norm", "weight_norm"]

M = TypeVar("M")


def _weight(what: str, module: Any, name: str) -> jax.Array:
    """The weight, which may be computed already.

    Raises:
        ValueError: There is no such array.
    """
    found = vars(module).get(name) if name not in rules(module) else getattr(module, name)
    if not hasattr(found, "dtype"):
        raise ValueError(f"{what}: name: {name!r} is no array of {type(module).__name__}")
    return found[...]


class _WeightNorm(Module):
    def __init__(self, dim: int) -> None:
        self.dim = dim

    def __call__(self, weight_g: jax.Array, weight_v: jax.Array) -> jax.Array:
        return normed(weight_g, weight_v, self.dim)

    def right_inverse(self, weight: jax.Array) -> tuple[jax.Array, jax.Array]:
        return norm_except_dim(weight, self.dim), weight

    def _older(self, name: str) -> dict[str, str]:
        return _weight_norm.other_names(name)


def weight_norm(module: M, name: str = "weight", dim: int | None = 0) -> M:
    """Computes a weight as w = g v / |v|: torch.nn.utils.parametrizations.weight_norm.

    The trained arrays are `parametrizations.weight.original0`, the norms g, and `original1`, the
    directions v. A state_dict of torch's older form, with `weight_g` and `weight_v`, is read too.

    Args:
        module: The module, which is changed in place.
        name: The name of the weight.
        dim: The axis whose entries have a norm each: 0 for the rows of a Linear. None, and as
            in torch -1, for one norm of the whole weight.

    Returns:
        The module.

    Raises:
        TypeError: The module is no module of jaxnet, or dim no whole number.
        ValueError: The module has no such weight, or the weight no such axis.

    >>> from jaxnet import nn
    >>> from jaxnet.random import Generator
    >>> layer = weight_norm(nn.Linear(20, 40, rngs=Generator(0)))
    >>> layer
    ParametrizedLinear(
      in_features=20, out_features=40, bias=True
      (parametrizations): ModuleDict(
        (weight): ParametrizationList(
          (0): _WeightNorm()
        )
      )
    )
    >>> layer.parametrizations["weight"].original0.shape
    (40, 1)
    """
    dim = checked_dim(dim, _weight("weight_norm", module, name).ndim)
    return register_parametrization(module, name, _WeightNorm(dim), unsafe=True)


class _SpectralNorm(Module):
    def __init__(
        self, weight: jax.Array, n_power_iterations: int, dim: int, eps: float, rngs: Rngs | None
    ) -> None:
        self.dim = dim
        self.eps = eps
        if weight.ndim > 1:
            if rngs is None:
                raise TypeError(
                    "spectral_norm: rngs is missing, where the first singular vectors come from; "
                    "write rngs=Generator(0), the generator of the layers"
                )
            self.n_power_iterations = n_power_iterations
            matrix = as_matrix(weight, dim)
            u, v = after_iterations(matrix, *drawn(matrix, eps, rngs), 15, eps, u_first=True)
            self._u = Buffer(u)
            self._v = Buffer(v)

    def __call__(self, weight: jax.Array) -> jax.Array:
        if weight.ndim == 1:
            return normalized(weight, self.eps)
        if self.training:
            self._u[...], self._v[...] = after_iterations(
                as_matrix(weight, self.dim),
                self._u[...],
                self._v[...],
                self.n_power_iterations,
                self.eps,
                u_first=True,
            )
        return divided(weight, self._u[...], self._v[...], self.dim)

    def right_inverse(self, value: jax.Array) -> jax.Array:
        return value

    def _older(self, name: str) -> dict[str, str]:
        return _spectral_norm.other_names(name) if hasattr(self, "_u") else {}


def spectral_norm(
    module: M,
    name: str = "weight",
    n_power_iterations: int = 1,
    eps: float = 1e-12,
    dim: int | None = None,
    *,
    rngs: Rngs | None = None,
) -> M:
    """Divides a weight by its largest singular value.

    This is torch.nn.utils.parametrizations.spectral_norm. The value comes from the power method:
    the buffers `parametrizations.weight.0._u` and `_v` estimate the singular vectors, and each
    call in training mode improves them. They are part of a training state as the statistics of
    BatchNorm are. Wrap several calls in `parametrize.cached()` to move them once. A vector is
    divided by its norm. A state_dict of torch's older form is read too.

    Args:
        module: The module, which is changed in place.
        name: The name of the weight.
        n_power_iterations: The number of steps of the power method in a call, at least 1.
        eps: The least norm that a vector is divided by.
        dim: The axis of the outputs. None is 1 for ConvTranspose1d to 3d, else 0.
        rngs: The source of the first vectors, which a weight of one axis does not need. A
            `Generator` gives those that torch draws.

    Returns:
        The module.

    Raises:
        TypeError: The module is no module of jaxnet, or rngs no source of random numbers.
        ValueError: The module has no such weight, the weight has no such axis, or the number of
            steps is below 1.

    >>> from jaxnet import nn
    >>> from jaxnet.random import Generator
    >>> generator = Generator(0)
    >>> layer = spectral_norm(nn.Linear(20, 40, rngs=generator), rngs=generator)
    >>> round(float(jnp.linalg.norm(layer.weight, 2)), 2)
    1.0
    """
    weight = _weight("spectral_norm", module, name)
    check_integer("n_power_iterations", n_power_iterations, least=1)
    axis = output_dim(module, dim, weight.ndim)
    return register_parametrization(
        module, name, _SpectralNorm(weight, n_power_iterations, axis, eps, rngs)
    )


class _Orthogonal(Module):
    def __init__(
        self, weight: jax.Array, orthogonal_map: str, use_trivialization: bool, rngs: Rngs | None
    ) -> None:
        self.orthogonal_map = orthogonal_map
        self.use_trivialization = use_trivialization
        if not use_trivialization:
            return
        # `right_inverse`, which is called next, makes this the orthogonal matrix.
        base = weight if weight.shape[-2] >= weight.shape[-1] else weight.mT
        n, k = base.shape[-2:]
        if n != k:
            if rngs is None:
                raise TypeError(
                    "orthogonal: rngs is missing, which fills up a weight that is not square to "
                    "an orthogonal matrix; write rngs=Generator(0), the generator of the layers"
                )
            filling = draw_normal(rngs, (*base.shape[:-2], n, n - k), 0, 1, weight.dtype)
            base = jnp.concatenate([base, filling], -1)
        self.base = Buffer(base)

    @full_float32()
    def __call__(self, weight: jax.Array) -> jax.Array:
        # Matrix functions do not take the narrow dtypes that a compute_dtype gives.
        x = weight.astype(promoted(weight.dtype, jnp.float32))
        transposed = x.shape[-2] < x.shape[-1]
        x = x.mT if transposed else x
        n, k = x.shape[-2:]
        if self.orthogonal_map == "householder":
            # As in torch the signs are the whole parts of the diagonal.
            signs = jax.lax.stop_gradient(jnp.trunc(jnp.diagonal(x, axis1=-2, axis2=-1)))
            q = _householder_product(jnp.tril(x, -1)) * signs[..., None, :]
        else:
            lower = jnp.tril(x)
            lower = jnp.concatenate([lower, jnp.zeros((*x.shape[:-1], n - k), x.dtype)], -1)
            skew = lower - lower.mT.conj()
            if self.orthogonal_map == "matrix_exp":
                q = jax.scipy.linalg.expm(skew)
            else:
                one = jnp.eye(n, dtype=x.dtype)
                q = jnp.linalg.solve(one - skew / 2, one + skew / 2)
            q = q[..., :k]
        if self.use_trivialization:
            q = self.base[...].astype(x.dtype) @ q
        return (q.mT if transposed else q).astype(weight.dtype)

    @full_float32()
    def right_inverse(self, q: jax.Array) -> jax.Array:
        transposed = q.shape[-2] < q.shape[-1]
        tall = q.mT if transposed else q
        n, k = tall.shape[-2:]
        if self.use_trivialization:
            if n == k:
                one = jnp.eye(n, dtype=q.dtype)
                fits = jnp.allclose(
                    tall.mT.conj() @ tall, one, atol=10 * n * jnp.finfo(q.dtype).eps
                )
                self.base[...] = jnp.where(fits, tall, _orthogonalized(tall))
            else:
                whole = jnp.concatenate([tall, self.base[...][..., k:]], -1)
                self.base[...] = _orthogonalized(whole)
            # The map of minus the identity is the identity, so that the weight is `base`.
            one = jnp.eye(q.shape[-2], q.shape[-1], dtype=q.dtype)
            return jnp.broadcast_to(-one, q.shape)
        if self.orthogonal_map != "householder":
            raise NotImplementedError(
                f"orthogonal: a weight with orthogonal_map={self.orthogonal_map!r} and "
                "use_trivialization=False cannot be assigned; assign "
                "parametrizations.weight.original, which it is computed from"
            )
        a, tau = _packed_qr(tall)
        i = jnp.arange(k)
        signs = jnp.sign(a[..., i, i]) * jnp.where(tau == 0, -1, 1)
        a = a.at[..., i, i].set(signs.astype(a.dtype))
        return a.mT if transposed else a


def _packed_qr(a: jax.Array) -> tuple[jax.Array, jax.Array]:
    """LAPACK's geqrf: R above the reflectors, and their factors."""
    transposed, tau = jnp.linalg.qr(a, mode="raw")
    return transposed.mT, tau


def _orthogonalized(a: jax.Array) -> jax.Array:
    """The factor Q of a = Q R with a positive diagonal of R."""
    q, r = jnp.linalg.qr(a)
    return q * jnp.sign(jnp.diagonal(r, axis1=-2, axis2=-1))[..., None, :]


def _householder_product(below: jax.Array) -> jax.Array:
    """The first columns of the product of the reflectors whose vectors are 1 and what is below.

    JAX's own product has no gradient.
    """
    n, k = below.shape[-2:]
    first = jnp.broadcast_to(jnp.eye(n, k, dtype=below.dtype), below.shape)

    def reflect(q: jax.Array, column: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        v, tau = column
        return q - (tau[..., None] * v)[..., :, None] * (v[..., None, :] @ q), None

    vectors = jnp.moveaxis(below + jnp.eye(n, k, dtype=below.dtype), -1, 0)  # (k, ..., n)
    factors = jnp.moveaxis(2 / (1 + jnp.sum(below * below, -2)), -1, 0)  # (k, ...)
    return jax.lax.scan(reflect, first, (vectors, factors), reverse=True)[0]


def orthogonal(
    module: M,
    name: str = "weight",
    orthogonal_map: str | None = None,
    *,
    use_trivialization: bool = True,
    rngs: Rngs | None = None,
) -> M:
    """Keeps a weight orthogonal, or unitary: torch.nn.utils.parametrizations.orthogonal.

    The columns of the weight, a matrix or a batch of matrices (..., m, n), are orthonormal where
    m >= n, and the rows are where m < n. The weight begins as the one that there is if it is
    orthogonal, else as the Q of its QR decomposition.

    Args:
        module: The module, which is changed in place.
        name: The name of the weight.
        orthogonal_map: The map from the trained matrix to the orthogonal one: "matrix_exp", the
            exponential of a skew-symmetric matrix; "cayley", (I - A / 2)^-1 (I + A / 2) of one;
            or "householder", a product of reflections. None is matrix_exp for square and complex
            weights, else householder.
        use_trivialization: Whether the result is multiplied by an orthogonal matrix, the buffer
            `parametrizations.weight.0.base`.
        rngs: The source of the random numbers that fill up a weight that is not square; needed
            for one with use_trivialization. A `Generator` gives those that torch draws.

    Returns:
        The module.

    Raises:
        TypeError: The module is no module of jaxnet, or rngs is missing.
        ValueError: The module has no such weight, it has fewer than two axes, the map is unknown
            or does not fit a complex weight, or a weight that is computed already would need
            use_trivialization.

    >>> from jaxnet import nn
    >>> from jaxnet.random import Generator
    >>> layer = orthogonal(nn.Linear(4, 4, rngs=Generator(0)))
    >>> bool(jnp.allclose(layer.weight.T @ layer.weight, jnp.eye(4), atol=1e-5))
    True
    """
    weight = _weight("orthogonal", module, name)
    if weight.ndim < 2:
        raise ValueError(
            f"orthogonal: {name!r} has shape {weight.shape}; accepted is a matrix or a batch of "
            "matrices"
        )
    if orthogonal_map is None:
        square = weight.shape[-2] == weight.shape[-1]
        orthogonal_map = "matrix_exp" if square or jnp.iscomplexobj(weight) else "householder"
    check_choice("orthogonal_map", orthogonal_map, ("matrix_exp", "cayley", "householder"))
    if jnp.iscomplexobj(weight) and orthogonal_map == "householder":
        raise ValueError(
            "orthogonal_map: 'householder' of a complex weight; accepted are 'matrix_exp' and "
            "'cayley'"
        )
    if use_trivialization and name in rules(module):
        raise ValueError(
            f"use_trivialization: True, but {name!r} is computed already, and its value cannot be "
            "set; accepted is False"
        )
    rule = _Orthogonal(weight, orthogonal_map, use_trivialization, rngs)
    return register_parametrization(module, name, rule, unsafe=True)
