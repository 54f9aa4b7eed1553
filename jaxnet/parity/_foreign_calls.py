"""The calls of a plain flax model's layers beside torch's: names, layouts, and parts of outputs."""

import dataclasses
import math
from collections.abc import Mapping

from flax import nnx

from jaxnet._names import named_modules
from jaxnet.parity._layouts import SAME, View, view_of
from jaxnet.parity._pairing import Pairing
from jaxnet.parity._trace import Trace

# The outputs of nnx.RNN with a carry, (c, h) for an LSTM, beside torch's outputs and (h, c).
_CARRIED = {
    ("0.0", "0.1", "1"): {"1": "0", "0.1": "1.0", "0.0": "1.1"},
    ("0", "1"): {"1": "0", "0": "1"},
}


@dataclasses.dataclass(frozen=True)
class ForeignCall:
    """A layer of the model that torch has a module for.

    Attributes:
        module: The name of torch's module.
        layout: The kind of its layout, as `view_of` takes it.
        recurrent: Whether it is an nnx.RNN.
        some: Whether flax's layer may have fewer arguments than torch's.
    """

    module: str
    layout: str
    recurrent: bool = False
    some: bool = False

    def view(self, own: tuple[int, ...], torch: tuple[int, ...], given: bool = False) -> View:
        """The view of an argument (`given`) or of an output."""
        if self.layout.startswith("flat ") and not given:
            return SAME
        if self.recurrent and len(torch) == len(own) + 1 and math.prod(own) == math.prod(torch):
            return View(lambda x: x.reshape(torch), lambda x: x.reshape(own))  # a carry (N, H)
        return view_of(self.layout, own, torch)

    def outputs(self, own: tuple[str, ...], theirs: Mapping[str, str]) -> dict[str, str]:
        """torch's paths of the parts of the output, by the model's."""
        if self.recurrent and own in _CARRIED:
            return _CARRIED[own]
        if self.recurrent and len(own) > 1:
            return {"1": "0"}  # what a layer of two directions carries is not compared
        if own == ("",) and "" not in theirs and "0" in theirs:
            return {"": "0"}  # an attention without its weights, outputs without a last state
        return {path: path for path in own}


def foreign_calls(trace: Trace, model: nnx.Module, pairing: Pairing) -> dict[str, ForeignCall]:
    """The layers of the model that torch calls as modules, by their names in the model."""
    modules = dict(named_modules(model))
    called = {call.module for step in trace.steps for call in step.calls}
    found: dict[str, ForeignCall] = {}
    for partner in pairing.partners:
        if not partner.module and partner.torch:
            continue
        if partner.module not in called:
            continue
        module = modules.get(partner.own)
        if isinstance(module, nnx.RNNCellBase):
            outer = partner.own.rpartition(".")[0]
            rnn = modules.get(outer)
            config = trace.modules[partner.module].config
            whole = config.get("num_layers", 1) == 1
            if config.get("bidirectional"):
                outer = outer.rpartition(".")[0]
                rnn = modules.get(outer)
            kind = nnx.Bidirectional if config.get("bidirectional") else nnx.RNN
            if isinstance(rnn, kind) and whole:
                same = rnn.time_major != bool(config.get("batch_first"))
                found[outer] = ForeignCall(partner.module, "" if same else "swapped", True)
            continue
        some = isinstance(module, nnx.MultiHeadAttention)
        found[partner.own] = ForeignCall(partner.module, partner.layout, some=some)
    return found


def has_images(partners: Mapping[str, ForeignCall] | None) -> bool:
    """Whether layers have their channels last, where torch's have them second."""
    return any(each.layout == "channels" for each in (partners or {}).values())
