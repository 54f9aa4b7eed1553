"""What is trained on a card: models of both libraries, their batches, and jaxnet's programs.

`jaxnet_step` gives what a user would compile. The small nets are those of
`benchmarks.training`; ResNet-18 and a GPT of GPT-2 small's shape stand for larger ones.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from benchmarks import jaxnet_models, training
from benchmarks.gpu.plan import PRECISIONS, Precision
from jaxnet import losses, nn, optim, train
from jaxnet.random import Generator

__all__ = ["MATMUL", "PRECISIONS", "Precision", "Workload", "jaxnet_step", "rows", "workloads"]

MATMUL = {"float32": "highest", "tf32": "tensorfloat32", "bfloat16": "tensorfloat32"}
"""How factors that are float32 are rounded, in `jax.default_matmul_precision`'s words.

With bfloat16 a few products stay in float32 (a softmax's neighbours, say); they may be TF32
in both libraries, as everyone has it who cares for speed.
"""


@dataclasses.dataclass(frozen=True)
class Workload:
    """A model of both libraries, and the rows that it trains on.

    Attributes:
        ours: builds jaxnet's model from `rngs`.
        theirs: builds PyTorch's from `benchmarks.torch_models`; its state_dict has the
            same names.
        shape: of one row; of token numbers for a language model.
        classes: of the targets, or size of the vocabulary.
        batch, steps: rows a step, steps an epoch.
        rows: of the data, which stay on the device; an epoch takes some more than once if
            there are too few.
        optimizer: "SGD" (lr 1e-3) or "AdamW" (lr 3e-4, weight decay 0.1).
        tokens: whether rows are token numbers, with a target for each of them.
        judged: The number of an epoch's losses that are compared with PyTorch's; None for all.
        forms: PyTorch's forms that are measured, of those in `benchmarks.gpu.torch_forms`.
        left_out: why others are not, by form.
    """

    ours: Callable[..., nn.Module]
    theirs: Callable[[Any], Any]
    shape: tuple[int, ...]
    classes: int
    batch: int
    steps: int
    rows: int
    optimizer: Literal["SGD", "AdamW"] = "SGD"
    tokens: bool = False
    judged: int | None = None
    forms: tuple[str, ...] = ("eager", "compile", "graph", "graph of compile")
    left_out: tuple[tuple[str, str], ...] = ()

    def loss(self, outputs: jax.Array, targets: jax.Array) -> jax.Array:
        """Cross entropy, over all tokens of a language model."""
        if self.tokens:
            outputs, targets = outputs.reshape(-1, self.classes), targets.reshape(-1)
        return losses.cross_entropy(outputs, targets)

    def make_optimizer(self) -> optim.Optimizer:
        """jaxnet's; PyTorch's is in `benchmarks.gpu.torch_forms`."""
        if self.optimizer == "SGD":
            return optim.SGD(lr=1e-3)
        return optim.AdamW(lr=3e-4, weight_decay=0.1)

    def state(self) -> train.TrainState[Any]:
        """The state before the first step, the same at every call."""
        if not self.tokens:
            return train.create(self.ours(rngs=Generator(0)), self.make_optimizer())

        # A hundred million numbers would take the host seconds. Compiled as one program, for
        # each of a model's shapes would be some of its own.
        @jax.jit
        def drawn() -> train.TrainState[Any]:
            return train.create(self.ours(rngs=nnx.Rngs(0)), self.make_optimizer())

        return drawn()


IMAGE_FORMS = (
    *("eager", "channels_last", "compile"),
    *("graph", "graph of channels_last", "graph of compile"),
)


@functools.cache
def workloads(tiny: bool = False) -> dict[str, Workload]:
    """All of them by name.

    Args:
        tiny: sizes for a CPU: each trains in a second or two, and shows nothing about speed.
    """
    return _sized(tiny, _full())


def _full() -> dict[str, Workload]:
    known = training.WORKLOADS

    def taken(name: str, steps: int, forms: tuple[str, ...] = IMAGE_FORMS) -> Workload:
        work = known[name]
        return Workload(
            work.ours, work.theirs, work.shape, work.classes, work.batch, steps, 10_000, forms=forms
        )

    plain = Workload.forms
    deep = dataclasses.replace(
        taken("NetResDeep, 100 blocks", 10),
        judged=1,  # its second loss is 70 or so: whatever was rounded grows
        forms=("eager", "channels_last", "graph", "graph of channels_last"),
        left_out=(("compile", "a hundred blocks take it minutes to compile"),),
    )
    resnet = Workload(
        lambda *, rngs: jaxnet_models.ResNet18(rngs=rngs),
        lambda t: t.ResNet18(),
        (3, 32, 32),
        *(10, 128, 20, 10_000),
        forms=IMAGE_FORMS,
    )
    gpt = Workload(
        lambda *, rngs: jaxnet_models.GPT(rngs=rngs),
        lambda t: t.GPT(),
        (1024,),
        *(50304, 8, 4, 64),
        optimizer="AdamW",
        tokens=True,
        forms=("eager", "compile"),
        left_out=(("graph", "its steps are long, so that launching them costs nothing"),),
    )
    return {
        "Net": taken("Net", 200),
        "MLP 784-128-64-10": taken("MLP 784-128-64-10", 200, plain),
        "3072-512-2": taken("3072-512-2", 200, plain),
        "NetResDeep, 10 blocks": taken("NetResDeep, 10 blocks", 50),
        "NetResDeep, 100 blocks": deep,
        "ResNet-18, batch 128": resnet,
        "ResNet-18, batch 1024": dataclasses.replace(resnet, batch=1024, steps=4),
        "GPT": gpt,
        "LSTM": dataclasses.replace(
            taken("LSTM, 2 layers", 50, ("eager", "graph")),
            left_out=(("compile", "it leaves recurrent layers to cuDNN, as eager does"),),
        ),
    }


def _sized(tiny: bool, full: dict[str, Workload]) -> dict[str, Workload]:
    if not tiny:
        return full
    from experiments.cifar2_variants import NetResDeep

    small = {
        name: dataclasses.replace(work, batch=8, steps=2, rows=32) for name, work in full.items()
    }
    for name, work in small.items():
        if name != "MLP 784-128-64-10":
            small[name] = dataclasses.replace(
                work,
                forms=tuple(form for form in work.forms if "compile" not in form),
                left_out=(("compile", "it takes a CPU minutes; only the MLP's is tried"),),
            )
    for name, blocks in (("NetResDeep, 10 blocks", 2), ("NetResDeep, 100 blocks", 3)):
        small[name] = dataclasses.replace(
            small[name],
            ours=lambda *, rngs, blocks=blocks: NetResDeep(32, blocks, rngs=rngs),
            theirs=lambda t, blocks=blocks: t.NetResDeep(blocks),
        )
    for name in ("ResNet-18, batch 128", "ResNet-18, batch 1024"):
        small[name] = dataclasses.replace(
            small[name],
            ours=lambda *, rngs: jaxnet_models.ResNet18(width=8, rngs=rngs),
            theirs=lambda t: t.ResNet18(width=8),
            shape=(3, 16, 16),
        )
    sizes = {"vocabulary": 96, "length": 16, "width": 32, "blocks": 2, "heads": 2}
    small["GPT"] = dataclasses.replace(
        small["GPT"],
        ours=lambda *, rngs: jaxnet_models.GPT(**sizes, rngs=rngs),
        theirs=lambda t: t.GPT(**sizes),
        shape=(16,),
        classes=96,
    )
    return small


def rows(work: Workload) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Inputs, targets, and the row numbers of an epoch in order, all from a seed.

    Returns:
        float32 or, for tokens, int32 (rows, *shape); int32 (rows,) or (rows, *shape);
        int32 (batch * steps,), each row once before one comes again.
    """
    rng = np.random.default_rng(0)
    x: np.ndarray
    if work.tokens:
        x = rng.integers(0, work.classes, (work.rows, *work.shape), dtype=np.int32)
        y = rng.integers(0, work.classes, (work.rows, *work.shape), dtype=np.int32)
    else:
        x = rng.standard_normal((work.rows, *work.shape), dtype=np.float32)
        y = rng.integers(0, work.classes, work.rows, dtype=np.int32)
    taken = work.batch * work.steps
    times = -(-taken // work.rows)
    order = np.concatenate([rng.permutation(work.rows) for _ in range(times)])
    return x, y, order[:taken].astype(np.int32)


def jaxnet_step(
    work: Workload, precision: Precision, abstract: bool = False
) -> tuple[Any, Any, tuple[Any, Any]]:
    """jaxnet's program of one epoch, as a user writes it, not yet compiled.

    Args:
        work: what is trained.
        precision: "float32" (full float32), "tf32" (factors of products rounded to TF32)
            or "bfloat16" (the model computes in it; products that stay in float32 are TF32).
        abstract: give shapes and dtypes in place of numbers, for lowering alone.

    Returns:
        The state, the compiled-on-call `epoch(state, data, order) -> (state, metrics)`,
        which takes the state (donated) and gives the next, and its further arguments
        (data, order). `metrics["loss"]` has one entry a step.
    """
    step = make_step(work, precision)
    epoch = train.make_epoch(step, work.batch)
    if abstract:
        state = _outline(dataclasses.replace(work, batch=1, steps=1))
        shape = jax.ShapeDtypeStruct
        inputs = shape((work.rows, *work.shape), jnp.int32 if work.tokens else jnp.float32)
        targets = shape(inputs.shape if work.tokens else (work.rows,), jnp.int32)
        picked = shape((work.batch * work.steps,), jnp.int32)
        return state, epoch, ((inputs, targets), picked)
    x, y, order = rows(work)
    return work.state(), epoch, ((jnp.asarray(x), jnp.asarray(y)), jnp.asarray(order))


@functools.lru_cache(maxsize=1)
def _outline(work: Workload) -> Any:
    """Shapes and dtypes of the state, the same in every precision: to draw a net takes seconds."""
    return jax.eval_shape(work.state)


def make_step(work: Workload, precision: Precision) -> Callable[..., Any]:
    """A training step `(state, batch) -> (state, metrics)` in a precision."""
    if precision not in PRECISIONS:
        accepted = ", ".join(map(repr, PRECISIONS))
        raise ValueError(f"precision: {precision!r}; accepted are {accepted}")
    plain = train.make_train_step(
        train.supervised(work.loss),
        work.make_optimizer(),
        compute_dtype=jnp.bfloat16 if precision == "bfloat16" else None,
    )

    def step(state: Any, batch: Any) -> Any:
        # Around the tracing, so that no setting outlives it.
        with jax.default_matmul_precision(MATMUL[precision]):
            return plain(state, batch)

    return step
