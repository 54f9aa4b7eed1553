"""Random networks and their training, each built in PyTorch and in jaxnet from one description.

A description names layers by the names that both libraries give them. What a seed gives is the
same on every machine: it is drawn with NumPy's old generator, whose numbers do not change.
"""

import dataclasses
import functools
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

WORDS, WIDTH, LENGTH, CLASSES = 11, 8, 5, 4
SIZES = {1: 12, 2: 8, 3: 4}  # of the inputs of networks with convolutions, by dimension


@dataclasses.dataclass(frozen=True)
class Layer:
    """The description of one layer.

    Attributes:
        kind: The name of its class in torch.nn, or of one of `blocks`; or a class itself, which
            one library alone has.
        arguments: The arguments of the constructor by position, without those that are layers.
        options: Those by keyword.
        parts: The layers that come first in the constructor, inside of it.
    """

    kind: Any
    arguments: tuple[Any, ...] = ()
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    parts: tuple["Layer", ...] = ()


def layer(kind: Any, *arguments: Any, **options: Any) -> Layer:
    """A layer without parts."""
    return Layer(kind, arguments, options)


def chain(*parts: Layer, kind: str = "Sequential") -> Layer:
    """Layers one after another: in a Sequential, or another layer that takes a Sequential."""
    inner = Layer("Sequential", parts=parts)
    return inner if kind == "Sequential" else Layer(kind, parts=(inner,))


def repeated(times: int, part: Layer) -> Layer:
    """One layer that is used several times: Sequential(*(times * [layer]))."""
    return Layer("Repeated", (times,), parts=(part,))


@functools.cache
def blocks(nn: Any) -> dict[str, Any]:
    """The layers of the descriptions that neither library has, for torch.nn or jaxnet.nn."""

    class Residual(nn.Module):
        """What the body makes of the input, added to it."""

        def __init__(self, body: Any) -> None:
            super().__init__()
            self.body = body

        def forward(self, x: Any) -> Any:
            return x + self.body(x)

    class Outputs(nn.Module):
        """The outputs of a recurrent layer, without its last state."""

        def __init__(self, body: Any) -> None:
            super().__init__()
            self.body = body

        def forward(self, x: Any) -> Any:
            outputs, _ = self.body(x)
            return outputs

    class SelfAttention(nn.Module):
        """Attention of positions (N, L, E) to themselves and those before."""

        def __init__(self, width: int, heads: int, dropout: float = 0.0, rngs: Any = None) -> None:
            super().__init__()
            given = {} if rngs is None else {"rngs": rngs}
            self.attention = nn.MultiheadAttention(width, heads, dropout, batch_first=True, **given)

        def forward(self, x: Any) -> Any:
            mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1], dtype=x.dtype)
            attended, _ = self.attention(x, x, x, attn_mask=mask, need_weights=False)
            return attended

    class Tied(nn.Module):
        """Tokens (N, L) to scores (N, L, words) by a decoder with the embedding's weights."""

        def __init__(self, embedding: Any, body: Any, decoder: Any) -> None:
            super().__init__()
            self.embedding, self.body, self.decoder = embedding, body, decoder
            self.decoder.weight = self.embedding.weight

        def forward(self, tokens: Any) -> Any:
            return self.decoder(self.body(self.embedding(tokens)))

    made = {each.__name__: each for each in (Residual, Outputs, SelfAttention, Tied)}
    if not hasattr(nn.Module, "forward"):  # jaxnet's modules are called by __call__
        for each in made.values():
            each.__call__ = each.__dict__["forward"]
            del each.forward
    return made


