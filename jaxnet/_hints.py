"""Attributes that a PyTorch program uses and jaxnet does not have, and what to write instead.

A class looks a name up in its table only when it has no such attribute: the attributes that
exist take no longer, `hasattr` says False, and the error says what to write.
"""

from collections.abc import Mapping
from typing import Any

_DTYPE = (
    "layers take a dtype when they are built (nn.Linear(3, 2, rngs=g, dtype=jnp.bfloat16)); to "
    "compute in half precision with float32 parameters write "
    "train.make_train_step(loss, optimizer, compute_dtype=jnp.bfloat16)"
)
_DEVICE = (
    "arrays are made on the first GPU where there is one; to put a training state somewhere else "
    'write jax.device_put(state, jax.devices("cpu")[0])'
)
_NO_GRADIENTS = (
    "gradients are values that jax.grad returns, so there is nothing to reset; a step from "
    "train.make_train_step computes them anew"
)
_FREEZE = (
    "freezing is up to the optimizer: write "
    'optim.groups([("layer1.*", optim.frozen())], optim.SGD(0.1)), with a pattern of the names'
)
_HOOK = "write `with nn.intercept(model, f):` around the call; f(call, proceed) sees it"
_STEP = (
    "step = train.make_train_step(loss, optimizer); state, metrics = step(state, batch) does "
    "the forward pass, the gradient and the update"
)

MODULE: Mapping[str, str] = {
    "state_dict": "write weights.state_dict(model)",
    "load_state_dict": "write weights.load_state_dict(model, state_dict)",
    "to": f"{_DEVICE}; for dtypes, {_DTYPE}",
    "cuda": _DEVICE,
    "cpu": _DEVICE,
    "half": _DTYPE,
    "bfloat16": _DTYPE,
    "float": "layers are float32 when they are built without a dtype",
    "requires_grad_": _FREEZE,
    "zero_grad": _NO_GRADIENTS,
    "forward": "call the module itself, model(x); a module of your own defines __call__",
    "register_forward_hook": _HOOK,
    "register_forward_pre_hook": _HOOK,
    "register_full_backward_hook": (
        "jax.grad returns the gradients by name: look at them, or ask "
        "train.make_train_step(..., grad_norm=True) for their norm"
    ),
    "compile": "write jax.jit(step) for a step of your own loop; train.fit compiles by itself",
    "backward": _STEP,
}
"""What to write instead of each attribute of torch.nn.Module."""

PARAMETER: Mapping[str, str] = {
    "requires_grad": _FREEZE,
    "requires_grad_": _FREEZE,
    "grad": (
        "gradients are values: jax.grad(f)(params) returns them in a dictionary like params, "
        "and train.make_train_step applies them"
    ),
    "data": "write p[...] to read the array, and p[...] = array to change it",
    "detach": "write jax.lax.stop_gradient(p[...])",
    "numel": "write p.size",
    "numpy": "write numpy.asarray(p[...])",
    "backward": _STEP,
}
"""What to write instead of each attribute of torch.nn.Parameter."""

OPTIMIZER: Mapping[str, str] = {
    "step": _STEP,
    "zero_grad": _NO_GRADIENTS,
    "state_dict": "write optim.optimizer_state_dict(optimizer, opt_state, params, names)",
    "load_state_dict": (
        "write optim.load_optimizer_state_dict(optimizer, opt_state, params, state_dict, names)"
    ),
    "param_groups": (
        "write optim.get_hyperparams(state.opt_state, group=0) to read, and "
        "optim.set_hyperparams(state.opt_state, group=0, lr=0.01) to change"
    ),
    "add_param_group": "write optim.groups([(pattern, optimizer), ...], default) from the start",
    "state": "the optimizer's state is in the training state, state.opt_state",
    "scale": "write train.make_train_step(..., loss_scale=optim.loss_scale), which scales the loss",
    "unscale_": (
        "GradScaler unscales before the optimizer that it is given: "
        "optim.GradScaler(optim.chain(optim.clip_by_norm(1.0), optim.SGD(0.1)))"
    ),
}
"""What to write instead of each attribute of torch.optim.Optimizer and torch.amp.GradScaler."""

_SCHEDULE = (
    "write optimizer = optim.scheduled(optimizer, schedule, steps), which follows it by itself, or "
    "opt_state = schedule.apply(opt_state, epoch) once an epoch"
)

SCHEDULE: Mapping[str, str] = {
    "step": _SCHEDULE,
    "get_last_lr": "write schedule.lr(step)",
    "last_epoch": "a schedule counts nothing; schedule.lr(step) gives the rates of any step",
    "base_lrs": "write schedule.lr(0)",
    "state_dict": "a schedule keeps no state: a checkpoint of the training state is enough",
    "load_state_dict": "a schedule keeps no state: a checkpoint of the training state is enough",
}
"""What to write instead of each attribute of torch.optim.lr_scheduler.LRScheduler."""


_MULTI = (
    "XLA fuses the update of all parameters by itself: give AveragedModel the function for one "
    "parameter, optim.{}"
)

OPTIM: Mapping[str, str] = {
    "SparseAdam": (
        "gradients are never sparse: write optim.Adam(lr), which also moves rows of an embedding "
        "that a batch does not use, by their momentum"
    ),
    "lr_scheduler": "the schedules are in optim itself: optim.StepLR(optimizer, step_size=30)",
    "LRScheduler": "write optim.Schedule, the class of all schedules, or optim.LambdaLR",
    "swa_utils": "its names are in optim itself: optim.AveragedModel, optim.SWALR, optim.update_bn",
    "get_ema_multi_avg_fn": _MULTI.format("get_ema_avg_fn(decay)"),
    "get_swa_multi_avg_fn": _MULTI.format("get_swa_avg_fn()"),
}
"""What to write instead of each name of torch.optim, lr_scheduler and swa_utils."""


def missing_name(module: str, name: str, table: Mapping[str, str]) -> AttributeError:
    """The error for a name that a module does not have, with what to write instead.

    A module raises it in `__getattr__`, which Python asks only for what the module has not.

    Args:
        module: The module's name.
        name: The name that was asked for.
        table: What to write instead, by name; a name may be missing from it.
    """
    message = f"module {module!r} has no attribute {name!r}"
    if name in table:
        message += f"; in jaxnet, {table[name]}"
    return AttributeError(message, name=name)


def missing_attribute(owner: Any, name: str, table: Mapping[str, str]) -> AttributeError:
    """The error for an attribute that an object does not have, with what to write instead.

    Args:
        owner: The object.
        name: The name of the attribute.
        table: What to write instead, by attribute; an attribute may be missing from it.
    """
    message = f"{type(owner).__name__!r} object has no attribute {name!r}"
    if name in table:
        message += f"; in jaxnet, {table[name]}"
    return AttributeError(message, name=name, obj=owner)
