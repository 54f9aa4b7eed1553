"""Each known fault of a layer is planted in a JAX layer, and has to be found and named."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnet import nn as jaxnet
from jaxnet._keys import keep_mask
from jaxnet.parity import _traps as traps
from jaxnet.parity._attribute import attribute
from jaxnet.parity._evidence import Evidence
from jaxnet.parity._explain import explained
from jaxnet.parity._reference import of_function
from jaxnet.random import Generator
from tests.parity import faulty_layers as faulty

pytestmark = pytest.mark.torch


@dataclasses.dataclass(frozen=True)
class Plant:
    """A fault in a JAX layer.

    Attributes:
        trap: The name of the row that has to be named.
        layer: Makes torch's layer from torch.nn.
        port: Makes the JAX layer, a function of the inputs, from the layer's weights by name.
        inputs: Shapes of normal inputs, or arrays.
        train: Whether the layer is in training mode.
        words: What the sentence has to contain.
        kwargs: Inputs by keyword.
        kind: The kind of the finding.
        backward: Whether the backward pass is compared too, which takes twice the time.
    """

    trap: str
    layer: Callable[[Any], Any]
    port: Callable[[dict[str, np.ndarray]], Callable[..., Any]]
    inputs: tuple[Any, ...]
    train: bool = True
    words: str = ""
    kwargs: dict[str, Any] = dataclasses.field(default_factory=dict)
    kind: str = "different"
    backward: bool = False

    def __str__(self) -> str:
        return self.trap + ("-" + self.words if self.words else "")


class Weights(dict):
    """A layer's weights, in the dtype of the program that reads them."""

    def __getitem__(self, name):
        return jnp.asarray(super().__getitem__(name), float)


def norm(x, axes, eps=1e-5, centre=True, ddof=0, outside=False):
    mean = x.mean(axes, keepdims=True) if centre else 0.0
    count = math.prod(x.shape[a] for a in axes)
    var = jnp.square(x - mean).sum(axes, keepdims=True) / (count - ddof)
    return (x - mean) / (jnp.sqrt(var) + eps if outside else jnp.sqrt(var + eps))


def conv(x, w, pads, strides=(1, 1), dilation=(1, 1), groups=1):
    return jax.lax.conv_general_dilated(
        x, w, strides, pads, rhs_dilation=dilation, feature_group_count=groups
    )


def pool(x, init, combine, window, strides, pads):
    return jax.lax.reduce_window(x, init, combine, (1, 1, *window), (1, 1, *strides), pads)


def attention(w, given, mask=None, scale=2**-0.5, order="heads", blocks=(0, 1, 2)):
    """MultiheadAttention(4, 2) of (N, L, 4); True in the mask shows a position."""
    weights, biases = (jnp.split(w[f"in_proj_{name}"], 3) for name in ("weight", "bias"))
    x = given[0]
    q, k, v = (
        (each @ weights[i].T + biases[i]).reshape(*x.shape[:2], 2, 2)
        for i, each in zip(blocks, given, strict=True)
    )
    if order == "dims":
        q, k, v = (part.swapaxes(2, 3) for part in (q, k, v))
    scores = jnp.einsum("nlhd,nshd->nhls", q, k) * scale
    if mask is not None:
        scores = jnp.where(mask, scores, -jnp.inf) if mask.dtype == bool else scores + mask
    y = jnp.einsum("nhls,nshd->nlhd", jax.nn.softmax(scores), v)
    y = y if order == "heads" else y.swapaxes(2, 3)
    return y.reshape(x.shape) @ w["out_proj.weight"].T + w["out_proj.bias"], None


def recurrent(w, x, cell, h=None, time=0, suffix="_l0"):
    """One layer of a recurrent network from its gates; `cell(gates of x, gates of h, state)`."""
    x = jnp.moveaxis(x, time, 0)
    from_x = x @ w["weight_ih" + suffix].T + w["bias_ih" + suffix]
    size = w["weight_hh" + suffix].shape[1]
    h = jnp.zeros((2, x.shape[1], size), x.dtype) if h is None else h
    outputs = []
    for gates in from_x:
        h = cell(gates, h[0] @ w["weight_hh" + suffix].T + w["bias_hh" + suffix], h)
        outputs.append(h[0])
    return jnp.stack(outputs, time), h


