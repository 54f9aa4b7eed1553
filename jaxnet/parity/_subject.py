"""The program that is checked: its state, its step, and what the step is made of."""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxnet._keys import keys
from jaxnet._mixed_precision import cast_floats, written_for
from jaxnet.optim import SGD, Optimizer, accumulate
from jaxnet.optim._state_dict import has_torch_form
from jaxnet.parity._double_state import exact, with_arrays
from jaxnet.parity._foreign import Foreign, adapt, is_foreign, trial
from jaxnet.parity._foreign_calls import Partners
from jaxnet.parity._foreign_step import ForeignStep, ObjectPlace, foreign_step, model_in
from jaxnet.parity._libraries import foreign_model, library_of
from jaxnet.parity._model_forms import FORMS
from jaxnet.parity._model_names import own_parameters, recorded_models
from jaxnet.parity._names_file import Names
from jaxnet.parity._pairing import Pairing
from jaxnet.parity._port import SubjectError
from jaxnet.parity._pytree_step import pytree_place
from jaxnet.parity._trace import Trace
from jaxnet.parity._transformation import (
    collecting,
    has_sums,
    refuse_inner,
    several_of,
    transformation,
    with_wide_sums,
)
from jaxnet.train import create, make_train_step, supervised
from jaxnet.train._several import map_states, named_states
from jaxnet.train._state import TrainState
from jaxnet.train._step import TrainStep, noting_steps


@dataclasses.dataclass(frozen=True)
class Part:
    """One update of a step: what `make_train_step` was given.

    Attributes:
        loss: The function `(model, batch)` that is minimised.
        optimizer: The optimizer.
        model: The key of the model that is trained, in a state of several; else None.
        compute_dtype: The dtype of the model's arithmetic, or None.
        batch_norm_parts: The number of parts of a batch that batch norms normalise each alone.
    """

    loss: Callable[..., Any]
    optimizer: Any
    model: str | int | None = None
    compute_dtype: Any = None
    batch_norm_parts: int = 1


@dataclasses.dataclass(frozen=True)
class Subject:
    """The program that is checked.

    Attributes:
        state: The state before the first step.
        step: The step, `(state, batch) -> (state, metrics)`.
        parts: The updates that the step consists of, as far as they are known.
        models: The names of the recorded models by the names of the state's models; {"": ""} for
            one model.
        accumulated: Whether the step is called for every batch of a recorded step, since the
            optimizer collects their gradients.
        reduction: "mean" or "sum", of the gradients that are collected.
        orders: The names of the parameters of each of the state's models in torch's order.
        trace: The trace as the program sees it, which has no modules where plain flax has none.
        partners: The layers of a plain flax model by name; None for models with torch's names.
        pairing: Which layers are which of torch's; None for models with torch's names.
        updated: Whether the program has an optimizer; only forward pass, loss and gradients are
            compared otherwise.
        criterion: The criterion of outputs and targets, where the program was given one.
        unseen: What of a model without layers could not be looked into; "" for any other model.
    """

    state: Any
    step: Callable[[Any, Any], tuple[Any, Any]]
    parts: tuple[Part, ...]
    models: Mapping[str, str]
    accumulated: bool
    reduction: str
    orders: Mapping[str, tuple[str, ...]]
    trace: Trace
    partners: Partners | None = None
    pairing: Pairing | None = None
    updated: bool = True
    criterion: Any = None
    unseen: str = ""

    @property
    def composed(self) -> bool:
        """Whether the step is a function of the user's own around the updates."""
        return len(self.parts) > 1 or (
            not isinstance(self.step, TrainStep) and not isinstance(inner(self.step), TrainStep)
        )

    @property
    def uncompared(self) -> dict[str, str]:
        """What of the program is not compared at all, each with the reason."""
        found = {}
        if not self.updated:
            found["updates"] = (
                "no optimizer was given, so that forward pass, loss and gradients were compared"
            )
        if any(one.average is not None for one in named_states(self.state).values()):
            found["averages"] = "a trace has no averages of the weights (EMA, SWA)"
        if self.unseen:
            found["layers"] = self.unseen
        return found

    @property
    def accumulation_is_mean(self) -> bool:
        """Whether the loss of a batch counts divided by the number of the step's batches."""
        return self.reduction == "mean"

    def state_in(self, double: bool) -> Any:
        """The state before the first step in one precision; float64 under `precision` only."""
        return map_states(self._doubled, self.state) if double else self.state

    def _doubled(self, one: TrainState[Any]) -> TrainState[Any]:
        params, buffers = cast_floats((one.params, one.buffers), jnp.float64)
        # Numbers such as a learning rate of 0.1 are float64's own, not those of float32.
        form: Any = jax.tree.structure(one.opt_state)
        made = [part.optimizer.init(params) for part in self.parts]
        fresh = next((each for each in made if jax.tree.structure(each) == form), None)
        opt_state = exact(one.opt_state) if fresh is None else with_arrays(fresh, one.opt_state)
        return one.replace(
            params=params,
            buffers=buffers,
            opt_state=opt_state,
            average=cast_floats(one.average, jnp.float64),
            cast=np.dtype(np.float64),
        )


