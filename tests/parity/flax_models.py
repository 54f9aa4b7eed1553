"""A ResNet-18, a small GPT and a small BERT in plain flax.nnx beside their PyTorch programs.

Each takes mistakes by name, which are those that ports from PyTorch to flax have most often.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from tests.parity.architectures import Recipe
from tests.parity.pairs import Pair, loop
from tests.parity.plants import Fault, Plant

WORDS, LENGTH, WIDTH, HEADS = 13, 6, 8, 2


class BatchNorm(nnx.BatchNorm):
    """flax's BatchNorm, but that the running variance takes the unbiased one, as torch's does."""

    def __call__(self, x: jax.Array) -> jax.Array:
        before = self.var[...]
        y = super().__call__(x)
        rows = x.size // x.shape[-1]
        self.var[...] = (
            before
            + (self.var[...] - before * self.momentum) * rows / (rows - 1)
            - (before * (1 - self.momentum))
        )
        return y


class Block(nnx.Module):
    """Two convolutions with batch norm and a skip connection."""

    def __init__(self, i: int, o: int, stride: int, norm: Any, same: bool, rngs: Any) -> None:
        pad: Any = "SAME" if same else 1
        options: dict[str, Any] = {"use_bias": False, "rngs": rngs}
        self.conv1 = nnx.Conv(i, o, (3, 3), strides=stride, padding=pad, **options)
        self.norm1 = norm(o)
        self.conv2 = nnx.Conv(o, o, (3, 3), padding=1, **options)
        self.norm2 = norm(o)
        self.shortcut: Any = nnx.data(None)
        if stride != 1 or i != o:
            conv = nnx.Conv(i, o, (1, 1), strides=stride, padding=0, **options)
            self.shortcut = nnx.Sequential(conv, norm(o))

    def __call__(self, x: jax.Array) -> jax.Array:
        out = self.norm2(self.conv2(nnx.relu(self.norm1(self.conv1(x)))))
        return nnx.relu(out + (x if self.shortcut is None else self.shortcut(x)))


class ResNet18(nnx.Module):
    """ResNet-18 for images (N, H, W, 3)."""

    def __init__(
        self, width: int, rngs: Any, momentum: float = 0.9, epsilon: float = 1e-5,
        biased: bool = False, same: bool = False, pool: Any = jnp.mean, leaky: bool = False,
    ) -> None:  # fmt: skip
        def norm(features: int) -> Any:
            cls = nnx.BatchNorm if biased else BatchNorm
            return cls(features, momentum=momentum, epsilon=epsilon, rngs=rngs)

        self.conv1 = nnx.Conv(3, width, (3, 3), padding=1, use_bias=False, rngs=rngs)
        self.norm1 = norm(width)
        sizes = [(width, width, 1), *((width << i, width << i + 1, 2) for i in range(3))]
        self.blocks = nnx.List([])
        for i, (a, b, stride) in enumerate(sizes):
            self.blocks.append(Block(a, b, stride, norm, same and i == 1, rngs))
            self.blocks.append(Block(b, b, 1, norm, False, rngs))
        self.fc = nnx.Linear(8 * width, 4, rngs=rngs)
        self.pool, self.leaky = pool, leaky

    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.norm1(self.conv1(x))
        x = nnx.leaky_relu(x) if self.leaky else nnx.relu(x)
        for block in self.blocks:
            x = block(x)
        return self.fc(self.pool(x, axis=(1, 2)))


class Attention(nnx.Module):
    """Causal attention with one projection to query, key and value, as GPT-2 has it."""

    def __init__(self, scale: float, rngs: Any) -> None:
        self.qkv = nnx.Linear(WIDTH, 3 * WIDTH, rngs=rngs)
        self.out = nnx.Linear(WIDTH, WIDTH, rngs=rngs)
        self.scale = scale

    def __call__(self, x: jax.Array) -> jax.Array:
        n, length, _ = x.shape
        q, k, v = jnp.split(self.qkv(x).reshape(n, length, 3 * HEADS, -1), 3, axis=2)
        mask = nnx.make_causal_mask(x[..., 0])
        heads = nnx.dot_product_attention(q * self.scale, k, v, mask=mask)
        return self.out(heads.reshape(n, length, -1))


class GPT(nnx.Module):
    """A language model with GPT-2's blocks, whose last layer is the embedding."""

    def __init__(
        self, rngs: Any, epsilon: float = 1e-5, exact: bool = False, scale: float = 1.0,
        offset: int = 0, post: bool = False,
    ) -> None:  # fmt: skip
        self.tokens = nnx.Embed(WORDS, WIDTH, rngs=rngs)
        self.positions = nnx.Embed(LENGTH + 1, WIDTH, rngs=rngs)
        self.attentions, self.mlps, self.norms = nnx.List([]), nnx.List([]), nnx.List([])
        for _ in range(2):
            self.attentions.append(Attention(scale, rngs))
            wide = nnx.Linear(WIDTH, 4 * WIDTH, rngs=rngs)
            self.mlps.append(nnx.List([wide, nnx.Linear(4 * WIDTH, WIDTH, rngs=rngs)]))
            self.norms.append(nnx.LayerNorm(WIDTH, epsilon=epsilon, rngs=rngs))
            self.norms.append(nnx.LayerNorm(WIDTH, epsilon=epsilon, rngs=rngs))
        self.last = nnx.LayerNorm(WIDTH, epsilon=epsilon, rngs=rngs)
        self.exact, self.offset, self.post = exact, offset, post

    def __call__(self, tokens: jax.Array) -> jax.Array:
        x = self.tokens(tokens) + self.positions(jnp.arange(tokens.shape[1]) + self.offset)
        for i, (attention, (wide, narrow)) in enumerate(
            zip(self.attentions, self.mlps, strict=True)
        ):
            x = x + attention(self.norms[2 * i](x))
            hidden = nnx.gelu(wide(self.norms[2 * i + 1](x)), approximate=not self.exact)
            x = x + narrow(hidden) * (0.5 if self.post else 1.0)
        return self.tokens.attend(self.last(x))


