"""A plain flax model as a module with torch's parameters, so that it is checked as one of jaxnet's.

The module holds torch's parameters and buffers under torch's names. Where the loss is computed it
makes the flax model of them, in flax's layouts, and gradients come back the same way. The
optimizer is given flax's arrays, under flax's names, as it is in the user's own program.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from jaxnet._intercept import Call, intercept
from jaxnet._keys import keys
from jaxnet._names import few
from jaxnet.optim import Optimizer
from jaxnet.parity._foreign_calls import Partners, foreign_calls
from jaxnet.parity._foreign_model import ForeignModel, Library
from jaxnet.parity._foreign_trace import as_seen, as_whole
from jaxnet.parity._layouts import gradients_to_model, to_model, to_torch
from jaxnet.parity._names_file import Names
from jaxnet.parity._pairing import Pairing, pair
from jaxnet.parity._port import SubjectError
from jaxnet.parity._trace import Trace
from jaxnet.parity._transformation import AdaptedOptimizer, refuse_inner
from jaxnet.parity._widened import wide_attention, widened

# What is not torch's is kept in the module under names that none of torch's begins with.
_OWN = "flax:"


class Adapted(nnx.Module):
    """The module with torch's parameters.

    Attributes:
        content: What stays the same: how the model is made. A static attribute.
    """

    def __init__(self, content: "Content", model: nnx.Module, like: Mapping[str, Any]) -> None:
        self.content = nnx.static(content)
        self.watch: Any = nnx.static(None)
        own = arrays_of(model)
        made = content.pairing.made
        torch = to_torch(made, {name: own[name] for name in made}, like)
        for name in content.parameters:
            setattr(self, name, nnx.Param(torch[name]))
        for name in content.buffers:
            setattr(self, name, nnx.BatchStat(torch[name]))
        for name, array in own.items():
            if name not in made:
                setattr(self, _OWN + name, nnx.Variable(array))

    def arrays(self) -> dict[str, Any]:
        """The arrays of the flax model by name."""
        content, own = self.content, vars(self)
        names = (*content.parameters, *content.buffers)
        made = to_model(content.pairing.made, {name: own[name][...] for name in names})
        rest = {n: own[_OWN + n].get_value() for n in content.paths if n not in made}
        return made | rest

    def model(self) -> nnx.Module:
        """The flax model with the numbers of this module."""
        content, arrays = self.content, self.arrays()
        state = {path: arrays[name] for name, path in content.paths.items()}
        model = nnx.merge(content.graph, nnx.from_flat_state(state.items()))
        if any(jnp.asarray(arrays[name]).dtype == jnp.float64 for name in content.pairing.made):
            widened(model)
        return model

    def take(self, model: nnx.Module) -> None:
        """Takes the buffers over that a forward pass has changed."""
        content, own = self.content, vars(self)
        arrays = arrays_of(model)
        made = {n: one for n, one in content.pairing.made.items() if n in content.statistics}
        like = {name: own[name][...] for name in content.buffers}
        if made:
            for name, array in to_torch(made, {n: arrays[n] for n in made}, like).items():
                own[name].set_value(array.astype(like[name].dtype))
        for name in content.paths:
            if name not in content.pairing.made:
                own[_OWN + name].set_value(arrays[name])


@dataclasses.dataclass(frozen=True, eq=False)
class Content:
    """How a flax model is made of torch's arrays.

    Attributes:
        graph: The model without its numbers.
        paths: The paths of its arrays by their dotted names.
        pairing: The partners.
        parameters: The names of torch's parameters.
        buffers: Those of torch's buffers that the model has.
        statistics: The names of the model's arrays that are made of buffers.
        library: How another library has the parameters that its optimizer is given.
    """

    graph: Any
    paths: Mapping[str, tuple[Any, ...]]
    pairing: Pairing
    parameters: tuple[str, ...]
    buffers: tuple[str, ...]
    statistics: frozenset[str]
    library: Library | None = None


def adapted(trace: Trace, model: nnx.Module, pairing: Pairing) -> Adapted:
    """The module with torch's parameters in place of a flax model.

    Raises:
        SubjectError: Arrays of the model have fewer digits than those of torch's.
    """
    _refuse_narrow(trace, arrays_of(model), pairing)
    graph, state = nnx.split(model)
    paths = {".".join(map(str, path)): path for path, _ in nnx.to_flat_state(state)}
    used = dict.fromkeys(name for one in pairing.made.values() for name in one.names)
    content = Content(
        graph,
        paths,
        pairing,
        tuple(name for name in trace.parameters if name in used),
        tuple(name for name in trace.buffers if name in used),
        frozenset(n for n, one in pairing.made.items() if one.names[0] in trace.buffers),
        model.library if isinstance(model, ForeignModel) else None,
    )
    about = {**trace.parameters, **trace.buffers}
    like = {name: np.zeros(about[name]["shape"], np.float32) for name in used}
    module = Adapted(content, model, like)
    # A sum of two of torch's biases has torch's number, whatever the two are.
    first = trace.steps[0]
    for name, one in pairing.made.items():
        if one.summands > 1 and all(f"before:{n}" in first for n in one.names):
            theirs = {n: first[f"before:{n}"] for n in one.names}
            own = arrays_of(model)[name]
            if np.allclose(np.asarray(one.of(theirs)), np.asarray(own), 1e-6, 1e-7):
                for n in one.names:
                    getattr(module, n).set_value(jnp.asarray(theirs[n]))
    return module


def _refuse_narrow(trace: Trace, own: Mapping[str, Any], pairing: Pairing) -> None:
    """Raises SubjectError for arrays that the check would compute with in torch's own dtype."""
    about = {**trace.parameters, **trace.buffers}
    apart: dict[tuple[str, str], list[str]] = {}
    for name, one in pairing.made.items():
        dtype = jnp.asarray(own[name]).dtype
        theirs = jnp.dtype(about[one.names[0]].get("dtype") or "float32")
        floating = all(jnp.issubdtype(each, jnp.floating) for each in (dtype, theirs))
        if floating and jnp.finfo(dtype).nmant < jnp.finfo(theirs).nmant:
            apart.setdefault((dtype.name, theirs.name), []).append(name)
    for (narrow, wide), names in apart.items():
        raise SubjectError(
            f"check: model: {few(names)} {'is' if len(names) == 1 else 'are'} {narrow} "
            f"(param_dtype); torch's {wide}. The training rounds otherwise then, and of numbers "
            "of fewer digits there is no float64 run to tell that from a difference. Leave "
            "param_dtype out, for the check at least"
        )


