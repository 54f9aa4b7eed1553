"""The text of a report: what the user reads first, and one line a site on demand."""

import dataclasses
import html
import math
from collections.abc import Iterator, Sequence

from jaxnet._names import few
from jaxnet.parity._judgement import Judgement
from jaxnet.parity._result import Alternative, Finding, Report, Setting, SiteResult
from jaxnet.parity._sites import phase_of, place_of

# The levels whose results stand for themselves: in the others one difference makes more.
ISOLATED = ("preflight", "layer", "step")

_PHASES = {
    "batch": "batch",
    "before": "weights",
    "buffer": "buffer",
    "buffer_before": "buffer at the start",
    "clipped": "clipped gradient",
    "draw": "random draw",
    "forward": "forward",
    "function": "forward",
    "grad": "gradient",
    "input": "input",
    "loss": "loss",
    "lr": "learning rate",
    "param_grad": "parameter gradient",
    "state": "optimizer state",
    "state_before": "optimizer state at the start",
    "update": "update",
}


def phase_in_words(site: str) -> str:
    """The phase of a site in words: "forward" of "forward:fc1#0"."""
    phase = phase_of(site)
    return _PHASES.get(phase, phase)


def shares(judgement: Judgement) -> tuple[float, float, float]:
    """The distances T to T64, T64 to J64 and J64 to J, relative to the size of T64.

    Those of a null gradient are as they are, since its size is rounding too.
    """
    scale = 1.0 if judgement.label == "null gradient" else judgement.scale or 1.0
    return judgement.torch / scale, judgement.double / scale, judgement.jax / scale


def labels(report: Report) -> list[str]:
    """The label of each result; what differs only since something before it does is downstream."""
    follow = {id(result) for finding in report.findings for result in finding.consequences}
    return [
        "downstream" if id(result) in follow else result.judgement.label
        for result in report.results
    ]


def floors(result: SiteResult) -> float:
    """The difference in float64 in units of what float64 leaves of float32's rounding."""
    floor, double = result.judgement.floor, result.judgement.double
    return double / floor if floor else (0.0 if double == 0 else math.inf)


def worst(report: Report) -> list[tuple[SiteResult, str]]:
    """Of each site and level the step with the largest difference, with its label, in order."""
    found: dict[tuple[str, str], tuple[SiteResult, str]] = {}
    for result, label in zip(report.results, labels(report), strict=True):
        key = (result.level, result.site)
        if key not in found or _severity(result) > _severity(found[key][0]):
            found[key] = result, label
    return list(found.values())


def _severity(result: SiteResult) -> tuple[bool, float]:
    return result.judgement.failed, floors(result)


def headline(report: Report) -> str:
    """The verdict in one line."""
    judged = [
        result.judgement.failed
        for result, label in zip(report.results, labels(report), strict=True)
        if result.level in ISOLATED and label != "downstream"
    ]
    total, failed = len(judged), sum(judged)
    causes = len(report.findings)
    words = []
    if causes:
        words.append(f"{causes} {'difference' if causes == 1 else 'differences'}")
    if total:
        words.append(f"{total - failed} of {total} arrays same")
    if "updates" in report.coverage:
        words.append("no updates compared")
    setting = _setting(report)
    parts = [report.verdict.upper(), ", ".join(words), f"({setting})" if setting else ""]
    return "  ".join(part for part in parts if part)


def _setting(report: Report) -> str:
    words = []
    for side in ("torch", "jax"):
        known = report.environment.get(side, {})
        if side in known:
            words.append(f"{side} {known[side]} {known.get('device', '')}".strip())
    steps = {result.step for result in report.results}
    if steps:
        words.append(f"{len(steps)} {'step' if len(steps) == 1 else 'steps'}")
    if "batch" in report.subject:
        words.append(f"batch {report.subject['batch']}")
    return ", ".join(words)


def summary(report: Report, findings: int = 5) -> str:
    """What the user reads first.

    Args:
        report: The report.
        findings: How many of the findings are shown.
    """
    lines = [f"parity: {headline(report)}"]
    lines += [_setting_text(setting) for setting in report.settings]
    lines += [findings_text(report, findings)] if report.findings else []
    if len(report.findings) > findings:
        lines.append(f"and {len(report.findings) - findings} more: print(report.details())")
    lines += _evidence(report)
    lines += [f"note: {note}" for note in report.notes]
    if report.generic is not None:
        lines += [f"with generic weights: {headline(report.generic)}"]
        new = [note for note in report.generic.notes if note not in report.notes]
        lines += [*_evidence(report.generic), *(f"note: {note}" for note in new)]
    return "\n".join(lines)


