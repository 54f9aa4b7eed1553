"""An LSTM in float64: torch's own kernel on the CPU, mkldnn_rnn_layer, has float32 alone.

The gates are i, f, g, o, as in torch's weights, and time comes first, whatever the flag
batch_first says.
"""

from typing import Any


class WideLstm:
    """One direction of one layer, and its derivative.

    What the forward pass computed within is kept for the way back as long as its output is there.
    """

    def __init__(self, torch: Any) -> None:
        self.torch = torch
        # By the address of an output: a weak reference to its storage, and gates and cells.
        self._kept: dict[int, tuple[int, Any, Any]] = {}

    def forward(
        self, x: Any, w_ih: Any, w_hh: Any, b_ih: Any, b_hh: Any, h: Any, c: Any, reverse: bool,
        *rest: Any,
    ) -> tuple[Any, Any, Any, Any]:  # fmt: skip
        """mkldnn_rnn_layer."""
        has_biases, train = rest[4], rest[7]
        gates, cells, output = self._run(x, w_ih, w_hh, b_ih, b_hh, h, c, reverse, has_biases)
        self._sweep()
        if train:
            storage = output.untyped_storage()
            self._kept[storage._cdata] = storage._weak_ref(), gates, cells
        time = 0 if reverse else -1
        # The output and the last state are two in memory.
        last, cell = output[time].clone(), cells[time].clone()
        return output, last.reshape(h.shape), cell.reshape(c.shape), self.torch.empty(0)

    def _run(
        self, x: Any, w_ih: Any, w_hh: Any, b_ih: Any, b_hh: Any, h: Any, c: Any, reverse: bool,
        has_biases: bool,
    ) -> tuple[Any, Any, Any]:  # fmt: skip
        """The gates, cells and states of all times."""
        torch, size = self.torch, h.shape[-1]
        gates = torch.matmul(x, w_ih.mT)
        if has_biases:
            gates += b_ih + b_hh
        cells, output = (gates.new_empty((*x.shape[:-1], size)) for _ in range(2))
        recurrent = w_hh.mT
        state, cell = h.reshape(-1, size), c.reshape(-1, size)
        for time in _order(len(x), reverse):
            gate = gates[time].addmm_(state, recurrent)
            i, f = gate[:, : 2 * size].sigmoid_().chunk(2, 1)
            g, o = gate[:, 2 * size : 3 * size].tanh_(), gate[:, 3 * size :].sigmoid_()
            cell = torch.addcmul(f * cell, i, g, out=cells[time])
            state = torch.mul(o, cell.tanh(), out=output[time])
        return gates, cells, output

    def backward(self, *args: Any) -> tuple[Any, ...]:
        """mkldnn_rnn_layer_backward."""
        torch = self.torch
        x, w_ih, w_hh, b_ih, b_hh, h, c, output = args[:8]
        given, last, last_cell = args[10:13]
        reverse, has_biases = args[13], args[17]
        size, order = h.shape[-1], _order(len(x), args[13])
        start, first = h.reshape(-1, size), c.reshape(-1, size)
        kept = self._within(output)
        gates, cells = kept or self._run(x, w_ih, w_hh, b_ih, b_hh, h, c, reverse, has_biases)[:2]

        # The states and cells that each time begins with.
        before, cells_before = torch.empty_like(output), torch.empty_like(output)
        before[order[0]], cells_before[order[0]] = start, first
        later, earlier = slice(1, None), slice(None, -1)
        into, out_of = (earlier, later) if reverse else (later, earlier)
        before[into], cells_before[into] = output[out_of], cells[out_of]

        # What a gradient is multiplied by: that of the cell for i, f and g, that of the state
        # for o.
        gates = gates.unflatten(-1, (4, size))
        i, f, g, o = gates.unbind(-2)
        bent = cells.tanh()
        factors = torch.empty_like(gates)
        torch.mul(g, i * (1 - i), out=factors[..., 0, :])
        torch.mul(cells_before, f * (1 - f), out=factors[..., 1, :])
        torch.mul(i, 1 - g * g, out=factors[..., 2, :])
        torch.mul(bent, o * (1 - o), out=factors[..., 3, :])
        to_cell = o * (1 - bent * bent)

        found = torch.empty_like(gates)
        state = torch.zeros_like(start) if last is None else last.reshape(-1, size)
        cell = torch.zeros_like(first) if last_cell is None else last_cell.reshape(-1, size)
        for time in reversed(order):
            state = state if given is None else state + given[time]
            cell = torch.addcmul(cell, state, to_cell[time])
            now, factor = found[time], factors[time]
            torch.mul(cell.unsqueeze(1), factor[:, :3], out=now[:, :3])
            torch.mul(state, factor[:, 3], out=now[:, 3])
            state = now.flatten(1) @ w_hh
            cell = cell * f[time]

        rows = found.flatten(0, 1).flatten(1)
        bias = rows.sum(0) if has_biases else None
        # The gradients of both biases are one tensor here, and two in float32.
        return (
            (rows @ w_ih).reshape(x.shape),
            rows.mT @ x.reshape(-1, x.shape[-1]),
            rows.mT @ before.reshape(-1, size),
            torch.zeros_like(b_ih) if bias is None else bias,
            torch.zeros_like(b_hh) if bias is None else bias.clone(),
            state.reshape(h.shape),
            cell.reshape(c.shape),
        )

    def _within(self, output: Any) -> tuple[Any, Any] | None:
        """The gates and cells of an output; None of one that is not `forward`'s."""
        kept = self._kept.get(output.untyped_storage()._cdata)
        return None if kept is None else kept[1:]

    def clear(self) -> None:
        """Forgets all that was kept."""
        for weak, *_ in self._kept.values():
            self.torch.UntypedStorage._free_weak_ref(weak)
        self._kept.clear()

    def _sweep(self) -> None:
        """Forgets what belongs to outputs that are no more."""
        storage = self.torch.UntypedStorage
        for key in [k for k, (weak, *_) in self._kept.items() if storage._expired(weak)]:
            storage._free_weak_ref(self._kept.pop(key)[0])


def _order(count: int, reverse: bool) -> list[int]:
    return [*range(count)][:: -1 if reverse else 1]
