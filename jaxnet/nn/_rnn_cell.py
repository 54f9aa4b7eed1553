"""One step of the recurrent layers: RNNCell, LSTMCell and GRUCell."""

import math

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxnet._checks import check_choice
from jaxnet.nn._linear import linear
from jaxnet.nn._module import Module, Parameter, wrong_shape
from jaxnet.nn._recurrence import State
from jaxnet.nn.init import Rngs, draw_uniform
from jaxnet.precision import promoted

# The functions of type `Step` in `jaxnet.nn._recurrence`. They take the sigmoid of all gates at
# once and split it afterwards, because XLA's CPU code for the sigmoid of a slice is 5 times
# slower.


def tanh_step(gates: jax.Array, extra: None, state: State) -> State:
    """Computes h' = tanh(gates)."""
    return (jnp.tanh(gates),)


def relu_step(gates: jax.Array, extra: None, state: State) -> State:
    """Computes h' = max(gates, 0)."""
    return (jax.nn.relu(gates),)


def lstm_step(gates: jax.Array, extra: None, state: State) -> State:
    """Computes (h', c') from (h, c). The gates (..., 4H) are in the order i, f, g, o."""
    size = state[1].shape[-1]
    i, f, _, o = jnp.split(jax.nn.sigmoid(gates), 4, axis=-1)
    g = jnp.tanh(gates[..., 2 * size : 3 * size])
    c = f * state[1] + i * g
    return o * jnp.tanh(c), c


def gru_step(gates: jax.Array, extra: jax.Array, state: State) -> State:
    """Computes h' from h.

    The gates (..., 3H) are r, z and W_hn h + b_hn, in this order, and extra is W_in x + b_in.
    """
    size = state[0].shape[-1]
    r, z, _ = jnp.split(jax.nn.sigmoid(gates), 3, axis=-1)
    n = jnp.tanh(extra + r * gates[..., 2 * size :])
    # The same as (1 - z) n + z h, in torch's order of operations.
    return ((state[0] - n) * z + n,)


def gru_gates(
    input: jax.Array, w_ih: jax.Array, b_ih: jax.Array | None, b_hh: jax.Array | None
) -> tuple[jax.Array, jax.Array]:
    """The input's part of the arguments of `gru_step`: the gates without W_hh h, and extra."""
    size = w_ih.shape[0] // 3
    from_input = linear(input, w_ih, b_ih)
    both, extra = from_input[..., : 2 * size], from_input[..., 2 * size :]
    # The reset gate multiplies W_hn h + b_hn, so b_hn must not join b_in.
    gates = jnp.concatenate([both, jnp.zeros_like(extra)], axis=-1)
    if b_hh is not None:
        gates = gates + jnp.broadcast_to(b_hh, gates.shape)
    return gates, extra


def _added(
    input: jax.Array,
    h: jax.Array,
    w_ih: jax.Array,
    w_hh: jax.Array,
    b_ih: jax.Array | None,
    b_hh: jax.Array | None,
) -> jax.Array:
    return linear(input, w_ih, b_ih) + linear(h, w_hh, b_hh)


def rnn_tanh_cell(
    input: jax.Array,
    hx: jax.Array,
    w_ih: jax.Array,
    w_hh: jax.Array,
    b_ih: jax.Array | None = None,
    b_hh: jax.Array | None = None,
) -> jax.Array:
    """Computes h' = tanh(W_ih x + b_ih + W_hh h + b_hh): torch.rnn_tanh_cell.

    Args:
        input: The input x, (..., input_size).
        hx: The state h, (..., hidden_size).
        w_ih: The weight of the input, (hidden_size, input_size).
        w_hh: The weight of the state, (hidden_size, hidden_size).
        b_ih: The bias of the input, (hidden_size,).
        b_hh: The bias of the state, (hidden_size,).

    Returns:
        The new state h', (..., hidden_size).
    """
    return tanh_step(_added(input, hx, w_ih, w_hh, b_ih, b_hh), None, (hx,))[0]


def rnn_relu_cell(
    input: jax.Array,
    hx: jax.Array,
    w_ih: jax.Array,
    w_hh: jax.Array,
    b_ih: jax.Array | None = None,
    b_hh: jax.Array | None = None,
) -> jax.Array:
    """Computes h' = max(W_ih x + b_ih + W_hh h + b_hh, 0): torch.rnn_relu_cell.

    The arguments and the result are those of `rnn_tanh_cell`.
    """
    return relu_step(_added(input, hx, w_ih, w_hh, b_ih, b_hh), None, (hx,))[0]