def build(description: Layer, nn: Any, rngs: Any = None) -> Any:
    """The layer of a description.

    Args:
        description: The description.
        nn: The package torch.nn or jaxnet.nn.
        rngs: jaxnet's generator of the initial weights; None in PyTorch, which has its own.
    """
    parts = [build(part, nn, rngs) for part in description.parts]
    if description.kind == "Repeated":
        return nn.Sequential(*(description.arguments[0] * parts))
    cls = description.kind
    if isinstance(cls, str):
        cls = blocks(nn).get(cls) or getattr(nn, cls)
    options = dict(description.options)
    accepted = inspect.signature(cls.__init__).parameters
    if rngs is not None and "rngs" in accepted:
        options["rngs"] = rngs
    return cls(*parts, *description.arguments, **options)


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How a network is trained; names and arguments are torch's.

    In jaxnet's recipe a function may stand for a name.

    Attributes:
        optimizer: The name and the arguments of the optimizer.
        schedule: Those of the schedule, which is stepped after each update; None for none.
        clip: "norm" or "value" with the bound; None for no clipping.
        parts: The number of batches whose gradients are summed for one update.
    """

    optimizer: tuple[Any, Mapping[str, Any]] = ("SGD", {"lr": 0.1})
    schedule: tuple[str, Mapping[str, Any]] | None = None
    clip: tuple[Any, float] | None = None
    parts: int = 1

    def of_torch(self, model: Any) -> tuple[Any, Any]:
        """PyTorch's optimizer, and its schedule or None."""
        import torch

        name, options = self.optimizer
        optimizer = getattr(torch.optim, name)(model.parameters(), **options)
        if self.schedule is None:
            return optimizer, None
        name, options = self.schedule
        return optimizer, getattr(torch.optim.lr_scheduler, name)(optimizer, **options)

    def of_jaxnet(self, steps: int) -> Any:
        """jaxnet's optimizer with its schedule and clipping.

        Args:
            steps: The number of steps of the schedule.
        """
        from jaxnet import optim

        name, options = self.optimizer
        make: Any = name if callable(name) else getattr(optim, name)
        optimizer = make(**options)
        if self.schedule is not None:
            name, options = self.schedule
            schedule = getattr(optim, name)(optimizer, **options)
            optimizer = optim.scheduled(optimizer, schedule, steps=steps)
        if self.clip is not None:
            kind, bound = self.clip
            clips = {"norm": optim.clip_by_norm, "value": optim.clip_by_value}
            optimizer = optim.chain(clips.get(kind, kind)(bound), optimizer)
        # The loss is divided by the number of the parts, so that their gradients are summed.
        return optim.accumulate(optimizer, self.parts, "sum") if self.parts > 1 else optimizer


