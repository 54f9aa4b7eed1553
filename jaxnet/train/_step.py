"""Training steps: pure functions of (state, batch)."""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jax.typing import DTypeLike

from jaxnet import metrics as metric_functions
from jaxnet._checks import check_integer
from jaxnet._names import is_module
from jaxnet.backend import ROWS
from jaxnet.losses._reduction import dividing_by, noting_divisors
from jaxnet.optim import Optimizer
from jaxnet.precision import check_x64, full_float32
from jaxnet.train._loss import Loss, Metrics, entered, with_metrics, with_step
from jaxnet.train._several import arrays_of, map_states, state_of, with_arrays, with_state
from jaxnet.train._state import Arrays, split
from jaxnet.train._wiring import Average, check_average, check_optimizer, check_wiring

Step = Callable[[Any, Any], tuple[Any, Metrics]]


@dataclasses.dataclass(frozen=True, eq=False)
class TrainStep:
    """A training step of `make_train_step`: a function `(state, batch) -> (state, metrics)`.

    Attributes:
        function: The function.
        loss: The loss function that the step minimises, which `diagnose` evaluates again.
        compute_dtype: The dtype of the model's arithmetic, or None.
        optimizer: The optimizer.
        model: The name of the model that the step trains, in a state of several; else None.
        batch_norm_parts: The number of parts of a batch that batch norms normalise each alone.
    """

    function: Step
    loss: Loss
    compute_dtype: DTypeLike | None
    optimizer: optax.GradientTransformation
    model: str | int | None = None
    batch_norm_parts: int = 1

    def __call__(self, state: Any, batch: Any) -> tuple[Any, Metrics]:
        if (noted := _noted.get()) is not None:
            noted.append((self, state, batch))
        return self.function(state, batch)


_noted: ContextVar[list[tuple[TrainStep, Any, Any]] | None] = ContextVar("noted", default=None)


@contextmanager
def noting_steps() -> Iterator[list[tuple[TrainStep, Any, Any]]]:
    """Collects the steps that are called inside, with their states and batches."""
    found: list[tuple[TrainStep, Any, Any]] = []
    token = _noted.set(found)
    try:
        yield found
    finally:
        _noted.reset(token)


@dataclasses.dataclass(frozen=True, eq=False)
class EvalStep:
    """An evaluation step of `make_eval_step`, which `fit` tells from a training step.

    Attributes:
        function: The function `(state, batch) -> (state, metrics)`.
    """

    function: Step

    def __call__(self, state: Any, batch: Any) -> tuple[Any, Metrics]:
        return self.function(state, batch)


def supervised(
    criterion: Callable[[Any, Any], jax.Array],
    metrics: Mapping[str, Callable[[Any, Any], Any]] | None = None,
) -> Loss:
    """The usual loss function: `criterion(model(inputs), targets)` of a batch (inputs, targets).

    A tuple as inputs becomes the model's arguments. For any other kind of batch or loss write
    the function yourself, as in the example.

    Args:
        criterion: A function of outputs and targets that returns a scalar, such as
            `losses.cross_entropy`.
        metrics: Further functions of outputs and targets by name, such as
            `metrics.accuracy`.

    Returns:
        A function `(model, batch) -> (loss, metrics)` for `make_train_step` and
        `make_eval_step`.

    >>> from jaxnet import losses
    >>> def loss(model, batch):
    ...     images, classes = batch
    ...     penalty = 1e-3 * losses.l2_penalty(model, where="*.weight")
    ...     return losses.cross_entropy(model(images), classes) + penalty
    """

    def loss(model: Any, batch: Any) -> tuple[jax.Array, Metrics]:
        # An array of two rows would come apart into them.
        if not isinstance(batch, tuple | list) or len(batch) != 2:
            raise ValueError(
                f"supervised: a batch of {jax.tree.map(jnp.shape, batch)}; accepted is (inputs, "
                "targets). For other batches write loss(model, batch) yourself"
            )
        inputs, targets = batch
        outputs = model(*inputs) if isinstance(inputs, tuple) else model(inputs)
        measured = {name: f(outputs, targets) for name, f in (metrics or {}).items()}
        return criterion(outputs, targets), measured

    return loss