def lstm_cell(
    input: jax.Array,
    hx: tuple[jax.Array, jax.Array],
    w_ih: jax.Array,
    w_hh: jax.Array,
    b_ih: jax.Array | None = None,
    b_hh: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Computes c' = f c + i g and h' = o tanh(c'): torch.lstm_cell.

    The gates i, f, g, o are the quarters of W_ih x + b_ih + W_hh h + b_hh, after a tanh for g
    and a sigmoid for the others.

    Args:
        input: The input x, (..., input_size).
        hx: The pair of states (h, c), each (..., hidden_size).
        w_ih: The weight of the input, (4 * hidden_size, input_size).
        w_hh: The weight of h, (4 * hidden_size, hidden_size).
        b_ih: The bias of the input, (4 * hidden_size,).
        b_hh: The bias of h, (4 * hidden_size,).

    Returns:
        The pair of new states (h', c'), each (..., hidden_size).
    """
    h, c = lstm_step(_added(input, hx[0], w_ih, w_hh, b_ih, b_hh), None, hx)
    return h, c


def gru_cell(
    input: jax.Array,
    hx: jax.Array,
    w_ih: jax.Array,
    w_hh: jax.Array,
    b_ih: jax.Array | None = None,
    b_hh: jax.Array | None = None,
) -> jax.Array:
    """Computes h' = (1 - z) n + z h: torch.gru_cell.

    The gates r and z are sigmoids of W_i x + b_i + W_h h + b_h, and
    n = tanh(W_in x + b_in + r (W_hn h + b_hn)). The reset gate r is applied after the product
    with W_hn, unlike in the original paper and in other libraries.

    Args:
        input: The input x, (..., input_size).
        hx: The state h, (..., hidden_size).
        w_ih: The weight of the input, (3 * hidden_size, input_size), with rows in the order
            r, z, n.
        w_hh: The weight of the state, (3 * hidden_size, hidden_size), in the same order.
        b_ih: The bias of the input, (3 * hidden_size,).
        b_hh: The bias of the state, (3 * hidden_size,).

    Returns:
        The new state h', (..., hidden_size).
    """
    gates, extra = gru_gates(input, w_ih, b_ih, b_hh)
    return gru_step(gates + linear(hx, w_hh), extra, (hx,))[0]


class RNNCellBase(Module):
    """The base class of RNNCell, LSTMCell and GRUCell, for isinstance: torch.nn.RNNCellBase.

    It has their parameters and their checks. Build one of the three, and not the base class,
    whose arguments are not torch's.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool,
        chunks: int,
        rngs: Rngs,
        dtype: DTypeLike,
    ) -> None:
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.bias = bias
        bound = 1 / math.sqrt(hidden_size) if hidden_size > 0 else 0.0
        rows = chunks * hidden_size

        def draw(*shape: int) -> Parameter:
            return Parameter(draw_uniform(rngs, shape, -bound, bound, dtype))

        self.weight_ih = draw(rows, input_size)
        self.weight_hh = draw(rows, hidden_size)
        self.bias_ih = draw(rows) if bias else None
        self.bias_hh = draw(rows) if bias else None

    def _weights(self) -> tuple[jax.Array | None, ...]:
        found = (self.weight_ih, self.weight_hh, self.bias_ih, self.bias_hh)
        return tuple(None if p is None else p[...] for p in found)

    def _check(self, input: jax.Array) -> None:
        if input.ndim not in (1, 2) or input.shape[-1] != self.input_size:
            raise wrong_shape(self, f"(N, {self.input_size}) or ({self.input_size},)", input)

    def _state(self, input: jax.Array, hx: jax.Array | None, name: str = "hx") -> jax.Array:
        """Returns the given state after a check of its shape, or zeros."""
        expected = (*input.shape[:-1], self.hidden_size)
        if hx is None:
            return jnp.zeros(expected, promoted(input, self.weight_hh[...]))
        if hx.shape != expected:
            raise ValueError(
                f"{self!r} expects {name} of shape {expected} for an input of shape "
                f"{input.shape}; it got {hx.shape}"
            )
        return hx

    def extra_repr(self) -> str:
        return f"{self.input_size}, {self.hidden_size}" + ("" if self.bias else ", bias=False")


class RNNCell(RNNCellBase):
    """Computes h' = tanh(W_ih x + b_ih + W_hh h + b_hh): torch.nn.RNNCell.

    The parameters are `weight_ih`, `weight_hh`, `bias_ih` and `bias_hh`, as in torch. A loop over
    time steps is `nn.scan_cell`: in Python, each step would be compiled by itself.

    Args:
        input_size: The size of x.
        hidden_size: The size of h.
        bias: Whether the cell has two biases.
        nonlinearity: The function "tanh" or "relu".
        rngs: The source of the initial weights, U(-1/sqrt(hidden_size),
            1/sqrt(hidden_size)) for all parameters.
        dtype: The dtype of the parameters.

    >>> from jaxnet.random import Generator
    >>> RNNCell(3, 4, rngs=Generator(0))(jnp.ones((2, 3))).shape
    (2, 4)
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        nonlinearity: str = "tanh",
        *,
        rngs: Rngs,
        dtype: DTypeLike = jnp.float32,
    ) -> None:
        check_choice("nonlinearity", nonlinearity, ("tanh", "relu"))
        super().__init__(input_size, hidden_size, bias, 1, rngs, dtype)
        self.nonlinearity = nonlinearity

    def __call__(
        self, input: Float[Array, "*N input_size"], hx: Float[Array, "*N H"] | None = None
    ) -> Float[Array, "*N H"]:
        """Computes h' from x, (N, input_size) or (input_size,), and h, which is zero by default."""
        self._check(input)
        cell = rnn_tanh_cell if self.nonlinearity == "tanh" else rnn_relu_cell
        return cell(input, self._state(input, hx), *self._weights())  # type: ignore[arg-type]

    def extra_repr(self) -> str:
        other = "" if self.nonlinearity == "tanh" else f", nonlinearity={self.nonlinearity}"
        return super().extra_repr() + other


class LSTMCell(RNNCellBase):
    """One step of an LSTM: torch.nn.LSTMCell. The formula is that of `lstm_cell`.

    The parameters are `weight_ih`, `weight_hh`, `bias_ih` and `bias_hh`, as in torch. A loop over
    time steps is `nn.scan_cell`: in Python, each step would be compiled by itself.

    Args:
        input_size: The size of x.
        hidden_size: The size of h and c.
        bias: Whether the cell has two biases.
        rngs: The source of the initial weights, U(-1/sqrt(hidden_size),
            1/sqrt(hidden_size)) for all parameters.
        dtype: The dtype of the parameters.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        *,
        rngs: Rngs,
        dtype: DTypeLike = jnp.float32,
    ) -> None:
        super().__init__(input_size, hidden_size, bias, 4, rngs, dtype)

    def __call__(
        self,
        input: Float[Array, "*N input_size"],
        hx: tuple[Float[Array, "*N H"], Float[Array, "*N H"]] | None = None,
    ) -> tuple[Float[Array, "*N H"], Float[Array, "*N H"]]:
        """Computes (h', c') from x, (N, input_size) or (input_size,), and (h, c), zeros by default.

        Raises:
            ValueError: The input or a state has the wrong shape.
            TypeError: The argument hx is not a pair.
        """
        self._check(input)
        h, c = (None, None) if hx is None else pair(self, hx)
        state = self._state(input, h, "hx[0]"), self._state(input, c, "hx[1]")
        return lstm_cell(input, state, *self._weights())  # type: ignore[arg-type]


class GRUCell(RNNCellBase):
    """One step of a GRU: torch.nn.GRUCell. The formula is that of `gru_cell`.

    The parameters are `weight_ih`, `weight_hh`, `bias_ih` and `bias_hh`, as in torch. A loop over
    time steps is `nn.scan_cell`: in Python, each step would be compiled by itself.

    Args:
        input_size: The size of x.
        hidden_size: The size of h.
        bias: Whether the cell has two biases.
        rngs: The source of the initial weights, U(-1/sqrt(hidden_size),
            1/sqrt(hidden_size)) for all parameters.
        dtype: The dtype of the parameters.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        *,
        rngs: Rngs,
        dtype: DTypeLike = jnp.float32,
    ) -> None:
        super().__init__(input_size, hidden_size, bias, 3, rngs, dtype)

    def __call__(
        self, input: Float[Array, "*N input_size"], hx: Float[Array, "*N H"] | None = None
    ) -> Float[Array, "*N H"]:
        """Computes h' from x, (N, input_size) or (input_size,), and h, which is zero by default."""
        self._check(input)
        return gru_cell(input, self._state(input, hx), *self._weights())  # type: ignore[arg-type]


def pair(module: Module, hx: object) -> tuple[jax.Array, jax.Array]:
    """Returns the two states of an LSTM, or raises a TypeError that names what was given."""
    if not isinstance(hx, (tuple, list)) or len(hx) != 2:
        raise TypeError(f"{module!r} expects hx as a pair (h, c); it got {type(hx).__name__}")
    return hx[0], hx[1]