@dataclasses.dataclass(frozen=True)
class Task:
    """A network with its data, loss and training.

    Attributes:
        network: The description of the network.
        inputs: The shape of one input; its dtype is float32, or int64 for tokens.
        kind: "classes", "tokens" (a class for each position), "numbers" or "binary": the kind of
            the targets.
        loss: The name and the arguments of the loss.
        recipe: How it is trained.
        batch: The number of rows of a batch.
        targets: The number of classes, or the size of one target.
        missing: The number of rows that the last batch lacks.
    """

    network: Layer
    inputs: tuple[int, ...]
    kind: str
    loss: tuple[Any, Mapping[str, Any]]
    recipe: Recipe = Recipe()
    batch: int = 4
    targets: int = CLASSES
    missing: int = 0

    def data(self, rows: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """Inputs and targets.

        Args:
            rows: The number of rows.
            seed: The seed of the numbers.
        """
        r = np.random.RandomState(seed)
        if self.kind == "tokens":
            x = r.randint(0, WORDS, (rows, *self.inputs))
            y = r.randint(0, WORDS, (rows, *self.inputs))
            y[r.rand(*y.shape) < 0.2] = -100  # what cross_entropy leaves out
            return x, y
        x = (1.3 * r.randn(rows, *self.inputs) + 0.2).astype(np.float32)
        if self.kind == "classes":
            return x, r.randint(0, self.targets, rows)
        y = r.randn(rows, self.targets)
        return x, (y > 0 if self.kind == "binary" else y).astype(np.float32)


def pick(r: np.random.RandomState, choices: Sequence[Any]) -> Any:
    """One of the choices, whose types stay as they are."""
    return choices[r.randint(len(choices))]


_ACTIVATIONS = (
    layer("ReLU"),
    layer("Tanh"),
    layer("Sigmoid"),
    layer("GELU"),
    layer("GELU", approximate="tanh"),
    layer("SiLU"),
    layer("LeakyReLU", 0.2),
    layer("ELU", 0.7),
    layer("Softplus"),
    layer("Hardswish"),
    layer("Mish"),
    layer("PReLU"),
    layer("ReLU6"),
)


def _norm(r: np.random.RandomState, d: int, channels: int, size: int) -> list[Layer]:
    batch = f"BatchNorm{d}d"
    choices = [
        layer(batch, channels),
        layer(batch, channels, momentum=0.3),
        layer(batch, channels, eps=1e-3, momentum=None),
        layer(batch, channels, affine=False),
        layer(batch, channels, track_running_stats=False),
        layer("GroupNorm", 2, channels),
        layer(f"InstanceNorm{d}d", channels, affine=True),
        layer("LayerNorm", [channels, *d * [size]]),
    ]
    return [pick(r, choices)] if r.rand() < 0.7 else []


def _convolutional(r: np.random.RandomState, d: int) -> Task:
    channels, size = 3, SIZES[d]
    inputs = (channels, *d * [size])
    parts: list[Layer] = []
    for _ in range(r.randint(1, 4)):
        out, kernel = pick(r, (4, 6, 8)), pick(r, (1, 3))
        stride = pick(r, (1, 1, 2)) if size >= 4 else 1
        options: dict[str, Any] = {"padding": kernel // 2, "stride": stride}
        if stride == 1 and kernel == 3 and r.rand() < 0.3:
            options = {"padding": 2, "dilation": 2} if size > 4 else {"padding": "same"}
        elif r.rand() < 0.2 and kernel == 3:
            options["padding_mode"] = pick(r, ("circular", "reflect", "replicate"))
        if channels % 2 == 0 and r.rand() < 0.25:
            options["groups"] = 2
        options["bias"] = bool(r.rand() < 0.7)
        parts.append(layer(f"Conv{d}d", channels, out, kernel, **options))
        channels, size = out, (size - 1) // stride + 1
        parts += [*_norm(r, d, channels, size), pick(r, _ACTIVATIONS)]
        if r.rand() < 0.35:
            inner = [
                layer(f"Conv{d}d", channels, channels, 3, padding=1),
                *_norm(r, d, channels, size),
            ]
            block = chain(*inner, pick(r, _ACTIVATIONS), kind="Residual")
            parts.append(repeated(r.randint(2, 4), block) if r.rand() < 0.5 else block)
        if size >= 4 and r.rand() < 0.6:
            pools = [
                (layer(f"MaxPool{d}d", 2), size // 2),
                (layer(f"AvgPool{d}d", 2), size // 2),
                (layer(f"MaxPool{d}d", 3, 2, 1), (size - 1) // 2 + 1),
                (layer(f"AvgPool{d}d", 3, 2, 1, count_include_pad=False), (size - 1) // 2 + 1),
                (layer(f"AdaptiveAvgPool{d}d", 2), 2),
            ]
            pool, size = pick(r, pools)
            parts.append(pool)
        if r.rand() < 0.3:
            parts.append(layer(pick(r, ("Dropout", f"Dropout{d}d")), pick(r, (0.2, 0.4))))
    if size > 1 and r.rand() < 0.25:
        parts.append(layer(f"ConvTranspose{d}d", channels, 4, 3, stride=2, padding=1))
        channels, size = 4, 2 * size - 1
    parts += [layer("Flatten"), layer("Linear", channels * size**d, CLASSES)]
    losses = [("cross_entropy", {}), ("cross_entropy", {"label_smoothing": 0.1})]
    if r.rand() < 0.3:
        parts.append(layer("LogSoftmax", dim=1))
        losses = [("nll_loss", {})]
    return Task(chain(*parts), inputs, "classes", pick(r, losses))


def _fully_connected(r: np.random.RandomState) -> Task:
    width, parts = 6, []
    for _ in range(r.randint(1, 4)):
        out = pick(r, (5, 8, 12))
        parts.append(layer("Linear", width, out, bias=bool(r.rand() < 0.8)))
        width = out
        norms = [layer("BatchNorm1d", width), layer("LayerNorm", width), layer("RMSNorm", width)]
        parts += [pick(r, norms)] if r.rand() < 0.6 else []
        parts.append(pick(r, _ACTIVATIONS))
        if r.rand() < 0.4:
            block = chain(layer("Linear", width, width), pick(r, _ACTIVATIONS), kind="Residual")
            parts.append(repeated(r.randint(2, 4), block) if r.rand() < 0.5 else block)
        if r.rand() < 0.3:
            parts.append(layer(pick(r, ("Dropout", "AlphaDropout")), 0.3))
    parts.append(layer("Linear", width, 3))
    choices = [
        ("numbers", ("mse_loss", {})),
        ("numbers", ("mse_loss", {"reduction": "sum"})),
        ("numbers", ("smooth_l1_loss", {"beta": 0.7})),
        ("numbers", ("huber_loss", {})),
        ("binary", ("binary_cross_entropy_with_logits", {})),
    ]
    kind, loss = pick(r, choices)
    return Task(chain(*parts), (6,), kind, loss, batch=6, targets=3)


def _language(r: np.random.RandomState) -> Task:
    embedding = layer("Embedding", WORDS, WIDTH, padding_idx=0 if r.rand() < 0.4 else None)
    parts = [layer("Dropout", 0.2)] if r.rand() < 0.5 else []
    for _ in range(r.randint(1, 3)):
        recurrent = layer(
            pick(r, ("LSTM", "GRU", "RNN")), WIDTH, WIDTH, pick(r, (1, 2)), batch_first=True
        )
        attention = chain(
            layer("LayerNorm", WIDTH),
            layer("SelfAttention", WIDTH, 2, dropout=pick(r, (0.0, 0.2))),
            kind="Residual",
        )
        feedforward = chain(
            layer("LayerNorm", WIDTH, eps=pick(r, (1e-5, 1e-6))),
            layer("Linear", WIDTH, 16),
            pick(r, _ACTIVATIONS),
            layer("Linear", 16, WIDTH),
            kind="Residual",
        )
        encoder = layer(
            "TransformerEncoderLayer",
            WIDTH,
            2,
            16,
            dropout=pick(r, (0.0, 0.1)),
            activation=pick(r, ("relu", "gelu")),
            norm_first=bool(r.rand() < 0.5),
            batch_first=True,
        )
        outputs = Layer("Outputs", parts=(recurrent,))
        parts += pick(r, ([outputs], [attention, feedforward], [encoder], [outputs, feedforward]))
        parts += [layer("Dropout", 0.2)] if r.rand() < 0.3 else []
    decoder = layer("Linear", WIDTH, WORDS, bias=bool(r.rand() < 0.5))
    if r.rand() < 0.5:
        network = Layer("Tied", parts=(embedding, chain(*parts), decoder))
    else:
        network = chain(embedding, *parts, decoder)
    return Task(network, (LENGTH,), "tokens", ("cross_entropy", {}), targets=WORDS)


def _recipe(r: np.random.RandomState) -> Recipe:
    optimizers = [
        ("SGD", {"lr": 0.05}),
        ("SGD", {"lr": 0.05, "momentum": 0.9}),
        ("SGD", {"lr": 0.05, "momentum": 0.8, "dampening": 0.1, "weight_decay": 1e-2}),
        ("SGD", {"lr": 0.05, "momentum": 0.9, "nesterov": True, "weight_decay": 1e-3}),
        ("Adam", {"lr": 1e-2}),
        ("Adam", {"lr": 1e-2, "betas": (0.8, 0.95), "weight_decay": 1e-2}),
        ("Adam", {"lr": 1e-2, "amsgrad": True, "eps": 1e-6}),
        ("AdamW", {"lr": 1e-2}),
        ("AdamW", {"lr": 1e-2, "weight_decay": 0.1}),
        ("RMSprop", {"lr": 1e-2}),
        ("RMSprop", {"lr": 1e-2, "momentum": 0.5, "centered": True}),
    ]
    schedules = [
        ("StepLR", {"step_size": 2, "gamma": 0.5}),
        ("CosineAnnealingLR", {"T_max": 20}),
        ("ExponentialLR", {"gamma": 0.9}),
        ("LinearLR", {"start_factor": 0.2, "total_iters": 4}),
        ("OneCycleLR", {"max_lr": 0.05, "total_steps": 200}),
        ("MultiStepLR", {"milestones": [1, 3], "gamma": 0.3}),
    ]
    optimizer = pick(r, optimizers)
    schedule = pick(r, schedules) if r.rand() < 0.5 else None
    if schedule and schedule[0] == "OneCycleLR":  # it moves momentum too, if there is one
        cycles = "Adam" in optimizer[0] or "momentum" in optimizer[1]
        schedule = schedule[0], {**schedule[1], "cycle_momentum": cycles}
    return Recipe(
        optimizer=optimizer,
        schedule=schedule,
        clip=pick(r, [("norm", 0.5), ("value", 0.05)]) if r.rand() < 0.35 else None,
        parts=2 if r.rand() < 0.25 else 1,
    )


def task(seed: int) -> Task:
    """The random network with its training that a seed gives."""
    r = np.random.RandomState(seed)
    family = pick(r, ("images", "images", "signals", "volumes", "numbers", "tokens", "tokens"))
    dimensions = {"signals": 1, "images": 2, "volumes": 3}
    if family in dimensions:
        made = _convolutional(r, dimensions[family])
    else:
        made = _fully_connected(r) if family == "numbers" else _language(r)
    return dataclasses.replace(made, recipe=_recipe(r))
