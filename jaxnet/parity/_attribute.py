"""Which fault makes a program's numbers: hypotheses of the catalogue, each tried and proven.

A hypothesis is proven if the reference with it gives the JAX program's float64 numbers, all of
them, within what rounding leaves. The reference without it has to give torch's, so that a fault
of the reference itself names nothing.
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from jaxnet.parity import _symptoms as symptoms
from jaxnet.parity._evidence import Evidence, Numbers, difference
from jaxnet.parity._fit import fit, rounded
from jaxnet.parity._judgement import ACCURACY, SAME, SAME_SCALE, rms
from jaxnet.parity._reference import Layer, in_float64
from jaxnet.parity._traps import Hypothesis, Reference, Trap, traps_of

# Of two faults in one layer each alone brings the numbers nearer, so that pairs are formed of the
# hypotheses that do best alone, each with all others.
_LEADERS = 4
# Pairs are many: of more numbers than these they are not tried.
_LARGE = 2_000_000
_UNTRUSTED = (
    "No cause was tried: jaxnet's own form of it does not give torch's numbers, or there is none."
)
# What an impossible layer raises depends on where the sizes first do not fit.
IMPOSSIBLE = (ValueError, TypeError, IndexError, KeyError, AttributeError, ZeroDivisionError)
# A difference by the scale of an array of zeros; its square is a number.
_HUGE = 1e100
# A constant is fitted only where its own change explains this share of what is left.
_EXPLAINED = 0.7


@dataclasses.dataclass(frozen=True)
class Cause:
    """What makes the difference.

    Attributes:
        proven: The hypotheses that each give the JAX program's numbers; of pairs, both together.
            They cannot be told apart by this evidence.
        symptoms: What the numbers show by themselves, in sentences.
        tried: How many hypotheses were tried.
        trusted: Whether the reference gives torch's numbers; where it does not, nothing is tried.
        config: The config of the reference, for the words of the hypotheses.
        before: The largest distance of the JAX program's numbers from torch's, by their scale.
        after: The same from those of the first proven hypothesis.
        precision: Whether the difference is one of float32 alone.
    """

    proven: tuple[tuple[Hypothesis, ...], ...]
    symptoms: tuple[str, ...] = ()
    tried: int = 0
    trusted: bool = True
    config: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    before: float = 0.0
    after: float = 0.0
    precision: bool = False

    @property
    def words(self) -> list[str]:
        """Each of the proven causes in a sentence or two."""
        return [" ".join(h.words(self.config) for h in each) for each in self.proven]

    @property
    def fixes(self) -> list[str]:
        """What to write for each of them."""
        return ["; and ".join(h.fix(self.config) for h in each) for each in self.proven]

    @property
    def proof(self) -> str:
        """The numbers that prove the first cause, "" without one."""
        if not self.proven:
            return ""
        with_it = "both" if len(self.proven[0]) > 1 else "it"
        if self.precision:
            return (
                f"in float32 the reference with {with_it} has your error of {self.before:.1e}; "
                f"{self.tried} tried"
            )
        return (
            f"with {with_it} the reference gives your numbers to {self.after:.1e}, without to "
            f"{self.before:.1e}; {self.tried} tried"
        )


def attribute(
    reference: Reference, evidence: Evidence, traps: Iterable[Trap] | None = None
) -> Cause:
    """The cause of a difference between the programs in one isolated part.

    Args:
        reference: The part of the torch program, built again with jaxnet.
        evidence: The numbers of both programs.
        traps: The rows to try; by default those of the reference's kind.
    """
    rows = tuple(traps_of(reference.kind) if traps is None else traps)
    signs = tuple(_symptoms(reference, evidence))
    own = observed(reference)
    known = [n for n in own or {} if n in evidence.torch64 and n in evidence.jax64]
    # What the reference cannot give, such as the sum of the gradients of several calls, is not
    # used; the rest is.
    names = [n for n in known if difference(own[n], evidence.torch64[n]) <= evidence.tolerance(n)]
    # An output of another shape has no gradient that fits torch's.
    if any(evidence.torch64[n].shape != evidence.jax64[n].shape for n in names if _is_output(n)):
        names = [n for n in names if _is_output(n)]
    trial = _Trial(evidence, names)
    failing = [n for n in names if not trial.fits(n, own[n])]
    config = reference.config
    if not failing:
        worse = [n for n in names if _is_less_accurate(evidence, n)]
        if worse:
            return _precision(reference, evidence, rows, worse, signs)
        others = [n for n in evidence.torch64 if n in evidence.jax64 and n not in names]
        wrong = [n for n in others if not trial.fits(n, evidence.torch64[n])]
        trusted = not wrong and own is not None
        return Cause((), signs if trusted else (*signs, _UNTRUSTED), trusted=trusted, config=config)
    rows = tuple(trap for trap in rows if not trap.precision)
    singles: list[Hypothesis] = []
    tries: dict[int, Any] = {}
    proven: list[tuple[Hypothesis, ...]] = []
    # A constant is fitted only where no fault without one explains the numbers: the simpler
    # explanation is the better one, and a fit takes many times as long.
    for fitted in (False, True):
        if not proven:
            new = [
                h
                for trap in rows
                if bool(trap.constants) is fitted
                for h in trial.settled(trap, reference)
            ]
            tries |= {id(h): trial.observed(reference, h) for h in new}
            proven = [(h,) for h in new if trial.determines((h,)) and trial.proves(tries[id(h)])]
            singles += new
    if not proven and sum(evidence.jax64[n].size for n in failing) <= _LARGE:
        proven = list(trial.pairs(reference, rows, singles, tries))
    before = trial.distance(own)
    after = trial.distance(observed(reference, *proven[0])) if proven else before
    proven.sort(key=lambda hs: (len(hs), sum(len(h.trap.constants) for h in hs)))  # simplest first
    return Cause(tuple(proven), signs, trial.tried, True, config, before, after)


def _is_output(name: str) -> bool:
    return "grad:" not in name


def observed(reference: Any, *hypotheses: Hypothesis, names: Sequence[str] = ()) -> Any:
    """The numbers with these hypotheses; None where the fault cannot be made."""
    try:
        with in_float64():
            for hypothesis in hypotheses:
                reference = hypothesis.applied(reference)
        if names and isinstance(reference, Layer) and all(map(_is_output, names)):
            reference = dataclasses.replace(reference, cotangents={})
        return reference.observe()
    except IMPOSSIBLE:
        return None


class _Trial:
    """Trying hypotheses against the JAX program's numbers.

    Args:
        evidence: The numbers of both programs.
        names: The numbers that count.
    """

    def __init__(self, evidence: Evidence, names: Sequence[str]) -> None:
        self.evidence = evidence
        self.names = names
        self.allowed = {n: evidence.tolerance(n) for n in names}
        # An array of nothing but rounding, as a null gradient, has no size of its own.
        self.scales = {
            n: max(rms(evidence.torch64[n]), SAME * evidence.floor(n) / SAME_SCALE, 1e-300)
            for n in names
        }
        self.tried = 0

    def fits(self, name: str, array: np.ndarray) -> bool:
        allowed = self.allowed.get(name) or self.evidence.tolerance(name)
        return difference(array, self.evidence.jax64[name]) <= allowed

    def proves(self, numbers: Numbers | None) -> bool:
        """Whether these are the JAX program's numbers."""
        return numbers is not None and all(
            name in numbers and self.fits(name, numbers[name]) for name in self.names
        )

    def determines(self, hypotheses: Sequence[Hypothesis]) -> bool:
        """Whether there are more numbers than constants that were fitted to them.

        Any two numbers are those of some two constants. A constant of few digits was not fitted
        to all digits of the numbers, so that it does not count.
        """
        values = [h.values[name] for h in hypotheses for name in h.trap.constants]
        free = sum(float(f"{value:.3e}") != value for value in values)
        return free < sum(self.evidence.jax64[name].size for name in self.names)

    def observed(self, reference: Any, *hypotheses: Hypothesis) -> Any:
        """The numbers with these hypotheses.

        Gradients are left out, which saves most of the time, where the outputs differ from the
        JAX program's already and torch's do too.
        """
        outputs = [n for n in self.names if _is_output(n)]
        if any(not self.fits(n, self.evidence.torch64[n]) for n in outputs):
            numbers = observed(reference, *hypotheses, names=outputs)
            if numbers is None or not all(
                n in numbers and self.fits(n, numbers[n]) for n in outputs
            ):
                return numbers
        return observed(reference, *hypotheses)

    def distance(self, numbers: Numbers | None) -> float:
        """The largest distance from the JAX program's numbers, by their scale."""
        if numbers is None:
            return np.inf
        return max(
            difference(numbers.get(n, np.zeros(0)), self.evidence.jax64[n]) / self.scales[n]
            for n in self.names
        )

    def residual(self, numbers: Numbers | None, names: Sequence[str] | None = None) -> np.ndarray:
        """The differences from the JAX program's numbers, by their scale, in one array."""
        parts = []
        for name in self.names if names is None else names:
            wanted = self.evidence.jax64[name]
            found = None if numbers is None else numbers.get(name)
            if found is None or found.shape != wanted.shape:
                return np.array([np.inf])
            with np.errstate(invalid="ignore"):
                apart = np.where(found == wanted, 0.0, found - wanted)
            apart = apart.ravel() / self.scales[name] / max(apart.size, 1) ** 0.5
            parts.append(np.clip(apart, -_HUGE, _HUGE))  # of an array of zeros
        return np.concatenate(parts)

    def settled(self, trap: Trap, reference: Any) -> Iterable[Hypothesis]:
        """The hypotheses of a row with their constants fitted, where that explains something."""
        for hypothesis in trap.choices(reference):
            self.tried += 1
            if not trap.constants:
                yield hypothesis
                continue
            starts = self._starts(trap, reference)
            if self._promising(self._residual(reference, (hypothesis,)), starts):
                yield self._fitted(reference, (hypothesis,), starts)[0]

    def _starts(self, trap: Trap, reference: Any) -> list[Sequence[float]]:
        """The usual values of each constant, and that of the reference."""
        starts: list[Sequence[float]] = []
        for name, usual in trap.constants.items():
            own = reference.config.get(name)
            is_number = isinstance(own, int | float) and not isinstance(own, bool)
            starts.append(tuple(dict.fromkeys((*usual, *((float(own),) if is_number else ())))))
        return starts

    def _residual(
        self, reference: Any, hypotheses: Sequence[Hypothesis]
    ) -> Callable[..., np.ndarray]:
        """The residual of hypotheses as a function of all their constants in order."""
        # Where the outputs show the difference they are enough to fit a constant by, and quick.
        outputs = [n for n in self.names if _is_output(n)]
        shown = any(self.fits(n, self.evidence.torch64[n]) is False for n in outputs)
        names = outputs if shown else list(self.names)

        def residual(*values: float) -> np.ndarray:
            changed = _with_constants(hypotheses, values)
            return self.residual(observed(reference, *changed, names=names), names)

        return residual

    def _fitted(
        self, reference: Any, hypotheses: Sequence[Hypothesis], starts: Sequence[Sequence[float]]
    ) -> tuple[Hypothesis, ...]:
        """Hypotheses with all their constants fitted together."""
        residual = self._residual(reference, hypotheses)
        values = fit(residual, starts)
        usual = [u for h in hypotheses for u in h.trap.constants.values()]
        plain = [rounded(v, u) for v, u in zip(values, usual, strict=True)]
        exact, short = residual(*values), residual(*plain)
        near = np.linalg.norm(short) <= 4 * np.linalg.norm(exact) + SAME_SCALE
        return _with_constants(hypotheses, plain if near else values)

    def _promising(
        self, residual: Callable[..., np.ndarray], starts: Sequence[Sequence[float]]
    ) -> bool:
        """Whether a change of the constants explains much of the difference."""
        first = tuple(usual[-1] for usual in starts)
        for values in itertools.chain([first], itertools.product(*starts)):
            r = residual(*values)
            if not np.all(np.isfinite(r)):
                continue
            if (whole := np.linalg.norm(r)) <= SAME_SCALE:
                return True
            columns = []
            for i, value in enumerate(values):
                small = 1e-4 * value if value else 1e-7
                moved = residual(*values[:i], value + small, *values[i + 1 :])
                if moved.shape == r.shape and np.all(np.isfinite(moved)):
                    columns.append((moved - r) / small)
            if not columns or not np.any(slopes := np.stack(columns, 1)):
                continue
            change, *_ = np.linalg.lstsq(slopes, -r, rcond=None)
            if np.linalg.norm(r + slopes @ change) < _EXPLAINED * whole:
                return True
        return False

    def pairs(
        self,
        reference: Any,
        rows: Sequence[Trap],
        singles: Sequence[Hypothesis],
        observed: Mapping[int, Numbers | None],
    ) -> Iterable[tuple[Hypothesis, ...]]:
        """Pairs of hypotheses that together give the JAX program's numbers."""

        def rank(hypothesis: Hypothesis) -> tuple[int, float]:
            numbers = observed[id(hypothesis)]
            if numbers is None:
                return 0, np.inf
            names = [n for n in self.names if n in numbers]
            right = sum(self.fits(n, numbers[n]) for n in names)
            return -right, float(np.linalg.norm(self.residual(numbers, names)))

        leaders = sorted(singles, key=rank)[:_LEADERS]
        found: dict[frozenset[str], tuple[Hypothesis, ...]] = {}
        for leader in leaders:
            if observed[id(leader)] is None:
                continue
            for row in rows:
                key = frozenset((leader.trap.name, row.name))
                if row is leader.trap or row.precision or key in found:
                    continue
                for second in row.choices(reference):
                    pair = self._pair(reference, leader, second)
                    if self.determines(pair) and self.proves(self.observed(reference, *pair)):
                        found[key] = pair
                        break
        return found.values()

    def _pair(
        self, reference: Any, first: Hypothesis, second: Hypothesis
    ) -> tuple[Hypothesis, ...]:
        """Two hypotheses whose constants are fitted together, from those that the first has."""
        self.tried += 1
        starts: list[Sequence[float]] = [(first.values[name],) for name in first.trap.constants]
        starts += self._starts(second.trap, reference)
        return self._fitted(reference, (first, second), starts) if starts else (first, second)