class BERT(nnx.Module):
    """An encoder with flax's attention, norms after the sums, and a class from the first token."""

    def __init__(
        self, rngs: Any, epsilon: float = 1e-12, approximate: bool = False, rate: float = 0.1,
        masked: bool = True, pooled: int = 0, tanh: bool = True,
    ) -> None:  # fmt: skip
        self.word = nnx.Embed(WORDS, WIDTH, rngs=rngs)
        self.position = nnx.Embed(LENGTH, WIDTH, rngs=rngs)
        self.norm = nnx.LayerNorm(WIDTH, epsilon=epsilon, rngs=rngs)
        self.drop = nnx.Dropout(rate, rngs=rngs)
        self.layers = nnx.List([])
        for _ in range(2):
            attention = nnx.MultiHeadAttention(
                HEADS, WIDTH, decode=False, deterministic=True, rngs=rngs
            )
            self.layers.append(
                nnx.Dict(
                    attention=attention,
                    norm1=nnx.LayerNorm(WIDTH, epsilon=epsilon, rngs=rngs),
                    wide=nnx.Linear(WIDTH, 2 * WIDTH, rngs=rngs),
                    narrow=nnx.Linear(2 * WIDTH, WIDTH, rngs=rngs),
                    norm2=nnx.LayerNorm(WIDTH, epsilon=epsilon, rngs=rngs),
                )
            )
        self.pooler = nnx.Linear(WIDTH, WIDTH, rngs=rngs)
        self.classifier = nnx.Linear(WIDTH, 4, rngs=rngs)
        self.approximate, self.masked, self.pooled = approximate, masked, pooled
        self.squash = jnp.tanh if tanh else nnx.relu

    def __call__(self, tokens: jax.Array) -> jax.Array:
        x = self.word(tokens) + self.position(jnp.arange(tokens.shape[1]))
        x = self.drop(self.norm(x))
        mask = (tokens != 0)[:, None, None, :] if self.masked else None
        for layer in self.layers:
            x = layer["norm1"](x + layer["attention"](x, mask=mask))
            wide = nnx.gelu(layer["wide"](x), approximate=self.approximate)
            x = layer["norm2"](x + layer["narrow"](wide))
        return self.classifier(self.squash(self.pooler(x[:, self.pooled])))