def make_train_step(
    loss: Loss,
    optimizer: optax.GradientTransformation,
    *,
    model: str | int | None = None,
    microbatches: int = 1,
    compute_dtype: DTypeLike | None = None,
    loss_scale: Callable[[Any], jax.Array] | None = None,
    remat: bool | Callable[..., Any] = False,
    average: Average | None = None,
    grad_norm: bool = False,
    batch_norm_parts: int = 1,
) -> Step:
    """A training step: the gradient of the loss, then the optimizer's update.

    It does what `zero_grad()`, `backward()` and `optimizer.step()` do in PyTorch's loop. A
    parameter that the loss does not use, whose `grad` would be None there, stays as it is.

    Args:
        loss: A function `loss(model, batch)` that returns a scalar, or a scalar and a
            dictionary of metrics. It is given the model in training mode, inside an
            `nn.keys` context with `fold_in(state.key, state.step)` for dropout and the like. One
            with a third parameter `step`, `loss(model, batch, step)`, is given `state.step`, the
            number of the steps before this one.
        optimizer: The optimizer, whose updates are added to the parameters. Clipping,
            parameter groups, frozen parameters and schedules are parts of it
            (`jaxnet.optim`). LBFGS is given the loss of the batch as a function, torch's
            closure.
        model: Which model the step trains, where the state is that of several: its key in a
            dictionary of states, its number in a tuple, or its name in a dataclass. The loss is
            then given all models, in the same dictionary, tuple or dataclass, and the batch. Only
            this model has gradients, so that nothing has to be detached; the buffers of all
            come back in the state.
        microbatches: The number of equal parts into which a batch is cut to save memory. The
            gradient is the mean of the parts' gradients, which for a loss that is a mean is
            the gradient of the whole batch; `losses.cross_entropy` and `nll_loss` divide by the
            targets that count in the whole batch. A loss of your own must not divide by a
            number that differs between the parts, such as the sum of a mask, and a sum comes
            out divided by the number of parts. Metrics that are numbers or arrays are the means
            over the parts, as `fit`'s are over steps; a `jaxnet.metrics.Metric` is joined over
            all rows. BatchNorm sees the parts one after another.
        compute_dtype: The dtype of the model's arithmetic, bfloat16 or float16; parameters,
            gradients, the model's outputs and the loss stay in float32. None means float32.
        loss_scale: The function `optim.loss_scale`, for float16 with an optimizer in
            `optim.GradScaler`; None for no scaling.
        remat: Whether the backward pass computes intermediate results again instead of
            keeping them (torch.utils.checkpoint). True keeps only the results of matrix
            products; a policy of `jax.checkpoint_policies` chooses others.
        average: The `optim.AveragedModel` that `create` was given too: a running average of
            the weights, updated after every step.
        grad_norm: Whether the metrics include "grad_norm", the 2-norm of the whole gradient
            before clipping; in float16 training that of the gradient without the loss scale.
        batch_norm_parts: The number n of equal parts of a batch, rows 0 to B/n - 1 first, each of
            which a batch norm in training mode normalises by its own mean and variance: what
            torch's DistributedDataParallel with n processes computes without SyncBatchNorm (and,
            but for the running statistics, ghost batch norm). As there, running statistics are
            those of the first part. It does not depend on the devices; where those of a mesh
            have whole parts, nothing is sent for the normalisation. 1 is the whole batch, which
            `nn.SyncBatchNorm` always has. With microbatches each of them is cut so. The input of
            a batch norm has to have the batch's rows, in their order. Nothing but norms
            depends on the parts: the loss is that of the whole batch.

    Returns:
        A pure function `(state, batch) -> (state, metrics)`, not yet compiled:
        call it through `jax.jit`, or give it to `fit` or `make_epoch`. `metrics["loss"]`
        is the loss before the update, as PyTorch's loop prints it.

    Raises:
        ValueError: The number of microbatches or of batch_norm_parts is below 1, float16 has no
            loss scaling, or (in the step) a batch cannot be cut into equal parts, loss_scale and
            GradScaler do not go together, `create` was given an optimizer with other numbers, an
            average where the step has none (or the other way round), the state has no such model,
            the loss depends on no parameter of it, or the forward pass changes an attribute of the
            model, which would be lost after the step.
        TypeError: An argument is of another kind.
    """
    check_optimizer("make_train_step", optimizer)
    check_average("make_train_step", average)
    if not isinstance(model, str | int | None):
        raise TypeError(
            f"make_train_step: model: a {type(model).__name__}; accepted is the key of a model in "
            "the state. The model itself is given to train.create"
        )
    if loss_scale is not None and not callable(loss_scale):
        raise TypeError(f"loss_scale: {loss_scale!r}; accepted is optim.loss_scale")
    check_x64("compute_dtype", compute_dtype)
    check_integer("microbatches", microbatches, least=1)
    check_integer("batch_norm_parts", batch_norm_parts, least=1)
    if jnp.dtype(compute_dtype or jnp.float32) == jnp.float16 and loss_scale is None:
        raise ValueError(
            "compute_dtype: float16 gradients vanish without loss scaling; put the optimizer in "
            "optim.GradScaler and give loss_scale=optim.loss_scale, or compute in bfloat16"
        )

    call = with_step(loss)

    def objective(
        params: Arrays,
        changed: Any,  # the parameters and buffers of each model, which forward passes may change
        batch: Any,
        state: Any,
        key: jax.Array,
        divisors: Sequence[jax.Array] = (),
    ) -> tuple[jax.Array, Any]:
        state = with_arrays(state, changed)
        own = state_of(state, model)
        state = with_state(state, model, own.replace(params=params))
        inside = entered(state, batch, key, compute_dtype, True, batch_norm_parts)
        with inside as (models, batch), dividing_by(divisors):
            value, metrics = with_metrics(call(models, batch, own.step))
        if grad_norm and "grad_norm" in metrics:
            raise ValueError("metrics: 'grad_norm' is asked for; give this metric another name")
        # Only the differentiated value is scaled; the loss that is reported is not. The models
        # are split again because their layers have changed buffers, such as running statistics.
        scale = 1.0 if loss_scale is None else loss_scale(own.opt_state).astype(value.dtype)
        after = map_states(lambda _, one: split(one)[1:], state, models)
        return value * scale, (value, metrics, after)

    rematerialised = objective
    if remat:
        policy = jax.checkpoint_policies.dots_saveable if remat is True else remat
        rematerialised = jax.checkpoint(objective, policy=policy)

    def gradient(reached: set[str], params: Arrays, *rest: Any) -> tuple[Arrays, Any]:
        def value(params: Arrays) -> tuple[jax.Array, Any]:
            noting = {name: _noting(reached, name, p) for name, p in params.items()}
            return rematerialised(noting, *rest)

        return jax.grad(value, has_aux=True)(params)

    def parts(reached: set[str], state: Any, batch: Any, key: jax.Array) -> tuple[Any, Any]:
        if any(map(is_module, jax.tree.leaves(batch, is_leaf=is_module))):
            raise ValueError(
                "microbatches: the batch has a model in it, whose arrays would be cut; keep its "
                "state beside that of the model that is trained, and give make_train_step `model`"
            )
        cut = jax.tree.map(functools.partial(_cut, microbatches), batch)
        before, params = arrays_of(state), state_of(state, model).params

        def divide(numbered: Any) -> list[jax.Array]:
            i, part = numbered
            with noting_divisors() as found:
                objective(params, before, part, state, jax.random.fold_in(key, i))
            return found

        def run(carry: Any, numbered: Any) -> tuple[Any, Any]:
            i, part = numbered
            total, changed = carry
            params = state_of(with_arrays(state, changed), model).params
            grads, (value, metrics, changed) = gradient(
                reached, params, changed, part, state, jax.random.fold_in(key, i), divisors
            )
            total = jax.tree.map(jnp.add, total, grads)
            return (total, changed), (value, metrics)

        start = jax.tree.map(jnp.zeros_like, params), before
        # A loop instead of copies of the program, so that compilation takes no longer.
        numbers = jnp.arange(microbatches)
        divisors = [each.mean(0) for each in lax.map(divide, (numbers, cut))]
        (total, changed), (values, stacked) = lax.scan(run, start, (numbers, cut))
        grads = jax.tree.map(lambda g: g / microbatches, total)
        metrics = jax.tree.map(
            lambda metric: metric_functions.total(metric) if _joins(metric) else metric.mean(0),
            stacked,
            is_leaf=_joins,
        )
        return grads, (values.mean(), metrics, changed)

    @full_float32()
    def step(state: Any, batch: Any) -> tuple[Any, Metrics]:
        own = state_of(state, model)
        check_wiring(own, optimizer, loss_scale, average)
        # The key depends on the number of the step alone, so that a run that is resumed draws
        # the same numbers as an uninterrupted one.
        key = jax.random.fold_in(own.key, own.step)
        reached: set[str] = set()  # the names of the parameters that have a gradient
        if microbatches > 1:
            grads, aux = parts(reached, state, batch, key)
        else:
            grads, aux = gradient(reached, own.params, arrays_of(state), batch, state, key)
        if own.params and not reached:  # where backward() is an error in torch
            which = "the model" if model is None else f"the model {model!r}, which the step trains"
            raise ValueError(f"loss: it depends on no parameter of {which}")
        # A layer may change its own parameters in the forward pass, as Embedding(max_norm) does
        # in torch too, so the update is added to the parameters after it.
        value, metrics, changed = aux
        after = state_of(with_arrays(state, changed), model)
        params = after.params
        if grad_norm:
            scale = 1.0 if loss_scale is None else loss_scale(own.opt_state)
            metrics = {**metrics, "grad_norm": optax.tree.norm(grads) / scale}
        extra: dict[str, Any] = {}
        if missing := [name for name in params if name not in reached]:
            extra["has_gradient"] = dict.fromkeys(missing, False)
        if isinstance(optimizer, optax.GradientTransformationExtraArgs):
            extra |= {"value": value, "grad": grads}
            extra["value_fn"] = lambda p: objective(p, arrays_of(state), batch, state, key)[1][0]
        updates, opt_state = _update(optimizer, grads, own.opt_state, params, extra)
        with jax.numpy_dtype_promotion("standard"):  # float32 updates of bfloat16 parameters
            params = optax.apply_updates(params, updates)
        after = after.replace(step=own.step + 1, params=params, opt_state=opt_state)
        if average is not None:
            averaged = average.update(own.average, after.params, after.buffers)
            after = after.replace(average=averaged)
        return with_state(with_arrays(state, changed), model, after), {"loss": value, **metrics}

    return TrainStep(step, loss, compute_dtype, optimizer, model, batch_norm_parts)


