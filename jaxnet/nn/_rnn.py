"""Recurrent layers over whole sequences: RNN, LSTM, GRU."""

import math
import warnings
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike, DTypeLike

from jaxnet._checks import check_choice, is_integer
from jaxnet.nn._dropout import dropout
from jaxnet.nn._module import Module, Parameter, wrong_shape
from jaxnet.nn._recurrence import State
from jaxnet.nn._recurrent import Weights, before_end, recurrent_layer
from jaxnet.nn._rnn_cell import pair
from jaxnet.nn.init import Rngs, draw_uniform


class _RNNBase(Module):
    """What RNN, LSTM and GRU share: parameters, checks, and the loop over the layers."""

    cell: str
    chunks: int
    proj_size: int = 0

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int,
        bias: bool,
        batch_first: bool,
        dropout: float,
        bidirectional: bool,
        rngs: Rngs,
        dtype: DTypeLike,
    ) -> None:
        name = type(self).__name__
        for argument, size in (
            ("input_size", input_size),
            ("hidden_size", hidden_size),
            ("num_layers", num_layers),
        ):
            if not is_integer(size):
                raise TypeError(f"{name}: {argument} {size!r} is {type(size).__name__}, not int")
            if size <= 0:
                raise ValueError(f"{name}: {argument} {size} must be greater than 0")
        for argument, flag in (("bias", bias), ("batch_first", batch_first)):
            if not isinstance(flag, bool):
                raise TypeError(f"{name}: {argument} {flag!r} is {type(flag).__name__}, not bool")
        if isinstance(dropout, bool) or not 0 <= dropout <= 1:
            raise ValueError(f"{name}: dropout {dropout!r} is no probability in [0, 1]")
        if dropout > 0 and num_layers == 1:
            warnings.warn(
                f"{name}: dropout={dropout} does nothing with num_layers=1; "
                "it stands between the layers",
                stacklevel=3,
            )
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.num_layers = num_layers
        self.bias = bias
        self.batch_first = batch_first
        self.dropout = float(dropout)
        self.bidirectional = bidirectional
        bound = 1 / math.sqrt(hidden_size)
        rows = self.chunks * hidden_size
        for layer in range(num_layers):
            width = input_size if layer == 0 else self._output_size * self._directions
            for suffix in self._suffixes(layer):
                shapes: dict[str, tuple[int, ...]] = {
                    "weight_ih": (rows, width),
                    "weight_hh": (rows, self._output_size),
                }
                if bias:
                    shapes |= {"bias_ih": (rows,), "bias_hh": (rows,)}
                if self.proj_size > 0:
                    shapes["weight_hr"] = (self.proj_size, hidden_size)
                for kind, shape in shapes.items():
                    drawn = draw_uniform(rngs, shape, -bound, bound, dtype)
                    setattr(self, kind + suffix, Parameter(drawn))

    @property
    def _output_size(self) -> int:
        return self.proj_size or self.hidden_size

    @property
    def _directions(self) -> int:
        return 2 if self.bidirectional else 1

    def _suffixes(self, layer: int) -> list[str]:
        return [f"_l{layer}", f"_l{layer}_reverse"][: self._directions]

    def _weights(self, suffix: str) -> Weights:
        names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr")
        found = (getattr(self, name + suffix, None) for name in names)
        return Weights(*(None if v is None else v[...] for v in found))  # type: ignore[arg-type]

    def _forward(
        self, input: jax.Array, hx: State | None, lengths: ArrayLike | None
    ) -> tuple[jax.Array, State]:
        self._check_input(input)
        batched = input.ndim == 3
        batch_first = batched and self.batch_first
        x = input if batched else input[:, None]  # (L, N, I), with batch_first (N, L, I)
        first = self._first(input, x.shape[0 if batch_first else 1], hx)
        counts = self._lengths(lengths, *(x.shape[1::-1] if batch_first else x.shape[:2]))
        if counts is not None:
            # What stands in the padding, nan too, must not reach any gradient.
            valid = before_end(counts, x.shape[1 if batch_first else 0])
            valid = (valid.T if batch_first else valid)[..., None]
            x = jnp.where(valid, x, jnp.zeros_like(x))
        lasts: list[State] = []
        for layer in range(self.num_layers):
            # Between the layers time comes first, as the masks of torch's dropout have it.
            sides = (batch_first and layer == 0, batch_first and layer == self.num_layers - 1)
            outputs = []
            for suffix in self._suffixes(layer):
                begin = tuple(s[len(lasts)] for s in first)
                reverse = suffix.endswith("_reverse")
                output, last = recurrent_layer(
                    self.cell, x, self._weights(suffix), begin, counts, reverse, sides
                )
                outputs.append(output)
                lasts.append(last)
            x = outputs[0] if len(outputs) == 1 else jnp.concatenate(outputs, axis=-1)
            if layer < self.num_layers - 1:
                x = dropout(x, self.dropout, self.training)
        last = tuple(jnp.stack(states) for states in zip(*lasts, strict=True))
        if not batched:
            return x[:, 0], tuple(s[:, 0] for s in last)
        return x, last

    def _check_input(self, input: jax.Array) -> None:
        size = self.input_size
        if input.ndim not in (2, 3) or input.shape[-1] != size:
            batched = f"(N, L, {size})" if self.batch_first else f"(L, N, {size})"
            raise wrong_shape(self, f"{batched} or (L, {size})", input)
        if input.shape[1 if input.ndim == 3 and self.batch_first else 0] == 0:
            raise ValueError(f"{self!r} expects at least one time step; it got {input.shape}")
        dtype = self._weights("_l0").w_ih.dtype
        if input.dtype != dtype:
            raise ValueError(
                f"{self!r} has {dtype} parameters; it got an input of {input.dtype}: "
                "convert one of them"
            )

    def _sizes(self) -> list[tuple[str, int]]:
        """Name and length of each state."""
        return [("hx", self.hidden_size)]

    def _first(self, input: jax.Array, batch: int, hx: State | None) -> State:
        """The states before the first step, each (num_layers * directions, N, size)."""
        layers = self.num_layers * self._directions
        if hx is None:
            return tuple(jnp.zeros((layers, batch, n), input.dtype) for _, n in self._sizes())
        for (name, size), given in zip(self._sizes(), hx, strict=True):
            expected = (layers, batch, size) if input.ndim == 3 else (layers, size)
            if given.shape != expected:
                raise ValueError(
                    f"{self!r} expects {name} of shape {expected} for an input of shape "
                    f"{input.shape}; it got {given.shape}"
                )
            if given.dtype != input.dtype:
                raise ValueError(
                    f"{self!r} got {name} of {given.dtype} with an input of {input.dtype}: "
                    "convert one of them"
                )
        return hx if input.ndim == 3 else tuple(s[:, None] for s in hx)

    def _lengths(
        self, lengths: ArrayLike | Sequence[int] | None, steps: int, batch: int
    ) -> jax.Array | None:
        """The lengths as an array, from 1 to steps."""
        if lengths is None:
            return None
        counts = jnp.asarray(lengths)
        if counts.shape != (batch,):
            raise ValueError(
                f"{self!r} expects lengths of shape ({batch},), one for each sequence of a "
                f"batch; it got {counts.shape}"
            )
        if not jnp.issubdtype(counts.dtype, jnp.integer):
            raise TypeError(f"{self!r} expects integer lengths; it got {counts.dtype}")
        if not isinstance(counts, jax.core.Tracer) and batch:
            known = np.asarray(counts)
            low, high = int(known.min()), int(known.max())
            if low < 1 or high > steps:
                raise ValueError(
                    f"{self!r} expects lengths from 1 to {steps}; they go from {low} to {high}"
                )
        return jnp.clip(counts, 1, steps)

    def extra_repr(self) -> str:
        text = f"{self.input_size}, {self.hidden_size}"
        text += f", proj_size={self.proj_size}" if self.proj_size else ""
        text += f", num_layers={self.num_layers}" if self.num_layers != 1 else ""
        text += "" if self.bias else f", bias={self.bias}"
        text += f", batch_first={self.batch_first}" if self.batch_first else ""
        text += f", dropout={self.dropout}" if self.dropout else ""
        return text + (f", bidirectional={self.bidirectional}" if self.bidirectional else "")