@contextmanager
def precision(double: bool) -> Iterator[None]:
    """Lets JAX compute in float64 inside; float32 is computed under the user's own settings."""
    if not double:
        yield
        return
    with jax.enable_x64(True), written_for(np.float32):
        yield


def make_subject(
    trace: Trace,
    model: Any = None,
    loss: Any = None,
    optimizer: Any = None,
    step: Any = None,
    state: Any = None,
    *,
    copy: bool = False,
    names: Names | None = None,
) -> Subject:
    """The program that is checked, from what `check` was given.

    Args:
        trace: The trace.
        model: The model.
        loss: The function `(model, batch)` of the training step, or a criterion of outputs and
            targets from a library.
        optimizer: The optimizer.
        step: The training step, in place of these three.
        state: The state before its first step.
        copy: Whether parameters and buffers are those of the trace instead of the model's own.
        names: Which layer of a plain flax model is which of torch's, where that is not found: the
            path of a names.toml, or its content.

    Raises:
        SubjectError: The parameters of the program are not those of the trace. The message lists
            all that does not fit.
        TypeError: An argument is missing, or of another kind.
    """
    foreign: Foreign | None = None
    pairing: Pairing | None = None
    own_partners: Partners | None = None
    unseen = ""
    if (model is None) == (step is None):
        raise TypeError(
            "check: accepted are a model, its loss and its optimizer, or step= and state="
        )
    if model is not None:
        library = None if isinstance(model, nnx.Module) else library_of(model)
        if not isinstance(model, nnx.Module) and library is None:
            if isinstance(model, type):
                given = f"the class {model.__name__}; accepted is a model of it, {model.__name__}()"
            else:
                given = f"{type(model).__name__}; accepted is {FORMS}"
            raise TypeError(
                f"check: model: {given}. For a program of another kind give step= and state="
            )
        if not callable(loss):
            raise TypeError(
                f"check: loss: {loss!r}; accepted is a criterion such as losses.cross_entropy, or "
                "a function (model, batch) of your own that returns the loss"
            )
        if optimizer is not None and not callable(getattr(optimizer, "update", None)):
            raise TypeError(
                f"check: optimizer: {optimizer!r}; accepted is an optimizer of jaxnet.optim or "
                "optax, such as optim.SGD(lr=0.1)"
            )
        criterion, loss = loss, as_loss(loss)
        if library is not None:
            model = foreign_model(library, trial(trace, loss))
            unseen = library.unseen()
        updated = optimizer is not None
        optimizer = transformation(model, optimizer)
        if not updated:  # one that changes nothing; the gradients of all batches are added
            optimizer = accumulate(SGD(lr=0.0), max(len(trace.steps[0].batches), 1), "sum")
        if is_foreign(trace, model):
            foreign = adapt(trace, model, loss, optimizer, names)
            trace, model = foreign.trace, foreign.model
            loss, optimizer = foreign.loss, foreign.optimizer
        state, step = create(model, optimizer), make_train_step(loss, optimizer)
        refuse_inner(optimizer, state.params)
        parts: tuple[Part, ...] = (Part(loss, optimizer),)
        reduction = _reduction(parts)
    else:
        given, own = state, _with_torch_names(trace, step, state, names)
        if isinstance(own, Foreign):
            foreign, trace = own, own.trace
            state = create(own.model, own.optimizer)
            step = make_train_step(own.loss, own.optimizer)
        elif own is not None:
            pairing, trace, step, state = own.pairing, own.trace, own.step, own.state
            own_partners = Partners()  # the step is not looked into
            own_partners.layouts = own.layouts
        if not callable(step) or not named_states(state):
            raise TypeError(
                f"check: step: {step!r}, state: {type(state).__name__}; accepted are a function "
                "(state, batch) -> (state, metrics) and its train.create(model, optimizer)"
            )
        parts, updated = _parts(trace, step, state), True
        step, parts, reduction = _collected(step, given, parts, own)
    half = next((part.compute_dtype for part in parts if part.compute_dtype is not None), None)
    if half is not None:
        raise SubjectError(
            f"check: the step computes in {np.dtype(half).name} (compute_dtype), of which there is "
            "no float64 run to tell rounding from a difference. Leave compute_dtype out for the "
            "check: what the program computes is compared, and not how it rounds. A torch program "
            "with autocast need not be recorded anew"
        )
    if any(part.batch_norm_parts > 1 for part in parts):
        raise SubjectError(
            "check: the step cuts a batch for the statistics of its batch norms "
            "(batch_norm_parts), as several processes of PyTorch do, and one process is recorded. "
            "Leave batch_norm_parts out for the check, and record a run without "
            "DistributedDataParallel"
        )
    models = recorded_models(trace, state)
    subject = Subject(
        state=state,
        step=step,
        parts=parts,
        models=models,
        accumulated=bool(reduction),
        reduction=reduction or "mean",
        orders={name: tuple(own_parameters(trace, theirs)) for name, theirs in models.items()},
        trace=trace,
        partners=foreign.partners if foreign else own_partners,
        pairing=pairing or (foreign.pairing if foreign else None),
        criterion=None if model is None else criterion,
        updated=updated,
        unseen=unseen,
    )
    if copy:
        first = trace.steps[0]
        start = with_numbers(
            subject, state, first.of("before"), first.of("buffer_before"), first.__getitem__
        )
        subject = dataclasses.replace(subject, state=start)
    return subject


