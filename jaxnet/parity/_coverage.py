"""What a check has compared, and what not and why."""

from collections.abc import Collection, Sequence

from jaxnet.parity._result import Coverage, SiteResult
from jaxnet.parity._trace import Step, Trace


class Compared:
    """The modules, parameters and steps that a check has compared so far.

    Args:
        trace: The trace.
        layered: Whether layers can be compared at all, and not only whole steps.
        foreign: Whether the program is one of plain flax, whose model need not be cut as torch's.
        unseen: Why no layers of the model can be seen, "" if they can.
    """

    def __init__(
        self, trace: Trace, layered: bool, foreign: bool = False, unseen: str = ""
    ) -> None:
        self.trace, self.layered, self.foreign = trace, layered, foreign
        self.unseen = unseen
        self._seen: dict[str, None] = {}
        self._missing: dict[str, str] = {}
        self._without: dict[int, str] = {}
        self._graded: set[str] = set()

    def step(self, step: Step) -> None:
        """A step is checked."""
        self._graded |= step.of("param_grad").keys()
        if not self.layered:
            self._without[step.index] = "only the whole step was compared"
        elif not step.full:
            self._without[step.index] = (
                "activations were not recorded: only the whole step was compared"
            )

    def calls(self, step: Step, seen: set[str], within: Collection[str] = ()) -> None:
        """The layers of a step are compared.

        Args:
            step: The step.
            seen: The recorded calls that the program makes.
            within: The modules whose calls could not be met one by one.
        """
        outer = {call.parent for call in step.calls} if self.foreign else set()
        for i, call in enumerate(step.calls):
            if i in outer:
                continue  # what is in it is compared, and what it makes of that
            known = self.trace.modules.get(call.module)
            if call.name in seen:
                self._seen[call.module] = None
            elif call.module in within:
                self._missing[call.module] = (
                    "it is called inside of a function that JAX transforms (cond, vmap, scan): it "
                    "was compared as a part of what is around it"
                )
            elif call.parent is None and not _has_parameters(self.trace, call.module):
                continue  # a criterion, which the loss of the program is compared with
            elif not self.unseen:  # else the report says so once
                kind = known.cls if known else ""
                self._missing[call.module] = f"the program does not call it ({kind} {call.where})"

    def no_layers(self, step: Step, why: str) -> None:
        """The layers of a step, which was recorded in full, could not be compared."""
        self._without[step.index] = f"its layers could not be compared: {why}"
        for call in step.calls:
            self._missing.setdefault(call.module, "its layers could not be compared")

    def coverage(
        self, steps: Sequence[Step], results: Sequence[SiteResult], broken: bool
    ) -> dict[str, Coverage]:
        """The coverage of a report.

        Args:
            steps: The steps that were to be checked.
            results: The results.
            broken: Whether the program does not run.
        """
        missing = {name: why for name, why in self._missing.items() if name not in self._seen}
        own = {result.place: None for result in results if result.site.startswith("param_grad:")}

        def reason(name: str) -> str:
            if broken:
                return "the program does not run"
            if name in self._graded:
                return "its gradient was not compared"
            return "torch has no gradient of it"

        unseen = {name: reason(name) for name in self.trace.parameters if name not in own}
        full = [str(step.index) for step in steps if step.index not in self._without]
        without = {str(number): why for number, why in self._without.items()}
        return {
            "modules": Coverage(tuple(self._seen), missing),
            "parameters": Coverage(tuple(own), unseen),
            "steps": Coverage(tuple(full), without),
        }


def _has_parameters(trace: Trace, module: str) -> bool:
    return any(name.startswith(f"{module}." if module else "") for name in trace.parameters)
