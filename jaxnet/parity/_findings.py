"""The independent differences among all results: each array's fault is found at its origin."""

from collections.abc import Mapping, Sequence
from typing import Any

from jaxnet.parity._force import StepEvidence
from jaxnet.parity._judge import Judgement, together
from jaxnet.parity._result import Finding, SiteResult
from jaxnet.parity._steps import StepRuns
from jaxnet.parity._trace import Trace

Evidence = Mapping[int, tuple[StepEvidence | None, StepRuns]]

# Where a fault of the forward pass shows in a whole step, and where it does not.
_FORWARD = ("input", "forward", "buffer", "loss")


def findings_of(
    trace: Trace, subject: Any, results: Sequence[SiteResult], evidence: Evidence
) -> list[Finding]:
    """The findings, the first in the order of the computation first.

    Results of isolated layers and updates are grouped by what makes them. What only the whole
    step, or the chain of layers, shows is a finding of its own if no isolated one explains it.

    Args:
        trace: The trace.
        subject: The checked program.
        results: All results.
        evidence: The numbers of the steps in which something failed first.
    """
    failed = _failed(results)
    isolated = [result for result in failed if result.level == "layer"]
    roots: dict[str, list[SiteResult]] = {}
    for result in isolated:
        numbers = evidence.get(result.step, (None, None))[0]
        roots.setdefault(_origin(trace, result, numbers, isolated), []).append(result)
    found = [_finding(origin, group) for origin, group in roots.items()]
    for finding in found:
        numbers = evidence.get(finding.step, (None, None))[0]
        if numbers is not None and finding.site in numbers.forced:
            finding.jax64 = numbers.forced[finding.site].jax64
    forward = any(_phase(result) in _FORWARD for result in isolated)
    late: dict[str, list[SiteResult]] = {}
    for result in failed:
        if result.level == "step":
            explained = forward if _phase(result) in _FORWARD else bool(isolated)
        elif result.level == "chain":
            explained = bool(isolated) or _phase(result) == "input"
        else:
            continue
        if not explained:
            late.setdefault("step", []).append(result)
    found += [_late(trace, group) for group in late.values()]
    return found


def _phase(result: SiteResult) -> str:
    return result.site.partition(":")[0]


def _failed(results: Sequence[SiteResult]) -> list[SiteResult]:
    """The results that failed; what is undecided in one step is decided by all of them."""
    sites: dict[tuple[str, str], list[Judgement]] = {}
    for result in results:
        sites.setdefault((result.level, result.site), []).append(result.judgement)
    labels = {key: together(judgements).label for key, judgements in sites.items()}
    failed = []
    for result in results:
        if result.level == "preflight" or not result.judgement.failed:
            continue
        label = labels[result.level, result.site]
        if result.judgement.label == "different" or label in ("different", "undecided"):
            failed.append(result)
    return failed


def _origin(
    trace: Trace,
    result: SiteResult,
    evidence: StepEvidence | None,
    isolated: Sequence[SiteResult],
) -> str:
    """What makes a difference: a module, the code before one, the loss, the optimizer, ..."""
    phase, _, place = result.site.partition(":")
    if phase == "lr":
        return "schedule"
    if phase in ("update", "state", "state_before"):
        return "optimizer"
    if phase == "loss":
        return "loss"
    if phase in ("param_grad", "buffer"):
        return f"module:{_module(trace, place)}"
    call = _call(result)
    module = call.partition("#")[0]
    if phase == "forward":
        return f"module:{module}"
    if phase == "input":
        return f"before:{module}"
    # The gradient at an output is made by what follows it.
    same_step = [r for r in isolated if r.step == result.step and r is not result]
    wrong = {_call(r).partition("#")[0] for r in same_step if _phase(r) == "forward"}
    wrong |= {
        _module(trace, r.site.partition(":")[2])
        for r in same_step
        if _phase(r) in ("param_grad", "buffer")
    }
    if evidence is not None:
        consumers = evidence.consumers.get(call, ())
        modules = {each.partition("#")[0] for each in consumers}
        if guilty := modules & wrong:
            return f"module:{sorted(guilty)[0]}"
        if len(modules) == 1:
            return f"module:{modules.pop()}"
        calls = {each.name: each for each in evidence.step.calls}
        if call in calls and calls[call].parent is None:
            return "loss"
    return f"after:{module}"


def _call(result: SiteResult) -> str:
    """The call of a site: "fc1#0" of "input:fc1#0.mask"."""
    name, _, rest = result.site.partition(":")[2].partition("#")
    return f"{name}#{rest.partition('.')[0]}"


def _module(trace: Trace, array: str) -> str:
    """The module that an array belongs to."""
    name = array.rpartition(".")[0]
    while name and name not in trace.modules:
        name = name.rpartition(".")[0]
    return name


_WORDS = {
    "input": "the input that arrives at it",
    "forward": "the output",
    "grad": "the gradient that arrives at the output",
    "param_grad": "the gradient of a parameter",
    "buffer": "a buffer after the call",
    "loss": "the loss",
    "lr": "the learning rate",
    "update": "the update with torch's gradients",
    "state": "the optimizer's state after the update",
    "state_before": "the form of the optimizer's state",
}


def _finding(origin: str, group: Sequence[SiteResult]) -> Finding:
    first = group[0]
    kind, _, name = origin.partition(":")
    what = _WORDS[_phase(first)]
    steps = sorted({result.step for result in group})
    when = f" from step {steps[0]} on" if steps[0] > 0 else ""
    where = {
        "module": f"{name or 'the model'}: {what} differs",
        "before": f"before {name or 'the model'}: {what} differs",
        "after": f"after {name or 'the model'}: {what} differs",
        "loss": "the loss" + ("" if _phase(first) == "loss" else "'s gradient") + " differs",
        "optimizer": f"the optimizer: {what} differs",
        "schedule": "the learning rate differs",
    }[kind]
    note = first.judgement.note
    return Finding(
        site=first.site,
        step=first.step,
        level=first.level,
        kind=first.judgement.label,
        message=where + when + (f": {note}" if note else ""),
        results=list(group),
        torch_where=first.torch_where,
        jax_where=first.jax_where,
    )


def _late(trace: Trace, group: Sequence[SiteResult]) -> Finding:
    """The finding of what no isolated array explains."""
    first = group[0]
    note = first.judgement.note
    seen = {"loss": "loss", "update": "update", "buffer": "buffers", "state": "optimizer's state"}
    what = ", ".join(dict.fromkeys(seen.get(_phase(r), _phase(r)) for r in group[:20]))
    full = any(step.full for step in trace.steps if step.index == first.step)
    return Finding(
        site=first.site,
        step=first.step,
        level=first.level,
        kind=first.judgement.label,
        message=f"step {first.step} by itself differs ({what})" + (f": {note}" if note else ""),
        fix=""
        if full
        else f"record step {first.step} in full, to find the layer: parity.recording(path, "
        f"full=({first.step},))",
        results=list(group),
        torch_where=first.torch_where,
        jax_where=first.jax_where,
    )