def arrays_of(model: Any, kind: Any = nnx.Variable) -> dict[str, Any]:
    """The arrays of a model by dotted name, without what `sow` has recorded."""
    state = nnx.state(model, nnx.All(kind, nnx.Not(nnx.Intermediate)))
    return {".".join(map(str, path)): v.get_value() for path, v in nnx.to_flat_state(state)}


@contextmanager
def as_by_itself(precision: str | None) -> Iterator[None]:
    """Runs foreign code under the settings of JAX that the user has chosen.

    Args:
        precision: The user's jax_default_matmul_precision: jaxnet multiplies in full float32 where
            nothing is chosen, and a program that does not must not be mended by the check.
    """
    with jax.default_matmul_precision(precision), wide_attention():
        yield


def chosen_precision() -> str | None:
    """The user's own setting of jax_default_matmul_precision."""
    return getattr(jax.config, "jax_default_matmul_precision")  # noqa: B009


@contextmanager
def watching(model: nnx.Module, watch: Callable[..., Any]) -> Iterator[None]:
    """Calls an interceptor for the modules of a model, or of the flax model that it stands for."""
    if not isinstance(model, Adapted):
        with intercept(model, watch):
            yield
        return
    model.watch = nnx.static(watch)
    try:
        yield
    finally:
        model.watch = nnx.static(None)


def adapted_loss(loss: Callable[..., Any]) -> Callable[..., Any]:
    """The loss of an `Adapted` module and a batch, from that of the flax model."""
    precision = chosen_precision()

    @functools.wraps(loss)
    def value(module: Adapted, batch: Any, *args: Any, **kwargs: Any) -> Any:
        model = module.model()
        with ExitStack() as stack:
            stack.enter_context(as_by_itself(precision))
            if module.watch is not None:
                stack.enter_context(intercept(model, module.watch))
            found = loss(model, batch, *args, **kwargs)
        module.take(model)
        # What a loss returns beside its value is not compared.
        return found[0] if isinstance(found, tuple) else found

    return value


