"""Recurrent layers over whole sequences: RNN, LSTM, GRU."""

import math
import warnings
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Array, Float, Integer

from jaxnet._checks import check_choice, is_integer
from jaxnet.nn._dropout import dropout
from jaxnet.nn._module import Module, Parameter, wrong_shape
from jaxnet.nn._recurrence import State
from jaxnet.nn._recurrent import Weights, before_end, recurrent_layer
from jaxnet.nn._rnn_cell import pair
from jaxnet.nn.init import Rngs, draw_uniform
from jaxnet.nn.utils.rnn import PackedSequence


class RNNBase(Module):
    """The base class of RNN, LSTM and GRU, for isinstance: torch.nn.RNNBase.

    It has their parameters, their checks and the loop over the layers. Build one of the three,
    and not the base class, whose arguments are not torch's.
    """

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
                # The parameters are drawn in torch's order, so a seed gives torch's weights.
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
        self, input: jax.Array | PackedSequence, hx: State | None, lengths: ArrayLike | None
    ) -> tuple[Any, State]:
        if not isinstance(input, PackedSequence):
            return self._run(input, hx, lengths, self.batch_first)
        if lengths is not None:
            raise ValueError(f"{self!r}: a PackedSequence has its lengths; leave out lengths")
        padded = input._padded
        if padded.ndim != 3:
            raise ValueError(
                f"{self!r} expects packed sequences of {self.input_size} numbers a step; they "
                f"have steps of shape {padded.shape[2:]}"
            )
        # As in torch the layer's batch_first has no effect on them, and hx and h_n are in the
        # order of the batch.
        output, last = self._run(padded, hx, input._lengths, batch_first=True)
        return PackedSequence._of(output, input._lengths, input._sorted), last

    def _run(
        self, input: jax.Array, hx: State | None, lengths: ArrayLike | None, batch_first: bool
    ) -> tuple[jax.Array, State]:
        self._check_input(input, batch_first)
        batched = input.ndim == 3
        batch_first = batched and batch_first
        x = input if batched else input[:, None]  # (L, N, I), with batch_first (N, L, I)
        # The argument hx keeps the layout (layers, N, ...) even with batch_first.
        first = self._first(input, x.shape[0 if batch_first else 1], hx)
        counts = self._lengths(lengths, *(x.shape[1::-1] if batch_first else x.shape[:2]))
        if counts is not None:
            # Whatever the padding contains, even nan, must not reach any gradient.
            valid = before_end(counts, x.shape[1 if batch_first else 0])
            valid = (valid.T if batch_first else valid)[..., None]
            x = jnp.where(valid, x, jnp.zeros_like(x))
        lasts: list[State] = []
        for layer in range(self.num_layers):
            # Between the layers time is the first axis, as in the dropout masks of torch.
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

    def _check_input(self, input: jax.Array, batch_first: bool) -> None:
        size = self.input_size
        if input.ndim not in (2, 3) or input.shape[-1] != size:
            batched = f"(N, L, {size})" if batch_first else f"(L, N, {size})"
            raise wrong_shape(self, f"{batched} or (L, {size})", input)
        if input.shape[1 if input.ndim == 3 and batch_first else 0] == 0:
            raise ValueError(f"{self!r} expects at least one time step; it got {input.shape}")
        dtype = self._weights("_l0").w_ih.dtype
        if input.dtype != dtype:
            raise ValueError(
                f"{self!r} has {dtype} parameters; it got an input of {input.dtype}: "
                "convert one of them"
            )

    def _sizes(self) -> list[tuple[str, int]]:
        """The name and size of each state."""
        return [("hx", self.hidden_size)]

    def _first(self, input: jax.Array, batch: int, hx: State | None) -> State:
        """Returns the states before the first step, each (num_layers * directions, N, size)."""
        layers = self.num_layers * self._directions
        if hx is None:
            return tuple(jnp.zeros((layers, batch, n), input.dtype) for _, n in self._sizes())
        for (name, size), given in zip(self._sizes(), hx, strict=True):
            expected = (layers, batch, size) if input.ndim == 3 else (layers, size)
            if not isinstance(given, jax.Array | np.ndarray):
                raise TypeError(
                    f"{self!r} expects {name} as an array; it got {type(given).__name__}"
                )
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
        """Returns the lengths as an array, after a check that they are from 1 to steps.

        Inside jit the values are unknown; they are clipped instead.
        """
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
        # First a wider dtype: uint8 lengths cannot be compared with 300 steps.
        return jnp.clip(counts.astype(int), 1, steps)

    def extra_repr(self) -> str:
        text = f"{self.input_size}, {self.hidden_size}"
        text += f", proj_size={self.proj_size}" if self.proj_size else ""
        text += f", num_layers={self.num_layers}" if self.num_layers != 1 else ""
        text += "" if self.bias else f", bias={self.bias}"
        text += f", batch_first={self.batch_first}" if self.batch_first else ""
        text += f", dropout={self.dropout}" if self.dropout else ""
        return text + (f", bidirectional={self.bidirectional}" if self.bidirectional else "")


