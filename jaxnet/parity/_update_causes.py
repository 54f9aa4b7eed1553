"""The causes of updates that differ, grouped over the parameters that each concerns."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from jaxnet.parity._attribute import Cause, attribute
from jaxnet.parity._evidence import Evidence, difference
from jaxnet.parity._explained import (
    FLOAT32,
    OF_GRADIENTS,
    OF_RATES,
    READ,
    ROUNDED,
    Explained,
    Read,
    explained_by,
    merged,
)
from jaxnet.parity._judgement import rms
from jaxnet.parity._schedules import rates
from jaxnet.parity._trace import Trace
from jaxnet.parity._traps import Hypothesis, traps_of
from jaxnet.parity._traps.gradients import WithinBoundsError
from jaxnet.parity._updates import Update, chosen, updates

Steps = Mapping[int, Mapping[str, np.ndarray]]
"""The JAX program's arrays of each step, by site."""


class _UntrustedError(Exception):
    """The reference of a parameter does not give torch's updates."""


@dataclasses.dataclass(frozen=True)
class _Case:
    """One parameter whose updates differ."""

    update: Update
    evidence: Evidence
    steps: tuple[int, ...]


def explain_updates(
    trace: Trace, jax: Steps, jax64: Steps, carried: bool = False, known_rates: bool = False
) -> list[Explained]:
    """The causes of updates that differ from torch's, where the gradients are torch's.

    Args:
        trace: The trace.
        jax: The JAX program's "update:NAME", and "state:NAME.SLOT" as far as they are known, of
            each step in float32, each computed from torch's parameters and gradients.
        jax64: The same in float64.
        carried: Whether its optimizer began anew before the first recorded step and went on from
            its own state, in each precision, instead of torch's state in each step. The recorded
            run has to begin with torch's first update then.
        known_rates: Whether its learning rates are known to be torch's, so that they are no cause.

    Returns:
        A cause for each group of parameters that one explains, and what is left unexplained.
    """
    known = updates(trace, carried)
    cases, untrusted = [], []
    explained = []
    for update in known.values():
        try:
            case = _case(trace, update, jax, jax64)
        except _UntrustedError:
            untrusted.append(update.parameter)
            continue
        if case is None:
            continue
        by_rates = None if known_rates else _by_rates(trace, case)
        if by_rates is not None and by_rates.traps != ("schedule-factor",):
            explained.append(by_rates)
        else:
            cases.append(case)
    found, left = _grouped(cases, known_rates)
    for cause, group in found:
        names = [c.update.parameter for c in group]
        shared = explained_by(cause, names, [s for c in group for s in c.steps])
        explained.append(_sized(shared, group))
    for case, cause in left:
        one = None if known_rates else _with_rates(trace, case)
        explained.append(
            one
            or Explained(
                (case.update.parameter,), case.steps, symptoms=cause.symptoms, tried=cause.tried
            )
        )
    explained = merged(explained)
    if untrusted:
        sign = (
            "Torch's own updates are not those of its optimizer, so that no cause was tried: its "
            "program changes the parameters besides, as clamp_ does."
        )
        explained.append(Explained(tuple(untrusted), (), symptoms=(sign,)))
    return explained + _frozen(trace, known, jax64)


def changed_besides(trace: Trace) -> frozenset[str]:
    """The parameters that torch's program changes besides its optimizer, as `clamp_` does.

    Args:
        trace: The trace.
    """
    known = updates(trace)
    torch: dict[str, dict[str, np.ndarray]] = {name: {} for name in known}
    torch64: dict[str, dict[str, np.ndarray]] = {name: {} for name in known}
    records = {(name, each.step): each for name, u in known.items() for each in u.records}
    for step in trace.steps:  # each is read once for all parameters
        for name in known:
            record = records.get((name, step.index))
            site, key = f"update:{name}", f"{step.index}:change"
            if record is not None and site in step.sites:
                torch[name][key] = chosen(step[site]) - record.before
                torch64[name][key] = chosen(step.double(site)) - record.before
        step.forget()
    return frozenset(
        name
        for name, update in known.items()
        if not _is_all(update.observe(), torch[name], torch64[name])
    )


