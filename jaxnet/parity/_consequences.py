"""What differs only because something before it does, and the finding that it belongs to."""

from collections.abc import Collection, Mapping, Sequence

from jaxnet.parity._evidence import StepEvidence
from jaxnet.parity._findings import FORWARD, failed_of, late
from jaxnet.parity._region import follows
from jaxnet.parity._result import Finding, SiteResult
from jaxnet.parity._sites import phase_of
from jaxnet.parity._trace import Trace


def folded(
    findings: list[Finding], evidence: Mapping[int, StepEvidence], raised: Collection[str]
) -> list[Finding]:
    """The findings without those that follow from another one, which gets their results.

    The code between two modules has variables that no call gets, so that torch's numbers cannot
    take their place. An array that is computed from such a one is computed once more, by the
    recorded functions, with the program's own number there: if that gives the program's array,
    the array has no fault of its own.

    Args:
        findings: The findings, in the order of the computation.
        evidence: The numbers of the steps of which they are kept.
        raised: The modules whose calls raised an error; what is inside them was not computed.
    """
    for name in sorted(raised):
        cause = next((f for f in findings if _is_of(f, name)), None)
        if cause is not None:
            steps = {result.step for result in cause.results}
            inside = [
                f
                for f in findings
                if f is not cause and _is_inside(f, name) and {r.step for r in f.results} <= steps
            ]
            findings = _moved(findings, inside, cause)
    for finding in findings:
        kind, _, site = finding.origin.partition(":")
        numbers = evidence.get(finding.step)
        four = None if numbers is None else numbers.forced.get(site)
        if kind != "between" or site != finding.site:
            continue
        if numbers is None or four is None or four.jax64 is None:
            continue
        causes = {
            result.site: other
            for other in findings
            if other is not finding and other.level == "layer"
            for result in (*other.results, *other.consequences)
            if result.step == finding.step and phase_of(result.site) in ("input", "forward")
        }
        known = {s: numbers.forced[s].jax64 for s in causes if s in numbers.forced}
        others = {s: array for s, array in known.items() if array is not None}
        if of := follows(numbers.step, site, others, four.jax64):
            findings = _moved(findings, [finding], causes[of])
    return findings


def _is_of(finding: Finding, name: str) -> bool:
    """Whether a finding is about the output of a module."""
    return finding.origin == f"module:{name}" or any(
        phase_of(result.site) == "forward" and result.place == name for result in finding.results
    )


def _is_inside(finding: Finding, name: str) -> bool:
    """Whether a finding is of what a module that raised an error did not get to inside of it.

    Inputs and outputs inside it are computed from torch's inputs: a fault of theirs is their own.
    No gradient arrives at its own output, which there is none of.
    """
    phases = ("grad", "param_grad", "buffer")
    return all(
        phase_of(result.site) in phases
        and (result.place != name or phase_of(result.site) == "grad")
        and f"{result.place}.".startswith(f"{name}." if name else "")
        for result in finding.results
    )


def _moved(findings: list[Finding], some: Sequence[Finding], cause: Finding) -> list[Finding]:
    """The findings without some, whose results are consequences of another one."""
    for finding in some:
        cause.consequences += [*finding.results, *finding.consequences]
    return [finding for finding in findings if not any(finding is each for each in some)]


def settled(
    trace: Trace,
    results: Sequence[SiteResult],
    findings: Sequence[Finding],
    rounding: Sequence[SiteResult],
) -> list[Finding]:
    """The findings, each with what follows from it, and one more of what follows from none.

    A verdict rests on this: a result that differs belongs to a finding, follows from one, or is
    rounding. Whatever loses a finding on the way, what it was about is found again here.

    Args:
        trace: The trace.
        results: All results.
        findings: The findings so far, which are changed.
        rounding: Results that were found to be rounding although they differ.
    """
    known = {id(result) for finding in findings for result in finding.results}
    known |= {id(result) for result in rounding}
    for finding in findings:  # parts of one finding begin with the same consequences
        finding.consequences = [r for r in finding.consequences if id(r) not in known]
        known |= {id(result) for result in finding.consequences}
    left: list[SiteResult] = []
    for result in failed_of(results, start=True):
        if id(result) in known or _is_rounded(result, rounding):
            continue
        cause = next((each for each in findings if _leads_to(each, result)), None)
        (left if cause is None else cause.consequences).append(result)
    return [*findings, late(trace, left)] if left else [*findings]


def _leads_to(finding: Finding, result: SiteResult) -> bool:
    """Whether a result of a whole step, or of the chain of layers, may differ by a finding."""
    if result.level not in ("step", "chain") or finding.level != "layer":
        return False
    # A step begins with torch's parameters, whatever the update before it was.
    of_step = finding.origin in ("schedule", "optimizer")
    if of_step and all(other.step != result.step for other in finding.results):
        return False
    if phase_of(result.site) not in FORWARD or not finding.results:
        return True
    # A weight of one that is left out shows in its gradient first, and then in the output.
    own = [r for r in finding.results[1:] if r.step <= result.step]
    return any(phase_of(r.site) in FORWARD for r in (finding.results[0], *own))


def _is_rounded(result: SiteResult, rounding: Sequence[SiteResult]) -> bool:
    """Whether a result of a whole step has no more than the rounding of an isolated one.

    It is of the same array then, or is computed from a gradient that has the rounding.
    """
    if result.level != "step":
        return False
    own, scale = result.judgement.double, result.judgement.scale
    return any(
        own <= 4 * other.judgement.double
        if other.site == result.site
        else phase_of(other.site) == "grad"
        and phase_of(result.site) not in FORWARD
        and other.step == result.step
        and own * other.judgement.scale <= 4 * other.judgement.double * scale
        for other in rounding
    )
