"""Known mistakes, really made in the program that is checked, to see whether a check finds them.

That a check excludes a mistake is computed from the recorded numbers alone (_power.py). Here the
layer of the program itself gets another `__call__`, its loss other arguments, its optimizer other
hyperparameters, and the whole check is run again.
"""

import dataclasses
import functools
import inspect
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet import losses
from jaxnet._names import join, named_modules, named_variables
from jaxnet.nn import functional
from jaxnet.optim import set_hyperparams
from jaxnet.optim._schedule import has_schedule
from jaxnet.parity._losses import Loss
from jaxnet.parity._power import Recorded, candidates, parts
from jaxnet.parity._reference import Layer
from jaxnet.parity._result import Planting, Report
from jaxnet.parity._subject import Subject
from jaxnet.parity._trace import Trace
from jaxnet.parity._traps import Hypothesis
from jaxnet.parity._updates import Update
from jaxnet.train import make_train_step, supervised
from jaxnet.train._several import map_states, named_states
from jaxnet.train._state import TrainState, split

_log = logging.getLogger(__name__)


class _CannotPlantError(ValueError):
    """A mistake that cannot be made in this program from outside."""


def plantings(
    trace: Trace,
    subject: Subject,
    report: Report,
    run: Callable[[Subject], Report],
    number: int,
) -> list[Planting]:
    """Makes mistakes one after the other, and runs the check on each.

    Args:
        trace: The trace.
        subject: The program.
        report: The report of its check, which says "same".
        run: The check of a program.
        number: How many mistakes. They are chosen at random, always the same, from those that the
            report excludes; there are fewer where fewer can be made.
    """
    chosen: list[tuple[str, Sequence[Recorded], Hypothesis]] = []
    for place, records in parts(trace, report).items():
        chosen += [(place, records, one) for one in candidates(records)]
    order = np.random.default_rng(0).permutation(len(chosen))
    done: list[Planting] = []
    unreached: set[str] = set()
    for place, records, hypothesis in (chosen[i] for i in order):
        if len(done) == number:
            break
        if place in unreached:
            continue
        try:
            _log.info("known mistake %d of %d is planted at %s", len(done) + 1, number, place)
            with _planted(subject, place, records[0].reference, hypothesis) as (changed, calls):
                found = run(changed)
        except _CannotPlantError:
            continue
        if calls and not calls[0]:  # the program's own loss is no function of jaxnet's
            unreached.add(place)
            continue
        done.append(_judged(place, records[0].reference, hypothesis, found))
    return done


def add_plantings(
    trace: Trace, subject: Subject, report: Report, run: Callable[[Subject], Report], number: int
) -> None:
    """Adds to a report what a check says of mistakes that are planted; as `plantings`."""
    if report.verdict != "same":
        report.notes.append("no mistakes were planted: the program has differences of its own")
        return
    report.planted = plantings(trace, subject, report, run, number)
    if len(report.planted) < number:
        report.notes.append(
            f"{len(report.planted)} mistakes were planted instead of {number}: no more of those "
            "that this trace excludes can be made in the program from outside"
        )


def _judged(place: str, reference: Any, hypothesis: Hypothesis, report: Report) -> Planting:
    words = hypothesis.words(reference.config)
    there = [
        finding
        for finding in report.findings
        if any((result.place or "the model") == place for result in finding.results)
        or (isinstance(reference, Loss) and finding.origin == "loss")
        or (isinstance(reference, Update) and finding.origin in ("optimizer", "schedule"))
    ]
    named = any(words in (finding.cause or "", *finding.alternatives) for finding in there)
    return Planting(place, words, report.verdict == "different", bool(there), named)


@contextmanager
def _planted(
    subject: Subject, place: str, reference: Any, hypothesis: Hypothesis
) -> Iterator[tuple[Subject, list[int]]]:
    """The program with a mistake; and how often a planted function was called, if it is one."""
    try:
        altered = hypothesis.applied(reference)
    except (ValueError, TypeError) as error:
        raise _CannotPlantError(str(error)) from error
    if isinstance(reference, Layer):
        module = "" if place == "the model" else place
        yield _with_layer(subject, module, reference, altered), []
    elif isinstance(reference, Update):
        yield _with_hyperparameters(subject, reference, altered), []
    elif isinstance(reference, Loss):
        with _with_loss(reference, altered) as (planted, calls):
            own = planted.__wrapped__
            yield _with_criterion(subject, own, planted), calls
    else:
        raise _CannotPlantError(place)


