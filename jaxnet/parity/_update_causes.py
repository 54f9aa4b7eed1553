"""The causes of updates that differ, grouped over the parameters that each concerns."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from jaxnet.parity._attribute import Cause, Evidence, attribute, difference
from jaxnet.parity._judge import rms
from jaxnet.parity._schedules import Rates, rates
from jaxnet.parity._trace import Trace
from jaxnet.parity._traps import Hypothesis, Trap, traps_of
from jaxnet.parity._updates import Update, chosen, updates

Steps = Mapping[int, Mapping[str, np.ndarray]]
"""The JAX program's arrays of each step, by site."""

# A learning rate that is read from an update has ten digits, one in float32 seven.
READ = 1e-7
# Some roundings of float32, of the largest learning rate: schedules subtract.
_FLOAT32 = 8 * 2.0**-24


_ROUNDED = (
    "Constants of the optimizer, such as its learning rates, are torch's to the digits of float32."
)


@dataclasses.dataclass(frozen=True)
class Explained:
    """A cause of differences outside of layers.

    Attributes:
        places: The parameters that it concerns, or the loss.
        steps: The steps that show it.
        words: What the program has and what torch has; "" where no row of the catalogue explains
            the difference.
        fix: What to write.
        proof: The numbers that prove it.
        alternatives: Other causes that cannot be told from it.
        symptoms: What the numbers show by themselves, in sentences.
        tried: How many causes were tried.
        traps: The names of the rows of the catalogue.
        rounding: Whether it is no fault: constants of float32 in the program's float64 run.
    """

    places: tuple[str, ...]
    steps: tuple[int, ...]
    words: str = ""
    fix: str = ""
    proof: str = ""
    alternatives: tuple[str, ...] = ()
    symptoms: tuple[str, ...] = ()
    tried: int = 0
    traps: tuple[str, ...] = ()
    rounding: bool = False


class Read(Evidence):
    """Numbers that were read from others, which have fewer digits."""

    def tolerance(self, name: str) -> float:
        return READ * rms(self.torch64[name])


class _UntrustedError(Exception):
    """The reference of a parameter does not give torch's updates."""


@dataclasses.dataclass(frozen=True)
class _Case:
    """One parameter whose updates differ."""

    update: Update
    evidence: Evidence
    steps: tuple[int, ...]