def _is_all(
    numbers: Mapping[str, np.ndarray],
    torch: Mapping[str, np.ndarray],
    torch64: Mapping[str, np.ndarray],
) -> bool:
    """Whether torch's updates are what its optimizer gives: its program may do more.

    Args:
        numbers: What the optimizer gives, of the reference.
        torch: What torch's program gave in float32.
        torch64: The same in float64.
    """
    trial = Evidence(torch, torch64, torch, torch64)
    return not any(
        key not in numbers or difference(numbers[key], theirs) > trial.tolerance(key)
        for key, theirs in torch64.items()
    )


def _case(trace: Trace, update: Update, jax: Steps, jax64: Steps) -> _Case | None:
    """A parameter with the numbers of both programs; None where the updates are the same."""
    name = update.parameter
    torch, torch64, ours, ours64 = ({} for _ in range(4))
    for record in update.records:
        step, k = trace.steps[record.step], record.step
        for site, key in _sites(name, record.step, jax64.get(k, {})):
            if site not in step:
                continue
            start = record.before if site.startswith("update:") else 0.0
            torch[key] = chosen(step[site]) - start
            torch64[key] = chosen(step.double(site)) - start
            ours64[key] = chosen(jax64[k][site]) - start
            ours[key] = chosen(jax[k][site]) - start if site in jax.get(k, {}) else ours64[key]
    # torch's program may do more than its optimizer does, as clamp_ of the parameters after it.
    plain = dataclasses.replace(update, carried=False).observe()
    if not _is_all(plain, torch, torch64):
        raise _UntrustedError
    if update.carried:
        # Torch's float64 numbers of a step begin with its float32 state. What they would be with
        # a state of float64 from the first update on, the reference says.
        torch64 = {k: v for k, v in update.observe().items() if k in torch64}
        torch = {k: torch[k] - plain[k] + v for k, v in torch64.items()}
    evidence = Evidence(torch, torch64, ours, ours64)
    failing = evidence.failing()
    return _Case(update, evidence, failing) if failing else None


