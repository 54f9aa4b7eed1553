"""The calls of a plain flax model's layers beside torch's: names, layouts, and parts of outputs."""

import dataclasses
import math
from collections.abc import Callable, Collection, Mapping
from typing import Any

import jax.numpy as jnp
from flax import nnx

from jaxnet._names import named_modules
from jaxnet.parity._foreign_model import is_kind
from jaxnet.parity._jax_draws import PLAIN, Layouts
from jaxnet.parity._layouts import SAME, View, view_of
from jaxnet.parity._pairing import Pairing
from jaxnet.parity._trace import Trace


@dataclasses.dataclass(frozen=True)
class ForeignCall:
    """A layer of the model that torch has a module for.

    Attributes:
        module: The name of torch's module.
        layout: The kind of its layout, as `view_of` takes it.
        recurrent: Whether it is an nnx.RNN or an nnx.Bidirectional.
        both: Whether it is an nnx.Bidirectional.
        time: The axis of the time in its outputs; None where the last of them is not at the end.
        some: Whether flax's layer may have fewer arguments than torch's.
    """

    module: str
    layout: str
    recurrent: bool = False
    some: bool = False
    both: bool = False
    time: int | None = None

    def view(
        self, own: tuple[int, ...], torch: tuple[int, ...], given: bool = False, path: str = ""
    ) -> View:
        """The view of an argument (`given`) or of an output, of which `path` is torch's."""
        if self.recurrent and path.startswith("1"):
            return SAME  # `formed` has brought it to torch's form
        if self.layout.startswith("flat ") and not given:
            return SAME
        if self.recurrent and len(torch) == len(own) + 1 and math.prod(own) == math.prod(torch):
            return View(lambda x: x.reshape(torch), lambda x: x.reshape(own))  # a carry (N, H)
        return view_of(self.layout, own, torch)

    def outputs(self, own: tuple[str, ...], theirs: Mapping[str, str]) -> dict[str, str]:
        """torch's paths of the parts of the output, by the model's."""
        if own == ("",) and "" not in theirs and "0" in theirs:
            return {"": "0"}  # an attention without its weights, outputs without a last state
        return {path: path for path in own}

    def formed(self, output: Any, used: Collection[str]) -> tuple[Any, Callable[[Any], Any]]:
        """The output in the form of torch's, as far as views do not make it, and the way back.

        A recurrent layer of torch's gives its outputs, and its last state h or (h, c) with the
        directions along the first axis.

        Args:
            output: flax's output: (carried, outputs), or the outputs alone.
            used: torch's paths of what the recorded program uses.
        """
        if self.recurrent and isinstance(output, tuple):
            return _carried(output, self.both)
        last = {"1", "1.0"} & {*used}  # which a program may take from the outputs as well
        if self.recurrent and last and self.time is not None and jnp.ndim(output) == 3:
            return self._with_last(output, self.time, "1.0" in last)
        return output, lambda formed: formed

    def _with_last(
        self, outputs: Any, time: int, in_pair: bool
    ) -> tuple[Any, Callable[[Any], Any]]:
        size = outputs.shape[-1] // (2 if self.both else 1)
        ends = ((-1, slice(0, size)), (0, slice(size, None)))[: 2 if self.both else 1]
        places = [(moment, slice(None), part) for moment, part in ends]

        def back(formed: Any) -> Any:
            outputs, state = formed
            turned = jnp.moveaxis(outputs, time, 0)
            for place, one in zip(places, state[0] if in_pair else state, strict=True):
                turned = turned.at[place].set(one)
            return jnp.moveaxis(turned, 0, time)

        turned = jnp.moveaxis(outputs, time, 0)
        state = jnp.stack([turned[place] for place in places])
        return (outputs, (state,) if in_pair else state), back


def _carried(output: Any, both: bool) -> tuple[Any, Callable[[Any], Any]]:
    """`ForeignCall.formed` of (carried, outputs): flax's carry is h, or (c, h) of an LSTM."""
    carried, outputs = output
    each = carried if both else (carried,)
    pairs = isinstance(each[0], tuple)

    def back(formed: Any) -> Any:
        outputs, state = formed
        each = [*zip(*reversed(state), strict=True)] if pairs else [*state]
        return (tuple(each) if both else each[0]), outputs

    if not pairs:
        return (outputs, jnp.stack(each)), back
    cell, state = (jnp.stack(one) for one in zip(*each, strict=True))
    return (outputs, (state, cell)), back


class Partners(dict[str, ForeignCall]):
    """The layers of the model that torch calls as modules, by their names in the model.

    Attributes:
        layouts: The layouts of its data beside torch's.
    """

    layouts: Layouts = PLAIN


def foreign_calls(trace: Trace, model: nnx.Module, pairing: Pairing) -> Partners:
    """The layers of the model that torch calls as modules."""
    modules = dict(named_modules(model))
    called = {call.module for step in trace.steps for call in step.calls}
    found = Partners()
    found.layouts = _layouts(trace, modules, pairing)
    for partner in pairing.partners:
        if not partner.module and partner.torch:
            continue
        if partner.module not in called:
            continue
        module = modules.get(partner.own)
        if is_kind(module, nnx.RNNCellBase):
            config = trace.modules[partner.module].config
            outer, rnn = _around(modules, partner.own)
            if rnn is not None and config.get("num_layers", 1) == 1:
                both = is_kind(rnn, nnx.Bidirectional)
                if both == bool(config.get("bidirectional")):
                    same = rnn.time_major != bool(config.get("batch_first"))
                    layout = "" if same else "swapped"
                    backwards = getattr(rnn, "reverse", False)
                    time = None if backwards else 0 if rnn.time_major else 1
                    found[outer] = ForeignCall(
                        partner.module, layout, recurrent=True, both=both, time=time
                    )
            continue
        some = is_kind(module, nnx.MultiHeadAttention)
        found[partner.own] = ForeignCall(partner.module, partner.layout, some=some)
    if not found and "" in called:  # a model without layers: its own call is all that is seen
        found[""] = ForeignCall("", "whole")
    return found


def _around(modules: Mapping[str, nnx.Module], cell: str) -> tuple[str, Any]:
    """The name and the module of the nnx.RNN, or of the nnx.Bidirectional, around a cell."""
    name, rnn = "", None
    while cell and is_kind(
        outer := modules.get(cell := cell.rpartition(".")[0]), (nnx.RNN, nnx.Bidirectional)
    ):
        name, rnn = cell, outer
    return name, rnn


def _layouts(trace: Trace, modules: Mapping[str, nnx.Module], pairing: Pairing) -> Layouts:
    """The layouts that the layers of a model declare, beside those of their partners."""
    orders: set[bool] = set()
    first: set[bool] = set()
    ranks: set[int] = set()
    for partner in pairing.partners:
        module = modules.get(partner.own)
        known = trace.modules.get(partner.module)
        batch_first = known is not None and bool(known.config.get("batch_first"))
        if is_kind(module, nnx.RNNCellBase):
            _, rnn = _around(modules, partner.own)
            if rnn is not None:
                orders.add(rnn.time_major == batch_first)
                first.add(not rnn.time_major)
        elif is_kind(module, nnx.MultiHeadAttention):
            orders.add(not batch_first)
        elif partner.layout == "channels":
            kernels = (len(one.shape) for one in partner.made.values() if len(one.shape) > 2)
            ranks.add(max(kernels, default=4))
    return Layouts(
        images=bool(ranks),
        lines=ranks == {3} and not orders,
        swapped=None if len(orders) > 1 else True in orders,
        batch_first=None if len(first) > 1 else True in first,
    )
