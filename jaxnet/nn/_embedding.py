"""Lookup tables."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Array, Inexact, Integer

from jaxnet.nn._draw import Rngs, draw_normal
from jaxnet.nn._module import Buffer, Module, Parameter
from jaxnet.precision import promoted


def embedding(
    input: Integer[Array, "*N"],
    weight: jax.Array | nnx.Variable[Any],
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Inexact[Array, "*N D"]:
    """Rows of a table: torch.nn.functional.embedding.

    Args:
        input: row numbers, integers of any shape.
        weight: (rows, D).
        padding_idx: a row that gets no gradient, negative from the end.
        max_norm: looked-up rows with a larger norm are first scaled down to it, in
            `weight` itself; so `weight` must then be a Parameter, not an array.
        norm_type: p of that norm.
        scale_grad_by_freq: whether a row's gradient is divided by how often the row
            is looked up in this call.
        sparse: only False; JAX has no sparse gradients.

    Returns:
        (*input.shape, D).

    Raises:
        IndexError: a row number below 0 or too large, named in the message. Under
            `jax.jit` numbers are not known yet, so no error can be raised: such
            rows come out as nan (JAX alone would take the nearest row in silence).
        TypeError: row numbers that are not integers, or max_norm for an array.
    """
    rows = weight.shape[0]
    padding_idx = _padding_row(padding_idx, rows)
    _check_dense(sparse)
    _check_rows(input, rows)
    if max_norm is not None:
        if not isinstance(weight, nnx.Variable):
            raise TypeError(
                "embedding: max_norm changes the weight in place, which an array does not "
                "allow; give the Parameter itself, or use embedding_renorm first"
            )
        weight[...] = embedding_renorm(weight[...], input, max_norm, norm_type)
    table = weight[...] if isinstance(weight, nnx.Variable) else weight
    output = table.at[input].get(mode="fill", wrap_negative_indices=False)  # (*input.shape, D)
    if padding_idx is not None:
        is_padding = jnp.broadcast_to((input == padding_idx)[..., None], output.shape)
        output = jnp.where(is_padding, lax.stop_gradient(output), output)
    if scale_grad_by_freq:
        counts = jnp.zeros(rows, int).at[input].add(1, mode="drop")
        share = (1 / jnp.maximum(counts, 1)).astype(table.dtype)[input][..., None]
        output = _with_scaled_gradient(output, jnp.broadcast_to(share, output.shape))
    return output


def embedding_renorm(
    weight: jax.Array, input: jax.Array, max_norm: float, norm_type: float = 2.0
) -> jax.Array:
    """The table with the looked-up rows scaled down to a largest norm.

    A row whose p-norm exceeds max_norm is multiplied by max_norm / (norm + 1e-7).
    The gradient goes through as if nothing had changed, as in torch, where the
    change is made behind autograd's back.

    Args:
        weight: (rows, D).
        input: row numbers of any shape.
        max_norm: the largest norm.
        norm_type: p.
    """
    rows = input.reshape(-1)
    found = lax.stop_gradient(weight)[rows]  # (n, D)
    norms = jnp.linalg.norm(found, ord=norm_type, axis=-1, keepdims=True)
    scale = jnp.where(norms > max_norm, max_norm / (norms + 1e-7), 1)
    scaled = found * jnp.broadcast_to(scale, found.shape)
    rows = jnp.where(rows < 0, weight.shape[0], rows)  # not counted from the end
    return _with_value(weight, lax.stop_gradient(weight).at[rows].set(scaled, mode="drop"))


@jax.custom_jvp
def _with_value(x: jax.Array, value: jax.Array) -> jax.Array:
    """`value`, with the gradient of x: exact, where x + stop_gradient(value - x) would round."""
    return value


@_with_value.defjvp
def _with_value_jvp(
    primals: tuple[jax.Array, jax.Array], tangents: tuple[jax.Array, jax.Array]
) -> tuple[jax.Array, jax.Array]:
    return primals[1], tangents[0]


@jax.custom_jvp
def _with_scaled_gradient(x: jax.Array, factor: jax.Array) -> jax.Array:
    return x


@_with_scaled_gradient.defjvp
def _with_scaled_gradient_jvp(
    primals: tuple[jax.Array, jax.Array], tangents: tuple[jax.Array, jax.Array]
) -> tuple[jax.Array, jax.Array]:
    return primals[0], tangents[0] * primals[1]


def _padding_row(padding_idx: int | None, rows: int) -> int | None:
    if padding_idx is None:
        return None
    if not -rows <= padding_idx < rows:
        raise ValueError(f"padding_idx: {padding_idx} is no row of a table of {rows}")
    return padding_idx % rows


def _check_dense(sparse: bool) -> None:
    if sparse:
        raise ValueError("sparse: JAX has no sparse gradients; accepted is False")


def _check_rows(input: jax.Array, rows: int) -> None:
    if not jnp.issubdtype(input.dtype, jnp.integer):
        raise TypeError(f"embedding: row numbers of dtype {input.dtype}; give integers")
    for worst in _known_range(input):
        if not 0 <= worst < rows:
            raise IndexError(f"embedding: row {worst} is not in a table of {rows} rows")


def _known_range(numbers: jax.Array) -> tuple[int, ...]:
    """The smallest and the largest, or nothing where there are none or none is known yet."""
    if isinstance(numbers, jax.core.Tracer) or numbers.size == 0:
        return ()
    on_host = np.asarray(numbers)  # jnp would trace them under jit, constants too
    return int(on_host.min()), int(on_host.max())


def one_hot(tensor: jax.Array, num_classes: int = -1) -> jax.Array:
    """Class numbers as rows of zeros with a single one: torch.nn.functional.one_hot.

    Args:
        tensor: class numbers, integers of any shape.
        num_classes: how many there are; -1 takes the largest number plus one, which
            needs known values and so does not work under `jax.jit`.

    Returns:
        (*tensor.shape, num_classes), of JAX's default integer type (torch: int64).

    Raises:
        ValueError: a class outside 0 .. num_classes - 1. Under `jax.jit` its row is
            filled with the smallest integer instead, so that it cannot go unseen.

    >>> one_hot(jnp.array([0, 2]), num_classes=3)
    Array([[1, 0, 0],
           [0, 0, 1]], dtype=int32)
    """
    if not jnp.issubdtype(tensor.dtype, jnp.integer):
        raise TypeError(f"one_hot: classes of dtype {tensor.dtype}; give integers")
    known = _known_range(tensor)
    if num_classes == -1:
        if not known:
            why = "empty" if tensor.size == 0 else "not known under jax.jit"
            raise ValueError(f"one_hot: give num_classes, for the class numbers are {why}")
        num_classes = known[-1] + 1
    if num_classes < 0 or (num_classes == 0 and tensor.size == 0):
        raise ValueError(f"one_hot: num_classes={num_classes}; it must be above 0, or -1")
    for worst in known:
        if not 0 <= worst < num_classes:
            raise ValueError(f"one_hot: class {worst}; accepted is 0 to {num_classes - 1}")
    classes = jnp.arange(num_classes).reshape((1,) * tensor.ndim + (-1,))
    dtype = promoted(tensor, classes)  # uint8 cannot hold the numbers of 300 classes
    tensor = tensor.astype(dtype)
    rows = (tensor[..., None] == classes.astype(dtype)).astype(int)
    wrong = ((tensor < 0) | (tensor >= num_classes))[..., None]
    return jnp.where(jnp.broadcast_to(wrong, rows.shape), jnp.iinfo(rows.dtype).min, rows)


class Embedding(Module):
    """A table of vectors that is looked up by row number: torch.nn.Embedding.

    Args:
        num_embeddings: rows of the table.
        embedding_dim: D, the size of a row.
        padding_idx: a row that starts at zero and gets no gradient.
        max_norm: looked-up rows with a larger norm are scaled down to it, in the
            Parameter itself, at every call, in evaluation mode too: as in torch.
            `train.make_train_step` keeps the change; a step of your own must take
            the parameters back from the model that it called.
        norm_type: p of that norm.
        scale_grad_by_freq: whether a row's gradient is divided by how often the row
            is looked up in the batch.
        sparse: only False; JAX has no sparse gradients.
        _weight, _freeze: use `from_pretrained`.
        rngs: source of the initial weights, N(0, 1).
        dtype: of the parameter.

    Parameter `weight` (num_embeddings, embedding_dim), as in torch.

    A row number out of range is an IndexError; under `jax.jit`, where no value is
    known, it gives nan. Both make sure that JAX's silent choice of the nearest row
    does not pass for a result. The check waits for the numbers, so a loop that is
    to run ahead of the device should call the layer under `jax.jit`.

    >>> from jaxnet.random import Generator
    >>> table = Embedding(10, 3, padding_idx=0, rngs=Generator(0))
    >>> table(jnp.array([[1, 2], [0, 9]])).shape
    (2, 2, 3)
    """

    weight: nnx.Variable[Any]

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        padding_idx: int | None = None,
        max_norm: float | None = None,
        norm_type: float = 2.0,
        scale_grad_by_freq: bool = False,
        sparse: bool = False,
        _weight: jax.Array | None = None,
        _freeze: bool = False,
        *,
        rngs: Rngs | None = None,
        dtype: DTypeLike = jnp.float32,
    ) -> None:
        _check_dense(sparse)
        self.num_embeddings = num_embeddings
        self.embedding_dim = embedding_dim
        self.padding_idx = _padding_row(padding_idx, num_embeddings)
        self.max_norm = max_norm
        self.norm_type = norm_type
        self.scale_grad_by_freq = scale_grad_by_freq
        shape = (num_embeddings, embedding_dim)
        if _weight is None:
            _weight = draw_normal(rngs, shape, 0.0, 1.0, dtype)
            if self.padding_idx is not None:
                _weight = _weight.at[self.padding_idx].set(0)
        elif _weight.shape != shape:
            raise ValueError(f"Embedding: _weight has shape {_weight.shape}; accepted is {shape}")
        self.weight = Buffer(_weight) if _freeze else Parameter(_weight)

    @classmethod
    def from_pretrained(
        cls,
        embeddings: ArrayLike,
        freeze: bool = True,
        padding_idx: int | None = None,
        max_norm: float | None = None,
        norm_type: float = 2.0,
        scale_grad_by_freq: bool = False,
        sparse: bool = False,
    ) -> "Embedding":
        """A layer with a given table.

        Args:
            embeddings: (rows, D).
            freeze: whether the table stays as it is in training. It is then a Buffer:
                it stands in the state_dict under the same name, but among
                `named_buffers()`, where no optimizer and no weight decay reaches it.
            padding_idx, max_norm, norm_type, scale_grad_by_freq, sparse: as above.

        >>> frozen = Embedding.from_pretrained(jnp.eye(3))
        >>> frozen(jnp.array([2])), frozen.num_parameters
        (Array([[0., 0., 1.]], dtype=float32), 0)
        """
        table = jnp.asarray(embeddings)
        if table.ndim != 2:
            raise ValueError(f"embeddings: shape {table.shape}; accepted is (rows, D)")
        return cls(
            num_embeddings=table.shape[0],
            embedding_dim=table.shape[1],
            padding_idx=padding_idx,
            max_norm=max_norm,
            norm_type=norm_type,
            scale_grad_by_freq=scale_grad_by_freq,
            sparse=sparse,
            _weight=table,
            _freeze=freeze,
        )

    def __call__(self, input: Integer[Array, "*N"]) -> Inexact[Array, "*N D"]:
        """Row numbers (...) to rows (..., D)."""
        return embedding(
            input,
            self.weight,
            self.padding_idx,
            self.max_norm,
            self.norm_type,
            self.scale_grad_by_freq,
        )

    def extra_repr(self) -> str:
        text = f"{self.num_embeddings}, {self.embedding_dim}"
        if self.padding_idx is not None:
            text += f", padding_idx={self.padding_idx}"
        if self.max_norm is not None:
            text += f", max_norm={self.max_norm}"
        if self.norm_type != 2:
            text += f", norm_type={self.norm_type}"
        if self.scale_grad_by_freq:
            text += ", scale_grad_by_freq=True"
        return text
