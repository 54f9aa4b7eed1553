"""Layers, losses and optimizers of jaxnet with one fault each.

Layers have the parameters of the layers that they stand for, by name and shape.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from jaxnet import losses, nn, optim
from jaxnet.nn import functional as F
from jaxnet.optim._adam import decay, hyperparams_of_adam, moments
from jaxnet.optim._optimizer import coupled_decay, lerp, make_optimizer, one_minus_power, zeros

Array = jax.Array


def altered(base: Any, call: Any, name: str = "") -> Any:
    """A subclass with another `__call__`, a function of the module, `super().__call__` and input.

    Args:
        base: The class.
        call: The function.
        name: The name of the class; "" for that of the base.
    """

    def changed(self: Any, *inputs: Any, **options: Any) -> Any:
        return call(self, functools.partial(base.__call__, self), *inputs, **options)

    return type(name or base.__name__, (base,), {"__call__": changed})


def stopped(x: Any) -> Any:
    """The same value without a gradient."""
    return jax.lax.stop_gradient(x)


def scaled_gradient(x: Array, factor: float) -> Array:
    """The same value with another gradient."""
    return factor * x + jax.lax.stop_gradient((1 - factor) * x)


# Linear layers and convolutions.
NoBias = altered(nn.Linear, lambda m, run, x: x @ m.weight[...].T)
DoubledBias = altered(nn.Linear, lambda m, run, x: run(x) + m.bias[...])
Transposed = altered(nn.Linear, lambda m, run, x: x @ m.weight[...] + m.bias[...])
NoConvBias = altered(nn.Conv2d, lambda m, run, x: run(x) - m.bias[...][:, None, None])
Flipped = altered(nn.Conv2d, lambda m, run, x: F.conv2d(
    x, m.weight[..., ::-1, ::-1], m.bias[...], m.stride, m.padding))  # fmt: skip
SameAtStride2 = altered(nn.Conv2d, lambda m, run, x: F.conv2d(
    jnp.pad(x, ((0, 0), (0, 0), (0, 1), (0, 1))), m.weight[...], m.bias[...], m.stride,
))  # fmt: skip
GroupsInterleaved = altered(nn.Conv2d, lambda m, run, x: run(
    x.reshape(x.shape[0], m.groups, -1, *x.shape[2:]).swapaxes(1, 2).reshape(x.shape)
))  # fmt: skip
ChannelsLast = altered(nn.Flatten, lambda m, run, x: run(x.transpose(0, 2, 3, 1)))
NotFlipped = altered(nn.ConvTranspose2d, lambda m, run, x: F.conv_transpose2d(
    x, m.weight[..., ::-1, ::-1], m.bias[...], m.stride, m.padding))  # fmt: skip

# Pools.
ZeroPadded = altered(nn.MaxPool2d, lambda m, run, x: F.max_pool2d(
    jnp.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1))), m.kernel_size, m.stride))  # fmt: skip


# Normalisation.
def _biased(m: Any, run: Any, x: Array) -> Array:
    before = m.running_var[...]
    output = run(x)
    axes = (0, *range(2, x.ndim))
    if m.training:
        m.running_var[...] = m.momentum * x.var(axes) + (1 - m.momentum) * before
    return output


def _frozen_statistics(m: Any, run: Any, x: Array) -> Array:
    mean, var = m.running_mean[...], m.running_var[...]
    output = run(x)
    m.running_mean[...], m.running_var[...] = mean, var
    return output


def _over_all_axes(m: Any, run: Any, x: Array) -> Array:
    unit = (x - x.mean()) * jax.lax.rsqrt(x.var() + m.eps)
    return unit * m.weight[...] + m.bias[...]


def _unbiased(m: Any, run: Any, x: Array) -> Array:
    unit = (x - x.mean(-1, keepdims=True)) / jnp.sqrt(x.var(-1, ddof=1, keepdims=True) + m.eps)
    return unit * m.weight[...] + m.bias[...]


def _epsilon_outside(m: Any, run: Any, x: Array) -> Array:
    unit = (x - x.mean(-1, keepdims=True)) / (jnp.sqrt(x.var(-1, keepdims=True)) + m.eps)
    return unit * m.weight[...] + m.bias[...]


def _no_mean(m: Any, run: Any, x: Array) -> Array:
    unit = x * jax.lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + m.eps)
    return unit * m.weight[...] + m.bias[...]


def _fast_variance(m: Any, run: Any, x: Array) -> Array:
    mean = x.mean(-1, keepdims=True)
    var = jnp.square(x).mean(-1, keepdims=True) - jnp.square(mean)
    return (x - mean) * jax.lax.rsqrt(var + m.eps) * m.weight[...] + m.bias[...]


Biased = altered(nn.BatchNorm2d, _biased)
Frozen = altered(nn.BatchNorm2d, _frozen_statistics)
OverAllAxes = altered(nn.LayerNorm, _over_all_axes)
NoBias2 = altered(
    nn.LayerNorm, lambda m, run, x: F.layer_norm(x, x.shape[-1:], m.weight[...], eps=m.eps)
)
Unbiased = altered(nn.LayerNorm, _unbiased)
EpsilonOutside = altered(nn.LayerNorm, _epsilon_outside)
NoMean = altered(nn.LayerNorm, _no_mean)
FastVariance = altered(nn.LayerNorm, _fast_variance)
NoAffine = altered(nn.LayerNorm, lambda m, run, x: F.layer_norm(x, x.shape[-1:], eps=m.eps))
ScalePlusOne = altered(
    nn.LayerNorm,
    lambda m, run, x: F.layer_norm(x, x.shape[-1:], 1 + m.weight[...], m.bias[...], m.eps),
)

# Activations and dropout.
QuickGELU = altered(nn.GELU, lambda m, run, x: x * F.sigmoid(1.702 * x))
Silu = altered(nn.GELU, lambda m, run, x: F.silu(x))
OtherAxis = altered(nn.Softmax, lambda m, run, x: F.softmax(x, dim=0))
Unscaled = altered(nn.Dropout, lambda m, run, x: run(x) * (1 - m.p))
DropLess = altered(nn.Dropout, lambda m, run, x: run(x) * (1 - m.p) / m.p)

# Embeddings.
ScaledEmbedding = altered(
    nn.Embedding, lambda m, run, x: run(x) * jnp.sqrt(m.embedding_dim).astype(m.weight.dtype)
)
MovedPositions = altered(nn.Embedding, lambda m, run, x: run((x + 2) % m.num_embeddings))


# Attention.
def _attention(
    scale: Any = None, offset: int = 0, order: str = "heads", axis: int = -1, causal: bool = True
) -> Any:
    """MultiheadAttention by hand for self-attention with a causal mask, with a fault."""

    def call(m: Any, run: Any, query: Array, key: Array, value: Array, **options: Any) -> Any:
        n, length, width = query.shape
        joint = query @ m.in_proj_weight[...].T + m.in_proj_bias[...][None, None]
        shape = (n, length, m.num_heads, m.head_dim)
        if order == "dims":
            shape = (n, length, m.head_dim, m.num_heads)
        q, k, v = (part.reshape(shape) for part in jnp.split(joint, 3, -1))
        spec = "nlhd,nshd->nhls" if order == "heads" else "nldh,nsdh->nhls"
        scores = jnp.einsum(spec, q, k) * (m.head_dim**-0.5 if scale is None else scale(m))
        rows, columns = jnp.arange(length)[:, None], jnp.arange(length)[None]
        if causal:
            scores = jnp.where((columns <= rows + offset)[None, None], scores, -jnp.inf)
        weights = jax.nn.softmax(scores, axis)
        back = "nhls,nshd->nlhd" if order == "heads" else "nhls,nsdh->nldh"
        output = jnp.einsum(back, weights, v).reshape(n, length, width)
        return m.out_proj(output), None

    return altered(nn.MultiheadAttention, call)


class Attending(nn.Module):
    """`SelfAttention` of the descriptions with another attention inside."""

    def __init__(self, width: int, heads: int, fault: dict[str, Any], *, rngs: Any) -> None:
        self.attention = _attention(**fault)(width, heads, batch_first=True, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        return self.attention(x, x, x)[0]


# Recurrent layers.
def _one_bias(m: Any, run: Any, x: Array) -> Any:
    m.bias_hh_l0[...] = stopped(jnp.zeros_like(m.bias_hh_l0[...]))
    return run(x)


def _gates(m: Any, run: Any, x: Array) -> Any:
    kept = {}
    for name in ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"):
        variable = getattr(m, name)
        kept[name] = variable[...]
        i, f, g, o = jnp.split(kept[name], 4)
        variable[...] = jnp.concatenate([i, g, f, o])
    output = run(x)
    for name, value in kept.items():
        getattr(m, name)[...] = value
    return output


SwappedGates = altered(nn.LSTM, _gates)


def _from_ones(m: Any, run: Any, x: Array) -> Any:
    start = jnp.ones((m.num_layers, x.shape[0], m.hidden_size), x.dtype)
    return run(x, (start, start))


StartsAtOne = altered(nn.LSTM, _from_ones)
SecondOutput = altered(nn.LSTM, lambda m, run, x: (lambda y, s: (y, (s[0], s[1] * 1.01)))(*run(x)))


def _reset_before(m: Any, run: Any, x: Array) -> Any:
    """GRU with the reset gate before the hidden product, as some papers have it."""
    w_ih, w_hh = m.weight_ih_l0[...], m.weight_hh_l0[...]
    b_ih, b_hh = m.bias_ih_l0[...], m.bias_hh_l0[...]
    size = m.hidden_size

    def cell(h: Array, x_t: Array) -> tuple[Array, Array]:
        given = x_t @ w_ih.T + b_ih
        kept = h @ w_hh[: 2 * size].T + b_hh[: 2 * size]
        r, z = jnp.split(jax.nn.sigmoid(given[:, : 2 * size] + kept), 2, -1)
        new = jnp.tanh(given[:, 2 * size :] + (r * h) @ w_hh[2 * size :].T + b_hh[2 * size :])
        h = (1 - z) * new + z * h
        return h, h

    start = jnp.zeros((x.shape[0], size), x.dtype)
    last, outputs = jax.lax.scan(cell, start, x.swapaxes(0, 1))
    return outputs.swapaxes(0, 1), last[None]


ResetBefore = altered(nn.GRU, _reset_before)

# Faults that only some numbers have.
GradientOnly = altered(nn.Linear, lambda m, run, x: scaled_gradient(run(x), 1.1))
NoGradient = altered(nn.Linear, lambda m, run, x: stopped(run(x)))
NoWeightGradient = altered(nn.Linear, lambda m, run, x: x @ stopped(m.weight[...]).T + m.bias[...])
BorderOnly = altered(nn.Conv2d, lambda m, run, x: run(x).at[..., 0, :].multiply(1.01))


class TiedOnce(nn.Module):
    """`Tied` of the descriptions, where the decoder adds nothing to the embedding's gradient."""

    def __init__(self, embedding: Any, body: Any, decoder: Any) -> None:
        self.embedding, self.body, self.decoder = embedding, body, decoder
        self.decoder.weight = self.embedding.weight

    def __call__(self, tokens: Array) -> Array:
        hidden = self.body(self.embedding(tokens))
        kept = self.decoder.weight[...]
        self.decoder.weight[...] = stopped(kept)
        output = self.decoder(hidden)
        self.decoder.weight[...] = kept
        return output


