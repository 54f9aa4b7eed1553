"""Updates by gradients that are nothing but rounding, and how far rounding explains them.

The exact gradient of a bias before BatchNorm is zero, and so is that of a third of the bias of a
fused projection to queries, keys and values. Adam divides what rounding makes of it by itself, and
no two programs share that. So two updates by such a gradient may differ, but by no more than
torch's own optimizer makes of a gradient of that size: what is further apart is no rounding.
"""

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from jaxnet.parity._evidence import FourRuns
from jaxnet.parity._judgement import (
    ACCURACY_LARGEST,
    EPSILON,
    SAME,
    STORED,
    gradient_rounding,
    gradient_scale,
    null,
)
from jaxnet.parity._rules import KINDS, rule
from jaxnet.parity._trace import Step, Trace

# Parts of the largest gradient of rounding, by which the updates are tried that rounding can make.
_PARTS = np.array([0.0, *(sign * 10.0**-i for i in range(9) for sign in (1, -1))])
# How many times the width of these updates two of them may be apart: the state of an optimizer
# that goes on from its own gradients of rounding is known by its size alone.
_WIDTHS = 4
# The largest part of the learning rate that an optimizer without a formula here makes of rounding.
_LARGEST = 10.0


class NullUpdates:
    """Which elements of updates and states are explained by gradients of rounding.

    Args:
        trace: The trace.
        restored: The parameters whose optimizer begins each step with torch's state.
    """

    def __init__(self, trace: Trace, restored: Collection[str]) -> None:
        self.trace, self.restored = trace, restored
        self._groups = {
            name: (i, j, optimizer["class"])
            for i, optimizer in enumerate(trace.optimizers)
            for j, group in enumerate(optimizer["groups"])
            for name in group["params"]
        }
        self._now: dict[str, tuple[int, np.ndarray]] = {}
        self._before: dict[str, np.ndarray] = {}
        self._ever: dict[str, np.ndarray] = {}
        self._own: dict[str, np.ndarray] = {}

    def of(self, step: Step, name: str, shape: tuple[int, ...]) -> np.ndarray | None:
        """The elements of a parameter whose update in a step is made of rounding.

        Those whose gradient is rounding now; and where the optimizer goes on from a state of its
        own, those whose gradient was, in a step before.

        Args:
            step: The step.
            name: The name of the parameter.
            shape: The shape of what is updated: a slot of the state may have another.

        Returns:
            A boolean array; None where there is no gradient.
        """
        site = f"param_grad:{name}"
        if site not in step or step[site].shape != shape:
            return None
        if self._now.get(name, (-1, None))[0] != step.index:
            now = null(step[site], step.double(site), gradient_scale(step, name))
            self._now[name] = step.index, now | self._before.get(name, np.zeros(shape, bool))
            if name not in self.restored:
                self._before[name] = self._now[name][1]
        return self._now[name][1]

    def note(self, step: Step, name: str, four: FourRuns) -> None:
        """Notes where the gradient of the checked program is rounding, and torch's came to zero."""
        site = f"param_grad:{name}"
        torch, own, own64 = step[site], four.jax, four.jax64
        if own is None or own64 is None or own64.shape != torch.shape or torch.all():
            return
        narrow, wide = _sizes(step, name)
        zero = (torch == 0) & (step.double(site) == 0) & ((own != 0) | (own64 != 0))
        found = zero & (np.abs(own) <= narrow) & (np.abs(own64) <= wide)
        if found.any():
            self._own[name] = self._own.get(name, np.zeros(torch.shape, bool)) | found

    def zeros(self, step: Step, name: str) -> np.ndarray:
        """The elements whose gradient came to zero in a step, and is rounding elsewhere.

        A gradient of exactly zero may be none, as that of a row of an embedding that no token
        asks for, and it may be rounding that came to nothing. It is that where another step has
        rounding there, or the other program, and beside elements of the parameter that are
        rounding now: the keys' part of a bias.
        """
        site = f"param_grad:{name}"
        if name not in self._ever:
            found = np.zeros(step[site].shape, bool)
            for other in self.trace.steps:
                if site in other:
                    found |= null(other[site], other.double(site), gradient_scale(other, name))
                    if other.index != step.index:
                        other.forget()
            self._ever[name] = found
        known = self._ever[name] | self._own.get(name, False)
        now = self._now.get(name)
        if now is not None and now[0] == step.index and now[1].any():
            known = np.ones_like(known)
        return np.asarray(known & (step[site] == 0) & (step.double(site) == 0))

    def explained(
        self, step: Step, site: str, name: str, four: FourRuns, nulls: np.ndarray
    ) -> np.ndarray:
        """The elements of an update or a state that are apart by no more than rounding makes.

        Args:
            step: The step.
            site: The site, such as "update:fc.bias" or "state:fc.bias.exp_avg".
            name: The name of the parameter.
            four: The arrays.
            nulls: The elements whose gradient is rounding.
        """
        known = self._groups.get(name)
        if not nulls.any() or known is None or name in step.again or known[0] >= len(step.groups):
            return nulls
        assert four.torch is not None
        assert four.jax is not None
        if four.jax.shape != nulls.shape:
            return nulls
        i, j, kind = known
        config = step.groups[i][j]
        slot = "" if site.startswith("update:") else site.rpartition(".")[2]
        before = step.double(f"before:{name}")[nulls]
        apart = np.abs(four.torch.astype(np.float64) - four.jax)[nulls]
        lost = 0.0
        pairs = [(apart, SAME * float(np.finfo(np.float32).eps))]
        if four.torch64 is not None and four.jax64 is not None:
            # A trace keeps a float64 number to a part of what float32 makes of it.
            lost = 2 * STORED * np.abs(four.torch - four.torch64)[nulls]
            pairs.append((np.abs(four.torch64 - four.jax64)[nulls] - lost, SAME * EPSILON))
        fits = np.ones(before.shape, bool)
        for size, (difference, rounding) in zip(_sizes(step, name), pairs, strict=False):
            if kind in KINDS:
                width = self._width(step, name, kind, config, slot, nulls, size)
            elif not slot and "eps" in config:
                width = np.asarray(config["lr"] * min(_LARGEST, size / (config["eps"] or size)))
            else:
                continue
            if width is None:
                return nulls
            base = np.abs(before) if not slot else width
            fits &= difference <= _WIDTHS * width + rounding * base
        found = nulls.copy()
        found[nulls] = fits
        return found

    def _width(
        self,
        step: Step,
        name: str,
        kind: str,
        config: Mapping[str, Any],
        slot: str,
        nulls: np.ndarray,
        size: float,
    ) -> np.ndarray | None:
        """How far apart torch's formula sets elements whose gradients are at most `size`.

        Returns:
            The widths by element; None where the formula does not give torch's own numbers.
        """
        before = step.double(f"before:{name}")[nulls]
        place = f"{name}."
        state = {
            key.removeprefix(place): step.double(s)
            for key, s in step.of("state_before").items()
            if key.startswith(place) and "." not in key.removeprefix(place)
        }
        t = int(state.pop("step", 0)) + 1
        if any(each.shape != nulls.shape for each in state.values()):
            return None
        state = {key: each[nulls] for key, each in state.items()}
        used = f"clipped:{name}" if f"clipped:{name}" in step else f"param_grad:{name}"
        theirs = step.double(f"state:{name}.{slot}" if slot else f"update:{name}")[nulls]
        narrow = step[f"state:{name}.{slot}" if slot else f"update:{name}"][nulls]

        def after(gradient: Any, begun: Mapping[str, np.ndarray], number: int) -> np.ndarray | None:
            given = config, before, np.broadcast_to(gradient, before.shape), begun, number
            parameter, states = rule(kind, *given, config["lr"])
            return states.get(slot) if slot else parameter

        own = after(step.double(used)[nulls], state, t)
        if own is None:
            return None
        width = np.zeros(before.shape)
        # A state that goes on from its own numbers is of rounding too: as good as none.
        for begun, number in ((state, t), *(() if name in self.restored else (({}, 1),))):
            tried = [after(part * size, begun, number) for part in _PARTS]
            known = [each for each in tried if each is not None]
            width = np.maximum(width, np.ptp(np.stack(known), axis=0))
        lost = STORED * np.abs(narrow - theirs) + SAME * EPSILON * np.abs(theirs)
        right = np.abs(own - theirs) <= _WIDTHS * width + lost
        return width if right.all() else None


def _sizes(step: Step, name: str) -> tuple[float, float]:
    """The largest sizes of a gradient of rounding that an optimizer is given, in both precisions.

    The second program rounds what the first does not, and may be less accurate.
    """
    site = f"param_grad:{name}"
    gradient, wide = step[site], step.double(site)
    scale = gradient_scale(step, name)
    moved = float(np.max(np.abs(gradient.astype(np.float64) - wide), initial=0.0))
    narrow = max(ACCURACY_LARGEST * moved, float(np.finfo(np.float32).eps) * scale)
    share = 1.0
    if f"clipped:{name}" in step and (whole := np.linalg.norm(wide)) > 0:
        share = float(np.linalg.norm(step.double(f"clipped:{name}")) / whole)
    return share * narrow, share * gradient_rounding(gradient, wide, scale)
