"""Whole steps: each started from torch's state before it, and one after another.

A step that starts from torch's state has no error of the steps before it, so that a fault that
shows late, or in one step alone, is found in its own step.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet._names import join
from jaxnet.optim import Optimizer
from jaxnet.optim._hyperparams import states
from jaxnet.optim._state_dict import load_optimizer_state_dict, optimizer_state_dict
from jaxnet.parity import _lbfgs
from jaxnet.parity._draws import drawn
from jaxnet.parity._evidence import FourRuns
from jaxnet.parity._force import QUICK
from jaxnet.parity._lbfgs import is_lbfgs
from jaxnet.parity._perturbed import perturbed, spread
from jaxnet.parity._step_functions import replayed, updating
from jaxnet.parity._subject import Part, Subject, is_ours, precision, with_numbers
from jaxnet.parity._torch_rates import first_group, rates_of, with_rates
from jaxnet.parity._trace import Step, Trace
from jaxnet.parity._updates import Carried
from jaxnet.train._several import map_states, named_states, state_of, with_state
from jaxnet.train._state import TrainState

Sites = dict[str, np.ndarray]
# What becomes of the batches or gradients before the program is given them.
Change = Callable[[Any], Any]

# The number of steps up to which a program is not worth being optimised.
FEW = 10


@dataclasses.dataclass(frozen=True)
class StepRuns:
    """What a step computed from torch's state before it.

    Attributes:
        own: The arrays after the program's own step, by site.
        update: The arrays after its optimizer's update with torch's gradients and torch's
            learning rate, by site.
        rates: The learning rates of the groups in float64, by site ("lr:0").
        errors: What went wrong instead of giving numbers, by "step", "update", "state", and
            "float64" and "float64 update" of what went wrong in float64 alone.
    """

    own: dict[str, FourRuns]
    update: dict[str, FourRuns]
    rates: dict[str, FourRuns]
    errors: dict[str, str]


class Steps:
    """The steps of a program; each program is compiled once for all steps of the same shapes."""

    def __init__(self, trace: Trace, subject: Subject) -> None:
        self.trace, self.subject = trace, subject
        self._starts = {}
        for double in (False, True):
            with precision(double):
                self._starts[double] = subject.state_in(double)
        self._programs: dict[Any, Callable[..., Any]] = {}
        # The optimizer's state of each model after the step before, for optimizers whose state
        # has no form in torch.
        self._carried: dict[tuple[bool, str], Any] = {}
        self._theirs = Carried(trace)
        self.order: tuple[int, ...] | None = None

    def restored(self) -> set[str]:
        """The parameters whose optimizer is given torch's state before each step."""
        return {
            join(self.subject.models[_name(part)], key)
            for part in self.subject.parts
            if is_ours(part.optimizer) and self.subject.updated
            for key in self.subject.orders[_name(part)]
        }

    def state_before(self, step: Step, double: bool, errors: dict[str, str]) -> Any:
        """The state with torch's parameters, buffers and optimizer state before a step."""
        array_of = step.double if double else step.__getitem__
        with precision(double):
            state = with_numbers(
                self.subject,
                self._starts[double],
                step.of("before"),
                step.of("buffer_before"),
                array_of,
            )
            named = {id(one): name for name, one in named_states(state).items()}

            def put(one: TrainState[Any]) -> TrainState[Any]:
                name = named[id(one)]
                number = self._updates_before(name, step)
                opt_state = self._opt_state(name, one, step, number, double, errors)
                return one.replace(opt_state=opt_state, step=jnp.asarray(number, jnp.int32))

            return map_states(put, state)

    def _updates_before(self, name: str, step: Step) -> int:
        """How often a model was updated before a step."""
        places = {join(self.subject.models[name], k) for k in self.subject.orders[name]}
        graded = [bool(places & each.of("param_grad").keys()) for each in self.trace.steps]
        return sum(graded[: step.index]) if any(graded) else step.index

    def _opt_state(
        self,
        name: str,
        one: TrainState[Any],
        step: Step,
        number: int,
        double: bool,
        errors: dict[str, str],
    ) -> Any:
        optimizer = self._optimizer(name)
        if not self.subject.updated:
            return self._carried.get((double, name), one.opt_state)
        if is_lbfgs(optimizer):
            order = self.subject.orders[name]
            place = f"{join(self.subject.models[name], order[0])}."
            own = {k: s for k, s in step.of("state_before").items() if k.startswith(place)}
            slots = {k.removeprefix(place): step[s] for k, s in own.items()}
            return _lbfgs.load(one.opt_state, one.params, order, slots)
        if is_ours(optimizer):
            try:
                recorded = self._recorded_state(name, optimizer, one, step)
                names = self.subject.orders[name]
                return load_optimizer_state_dict(
                    optimizer, one.opt_state, one.params, recorded, names, step=number
                )
            except ValueError as error:
                errors["state"] = str(error)
        return self._carried.get((double, name), one.opt_state)

    def _optimizer(self, name: str) -> Any:
        for part in self.subject.parts:
            if name == _name(part):
                return part.optimizer
        return None

    def _recorded_state(
        self, name: str, optimizer: Optimizer, one: TrainState[Any], step: Step
    ) -> dict[str, Any]:
        """torch's state before a step as its state_dict, without hyperparameters.

        The program's own hyperparameters stay, since they are to be compared.
        """
        order = self.subject.orders[name]
        groups = [set(group) for group in optimizer.partition(one.params)]
        parts = [[n for n in order if n in group] for group in groups]
        slots = _slots(step, "state_before")
        model = self.subject.models[name]
        entries = {
            order.index(n): {slot: step[site] for slot, site in slots[join(model, n)].items()}
            for n in order
            if join(model, n) in slots
        }
        return {
            "state": entries,
            "param_groups": [{"params": [order.index(n) for n in part]} for part in parts],
        }

    def before(self, step: Step) -> tuple[dict[bool, Any], dict[str, str]]:
        """The states before a step in both precisions, and what does not fit."""
        errors: dict[str, str] = {}
        return {d: self.state_before(step, d, errors) for d in (False, True)}, errors

    def run(
        self,
        step: Step,
        states_before: Mapping[bool, Any],
        errors: Mapping[str, str],
        narrow: bool = False,
    ) -> StepRuns:
        """What the program computes in a step that starts from torch's state.

        Args:
            step: The step.
            states_before, errors: What `before` gave.
            narrow: Whether float64 numbers of the program come from float32 ones, so that its
                rounding is measured by perturbed runs.
        """
        errors = dict(errors)
        own: dict[bool, Sites] = {}
        update: dict[bool, Sites] = {}
        rates: dict[bool, Sites] = {}
        parts = [part for part in self.subject.parts if self._can_update(part, step)]
        for double in (False, True):
            before = states_before[double]
            with precision(double):
                own[double] = {}
                try:
                    after, losses = self.step(step, before, double)
                    own[double] = {**self._losses(step, losses), **self._sites(after)}
                    for name, one in named_states(after).items():
                        self._carried[double, name] = one.opt_state
                except Exception as error:
                    # What the program cannot do in float64 alone is no difference.
                    what = "float64" if double and "step" not in errors else "step"
                    errors[what] = f"{type(error).__name__}: {error}"
                update[double], rates[double] = {}, {}
                for part in parts:
                    try:
                        after, own_rates = self._update(part, step, before, double)
                        update[double] |= self._sites(after, only=_name(part))
                        rates[double] |= own_rates
                        # The state goes on as torch's gradients leave it, so that a fault of the
                        # gradients is none of the next step's update.
                        self._carried[double, _name(part)] = state_of(after, part.model).opt_state
                    except Exception as error:
                        narrow_alone = double and "update" not in errors
                        what = "float64 update" if narrow_alone else "update"
                        errors[what] = f"{type(error).__name__}: {error}"

        def whole(start: Any, change: Change) -> Sites:
            after, losses = self.step(step, start, False, change)
            return {**self._losses(step, losses), **self._sites(after)}

        def updates(start: Any, change: Change) -> Sites:
            found: Sites = {}
            for part in parts:
                after = self._update(part, step, start, False, change)[0]
                found |= self._sites(after, only=_name(part))
            return found

        own_four = _four(step, own[False], own[True])
        update_four = _four(step, update[False], update[True])
        if own[False] and (narrow or own[False].keys() - own[True].keys()):
            own_four = self._measured(own_four, states_before[False], own[False], whole)
        if "update" not in errors and update[False].keys() - update[True].keys():
            update_four = self._measured(update_four, states_before[False], update[False], updates)
        restored = [is_ours(p.optimizer) or is_lbfgs(p.optimizer) for p in self.subject.parts]
        # A step in which no optimizer is seen goes on from a state of its own too.
        if self._carried and not (restored and all(restored)):
            for site, carried in self._theirs.advance(step).items():
                for four in (own_four, update_four):
                    if site in four:
                        four[site] = _from_state(four[site], carried)
        return StepRuns(own_four, update_four, self._rates(step, rates[True]), errors)

    def _measured(
        self,
        found: Mapping[str, FourRuns],
        before: Any,
        own: Sites,
        again: Callable[[Any, Change], Sites],
    ) -> dict[str, FourRuns]:
        """The runs with how far one unit in the last place of what they are given moves them.

        Args:
            found: The runs by site.
            before: The state before the step.
            own: The arrays in float32.
            again: A function that computes these from another state, and that changes what else
                the program is given by the function that it gets.
        """

        def changes(sites: Sites, start: Any) -> Sites:
            # The parameter itself, which is moved, is no part of the change.
            begun = self._sites(start)
            return {
                site: array - begun[site] if site.startswith("update:") else array
                for site, array in sites.items()
            }

        def run(number: int) -> Sites:
            start = perturbed(before, number)
            return changes(again(start, lambda given: perturbed(given, number)), start)

        moved = spread(changes(own, before), run)
        return {
            site: dataclasses.replace(four, spread=moved.get(site)) for site, four in found.items()
        }

    def step(
        self,
        step: Step,
        state: Any,
        double: bool,
        change: Change = lambda batches: batches,
    ) -> tuple[Any, list[Any]]:
        """The state after the program's own step on the recorded batches and draws, and losses.

        Args:
            step: The step.
            state: The state before it.
            double: Whether it is computed in float64.
            change: What becomes of the batches before they are given to the program.
        """
        order = tuple(range(len(step.draws)))
        if self.order is not None and sorted(self.order) == list(order):
            order = self.order
        accumulated = self.subject.accumulated
        key = ("step", double, order, drawn(step.draws))
        if key not in self._programs:
            # Only the float32 program is compiled as the user's own is.
            options = QUICK if double and len(self.trace.steps) <= FEW else None
            function = replayed(self.subject, step, order)
            self._programs[key] = jax.jit(function, compiler_options=options)
        array_of = step.double if double else step.__getitem__
        batches = [step.batch(i, double) for i in range(len(step.batches))]
        if len(batches) > 1 and not accumulated:
            batches = [jax.tree.map(lambda *parts: np.concatenate(parts), *batches)]
        draws = [array_of(f"draw:{n}") for n in range(len(step.draws))]
        result: tuple[Any, list[Any]] = self._programs[key](state, change(batches), draws)
        return result

    def _losses(self, step: Step, losses: Sequence[Any]) -> Sites:
        if any(loss is None for loss in losses):
            return {}
        values = [np.asarray(loss) for loss in losses]
        if len(step.batches) > 1 and self.subject.accumulated:
            share = len(step.batches) if self.subject.accumulation_is_mean else 1
            values = [value / share for value in values]
        if len(values) == len(step.losses):
            return dict(zip(step.losses, values, strict=True))
        return {"loss": np.asarray(sum(values))}

    def _sites(self, state: Any, only: str | None = None) -> Sites:
        """The arrays of a state by their sites after a step."""
        sites: dict[str, Any] = {}
        for name, one in named_states(jax.device_get(state)).items():
            if only not in (None, name):
                continue
            model = self.subject.models[name]
            if only is None:
                sites |= {f"buffer:{join(model, k)}": v for k, v in one.buffers.items()}
            if not self.subject.updated:
                continue
            sites |= {f"update:{join(model, k)}": v for k, v in one.params.items()}
            optimizer = self._optimizer(name)
            order = self.subject.orders[name]
            if is_lbfgs(optimizer):
                place = join(model, order[0])
                slots = _lbfgs.slots_of(one.opt_state, one.params, order)
                sites |= {f"state:{place}.{slot}": array for slot, array in slots.items()}
            if not is_ours(optimizer):
                continue
            found = optimizer_state_dict(optimizer, one.opt_state, one.params, order)
            groups = [set(group) for group in optimizer.partition(one.params)]
            numbered = [n for group in groups for n in order if n in group]
            sites |= {
                f"state:{join(model, numbered[number])}.{slot}": value
                for number, entry in found["state"].items()
                for slot, value in entry.items()
            }
        return sites

    def _can_update(self, part: Part, step: Step) -> bool:
        """Whether torch's gradients alone say what the update of a part has to be."""
        name = _name(part)
        places = {join(self.subject.models[name], k) for k in self.subject.orders[name]}
        graded = places & step.of("param_grad").keys()
        known = not is_lbfgs(part.optimizer) and not places & {*step.again}
        return bool(self.subject.updated and graded and known)

    def _update(
        self,
        part: Part,
        step: Step,
        before: Any,
        double: bool,
        change: Change = lambda gradients: gradients,
    ) -> tuple[Any, dict[str, np.ndarray]]:
        """The state after an update with torch's gradients, and the program's learning rates."""
        name = _name(part)
        one, model = state_of(before, part.model), self.subject.models[name]
        array_of = step.double if double else step.__getitem__
        there = step.of("param_grad")
        gradients = {
            k: array_of(there[join(model, k)]).astype(p.dtype)
            if join(model, k) in there
            else np.zeros(p.shape, p.dtype)
            for k, p in one.params.items()
        }
        gradients = change(gradients)
        missing = tuple(k for k in one.params if join(model, k) not in there)
        key = ("update", double, name, missing)
        if key not in self._programs:
            batches = len(step.batches) if self.subject.accumulated else 1
            mean = self.subject.accumulation_is_mean
            self._programs[key] = jax.jit(
                updating(part.optimizer, missing, batches, mean), compiler_options=QUICK
            )
        rates: dict[str, np.ndarray] = {}
        opt_state = one.opt_state
        if isinstance(part.optimizer, Optimizer):
            used = self._programs[key](gradients, opt_state, one.params)[1]
            found = [s.hyperparams.get("lr") for s in states(used)]
            first = first_group(self.trace, model)
            rates = {f"lr:{first + i}": np.asarray(r) for i, r in enumerate(found) if r is not None}
            opt_state = with_rates(opt_state, rates_of(step), first)
        params, opt_state = self._programs[key](gradients, opt_state, one.params)
        after = with_state(before, part.model, one.replace(params=params, opt_state=opt_state))
        return after, rates

    def _rates(self, step: Step, found: Mapping[str, np.ndarray]) -> dict[str, FourRuns]:
        theirs = {f"lr:{i}": np.asarray(rate) for i, rate in enumerate(rates_of(step))}
        return {
            site: FourRuns(theirs[site], theirs[site], rate, rate)
            for site, rate in found.items()
            if site in theirs
        }