class PostNorm(nn.Module):
    """What a body of a norm and more makes of the input, with the norm after the sum."""

    def __init__(self, body: Any) -> None:
        self.body = body

    def __call__(self, x: Array) -> Array:
        inner = x
        for part in list(self.body)[1:]:
            inner = part(inner)
        return self.body[0](x + inner)


FirstToken = altered(
    nn.Embedding,
    lambda m, run, x: run(x) * jnp.where(x == 0, 1.01, 1)[..., None].astype(m.weight.dtype),
)
LastPosition = altered(nn.Linear, lambda m, run, x: run(x).at[:, -1].multiply(1.01))

# Faults that no catalogue has.
Halved = altered(nn.Sequential, lambda m, run, x: 0.5 * run(x))
PartTanh = altered(nn.Tanh, lambda m, run, x: jnp.concatenate([run(x[:, :-1]), x[:, -1:]], 1))
ScaledTanh = altered(nn.Tanh, lambda m, run, x: 1.7159 * run(2 / 3 * x))
Standardised = altered(
    nn.Linear, lambda m, run, x: x @ (m.weight[...] - m.weight[...].mean()).T + m.bias[...]
)
Rounded = altered(nn.Linear, lambda m, run, x: run(x.astype(jnp.bfloat16).astype(x.dtype)))
Moved = altered(nn.LSTM, lambda m, run, x: run(jnp.roll(x, 1, 1)))
Rolled = altered(nn.MaxPool2d, lambda m, run, x: jnp.roll(run(x), 1, 1))


