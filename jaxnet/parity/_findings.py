"""The independent differences among all results: each fault is found where it is made."""

from collections.abc import Mapping, Sequence

from jaxnet.parity._flow import Flow
from jaxnet.parity._judgement import Judgement, Label, together
from jaxnet.parity._result import Finding, SiteResult
from jaxnet.parity._sites import call_of, module_name, phase_of, place_of
from jaxnet.parity._trace import Trace

# The phases in which a fault of the forward pass shows in a whole step.
FORWARD = ("input", "forward", "buffer", "loss")


def findings_of(
    trace: Trace, results: Sequence[SiteResult], flows: Mapping[int, Flow]
) -> list[Finding]:
    """The findings, the first in the order of the computation first.

    Results of isolated layers and updates are grouped by what makes them. What only the whole
    step, or the chain of layers, shows is a finding of its own if no isolated one explains it.

    Args:
        trace: The trace.
        results: All results.
        flows: The flows of the steps in which an isolated layer differs.
    """
    failed = failed_of(results)
    isolated = [result for result in failed if result.level == "layer"]
    groups: dict[str, list[SiteResult]] = {}
    first: dict[str, str] = {}  # by the code that makes the difference, which may run often
    for result in isolated:
        flow = flows.get(result.step)
        same_step = [other for other in isolated if other.step == result.step]
        origin = _origin(trace, result, flow, same_step)
        origin = first.setdefault(_code(origin, flow), origin)
        groups.setdefault(origin, []).append(result)
    forward = [origin for origin, group in groups.items() if phase_of(group[0].site) in FORWARD]
    if forward:
        _begun_before(groups, forward, failed)
    return [_finding(origin, group, flows) for origin, group in groups.items()]


def _code(origin: str, flow: Flow | None) -> str:
    """What is the same for all calls of one line of code between two modules."""
    kind, _, site = origin.partition(":")
    if kind != "between" or flow is None or site not in flow.paths:
        return origin
    functions = flow.paths[site].functions
    last = f"{functions[-1].function} {functions[-1].where}" if functions else ""
    call = call_of(site)
    return f"{site.replace(call, module_name(call), 1)} {last}"


def _begun_before(
    groups: dict[str, list[SiteResult]], forward: Sequence[str], failed: Sequence[SiteResult]
) -> None:
    """Adds to a group the steps before, of which only the whole was recorded, that differ too."""
    first = min(groups[origin][0].step for origin in forward)
    early = [
        result
        for result in failed
        if result.level == "step" and phase_of(result.site) in FORWARD and result.step < first
    ]
    # A loss that differs though its inputs do not may have done so from the start.
    origin = "loss" if "loss" in forward else forward[0]
    groups[origin][:0] = early


def failed_of(results: Sequence[SiteResult], start: bool = False) -> list[SiteResult]:
    """The results that failed; what is undecided in one step is decided by all of them.

    Args:
        results: All results.
        start: Whether those of the initial weights are among them, which have a finding already.
    """
    labels = _labels(results)
    return [
        result
        for result in results
        if (start or result.level != "preflight")
        and result.judgement.failed
        and labels[result.level, result.site] in ("different", "undecided")
    ]


def _labels(results: Sequence[SiteResult]) -> dict[tuple[str, str], Label]:
    """The verdicts on the sites, by all steps together."""
    sites: dict[tuple[str, str], list[Judgement]] = {}
    for result in results:
        sites.setdefault((result.level, result.site), []).append(result.judgement)
    return {key: together(judgements).label for key, judgements in sites.items()}


def kind_of(results: Sequence[SiteResult]) -> str:
    """The kind of a finding of results that failed: one site that differs is a difference."""
    return "different" if "different" in _labels(results).values() else "undecided"