def _with_constants(
    hypotheses: Sequence[Hypothesis], values: Sequence[float]
) -> tuple[Hypothesis, ...]:
    """Hypotheses with other constants, given in the order of the hypotheses and their rows."""
    left = iter(values)
    return tuple(h.fitted(**{name: next(left) for name in h.trap.constants}) for h in hypotheses)


def _is_less_accurate(evidence: Evidence, name: str) -> bool:
    torch = difference(evidence.torch.get(name), evidence.torch64[name])
    jax = difference(evidence.jax.get(name), evidence.jax64[name])
    return jax > ACCURACY * torch and jax > SAME_SCALE * rms(evidence.torch64[name])


def _precision(
    reference: Any,
    evidence: Evidence,
    rows: Sequence[Trap],
    names: Sequence[str],
    signs: tuple[str, ...],
) -> Cause:
    """The cause of float32 numbers that are less accurate than torch's."""
    exact: list[tuple[Hypothesis, ...]] = []
    sized: list[tuple[Hypothesis, ...]] = []
    tried = 0
    errors = {n: difference(evidence.jax[n], evidence.jax64[n]) for n in names}
    for hypothesis in (h for trap in rows if trap.precision for h in trap.usual(reference)):
        tried += 1
        numbers = observed(reference, hypothesis)
        if numbers is None:
            continue
        # The same rounding gives the same numbers; in another order, errors of one size.
        if all(difference(numbers[n], evidence.jax[n]) <= 0.25 * errors[n] for n in names):
            exact.append((hypothesis,))
        ratios = [difference(numbers[n], evidence.torch64[n]) / errors[n] for n in names]
        if all(0.25 <= ratio <= 4 for ratio in ratios):
            sized.append((hypothesis,))
    proven = exact or sized
    before = max(errors[n] / max(rms(evidence.torch64[n]), 1e-300) for n in names)
    return Cause(tuple(proven), signs, tried, True, reference.config, before, precision=True)


def _symptoms(reference: Any, evidence: Evidence) -> Iterable[str]:
    """The symptoms of the first number that differs."""
    for name, torch in evidence.torch64.items():
        jax = evidence.jax64.get(name)
        if jax is not None and difference(torch, jax) > evidence.tolerance(name):
            given = getattr(reference, "input", None)
            yield from symptoms.of(torch, jax, evidence.tolerance(name), given)
            return