def _name(part: Part) -> str:
    """The name of the state's model that a part updates."""
    return "" if part.model is None else str(part.model)


def _slots(step: Step, phase: str) -> dict[str, dict[str, str]]:
    """The sites of the optimizer's state by parameter and slot."""
    found: dict[str, dict[str, str]] = {}
    for place, site in step.of(phase).items():
        name, _, slot = place.rpartition(".")
        found.setdefault(name, {})[slot] = site
    return found


def _four(step: Step, jax32: Sites, jax64: Sites) -> dict[str, FourRuns]:
    """The arrays of a step that both programs have, by site in the order of the computation."""
    found = {}
    for site in step.sites:
        if site in jax32:
            found[site] = FourRuns(step[site], step.double(site), jax32[site], jax64.get(site))
    if "loss" in jax32 and step.losses:
        torch = np.asarray(sum(step[site] for site in step.losses))
        torch64 = np.asarray(sum(step.double(site) for site in step.losses))
        found["loss:0"] = FourRuns(torch, torch64, jax32["loss"], jax64.get("loss"))
    return found


def _from_state(four: FourRuns, carried: np.ndarray) -> FourRuns:
    """torch's parameter after a step whose optimizer had another state in float64."""
    assert four.torch is not None
    assert four.torch64 is not None
    torch = (four.torch - four.torch64 + carried).astype(four.torch.dtype)
    return dataclasses.replace(four, torch=torch, torch64=carried)