def _torch_bert() -> Any:
    import torch
    from torch import nn
    from torch.nn import functional as F

    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.query, self.key = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
            self.value, self.dense = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
            self.norm1 = nn.LayerNorm(WIDTH, eps=1e-12)
            self.wide, self.narrow = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, WIDTH)
            self.norm2 = nn.LayerNorm(WIDTH, eps=1e-12)

        def forward(self, x: Any, mask: Any) -> Any:
            n, length, _ = x.shape
            q, k, v = (
                f(x).view(n, length, HEADS, -1).transpose(1, 2)
                for f in (self.query, self.key, self.value)
            )
            heads = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
            x = self.norm1(x + self.dense(heads.transpose(1, 2).reshape(n, length, -1)))
            return self.norm2(x + self.narrow(F.gelu(self.wide(x))))

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.word, self.position = nn.Embedding(WORDS, WIDTH), nn.Embedding(LENGTH, WIDTH)
            self.norm, self.drop = nn.LayerNorm(WIDTH, eps=1e-12), nn.Dropout(0.1)
            self.layers = nn.ModuleList([Layer(), Layer()])
            self.pooler, self.classifier = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 4)

        def forward(self, tokens: Any) -> Any:
            positions = torch.arange(tokens.shape[1])
            x = self.drop(self.norm(self.word(tokens) + self.position(positions)))
            mask = (tokens != 0)[:, None, None, :]
            for layer in self.layers:
                x = layer(x, mask)
            return self.classifier(torch.tanh(self.pooler(x[:, 0])))

    return Model()


def _torch_resnet() -> Any:
    from benchmarks import torch_models

    return torch_models.ResNet18(4, 4)


def _torch_gpt() -> Any:
    from benchmarks import torch_models

    return torch_models.GPT(WORDS, LENGTH + 1, WIDTH, 2, HEADS)


def _loss(model: Any, batch: Any) -> jax.Array:
    x, y = batch
    x = x.transpose(0, 2, 3, 1) if x.ndim == 4 else x
    return optax.softmax_cross_entropy_with_integer_labels(model(x), y).mean()


def _sum(model: Any, batch: Any) -> jax.Array:
    return _loss(model, batch) * batch[1].size


def _data(images: bool, classes: bool, rows: int) -> tuple[np.ndarray, np.ndarray]:
    r = np.random.RandomState(0)
    if images:
        return r.randn(rows, 3, 16, 16).astype(np.float32), r.randint(0, 4, rows)
    x = r.randint(1, WORDS, (rows, LENGTH))
    x[::2, -2:] = 0  # padding
    return x, r.randint(0, 4, rows) if classes else np.roll(x, -1, 1)


_SGD = Recipe(("SGD", {"lr": 1e-2, "momentum": 0.9}))
_ADAMW = Recipe(("AdamW", {"lr": 1e-2}))
MODELS: dict[str, tuple[Callable[[], Any], Callable[..., Any], Recipe, tuple[bool, bool]]] = {
    "ResNet-18": (_torch_resnet, lambda **k: ResNet18(4, **k), _SGD, (True, True)),
    "GPT": (_torch_gpt, GPT, _ADAMW, (False, False)),
    "BERT": (_torch_bert, BERT, _ADAMW, (False, True)),
}
_RIGHT: dict[str, Callable[[], Any]] = {
    "ResNet-18": lambda: optax.sgd(1e-2, momentum=0.9),
    "GPT": lambda: optax.adamw(1e-2, weight_decay=1e-2),
    "BERT": lambda: optax.adamw(1e-2, weight_decay=1e-2),
}