def _sites(name: str, step: int, given: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    """The sites of a parameter, with the names of `Update.observe`."""
    for site in given:
        if site == f"update:{name}":
            yield site, f"{step}:change"
        elif site.startswith(f"state:{name}.") and not site.endswith(".step"):
            slot = site.removeprefix(f"state:{name}.")
            if "." not in slot:
                yield site, f"{step}:{slot}"


Key = tuple[tuple[str, tuple[Any, ...]], ...]


def _key(hypotheses: Sequence[Hypothesis]) -> Key:
    """What makes two proven causes one."""
    return tuple(sorted((h.trap.name, tuple(h.values.values())) for h in hypotheses))


def _grouped(
    cases: Sequence[_Case], known_rates: bool
) -> tuple[list[tuple[Cause, list[_Case]]], list[tuple[_Case, Cause]]]:
    """The causes with the parameters that each explains, and the cases that none explains.

    The next parameter is first tried with the causes of those before it, since one mistake
    mostly concerns many parameters.
    """
    found: list[tuple[Cause, list[_Case]]] = []
    left = []
    # Those that show the difference in most steps first: they tell most causes apart.
    for case in sorted(cases, key=lambda c: -len(c.steps)):
        for i, (cause, group) in enumerate(found):
            rows = {h.trap.name: h.trap for each in cause.proven for h in each}
            again = attribute(case.update, case.evidence, rows.values())
            shared = {_key(each) for each in again.proven}
            alike = [each for each in cause.proven if {h.trap.name for h in each} & OF_RATES]
            both = tuple(each for each in cause.proven if _key(each) in shared)
            both = both or tuple(each for each in cause.proven if _explains(each, case))
            both += tuple(each for each in alike if each not in both and _explains(each, case))
            if both:
                found[i] = dataclasses.replace(cause, proven=both), [*group, case]
                break
        else:
            cause = _cause(case, known_rates)
            if not cause.proven:
                left.append((case, cause))
                continue
            # One mistake can look like another one in some parameters: gradients that are all
            # within the bounds of a clipping are not clipped.
            before = [each for _, others in found for each in others]
            both = tuple(h for h in cause.proven if all(_explains(h, each) for each in before))
            if both and before:
                found = [(dataclasses.replace(cause, proven=both), [*before, case])]
            else:
                found.append((cause, [case]))
    return found, left


def _cause(case: _Case, known_rates: bool) -> Cause:
    """The cause of one parameter's updates; its learning rates are none where they are known."""
    every = traps_of(case.update.kind)
    of_rates = [trap for trap in every if trap.name in OF_RATES]
    if known_rates:
        return attribute(case.update, case.evidence, [t for t in every if t not in of_rates])
    cause = attribute(case.update, case.evidence)
    if any(h.trap.name in OF_GRADIENTS for each in cause.proven for h in each):
        # Where the update is linear in the gradient, a learning rate does the same.
        named = {h.trap.name for each in cause.proven for h in each}
        others = [trap for trap in of_rates if trap.name not in named]
        more = attribute(case.update, case.evidence, others).proven
        cause = dataclasses.replace(cause, proven=(*cause.proven, *more))
    return cause


def _explains(hypotheses: Sequence[Hypothesis], case: _Case) -> bool:
    """Whether a cause, with its constants, gives the program's updates of a parameter."""
    try:
        update = case.update
        for each in hypotheses:
            try:
                update = each.applied(update)
            except WithinBoundsError:
                update = update.altered(clip=("none", None))
        numbers = update.observe()
    except (ValueError, TypeError, KeyError):
        return False
    evidence = case.evidence
    return all(
        difference(numbers.get(key), ours) <= evidence.tolerance(key)
        for key, ours in evidence.jax64.items()
    )


def _by_rates(
    trace: Trace, case: _Case, cause: Hypothesis | None = None, any_rates: bool = False
) -> Explained | None:
    """What other learning rates explain, one in each step.

    Args:
        trace: The trace.
        case: The parameter.
        cause: A hypothesis that holds besides.
        any_rates: Whether learning rates by no rule that is known are an explanation.
    """
    update = case.update if cause is None else cause.applied(case.update)
    read = _read_rates(update, case.evidence)
    if read is None:
        return None
    reference = rates(trace, *_group_of(trace, case.update.parameter))
    torch, ours = np.array([float(r.config["lr"]) for r in update.records]), np.array(read)
    places, config = (case.update.parameter,), case.update.config
    apart = np.abs(ours - torch) > FLOAT32 * np.max(np.abs(torch))
    if not np.any(apart):
        if cause is None:
            one = Explained(places, case.steps, ROUNDED, rounding=FLOAT32)
            return _sized(one, [case])
        proof = "with it, and the learning rates in float32, the reference gives your numbers"
        words, fix = cause.words(config), cause.fix(config)
        return Explained(places, case.steps, words, fix, proof, traps=(cause.trap.name,))
    ratios = ours / np.where(torch == 0, 1.0, torch)
    if cause is None and not any_rates and np.ptp(ratios) <= READ * np.max(np.abs(ratios)):
        return None  # another learning rate, or none at all, has rows of its own
    steps = tuple(r.step for r, is_apart in zip(update.records, apart, strict=True) if is_apart)
    n = reference.observed
    theirs, mine = {"lr": torch[:n]}, {"lr": ours[:n]}
    series = attribute(reference, Read(theirs, theirs, mine, mine))
    proof = (
        f"the learning rates that your updates have are {', '.join(f'{lr:.6g}' for lr in ours)}; "
        f"torch's are {', '.join(f'{lr:.6g}' for lr in torch)}"
    )
    if series.proven:
        found = dataclasses.replace(explained_by(series, places, steps), proof=proof)
    elif any_rates:
        words = "The learning rates are others than torch's, by no rule that is known."
        found = Explained(places, steps, words, "the schedule of the torch program", proof)
    else:
        return None
    if cause is None:
        return found
    return dataclasses.replace(
        found,
        words=f"{cause.words(config)} {found.words}",
        fix=f"{cause.fix(config)}; and {found.fix}",
        traps=(cause.trap.name, *found.traps),
    )


def _read_rates(update: Update, evidence: Evidence) -> list[float] | None:
    """The learning rate of each update; None where another one does not explain all of them.

    What an update adds is proportional to the learning rate.
    """
    try:
        numbers = update.observe()
    except (ValueError, TypeError, KeyError):
        return None
    found = []
    for record in update.records:
        key = f"{record.step}:change"
        if key not in evidence.jax64:
            return None
        own, ours = numbers[key], evidence.jax64[key]
        size = float(np.sum(np.square(own)))
        share = float(np.sum(own * ours)) / size if size else 1.0
        if not difference(share * own, ours) <= evidence.tolerance(key):
            return None
        found.append(share * float(record.config["lr"]))
    others = [k for k in numbers if not k.endswith(":change") and k in evidence.jax64]
    same = (difference(numbers[k], evidence.jax64[k]) <= evidence.tolerance(k) for k in others)
    return found if all(same) else None


def _sized(explained: Explained, cases: Iterable[_Case]) -> Explained:
    """The same with the size of its rounding, where it is one."""
    share = explained.rounding
    if not share:
        return explained
    for evidence in (case.evidence for case in cases):
        slots: dict[str, list[tuple[float, float]]] = {}
        for key, torch in evidence.torch64.items():
            numbers = difference(torch, evidence.jax64[key]), rms(torch)
            slots.setdefault(key.partition(":")[2], []).append(numbers)
        for pairs in slots.values():
            apart, size = (max(each) for each in zip(*pairs, strict=True))
            share = max(share, apart / size if size else 0.0)
    return dataclasses.replace(explained, rounding=share)


def _with_rates(trace: Trace, case: _Case) -> Explained | None:
    """What other learning rates explain, or a usual fault together with them."""
    if (found := _by_factor(case)) is not None:
        return found
    for trap in traps_of(case.update.kind):
        if any(name.startswith("lr") for name in (*trap.constants, *trap.options, trap.name)):
            continue
        for hypothesis in trap.usual(case.update):
            try:
                one = _by_rates(trace, case, hypothesis)
            except (ValueError, TypeError, KeyError):
                continue
            if one is not None and len(one.traps) == 1:
                return one
            found = found or one
    return found or _by_rates(trace, case, any_rates=True)


def _by_factor(case: _Case) -> Explained | None:
    """What one factor of all learning rates explains, to the digits of float32."""
    read = _read_rates(case.update, case.evidence)
    torch = np.array([float(record.config["lr"]) for record in case.update.records])
    if read is None or not torch.all():
        return None
    ratios = np.array(read) / torch
    factor = float(np.median(ratios))
    if np.max(np.abs(ratios - factor)) > FLOAT32 * abs(factor):
        return None
    row = next(trap for trap in traps_of(case.update.kind) if trap.name == "lr-factor")
    one = Hypothesis(row, {"lr_factor": float(f"{factor:.6g}")})
    config = case.update.config
    proof = f"the learning rates that your updates have are {', '.join(f'{lr:.6g}' for lr in read)}"
    words, fix = one.words(config), one.fix(config)
    return Explained((case.update.parameter,), case.steps, words, fix, proof, traps=(row.name,))


def _group_of(trace: Trace, parameter: str) -> tuple[int, int]:
    return next(
        (i, j)
        for i, optimizer in enumerate(trace.optimizers)
        for j, group in enumerate(optimizer["groups"])
        if parameter in group["params"]
    )


def _frozen(trace: Trace, known: Mapping[str, Update], jax64: Steps) -> list[Explained]:
    """Parameters that torch does not train and the JAX program does."""
    moved: dict[str, list[int]] = {}
    for step in trace.steps:
        for name in step.of("before"):
            ours = jax64.get(step.index, {}).get(f"update:{name}")
            if name in known or ours is None or f"param_grad:{name}" in step:
                continue
            before = step.double(f"before:{name}")
            same = np.array_equal(before, step.double(f"update:{name}"))
            if same and not np.array_equal(before, ours):
                moved.setdefault(name, []).append(step.index)
    if not moved:
        return []
    return [
        Explained(
            tuple(moved),
            tuple(sorted({s for steps in moved.values() for s in steps})),
            "These parameters are trained; in torch they have no gradient (requires_grad=False, "
            "or not used) and stay as they are.",
            'optim.groups([("NAME", optim.frozen())], optimizer)',
            "torch's updates are 0",
            traps=("frozen-trained",),
        )
    ]
