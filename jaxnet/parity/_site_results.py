"""The verdicts on the arrays of all steps of a check."""

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from jaxnet._names import few
from jaxnet.parity._buffers import null_means
from jaxnet.parity._evidence import FourRuns, StepEvidence
from jaxnet.parity._judge import judge
from jaxnet.parity._judgement import GRADIENTS, ORDER, Judgement, gradient_scale, rms, unlike
from jaxnet.parity._null_updates import NullUpdates
from jaxnet.parity._result import Level, SiteResult
from jaxnet.parity._rules import KINDS
from jaxnet.parity._sites import call_of, module_name, phase_of
from jaxnet.parity._trace import Step, Trace

# What torch's optimizers compute by numbers that are float32 although the parameters are float64:
# tensors of the default dtype, whose numbers go through Python (`mu_product`, `eta`) or that a
# number of Python is written into (the factors of Rprop). None of it has a float64 run.
_NARROW = {
    "ASGD": ("update", "ax", "eta", "mu"),
    "NAdam": ("update", "mu_product"),
    "Rprop": ("update", "step_size"),
}


class SiteResults:
    """The results so far.

    Args:
        trace: The trace.
        restored: The parameters whose optimizer begins each step with torch's state.

    Attributes:
        all: The results, in the order in which the arrays were judged.
        narrow: The sites whose arrays are float32 in the float64 program.
        unjudged: The steps in which nothing of an update was judged, by parameter.
        notes: Why updates were judged without torch's float64 run.
    """

    def __init__(self, trace: Trace, restored: Collection[str] = ()) -> None:
        self.trace, self.restored = trace, restored
        self.unjudged: dict[str, dict[int, None]] = {}
        self.all: list[SiteResult] = []
        self.narrow: set[str] = set()
        self.notes: dict[str, None] = {}
        self._nulls = NullUpdates(trace, restored)
        self._optimizers = {
            name: optimizer["class"]
            for optimizer in trace.optimizers
            for group in optimizer["groups"]
            for name in group["params"]
        }

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
        # The calls with an argument that float32 has rounded.
        rounded = {call_of(one) for one in self.narrow if phase_of(one) == "input"}
        for site, four in found.items():
            assert four.torch is not None
            assert four.jax is not None
            torch, torch64, jax, jax64 = four.torch, four.torch64, four.jax, four.jax64
            if site in step and not step.has_double(site):
                torch64 = None
            phase, _, place = site.partition(":")
            ignore, name, before = None, "", site
            if phase in ("update", "state"):
                name = place if phase == "update" else place.rpartition(".")[0]
                ignore = self._nulls.of(step, name, torch.shape)
                before = f"{'before' if phase == 'update' else 'state_before'}:{place}"
                slot = phase if phase == "update" else place.rpartition(".")[2]
                if why := self._narrow(name, slot):
                    torch64 = None
                    self.notes[f"float32 evidence: {why}"] = None
            if self._is_weak(site, level, rounded):
                jax64 = None
            if phase == "param_grad" and level != "step":
                self._nulls.note(step, place, four)
            # With torch's gradient, rounding or not, and the same state both do the same.
            fresh = step.index == 0 and not step.of("state_before")
            alike = level == "layer" and (name in self.restored or fresh)
            after = dataclasses.replace(four, torch64=torch64, jax64=jax64)
            if ignore is not None and not alike:
                ignore = self._nulls.explained(step, site, name, after, ignore)
            if phase == "update" and four.jax64 is not None and jax.shape == torch.shape:
                # What is compared is the change: the parameter itself would hide it.
                start = step[before]
                wide = start.astype(np.float64)
                torch, jax = torch - start, (jax - start).astype(jax.dtype)
                torch64 = None if torch64 is None else torch64 - wide
                jax64 = None if jax64 is None else jax64 - wide
            arrays = torch, torch64, jax, jax64
            how: dict[str, Any] = {
                "site": site,
                "scale": gradient_scale(step, place) if phase in GRADIENTS[1:] else None,
                "isolated": level != "chain" and level != "step",
                "spread": four.spread,
            }
            judgement = judge(*arrays, **how, ignore=ignore)
            if judgement.failed and phase == "buffer" and not judgement.note:
                judgement = self._by_rounding(step, place, arrays, how) or judgement
            if judgement.failed and ignore is not None and not alike:
                zeros = self._nulls.zeros(step, name)
                zeros = self._nulls.explained(step, site, name, after, zeros & ~ignore)
                if zeros.any():
                    ignore = ignore | zeros
                    judgement = judge(*arrays, **how, ignore=ignore)
            if ignore is not None and ignore.any():
                if alike:
                    size = step[before] if before in step.sites else None
                    same = judge(torch, None, jax, None, site=site, scale=size, ignore=~ignore)
                    pair = (same,) if ignore.all() else (judgement, same)
                    judgement = max(pair, key=lambda each: ORDER.index(each.label))
                elif ignore.all() and not judgement.failed:  # but for its shape and dtype
                    if level == "layer" and phase == "update":
                        self.unjudged.setdefault(name, {})[step.index] = None
                    continue
            self._add(step, site, level, judgement, evidence)

    def _narrow(self, name: str, slot: str) -> str:
        """Why a parameter's update, or a slot, has no float64 run of torch's; "" where it has."""
        cls = self._optimizers.get(name, "")
        if slot in _NARROW.get(cls, ()):
            return f"torch's {cls} computes its updates by numbers that are float32 in any program"
        if slot == "update" and cls and name not in self.restored and cls not in (*KINDS, "LBFGS"):
            return f"of {cls} it is not known what torch gives with a state of float64"
        return ""

    def _is_weak(self, site: str, level: Level, rounded: Collection[str]) -> bool:
        """Whether the float64 of an array comes from float32 numbers of the program."""
        if not self.narrow or site in self.narrow:
            return site in self.narrow
        phase = phase_of(site)
        if phase == "forward" and call_of(site) in rounded:
            return True  # it is computed from an argument that float32 has rounded
        own = ("input", "forward", "update", "state", "lr")
        return level != "layer" or phase not in own

    def _by_rounding(
        self, step: Step, place: str, arrays: Sequence[Any], how: Mapping[str, Any]
    ) -> Judgement | None:
        """The verdict on a running mean to which a step adds nothing but rounding, in channels."""
        found = null_means(self.trace, step, place)
        if found is None or not found[0].any():
            return None
        nulls, size = found
        parts = [judge(*arrays, **{**how, "scale": size[nulls]}, ignore=~nulls)]
        if not nulls.all():
            parts.append(judge(*arrays, **how, ignore=nulls))
        return max(parts, key=lambda each: ORDER.index(each.label))

    def exclusions(self) -> list[str]:
        """The parameters whose update was not compared in some steps, each with the reason."""
        return [
            f"{name}: its gradient is nothing but rounding, by which its update was not compared "
            f"in {'step' if len(steps) == 1 else 'steps'} {few([str(step) for step in steps])}"
            for name, steps in self.unjudged.items()
        ]

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