def _setting_text(setting: Setting) -> str:
    """One line: where, what differs, what to write, and what it does."""
    place = setting.place if setting.kind == "layer" else setting.kind
    where = f" ({setting.torch_where})" if setting.torch_where else ""
    word = "setting" if setting.effect.startswith("see") else "warning"
    is_advice = setting.fix.partition(" ")[0] in ("compare", "train")
    fix = sentence(setting.fix) if is_advice else f"Write {setting.fix}"
    return (
        f"{word}: {place or 'the model'}{where}: {setting.message}. {sentence(setting.effect)}. "
        f"{fix}"
    )


def sentence(words: str) -> str:
    """The words with a capital."""
    return words[:1].upper() + words[1:]


def findings_text(report: Report, most: int | None = None) -> str:
    """The findings with their causes, "" without any."""
    shown = enumerate(report.findings[:most], 1)
    return "\n".join(line for number, finding in shown for line in _finding(number, finding))


def part(report: Report, place: str) -> Report:
    """What a report says of one module with all that is in it, of a parameter, or of the loss.

    Of each array it has the step with the largest difference. What is not of one module, as the
    notes and the verdict, stays.
    """

    def inside(site: str, name: str) -> bool:
        name = name or place_of(site)
        return f"{name}.".startswith(f"{place}.") or phase_in_words(site) == place

    findings = [f for f in report.findings if any(inside(r.site, r.place) for r in f.results)]
    results = [result for result, _ in worst(report) if inside(result.site, result.place)]
    exclusions = [e for e in report.exclusions if inside("", e.partition(": ")[0])]
    return dataclasses.replace(report, findings=findings, results=results, exclusions=exclusions)


def explained(there: Report, place: str) -> tuple[str, int]:
    """What `part` has found, in words, and the exit status: 0 only for what is known to be same.

    Args:
        there: The result of `part`.
        place: The name that it was asked for.
    """
    levels = {result.level for result in there.results}
    known = there.verdict != "not comparable" and not there.exclusions and levels - {"preflight"}
    if there.findings:
        text = findings_text(there)
        status = 2 if there.verdict == "not comparable" else 1
    elif not known:
        text, status = f"{place}: not all of it could be compared", 2
    elif any(result.judgement.failed for result in there.results):
        text, status = f"{place}: differs only since something before it does", 1
    else:
        text, status = f"{place}: the same", 0
    lines = [text, *(f"not compared: {each}" for each in there.exclusions)]
    return "\n".join([*lines, *(f"note: {note}" for note in there.notes)]), status


def _finding(number: int, finding: Finding) -> Iterator[str]:
    sides = "  |  ".join(side for side in (finding.torch_where, finding.jax_where) if side)
    place, phase = place_of(finding.site), phase_in_words(finding.site)
    if finding.site.startswith("lr:"):
        place = f"parameter group {place}"
    whole = phase == "loss" or ":" not in finding.site  # as a hyperparameter
    head = [phase] if whole else [place or "the model", phase]
    head.append(f"step {finding.step}")
    yield f"{number}. {'   '.join([*head, sides] if sides else head)}"
    yield f"   {finding.message}"
    for result in finding.results[:1]:
        torch, double, jax = shares(result.judgement)
        if not math.isfinite(double):  # there are no numbers: an error, or another shape
            continue
        yield (
            f"   torch32-torch64 {torch:.1e}   torch64-jax64 {double:.1e}   "
            f"jax64-jax32 {jax:.1e}   (relative RMS)"
        )
    if finding.cause:
        yield f"   cause: {finding.cause}"
        if finding.proof:
            yield f"   proof: {finding.proof}"
    elif finding.tried:
        yield f"   cause: not known; none of the {finding.tried} that were tried gives your numbers"
    if finding.consequences:
        yield f"   with it: {_counted(finding.consequences)}"
    if finding.alternatives:
        yield f"   or:    {'; '.join(finding.alternatives)} (this evidence cannot tell)"
        if finding.apart:
            yield f"   what would tell: {finding.apart}"
    if finding.fix:
        yield f"   fix:   {finding.fix}"


def _counted(consequences: Sequence[SiteResult]) -> str:
    """What follows from a finding, in words: "3 arrays differ: loss; update of fc.weight, ..."."""
    places: dict[str, dict[str, None]] = {}
    for result in consequences:
        places.setdefault(phase_in_words(result.site), {})[place_of(result.site)] = None
    words = [
        phase if phase == "loss" else f"{phase} of {few([*names], 2) if names else 'the model'}"
        for phase, names in places.items()
    ]
    count = len({result.site for result in consequences})
    return f"{count} {'array differs' if count == 1 else 'arrays differ'}: {'; '.join(words)}"