def _with_layer(subject: Subject, place: str, reference: Layer, altered: Layer) -> Subject:
    if reference.draws:  # which the altered layer would have to be given in the program's order
        raise _CannotPlantError("it draws random numbers")
    planted: list[str] = []

    def changed(one: TrainState[Any], name: str) -> TrainState[Any]:
        model = one.model(training=True)
        for path, module in named_modules(model):
            if join(subject.models[name], path) == place and not planted:
                planted.append(place)
                module.__class__ = _changed(type(module), reference, altered)
        return one.replace(structure=split(model)[0])

    names = {id(one): name for name, one in named_states(subject.state).items()}
    state = map_states(lambda one: changed(one, names[id(one)]), subject.state)
    if not planted:
        raise _CannotPlantError(f"the program has no module {place}")
    return dataclasses.replace(subject, state=state)


def _changed(cls: type, reference: Layer, altered: Layer) -> type:
    """A class whose call is that of the altered layer, with the module's own arrays."""

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        inputs = {**{str(i): value for i, value in enumerate(args)}, **kwargs}
        variables = dict(named_variables(self))
        parameters, buffers = (
            {name: variables[name][...] for name in names if name in variables}
            for names in (altered.parameters, altered.buffers)
        )
        layer = altered
        if altered.training == reference.training:
            layer = dataclasses.replace(altered, training=self.training)
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            output, after = layer.compute(layer, parameters, buffers, inputs)
        for name, array in after.items():
            if name in variables:
                variables[name].set_value(jnp.asarray(array, variables[name][...].dtype))
        return output

    return type(cls)(cls.__name__, (cls,), {"__call__": call, "__module__": cls.__module__})


def _with_hyperparameters(subject: Subject, reference: Update, altered: Update) -> Subject:
    changes = dict(altered.changes)
    betas = [
        changes.pop(f"beta{i + 1}", b) for i, b in enumerate(reference.config.get("betas", ()))
    ]
    if betas and tuple(betas) != tuple(reference.config["betas"]):
        changes["betas"] = tuple(betas)
    if altered.kind != reference.kind or not changes:
        raise _CannotPlantError("it is another class")
    if has_schedule(next(iter(named_states(subject.state).values())).opt_state):
        changes.pop("lr", None)

    def changed(one: TrainState[Any]) -> TrainState[Any]:
        return one.replace(opt_state=set_hyperparams(one.opt_state, **changes))

    try:
        return dataclasses.replace(subject, state=map_states(changed, subject.state))
    except (ValueError, TypeError) as error:  # no hyperparameter, or one that is not there
        raise _CannotPlantError(str(error)) from error


# What can be changed of a loss from outside, beside its own arguments.
_AROUND: dict[str, Callable[..., Any]] = {
    "scale": lambda value, scale: value * scale,
    "square_root": lambda value, root: jnp.sqrt(value) if root else value,
}


@contextmanager
def _with_loss(reference: Loss, altered: Loss) -> Iterator[tuple[Any, list[int]]]:
    """Calls of jaxnet's loss get other arguments inside, wherever the program makes them.

    It gives the function that takes its place, and how often that was called.
    """
    kind, changes = reference.kind, dict(altered.changes)
    own = getattr(losses, kind, None)
    around = {name: changes.pop(name) for name in _AROUND if name in changes}
    if own is None or altered.kind != kind:
        raise _CannotPlantError(kind)
    signature = inspect.signature(own)
    usual = changes.get("reduction", "mean") in ("mean", "sum")
    if not changes.keys() <= signature.parameters.keys() or not usual:
        raise _CannotPlantError(kind)
    calls = [0]

    @functools.wraps(own)
    def planted(*args: Any, **kwargs: Any) -> Any:
        calls[0] += 1
        bound = signature.bind(*args, **kwargs)
        bound.arguments.update(changes)
        value = own(*bound.args, **bound.kwargs)
        for name, change in around.items():
            value = _AROUND[name](value, change)
        return value

    owners = [m for m in (losses, functional) if getattr(m, kind, None) is own]
    for owner in owners:
        setattr(owner, kind, planted)
    try:
        yield planted, calls
    finally:
        for owner in owners:
            setattr(owner, kind, own)


def _with_criterion(subject: Subject, own: Any, planted: Any) -> Subject:
    """The program whose criterion is the planted one, if it was given the function itself."""
    criterion = subject.criterion
    bound = isinstance(criterion, functools.partial)
    if (criterion.func if bound else criterion) is not own or subject.partners is not None:
        return subject
    given = functools.partial(planted, *criterion.args, **criterion.keywords) if bound else planted
    loss = supervised(given)
    (part,) = subject.parts
    return dataclasses.replace(
        subject,
        step=make_train_step(loss, part.optimizer),
        parts=(dataclasses.replace(part, loss=loss),),
    )
