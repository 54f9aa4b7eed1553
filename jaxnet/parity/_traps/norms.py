"""Faults of normalisation."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet.parity._traps._trap import Trap, setting

LAYER, RMS = ("LayerNorm", "layer_norm"), ("RMSNorm", "rms_norm")
GROUP = ("GroupNorm", "group_norm")
BATCH = ("BatchNorm1d", "BatchNorm2d", "BatchNorm3d", "SyncBatchNorm", "batch_norm")
INSTANCE = ("InstanceNorm1d", "InstanceNorm2d", "InstanceNorm3d", "instance_norm")
ALL = (*LAYER, *RMS, *GROUP, *BATCH, *INSTANCE)
CENTRED = (*LAYER, *GROUP, *BATCH, *INSTANCE)

_EPS = (1e-3, 1e-5, 1e-6, 1e-8, 1e-12)


def _grouped(layer: Any, x: Any) -> Any:
    """The input with the axes that are averaged at the end as those of `_axes`."""
    return x.reshape(x.shape[0], layer.config["num_groups"], -1) if layer.kind in GROUP else x


def _axes(layer: Any, x: Any) -> tuple[int, ...]:
    """The axes that are averaged over."""
    if layer.kind in (*LAYER, *RMS):
        shape = layer.config["normalized_shape"]
        return tuple(range(-(len(shape) if isinstance(shape, Sequence) else 1), 0))
    if layer.kind in GROUP:
        return (2,)
    if layer.kind in INSTANCE:
        return tuple(range(2, x.ndim))
    return (0, *range(2, x.ndim))


def _by(formula: Callable[..., Any]) -> Callable[..., Any]:
    """A change to another formula of the normalised input; `formula(x, axes, eps)`."""

    def change(layer: Any, **options: Any) -> Any:
        if _uses_running(layer):
            raise ValueError("it does not use the statistics of its input")

        def run(inner: Any, p: Any, b: Any, x: Any) -> Any:
            _, after = inner(p, b, x)
            input = x[layer.first]
            grouped = _grouped(layer, input)
            y = formula(grouped, _axes(layer, grouped), layer.config["eps"], **options)
            return _affine(layer, y.reshape(input.shape), p), after

        return layer.wrapped(run)

    return change


def _affine(layer: Any, y: Any, p: Mapping[str, Any]) -> Any:
    shape = (1, -1, *(1,) * (y.ndim - 2))
    for name, combine in (("weight", jnp.multiply), ("bias", jnp.add)):
        if p.get(name) is not None:
            array = p[name] if layer.kind in (*LAYER, *RMS) else p[name].reshape(shape)
            y = combine(y, array)
    return y


def _uses_running(layer: Any) -> bool:
    return layer.kind in (*BATCH, *INSTANCE) and not layer.training and bool(layer.buffers)


def _moments(x: Any, axes: tuple[int, ...], correction: int = 0) -> tuple[Any, Any]:
    centred = x - x.mean(axes, keepdims=True)
    count = math.prod(x.shape[a] for a in axes)
    return centred, jnp.square(centred).sum(axes, keepdims=True) / (count - correction)


def _outside_root(x: Any, axes: tuple[int, ...], eps: float) -> Any:
    centred, var = _moments(x, axes)
    return centred / (jnp.sqrt(var) + eps)


def _unbiased(x: Any, axes: tuple[int, ...], eps: float) -> Any:
    centred, var = _moments(x, axes, 1)
    return centred / jnp.sqrt(var + eps)


def _uncentred(x: Any, axes: tuple[int, ...], eps: float) -> Any:
    return x / jnp.sqrt(jnp.square(x).mean(axes, keepdims=True) + eps)


def _centred(x: Any, axes: tuple[int, ...], eps: float) -> Any:
    centred, var = _moments(x, axes)
    return centred / jnp.sqrt(var + eps)


def _other_axes(x: Any, axes: tuple[int, ...], eps: float, over: tuple[int, ...]) -> Any:
    del axes
    return _centred(x, over, eps)


def _candidates(layer: Any) -> list[tuple[int, ...]]:
    """Sets of axes that are averaged over by mistake."""
    x = layer.input
    grouped = layer.kind in GROUP
    n = 3 if grouped else x.ndim
    own = {a % n for a in _axes(layer, x)}
    sets = [
        *((a,) for a in range(n)),
        tuple(range(n)),
        tuple(range(1, n)),
        tuple(range(n - 1)),
        (0, *range(2, n)),
        tuple(range(2, n)),
    ]
    return [s for s in dict.fromkeys(sets) if s and set(s) != own]


def _fast_variance(x: Any, axes: tuple[int, ...], eps: float) -> Any:
    mean = x.mean(axes, keepdims=True)
    var = jnp.maximum(jnp.square(x).mean(axes, keepdims=True) - jnp.square(mean), 0)
    return (x - mean) * jax.lax.rsqrt(var + eps)


def _in_float32(layer: Any) -> Any:
    return dataclasses.replace(_by(_fast_variance)(layer), dtype=np.float32)


def _dealt(layer: Any) -> Any:
    groups = layer.config["num_groups"]

    def deal(x: Any, first: int) -> Any:
        return x.reshape(x.shape[0], first, -1, *x.shape[2:]).swapaxes(1, 2).reshape(x.shape)

    def run(inner: Any, p: Any, b: Any, x: Any) -> Any:
        ones = {n: (jnp.ones_like if n == "weight" else jnp.zeros_like)(a) for n, a in p.items()}
        input = x[layer.first]
        # Group g is made of the channels g, g + groups, g + 2 groups, ...
        y, b = inner(ones, b, {**x, layer.first: deal(input, input.shape[1] // groups)})
        return _affine(layer, deal(y, groups), p), b

    return layer.wrapped(run)


def _group_counts(layer: Any) -> list[int]:
    channels = layer.input.shape[1]
    own = layer.config["num_groups"]
    return [n for n in range(1, channels + 1) if channels % n == 0 and n != own]


def _momentum(layer: Any, momentum: float) -> Any:
    own = layer.config["momentum"]
    if not 0 <= momentum <= 1 or (own is not None and math.isclose(momentum, 1 - own)):
        raise ValueError("it is the complement, or no momentum")
    return layer.altered(momentum=momentum)


def _complement(layer: Any) -> Any:
    return layer.altered(momentum=1 - layer.config["momentum"])


def _biased(layer: Any) -> Any:
    x = layer.input
    count = math.prod(x.shape[2:]) * (1 if layer.kind in INSTANCE else x.shape[0])

    def run(inner: Any, p: Any, b: Any, given: Any) -> Any:
        y, after = inner(p, b, given)
        momentum = layer.config["momentum"]
        if momentum is None:
            momentum = 1 / after["num_batches_tracked"]
        kept = (1 - momentum) * b["running_var"]
        return y, {
            **after,
            "running_var": kept + (after["running_var"] - kept) * (count - 1) / count,
        }

    return layer.wrapped(run)


def _frozen(layer: Any) -> Any:
    def run(inner: Any, p: Any, b: Any, x: Any) -> Any:
        y, after = inner(p, b, x)
        # The number of batches may be counted all the same.
        kept = {name: array for name, array in b.items() if name.startswith("running_")}
        return y, {**after, **kept}

    return layer.wrapped(run)


def _other_mode(layer: Any) -> Any:
    if not layer.buffers:
        raise ValueError("it has no running statistics")
    changed = dataclasses.replace(layer, training=not layer.training)
    name = "use_input_stats" if "use_input_stats" in layer.config else "training"
    return changed.altered(**{name: not layer.training}) if name in layer.config else changed


def _has_momentum(config: Mapping[str, Any]) -> bool:
    return config.get("momentum") is not None and config.get("track_running_stats", True)


TRAPS = (
    Trap(
        "norm-epsilon",
        ALL,
        setting(),
        "The epsilon is {eps:.4g}; torch's is {torch[eps]:.4g}.",
        "Give epsilon={torch[eps]:.4g}; flax's default is 1e-6 where torch's is 1e-5.",
        constants={"eps": _EPS},
    ),
    Trap(
        "norm-epsilon-outside",
        CENTRED,
        _by(_outside_root),
        "The epsilon is added to the standard deviation; torch adds it to the variance.",
        "Divide by sqrt(var + eps).",
    ),
    Trap(
        "norm-unbiased",
        CENTRED,
        _by(_unbiased),
        "The input is divided by the unbiased standard deviation; torch's is the biased one.",
        "Divide by sqrt(x.var() + eps), without ddof=1.",
    ),
    Trap(
        "norm-not-centred",
        CENTRED,
        _by(_uncentred),
        "The mean is not subtracted, as in RMSNorm; torch's layer subtracts it.",
        "Use LayerNorm, or subtract the mean before.",
    ),
    Trap(
        "norm-centred",
        RMS,
        _by(_centred),
        "The mean is subtracted, as in LayerNorm; torch's RMSNorm does not subtract it.",
        "Use RMSNorm.",
    ),
    Trap(
        "norm-axes",
        CENTRED,
        _by(_other_axes),
        "The statistics are over the axes {over} of torch's input; torch's layer averages over "
        "others.",
        "Give the axes that torch averages over: the last ones in LayerNorm, batch and space in "
        "BatchNorm, space in InstanceNorm.",
        options={"over": _candidates},
    ),
    Trap(
        "norm-scale-missing",
        ALL,
        lambda layer: layer.with_parameters(weight=jnp.ones_like),
        "The weight is not multiplied; torch's layer multiplies it.",
        "Give use_scale=True, and torch's weight as the scale.",
    ),
    Trap(
        "norm-scale-plus-one",
        ALL,
        lambda layer: layer.with_parameters(weight=lambda w: 1 + w),
        "The factor is 1 + weight; torch's is the weight.",
        "Multiply by the weight itself, or subtract 1 from it when it is converted.",
    ),
    Trap(
        "norm-group-order",
        GROUP,
        _dealt,
        "A group is made of channels that lie {torch[num_groups]} apart; torch's groups are of "
        "neighbouring channels.",
        "Reshape the channels to (groups, channels of a group), and not the other way around.",
        when=lambda config: config["num_groups"] > 1,
    ),
    Trap(
        "norm-groups",
        GROUP,
        lambda layer, groups: layer.altered(num_groups=groups),
        "The number of groups is {groups}; torch's is {torch[num_groups]}.",
        "Give num_groups={torch[num_groups]}; flax's group_size is the number of channels of each.",
        options={"groups": _group_counts},
    ),
    Trap(
        "norm-mode",
        (*BATCH, *INSTANCE),
        _other_mode,
        "The layer is in the other mode than torch's: in training the batch's own statistics are "
        "used, in evaluation the running ones.",
        "Give use_running_average as torch's model.train() and model.eval() do.",
    ),
    Trap(
        "norm-running-variance-biased",
        (*BATCH, *INSTANCE),
        _biased,
        "The running variance takes the biased variance of the batch; torch's takes the unbiased "
        "one.",
        "Multiply the batch's variance by n / (n - 1) before it goes into the running variance.",
    ),
    Trap(
        "norm-momentum-complement",
        (*BATCH, *INSTANCE),
        _complement,
        "The momentum {torch[momentum]} weighs the old statistics; torch's weighs the new ones.",
        "In flax give momentum=1 - {torch[momentum]}.",
        when=_has_momentum,
    ),
    Trap(
        "norm-momentum",
        (*BATCH, *INSTANCE),
        _momentum,
        "The new statistics have the weight {momentum:.4g}; torch's momentum is {torch[momentum]}.",
        "Give the new statistics the weight {torch[momentum]}; in flax momentum=1 - "
        "{torch[momentum]}.",
        when=_has_momentum,
        constants={"momentum": (0.01, 0.1, 0.003, 0.001, 0.05)},
    ),
    Trap(
        "norm-running-frozen",
        (*BATCH, *INSTANCE),
        _frozen,
        "The running statistics are not updated; torch updates them at each call in training.",
        "Keep the updated statistics: what the call changes must be part of the step's result.",
    ),
    Trap(
        "norm-fast-variance",
        CENTRED,
        _in_float32,
        "The variance is the mean square minus the squared mean, which loses digits in float32; "
        "torch squares the distances from the mean.",
        "Give use_fast_variance=False.",
        precision=True,
    ),
)
