"""What a check says: results of single sites, findings with their causes, and the report."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from jaxnet.parity._judgement import Judgement

Level = Literal["preflight", "layer", "step", "run", "chain"]
Verdict = Literal["same", "different", "not comparable"]

_EXIT: Mapping[Verdict, int] = {"same": 0, "different": 1, "not comparable": 2}


@dataclasses.dataclass(frozen=True)
class SiteResult:
    """The judgement on one array of one step.

    Attributes:
        step: The step, from 0.
        site: The name of the array in the trace, "forward:fc1#0".
        level: How it was computed: "preflight", before any arithmetic; "layer", from torch's
            inputs of the layer; "step", from torch's state before the step; "run", in a free run;
            "chain", from what the program itself computed before within the step.
        judgement: The verdict with its numbers.
        place: The module, parameter or state that the array belongs to, "fc1".
        torch_where: The class and the line in the recorded program, "Linear model.py:12".
        jax_where: The same in the checked program.
    """

    step: int
    site: str
    level: Level
    judgement: Judgement
    place: str = ""
    torch_where: str = ""
    jax_where: str = ""


@dataclasses.dataclass
class Finding:
    """One independent difference, with its cause where it is known.

    Attributes:
        site: The first array that shows it, "forward:blocks.0.norm#0".
        step: The step, from 0.
        level: The level of that result.
        kind: "different" or "undecided", as in `Judgement`; "preflight" for what differs before
            any arithmetic.
        message: What differs, in one line.
        cause: What the checked program does and what torch does; None where no trap explains it.
        proof: The numbers that prove the cause.
        fix: What to write instead.
        alternatives: Other causes that this evidence cannot tell from the one named.
        apart: The evidence that would tell them apart, "" where none is known.
        results: All results that the cause explains, the first of them at `site`.
        consequences: Results that differ because of it, of what is computed from these.
        torch_where: The class and the line in the recorded program, "LayerNorm model.py:88".
        jax_where: The same in the checked program.
        tried: How many causes were tried.
        origin: What makes the difference: "module:fc1", "between:input:fc1#0.0", "loss", ...
        jax64: The checked program's float64 value of the array at `site`, for repro.py; None
            where it was not kept. The other numbers are in the trace.
    """

    site: str
    step: int
    level: Level
    kind: str
    message: str
    cause: str | None = None
    proof: str = ""
    fix: str = ""
    alternatives: list[str] = dataclasses.field(default_factory=list)
    apart: str = ""
    results: list[SiteResult] = dataclasses.field(default_factory=list)
    consequences: list[SiteResult] = dataclasses.field(default_factory=list)
    torch_where: str = ""
    jax_where: str = ""
    tried: int = 0
    origin: str = ""
    jax64: np.ndarray | None = dataclasses.field(
        default=None, repr=False, compare=False, metadata={"unsaved": True}
    )


@dataclasses.dataclass(frozen=True)
class Setting:
    """A setting in which the programs differ, read before anything ran.

    Attributes:
        kind: What it is of: "layer", "optimizer", "learning rate", "loss", "parameters".
        place: The name of the layer, or the kind again.
        message: The setting with both values.
        fix: What to write instead.
        torch_where: The class and the line in the recorded program.
        effect: What it does in the recorded steps: "see 1" with the number of the difference that
            it makes; else in words that it makes none, or that this is not known.
    """

    kind: str
    place: str
    message: str
    fix: str
    torch_where: str = ""
    effect: str = ""


@dataclasses.dataclass(frozen=True)
class Alternative:
    """A mistake that the checked program could have made, and whether this check would see it.

    Attributes:
        place: The layer, the loss, the optimizer or the schedule, "blocks.0.norm".
        words: The mistake, "epsilon is 1e-6, torch's is 1e-5".
        excluded: Whether the evidence excludes it.
        separation: How far the mistake would have moved the float64 result, in floors of rounding.
        reason: Why the evidence does not exclude it, and what input would.
    """

    place: str
    words: str
    excluded: bool
    separation: float = 0.0
    reason: str = ""


@dataclasses.dataclass(frozen=True)
class Planting:
    """A known mistake that was really made in the checked program, and what a check said.

    Attributes:
        place: The layer, the loss or the optimizer.
        words: The mistake.
        found: Whether the verdict was "different".
        placed: Whether a difference was found at this place.
        named: Whether its cause was this mistake, or this among what cannot be told apart.
    """

    place: str
    words: str
    found: bool
    placed: bool
    named: bool


@dataclasses.dataclass(frozen=True)
class Coverage:
    """What was compared and what was not, of one kind of thing.

    Attributes:
        seen: The names that were compared.
        missing: The names that were not, each with the reason.
    """

    seen: tuple[str, ...]
    missing: Mapping[str, str]


@dataclasses.dataclass(frozen=True)
class Horizon:
    """The free runs of both programs, from the same start over the same batches and draws.

    All lists have one number a step, the distance of all parameters after it.

    Attributes:
        torch: From torch's run in float32 to the checked program's in float64.
        jax: From the checked program's run in float32 to its own in float64.
        plain: From torch's run in float32 to the checked program's in float32.
        moved: From the start to torch's parameters.
        equal_to: The number of steps in which the runs are equal within rounding.
        horizon: The first step after which the checked program's own run in float32 is more than
            a hundredth of torch's way from its run in float64, so that two float32 runs say
            nothing about each other, or in which torch's parameters stop being finite; None if no
            recorded step is.
        corner: The first step in which rounding alone sends torch's own step another way, as over
            a corner of ReLU, and the checked program's not: torch's run is another one from there
            on, and no evidence against the program. None if no step is.
    """

    torch: tuple[float, ...]
    jax: tuple[float, ...]
    plain: tuple[float, ...]
    moved: tuple[float, ...]
    equal_to: int
    horizon: int | None = None
    corner: int | None = None


@dataclasses.dataclass
class Report:
    """Whether two training runs are the same, and if not, where and why.

    Attributes:
        verdict: "same", "different", or "not comparable" where evidence is missing.
        findings: The independent differences, the first in the order of the computation first.
        results: The judgements on all arrays.
        settings: The settings in which the programs differ. One that makes no difference in the
            recorded steps changes the verdict on them in nothing, and is a warning.
        notes: Sentences on what the reader should know.
        exclusions: What was not compared and why, in sentences.
        coverage: By kind ("modules", "parameters", "steps", ...) what was compared.
        power: The mistakes that this check would see, and those that it would not.
        planted: The mistakes that were made in the program to see whether a check finds them.
        horizon: The free runs; None where they were not made.
        environment: Versions, devices and settings: {"torch": {...}, "jax": {...}}.
        subject: What was compared: checksums of the sources, of the weights, of the data and of
            the trace.
        generic: The report of the second pass, with weights in general position, where there was
            one. Its findings and its verdict are in this report too.
    """

    verdict: Verdict
    findings: list[Finding] = dataclasses.field(default_factory=list)
    results: list[SiteResult] = dataclasses.field(default_factory=list)
    settings: list[Setting] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)
    exclusions: list[str] = dataclasses.field(default_factory=list)
    coverage: dict[str, Coverage] = dataclasses.field(default_factory=dict)
    power: list[Alternative] = dataclasses.field(default_factory=list)
    planted: list[Planting] = dataclasses.field(default_factory=list)
    horizon: Horizon | None = None
    environment: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    subject: dict[str, Any] = dataclasses.field(default_factory=dict)
    generic: "Report | None" = None

    def add_generic(self, second: "Report") -> None:
        """Adds the report of a second pass, of the same programs with generic weights.

        Args:
            second: That report.
        """
        self.generic = second
        known = {(finding.origin, finding.cause) for finding in self.findings}
        self.findings += [
            dataclasses.replace(f, message=f"with generic weights, {f.message}", jax64=None)
            for f in second.findings
            if f.cause is None or (f.origin, f.cause) not in known
        ]
        if self.verdict != "different" and second.verdict != "same":
            self.verdict = second.verdict

    @property
    def exit_status(self) -> int:
        """The command line's: 0 for same, 1 for different, 2 for not comparable."""
        return _EXIT[self.verdict]

    def raise_for_difference(self) -> None:
        """Does nothing if the verdict is "same".

        Raises:
            AssertionError: The verdict is another; the message is the text of the report.
        """
        if self.verdict != "same":
            raise AssertionError(f"\n{self}")

    def save(self, folder: str | Path) -> Path:
        """Writes the certificate, and a small program that repeats the first difference.

        Of a report that says "same" it is first found out which known mistakes of ports the trace
        would have shown (`power`), which takes some seconds.

        Args:
            folder: The folder, which is made.

        Returns:
            The folder, with certificate.json, certificate.html and, where a layer differs,
            repro.py.
        """
        from jaxnet.parity._certificate import save

        return save(self, Path(folder))

    def details(self) -> str:
        """One line an array: its label, and the distances of the four runs."""
        from jaxnet.parity._text import details

        return details(self)

    def __str__(self) -> str:
        from jaxnet.parity._text import summary

        return summary(self)

    def __repr__(self) -> str:
        from jaxnet.parity._text import headline

        return f"<Report {headline(self)}>"

    def _repr_html_(self) -> str:
        from jaxnet.parity._text import html_summary

        return html_summary(self)