class RNN(RNNBase):
    """Computes h_t = tanh(W_ih x_t + b_ih + W_hh h_{t-1} + b_hh): torch.nn.RNN.

    The parameters are named as in torch: `weight_ih_l0`, `weight_hh_l0`, `bias_ih_l0`,
    `bias_hh_l0`, the same with `_reverse` for the second direction, then `_l1` and so on.

    Sequences of several lengths are given as a `nn.utils.rnn.PackedSequence`, or padded with
    `lengths`.

    Args:
        input_size: The size of x_t.
        hidden_size: The size of h_t.
        num_layers: The number of layers. Each takes the outputs of the layer before.
        nonlinearity: The function "tanh" or "relu".
        bias: Whether each layer has two biases.
        batch_first: Whether a batch is laid out as (N, L, ...) instead of (L, N, ...). As in
            torch this concerns input and output only; hx and h_n stay (layers, N, ...).
        dropout: The probability of zeroing an output between two layers in training mode. The
            random numbers come from the open `nn.keys` context.
        bidirectional: Whether a second set of weights reads the sequence from its end. Its
            outputs are appended to those of the first.
        rngs: The source of the initial weights, U(-1/sqrt(hidden_size),
            1/sqrt(hidden_size)) for all parameters.
        dtype: The dtype of the parameters.

    Raises:
        TypeError: A size is not a whole number, or bias or batch_first is not a bool.
        ValueError: A size is not positive, dropout is not in [0, 1], or the nonlinearity is
            unknown.

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
        self,
        input: Float[Array, "*LN input_size"] | PackedSequence,
        hx: Float[Array, "layers *N H"] | None = None,
        *,
        lengths: Integer[ArrayLike, " N"] | None = None,
    ) -> tuple[Any, Float[Array, "layers *N H"]]:
        """Runs over the sequences.

        Args:
            input: The sequences, (L, N, input_size), or (N, L, input_size) with batch_first,
                or a single sequence (L, input_size), or a PackedSequence.
            hx: The state h before the first step, (num_layers * directions, N, hidden_size),
                without N for a single sequence; zeros by default.
            lengths: The lengths of the sequences, (N,), each from 1 to L. The result is that
                of torch for `pack_padded_sequence`: outputs behind the end of a sequence are
                0, h_n is the state at its last step, and the reverse direction starts there.
                Inside jit a length outside of 1 to L counts as the nearest length.

        Returns:
            A pair. The first is h of every step in the last layer, (L, N, directions *
            hidden_size), or laid out like the input, as a PackedSequence for a PackedSequence.
            The second is h_n, the last h of every layer, shaped like hx.

        Raises:
            ValueError: A shape or dtype does not fit the layer, or a length is not in 1 to L.
            TypeError: The lengths are not integers.
        """
        output, (h_n,) = self._forward(input, None if hx is None else (hx,), lengths)
        return output, h_n


class GRU(RNNBase):
    """A gated recurrent unit: torch.nn.GRU.

    r = sigmoid(W_ir x + b_ir + W_hr h + b_hr)
    z = sigmoid(W_iz x + b_iz + W_hz h + b_hz)
    n = tanh(W_in x + b_in + r (W_hn h + b_hn))
    h' = (1 - z) n + z h

    The rows of the weights are in the order r, z, n. As in torch the reset gate r is applied
    after the product with W_hn, unlike in the original paper and in other libraries.

    The arguments, parameters and results are those of `RNN`, without `nonlinearity`.
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
        self,
        input: Float[Array, "*LN input_size"] | PackedSequence,
        hx: Float[Array, "layers *N H"] | None = None,
        *,
        lengths: Integer[ArrayLike, " N"] | None = None,
    ) -> tuple[Any, Float[Array, "layers *N H"]]:
        """Runs over the sequences. The arguments and results are those of `RNN`."""
        output, (h_n,) = self._forward(input, None if hx is None else (hx,), lengths)
        return output, h_n


class LSTM(RNNBase):
    """Long short-term memory: torch.nn.LSTM.

    i, f, o = sigmoid(W_i. x + b_i. + W_h. h + b_h.)
    g = tanh(W_ig x + b_ig + W_hg h + b_hg)
    c' = f c + i g
    h' = o tanh(c'), or with proj_size W_hr (o tanh(c'))

    The rows of the weights are in the order i, f, g, o.

    The arguments that are not described here, and the parameters, are those of `RNN`, without
    `nonlinearity`.

    Args:
        proj_size: The size of h after the projection `weight_hr`, smaller than hidden_size;
            0 for no projection.

    Raises:
        ValueError: The argument proj_size is negative or not smaller than hidden_size.

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
        input: Float[Array, "*LN input_size"] | PackedSequence,
        hx: tuple[Float[Array, "layers *N P"], Float[Array, "layers *N H"]] | None = None,
        *,
        lengths: Integer[ArrayLike, " N"] | None = None,
    ) -> tuple[Any, tuple[Float[Array, "layers *N P"], Float[Array, "layers *N H"]]]:
        """Runs over the sequences.

        Args:
            input: The sequences, as in `RNN`.
            hx: The pair (h, c) before the first step; zeros by default. The state h is
                (num_layers * directions, N, proj_size or hidden_size), and c is
                (num_layers * directions, N, hidden_size), without N for a single sequence.
            lengths: The lengths of the sequences, as in `RNN`.

        Returns:
            A pair of h of every step in the last layer and the pair (h_n, c_n).

        Raises:
            ValueError: A shape or dtype does not fit the layer, or a length is not in 1 to L.
            TypeError: The lengths are not integers, or hx is not a pair.
        """
        state = None if hx is None else pair(self, hx)
        output, (h_n, c_n) = self._forward(input, state, lengths)
        return output, (h_n, c_n)
