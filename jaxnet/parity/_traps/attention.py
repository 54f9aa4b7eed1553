"""Faults of attention: MultiheadAttention and scaled_dot_product_attention."""

import dataclasses
import itertools
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxnet.parity._traps._trap import Trap

MULTIHEAD, PRODUCT = ("MultiheadAttention",), ("scaled_dot_product_attention",)
ALL = (*MULTIHEAD, *PRODUCT)
_SCALES: Mapping[str, Callable[[int, int], float]] = {
    "none": lambda head, width: 1.0,
    "1 / sqrt(embed_dim)": lambda head, width: 1 / math.sqrt(width),
    "1 / head_dim": lambda head, width: 1 / head,
    "1 / head_dim ** 0.25": lambda head, width: head**-0.25,
}


def _sizes(layer: Any) -> tuple[int, int]:
    """The width of a head, and of all heads."""
    if layer.kind in MULTIHEAD:
        width = layer.config["embed_dim"]
        return width // layer.config["num_heads"], width
    head = layer.inputs["query"].shape[-1]
    return head, head * (layer.inputs["query"].shape[-3] if layer.inputs["query"].ndim > 3 else 1)


def _scaled(layer: Any, scale: str) -> Any:
    head, width = _sizes(layer)
    wanted = _SCALES[scale](head, width)
    if layer.kind in PRODUCT:
        return layer.altered(scale=wanted)
    factor = wanted * math.sqrt(head)

    def queries(array: Any) -> Any:
        return array.at[:width].multiply(factor)

    names = [n for n in layer.parameters if n in ("in_proj_weight", "in_proj_bias")]
    names += [n for n in layer.parameters if n == "q_proj_weight"]
    return layer.with_parameters(**dict.fromkeys(names, queries))


def _scales(layer: Any) -> list[str]:
    # Where there is one head, its width is that of all.
    head, width = _sizes(layer)
    own = layer.config.get("scale") or 1 / math.sqrt(head)
    return [n for n, f in _SCALES.items() if not math.isclose(f(head, width), own)]


_POSITIONS = {"attn_mask": "5", "key_padding_mask": "3"}


def _mask_name(layer: Any, argument: str) -> str:
    """The name of a mask among the inputs, by position or by name.

    Raises:
        ValueError: There is no such mask.
    """
    for name in (argument, _POSITIONS[argument] if layer.kind in MULTIHEAD else argument):
        if hasattr(layer.inputs.get(name), "dtype"):
            return name
    raise ValueError(f"there is no {argument}")


def _with_mask(layer: Any, argument: str, change: Callable[[Any], Any]) -> Any:
    """The layer with another mask; a hint that it is causal is dropped."""
    if argument == "attn_mask" and layer.config.get("is_causal"):
        length, source = (layer.inputs[name].shape[-2] for name in ("query", "key"))
        mask: Any = jnp.tril(jnp.ones((length, source), bool))
        layer, name = layer.altered(is_causal=False, attn_mask=None), argument
    else:
        name = _mask_name(layer, argument)
        mask = layer.inputs[name]
    inputs = {n: x for n, x in layer.inputs.items() if n not in ("is_causal", "7")}
    config = {n: v for n, v in layer.config.items() if n != "attn_mask"}
    mask = change(jnp.asarray(mask))
    if mask is not None:
        inputs[name] = mask
    elif layer.kind in PRODUCT:
        inputs.pop(name, None)
        config["attn_mask"] = None
    else:
        inputs[name] = None
    return dataclasses.replace(layer, inputs=inputs, config=config)


def _masks(layer: Any) -> list[str]:
    found = ["attn_mask"] if layer.config.get("is_causal") else []
    for argument in _POSITIONS:
        try:
            _mask_name(layer, argument)
        except ValueError:
            continue
        found.append(argument)
    return list(dict.fromkeys(found))


def _inverted(layer: Any, mask: str) -> Any:
    def change(array: Any) -> Any:
        if array.dtype != bool:
            raise ValueError("it is added to the scores")
        return ~array

    return _with_mask(layer, mask, change)


def _moved(layer: Any, offset: int) -> Any:
    """A mask that lets each query see as many keys more."""

    def change(array: Any) -> Any:
        hidden: Any = layer.kind in MULTIHEAD if array.dtype == bool else -jnp.inf
        source = array.shape[-1]
        columns = jnp.arange(source) - offset
        moved = jnp.take(array, jnp.clip(columns, 0, source - 1), -1)
        return jnp.where(columns < source, moved, hidden)

    return _with_mask(layer, "attn_mask", change)


def _offsets(layer: Any) -> list[int]:
    # Aligned at the last query and key instead of at the first ones.
    names = ("query", "key") if layer.kind in PRODUCT else ("0", "1")
    length, source = (layer.inputs[n].shape[-2] if n in layer.inputs else 0 for n in names)
    corner = source - length if layer.kind in PRODUCT else 0
    return [n for n in dict.fromkeys((corner, 1, -1)) if n]


def _filled(layer: Any, mask: str, fill: str) -> Any:
    least = float(jnp.finfo(jnp.float32).min) if fill == "finfo.min" else float(fill)

    def change(array: Any) -> Any:
        hidden = ~array if layer.kind in PRODUCT else array
        if array.dtype != bool:
            hidden, rest = jnp.isneginf(array), array
        else:
            rest = jnp.zeros(array.shape, layer.dtype)
        return jnp.where(hidden, least, rest)

    return _with_mask(layer, mask, change)


