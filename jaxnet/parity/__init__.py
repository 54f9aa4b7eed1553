"""Whether a JAX training run is a PyTorch training run, and if not, where and why."""

from jaxnet.parity._check import check
from jaxnet.parity._compare import compare
from jaxnet.parity._diff import diff
from jaxnet.parity._explain import explain
from jaxnet.parity._record import recording
from jaxnet.parity._result import Finding, Report
from jaxnet.parity._trace import TraceError

__all__ = ["Finding", "Report", "TraceError", "check", "compare", "diff", "explain", "recording"]
