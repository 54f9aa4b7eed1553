"""Faults of Linear, of convolutions and of transposed convolutions."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxnet.parity._traps._trap import Trap

LINEAR = ("Linear", "linear")
CONV = ("Conv1d", "Conv2d", "Conv3d", "conv1d", "conv2d", "conv3d")
CONV_TRANSPOSE = (
    *("ConvTranspose1d", "ConvTranspose2d", "ConvTranspose3d"),
    *("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"),
)
FLATTEN = ("Flatten", "flatten", "reshape", "view")


def each(value: Any, axes: int) -> tuple[int, ...]:
    """An argument such as a stride for each axis."""
    if isinstance(value, str):
        raise ValueError(f"{value!r} is no number")
    return tuple(value) if isinstance(value, Sequence) else (value,) * axes


def same_pads(
    sizes: Sequence[int], windows: Sequence[int], strides: Sequence[int], dilations: Sequence[int]
) -> list[tuple[int, int]]:
    """The padding before and after each axis that XLA forms for "SAME"."""
    pads = []
    for size, window, stride, dilation in zip(sizes, windows, strides, dilations, strict=True):
        whole = max((-(-size // stride) - 1) * stride + (window - 1) * dilation + 1 - size, 0)
        pads.append((whole // 2, whole - whole // 2))
    return pads


def padded(layer: Any, pads: Sequence[tuple[int, int]], value: float = 0.0) -> Any:
    """A layer without padding, whose input is padded before."""

    def pad(x: Any) -> Any:
        widths = [(0, 0)] * (x.ndim - len(pads)) + [*pads]
        return jnp.pad(x, widths, constant_values=value)

    return layer.fed(pad).altered(padding=0)


def _window(layer: Any) -> tuple[Sequence[int], Sequence[int], Sequence[int], Sequence[int]]:
    """The sizes of input, window, stride and dilation along the spatial axes."""
    window = layer.parameters["weight"].shape[2:]
    n = len(window)
    config = layer.config
    return (
        layer.input.shape[-n:],
        window,
        each(config.get("stride", 1), n),
        each(config.get("dilation", 1), n),
    )


def _conv_padding(layer: Any, padding: str) -> Any:
    if padding == "VALID":
        return layer.altered(padding=0)
    return padded(layer, same_pads(*_window(layer)))


def _undilated(layer: Any, padding: str) -> Any:
    if padding == "torch's":
        return layer.altered(dilation=1)
    _, window, _, dilations = _window(layer)
    pads = each(layer.config.get("padding", 0), len(window))
    less = [(k - 1) * (d - 1) // 2 for k, d in zip(window, dilations, strict=True)]
    return layer.altered(dilation=1, padding=tuple(p - q for p, q in zip(pads, less, strict=True)))


def _other_padding_modes(layer: Any) -> Sequence[str]:
    own = layer.config.get("padding_mode", "zeros")
    return [m for m in ("zeros", "reflect", "replicate", "circular") if m != own]


def has_padding(config: Mapping[str, Any]) -> bool:
    padding = config.get("padding", 0)
    return bool(np.any(np.asarray(padding) != 0)) if padding != "valid" else False


def _uneven(layer: Any) -> Sequence[str]:
    """The arguments that differ between the axes."""
    found = []
    for name in ("stride", "padding", "dilation"):
        value = layer.config.get(name, 0)
        if isinstance(value, Sequence) and not isinstance(value, str) and len(set(value)) > 1:
            found.append(name)
    return found


def _dealt(x: Any, groups: int, axis: int) -> Any:
    """An array whose channels of all groups take turns."""
    moved = jnp.moveaxis(x, axis, -1)
    shape = moved.shape
    dealt = moved.reshape(*shape[:-1], groups, -1).swapaxes(-1, -2).reshape(shape)
    return jnp.moveaxis(dealt, -1, axis)


def _group_order(layer: Any, side: str) -> Any:
    axes = layer.parameters["weight"].ndim - 1
    if side == "input":
        return layer.fed(lambda x: _dealt(x, layer.config["groups"], -axes))
    return layer.then(lambda y: _dealt(y, layer.config["groups"], -axes))


def _flipped(layer: Any) -> Any:
    weight = layer.parameters["weight"]
    return layer.with_parameters(weight=lambda w: jnp.flip(w, tuple(range(2, weight.ndim))))


def _divisors(size: int) -> list[int]:
    return [n for n in range(2, size) if size % n == 0]


def _channels_last(layer: Any, channels: int) -> Any:
    """Features in the order H, W, C where torch has C, H, W."""

    def reordered(x: Any) -> Any:
        shape = x.shape
        return x.reshape(*shape[:-1], channels, -1).swapaxes(-1, -2).reshape(shape)

    if layer.kind in LINEAR:
        return layer.fed(reordered)
    if layer.input.ndim < 3:
        raise ValueError("nothing is flattened")
    return layer.then(reordered)


def _channel_counts(layer: Any) -> list[int]:
    if layer.kind in LINEAR:
        return _divisors(layer.input.shape[-1])
    # After the batch axis come the channels.
    return [layer.input.shape[1]] if layer.input.ndim > 2 else []


def _square(layer: Any) -> Any:
    weight = layer.parameters["weight"]
    if weight.shape[0] != weight.shape[1]:
        raise ValueError("the weight is not square")
    return layer.with_parameters(weight=lambda w: jnp.swapaxes(w, 0, 1))


def _cropped(layer: Any, crop: str) -> Any:
    """A transposed convolution whose whole result is cropped in another way than torch's."""
    sizes, window, strides, dilations = _window(layer)
    n = len(window)
    pads = each(layer.config.get("padding", 0), n)
    more = each(layer.config.get("output_padding", 0), n)
    windows = [(k - 1) * d + 1 for k, d in zip(window, dilations, strict=True)]
    starts, lengths = [], []
    for i in range(n):
        size, k, s = sizes[i], windows[i], strides[i]
        if crop == "SAME":  # as jax.lax.conv_transpose reckons
            starts.append(0 if s > k - 1 else k - 1 - -(-(k + s - 2) // 2))
            lengths.append(size * s)
        elif crop == "VALID":
            starts.append(0)
            lengths.append(size * s + max(k - s, 0))
        else:
            starts.append(pads[i] - more[i])
            lengths.append((size - 1) * s - 2 * pads[i] + k + more[i])
    shape = (-1, *(1,) * n)

    def cut(inner: Any, p: Any, b: Any, x: Any) -> Any:
        bias = p.get("bias")
        y, b = inner(p if bias is None else {**p, "bias": jnp.zeros_like(bias)}, b, x)
        for axis, start, length in zip(range(-n, 0), starts, lengths, strict=True):
            before, after = max(-start, 0), max(start + length - y.shape[axis], 0)
            widths = [(0, 0)] * y.ndim
            widths[axis] = (before, after)
            y = jnp.take(jnp.pad(y, widths), jnp.arange(length) + start + before, axis)
        return y if bias is None else y + bias.reshape(shape), b

    return layer.altered(padding=0, output_padding=0).wrapped(cut)


def _in_dtype_of(layer: Any, format: str) -> Any:
    """Factors with fewer bits, as a matrix unit takes them, in a float32 program."""

    def fewer(x: Any) -> Any:
        if format == "bfloat16":
            return x.astype(jnp.bfloat16).astype(x.dtype)
        bits = x.view(jnp.int32)  # TF32 keeps 10 of 23 bits, rounded to the nearest
        return ((bits + 0xFFF + ((bits >> 13) & 1)) & ~0x1FFF).view(jnp.float32)

    single = dataclasses.replace(layer, dtype=np.float32)
    return single.fed(fewer).with_parameters(weight=fewer)


_WITH_BIAS = (
    *LINEAR,
    *CONV,
    *CONV_TRANSPOSE,
    *("LayerNorm", "GroupNorm", "BatchNorm1d", "BatchNorm2d", "BatchNorm3d"),
    *("InstanceNorm1d", "InstanceNorm2d", "InstanceNorm3d"),
    *("layer_norm", "group_norm", "batch_norm", "instance_norm"),
)

TRAPS = (
    Trap(
        "weight-transposed",
        (*LINEAR, *CONV_TRANSPOSE, *CONV),
        _square,
        "The weight is transposed: its first two axes are swapped.",
        "Transpose the weight once: torch's Linear has (out, in), flax's kernel (in, out).",
    ),
    Trap(
        "bias-missing",
        _WITH_BIAS,
        lambda layer: layer.with_parameters(bias=jnp.zeros_like),
        "The bias is not added; torch's layer adds it.",
        "Give the layer a bias, and torch's values for it.",
    ),
    Trap(
        "bias-doubled",
        _WITH_BIAS,
        lambda layer: layer.with_parameters(bias=lambda b: 2 * b),
        "The bias is added twice; torch's layer adds it once.",
        "Add the bias once: the layer has added it already.",
    ),
    Trap(
        "products-rounded",
        (*LINEAR, *CONV, *CONV_TRANSPOSE),
        _in_dtype_of,
        "The factors of the product are rounded to {format}; torch multiplies in float32.",
        'Multiply within jax.default_matmul_precision("highest").',
        options={"format": ("bfloat16", "TF32")},
        precision=True,
    ),
    Trap(
        "features-channels-last",
        (*LINEAR, *FLATTEN),
        _channels_last,
        "The features are in the order H, W, C, with {channels} channels; torch's are in the order "
        "C, H, W.",
        "Move the channels in front of height and width before they are flattened, or permute the "
        "columns of the weight.",
        options={"channels": _channel_counts},
    ),
    Trap(
        "kernel-flipped",
        (*CONV, *CONV_TRANSPOSE),
        _flipped,
        "The kernel is flipped along its spatial axes; torch's is not.",
        "Flip the kernel: jax.lax.conv_transpose flips it unless transpose_kernel=True, and torch "
        "does not flip that of a convolution.",
        when=lambda config: config.get("kernel_size", 2) not in (1, (1,), (1, 1), (1, 1, 1)),
    ),
    Trap(
        "conv-padding",
        CONV,
        _conv_padding,
        "The padding is {padding}; torch's is {torch[padding]} on both sides.",
        "Give the padding in numbers, such as padding=((1, 1), (1, 1)): with a stride SAME adds "
        "more at the end than at the beginning.",
        options={"padding": ("SAME", "VALID")},
    ),
    Trap(
        "conv-padding-mode",
        CONV,
        lambda layer, mode: layer.altered(padding_mode=mode),
        "The padding mode is {mode}; torch's is {torch[padding_mode]}.",
        'Pad as torch does: padding_mode="{torch[padding_mode]}".',
        when=lambda config: has_padding(config) and "padding_mode" in config,
        options={"mode": _other_padding_modes},
    ),
    Trap(
        "conv-dilation-ignored",
        (*CONV, *CONV_TRANSPOSE),
        _undilated,
        "The kernel is not dilated; torch's is, by {torch[dilation]}. The padding is {padding}.",
        "Give kernel_dilation={torch[dilation]} and padding={torch[padding]}.",
        when=lambda config: bool(np.any(np.asarray(config.get("dilation", 1)) != 1)),
        options={"padding": ("torch's", "smaller, so that the size is the same")},
    ),
    Trap(
        "conv-axes-swapped",
        (*CONV, *CONV_TRANSPOSE),
        lambda layer, argument: layer.altered(
            **{argument: tuple(reversed(layer.config[argument]))}
        ),
        "The {argument} is given as (W, H); torch's is for (H, W).",
        "Swap the two numbers of {argument}.",
        options={"argument": _uneven},
    ),
    Trap(
        "conv-group-order",
        (*CONV, *CONV_TRANSPOSE),
        _group_order,
        "The {side} channels of the groups take turns; torch's groups are of neighbouring "
        "channels.",
        "Give feature_group_count={torch[groups]}, or reshape the channels to (groups, channels of "
        "a group), and not the other way around.",
        when=lambda config: config.get("groups", 1) > 1,
        options={"side": ("input", "output")},
    ),
    Trap(
        "conv-transpose-padding",
        CONV_TRANSPOSE,
        _cropped,
        "The whole result is cropped as for padding {crop}; torch cuts padding={torch[padding]} off"
        " both sides and adds output_padding={torch[output_padding]} at the end.",
        "Give jax.lax.conv_transpose the padding (k - 1 - padding, k - 1 - padding + "
        "output_padding) for a window of k.",
        options={"crop": ("SAME", "VALID", "with output_padding first")},
    ),
)
