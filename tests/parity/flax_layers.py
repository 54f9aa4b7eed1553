"""Modules of plain flax.nnx with the parameters of torch's layers, by name and shape.

flax's own layers do the arithmetic, with the settings that they have unless told otherwise: those
are the faults that a port from PyTorch to flax has most often.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx


class Chain(nnx.Module):
    """Layers one after another, with the names of torch's Sequential."""

    def __init__(self, *parts: nnx.Module) -> None:
        for i, part in enumerate(parts):
            setattr(self, str(i), part)
        self.count = len(parts)

    def __call__(self, x: jax.Array) -> jax.Array:
        for i in range(self.count):
            x = getattr(self, str(i))(x)
        return x


class Applied(nnx.Module):
    """A function as a layer."""

    def __init__(self, function: Any) -> None:
        self.function = function

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.function(x)


class Linear(nnx.Module):
    def __init__(self, i: int, o: int) -> None:
        self.weight, self.bias = nnx.Param(jnp.zeros((o, i))), nnx.Param(jnp.zeros(o))

    def __call__(self, x: jax.Array) -> jax.Array:
        layer = nnx.Linear(*self.weight.shape[::-1], rngs=nnx.Rngs(0))
        layer.kernel, layer.bias = nnx.Param(self.weight[...].T), nnx.Param(self.bias[...])
        return layer(x)


class Conv2d(nnx.Module):
    """A convolution that computes in flax's layout, with `padding` as flax has it."""

    def __init__(self, i: int, o: int, kernel: int, **options: Any) -> None:
        self.weight = nnx.Param(jnp.zeros((o, i, kernel, kernel)))
        self.bias, self.options = nnx.Param(jnp.zeros(o)), nnx.static(options)

    def __call__(self, x: jax.Array) -> jax.Array:
        o, i, *kernel = self.weight.shape
        layer = nnx.Conv(i, o, tuple(kernel), rngs=nnx.Rngs(0), **self.options)
        layer.kernel = nnx.Param(self.weight[...].transpose(2, 3, 1, 0))
        layer.bias = nnx.Param(self.bias[...])
        return layer(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)


class ConvTranspose2d(nnx.Module):
    def __init__(self, i: int, o: int, kernel: int, **options: Any) -> None:
        self.weight = nnx.Param(jnp.zeros((i, o, kernel, kernel)))
        self.bias, self.options = nnx.Param(jnp.zeros(o)), nnx.static(options)

    def __call__(self, x: jax.Array) -> jax.Array:
        i, o, *kernel = self.weight.shape
        layer = nnx.ConvTranspose(i, o, tuple(kernel), rngs=nnx.Rngs(0), **self.options)
        layer.kernel = nnx.Param(self.weight[...].transpose(2, 3, 0, 1))
        layer.bias = nnx.Param(self.bias[...])
        return layer(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)


class _Norm(nnx.Module):
    """flax's normalisation of the last axis."""

    kind: Any

    def __init__(self, features: int, bias: bool = True, **options: Any) -> None:
        self.weight = nnx.Param(jnp.ones(features))
        self.bias = nnx.Param(jnp.zeros(features)) if bias else None
        self.options = nnx.static(options)

    def __call__(self, x: jax.Array) -> jax.Array:
        layer = self.kind(self.weight.shape[0], rngs=nnx.Rngs(0), **self.options)
        layer.scale = nnx.Param(self.weight[...])
        if self.bias is not None:
            layer.bias = nnx.Param(self.bias[...])
        return layer(x)


class LayerNorm(_Norm):
    kind = nnx.LayerNorm


class RMSNorm(_Norm):
    kind = nnx.RMSNorm


class GroupNorm(_Norm):
    kind = nnx.GroupNorm

    def __call__(self, x: jax.Array) -> jax.Array:
        return super().__call__(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)


class BatchNorm2d(nnx.Module):
    def __init__(self, features: int, **options: Any) -> None:
        self.weight, self.bias = nnx.Param(jnp.ones(features)), nnx.Param(jnp.zeros(features))
        self.running_mean = nnx.BatchStat(jnp.zeros(features))
        self.running_var = nnx.BatchStat(jnp.ones(features))
        self.options, self.use_running_average = nnx.static(options), False

    def __call__(self, x: jax.Array) -> jax.Array:
        layer = nnx.BatchNorm(self.weight.shape[0], rngs=nnx.Rngs(0), **self.options)
        layer.scale, layer.bias = nnx.Param(self.weight[...]), nnx.Param(self.bias[...])
        layer.mean = nnx.BatchStat(self.running_mean[...])
        layer.var = nnx.BatchStat(self.running_var[...])
        y = layer(x.transpose(0, 2, 3, 1), use_running_average=self.use_running_average)
        self.running_mean[...], self.running_var[...] = layer.mean[...], layer.var[...]
        return y.transpose(0, 3, 1, 2)


class Embedding(nnx.Module):
    def __init__(self, words: int, width: int) -> None:
        self.weight = nnx.Param(jnp.zeros((words, width)))

    def __call__(self, tokens: jax.Array) -> jax.Array:
        layer = nnx.Embed(*self.weight.shape, rngs=nnx.Rngs(0))
        layer.embedding = nnx.Param(self.weight[...])
        return layer(tokens)


def flatten(x: jax.Array) -> jax.Array:
    """Rows in the order of flax's layout (N, H, W, C)."""
    return x.transpose(0, 2, 3, 1).reshape(x.shape[0], -1)


def tanh(x: jax.Array) -> jax.Array:
    return nnx.tanh(x)


def gelu(x: jax.Array) -> jax.Array:
    return nnx.gelu(x)


def leaky_relu(x: jax.Array) -> jax.Array:
    return nnx.leaky_relu(x)


def softmax(x: jax.Array) -> jax.Array:
    return nnx.softmax(x)


def pool_to_2(x: jax.Array) -> jax.Array:
    """Means over quarters of images (N, C, H, W)."""
    n, c, h, w = x.shape
    return x.reshape(n, c, 2, h // 2, 2, w // 2).mean((3, 5))


def max_pool(x: jax.Array) -> jax.Array:
    return _pooled(nnx.max_pool, x, (2, 2), strides=(2, 2))


def avg_pool(x: jax.Array) -> jax.Array:
    return _pooled(nnx.avg_pool, x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))


def _pooled(pool: Any, x: jax.Array, *window: Any, **options: Any) -> jax.Array:
    return pool(x.transpose(0, 2, 3, 1), *window, **options).transpose(0, 3, 1, 2)
