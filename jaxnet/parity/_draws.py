"""The random draws of torch's operations: their kinds, arguments and results."""

from collections.abc import Mapping
from typing import Any

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
    if torch.Tag.nondeterministic_seeded not in func.tags:
        return False
    for i, argument in enumerate(func._schema.arguments):
        name = argument.name
        if name in ("dropout_p", "dropout", "training", "train"):  # of attention and of layers
            given = args[i] if i < len(args) else kwargs.get(name, argument.default_value)
            return given is None or bool(given)
    return True


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