def adapted_optimizer(optimizer: Any, content: Content, params: Any) -> AdaptedOptimizer:
    """An optimizer of torch's parameters that is one of the flax model's arrays.

    Args:
        optimizer: What `transformation` gave of an optimizer of optax or jaxnet.
        content: How the model is made.
        params: torch's parameters.
    """
    named = isinstance(optimizer, Optimizer)
    made = {n: one for n, one in content.pairing.made.items() if n not in content.statistics}
    precision = chosen_precision()
    general = optax.with_extra_args_support(optimizer)

    def tree(arrays: Mapping[str, Any]) -> Any:
        if named:
            return dict(arrays)
        if content.library is not None:
            return content.library.trained.tree(arrays)
        return nnx.as_pure(nnx.from_flat_state([(content.paths[n], a) for n, a in arrays.items()]))

    def flat(updates: Any) -> dict[str, Any]:
        if named:
            return dict(updates)
        if content.library is not None:
            return content.library.trained.named(updates)
        return {".".join(map(str, path)): a for path, a in nnx.to_flat_state(nnx.State(updates))}

    def init(params: Any) -> Any:
        return optimizer.init(tree(to_model(made, params)))

    def update(gradients: Any, state: Any, params: Any = None, **extra: Any) -> tuple[Any, Any]:
        given = {"value": extra["value"]} if "value" in extra else {}
        with as_by_itself(precision):
            updates, state = general.update(
                tree(gradients_to_model(made, gradients)),
                state,
                tree(to_model(made, params)),
                **given,
            )
        back = to_torch(made, flat(updates), params)
        return {name: back[name].astype(jnp.asarray(p).dtype) for name, p in params.items()}, state

    found = AdaptedOptimizer(init, update)
    refuse_inner(optimizer, tree(to_model(made, params)))
    if getattr(optimizer, "name", "") == "accumulate":
        found.name, found.defaults = "accumulate", optimizer.defaults
    return found


@dataclasses.dataclass(frozen=True)
class Foreign:
    """A program of plain flax as one of torch's parameters.

    Attributes:
        trace: The trace as it sees it.
        model: The module with torch's parameters.
        loss: The loss of it and a batch.
        optimizer: The optimizer of torch's parameters.
        partners: The layers that torch has modules for, by name.
        pairing: Which layers are which of torch's.
    """

    trace: Trace
    model: Adapted
    loss: Callable[..., Any]
    optimizer: Any
    partners: Partners
    pairing: Pairing


def is_foreign(trace: Trace, model: nnx.Module) -> bool:
    """Whether a model has other names or shapes than torch's, being none of jaxnet's.

    Raises:
        SubjectError: It is one of another library, and the trace has several models.
    """
    if isinstance(model, ForeignModel):
        if len(trace.models) > 1:
            raise SubjectError(
                f"check: model: a {model.library.title}, and the trace has the models "
                f"{', '.join(trace.models)}; accepted is a trace of one model. Record a program "
                "that trains one of them"
            )
        return True
    if hasattr(model, "named_parameters") or len(trace.models) > 1:
        return False
    shapes = {name: tuple(jnp.shape(a)) for name, a in arrays_of(model, nnx.Param).items()}
    return shapes != {name: tuple(each["shape"]) for name, each in trace.parameters.items()}


def adapt(
    trace: Trace, model: nnx.Module, loss: Callable[..., Any], optimizer: Any, names: Names | None
) -> Foreign:
    """A program of plain flax, its layers paired with torch's.

    Args:
        trace: The trace.
        model: The model.
        loss: Its loss.
        optimizer: What `transformation` gave of its optimizer.
        names: As in `pair`.

    Raises:
        SubjectError: The layers cannot be paired, or the optimizer cannot be compared.
    """
    pairing = pair(trace, model, names, functools.partial(_calls, trace, model, loss))
    partners = foreign_calls(trace, model, pairing)
    modules = {each.module for each in partners.values()}
    module = adapted(trace, model, pairing)
    whole = any(each.layout == "whole" for each in partners.values())
    return Foreign(
        as_whole(trace) if whole else as_seen(trace, modules),
        module,
        adapted_loss(loss),
        adapted_optimizer(optimizer, module.content, arrays_of(module, nnx.Param)),
        partners,
        pairing,
    )


def _calls(trace: Trace, model: nnx.Module, loss: Callable[..., Any]) -> list[str]:
    """The names of the modules of a model in the order of their calls; none if it does not run."""
    found: list[str] = []

    def note(call: Call, proceed: Callable[..., Any]) -> Any:
        found.append(call.name)
        return proceed(*call.args, **call.kwargs)

    def watched(own: nnx.Module, batch: Any) -> Any:
        with intercept(own, note):
            return loss(own, batch)

    with suppress(Exception):  # what is wrong is said when the step is run
        trial(trace, watched)(model)
    return found


def trial(trace: Trace, loss: Callable[..., Any]) -> Callable[[nnx.Module], Any]:
    """A function that calls a model as its loss does with the first batch, and computes nothing."""

    def shapes(model: nnx.Module) -> Any:
        graph, state = nnx.split(model)

        def run(state: Any, batch: Any) -> None:
            with keys(jax.random.key(0)):
                loss(nnx.merge(graph, state), batch)

        batch = trace.steps[0].batch() if trace.steps[0].batches else None
        jax.eval_shape(run, state, jax.tree.map(jnp.asarray, batch))

    return shapes