def explain_updates(
    trace: Trace, jax: Steps, jax64: Steps, carried: bool = False
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

    Returns:
        A cause for each group of parameters that one explains, and what is left unexplained.
    """
    known = updates(trace, carried)
    cases, untrusted = [], []
    for update in known.values():
        try:
            case = _case(trace, update, jax, jax64)
        except _UntrustedError:
            untrusted.append(update.parameter)
            continue
        if case is not None:
            cases.append(case)
    found, left = _grouped(cases)
    explained = [
        explained_by(
            cause, [c.update.parameter for c in group], [s for c in group for s in c.steps]
        )
        for cause, group in found
    ]
    by_rate, left = _by_schedule(trace, left)
    explained += by_rate
    if untrusted:
        sign = "the reference does not give torch's own updates: they were not compared"
        explained.append(Explained(tuple(untrusted), (), symptoms=(sign,)))
    explained += [
        Explained((c.update.parameter,), c.steps, symptoms=cause.symptoms, tried=cause.tried)
        for c, cause in left
    ]
    return explained + _frozen(trace, known, jax64)


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
    if update.carried:
        # Torch's float64 numbers of a step begin with its float32 state. What they would be with
        # a state of float64 from the first update on, the reference says, if it gives torch's.
        plain = dataclasses.replace(update, carried=False).observe()
        trial = Evidence(torch, torch64, torch, torch64)
        if any(difference(plain[k], torch64[k]) > trial.tolerance(k) for k in torch64):
            raise _UntrustedError
        torch64 = {k: v for k, v in update.observe().items() if k in torch64}
        torch = {k: torch[k] - plain[k] + v for k, v in torch64.items()}
    evidence = Evidence(torch, torch64, ours, ours64)
    failing = {
        int(key.split(":")[0])
        for key in torch64
        if difference(torch64[key], ours64[key]) > evidence.tolerance(key)
    }
    return _Case(update, evidence, tuple(sorted(failing))) if failing else None


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
    cases: Sequence[_Case],
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
            both = tuple(each for each in cause.proven if _key(each) in shared)
            if both:
                found[i] = dataclasses.replace(cause, proven=both), [*group, case]
                break
        else:
            cause = attribute(case.update, case.evidence)
            if cause.proven:
                found.append((cause, [case]))
            else:
                left.append((case, cause))
    return found, left


def _only_rounded(cause: Cause) -> bool:
    """Whether the cause is torch's constants, rounded to float32 before the float64 run."""
    config = dict(cause.config)
    betas = config.get("betas", (0.0, 0.0))
    config |= {"beta1": betas[0], "beta2": betas[1], "lr_factor": 1.0, "gradient_factor": 1.0}
    values = [item for h in cause.proven[0] for item in h.values.items()]
    return bool(values) and all(
        isinstance(value, float)
        and isinstance(config.get(name), int | float)
        and 0 < abs(value - config[name]) <= READ * abs(config[name])
        for name, value in values
    )


def explained_by(cause: Cause, places: Sequence[str], steps: Iterable[int]) -> Explained:
    if _only_rounded(cause):
        return Explained(tuple(places), tuple(sorted(set(steps))), _ROUNDED, rounding=True)
    return Explained(
        tuple(places),
        tuple(sorted(set(steps))),
        cause.words[0],
        cause.fixes[0],
        cause.proof,
        tuple(cause.words[1:]),
        cause.symptoms,
        cause.tried,
        tuple(h.trap.name for h in cause.proven[0]),
    )


def _by_schedule(
    trace: Trace, left: list[tuple[_Case, Cause]]
) -> tuple[list[Explained], list[tuple[_Case, Cause]]]:
    """The cases that other learning rates explain, one in each step."""
    explained: dict[tuple[str, ...], Explained] = {}
    rest = []
    rows = [trap for trap in traps_of("SGD") if trap.name == "lr-value"]
    for case, cause in left:
        read = _read_rates(case, rows)
        if read is None:
            rest.append((case, cause))
            continue
        reference = rates(trace, *_group_of(trace, case.update.parameter))
        torch, ours = (np.array(list(each.values())) for each in (read[0], read[1]))
        apart = np.abs(ours - torch) > _FLOAT32 * np.max(np.abs(torch))
        if not np.any(apart):
            new = Explained((case.update.parameter,), case.steps, _ROUNDED, rounding=True)
            old = explained.get((_ROUNDED,))
            places = (*(old.places if old else ()), case.update.parameter)
            explained[(_ROUNDED,)] = dataclasses.replace(new, places=places)
            continue
        steps = tuple(k for k, is_apart in zip(read[0], apart, strict=True) if is_apart)
        n = reference.observed
        names = {"lr": (torch[:n], ours[:n])}
        evidence = Read(
            *({k: v[0] for k, v in names.items()},) * 2, *({k: v[1] for k, v in names.items()},) * 2
        )
        series = attribute(reference, evidence)
        proven = [hs for hs in series.proven if _proves(case, reference, hs)] or list(series.proven)
        proof = (
            "the learning rates that your updates have are "
            + ", ".join(f"{lr:.6g}" for lr in ours)
            + "; torch's are "
            + ", ".join(f"{lr:.6g}" for lr in torch)
        )
        if proven:
            series = dataclasses.replace(series, proven=tuple(proven))
            new = dataclasses.replace(
                explained_by(series, [case.update.parameter], steps), proof=proof
            )
        else:
            words = "The learning rates are others than torch's, by no rule that is known."
            fix = "the schedule of the torch program"
            new = Explained((case.update.parameter,), steps, words, fix, proof)
        old = explained.get((new.words,))
        if old is not None:
            new = dataclasses.replace(
                old,
                places=(*old.places, *new.places),
                steps=tuple(sorted({*old.steps, *new.steps})),
            )
        explained[(new.words,)] = new
    return list(explained.values()), rest


def _read_rates(
    case: _Case, rows: Sequence[Trap]
) -> tuple[dict[int, float], dict[int, float]] | None:
    """Torch's learning rate in each step and the JAX program's, None where none explains a step."""
    torch, ours = {}, {}
    update = case.update.begun_again()
    for record in update.records:
        one = dataclasses.replace(update, records=(record,))
        keys = [key for key in case.evidence.torch64 if key.startswith(f"{record.step}:")]
        parts = (
            {key: part[key] for key in keys if key in part}
            for part in dataclasses.astuple(case.evidence)
        )
        torch[record.step] = ours[record.step] = float(record.config["lr"])
        if record.step in case.steps:
            cause = attribute(one, Evidence(*parts), rows)
            if not cause.proven:
                return None
            ours[record.step] = float(cause.proven[0][0].values["lr"])
    return torch, ours


def _proves(case: _Case, reference: Rates, hypotheses: Sequence[Hypothesis]) -> bool:
    """Whether the rates that a hypothesis gives make the updates themselves."""
    changed: Any = reference
    for hypothesis in hypotheses:
        changed = hypothesis.applied(changed)
    try:
        series = changed.observe()["lr"]
    except (ValueError, TypeError):
        return False
    lrs = dict(enumerate(series))
    steps = [r for r in case.update.records if r.step in lrs]
    numbers = dataclasses.replace(case.update, records=tuple(steps)).altered(lrs=lrs).observe()
    return all(
        difference(numbers[k], case.evidence.jax64[k]) <= case.evidence.tolerance(k)
        for k in numbers
        if k in case.evidence.jax64
    )


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