class ZeroKey(nn.Module):
    """`SelfAttention` of the descriptions with a key of zeros besides."""

    def __init__(self, width: int, heads: int, *, rngs: Any) -> None:
        self.attention = nn.MultiheadAttention(
            width, heads, batch_first=True, add_zero_attn=True, rngs=rngs
        )

    def __call__(self, x: Array) -> Array:
        mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1], dtype=x.dtype)
        return self.attention(x, x, x, attn_mask=mask, need_weights=False)[0]


# Losses.
def log_base_2(outputs: Array, targets: Array) -> Array:
    return losses.cross_entropy(outputs, targets) / jnp.log(2.0).astype(outputs.dtype)


def of_probabilities(outputs: Array, targets: Array) -> Array:
    return losses.cross_entropy(jax.nn.softmax(outputs, -1), targets)


def over_all_positions(outputs: Array, targets: Array) -> Array:
    return losses.cross_entropy(outputs, targets, reduction="sum") / targets.size


def pads_as_words(outputs: Array, targets: Array) -> Array:
    return losses.cross_entropy(outputs, jnp.maximum(targets, 0))


def halved_squares(outputs: Array, targets: Array) -> Array:
    return 0.5 * losses.mse_loss(outputs, targets)


def batch_mean(outputs: Array, targets: Array) -> Array:
    return losses.mse_loss(outputs, targets, reduction="sum") / outputs.shape[0]


