"""Affine layers, and layers that join or split axes."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Inexact

from jaxnet import _kernels as kernels
from jaxnet._checks import is_integer
from jaxnet.backend import Operation, is_between, is_wanted
from jaxnet.nn._draw import Rngs, draw_uniform
from jaxnet.nn._module import Module, Parameter, wrong_shape
from jaxnet.nn.init import default_weight_and_bias
from jaxnet.precision import full_float32


@full_float32()
def linear(
    input: Inexact[Array, "*N in_features"],
    weight: Inexact[Array, "*out_features in_features"],
    bias: Inexact[Array, "*out_features"] | None = None,
) -> Inexact[Array, "..."]:
    """Computes y = x W^T + b: torch.nn.functional.linear.

    Args:
        input: The rows x, (..., in_features).
        weight: The matrix W, (out_features, in_features), or a vector (in_features,).
        bias: The summand b, (out_features,), or () for a vector.

    Returns:
        The rows y, (..., out_features), or (...) if the weight is a vector.
    """
    output = _FEW_ROWS(input, weight)[0] if _few_rows(input, weight) else input @ weight.T
    if bias is None:
        return output
    return output + jnp.broadcast_to(bias, output.shape)


# A product of a few rows with a large weight is limited by memory. XLA's product on a CPU takes
# twice the time of reading the weight once. And the weight's gradient, computed as a product,
# is written to memory and read again by the optimizer, while a sum of outer products is fused
# into the optimizer's own loop. (For 3072-512-2 with batch 2 this is half of the step's time.)
_LARGE_WEIGHT = 2**16


def _few_rows(input: jax.Array, weight: jax.Array) -> bool:
    return (
        input.ndim == weight.ndim == 2
        and input.dtype == weight.dtype
        and is_between(input.shape[0], 1, kernels.MOST_ROWS)
        and weight.size >= _LARGE_WEIGHT
    )


def _product(x, w):
    return [x @ w.T]


def _product_in_c(x, w):
    return [kernels.few_rows(x, w)]


def _product_jvp(arguments, tangents):
    (x, w), (dx, dw) = arguments, tangents
    parts = [] if dx is None else [dx @ w.T]
    parts += [] if dw is None else _FEW_ROWS(x, dw)
    return _FEW_ROWS(x, w), [sum(parts[1:], parts[0])]


def _product_transpose(arguments, slopes):
    (x, w), (dy,) = arguments, slopes
    return (dy @ w, None) if is_wanted(x) else (None, *_OUTER(x, dy))


def _outer(x, y):
    return [y.T @ x]


def _outer_loop(x, y):
    terms = [
        jnp.broadcast_to(a, (b.size, a.size)) * jnp.broadcast_to(b[:, None], (b.size, a.size))
        for a, b in zip(x, y, strict=True)
    ]
    # The sum starts from the last row. Another order would change the last bits, and with them
    # runs that are resumed from older checkpoints.
    return [sum(terms[-2::-1], terms[-1])]


def _outer_jvp(arguments, tangents):
    (x, y), (dx, dy) = arguments, tangents
    parts = [] if dx is None else _OUTER(dx, y)
    parts += [] if dy is None else _OUTER(x, dy)
    return _OUTER(x, y), [sum(parts[1:], parts[0])]


def _outer_transpose(arguments, slopes):
    (x, y), (dw,) = arguments, slopes
    return (y @ dw, None) if is_wanted(x) else (None, *_FEW_ROWS(x, dw))


_FEW_ROWS = Operation(
    "few_rows",
    native=_product,
    kernel=_product_in_c,
    in_c=lambda x, w: x.dtype == jnp.float32,
    rows=lambda x, w: ((0, None), (0,)),
    shapes=lambda x, w: [(x.shape[0], w.shape[0])],
    jvp=_product_jvp,
    transpose=_product_transpose,
)
_OUTER = Operation(
    "few_rows_outer",
    native=_outer,
    loop=_outer_loop,
    shapes=lambda x, y: [(y.shape[1], x.shape[1])],
    jvp=_outer_jvp,
    transpose=_outer_transpose,
)


@full_float32()
def bilinear(
    input1: Inexact[Array, "*N in1"],
    input2: Inexact[Array, "*N in2"],
    weight: Inexact[Array, "out in1 in2"],
    bias: Inexact[Array, " out"] | None = None,
) -> Inexact[Array, "*N out"]:
    """Computes y_o = sum_ij x1_i W_oij x2_j + b_o: torch.nn.functional.bilinear.

    Args:
        input1: The rows x1, (..., in1).
        input2: The rows x2, (..., in2), with the leading axes of input1.
        weight: The array W, (out, in1, in2).
        bias: The summand b, (out,).

    Returns:
        The rows y, (..., out).

    Raises:
        ValueError: The inputs do not fit the weight or each other.
    """
    _, in1, in2 = weight.shape
    fit = input1.ndim > 0 and input2.ndim > 0
    if not fit or (*input1.shape, *input2.shape[-1:]) != (*input2.shape[:-1], in1, in2):
        raise ValueError(
            f"bilinear: inputs {input1.shape} and {input2.shape}; accepted are (..., {in1}) and "
            f"(..., {in2}) with the same leading axes"
        )
    # One matrix product with all of W, then a sum over the second input.
    products = jnp.einsum("...i,oij->...oj", input1, weight)  # (..., out, in2)
    output = jnp.einsum("...oj,...j->...o", products, input2)
    return output if bias is None else output + jnp.broadcast_to(bias, output.shape)


def flatten(input: jax.Array, start_dim: int = 0, end_dim: int = -1) -> jax.Array:
    """Joins the axes start_dim to end_dim into one: torch.flatten.

    Args:
        input: An array of any shape; a single number becomes an array of shape (1,).
        start_dim: The first axis to join; a negative number counts from the end.
        end_dim: The last axis to join; a negative number counts from the end.

    Returns:
        The array with the joined axis.

    Raises:
        ValueError: An axis does not exist, or start_dim is behind end_dim.
    """
    start = _axis("flatten", "start_dim", start_dim, input)
    end = _axis("flatten", "end_dim", end_dim, input)
    if start > end:
        raise ValueError(
            f"flatten: start_dim={start_dim} lies behind end_dim={end_dim} "
            f"for an input of shape {input.shape}"
        )
    joined = math.prod(input.shape[start : end + 1])
    return input.reshape(*input.shape[:start], joined, *input.shape[end + 1 :])


def unflatten(input: jax.Array, dim: int, sizes: Sequence[int]) -> jax.Array:
    """Splits one axis into several: torch.unflatten.

    Args:
        input: An array with at least one axis.
        dim: The axis to split; a negative number counts from the end.
        sizes: The sizes of the new axes. One size may be -1 and is computed from the others.

    Returns:
        The array with the new axes.

    Raises:
        ValueError: The axis does not exist, or the product of the sizes is not its size.
    """
    axis = _axis("unflatten", "dim", dim, input)
    sizes, length = tuple(sizes), input.shape[axis] if input.ndim else 0
    known = math.prod(size for size in sizes if size != -1)
    if sizes.count(-1) == 1 and known > 0 and length % known == 0:
        sizes = tuple(length // known if size == -1 else size for size in sizes)
    if not sizes or input.ndim == 0 or min(sizes) < 0 or math.prod(sizes) != length:
        raise ValueError(
            f"unflatten: sizes {sizes} do not multiply up to axis {dim} "
            f"of an input of shape {input.shape}"
        )
    return input.reshape(*input.shape[:axis], *sizes, *input.shape[axis + 1 :])


def _axis(function: str, name: str, given: int, input: jax.Array) -> int:
    axes = max(input.ndim, 1)  # for torch a single number has one axis here
    if not -axes <= given < axes:
        raise ValueError(
            f"{function}: {name}={given} for an input of shape {input.shape}; "
            f"accepted is {-axes} to {axes - 1}"
        )
    return given % axes


class Linear(Module):
    """Computes y = x W^T + b: torch.nn.Linear.

    The parameters are `weight` (out_features, in_features) and `bias` (out_features,), as in
    torch.

    Args:
        in_features: The size of each input row.
        out_features: The size of each output row.
        bias: Whether there is a summand b.
        rngs: The source of the initial weights, U(-1/sqrt(in_features), 1/sqrt(in_features))
            for weight and bias.
        dtype: The dtype of the parameters.

    >>> from jaxnet.random import Generator
    >>> Linear(1, 8, rngs=Generator(0))
    Linear(in_features=1, out_features=8, bias=True)
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        rngs: Rngs,
        dtype: DTypeLike = jnp.float32,
    ) -> None:
        self.in_features = in_features
        self.out_features = out_features
        self.weight, self.bias = default_weight_and_bias(
            (out_features, in_features), out_features if bias else None, rngs, dtype
        )

    def __call__(
        self, input: Inexact[Array, "*N in_features"]
    ) -> Inexact[Array, "*N out_features"]:
        """Maps (..., in_features) to (..., out_features)."""
        if input.ndim == 0 or input.shape[-1] != self.in_features:
            raise wrong_shape(self, f"(..., {self.in_features})", input)
        bias = None if self.bias is None else self.bias[...]
        return linear(input, self.weight[...], bias)

    def extra_repr(self) -> str:
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, "
            f"bias={self.bias is not None}"
        )


