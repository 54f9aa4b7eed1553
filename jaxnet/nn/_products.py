"""Products under torch's names that are no layers: by groups, and along time."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Integer

from jaxnet.losses._reduction import host
from jaxnet.nn._conv import conv1d
from jaxnet.precision import full_float32


@full_float32()
def grouped_mm(
    mat_a: Float[Array, "..."],
    mat_b: Float[Array, "..."],
    *,
    offs: Integer[Array, " G"] | None = None,
    bias: None = None,
    out_dtype: None = None,
) -> Float[Array, "..."]:
    """Multiplies group by group: torch.nn.functional.grouped_mm.

    An axis of a matrix (two axes) is divided into groups by `offs`; an array of three axes has
    one matrix for each group.

    Args:
        mat_a: The left factors: (G, M, K), or (M, K) with rows in groups, or (M, K) with the
            columns in groups if mat_b has two axes too.
        mat_b: The right factors: (G, K, N); (K, N) with the columns in groups if mat_a has three
            axes, or with the rows in groups if mat_a has two.
        offs: The ends of the groups, integers (G,) that do not decrease; None if both factors
            have three axes. What lies beyond the last end belongs to no group.
        bias: None, as in torch so far.
        out_dtype: None: the result has the dtype of mat_a, as in torch.

    Returns:
        The products: (G, M, N) for two factors of three or of two axes, and otherwise (M, N),
        which is 0 beyond the last group.

    Raises:
        ValueError: A shape does not fit, offs is missing, wrong or too much, or bias or
            out_dtype is given. Under `jax.jit` the values of offs are not known and are not
            checked.
        TypeError: The factors are no floats of one dtype, or offs are no integers.

    >>> rows, experts = jnp.ones((3, 2)), jnp.stack([jnp.eye(2), 2 * jnp.eye(2)])
    >>> grouped_mm(rows, experts, offs=jnp.array([1, 3])).tolist()
    [[1.0, 1.0], [2.0, 2.0], [2.0, 2.0]]
    """
    a, b = mat_a, mat_b
    given = f"grouped_mm: mat_a {a.shape} and mat_b {b.shape}"
    if bias is not None or out_dtype is not None:
        raise ValueError("grouped_mm: bias and out_dtype; accepted is None, as in torch 2.13")
    if a.dtype != b.dtype or not jnp.issubdtype(a.dtype, jnp.floating):
        raise TypeError(f"grouped_mm: factors of {a.dtype} and {b.dtype}; give floats of one dtype")
    if a.ndim not in (2, 3) or b.ndim not in (2, 3) or a.shape[-1] != b.shape[-2]:
        raise ValueError(f"{given}; accepted are (M, K) or (G, M, K), and (K, N) or (G, K, N)")
    if (offs is None) != (a.ndim == b.ndim == 3):
        raise ValueError(f"{given} with offs {offs}; offs is for factors with two axes")
    if offs is None:
        if a.shape[0] != b.shape[0]:
            raise ValueError(f"{given} have {a.shape[0]} and {b.shape[0]} groups")
        return a @ b
    divided = a.shape[0] if b.ndim == 3 else b.shape[1] if a.ndim == 3 else a.shape[1]
    groups = b.shape[0] if b.ndim == 3 else a.shape[0] if a.ndim == 3 else None
    _check_ends(given, offs, divided, groups)
    sizes = jnp.diff(offs, prepend=0).astype(jnp.int32)
    if b.ndim == 3:
        return jax.lax.ragged_dot(a, b, sizes)
    if a.ndim == 3:
        return jax.lax.ragged_dot(b.T, jnp.swapaxes(a, 1, 2), sizes).T
    return _by_columns(a, b, sizes)


@jax.custom_vjp
def _by_columns(a: jax.Array, b: jax.Array, sizes: jax.Array) -> jax.Array:
    """(M, K) times (K, N) for each group of K: (G, M, N). JAX has no gradient of this product."""
    numbers = jax.lax.RaggedDotDimensionNumbers(
        dot_dimension_numbers=(((1,), (0,)), ((), ())),
        lhs_ragged_dimensions=[1],
        rhs_group_dimensions=[],
    )
    return jax.lax.ragged_dot_general(a, b, sizes, numbers)


def _by_columns_forward(
    a: jax.Array, b: jax.Array, sizes: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    return _by_columns(a, b, sizes), (a, b, sizes)


def _by_columns_backward(
    kept: tuple[jax.Array, ...], slope: jax.Array
) -> tuple[jax.Array, jax.Array, None]:
    a, b, sizes = kept
    d_a = jax.lax.ragged_dot(b, jnp.swapaxes(slope, 1, 2), sizes).T
    return d_a, jax.lax.ragged_dot(a.T, slope, sizes), None


_by_columns.defvjp(_by_columns_forward, _by_columns_backward)


def _check_ends(given: str, offs: jax.Array, divided: int, groups: int | None) -> None:
    if offs.ndim != 1 or (groups is not None and offs.shape[0] != groups):
        raise ValueError(f"{given} with offs of shape {offs.shape}; accepted is ({groups or 'G'},)")
    if not jnp.issubdtype(offs.dtype, jnp.integer):
        raise TypeError(f"grouped_mm: offs of dtype {offs.dtype}; give integers")
    known = host(offs)
    if known is None or not offs.size:
        return
    ends = known[0]
    if ends[0] < 0 or (ends[1:] < ends[:-1]).any() or ends[-1] > divided:
        raise ValueError(
            f"{given} with offs {ends.tolist()}; accepted are numbers that do not decrease, from "
            f"0 to {divided}"
        )


def conv_tbc(
    input: Float[Array, "T B I"],
    weight: Float[Array, "kW I O"],
    bias: Float[Array, " O"],
    pad: int = 0,
) -> Float[Array, "... B O"]:
    """Convolves along the first axis: torch.nn.functional.conv_tbc.

    Args:
        input: The sequences, (T, B, I): time, batch, channels.
        weight: The kernel, (kW, I, O).
        bias: The bias, (O,).
        pad: The number of zeros at both ends of the time.

    Returns:
        The sequences, (T + 2 pad - kW + 1, B, O).

    Raises:
        ValueError: A shape does not fit.

    >>> conv_tbc(jnp.ones((4, 1, 2)), jnp.ones((3, 2, 5)), jnp.zeros(5)).shape
    (2, 1, 5)
    """
    fits = input.ndim == weight.ndim == 3 and input.shape[2] == weight.shape[1]
    if not fits or bias.shape != weight.shape[2:]:
        raise ValueError(
            f"conv_tbc: input {input.shape}, weight {weight.shape}, bias {bias.shape}; accepted "
            "are (T, B, I), (kW, I, O) and (O,)"
        )
    # (T, B, I) to (B, I, T), and (kW, I, O) to (O, I, kW)
    output = conv1d(input.transpose(1, 2, 0), weight.transpose(2, 1, 0), bias, padding=pad)
    return output.transpose(2, 0, 1)