def _noting(reached: set[str], name: str, param: jax.Array) -> jax.Array:
    """The parameter, whose name is noted when the backward pass comes to it.

    Whether it comes there is known while the program is traced: JAX passes the zeros of what a
    result does not depend on as symbols. In PyTorch `grad` is None then.
    """

    @jax.custom_vjp
    def same(x: jax.Array) -> jax.Array:
        return x

    def forward(x: Any) -> tuple[jax.Array, None]:
        return x.value, None

    def backward(_: None, ct: Any) -> tuple[Any]:
        if isinstance(ct, jax.custom_derivatives.SymbolicZero):
            return (None,)
        reached.add(name)
        return (ct,)

    same.defvjp(forward, backward, symbolic_zeros=True)
    noted: jax.Array = same(param)
    return noted


def _joins(metric: Any) -> bool:
    return isinstance(metric, metric_functions.Metric)


def _cut(parts: int, array: jax.Array) -> jax.Array:
    if array.shape[0] % parts:
        raise ValueError(
            f"microbatches: a batch of {array.shape[0]} rows cannot be cut into {parts} equal parts"
        )
    cut = array.reshape(parts, -1, *array.shape[1:])
    mesh = jax.sharding.get_abstract_mesh()
    if ROWS in mesh.auto_axes and cut.shape[1] % mesh.shape[ROWS] == 0:
        # Each device computes some rows of every part, and not the parts one after another.
        return lax.with_sharding_constraint(cut, jax.sharding.PartitionSpec(None, ROWS))
    return cut