def fixed_divisor(outputs: Array, targets: Array) -> Array:
    """The mean of a batch of 6 rows, whatever its size."""
    return losses.mse_loss(outputs, targets, reduction="sum") / (6 * targets.shape[1])


def with_penalty(outputs: Array, targets: Array) -> Array:
    return losses.mse_loss(outputs, targets) + 1e-3 * jnp.square(outputs).sum()


def clamped(outputs: Array, targets: Array) -> Array:
    p = jnp.clip(jax.nn.sigmoid(outputs), 0.45, 0.55)
    return -(targets * jnp.log(p) + (1 - targets) * jnp.log(1 - p)).mean()


def broadcast(outputs: Array, targets: Array) -> Array:
    """The squares of all pairs of rows."""
    return jnp.square(outputs[:, None] - targets[None]).mean()


# Optimizers.
def adam(fault: str, lr: float = 1e-3, eps: float = 1e-8, weight_decay: float = 0.0) -> Any:
    """Adam with a fault in its update."""
    betas = (0.9, 0.999)

    def scalars(hyper: Any, t: Array) -> dict[str, Any]:
        first, second = (
            one_minus_power(b, t) for b in (hyper.one_minus_beta1, hyper.one_minus_beta2)
        )
        if fault == "uncorrected":
            first, second = jnp.ones_like(first), jnp.ones_like(second)
        return {"b2": 1 - hyper.one_minus_beta2, "size": hyper.lr / first, "second": second}

    def rule(param: Array, grad: Array, state: Any, hyper: Any, rounded: Any) -> Any:
        grad, _ = decay(param, grad, hyper, rounded, False)
        m, v = moments(grad, state, hyper, rounded)
        below = {
            "inside": lambda: jnp.sqrt(v / hyper.second + hyper.eps),
            "before correction": lambda: (jnp.sqrt(v) + hyper.eps) / jnp.sqrt(hyper.second),
            "uncorrected": lambda: jnp.sqrt(v) + hyper.eps,
        }[fault]()
        return -hyper.size * m / below, {"exp_avg": m, "exp_avg_sq": v}

    plain = optim.Adam(lr=lr, eps=eps, weight_decay=weight_decay)
    hyperparams = hyperparams_of_adam(lr, betas, eps, weight_decay)
    slots = dict.fromkeys(("exp_avg", "exp_avg_sq"), zeros)
    return make_optimizer("Adam", plain.defaults, hyperparams, rule, slots, scalars)


