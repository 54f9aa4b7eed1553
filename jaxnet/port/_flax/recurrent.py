"""Recurrent layers of the cells of flax.nnx, which are given PyTorch's second bias."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxnet.port._flax.layers import uniform


def recurrent_cell(
    kind: Any, input_size: int, hidden_size: int, bias: bool, rngs: nnx.Rngs, **options: Any
) -> Any:
    """A cell of flax.nnx whose two linear parts have a bias each, as PyTorch's have.

    The second bias of the new gate of a GRU stands inside of the product with the reset gate.
    """
    init = uniform(1 / math.sqrt(hidden_size))
    cell = kind(input_size, hidden_size, rngs=rngs, **options)
    gates = cell.dense_i.out_features
    made: dict[str, Any] = {"use_bias": bias, "kernel_init": init, "bias_init": init, "rngs": rngs}
    cell.dense_i = nnx.Linear(input_size, gates, **made)
    cell.dense_h = nnx.Linear(hidden_size, gates, **made)
    return cell


class RecurrentLayers(nnx.Module):
    """Layers of cells, with the arguments and the results of torch.nn.LSTM, GRU and RNN."""

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
        rngs: nnx.Rngs,
    ) -> None:
        self.input_size, self.hidden_size, self.num_layers = input_size, hidden_size, num_layers
        self.batch_first, self.bidirectional = batch_first, bidirectional
        self.drop = nnx.Dropout(dropout, rngs=rngs)
        directions = 2 if bidirectional else 1
        cells = []
        for layer in range(num_layers):
            size = input_size if layer == 0 else directions * hidden_size
            cells += [nnx.RNN(self.cell(size, bias, rngs)) for _ in range(directions)]
        self.layers = nnx.List(cells)

    @property
    def dropout(self) -> float:
        return self.drop.rate

    @dropout.setter
    def dropout(self, p: float) -> None:
        self.drop.rate = p

    def cell(self, size: int, bias: bool, rngs: nnx.Rngs) -> Any:
        """The cell of one layer."""
        raise NotImplementedError

    def flatten_parameters(self) -> None:
        """Does nothing: there is no memory to be laid out anew."""

    def __call__(self, x: jax.Array, hx: Any = None) -> Any:
        single = x.ndim == 2  # (L, C)
        if single:
            x = x[:, None]
            hx = jax.tree.map(lambda h: h[:, None], hx)
        elif self.batch_first:
            x = x.swapaxes(0, 1)
        directions = 2 if self.bidirectional else 1
        if hx is None:
            zeros = jnp.zeros((len(self.layers), x.shape[1], self.hidden_size), x.dtype)
            hx = self.initial(zeros)
        last = []
        for layer in range(self.num_layers):
            x = self.drop(x) if layer > 0 else x
            outputs = []
            for i in range(directions):
                place = layer * directions + i
                carry, y = self.layers[place](
                    x,
                    initial_carry=self.carry(hx, place),
                    time_major=True,
                    return_carry=True,
                    reverse=i == 1,
                    keep_order=True,
                )
                outputs.append(y)
                last.append(carry)
            x = outputs[0] if directions == 1 else jnp.concatenate(outputs, -1)
        hidden = self.hidden(jax.tree.map(lambda *h: jnp.stack(h), *last))
        if single:
            return x[:, 0], jax.tree.map(lambda h: h[:, 0], hidden)
        return x.swapaxes(0, 1) if self.batch_first else x, hidden

    def initial(self, zeros: jax.Array) -> Any:
        """What a layer begins with if nothing is given."""
        return zeros

    def carry(self, hx: Any, place: int) -> Any:
        """What the cell of a layer carries, of what is given for all."""
        return hx[place]

    def hidden(self, carry: Any) -> Any:
        """What is returned of what the cells carry."""
        return carry


class LSTM(RecurrentLayers):
    """Layers of nnx.OptimizedLSTMCell, as torch.nn.LSTM."""

    def cell(self, size: int, bias: bool, rngs: nnx.Rngs) -> Any:
        return recurrent_cell(nnx.OptimizedLSTMCell, size, self.hidden_size, bias, rngs)

    def initial(self, zeros: jax.Array) -> Any:
        return zeros, zeros

    def carry(self, hx: Any, place: int) -> Any:
        h, c = hx
        return c[place], h[place]

    def hidden(self, carry: Any) -> Any:
        c, h = carry
        return h, c


class GRU(RecurrentLayers):
    """Layers of nnx.GRUCell, as torch.nn.GRU."""

    def cell(self, size: int, bias: bool, rngs: nnx.Rngs) -> Any:
        return recurrent_cell(nnx.GRUCell, size, self.hidden_size, bias, rngs)


class RNN(RecurrentLayers):
    """Layers of nnx.SimpleCell, as torch.nn.RNN."""

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
        rngs: nnx.Rngs,
    ) -> None:
        self.nonlinearity = nonlinearity
        super().__init__(
            input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional,
            rngs=rngs,
        )  # fmt: skip

    def cell(self, size: int, bias: bool, rngs: nnx.Rngs) -> Any:
        function = {"tanh": jnp.tanh, "relu": jax.nn.relu}[self.nonlinearity]
        hidden = self.hidden_size
        return recurrent_cell(nnx.SimpleCell, size, hidden, bias, rngs, activation_fn=function)


class CellLayer(nnx.Module):
    """One cell, with the arguments and the results of torch.nn.GRUCell."""

    kind: Any = nnx.GRUCell

    def __init__(
        self, input_size: int, hidden_size: int, bias: bool = True, *, rngs: nnx.Rngs
    ) -> None:
        self.input_size, self.hidden_size = input_size, hidden_size
        self.cell = recurrent_cell(self.kind, input_size, hidden_size, bias, rngs)

    def __call__(self, x: jax.Array, hx: Any = None) -> Any:
        h = jnp.zeros((*x.shape[:-1], self.hidden_size), x.dtype) if hx is None else hx
        return self.cell(h, x)[1]


class GRUCell(CellLayer):
    """nnx.GRUCell, as torch.nn.GRUCell."""


class RNNCell(CellLayer):
    """nnx.SimpleCell, as torch.nn.RNNCell with tanh."""

    kind = nnx.SimpleCell


class LSTMCell(CellLayer):
    """nnx.OptimizedLSTMCell, as torch.nn.LSTMCell."""

    kind = nnx.OptimizedLSTMCell

    def __call__(self, x: jax.Array, hx: Any = None) -> Any:
        zeros = jnp.zeros((*x.shape[:-1], self.hidden_size), x.dtype)
        h, c = (zeros, zeros) if hx is None else hx
        (c, h), _ = self.cell((c, h), x)
        return h, c