def _update(
    optimizer: optax.GradientTransformation,
    grads: Arrays,
    opt_state: Any,
    params: Arrays,
    extra: dict[str, Any],
) -> tuple[Any, Any]:
    """The optimizer's update, with an error that says so if the state is another optimizer's."""
    # The right structure is asked for only when something is wrong: tracing the optimizer's
    # init would take time in every step that is traced.
    error: Exception | None = None
    try:
        if isinstance(optimizer, Optimizer):
            updates, after = optimizer.update(grads, opt_state, params, **extra)
        else:  # one of optax, which moves all parameters
            still = extra.pop("has_gradient", {})
            updates, after = optimizer.update(grads, opt_state, params, **extra)
            updates = {k: jnp.zeros_like(u) if k in still else u for k, u in updates.items()}
        if jax.tree.structure(after) == jax.tree.structure(opt_state):  # type: ignore[operator]
            return updates, after
    except Exception as raised:
        expected: Any = jax.tree.structure(jax.eval_shape(optimizer.init, params))
        if expected == jax.tree.structure(opt_state):
            raise
        error = raised
    raise ValueError(
        f"optimizer: the state is that of another one ({type(opt_state).__name__}); give "
        f"create(model, optimizer) the optimizer of the step, here {optimizer!r}"
    ) from error