def lstm(order="ifgo"):
    def cell(x, h, state):
        gates = dict(zip(order, jnp.split(x + h, 4, -1), strict=True))
        i, f, o = (jax.nn.sigmoid(gates[name]) for name in "ifo")
        c = f * state[1] + i * jnp.tanh(gates["g"])
        return jnp.stack([o * jnp.tanh(c), c])

    return cell


def gru(x, h, state, complement=True):
    (xr, xz, xn), (hr, hz, hn) = jnp.split(x, 3, -1), jnp.split(h, 3, -1)
    r, z = jax.nn.sigmoid(xr + hr), jax.nn.sigmoid(xz + hz)
    z = z if complement else 1 - z
    new = z * jnp.tanh(xn + r * hn) + (1 - z) * state[0]
    return jnp.stack([new, new])


def outside(w):
    """The weights of a GRU with the hidden bias of n among those of the input."""
    size = w["weight_hh_l0"].shape[1]
    moved = jnp.where(jnp.arange(3 * size) < 2 * size, 0, w["bias_hh_l0"])
    return {**w, "bias_ih_l0": w["bias_ih_l0"] + moved, "bias_hh_l0": w["bias_hh_l0"] - moved}


def right_gru(x, h, state):
    return gru(x, h, state, complement=False)


def rounded(x):
    return x if x.dtype == jnp.float64 else x.astype(jnp.bfloat16).astype(x.dtype)


def per_channel(a, n=2):
    return a.reshape(1, -1, *(1,) * n)


def plain(found):
    """The outputs and the last states as torch's LSTM gives them."""
    output, last = found
    return output, (last[:1], last[1:])


SELF = (np.random.RandomState(2).standard_normal((3, 3, 4)).astype(np.float32),) * 3
X = (2, 4, 3)  # one shape for all, so that the tests share what JAX compiles

