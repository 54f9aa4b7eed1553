"""What is known of a program once it has been traced, beside its numbers."""

import dataclasses
from collections.abc import Iterator

from jaxnet.parity._perturbed import NOTE
from jaxnet.parity._sites import place_of
from jaxnet.parity._trace import Step


@dataclasses.dataclass
class Notes:
    """What is known of a program once it has been traced, beside its numbers.

    Attributes:
        where, consumers, errors: As in `StepEvidence`.
        draws: The numbers of the recorded draws in the order in which the program takes them.
        modes: The calls whose module is in another mode than torch's.
        unpaired: Calls that the program makes and torch does not.
        absent: The arguments by torch's names that torch gives a call and the program does not.
        seen: The recorded calls that the program makes.
        narrow: The sites whose arrays are float32 in the float64 program.
        within: The modules that are called inside of `jax.lax.cond`, `vmap` and the like, which
            trace a function by itself: their calls cannot be met one by one.
    """

    where: dict[str, str] = dataclasses.field(default_factory=dict)
    consumers: dict[str, list[str]] = dataclasses.field(default_factory=dict)
    errors: dict[str, str] = dataclasses.field(default_factory=dict)
    draws: list[int] = dataclasses.field(default_factory=list)
    modes: dict[str, str] = dataclasses.field(default_factory=dict)
    unpaired: list[str] = dataclasses.field(default_factory=list)
    absent: dict[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    seen: set[str] = dataclasses.field(default_factory=set)
    narrow: set[str] = dataclasses.field(default_factory=set)
    within: set[str] = dataclasses.field(default_factory=set)

    def sentences(self, step: Step) -> Iterator[str]:
        """What the reader of a report should know of it."""
        if self.narrow:
            places = sorted({place_of(site) or "the model" for site in self.narrow})
            yield (
                f"float32 evidence: {', '.join(places[:4])} compute float32 in a float64 program "
                "(a fixed dtype?), so that small differences cannot be told from rounding there, "
                f"in gradients and in whole steps{NOTE}"
            )
        within = {call.parent for call in step.calls}
        whole = {call.module for i, call in enumerate(step.calls) if i not in within}
        for name in self.unpaired:
            if name.rpartition(".")[0] in whole:
                continue  # torch computes it without a call, as the projection of an attention
            yield f"the program calls {name}, which torch's does not call"
        for name, words in self.modes.items():
            yield f"{name}: {words}"
