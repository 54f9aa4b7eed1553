"""Embedding tables, which are looked up by row number, and one-hot encoding."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Array, Inexact, Integer

from jaxnet.losses._reduction import integers
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
    """Looks up rows of a table: torch.nn.functional.embedding.

    Args:
        input: The row numbers, integers of any shape.
        weight: The table, (rows, D).
        padding_idx: The number of a row that gets no gradient; a negative number counts from
            the end.
        max_norm: The largest norm of a row. Rows that are looked up and have a larger norm are
            first scaled down to it in `weight` itself, which must then be a Parameter.
        norm_type: The exponent p of the norm.
        scale_grad_by_freq: Whether the gradient of a row is divided by the number of times
            that the row is looked up in this call.
        sparse: False; JAX has no sparse gradients.

    Returns:
        The rows, (*input.shape, D).

    Raises:
        IndexError: A row number is negative or too large. Under `jax.jit` the numbers are not
            known and no error can be raised, so such a row comes out as nan. (JAX alone would
            silently return the nearest row.)
        TypeError: The row numbers are not integers, or max_norm is given with an array.
        ValueError: The row padding_idx does not exist, or sparse is True.
    """
    padding_idx = padding_row(padding_idx, weight.shape[0])
    check_dense(sparse)
    input = check_rows("embedding", input, weight.shape[0])
    table = renorm("embedding", weight, input, max_norm, norm_type)
    return rows_of(table, input, padding_idx, scale_grad_by_freq)


def renorm(
    name: str,
    weight: jax.Array | nnx.Variable[Any],
    input: jax.Array,
    max_norm: float | None,
    norm_type: float,
) -> jax.Array:
    """The table as an array, after `max_norm` has changed the variable."""
    if max_norm is not None:
        if not isinstance(weight, nnx.Variable):
            raise TypeError(
                f"{name}: max_norm changes the weight in place, which an array does not "
                "allow; give the Parameter itself, or use embedding_renorm first"
            )
        weight[...] = embedding_renorm(weight[...], input, max_norm, norm_type)
    return weight[...] if isinstance(weight, nnx.Variable) else weight


def rows_of(
    table: jax.Array, input: jax.Array, padding_idx: int | None, scale_grad_by_freq: bool
) -> jax.Array:
    """The rows (*input.shape, D) of a table; a row that is out of range is nan."""
    output = table.at[input].get(mode="fill", wrap_negative_indices=False)  # (*input.shape, D)
    if padding_idx is not None:
        is_padding = jnp.broadcast_to((input == padding_idx)[..., None], output.shape)
        output = jnp.where(is_padding, lax.stop_gradient(output), output)
    if scale_grad_by_freq:
        counts = jnp.zeros(table.shape[0], int).at[input].add(1, mode="drop")
        share = (1 / jnp.maximum(counts, 1)).astype(table.dtype)[input][..., None]
        # A row that was looked up n times sums n gradients, so each of them is divided by n.
        output = _with_scaled_gradient(output, jnp.broadcast_to(share, output.shape))
    return output


def embedding_renorm(
    weight: jax.Array, input: jax.Array, max_norm: float, norm_type: float = 2.0
) -> jax.Array:
    """Scales rows of a table down to a largest norm.

    A row whose p-norm exceeds max_norm is multiplied by max_norm / (norm + 1e-7). The gradient
    passes as if the table had not been changed, as in torch, where autograd does not see the
    change.

    Args:
        weight: The table, (rows, D).
        input: The row numbers, integers of any shape; other rows are unchanged.
        max_norm: The largest norm.
        norm_type: The exponent p of the norm.

    Returns:
        The new table, (rows, D).
    """
    rows = input.reshape(-1)
    found = lax.stop_gradient(weight)[rows]  # (n, D)
    norms = jnp.linalg.norm(found, ord=norm_type, axis=-1, keepdims=True)
    scale = jnp.where(norms > max_norm, max_norm / (norms + 1e-7), 1)
    scaled = found * jnp.broadcast_to(scale, found.shape)
    # A negative number would count from the end; this one is out of range and is dropped.
    rows = jnp.where(rows < 0, weight.shape[0], rows)
    return with_value(weight, lax.stop_gradient(weight).at[rows].set(scaled, mode="drop"))


@jax.custom_jvp
def with_value(x: jax.Array, value: jax.Array) -> jax.Array:
    """Returns `value` with the gradient of x.

    The usual x + stop_gradient(value - x) would round the value.
    """
    return value


@with_value.defjvp
def with_value_jvp(
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


def padding_row(padding_idx: int | None, rows: int) -> int | None:
    if padding_idx is None:
        return None
    if not -rows <= padding_idx < rows:
        raise ValueError(f"padding_idx: {padding_idx} is no row of a table of {rows}")
    return padding_idx % rows


def check_dense(sparse: bool) -> None:
    if sparse:
        raise ValueError("sparse: JAX has no sparse gradients; accepted is False")


def check_rows(name: str, input: jax.Array, rows: int) -> jax.Array:
    """The row numbers, checked, with at least 32 bits: every row's number must fit."""
    if not isinstance(input, jax.Array | np.ndarray | np.generic):
        raise TypeError(
            f"{name}: input: {type(input).__name__}; accepted are integers as an array, such as "
            "jnp.asarray(input)"
        )
    if not jnp.issubdtype(input.dtype, jnp.integer):
        raise TypeError(f"{name}: row numbers of dtype {input.dtype}; give integers")
    for worst in _known_range(input):
        if not 0 <= worst < rows:
            raise IndexError(f"{name}: row {worst} is not in a table of {rows} rows")
    return integers(name, "input", input)