PLANTS = [
    Plant(
        "weight-transposed",
        lambda nn: nn.Linear(4, 4),
        lambda w: lambda x: x @ w["weight"] + w["bias"],
        ((3, 4),),
    ),
    Plant(
        "bias-missing",
        lambda nn: nn.Linear(4, 3),
        lambda w: lambda x: x @ w["weight"].T,
        ((3, 4),),
        backward=True,
    ),
    Plant(
        "bias-doubled",
        lambda nn: nn.Conv2d(2, 3, 3),
        lambda w: lambda x: conv(x, w["weight"], "VALID") + 2 * per_channel(w["bias"]),
        ((2, 2, 5, 5),),
    ),
    Plant(
        "features-channels-last",
        lambda nn: nn.Flatten(),
        lambda w: lambda x: x.transpose(0, 2, 3, 1).reshape(x.shape[0], -1),
        ((2, 2, 3, 3),),
    ),
    Plant(
        "features-channels-last",
        lambda nn: nn.Linear(18, 3),
        lambda w: (
            lambda x: x.reshape(-1, 2, 9).swapaxes(1, 2).reshape(-1, 18) @ w["weight"].T + w["bias"]
        ),
        ((4, 18),),
        words="2 channels",
    ),
    Plant(
        "kernel-flipped",
        lambda nn: nn.Conv2d(2, 3, 3),
        lambda w: lambda x: conv(x, w["weight"][..., ::-1, ::-1], "VALID") + per_channel(w["bias"]),
        ((2, 2, 5, 5),),
    ),
    Plant(
        "conv-padding",
        lambda nn: nn.Conv2d(2, 3, 3, stride=2, padding=1),
        lambda w: lambda x: conv(x, w["weight"], "SAME", (2, 2)) + per_channel(w["bias"]),
        ((2, 2, 6, 6),),
        words="SAME",
        backward=True,
    ),
    Plant(
        "conv-padding-mode",
        lambda nn: nn.Conv2d(2, 3, 3, padding=1, padding_mode="circular"),
        lambda w: lambda x: conv(x, w["weight"], ((1, 1), (1, 1))) + per_channel(w["bias"]),
        ((2, 2, 5, 5),),
        words="zeros",
    ),
    Plant(
        "conv-dilation-ignored",
        lambda nn: nn.Conv2d(2, 3, 3, padding=2, dilation=2),
        lambda w: lambda x: conv(x, w["weight"], ((2, 2), (2, 2))) + per_channel(w["bias"]),
        ((2, 2, 5, 5),),
    ),
    Plant(
        "conv-axes-swapped",
        lambda nn: nn.Conv2d(2, 3, 3, padding=(1, 2)),
        lambda w: lambda x: conv(x, w["weight"], ((2, 2), (1, 1))) + per_channel(w["bias"]),
        ((2, 2, 5, 5),),
        words="padding",
    ),
    Plant(
        "conv-group-order",
        lambda nn: nn.Conv2d(4, 4, 3, groups=2),
        lambda w: (
            lambda x: (
                conv(x[:, jnp.array([0, 2, 1, 3])], w["weight"], "VALID", groups=2)
                + per_channel(w["bias"])
            )
        ),
        ((2, 4, 5, 5),),
        words="input",
    ),
    Plant(
        "conv-transpose-padding",
        lambda nn: nn.ConvTranspose2d(2, 3, 3, stride=2, padding=1, output_padding=1),
        lambda w: (
            lambda x: (
                jax.lax.conv_transpose(
                    x,
                    w["weight"],
                    (2, 2),
                    "SAME",
                    dimension_numbers=("NCHW", "OIHW", "NCHW"),
                    transpose_kernel=True,
                )
                + per_channel(w["bias"])
            )
        ),
        ((2, 2, 4, 4),),
        words="SAME",
    ),
    Plant(
        "pool-count-padding",
        lambda nn: nn.AvgPool2d(3, 2, padding=1, count_include_pad=False),
        lambda w: (
            lambda x: (
                pool(x, 0.0, jax.lax.add, (3, 3), (2, 2), ((0, 0), (0, 0), (1, 1), (1, 1))) / 9
            )
        ),
        ((2, 2, 5, 5),),
        backward=True,
    ),
    Plant(
        "pool-ceil-mode",
        lambda nn: nn.MaxPool2d(2, 2, ceil_mode=True),
        lambda w: lambda x: pool(x, -jnp.inf, jax.lax.max, (2, 2), (2, 2), "VALID"),
        ((2, 2, 5, 5),),
    ),
    Plant(
        "pool-zero-padding",
        lambda nn: nn.MaxPool2d(3, 2, padding=1),
        lambda w: (
            lambda x: pool(
                jnp.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1))),
                -jnp.inf,
                jax.lax.max,
                (3, 3),
                (2, 2),
                "VALID",
            )
        ),
        ((2, 2, 5, 5),),
    ),
    Plant(
        "pool-same-padding",
        lambda nn: nn.MaxPool2d(3, 2, padding=1),
        lambda w: lambda x: pool(x, -jnp.inf, jax.lax.max, (3, 3), (2, 2), "SAME"),
        ((2, 2, 6, 6),),
    ),
    Plant(
        "pool-no-padding",
        lambda nn: nn.AvgPool2d(3, 1, padding=1),
        lambda w: lambda x: pool(x, 0.0, jax.lax.add, (3, 3), (1, 1), "VALID") / 9,
        ((2, 2, 5, 5),),
    ),
    Plant(
        "pool-stride-one",
        lambda nn: nn.MaxPool2d(2),
        lambda w: lambda x: pool(x, -jnp.inf, jax.lax.max, (2, 2), (1, 1), "VALID"),
        ((2, 2, 4, 4),),
    ),
    Plant(
        "pool-divisor",
        lambda nn: nn.AvgPool2d(2, divisor_override=3),
        lambda w: lambda x: pool(x, 0.0, jax.lax.add, (2, 2), (2, 2), "VALID") / 4,
        ((2, 2, 4, 4),),
    ),
    Plant(
        "pool-kind",
        lambda nn: nn.MaxPool2d(2),
        lambda w: lambda x: pool(x, 0.0, jax.lax.add, (2, 2), (2, 2), "VALID") / 4,
        ((2, 2, 4, 4),),
    ),
    Plant(
        "norm-epsilon",
        lambda nn: nn.LayerNorm(3),
        lambda w: lambda x: norm(x, (-1,), 1e-6) * w["weight"] + w["bias"],
        (X,),
        words="1e-06",
        backward=True,
    ),
    Plant(
        "norm-epsilon",
        lambda nn: nn.GroupNorm(2, 4),
        lambda w: (
            lambda x: (
                norm(x.reshape(2, 2, -1), (2,), 3.7e-4).reshape(x.shape)
                * per_channel(w["weight"], 1)
                + per_channel(w["bias"], 1)
            )
        ),
        (X,),
        words="0.00037",
    ),
    Plant(
        "norm-epsilon-outside",
        lambda nn: nn.LayerNorm(3),
        lambda w: lambda x: norm(x, (-1,), outside=True) * w["weight"] + w["bias"],
        (X,),
    ),
    Plant(
        "norm-unbiased",
        lambda nn: nn.LayerNorm(3),
        lambda w: lambda x: norm(x, (-1,), ddof=1) * w["weight"] + w["bias"],
        (X,),
    ),
    Plant(
        "norm-not-centred",
        lambda nn: nn.LayerNorm(3),
        lambda w: lambda x: norm(x, (-1,), centre=False) * w["weight"] + w["bias"],
        (X,),
    ),
    Plant(
        "norm-centred",
        lambda nn: nn.RMSNorm(3, eps=1e-5),
        lambda w: lambda x: norm(x, (-1,)) * w["weight"],
        (X,),
    ),
    Plant(
        "norm-axes",
        lambda nn: nn.BatchNorm1d(4),
        lambda w: lambda x: norm(x, (2,)) * per_channel(w["weight"], 1) + per_channel(w["bias"], 1),
        (X,),
        words="(2,)",
    ),
    Plant(
        "norm-scale-missing",
        lambda nn: nn.LayerNorm(3),
        lambda w: lambda x: norm(x, (-1,)) + w["bias"],
        (X,),
    ),
    Plant(
        "norm-scale-plus-one",
        lambda nn: nn.RMSNorm(3, eps=1e-6),
        lambda w: lambda x: norm(x, (-1,), 1e-6, centre=False) * (1 + w["weight"]),
        (X,),
    ),
    Plant(
        "norm-group-order",
        lambda nn: nn.GroupNorm(2, 4),
        lambda w: (
            lambda x: (
                norm(x.reshape(2, 2, 2, 3), (1, 3)).reshape(x.shape) * per_channel(w["weight"], 1)
                + per_channel(w["bias"], 1)
            )
        ),
        (X,),
    ),
    Plant(
        "norm-groups",
        lambda nn: nn.GroupNorm(2, 4),
        lambda w: (
            lambda x: (
                norm(x.reshape(2, 1, -1), (2,)).reshape(x.shape) * per_channel(w["weight"], 1)
                + per_channel(w["bias"], 1)
            )
        ),
        (X,),
        words="groups is 1;",
    ),
    Plant(
        "norm-mode",
        lambda nn: nn.BatchNorm1d(4),
        lambda w: (
            lambda x: norm(x, (0, 2)) * per_channel(w["weight"], 1) + per_channel(w["bias"], 1)
        ),
        (X,),
        train=False,
    ),
    Plant(
        "gelu-form",
        lambda nn: nn.GELU(),
        lambda w: lambda x: jax.nn.gelu(x, approximate=True),
        (X,),
        words="'tanh'",
        backward=True,
    ),
    Plant(
        "gelu-form",
        lambda nn: nn.GELU("tanh"),
        lambda w: lambda x: x * jax.nn.sigmoid(1.702 * x),
        (X,),
        words="'quick'",
    ),
    Plant(
        "leaky-slope",
        lambda nn: nn.LeakyReLU(0.2),
        lambda w: lambda x: jax.nn.leaky_relu(x),
        (X,),
        words="0.01",
    ),
    Plant(
        "elu-alpha",
        lambda nn: nn.ELU(),
        lambda w: lambda x: jax.nn.elu(x, 0.37),
        (X,),
        words="0.37",
    ),
    Plant(
        "softplus-threshold",
        lambda nn: nn.Softplus(threshold=5),
        lambda w: lambda x: jax.nn.softplus(x),
        (np.linspace(-9, 9, 24, dtype=np.float32).reshape(X),),
    ),
    Plant(
        "softplus-beta",
        lambda nn: nn.Softplus(beta=2.0),
        lambda w: lambda x: jax.nn.softplus(x),
        (X,),
        words="is 1;",
    ),
    Plant(
        "hardsigmoid-slope",
        lambda nn: nn.Hardsigmoid(),
        lambda w: lambda x: jnp.clip(0.2 * x + 0.5, 0, 1),
        (X,),
        words="0.2",
    ),
    Plant(
        "activation-other",
        lambda nn: nn.Hardswish(),
        lambda w: lambda x: jax.nn.silu(x),
        (X,),
        words="SiLU",
    ),
    Plant("layer-omitted", lambda nn: nn.ReLU(), lambda w: lambda x: x, (X,)),
    Plant(
        "softmax-axis",
        lambda nn: nn.Softmax(-1),
        lambda w: lambda x: jax.nn.softmax(x, 0),
        (X,),
        words="axis 0",
    ),
    Plant(
        "softmax-log",
        lambda nn: nn.LogSoftmax(-1),
        lambda w: lambda x: jax.nn.softmax(x, -1),
        (X,),
    ),
    Plant(
        "embedding-scaled",
        lambda nn: nn.Embedding(7, 4),
        lambda w: lambda i: w["weight"][i] * 2,
        (np.array([[1, 2, 6]]),),
        words="multiplied",
    ),
    Plant(
        "embedding-padding-zero",
        lambda nn: nn.Embedding(7, 4, padding_idx=2),
        lambda w: lambda i: jnp.where((i == 2)[..., None], 0, w["weight"][i]),
        (np.array([[1, 2, 6]]),),
    ),
    Plant(
        "embedding-max-norm",
        lambda nn: nn.Embedding(7, 4, max_norm=0.5),
        lambda w: lambda i: w["weight"][i],
        (np.array([[1, 2, 6]]),),
    ),
    Plant(
        "embedding-offset",
        lambda nn: nn.Embedding(7, 4),
        lambda w: lambda i: w["weight"][i + 2],
        (np.array([[1, 2, 4]]),),
        words="by 2",
    ),
    Plant(
        "norm-running-variance-biased",
        lambda nn: nn.BatchNorm2d(4),
        lambda w: faulty.Biased(4),
        ((2, 4, 3, 1),),
    ),
    Plant(
        "norm-running-frozen",
        lambda nn: nn.BatchNorm2d(4),
        lambda w: faulty.Frozen(4),
        ((2, 4, 3, 1),),
    ),
    Plant(
        "norm-momentum-complement",
        lambda nn: nn.BatchNorm1d(4),
        lambda w: jaxnet.BatchNorm1d(4, momentum=0.9),
        (X,),
    ),
    Plant(
        "norm-momentum",
        lambda nn: nn.BatchNorm1d(4),
        lambda w: jaxnet.BatchNorm1d(4, momentum=0.03),
        (X,),
        words="0.03;",
    ),
    Plant(
        "norm-fast-variance",
        lambda nn: nn.LayerNorm(3),
        lambda w: faulty.FastVariance(3),
        (1000 + np.linspace(-1, 1, 24, dtype=np.float32).reshape(X),),
        kind="precision",
    ),
    Plant(
        "products-rounded",
        lambda nn: nn.Linear(4, 3),
        lambda w: lambda x: rounded(x) @ rounded(w["weight"]).T + w["bias"],
        ((5, 4),),
        words="bfloat16",
        kind="precision",
    ),
    Plant("dropout-keep", lambda nn: nn.Dropout(0.3), lambda w: faulty.DropLess(0.3), (X,)),
    Plant(
        "dropout-rate",
        lambda nn: nn.Dropout(0.3),
        lambda w: jaxnet.Dropout(0.2),
        (X,),
        words="0.2;",
    ),
    Plant("dropout-unscaled", lambda nn: nn.Dropout(0.3), lambda w: faulty.Unscaled(0.3), (X,)),
    Plant("dropout-inactive", lambda nn: nn.Dropout(0.3), lambda w: lambda x: x, (X,)),
    Plant(
        "dropout-polarity",
        lambda nn: nn.Dropout(0.3),
        lambda w: lambda x: jnp.where(keep_mask("", x.shape, 0.7), 0, x / 0.7),
        (X,),
    ),
    Plant(
        "dropout-per-channel",
        lambda nn: nn.Dropout(0.3),
        lambda w: lambda x: jnp.where(keep_mask("", x.shape, 0.7)[:, :, :1], x / 0.7, 0),
        (X,),
    ),
    Plant(
        "embedding-padding-gradient",
        lambda nn: nn.Embedding(7, 4, padding_idx=2),
        lambda w: jaxnet.Embedding(7, 4, rngs=Generator(0)),
        (np.array([[1, 2, 6]]),),
        backward=True,
    ),
    Plant(
        "attention-scale",
        lambda nn: nn.MultiheadAttention(4, 2, batch_first=True),
        lambda w: lambda *x, **_: attention(w, x, scale=1.0),
        SELF,
        words="none",
        kwargs={"need_weights": False},
    ),
    Plant(
        "attention-mask-missing",
        lambda nn: nn.MultiheadAttention(4, 2, batch_first=True),
        lambda w: lambda *x, **_: attention(w, x),
        SELF,
        kwargs={"need_weights": False, "attn_mask": np.triu(np.ones((3, 3), bool), 1)},
    ),
    Plant(
        "attention-mask-polarity",
        lambda nn: nn.MultiheadAttention(4, 2, batch_first=True),
        lambda w: lambda *x, attn_mask, **_: attention(w, x, attn_mask),
        SELF,
        kwargs={"need_weights": False, "attn_mask": np.triu(np.ones((3, 3), bool), 0)[::-1].copy()},
    ),
    Plant(
        "attention-causal-offset",
        lambda nn: nn.MultiheadAttention(4, 2, batch_first=True),
        lambda w: lambda *x, **_: attention(w, x, jnp.tril(jnp.ones((3, 3), bool), 1)),
        SELF,
        words="by 1 keys",
        kwargs={"need_weights": False, "attn_mask": np.triu(np.ones((3, 3), bool), 1)},
    ),
    Plant(
        "attention-head-order",
        lambda nn: nn.MultiheadAttention(4, 2, batch_first=True),
        lambda w: lambda *x, **_: attention(w, x, order="dims"),
        SELF,
        kwargs={"need_weights": False},
    ),
    Plant(
        "attention-projection-order",
        lambda nn: nn.MultiheadAttention(4, 2, batch_first=True),
        lambda w: lambda *x, **_: attention(w, x, blocks=(1, 0, 2)),
        SELF,
        words="kqv",
        kwargs={"need_weights": False},
    ),
    Plant(
        "attention-batch-first",
        lambda nn: nn.MultiheadAttention(4, 2),
        lambda w: lambda *x, **_: attention(w, x),
        SELF,
        kwargs={"need_weights": False},
    ),
    Plant(
        "attention-dropout-missing",
        lambda nn: nn.MultiheadAttention(4, 2, dropout=0.4, batch_first=True),
        lambda w: lambda *x, **_: attention(w, x),
        SELF,
        kwargs={"need_weights": False},
    ),
    Plant(
        "rnn-gate-order",
        lambda nn: nn.LSTM(2, 3),
        lambda w: lambda x: plain(recurrent(w, x, lstm("igfo"))),
        ((3, 2, 2),),
        words="igfo",
    ),
    Plant(
        "rnn-one-bias",
        lambda nn: nn.LSTM(2, 3),
        lambda w: lambda x: plain(recurrent({**w, "bias_hh_l0": 0 * w["bias_hh_l0"]}, x, lstm())),
        ((3, 2, 2),),
        words="bias_hh",
    ),
    Plant(
        "rnn-state-ignored",
        lambda nn: nn.LSTM(2, 3),
        lambda w: lambda x, state: plain(recurrent(w, x, lstm())),
        ((3, 2, 2), (np.ones((1, 2, 3), np.float32), 2 * np.ones((1, 2, 3), np.float32))),
    ),
    Plant(
        "rnn-state-of-ones",
        lambda nn: nn.LSTM(2, 3),
        lambda w: lambda x: plain(recurrent(w, x, lstm(), jnp.ones((2, 2, 3), x.dtype))),
        ((3, 2, 2),),
    ),
    Plant(
        "rnn-batch-first",
        lambda nn: nn.LSTM(2, 3, batch_first=True),
        lambda w: lambda x: plain(recurrent(w, x, lstm())),
        ((3, 3, 2),),
    ),
    Plant(
        "gru-update-complement",
        lambda nn: nn.GRU(2, 3),
        lambda w: lambda x: (lambda y, h: (y, h[:1]))(*recurrent(w, x, gru)),
        ((3, 2, 2),),
    ),
    Plant(
        "gru-bias-outside",
        lambda nn: nn.GRU(2, 3),
        lambda w: lambda x: (lambda y, h: (y, h[:1]))(*recurrent(outside(w), x, right_gru)),
        ((3, 2, 2),),
    ),
    Plant(
        "gru-reset-before",
        lambda nn: nn.GRU(2, 3, batch_first=True),
        lambda w: faulty.ResetBefore(2, 3, batch_first=True, rngs=Generator(0)),
        ((2, 3, 2),),
    ),
    Plant(
        "rnn-directions",
        lambda nn: nn.LSTM(2, 3, bidirectional=True),
        lambda w: faulty.altered(
            jaxnet.LSTM, lambda m, run, x: (lambda y, s: (jnp.roll(y, 3, -1), s))(*run(x))
        )(2, 3, bidirectional=True, rngs=Generator(0)),
        ((3, 2, 2),),
        words="swapped",
    ),
    Plant(
        "rnn-dropout-missing",
        lambda nn: nn.LSTM(2, 3, num_layers=2, dropout=0.4),
        lambda w: jaxnet.LSTM(2, 3, num_layers=2, rngs=Generator(0)),
        ((3, 2, 2),),
    ),
    Plant(
        "rnn-nonlinearity",
        lambda nn: nn.RNN(2, 3),
        lambda w: jaxnet.RNN(2, 3, nonlinearity="relu", rngs=Generator(0)),
        ((3, 2, 2),),
        words="relu",
    ),
    Plant(
        "input-rounded",
        lambda nn: nn.Linear(4, 3),
        lambda w: faulty.Rounded(4, 3, rngs=Generator(0)),
        ((5, 4),),
        words="the input is rounded to bfloat16",
    ),
    Plant(
        "layer-gradient-stopped",
        lambda nn: nn.Linear(4, 3),
        lambda w: faulty.NoWeightGradient(4, 3, rngs=Generator(0)),
        ((5, 4),),
        words="weight",
        backward=True,
    ),
    Plant(
        "gradient-scaled",
        lambda nn: nn.Linear(4, 3),
        lambda w: faulty.GradientOnly(4, 3, rngs=Generator(0)),
        ((5, 4),),
        words="1.1 ",
        backward=True,
    ),
]