class RNN(_RNNBase):
    """h_t = tanh(W_ih x_t + b_ih + W_hh h_{t-1} + b_hh): torch.nn.RNN.

    Args:
        input_size: length of x_t.
        hidden_size: length of h_t.
        num_layers: each layer takes the outputs of the one before.
        nonlinearity: "tanh" or "relu".
        bias: whether the two biases are there.
        batch_first: whether a batch is (N, L, ...) and not (L, N, ...). Only input
            and output follow it; hx and h_n stay (layers, N, ...).
        dropout: probability of zeroing an output between two layers, in training; the
            random numbers come from the open `nn.keys` context.
        bidirectional: whether a second set of weights reads the sequence from its
            end; its outputs stand behind the first's.
        rngs: source of the initial weights, all U(-1/sqrt(hidden), 1/sqrt(hidden)).
        dtype: of the parameters.

    Parameters as in torch: `weight_ih_l0`, `weight_hh_l0`, `bias_ih_l0`,
    `bias_hh_l0`, the same with `_reverse`, then `_l1` and so on.

    Unlike torch there are no packed sequences: the call takes `lengths`.

    >>> from jaxnet.random import Generator
    >>> output, h_n = RNN(3, 4, rngs=Generator(0))(jnp.ones((5, 2, 3)), lengths=[5, 2])
    >>> output.shape, h_n.shape
    ((5, 2, 4), (1, 2, 4))
    """

    chunks = 1

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        nonlinearity: str = "tanh",
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        *,
        rngs: Rngs,
        dtype: DTypeLike = jnp.float32,
    ) -> None:
        check_choice("nonlinearity", nonlinearity, ("tanh", "relu"))
        self.nonlinearity = self.cell = nonlinearity
        super().__init__(
            input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional,
            rngs, dtype,
        )  # fmt: skip

    def __call__(
        self, input: jax.Array, hx: jax.Array | None = None, *, lengths: ArrayLike | None = None
    ) -> tuple[jax.Array, jax.Array]:
        """Runs over the sequences.

        Args:
            input: (L, N, input_size), (N, L, input_size) with batch_first, or one
                sequence (L, input_size).
            hx: h before the first step, (num_layers * directions, N, hidden_size), for
                one sequence without N; zeros if it is not given.
            lengths: (N,), the length of each sequence, from 1 to L. Gives what torch
                gives for `pack_padded_sequence`: outputs behind a sequence's end are
                0, h_n is the state at its last step, and the reverse direction starts
                there. Inside jit a length outside 1 to L counts as the nearest one.

        Returns:
            The last layer's h of every step, (L, N, directions * hidden_size) or as
            the input is laid out; and h_n, every layer's last h, shaped like hx.
        """
        output, (h_n,) = self._forward(input, None if hx is None else (hx,), lengths)
        return output, h_n