def _by_dimension(layer: Any) -> Any:
    """Heads that are taken as the last axis of (head_dim, heads) and not of (heads, head_dim)."""
    heads, width = layer.config["num_heads"], layer.config["embed_dim"]
    order = jnp.arange(width).reshape(-1, heads).T.reshape(-1)

    def rows(array: Any) -> Any:
        blocks = array.reshape(-1, width, *array.shape[1:])
        return blocks[:, order].reshape(array.shape)

    changes = {
        name: rows
        for name in layer.parameters
        if name in ("in_proj_weight", "in_proj_bias", *(f"{n}_proj_weight" for n in "qkv"))
    }
    return layer.with_parameters(**changes, **{"out_proj.weight": lambda w: w[:, order]})


def _projections(layer: Any, order: str) -> Any:
    def rows(array: Any) -> Any:
        parts = dict(zip(order, jnp.split(array, 3), strict=True))
        return jnp.concatenate([parts[name] for name in "qkv"])

    names = [n for n in layer.parameters if n in ("in_proj_weight", "in_proj_bias")]
    if "in_proj_weight" not in names:
        raise ValueError("the projections are apart")
    return layer.with_parameters(**dict.fromkeys(names, rows))


def _undropped(layer: Any) -> Any:
    name = "dropout" if layer.kind in MULTIHEAD else "dropout_p"
    if not layer.config.get(name) or not layer.draws:
        raise ValueError("nothing is dropped")
    return dataclasses.replace(layer.altered(**{name: 0.0}), draws=())


def _other_layout(layer: Any) -> Any:
    return layer.altered(batch_first=not layer.config.get("batch_first", False))


def _over_queries(layer: Any) -> Any:
    """The softmax over the queries."""
    if layer.draws or layer.config.get("enable_gqa"):
        raise ValueError("only plain attention is rebuilt")
    scale = layer.config.get("scale") or 1 / math.sqrt(layer.inputs["query"].shape[-1])

    def run(inner: Any, p: Any, b: Any, x: Mapping[str, Any]) -> Any:
        scores = x["query"] @ jnp.swapaxes(x["key"], -1, -2) * scale
        mask = x.get("attn_mask")
        if layer.config.get("is_causal"):
            mask = jnp.tril(jnp.ones(scores.shape[-2:], bool))
        if mask is not None:
            scores = jnp.where(mask, scores, -jnp.inf) if mask.dtype == bool else scores + mask
        return jax.nn.softmax(scores, -2) @ x["value"], b

    return layer.wrapped(run)


TRAPS = (
    Trap(
        "attention-scale",
        ALL,
        _scaled,
        "The scale of the scores is {scale}; torch's is 1 / sqrt(head_dim).",
        "Multiply the scores by 1 / sqrt(head_dim), the width of one head.",
        options={"scale": _scales},
    ),
    Trap(
        "attention-mask-missing",
        ALL,
        lambda layer, mask: _with_mask(layer, mask, lambda array: None),
        "The mask {mask} is left out.",
        "Give the mask.",
        options={"mask": _masks},
    ),
    Trap(
        "attention-mask-polarity",
        ALL,
        _inverted,
        "The mask {mask} is taken the other way around: True in torch's MultiheadAttention hides a "
        "position, in scaled_dot_product_attention and in flax it shows one.",
        "Invert the mask.",
        options={"mask": _masks},
    ),
    Trap(
        "attention-causal-offset",
        ALL,
        _moved,
        "The mask is moved by {offset} keys against torch's.",
        "Let query i see the keys 0 to i: with other numbers of queries and keys, torch's "
        "is_causal aligns the first ones.",
        options={"offset": _offsets},
    ),
    Trap(
        "attention-mask-fill",
        ALL,
        _filled,
        "Hidden scores are {fill} (mask {mask}); torch's are minus infinity, which makes a query "
        "that sees no key nan or 0.",
        "Hide with -inf.",
        options={"mask": _masks, "fill": ("-1e9", "finfo.min", "-1e4")},
    ),
    Trap(
        "attention-softmax-axis",
        PRODUCT,
        _over_queries,
        "The softmax of the scores is over the queries; torch's is over the keys.",
        "Give axis=-1.",
    ),
    Trap(
        "attention-head-order",
        MULTIHEAD,
        _by_dimension,
        "The features are split into (head_dim, heads); torch splits them into (heads, head_dim).",
        "Reshape to (..., num_heads, head_dim), before and after.",
        when=lambda config: 1 < config["num_heads"] < config["embed_dim"],
    ),
    Trap(
        "attention-projection-order",
        MULTIHEAD,
        _projections,
        "The blocks of in_proj_weight are taken in the order {order}; torch's is q, k, v.",
        "Split in_proj_weight into query, key and value, in this order.",
        options={"order": ["".join(o) for o in itertools.permutations("qkv")][1:]},
    ),
    Trap(
        "attention-dropout-missing",
        ALL,
        _undropped,
        "No attention weight is dropped; torch drops them in training, after the softmax.",
        "Drop the weights after the softmax.",
    ),
    Trap(
        "attention-batch-first",
        MULTIHEAD,
        _other_layout,
        "The batch is taken for the time: batch_first is the other way around than torch's "
        "{torch[batch_first]}.",
        "Give batch_first={torch[batch_first]}; flax's attention takes (N, L, features).",
    ),
)