def _origin(
    trace: Trace, result: SiteResult, flow: Flow | None, same_step: Sequence[SiteResult]
) -> str:
    """What makes a difference: a module, what lies between two, the loss, the optimizer, ..."""
    phase, _, place = result.site.partition(":")
    if phase == "lr":
        return "schedule"
    if phase in ("update", "state", "state_before"):
        return "optimizer"
    if phase == "loss":
        return "loss"
    if phase in ("param_grad", "buffer"):
        module = _module(trace, place)
        # The gradient of what a module with calls inside owns is handed back by these, and by
        # what it computes from their outputs.
        inside = (
            other
            for other in same_step
            if phase == "param_grad"
            and phase_of(other.site) == "forward"
            and f"{other.place}.".startswith(f"{module}." if module else "")
        )
        if (first := next(inside, None)) is not None:
            return _origin(trace, first, flow, same_step)
        return f"module:{module}"
    if phase in ("input", "forward"):
        return _between(result.site, flow) or f"module:{module_name(place)}"
    # The gradient at an output is made by what follows it.
    if flow is None:
        return f"after:{module_name(place)}"
    # The last of a recurrent layer's outputs is its state too, and their gradients are one.
    after = flow.after(place) or flow.after_call(place)
    followers = {place_of(site) for site in after}
    direct = {module_name(call) for call in flow.consumers.get(place, ())}
    for site in after:
        if any(other.site == site for other in same_step) and (origin := _between(site, flow)):
            return origin
    guilty = {
        place_of(r.site)
        if phase_of(r.site) == "forward"
        else _module(trace, r.site.partition(":")[2])
        for r in same_step
        if phase_of(r.site) in ("forward", "param_grad")
    }
    if both := (direct | followers) & guilty:
        return f"module:{sorted(both)[0]}"
    if place in flow.roots:
        return "loss"
    if len(direct) == 1 and len(followers) <= 1:
        return f"module:{direct.pop()}"
    if len(after) == 1 and (origin := _between(after[0], flow)):
        return origin
    return f"after:{module_name(place)}"


def _between(site: str, flow: Flow | None) -> str:
    """What lies before an argument, or within a call after its last call; "" for a module."""
    if flow is not None and site in flow.unmet:
        return f"module:{module_name(place_of(flow.unmet[site]))}"
    if flow is None or site not in flow.paths:
        return "" if site.startswith("forward:") else f"before:{module_name(site[6:])}"
    return f"between:{site}"


def _module(trace: Trace, array: str) -> str:
    """The module that computes with an array: the innermost one that was called."""
    called = {call.module for step in trace.steps for call in step.calls}
    name = array.rpartition(".")[0]
    while name and name not in called:
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


def _finding(origin: str, group: Sequence[SiteResult], flows: Mapping[int, Flow]) -> Finding:
    first = group[0]
    kind, _, name = origin.partition(":")
    what = _WORDS[phase_of(first.site)]
    torch_where = first.torch_where
    if kind == "between":
        flow = flows[first.step]
        path = flow.paths[name]
        target = name.partition(":")[2]
        ends = f"{' and '.join(path.calls) or 'the batch'} and {target}"
        what = f"between {ends} ({path.name or 'nothing in torch'}): {what} differs"
        if path.functions:
            torch_where = f"{path.functions[-1].function} {path.functions[-1].where}"
    elif kind == "module" and phase_of(first.site) == "input":
        what = f"{name}: what it gives {place_of(first.site)} differs"
    else:
        what = {
            "module": f"{name or 'the model'}: {what} differs",
            "before": f"before {name or 'the model'}: {what} differs",
            "after": f"after {name or 'the model'}: {what} differs",
            "loss": "the loss"
            + ("" if phase_of(first.site) == "loss" else "'s gradient")
            + " differs",
            "optimizer": f"the optimizer: {what} differs",
            "schedule": "the learning rate differs",
        }[kind]
    when = f" from step {first.step} on" if first.step > 0 else ""
    note = first.judgement.note
    return Finding(
        site=first.site,
        step=first.step,
        level=first.level,
        kind=kind_of(group),
        message=what + when + (f": {note}" if note else ""),
        results=list(group),
        origin=origin,
        torch_where=torch_where,
        jax_where=first.jax_where,
    )


def late(trace: Trace, group: Sequence[SiteResult]) -> Finding:
    """The finding of what no isolated array explains."""
    first = group[0]
    note = first.judgement.note
    seen = {"loss": "loss", "update": "update", "buffer": "buffers", "state": "optimizer's state"}
    what = ", ".join(dict.fromkeys(seen.get(phase_of(r.site), phase_of(r.site)) for r in group))
    whole = first.level in ("step", "chain")
    subject = f"step {first.step} as a whole" if whole else place_of(first.site) or "the model"
    full = any(step.full for step in trace.steps if step.index == first.step)
    return Finding(
        site=first.site,
        step=first.step,
        level=first.level,
        kind=kind_of(group),
        message=f"{subject} differs ({what})" + (f": {note}" if note else ""),
        fix=""
        if full
        else f"record step {first.step} in full, to find the layer: parity.recording(path, "
        f"full=({first.step},))",
        results=list(group),
        torch_where=first.torch_where,
        jax_where=first.jax_where,
    )
