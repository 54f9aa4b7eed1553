"""Whether a JAX training run is a PyTorch training run, and if not, where and why.

The way of a comparison through the files; read them in this order:

    record       _record.py watches torch while the program runs, and _open_step.py notes what a
                 step does; _twin.py computes it a second time in float64
    trace        _trace.py: the file format, and the names of all recorded arrays (sites)
    check        _check.py: _force.py computes each layer from torch's numbers, _steps.py each
                 step from torch's state, and _free_run.py the whole run; _draws.py replays
                 torch's random numbers, _coverage.py says what was compared
    file         _recorded.py makes the program of a file that has the recorded model alone, as
                 `jaxnet port` writes it: _constructed.py notes how torch's model was built,
                 _recorded_loss.py and _recorded_optimizer.py read the training in the trace, and
                 _exercised.py says what of the file the recorded steps reach
    judge        _judge.py: same or different, from the four runs (torch and JAX, both precisions)
    findings     _findings.py groups the arrays that differ by what makes them differ
    causes       _layer_causes.py and _training_causes.py try the rows of the catalogue, _traps/,
                 on references (_reference.py, _losses.py, _updates.py); _attribute.py proves one
    certificate  _result.py and _text.py are the report, _certificate.py its files

A model of plain flax, or of another library (_libraries.py: _linen.py, _equinox.py, _haiku.py,
_pure_function.py), becomes one with torch's parameters: _foreign_model.py makes modules of its
layers, _pairing.py finds their partners, _foreign.py is the program, and _foreign_step.py a step of
the user's own (_pytree_step.py finds the model in its state).

`diff` compares two traces (_diff.py, and _starts.py for what their steps begin with), and `explain`
looks for the cause in one layer (_explain.py).
"""

from jaxnet.parity._check import check
from jaxnet.parity._compare import compare
from jaxnet.parity._diff import diff
from jaxnet.parity._explain import explain
from jaxnet.parity._record import recording
from jaxnet.parity._result import Finding, Report
from jaxnet.parity._trace import TraceError

__all__ = ["Finding", "Report", "TraceError", "check", "compare", "diff", "explain", "recording"]