def sgd(fault: str, lr: float, momentum: float, weight_decay: float = 0.0) -> Any:
    """SGD with momentum and a fault in its update."""

    def rule(param: Array, grad: Array, state: Any, hyper: Any, rounded: Any) -> Any:
        if fault != "decoupled":
            grad = coupled_decay(param, grad, hyper, rounded)
        buffer = state["momentum_buffer"]
        if fault == "average":
            buffer = lerp(buffer, grad, 1 - hyper.momentum)
        elif fault == "rate inside":
            buffer = hyper.momentum * buffer + hyper.lr * grad
            return -buffer, {"momentum_buffer": buffer}
        else:
            buffer = hyper.momentum * buffer + grad
        change = -hyper.lr * buffer
        if fault == "decoupled":
            change = change - hyper.lr * hyper.weight_decay * param
        return change, {"momentum_buffer": buffer}

    plain = optim.SGD(lr=lr, momentum=momentum, weight_decay=weight_decay)
    hyperparams = {"lr": lr, "weight_decay": weight_decay, "momentum": momentum}
    slots = {"momentum_buffer": zeros}
    return make_optimizer("SGD", plain.defaults, hyperparams, rule, slots, lambda h, t: {})


def biases_faster(lr: float) -> Any:
    """SGD whose learning rate for the first layer's bias is another."""
    return optim.groups([("0.bias", optim.SGD(lr=1.5 * lr))], optim.SGD(lr=lr))


def smoothed(lr: float) -> Any:
    """SGD with the mean of this gradient and the last one."""

    def rule(param: Array, grad: Array, state: Any, hyper: Any, rounded: Any) -> Any:
        return -hyper.lr * 0.5 * (grad + state["last"]), {"last": grad}

    plain = optim.SGD(lr=lr)
    return make_optimizer("SGD", plain.defaults, {"lr": lr}, rule, {"last": zeros}, lambda h, t: {})


def trusting(lr: float) -> Any:
    """SGD whose steps have the length of the parameter, as in LARS."""

    def rule(param: Array, grad: Array, state: Any, hyper: Any, rounded: Any) -> Any:
        length = jnp.linalg.norm(param.reshape(-1)) / (jnp.linalg.norm(grad.reshape(-1)) + 1e-8)
        return -hyper.lr * 0.01 * length * grad, {}

    plain = optim.SGD(lr=lr)
    return make_optimizer("SGD", plain.defaults, {"lr": lr}, rule, {}, lambda h, t: {})


def clip_without_epsilon(bound: float) -> Any:
    """Clipping by the norm as optax has it."""
    import optax

    return optax.clip_by_global_norm(bound)
