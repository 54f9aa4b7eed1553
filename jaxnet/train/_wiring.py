"""Whether optimizer, average and scaling of a state and of a step go together."""

from collections.abc import Callable
from typing import Any, Protocol

import jax

from jaxnet.optim import Optimizer
from jaxnet.optim._scaling import has_scaler


class Average(Protocol):
    """The methods of a running average of weights, such as `jaxnet.optim.AveragedModel`."""

    def init(self, params: Any, buffers: Any = None) -> Any: ...

    def update(self, state: Any, params: Any, buffers: Any = None) -> Any: ...


def check_optimizer(owner: str, optimizer: Any) -> None:
    """Raises TypeError if it is no optimizer, but the function that makes one, for example."""
    if not (hasattr(optimizer, "init") and hasattr(optimizer, "update")):
        raise TypeError(
            f"{owner}: optimizer: {optimizer!r}; accepted is an optimizer of jaxnet.optim or "
            "optax, such as optim.SGD(lr=0.1)"
        )


def check_average(owner: str, average: Any) -> None:
    """Raises TypeError if it is no average, but the function of one, for example."""
    if average is not None and not (hasattr(average, "init") and hasattr(average, "update")):
        raise TypeError(
            f"{owner}: average: {average!r}; accepted is an optim.AveragedModel, such as "
            "optim.AveragedModel(optim.get_ema_avg_fn(0.999))"
        )


def optimizer_text(optimizer: Any) -> str:
    """The kinds and numbers of the parameter groups, as far as these are known in Python."""
    groups = optimizer.groups if isinstance(optimizer, Optimizer) else ()
    texts = []
    for group in groups:
        plain = (bool, int, float, str, tuple, list, type(None))
        known = {k: v for k, v in group.defaults.items() if isinstance(v, plain)}
        texts.append(f"{group.name}({', '.join(f'{k}={v}' for k, v in known.items())})")
    return "; ".join(texts)


def check_wiring(
    state: Any,
    optimizer: Any,
    loss_scale: Callable[[Any], jax.Array] | None,
    average: Average | None,
) -> None:
    """Raises ValueError if `create` and the step were given what does not go together."""
    if loss_scale is None and has_scaler(state.opt_state):
        raise ValueError(
            "loss_scale: None, but the optimizer has a GradScaler, which divides gradients by "
            "the scale; give loss_scale=optim.loss_scale, or leave GradScaler out"
        )
    if (average is None) != (state.average is None):
        raise ValueError(
            "average: the state keeps a running average, which this step would leave as it is"
            if average is None
            else "average: the state keeps none; give create(model, optimizer, average=...) it too"
        )
    text = optimizer_text(optimizer)
    before, now = state.optimizer.split("; "), text.split("; ")
    kinds = [[group.partition("(")[0] for group in groups] for groups in (before, now)]
    # Of another kind or number of groups the state may have been made for this optimizer since.
    if state.optimizer != text and kinds[0] == kinds[1]:
        raise ValueError(
            f"optimizer: {text}, but `create` was given {state.optimizer}, whose numbers are in "
            "the state and would hold. Give both the same optimizer; to change a number later, "
            "write optim.set_hyperparams(state.opt_state, lr=...). For a state of optim.regroup "
            'write state.replace(opt_state=..., optimizer="")'
        )