class Identity(Module):
    """Returns its input; any arguments of the constructor are ignored: torch.nn.Identity."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        pass

    def __call__(self, input: jax.Array) -> jax.Array:
        return input


class Bilinear(Module):
    """Computes y = x1^T W x2 + b: torch.nn.Bilinear.

    The parameters are `weight` (out_features, in1_features, in2_features) and `bias`
    (out_features,), as in torch.

    Args:
        in1_features: The size of each row of the first input.
        in2_features: The size of each row of the second input.
        out_features: The size of each output row.
        bias: Whether there is a summand b.
        rngs: The source of the initial weights, U(-1/sqrt(in1_features),
            1/sqrt(in1_features)) for weight and bias.
        dtype: The dtype of the parameters.

    Raises:
        ValueError: The argument in1_features is not positive.

    >>> from jaxnet.random import Generator
    >>> layer = Bilinear(2, 3, 4, rngs=Generator(0))
    >>> layer(jnp.zeros((5, 2)), jnp.zeros((5, 3))).shape
    (5, 4)
    """

    def __init__(
        self,
        in1_features: int,
        in2_features: int,
        out_features: int,
        bias: bool = True,
        *,
        rngs: Rngs,
        dtype: DTypeLike = jnp.float32,
    ) -> None:
        if in1_features <= 0:
            raise ValueError(f"Bilinear: in1_features={in1_features}; it must be above 0")
        self.in1_features = in1_features
        self.in2_features = in2_features
        self.out_features = out_features
        bound = 1 / math.sqrt(in1_features)
        shape = (out_features, in1_features, in2_features)
        self.weight = Parameter(draw_uniform(rngs, shape, -bound, bound, dtype))
        self.bias = (
            Parameter(draw_uniform(rngs, (out_features,), -bound, bound, dtype)) if bias else None
        )

    def __call__(
        self, input1: Inexact[Array, "*N in1"], input2: Inexact[Array, "*N in2"]
    ) -> Inexact[Array, "*N out"]:
        """Maps (..., in1_features) and (..., in2_features) to (..., out_features)."""
        bias = None if self.bias is None else self.bias[...]
        try:
            return bilinear(input1, input2, self.weight[...], bias)
        except ValueError as error:
            raise ValueError(f"{self!r}: {error}") from None

    def extra_repr(self) -> str:
        return (
            f"in1_features={self.in1_features}, in2_features={self.in2_features}, "
            f"out_features={self.out_features}, bias={self.bias is not None}"
        )


class Flatten(Module):
    """Joins the axes start_dim to end_dim into one: torch.nn.Flatten.

    By default all axes but the first are joined, in the order (C, H, W). The arguments are
    those of `flatten`.

    >>> Flatten()(jnp.zeros((2, 3, 4, 5))).shape
    (2, 60)
    """

    def __init__(self, start_dim: int = 1, end_dim: int = -1) -> None:
        self.start_dim = start_dim
        self.end_dim = end_dim

    def __call__(self, input: jax.Array) -> jax.Array:
        """Maps (..., a, ..., z, ...) to (..., a * ... * z, ...)."""
        return flatten(input, self.start_dim, self.end_dim)

    def extra_repr(self) -> str:
        return f"start_dim={self.start_dim}, end_dim={self.end_dim}"


class Unflatten(Module):
    """Splits one axis into several: torch.nn.Unflatten.

    Args:
        dim: The number of the axis; JAX has no named axes.
        unflattened_size: The sizes of the new axes. One size may be -1 and is computed from
            the others.

    Raises:
        TypeError: The argument dim is not a whole number, or unflattened_size is not a tuple
            or list of whole numbers.

    >>> Unflatten(1, (3, -1))(jnp.zeros((2, 12))).shape
    (2, 3, 4)
    """

    def __init__(self, dim: int, unflattened_size: Sequence[int]) -> None:
        if not is_integer(dim):
            raise TypeError(f"Unflatten: dim={dim!r}; give its number, JAX has no named axes")
        if not isinstance(unflattened_size, tuple | list):
            raise TypeError(f"Unflatten: unflattened_size={unflattened_size!r}; give a tuple")
        for size in unflattened_size:
            if not is_integer(size):
                raise TypeError(f"Unflatten: {size!r} in unflattened_size; give whole numbers")
        self.dim = dim
        self.unflattened_size = tuple(unflattened_size)

    def __call__(self, input: jax.Array) -> jax.Array:
        """Maps (..., a * b, ...) to (..., a, b, ...)."""
        return unflatten(input, self.dim, self.unflattened_size)

    def extra_repr(self) -> str:
        return f"dim={self.dim}, unflattened_size={self.unflattened_size}"