class GRU(_RNNBase):
    """A gated recurrent unit: torch.nn.GRU.

    r = sigmoid(W_ir x + b_ir + W_hr h + b_hr)
    z = sigmoid(W_iz x + b_iz + W_hz h + b_hz)
    n = tanh(W_in x + b_in + r (W_hn h + b_hn))
    h' = (1 - z) n + z h

    The rows of the weights stand in the order r, z, n. As in torch the reset gate r
    stands outside the product, unlike in the original paper and in other libraries.

    Arguments, parameters, call and result as for `RNN`, without `nonlinearity`.
    """

    cell = "gru"
    chunks = 3

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        *,
        rngs: Rngs,
        dtype: DTypeLike = jnp.float32,
    ) -> None:
        super().__init__(
            input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional,
            rngs, dtype,
        )  # fmt: skip

    def __call__(
        self, input: jax.Array, hx: jax.Array | None = None, *, lengths: ArrayLike | None = None
    ) -> tuple[jax.Array, jax.Array]:
        """Runs over the sequences; arguments and result as for `RNN`."""
        output, (h_n,) = self._forward(input, None if hx is None else (hx,), lengths)
        return output, h_n


class LSTM(_RNNBase):
    """Long short-term memory: torch.nn.LSTM.

    i, f, o = sigmoid(W_i. x + b_i. + W_h. h + b_h.)
    g = tanh(W_ig x + b_ig + W_hg h + b_hg)
    c' = f c + i g
    h' = o tanh(c'), with proj_size W_hr (o tanh(c'))

    The rows of the weights stand in the order i, f, g, o.

    Arguments and parameters as for `RNN`, without `nonlinearity`, and:

    Args:
        proj_size: length of h after the projection `weight_hr`; 0 for none. It must
            be smaller than hidden_size.

    >>> from jaxnet.random import Generator
    >>> lstm = LSTM(3, 4, num_layers=2, batch_first=True, rngs=Generator(0))
    >>> output, (h_n, c_n) = lstm(jnp.ones((5, 7, 3)))
    >>> output.shape, h_n.shape, c_n.shape
    ((5, 7, 4), (2, 5, 4), (2, 5, 4))
    """

    cell = "lstm"
    chunks = 4

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        *,
        rngs: Rngs,
        dtype: DTypeLike = jnp.float32,
    ) -> None:
        if not 0 <= proj_size < hidden_size and hidden_size > 0:
            raise ValueError(
                f"LSTM: proj_size {proj_size}; accepted are 0 (no projection) and numbers "
                f"smaller than hidden_size, {hidden_size}"
            )
        self.proj_size = proj_size
        super().__init__(
            input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional,
            rngs, dtype,
        )  # fmt: skip

    def _sizes(self) -> list[tuple[str, int]]:
        return [("hx[0]", self._output_size), ("hx[1]", self.hidden_size)]

    def __call__(
        self,
        input: jax.Array,
        hx: tuple[jax.Array, jax.Array] | None = None,
        *,
        lengths: ArrayLike | None = None,
    ) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        """Runs over the sequences.

        Args:
            input: as for `RNN`.
            hx: the pair (h, c) before the first step; h is (num_layers * directions, N,
                proj_size or hidden_size), c has hidden_size there. Zeros without.
            lengths: as for `RNN`.

        Returns:
            The last layer's h of every step, and the pair (h_n, c_n).
        """
        state = None if hx is None else pair(self, hx)
        output, (h_n, c_n) = self._forward(input, state, lengths)
        return output, (h_n, c_n)
