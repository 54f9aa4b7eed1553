"""Faults that are planted in jaxnet's side of a pair, and what a check should say of each."""

import dataclasses
from typing import Any

from tests.parity.architectures import (
    LENGTH,
    WIDTH,
    WORDS,
    Layer,
    Recipe,
    Task,
    chain,
    layer,
)
from tests.parity.pairs import Pair, of_task


@dataclasses.dataclass(frozen=True)
class Fault:
    """What a finding should say.

    Attributes:
        place: The number of the layer, or a regular expression for the origin or the site of the
            finding: "loss", "update", ...
        says: A regular expression for the cause; "" where no row of the catalogue is expected.
        step: The step.
    """

    place: str
    says: str = ""
    step: int = 0

    @property
    def where(self) -> str:
        """A regular expression for the finding's origin and site."""
        place = self.place
        return rf"module:{place} |:{place}[#.]" if place.isdigit() else place


@dataclasses.dataclass(frozen=True)
class Plant:
    """A pair of programs whose second one has faults.

    Attributes:
        name: The name in tables.
        kind: "layer", "loss", "gradient", "optimizer", "schedule", "partial" (a fault in some of
            the numbers only), "two", "invented", "flax", "flax model", "linen model"
            or "flax row".
        pair: The programs.
        faults: The faults.
        steps: The number of steps to record.
    """

    name: str
    kind: str
    pair: Pair
    faults: tuple[Fault, ...]
    steps: int = 3


def vector(middle: Layer, recipe: Recipe | None = None, **options: Any) -> Task:
    """A layer of 8 numbers between two linear ones: numbers (N, 6) to numbers (N, 3)."""
    network = chain(layer("Linear", 6, 8), middle, layer("Linear", 8, 3))
    given: dict[str, Any] = {"loss": ("mse_loss", {}), "batch": 6, "targets": 3, **options}
    kind = given.pop("kind", "numbers")
    return Task(network, (6,), kind, recipe=recipe or Recipe(), **given)


def image(*middle: Layer, features: int = 16, **options: Any) -> Task:
    """Layers between a convolution of 4 channels and a linear layer: images to classes."""
    first, last = layer("Conv2d", 3, 4, 3, padding=1), layer("Linear", features, 4)
    pool = () if features != 16 else (layer("AdaptiveAvgPool2d", 2),)
    network = chain(first, *middle, *pool, layer("Flatten"), last)
    return Task(network, (3, 8, 8), "classes", ("cross_entropy", {}), **options)


def text(*middle: Layer, tied: Any = None, **options: Any) -> Task:
    """Layers between an embedding and a linear layer: tokens to scores of the next ones."""
    given: dict[str, Any] = {"loss": ("cross_entropy", {}), **options}
    embedding, last = layer("Embedding", WORDS, WIDTH), layer("Linear", WIDTH, WORDS)
    if tied is None:
        network = chain(embedding, *middle, last)
    else:
        network = Layer(tied, parts=(embedding, chain(*middle), last))
    return Task(network, (LENGTH,), "tokens", targets=WORDS, **given)


def plant(
    name: str,
    kind: str,
    right: Task,
    wrong: Task,
    *faults: tuple[str, str] | tuple[str, str, int],
    steps: int = 3,
) -> Plant:
    """A row of the table.

    Args:
        name: The name.
        kind: The kind.
        right: PyTorch's description.
        wrong: jaxnet's description.
        *faults: For each fault the place, the words and the step.
        steps: The number of steps.
    """
    pair = of_task(name, right, jaxnet=wrong)
    return Plant(name, kind, pair, tuple(Fault(*fault) for fault in faults), steps)


def in_vector(name: str, a: Layer, b: Layer, says: str, kind: str = "layer", **more: Any) -> Plant:
    return plant(name, kind, vector(a, **more), vector(b, **more), ("1", says))


def in_image(name: str, a: Layer, b: Layer, says: str, kind: str = "layer", **more: Any) -> Plant:
    return plant(name, kind, image(a, **more), image(b, **more), ("1", says))


def in_text(name: str, a: Layer, b: Layer, says: str, kind: str = "layer", at: str = "1") -> Plant:
    return plant(name, kind, text(a), text(b), (at, says))


def every() -> list[Plant]:
    """All plants."""
    from tests.parity import (
        flax_models,
        flax_planted,
        flax_planted_losses,
        flax_planted_training,
        linen_models,
        planted_layers,
        planted_odd,
        planted_training,
    )

    lists = [
        planted_layers.LAYERS,
        planted_training.LOSSES,
        planted_training.GRADIENTS,
        planted_training.OPTIMIZERS,
        planted_training.SCHEDULES,
        planted_odd.PARTIAL,
        planted_odd.TWO,
        planted_odd.INVENTED,
        planted_odd.FLAX,
        flax_models.MISTAKES,
        linen_models.MISTAKES,
        [
            one.nothing
            for some in (flax_planted, flax_planted_losses, flax_planted_training)
            for one in some.PROGRAMS
        ],
        flax_planted.LAYERS,
        flax_planted_losses.LOSSES,
        flax_planted_training.TRAINING,
    ]
    return [one for some in lists for one in some]