def _known_range(numbers: jax.Array) -> tuple[int, ...]:
    """The smallest and the largest number, or () if there are no numbers or jit hides them."""
    if isinstance(numbers, jax.core.Tracer) or numbers.size == 0:
        return ()
    on_host = np.asarray(numbers)  # under jit jnp would trace even a constant
    return int(on_host.min()), int(on_host.max())


def one_hot(tensor: jax.Array, num_classes: int = -1) -> jax.Array:
    """Encodes class numbers as rows of zeros with a single one: torch.nn.functional.one_hot.

    Args:
        tensor: The class numbers, integers of any shape.
        num_classes: The number of classes. The default of -1 takes the largest class number
            plus one, which must be known, so it does not work under `jax.jit`.

    Returns:
        The rows, (*tensor.shape, num_classes), with JAX's default integer dtype (torch: int64).

    Raises:
        ValueError: A class number is not in 0 to num_classes - 1, or num_classes is neither
            positive nor -1. Under `jax.jit` the numbers are not known, so the row of a wrong
            class is filled with the smallest integer instead.
        TypeError: The class numbers are not integers.

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

    The parameter is `weight` (num_embeddings, embedding_dim), as in torch.

    A row number that is out of range raises an IndexError. Under `jax.jit` the numbers are not
    known, and such a row comes out as nan. (JAX alone would silently return the nearest row.)
    The check waits for the numbers to be computed, so a loop that runs ahead of the device
    should call the layer under `jax.jit`.

    Args:
        num_embeddings: The number of rows of the table.
        embedding_dim: The size D of a row.
        padding_idx: The number of a row that is initially zero and gets no gradient; a
            negative number counts from the end.
        max_norm: The largest norm of a row. Rows that are looked up and have a larger norm are
            scaled down to it in the Parameter itself at every call, as in torch also in
            evaluation mode. `train.make_train_step` keeps this change; a step of your own must
            take the parameters back from the model that it called.
        norm_type: The exponent p of the norm.
        scale_grad_by_freq: Whether the gradient of a row is divided by the number of times
            that the row is looked up in the batch.
        sparse: False; JAX has no sparse gradients.
        _weight: The table, for `from_pretrained`.
        _freeze: Whether the table is a Buffer, for `from_pretrained`.
        rngs: The source of the initial weights, N(0, 1).
        dtype: The dtype of the parameter.

    Raises:
        ValueError: The row padding_idx does not exist, or sparse is True.

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
        check_dense(sparse)
        self.num_embeddings = num_embeddings
        self.embedding_dim = embedding_dim
        self.padding_idx = padding_row(padding_idx, num_embeddings)
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
        """Makes a layer with a given table.

        The arguments that are not described here are those of `Embedding`.

        Args:
            embeddings: The table, (rows, D).
            freeze: Whether the table stays unchanged in training. It is then a Buffer: it is
                in the state_dict under the same name, but among `named_buffers()`, so that
                neither an optimizer nor weight decay changes it.

        Returns:
            The layer.

        Raises:
            ValueError: The table does not have two axes.

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
        """Looks up the rows (..., D) of the row numbers (...)."""
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