def _evidence(report: Report) -> Iterator[str]:
    yield f"not compared: {'; '.join(report.exclusions) or 'nothing'}"
    for kind, coverage in report.coverage.items():
        told = all(f"{name}: {why}" in report.exclusions for name, why in coverage.missing.items())
        if coverage.missing and not told:
            total = len(coverage.seen) + len(coverage.missing)
            reasons: dict[str, list[str]] = {}
            for name, why in coverage.missing.items():
                reasons.setdefault(why, []).append(name)
            words = "; ".join(f"{few(names)} ({why})" for why, names in reasons.items())
            yield f"not reached: {len(coverage.missing)} of {total} {kind}: {words}"
    found: dict[str, set[str]] = {}
    for result in report.results:
        found.setdefault(result.judgement.label, set()).add(place_of(result.site))
    for label, words in (
        ("null gradient", "null gradients, which are rounding only and no part of the verdict"),
        ("kink", "single elements that rounding pushed over a corner"),
        ("precision", "less accurate in float32 than torch, the same in float64"),
    ):
        if label in found:
            yield f"{words}: {few(sorted(name or 'the model' for name in found[label]))}"
    if report.horizon is not None and not report.findings:
        steps = len(report.horizon.torch)
        end = report.horizon.horizon
        yield (
            f"free run: equal within rounding for {report.horizon.equal_to} of {steps} steps; "
            + (
                f"the horizon, where rounding alone is 1e-2 of the way, is step {end}"
                if end is not None
                else f"the horizon, where rounding alone is 1e-2 of the way, is beyond step {steps}"
            )
        )
        if report.horizon.corner is not None:
            yield (
                f"free run: in step {report.horizon.corner} rounding alone sends torch's own run "
                "over a corner, so that it is no evidence of what follows"
            )
    if report.power:
        yield power_counts(report)
    if report.planted:
        yield planted_counts(report)
        yield from (
            f"  {'not found' if not each.found else 'found elsewhere'}: {each.place}: {each.words}"
            for each in report.planted
            if not each.placed
        )


def power_counts(report: Report) -> str:
    """How many of the known mistakes the check would have seen."""
    power = report.power if report.generic is None else together(report)
    excluded = sum(alternative.excluded for alternative in power)
    rest = len(power) - excluded
    return f"known mistakes of ports that it excludes: {excluded}; that it does not: {rest}"


def planted_counts(report: Report) -> str:
    """How many mistakes were made in the program, and how many of them a check found."""
    found, placed, named = (
        sum(getattr(each, name) for each in report.planted) for name in ("found", "placed", "named")
    )
    return (
        f"planted in this program: {len(report.planted)} known mistakes, one at a time; found: "
        f"{found}, at their place: {placed}, with their cause: {named}"
    )


def together(report: Report) -> list[Alternative]:
    """The known mistakes: those are excluded that the second pass, with generic weights, excludes.

    Args:
        report: The report of both passes.
    """
    second = report.generic.power if report.generic is not None else []
    seen = {(each.place, each.words): each for each in second if each.excluded}
    return [
        each if each.excluded else seen.get((each.place, each.words), each) for each in report.power
    ]


def details(report: Report) -> str:
    """One line an array, in the order in which they were compared."""
    width = max((len(result.site) for result in report.results), default=4)
    lines = [
        f"{'step':>4}  {'site':{width}}  {'level':9}  {'label':13}  "
        f"{'torch':>8}  {'float64':>8}  {'jax':>8}"
    ]
    for result, label in zip(report.results, labels(report), strict=True):
        torch, double, jax = shares(result.judgement)
        lines.append(
            f"{result.step:4d}  {result.site:{width}}  {result.level:9}  "
            f"{label:13}  {torch:8.1e}  {double:8.1e}  {jax:8.1e}"
        )
    return "\n".join(lines)


def printable(text: str) -> str:
    """With ? for half a character, such as one of a file name that is no UTF-8."""
    return text.encode("utf-8", "replace").decode("utf-8")


def html_summary(report: Report) -> str:
    """The report in a notebook."""
    colour = {"same": "#1a7f37", "different": "#cf222e"}.get(report.verdict, "#9a6700")
    text, table = html.escape(summary(report)), html.escape(details(report))
    return (
        f'<div style="border-left: 4px solid {colour}; padding-left: 0.8em">'
        f"<pre>{text}</pre><details><summary>All arrays</summary><pre>{table}</pre></details></div>"
    )