def _with_torch_names(
    trace: Trace, step: Any, state: Any, names: Names | None
) -> Foreign | ForeignStep | None:
    """A step of a plain flax model as one with torch's parameters; None if it is that already."""
    wrapped = inner(step)
    if isinstance(wrapped, TrainStep) and isinstance(state, TrainState):
        model = state.model(training=True)
        if is_foreign(trace, model):
            optimizer = transformation(model, wrapped.optimizer)
            return adapt(trace, model, wrapped.loss, optimizer, names)
    elif callable(step) and not named_states(state):
        found = model_in(state)
        if found is not None and is_foreign(trace, found[1]):
            return foreign_step(trace, step, ObjectPlace(state), names)
        place = None if found is not None else pytree_place(trace, step, state)
        if place is not None and is_foreign(trace, place.model):
            return foreign_step(trace, step, place, names)
    return None


def as_loss(loss: Callable[..., Any]) -> Callable[..., Any]:
    """The function `(model, batch)` of a criterion; one of the user's own is that already."""
    function = loss.func if isinstance(loss, functools.partial) else loss
    named = function if hasattr(function, "__name__") else type(function)
    library = getattr(named, "__module__", "") or ""
    known = library.startswith(("jaxnet.losses", "jaxnet.nn", "optax"))
    return supervised(loss) if known else loss


def inner(step: Any) -> Any:
    """The function that `jax.jit` and the like were given."""
    return inspect.unwrap(step)