def product(q, k, v, mask, axis=-1, hidden=-jnp.inf):
    scores = q @ k.swapaxes(-1, -2) / q.shape[-1] ** 0.5
    return jax.nn.softmax(jnp.where(mask, scores, hidden), axis) @ v


HIDDEN = np.tril(np.ones((3, 3), bool), -1)  # the first query sees nothing

# Rows of functions that are no layers: the function, its inputs, what the fault computes.
FUNCTIONS = {
    "log-base": ("log", ((2, 3),), lambda x: jnp.log2(x)),
    "attention-softmax-axis": (
        "scaled_dot_product_attention",
        ((2, 3, 4),) * 3 + (~HIDDEN.T,),
        lambda q, k, v, mask: product(q, k, v, mask, -2),
    ),
    "attention-mask-missing": (
        "scaled_dot_product_attention",
        ((2, 3, 4),) * 3 + (~HIDDEN.T,),
        lambda q, k, v, mask: product(q, k, v, jnp.ones_like(mask)),
    ),
    "attention-mask-fill": (
        "scaled_dot_product_attention",
        ((2, 3, 4),) * 3 + (HIDDEN,),
        lambda q, k, v, mask: product(q, k, v, mask, hidden=-1e9),
    ),
}


def inputs_of(plant: Plant) -> list[np.ndarray]:
    random = np.random.RandomState(1)
    return [
        random.standard_normal(x).astype(np.float32)
        if isinstance(x, tuple) and isinstance(x[0], int)
        else x
        for x in plant.inputs
    ]


