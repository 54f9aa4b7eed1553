"""The verdicts on the arrays of all steps of a check."""

from collections.abc import Mapping

import numpy as np

from jaxnet.parity._evidence import FourRuns, StepEvidence
from jaxnet.parity._judge import judge
from jaxnet.parity._judgement import Judgement, gradient_scale, null, rms, unlike
from jaxnet.parity._result import Level, SiteResult
from jaxnet.parity._sites import call_of, module_name, phase_of
from jaxnet.parity._trace import Step, Trace


class SiteResults:
    """The results so far.

    Args:
        trace: The trace.

    Attributes:
        all: The results, in the order in which the arrays were judged.
        narrow: The sites whose arrays are float32 in the float64 program.
    """

    def __init__(self, trace: Trace) -> None:
        self.trace = trace
        self.all: list[SiteResult] = []
        self.narrow: set[str] = set()
        self._nulls: dict[str, tuple[int, np.ndarray]] = {}

    def failed(self, step: Step) -> list[SiteResult]:
        """The results of a step that differ."""
        return [r for r in self.all if r.step == step.index and r.judgement.failed]

    def start(self, step: Step, site: str, own: np.ndarray) -> SiteResult:
        """Judges an initial parameter or buffer.

        Args:
            step: The first step.
            site: The site, such as "before:fc.weight".
            own: The array of the checked program.
        """
        place = site.partition(":")[2]
        result = SiteResult(step.index, site, "preflight", _initial(step[site], own), place)
        self.all.append(result)
        return result

    def judge(
        self,
        step: Step,
        found: Mapping[str, FourRuns],
        level: Level,
        evidence: StepEvidence | None = None,
    ) -> None:
        """Judges the arrays of a step.

        Args:
            step: The step.
            found: The arrays of the four runs by site.
            level: How they were isolated.
            evidence: Where their calls are, in the checked program.
        """
        for site, four in found.items():
            assert four.torch is not None
            assert four.jax is not None
            torch, torch64, jax, jax64 = four.torch, four.torch64, four.jax, four.jax64
            if site in step and not step.has_double(site):
                torch64 = None
            phase, _, place = site.partition(":")
            ignore = None
            if phase in ("update", "state"):
                name = place if phase == "update" else place.rpartition(".")[0]
                ignore = self._null(step, name, torch.shape)
            if phase == "update" and jax64 is not None and jax.shape == torch.shape:
                # What is compared is the change: the parameter itself would hide it.
                start = step[f"before:{place}"]
                wide = start.astype(np.float64)
                torch, jax = torch - start, jax - start
                torch64 = None if torch64 is None else torch64 - wide
                jax64 = jax64 - wide
            judgement = judge(
                torch,
                torch64,
                jax,
                None if self._is_weak(site, level) else jax64,
                site=site,
                scale=gradient_scale(step, place) if phase in ("param_grad", "clipped") else None,
                ignore=ignore,
                isolated=level != "chain" and level != "step",
                spread=four.spread,
            )
            self._add(step, site, level, judgement, evidence)

    def _is_weak(self, site: str, level: Level) -> bool:
        """Whether the float64 of an array comes from float32 numbers of the program."""
        if not self.narrow or site in self.narrow:
            return site in self.narrow
        phase = phase_of(site)
        rounded = {call_of(one) for one in self.narrow if phase_of(one) == "input"}
        if phase == "forward" and call_of(site) in rounded:
            return True  # it is computed from an argument that float32 has rounded
        own = ("input", "forward", "update", "state", "lr")
        return level != "layer" or phase not in own

    def _null(self, step: Step, name: str, shape: tuple[int, ...]) -> np.ndarray | None:
        """The elements of a parameter that had a gradient of nothing but rounding, until now."""
        site = f"param_grad:{name}"
        if site not in step or step[site].shape != shape:
            return None
        last, found = self._nulls.get(name, (-1, np.zeros(shape, bool)))
        if last != step.index:
            found = found | null(step[site], step.double(site), gradient_scale(step, name))
            self._nulls[name] = step.index, found
        return found

    def fail(
        self,
        step: Step,
        site: str,
        message: str,
        level: Level,
        evidence: StepEvidence | None = None,
    ) -> None:
        """Adds an array that was not computed; the message says why."""
        self._add(step, site, level, unlike(message), evidence)

    def _add(
        self,
        step: Step,
        site: str,
        level: Level,
        judgement: Judgement,
        evidence: StepEvidence | None,
    ) -> None:
        place = site.partition(":")[2]
        call = place
        while evidence is not None and call not in evidence.where and "." in call:
            call = call.rpartition(".")[0]
        there = next((c for c in step.calls if c.name == call), None) if evidence else None
        torch_where = ""
        if there is not None and there.module in self.trace.modules:
            torch_where = f"{self.trace.modules[there.module].cls} {there.where}"
        jax_where = evidence.where.get(call, "") if evidence else ""
        self.all.append(
            SiteResult(
                step.index, site, level, judgement, module_name(place), torch_where, jax_where
            )
        )


def _initial(torch: np.ndarray, jax: np.ndarray) -> Judgement:
    """Whether two initial arrays are the same but for the last digits."""
    if torch.shape != jax.shape or not np.issubdtype(torch.dtype, np.floating):
        return judge(torch, None, jax.astype(torch.dtype), None, site="before:")
    finite = np.isfinite(torch) & np.isfinite(jax)
    if not np.array_equal(torch[~finite], jax[~finite], equal_nan=True):
        return unlike("its infinite numbers or nan are not torch's")
    apart = np.abs(torch[finite].astype(np.float64) - jax[finite].astype(np.float64))
    scale = float(np.max(np.abs(torch[finite]), initial=0.0))
    same = float(apart.max(initial=0.0)) <= 4 * np.finfo(np.float32).eps * scale
    size = rms(apart)
    return Judgement("same" if same else "different", 0.0, 0.0, size, size, scale)
