"""The causes of differences outside of layers, and which of them are no fault."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from jaxnet.parity._attribute import Cause
from jaxnet.parity._evidence import Evidence
from jaxnet.parity._judgement import SAME_SCALE, rms
from jaxnet.parity._result import SiteResult
from jaxnet.parity._trace import Trace
from jaxnet.parity._updates import chosen

# A learning rate that is read from an update has ten digits, one in float32 seven.
READ = 1e-7
# Some roundings of float32, of the largest learning rate: schedules subtract.
FLOAT32 = 8 * 2.0**-24

# Causes that give the same updates where these are linear in the gradient.
OF_RATES = {"lr-value", "lr-factor"}
OF_GRADIENTS = {"accumulation", "update-gradient-factor"}
_APART = (
    "the gradients, which a check of a model, its loss and its optimizer compares; or an optimizer "
    "that is not linear in the gradient, such as Adam, or one with weight decay"
)

ROUNDED = (
    "Constants of the optimizer, such as its learning rates, are torch's to the digits of float32."
)
# A constant that is rounded to float32.
CONSTANT = 2.0**-24
ROUNDED_GRADIENT = (
    "Torch multiplies a gradient by a constant of float32 in float64 too, as that of hardsigmoid "
    "by 1/6; the program's is that constant to the digits of float32."
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
        apart: The evidence that would tell them from it.
        symptoms: What the numbers show by themselves, in sentences.
        tried: How many causes were tried.
        traps: The names of the rows of the catalogue.
        rounding: The largest difference, as a share of torch's numbers where they are largest, if
            it is no fault: constants of float32 in the program's float64 run. 0 for a fault.
    """

    places: tuple[str, ...]
    steps: tuple[int, ...]
    words: str = ""
    fix: str = ""
    proof: str = ""
    alternatives: tuple[str, ...] = ()
    apart: str = ""
    symptoms: tuple[str, ...] = ()
    tried: int = 0
    traps: tuple[str, ...] = ()
    rounding: float = 0.0


class Read(Evidence):
    """Numbers that were read from others, which have fewer digits."""

    def tolerance(self, name: str) -> float:
        return READ * rms(self.torch64[name])


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
    """What a proven cause explains.

    Args:
        cause: The cause.
        places: As in `Explained`.
        steps: The steps, in any order.
    """
    if _only_rounded(cause):
        return Explained(tuple(places), tuple(sorted(set(steps))), ROUNDED, rounding=FLOAT32)
    names = {h.trap.name for each in cause.proven for h in each}
    return Explained(
        tuple(places),
        tuple(sorted(set(steps))),
        cause.words[0],
        cause.fixes[0],
        cause.proof,
        tuple(cause.words[1:]),
        _APART if names & OF_RATES and names & OF_GRADIENTS else "",
        cause.symptoms,
        cause.tried,
        tuple(h.trap.name for h in cause.proven[0]),
    )


def constant(
    trace: Trace, jax64: Mapping[int, Mapping[str, np.ndarray]], results: Sequence[SiteResult]
) -> Explained | None:
    """What a constant of float32 in torch's own gradient explains, which is no fault.

    Args:
        trace: The trace.
        jax64: The program's arrays of each step in float64, by site.
        results: The gradients that differ.
    """
    share = 0.0
    for result in results:
        ours = jax64.get(result.step, {}).get(result.site)
        step = next(each for each in trace.steps if each.index == result.step)
        if ours is None or result.site not in step:
            return None
        torch = chosen(step.double(result.site))
        if torch.shape != ours.shape:
            return None
        size = float(np.sum(np.square(torch)))
        factor = float(np.sum(torch * ours)) / size if size else 0.0
        left = rms(ours - factor * torch)
        if not 0 < abs(factor - 1) <= CONSTANT or left > SAME_SCALE * rms(torch):
            return None
        share = max(share, abs(factor - 1))
    sites = tuple(dict.fromkeys(result.site for result in results))
    steps = tuple(dict.fromkeys(result.step for result in results))
    return Explained(sites, steps, ROUNDED_GRADIENT, rounding=share)


def merged(found: Iterable[Explained]) -> list[Explained]:
    """Those with the same words as one, with the places of all."""
    known: dict[str, Explained] = {}
    for each in found:
        old = known.get(each.words)
        if old is not None:
            each = dataclasses.replace(
                old,
                places=tuple(dict.fromkeys((*old.places, *each.places))),
                steps=tuple(sorted({*old.steps, *each.steps})),
                symptoms=tuple(dict.fromkeys((*old.symptoms, *each.symptoms))),
                tried=old.tried + each.tried,
                rounding=max(old.rounding, each.rounding),
            )
        known[each.words] = each
    return list(known.values())