def _parts(trace: Trace, step: Any, state: Any) -> tuple[Part, ...]:
    """The updates that a step consists of, found by tracing it once for each form of batch."""
    wrapped = inner(step)
    if isinstance(wrapped, TrainStep):
        return (part_of(wrapped),)
    batches: dict[str, Any] = {}
    for each in trace.steps:
        batch = each.batch()
        batches.setdefault(str(jax.tree.map(jnp.shape, batch)), batch)
        each.forget()
    found = (_updates(wrapped, state, batch) for batch in batches.values())
    return tuple(dict.fromkeys(part for parts in found for part in parts))


def _updates(wrapped: Any, state: Any, batch: Any) -> list[Part]:
    try:
        with noting_steps() as noted, keys(jax.random.key(0)):
            jax.eval_shape(wrapped, state, jax.tree.map(jnp.asarray, batch))
    except Exception:  # what is wrong is said when the step is run
        return []
    return [part_of(called) for called, _, _ in noted]


def _reduction(parts: Sequence[Part]) -> str:
    """How the parts of a step collect the gradients of several batches; "" if they do not."""
    found = [p.optimizer for p in parts if getattr(p.optimizer, "name", "") == "accumulate"]
    sums = any(each.defaults.get("reduction") == "sum" for each in found)
    return "sum" if sums else "mean" if found else ""


def _collected(
    step: Any, state: Any, parts: tuple[Part, ...], own: Foreign | ForeignStep | None
) -> tuple[Any, tuple[Part, ...], str]:
    """A step, its parts, and how they collect gradients, where optax.MultiSteps does.

    Args:
        step: The step.
        state: The state that the user gave.
        parts: The updates that are known of it.
        own: What the step was made of, if it is one of a plain flax model.

    Raises:
        SubjectError: It is not known which optimizer collects them, or it cannot be compared.
    """
    if isinstance(own, ForeignStep):
        optimizers, states = [*own.optimizers], [own.state]
    else:
        optimizers, states = [part.optimizer for part in parts], [*named_states(state).values()]
    known = [several for each in optimizers if (several := several_of(each)) is not None]
    dtypes = {p.dtype for one in states for p in one.params.values() if hasattr(p, "dtype")}
    made = {id(each): collecting(each, dtypes) for each in known}
    parts = tuple(
        part
        if (several := several_of(part.optimizer)) is None
        else dataclasses.replace(part, optimizer=made[id(several)])
        for part in parts
    )
    if not known:
        if has_sums(state) and not _reduction(parts):
            raise SubjectError(
                "check: state: it has gradients that optax.MultiSteps collects, and which one "
                "does so is not known of this step; give the model, its loss and its optimizer "
                "in its place"
            )
        return step, parts, _reduction(parts)
    own_sums = any(each.defaults["reduction"] == "sum" for each in made.values())
    return with_wide_sums(step, known), parts, "sum" if own_sums else "mean"


def part_of(step: TrainStep) -> Part:
    """The update of a step of `make_train_step`."""
    return Part(step.loss, step.optimizer, step.model, step.compute_dtype, step.batch_norm_parts)


def with_numbers(
    subject: Subject,
    state: Any,
    params: Mapping[str, str],
    buffers: Mapping[str, str],
    array_of: Callable[[str], np.ndarray],
) -> Any:
    """A state with recorded parameters and buffers, in the dtypes that it has.

    Args:
        subject: The program.
        state: The state.
        params: The sites of the parameters by their names in the trace.
        buffers: Those of the buffers.
        array_of: A function of a site that gives the array.
    """
    named = {id(one): name for name, one in named_states(state).items()}

    def put(one: TrainState[Any]) -> TrainState[Any]:
        model = subject.models[named[id(one)]]
        prefix = f"{model}." if model else ""

        def replaced(arrays: Mapping[str, Any], sites: Mapping[str, str]) -> dict[str, Any]:
            return {
                name: np.asarray(array_of(sites[prefix + name])).astype(old.dtype)
                if prefix + name in sites and hasattr(old, "dtype")
                else old
                for name, old in arrays.items()
            }

        return one.replace(
            params=replaced(one.params, params), buffers=replaced(one.buffers, buffers)
        )

    return map_states(put, state)


def is_ours(optimizer: Any) -> bool:
    """Whether the state of an optimizer can be read and written in torch's form."""
    return isinstance(optimizer, Optimizer) and has_torch_form(optimizer)
