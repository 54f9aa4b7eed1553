"""Programs of plain flax.nnx and optax beside PyTorch programs, and faults that are planted there.

A program has no layer of jaxnet: its kernels are (in, out), its images are (N, H, W, C) inside, and
its optimizer is one of optax. Its model begins with torch's weights, which the check copies.
"""

import dataclasses
import re
import string
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from jaxnet.parity import _traps as traps
from tests.parity.architectures import WIDTH, WORDS, Layer, Recipe, Task, build, chain, layer
from tests.parity.pairs import Pair, of_task
from tests.parity.plants import Fault, Plant, image, text, vector

Array = jax.Array


def made(one: Any, rngs: nnx.Rngs) -> Any:
    """A part of a model: a layer of flax by its description, or a function as it is."""
    return build(one, None, rngs) if isinstance(one, Layer) else one


class Vectors(nnx.Module):
    """Numbers (N, 6) to numbers (N, 3)."""

    def __init__(self, *middle: Any) -> None:
        rngs = nnx.Rngs(0)
        self.first = nnx.Linear(6, 8, rngs=rngs)
        self.middle = nnx.Sequential(*(made(one, rngs) for one in middle))
        self.last = nnx.Linear(8, 3, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        return self.last(self.middle(self.first(x)))


class Images(nnx.Module):
    """Images (N, 3, 8, 8) of torch's loader to scores (N, 4); `order` is that of the rows."""

    def __init__(self, *middle: Any, order: Sequence[int] = (0, 3, 1, 2)) -> None:
        rngs = nnx.Rngs(0)
        self.first = nnx.Conv(3, 4, (3, 3), padding=1, rngs=rngs)
        self.middle = nnx.Sequential(*(made(one, rngs) for one in middle))
        self.last = nnx.Linear(16, 4, rngs=rngs)
        self.order = tuple(order)

    def __call__(self, x: Array) -> Array:
        x = self.middle(self.first(x.transpose(0, 2, 3, 1)))
        return self.last(quarters(x).transpose(self.order).reshape(x.shape[0], -1))


def quarters(x: Array) -> Array:
    """AdaptiveAvgPool2d(2) of images (N, H, W, C)."""
    h, w = x.shape[1:3]
    rows = x[:, : -(-h // 2)].mean(1), x[:, h // 2 :].mean(1)
    return jnp.stack(
        [jnp.stack([row[:, : -(-w // 2)].mean(1), row[:, w // 2 :].mean(1)], 1) for row in rows], 1
    )


class Tokens(nnx.Module):
    """Tokens (N, L) to scores (N, L, words)."""

    def __init__(self, *middle: Any, embedding: Any = None) -> None:
        rngs = nnx.Rngs(0)
        self.embedding = made(embedding or layer(nnx.Embed, WORDS, WIDTH), rngs)
        self.middle = nnx.Sequential(*(made(one, rngs) for one in middle))
        self.last = nnx.Linear(WIDTH, WORDS, rngs=rngs)

    def __call__(self, tokens: Array) -> Array:
        return self.last(self.middle(self.embedding(tokens)))


def squares(outputs: Array, targets: Array) -> Array:
    return jnp.mean((outputs - targets) ** 2)


def classes(outputs: Array, targets: Array) -> Array:
    return optax.softmax_cross_entropy_with_integer_labels(outputs, targets).mean()


def words(outputs: Array, targets: Array) -> Array:
    """The mean over the positions that have a target."""
    known = targets != -100
    each = optax.softmax_cross_entropy_with_integer_labels(outputs, jnp.where(known, targets, 0))
    return jnp.where(known, each, 0).sum() / known.sum()


def descent(steps: int) -> Any:
    return optax.sgd(0.1)


@dataclasses.dataclass(frozen=True)
class Program:
    """A PyTorch program and the same in plain flax.

    Attributes:
        name: Its name.
        task: The description of PyTorch's.
        model: The function that makes flax's model of the parts of `middle`.
        middle: These parts.
        loss: flax's loss of the outputs and the targets.
        optimizer: A function of the number of steps that gives the optimizer of optax.
        load: A function of the model and torch's first weights that gives the model its own; None
            for the check's copying of torch's.
        steps: How many steps are recorded.
        place: Where a fault of the middle is.
    """

    name: str
    task: Task
    model: Callable[..., nnx.Module]
    middle: tuple[Any, ...]
    loss: Callable[[Array, Array], Array]
    optimizer: Callable[[int], Any] = descent
    load: Callable[[Any, Mapping[str, np.ndarray]], None] | None = None
    steps: int = 2
    place: str = ""

    def pair(self, name: str) -> Pair:
        """The pair of programs."""
        batches = self.task.recipe.parts

        def value(model: Any, batch: Any) -> Array:
            x, y = batch
            found = self.loss(model(x), y)
            return found / batches if batches > 1 else found

        def subject(trace: Any) -> dict[str, Any]:
            model = self.model(*self.middle)
            if self.load is not None:
                first = trace.steps[0]
                self.load(model, {n: first[site] for n, site in first.of("before").items()})
            made = nnx.Optimizer(model, self.optimizer(len(trace.steps)), wrt=nnx.Param)
            weights = "copy" if self.load is None else "own"
            return {"model": model, "loss": value, "optimizer": made, "weights": weights}

        return dataclasses.replace(of_task(name, self.task), subject=subject)

    @property
    def nothing(self) -> Plant:
        """The program without a fault."""
        name = f"flax: {self.name}, nothing"
        return Plant(name, "flax row", self.pair(name), (), self.steps)


def _program(name: str, task: Task, model: Any, right: Any, given: dict[str, Any]) -> Program:
    """A program whose middle is given; a function of it shows at the input of the last layer."""
    middle = right if isinstance(right, tuple) else (right,)
    place = given.pop("place", "")
    if not place:
        last = len(task.network.parts) - 1
        place = "1" if isinstance(middle[0], Layer) else f"input:{last}#"
    return Program(name, task, given.pop("model", model), middle, place=place, **given)


def _split(options: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What is flax's, and what is the task's."""
    own = {f.name for f in dataclasses.fields(Program)} - {"loss"}
    ours = {key: value for key, value in options.items() if key in own}
    return ours, {key: value for key, value in options.items() if key not in own}


def in_vectors(name: str, torch: Layer, right: Any, ours: Any = squares, **more: Any) -> Program:
    given, task = _split(more)
    return _program(name, vector(torch, **task), Vectors, right, {"loss": ours, **given})


def in_images(name: str, torch: Layer, right: Any, ours: Any = classes, **more: Any) -> Program:
    given, task = _split(more)
    return _program(name, image(torch, **task), Images, right, {"loss": ours, **given})


def in_tokens(name: str, torch: Layer, right: Any, ours: Any = words, **more: Any) -> Program:
    given, task = _split(more)
    first = task.pop("first", None)
    one = text(torch, **task)
    if first is not None:
        network = chain(first, *one.network.parts[1:])
        one = dataclasses.replace(one, network=network)
    return _program(name, one, Tokens, right, {"loss": ours, **given})


def trained(name: str, torch: Recipe, right: Any, **more: Any) -> Program:
    """A program with tanh in its middle, trained in another way."""
    given = {"steps": 4, "optimizer": right, "recipe": torch, **more}
    return in_vectors(name, layer("Tanh"), jnp.tanh, **given)


def said(trap: str, **values: Any) -> str:
    """A regular expression for what the row of a name says, with some of its values."""
    row = next(each for each in traps.ALL if each.name == trap)
    parts = []
    for literal, field, form, conversion in string.Formatter().parse(row.words):
        parts.append(re.escape(literal))
        if field in values:
            value = repr(values[field]) if conversion == "r" else format(values[field], form or "")
            parts.append(re.escape(value))
        elif field is not None:
            parts.append(".*?")
    return "".join(parts)


@dataclasses.dataclass(frozen=True)
class Planted(Plant):
    """A row of the catalogue in a program.

    Attributes:
        program: The program.
        wrong: The program with the fault.
    """

    program: Program | None = None
    wrong: Program | None = None


def planted(trap: str, program: Program, wrong: Any = None, *, place: str = "", step: int = 0,
            title: str = "", more: Sequence[Fault] = (), says: str = "",
            **changes: Any) -> Planted:  # fmt: skip
    """A row of the catalogue in a program.

    Args:
        trap: The name of the row.
        program: The program.
        wrong: What is in its middle; None for what was there.
        place: Where the fault is; by default where those of the middle are.
        step: Where it shows first.
        title: What the name of the plant has beside that of the row.
        more: Further findings that belong to it.
        says: What the finding says, where that is not the row's own words.
        **changes: Other attributes of the program, and values of the row's words.
    """
    own = {key: changes.pop(key) for key in list(changes) if hasattr(program, key)}
    if wrong is not None:
        own["middle"] = wrong if isinstance(wrong, tuple) else (wrong,)
    name = f"flax: {trap}{title and ', '}{title}"
    made = dataclasses.replace(program, **own)
    fault = Fault(place or program.place, says or said(trap, **changes), step)
    return Planted(name, "flax row", made.pair(name), (fault, *more), program.steps, program, made)
