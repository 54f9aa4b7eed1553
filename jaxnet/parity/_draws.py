"""The random draws of torch's operations: their kinds, arguments and results, and their replay."""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from jaxnet._keys import Asked
from jaxnet.parity._trace import Draw

# Operation -> kind, and the names of the arguments that say what is drawn.
_KINDS: dict[str, tuple[str, tuple[str, ...]]] = {
    "bernoulli_": ("mask", ("p",)),
    "bernoulli": ("mask", ("p",)),
    "native_dropout": ("mask", ("p",)),
    "normal_": ("normal", ("mean", "std")),
    "normal": ("normal", ("mean", "std")),
    "randn": ("normal", ()),
    "randn_like": ("normal", ()),
    "uniform_": ("uniform", ("from", "to")),
    "rand": ("uniform", ()),
    "rand_like": ("uniform", ()),
    "randint": ("integers", ("low", "high")),
    "randint_like": ("integers", ("low", "high")),
    "random_": ("integers", ("from", "to")),
    "randperm": ("permutation", ("n",)),
    "exponential_": ("exponential", ("lambd",)),
    "multinomial": ("multinomial", ("num_samples", "replacement")),
    "rrelu_with_noise": ("rrelu_with_noise", ("lower", "upper")),
    "rrelu_with_noise_": ("rrelu_with_noise", ("lower", "upper")),
}
_USUAL = {"normal": {"mean": 0.0, "std": 1.0}, "uniform": {"from": 0.0, "to": 1.0}}


def draws(torch: Any, func: Any, args: Any, kwargs: Mapping[str, Any]) -> bool:
    """Whether a call of an operation draws random numbers."""
    if not _is_random(torch, func):
        return False
    for i, argument in enumerate(func._schema.arguments):
        name = argument.name
        if name in ("dropout_p", "dropout", "training", "train"):  # of attention and of layers
            given = args[i] if i < len(args) else kwargs.get(name, argument.default_value)
            return given is None or bool(given)
    return True


@functools.cache
def _is_random(torch: Any, func: Any) -> bool:
    return torch.Tag.nondeterministic_seeded in func.tags


def classify(
    torch: Any, func: Any, args: Any, kwargs: Mapping[str, Any], result: Any
) -> tuple[str, dict[str, Any], Any] | None:
    """The kind of a draw, what it was drawn with, and its result as a tensor.

    Returns:
        None for an operation whose draws are not among its results.
    """
    name = func.overloadpacket.__name__
    given = {a.name: v for a, v in zip(func._schema.arguments, args, strict=False)} | dict(kwargs)
    for argument in func._schema.arguments:
        if argument.has_default_value():
            given.setdefault(argument.name, argument.default_value)
    tensor = result
    if name == "native_dropout":
        tensor = result[1]
        given["p"] = 1 - given["p"]  # of keeping, as for the others
    elif name.startswith("rrelu_with_noise"):
        tensor = given["noise"]
    if not isinstance(tensor, torch.Tensor):
        return None
    if name not in _KINDS:
        return name, {}, tensor
    kind, names = _KINDS[name]
    arguments: dict[str, Any] = {**_USUAL.get(kind, {})}
    for each in names:
        value = given.get(each)
        arguments[each] = value if isinstance(value, int | float | None) else None
    if kind == "integers" and "from" in arguments:
        arguments = {"low": arguments["from"] or 0, "high": arguments["to"]}
    elif kind == "uniform":
        arguments = {"low": arguments["from"], "high": arguments["to"]}
    elif kind == "integers":
        arguments["low"] = arguments["low"] or 0
    return kind, arguments, tensor


class DrawsError(ValueError):
    """The program draws other random numbers than torch's, which is a difference of the two."""


@dataclasses.dataclass
class Replay:
    """The recorded draws as a program takes them, the first that fits first.

    Args:
        draws: What torch drew, by number.
        arrays: The numbers that it got, by number.
        left: The numbers of the draws that have not been taken.
        taken: A list that those which are taken are added to.

    Attributes:
        tried: While a function is tried that takes none, whether it draws.
    """

    draws: Sequence[Draw]
    arrays: Mapping[int, Any]
    left: list[int]
    taken: list[int]

    tried: bool | None = None

    def concerns(self, function: Callable[[], Any], times: int) -> bool:
        """Whether a function that is only tried draws random numbers, however often it is run."""
        del times
        self.tried = False
        try:
            function()
            return self.tried
        finally:
            self.tried = None

    def take(self, owner: str, shapes: tuple[tuple[int, ...], ...], asked: Asked) -> Any:
        """The next draw of the kind that is asked for, in the terms of who asks.

        A program that draws from another distribution would get torch's numbers all the same,
        and seem to be torch's. So a draw is only supplied to one of its own kind, and numbers
        of another range or scale are brought to the range that is asked for: torch's
        `normal_(0, 0.1)` to a program that multiplies standard normal numbers by 0.1.

        Raises:
            DrawsError: No draw that is left has this shape and this kind.
        """
        if self.tried is not None:
            self.tried = True
            return zeros(owner, shapes, asked)
        for number in self.left:
            array = self.arrays[number]
            if array.shape in shapes:
                found = _converted(self.draws[number], array, asked)
                if found is not None:
                    self.left.remove(number)
                    self.taken.append(number)
                    return found
        shown = [f"{described(self.draws[n])} of shape {self.arrays[n].shape}" for n in self.left]
        own = described(Draw(asked.kind, asked.arguments, ""))
        raise DrawsError(
            f"{owner} draws {own} of shape {shapes[0]}; of torch's draws there are left here: "
            f"{', '.join(shown) or 'none'}"
        )


def zeros(owner: str, shapes: tuple[tuple[int, ...], ...], asked: Asked) -> Any:
    """Zeros for any draw, where a program is only tried."""
    del owner, asked
    return np.zeros(shapes[0], np.float32)


def drawn(draws: Sequence[Draw]) -> str:
    """What a program that was traced with some draws can be run again with."""
    return ", ".join(described(draw) for draw in draws)


def described(draw: Draw) -> str:
    """What was drawn, in words: "normal(mean=0.0, std=1.0)"."""
    return f"{draw.kind}({', '.join(f'{k}={v}' for k, v in draw.arguments.items())})"


def _converted(draw: Draw, array: Any, asked: Asked) -> Any:
    """A draw in the terms of another of its kind; None where there are none."""
    theirs, own = draw.arguments, asked.arguments
    kind = draw.kind
    if kind == "rrelu_with_noise":
        kind, theirs = "uniform", {"low": theirs["lower"], "high": theirs["upper"]}
    if kind != asked.kind:
        return None
    # Dropout divides by its own p, so that another one shows in the numbers.
    if kind == "mask" or all(_close(theirs.get(name), own[name]) for name in own):
        return array
    if kind == "integers" or any(value is None for value in theirs.values()):
        return None
    match kind:
        case "uniform":
            start, width = theirs["low"], theirs["high"] - theirs["low"]
            new = own["high"] - own["low"]
            return (array - start) * (new / width) + own["low"] if width else None
        case "normal":
            return (array - theirs["mean"]) / theirs["std"] if theirs["std"] else None
        case "exponential":
            return array * theirs["lambd"]
    return None


def _close(one: float | None, other: float) -> bool:
    return one is not None and math.isclose(one, other, rel_tol=1e-6, abs_tol=1e-12)