def torch_layer(plant: Plant) -> Any:
    """The layer with random numbers in all parameters and buffers."""
    import torch

    layer = plant.layer(torch.nn).train(plant.train)
    random = np.random.RandomState(0)
    with torch.no_grad():
        for tensor in (*layer.parameters(), *layer.buffers()):
            if tensor.is_floating_point():
                drawn = random.standard_normal(tuple(tensor.shape))
                tensor.copy_(torch.from_numpy(0.5 + np.abs(drawn)))
    return layer


@pytest.fixture(autouse=True)
def _as_jax_is():
    """The ports here are written as users write them, under JAX's own settings."""
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        yield


def rows_with(name: str, kind: str) -> list[Any]:
    """A row and its neighbours for a kind of layers, which must not be named for it."""
    at = next(i for i, trap in enumerate(traps.ALL) if trap.name == name)
    others = [t for t in (*traps.ALL[at + 1 :], *traps.ALL[:at]) if {kind, "layer"} & {*t.kinds}]
    return [traps.ALL[at], *others[:2]]


@pytest.mark.parametrize("plant", PLANTS, ids=str)
def test_found_and_named(plant):
    import torch

    layer = torch_layer(plant)
    # An own copy: max_norm changes torch's weights at the call.
    weights = Weights({n: t.detach().numpy().copy() for n, t in layer.state_dict().items()})
    rows = rows_with(plant.trap, type(layer).__name__)
    with torch.set_grad_enabled(plant.backward):
        found = explained(layer, plant.port(weights), inputs_of(plant), plant.kwargs, rows)
    assert found.kind == plant.kind
    assert found.cause is not None, found.message
    # The sentence of a row begins with its own words, up to the first constant.
    begin = rows[0].words.partition("{")[0]
    named = [found.cause, *found.alternatives]
    assert any(words.startswith(begin) and plant.words in words for words in named), named
    assert found.fix
    assert found.proof


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions(name):
    import torch

    function, shapes, port = FUNCTIONS[name]
    random = np.random.RandomState(3)
    arrays = [random.rand(*s).astype(np.float32) if isinstance(s, tuple) else s for s in shapes]
    torch_function = getattr(torch.nn.functional, function, None) or getattr(torch, function)
    numbers = []
    for double in (False, True):
        tensors = [torch.from_numpy(a) for a in arrays]
        tensors = [t.double() if double and t.is_floating_point() else t for t in tensors]
        numbers.append({"output": torch_function(*tensors).numpy()})
    for double in (False, True):
        with jax.enable_x64(double):
            given = [jnp.asarray(a, float) if a.dtype != bool else a for a in arrays]
            numbers.append({"output": np.asarray(port(*given))})
    reference = of_function(function, {str(i): a for i, a in enumerate(arrays)})
    cause = attribute(reference, Evidence(*numbers))
    assert name in {h.trap.name for each in cause.proven for h in each}


def test_names_are_unique():
    names = [trap.name for trap in traps.ALL]
    assert sorted(set(names)) == sorted(names)


def test_every_row_for_layers_is_planted():
    files = "activations attention backward linear norms pooling recurrent"
    rows = {trap.name for file in files.split() for trap in getattr(traps, file).TRAPS}
    assert rows == {plant.trap for plant in PLANTS} | set(FUNCTIONS)