def pair(
    name: str,
    title: str = "",
    optimizer: Callable[[], Any] | None = None,
    loss: Callable[..., Any] = _loss,
    make: Callable[..., Any] | None = None,
    **mistakes: Any,
) -> Pair:
    """A model of `MODELS` in both libraries.

    Args:
        name: Its name.
        title: The name of the pair; by default that of the model.
        optimizer: A function that gives flax's optimizer; by default the right one.
        loss: flax's loss.
        make: A function of the mistakes that gives the model in another library.
        **mistakes: Arguments of the model in flax.
    """
    theirs, ours, recipe, (images, classes) = MODELS[name]
    rows = 4

    def train(steps: int) -> None:
        import torch
        from torch.nn import functional as F

        torch.manual_seed(0)

        def criterion(outputs: Any, targets: Any) -> Any:
            return F.cross_entropy(outputs.flatten(0, -2), targets.flatten())

        loop(theirs(), criterion, recipe, _data(images, classes, steps * rows), rows)

    def subject(trace: Any) -> Mapping[str, Any]:
        made = (optimizer or _RIGHT[name])()
        if make is not None:
            model: Any = make(**mistakes)
        else:
            model = ours(rngs=nnx.Rngs(0), **mistakes)
            made = nnx.Optimizer(model, made, wrt=nnx.Param)
        return {"model": model, "loss": loss, "optimizer": made, "weights": "copy"}

    return Pair(title or f"flax: {name}", train, subject)  # type: ignore[arg-type]


_ROWS: tuple[tuple[str, str, str, str, dict[str, Any]], ...] = (
    ("ResNet-18", "momentum 0.99", ":bn1|:layer|update|bn", "momentum",
        {"momentum": 0.99}),
    ("ResNet-18", "eps 1e-3", "bn", "0.001",
        {"epsilon": 1e-3}),
    ("ResNet-18", "biased variance", "bn", "biased",
        {"biased": True}),
    ("ResNet-18", "SAME at stride 2", "layer2.0.conv1", "SAME|pad",
        {"same": True}),
    ("ResNet-18", "largest for mean", "fc", "max|largest",
        {"pool": jnp.max}),
    ("ResNet-18", "leaky", "layer1.0.conv1|conv1|input", "0.01|leaky|Leaky",
        {"leaky": True}),
    ("GPT", "eps 1e-6", "ln_", "1e-06",
        {"epsilon": 1e-6}),
    ("GPT", "exact gelu", "c_out", "exact|erf|none",
        {"exact": True}),
    ("GPT", "attention unscaled", "c_proj", "scale",
        {"scale": (WIDTH / HEADS) ** 0.5}),
    ("GPT", "positions moved", "wpe", "moved|offset|shift|position",
        {"offset": 1}),
    ("GPT", "default decay", "update", "decay",
        {"optimizer": lambda: optax.adamw(1e-2)}),
    ("GPT", "sum", "loss", "sum",
        {"loss": _sum}),
    ("BERT", "eps 1e-6", "norm", "1e-06",
        {"epsilon": 1e-6}),
    ("BERT", "tanh gelu", "narrow", "tanh",
        {"approximate": True}),
    ("BERT", "dropout 0.2", "query|key|value|input", "0.2|rate",
        {"rate": 0.2}),
    ("BERT", "padding seen", "dense", "mask",
        {"masked": False}),
    ("BERT", "relu for tanh", "classifier", "relu|ReLU",
        {"tanh": False}),
    ("BERT", "Adam for AdamW", "update", "decay",
        {"optimizer": lambda: optax.adam(1e-2)}),
)  # fmt: skip


def mistakes(
    library: str, kind: str, models: Mapping[str, Callable[..., Any]] | None = None
) -> list[Plant]:
    """The models without a mistake, and with each of some.

    Args:
        library: How the names of the plants begin.
        kind: Their kind.
        models: For each model a function of its mistakes that makes it in another library.
    """

    def plant(name: str, mistake: str, place: str, says: str, options: dict[str, Any]) -> Plant:
        make = None if models is None else models[name]
        one = pair(name, f"{library}: {name}, {mistake}", make=make, **options)
        return Plant(one.name, kind, one, (Fault(place, says),) if place else (), 3)

    return [*(plant(name, "nothing", "", "", {}) for name in MODELS), *(plant(*r) for r in _ROWS)]


MISTAKES = mistakes("flax", "flax model")
