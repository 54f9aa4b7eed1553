"""The code between modules: the functions that made one array of the recorded program."""

import ast
import dataclasses
from collections.abc import Callable, Mapping
from functools import cached_property, partial
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxnet import ops
from jaxnet.parity._attribute import Cause
from jaxnet.parity._evidence import difference
from jaxnet.parity._judgement import SAME_SCALE, rms
from jaxnet.parity._reference import Layer, in_float64, of_function
from jaxnet.parity._sites import phase_of
from jaxnet.parity._trace import Function, Step
from jaxnet.parity._traps import Hypothesis, Trap, traps_of
from jaxnet.parity._traps.activations import BY_NAME
from jaxnet.parity._tree import from_json, keys_of, leaves

# Longer chains of functions are a whole model, whose parts are layers.
_LONGEST = 80
# Functions whose numbers are part of the arithmetic, and not axes or sizes.
_ARITHMETIC = {
    *("add", "sub", "mul", "div", "pow", "rsub", "rdiv", "rpow", "radd", "rmul", "true_divide"),
    *("multiply", "subtract", "divide", "clamp", "clip", "clamp_min", "clamp_max", "masked_fill"),
    *("leaky_relu", "threshold", "addcmul", "addcdiv", "lerp", "truediv"),
}
_SWAPPED = {"sub", "div", "matmul", "cat", "bmm", "subtract", "divide", "pow"}


@dataclasses.dataclass(frozen=True)
class Region:
    """Functions of torch's, one after the other, that give one array: a `Reference`.

    Attributes:
        step: The recorded step.
        functions: The functions in their order.
        output: The site of the result.
        changes: Changes of single functions, by their indices.
        around: A function before and one after the whole: of the inputs by site, of the output.
    """

    step: Step
    functions: tuple[Function, ...]
    output: str
    changes: Mapping[int, Callable[[Layer], Layer]] = dataclasses.field(default_factory=dict)
    around: tuple[Callable[[str, Any], Any], Callable[[Any], Any]] = (
        lambda site, x: x,
        lambda y: y,
    )

    kind = "region"

    @property
    def config(self) -> Mapping[Any, Any]:
        """The arguments of the functions by their indices."""
        return {i: layer.config for i, layer in self.layers.items()}

    @cached_property
    def layers(self) -> dict[int, Layer]:
        """The functions that jaxnet has, with their recorded arguments."""
        found = {}
        for i, function in enumerate(self.functions):
            try:
                found[i] = of_function(function.function, _arguments(function, self.step.double))
            except (ValueError, KeyError):
                continue
        return found

    def changed(self, index: int, change: Callable[[Layer], Layer]) -> "Region":
        """The region with another function in one place."""
        before = self.changes.get(index, lambda layer: layer)
        return dataclasses.replace(
            self, changes={**self.changes, index: lambda layer: change(before(layer))}
        )

    def observe(self) -> dict[str, np.ndarray]:
        """The result, "output", in float64."""
        first, last = self.around
        given: dict[str, Any] = {}
        made: dict[str, Any] = {}
        with in_float64():

            def value(site: str) -> Any:
                if site in made:
                    return made[site]
                if site not in given:
                    given[site] = first(site, jnp.asarray(self.step.double(site)))
                return given[site]

            for i, function in enumerate(self.functions):
                try:
                    draws = [self.step[f"draw:{n}"] for n in function.draws]
                    layer = of_function(function.function, _arguments(function, value), draws=draws)
                except KeyError as error:
                    raise ValueError(f"{error} was not recorded") from error
                if i in self.changes:
                    layer = self.changes[i](layer)
                output, _ = layer.compute(layer, layer.parameters, layer.buffers, layer.inputs)
                sites = keys_of(function.output)
                found = dict(leaves(output))
                made |= {site: found[path] for path, site in sites.items() if path in found}
            return {"output": np.asarray(last(value(self.output)))}

    def rows(self) -> list[Trap]:
        """The rows that can be tried: those of each of the functions, and of the whole."""
        found = []
        for i, layer in self.layers.items():
            where = f"{self.functions[i].function} at {self.functions[i].where}: "
            found += [_lifted(row, i, where) for row in traps_of(layer.kind) if not row.precision]
            found += _own_rows(i, layer, where)
        return [*found, *_whole(self)]


def region_of(step: Step, site: str) -> Region:
    """The functions that made the array of a site."""
    order = {name: i for i, name in enumerate(step.sites)}
    makers: dict[str, int] = {}
    for i, function in enumerate(step.functions):
        for made in keys_of(function.output).values():
            makers[made] = i
    target = _source(step, site, makers, order)
    needed: set[int] = set()
    waiting = [target]
    while waiting and len(needed) <= _LONGEST:
        index = makers.get(waiting.pop())
        if index is not None and index not in needed:
            needed.add(index)
            waiting += keys_of(step.functions[index].inputs).values()
    return Region(step, tuple(step.functions[i] for i in sorted(needed)), target)


def _source(step: Step, site: str, makers: Mapping[str, int], order: Mapping[str, int]) -> str:
    """The site of the function or of the module that an array came from; itself if from none."""
    array = step[site]
    at = order.get(site, len(order))
    found = [
        name
        for name in order
        if order[name] < at
        and (name in makers or name.startswith("forward:"))
        and step[name].shape == array.shape
        and step[name].dtype == array.dtype
        and step[name].tobytes() == array.tobytes()
    ]
    return found[-1] if found else site


def _arguments(function: Function, array_of: Callable[[str], Any]) -> dict[str, Any]:
    given = from_json(function.inputs, array_of)
    return {name: _parsed(value) for name, value in given.items()}


def _parsed(value: Any) -> Any:
    """A recorded argument with slices and dtypes in place of their texts."""
    if isinstance(value, tuple | list):
        return type(value)(_parsed(part) for part in value)
    if not isinstance(value, str):
        return value
    if value == "Ellipsis":
        return ...
    if value.startswith("slice("):
        return slice(*ast.literal_eval(value.removeprefix("slice")))
    if value.startswith("torch."):
        name = value.removeprefix("torch.")
        return getattr(ops, "float64" if name == "float32" else name, value)
    return value


def _lifted(row: Trap, index: int, where: str) -> Trap:
    """A row about a function as one about a region that has it."""

    def own(choice: Any) -> Any:
        if not callable(choice):
            return choice
        return lambda region: choice(region.layers[index])

    def text(words: str) -> str:
        return words.replace("{torch[", f"{{torch[{index}][")

    return dataclasses.replace(
        row,
        kinds=("region",),
        change=lambda region, **values: region.changed(
            index, lambda layer: row.change(layer, **values)
        ),
        words=where.replace("{", "{{").replace("}", "}}") + text(row.words),
        fix=text(row.fix),
        when=lambda config: row.when(config[index]),  # type: ignore[index]
        options={name: own(choice) for name, choice in row.options.items()},
    )


def _own_rows(index: int, layer: Layer, where: str) -> list[Trap]:
    """Rows that any function has: its numbers, its axis, its operands, its absence."""

    def row(name: str, change: Any, words: str, fix: str, **more: Any) -> Trap:
        return Trap(
            name,
            ("region",),
            lambda region, **values: region.changed(index, partial(change, **values)),
            where + words,
            fix,
            **more,
        )

    rows = []
    arithmetic = layer.kind in _ARITHMETIC
    for name, value in layer.config.items():
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if is_number and (arithmetic or isinstance(value, float)) and np.isfinite(value):
            rows.append(
                row(
                    "function-number",
                    lambda layer, value, name=name: layer.configured(**{name: value}),
                    f"{name} is {{value:.6g}}; torch's is {value:.6g}.",
                    f"Write {value:.6g}.",
                    constants={"value": (1.0, 1e-5, 1e-6, float(value))},
                )
            )
        if name in ("dim", "axis") and isinstance(value, int) and hasattr(layer.input, "ndim"):
            axes = [a for a in range(layer.input.ndim) if a != value % layer.input.ndim]
            rows.append(
                row(
                    "function-axis",
                    lambda layer, axis, name=name: layer.configured(**{name: axis}),
                    f"it is along axis {{axis}}; torch's is along axis {value}.",
                    f"Give axis={value}.",
                    options={"axis": axes},
                )
            )
    arrays = [a for _, a in leaves(dict(layer.inputs)) if hasattr(a, "shape")]
    if len(arrays) > 1 and layer.kind in _SWAPPED:
        rows.append(row("operands-swapped", _swapped, "the operands are swapped.", "Swap them."))
    rows.append(
        row(
            "function-omitted",
            lambda layer: layer.instead(lambda p, x, *rest: x),
            "it is left out.",
            "Do what torch's program does there.",
        )
    )
    return rows


def _swapped(layer: Layer) -> Layer:
    first, *others = layer.inputs
    if not others:
        value = layer.inputs[first]
        return dataclasses.replace(layer, inputs={first: type(value)(reversed(value))})
    second = others[0]
    return dataclasses.replace(
        layer, inputs={**layer.inputs, first: layer.inputs[second], second: layer.inputs[first]}
    )


def _pairs(x: Any) -> Any:
    """Neighbours along the last axis, in halves: 0, 2, 4, ..., 1, 3, 5, ..."""
    return jnp.concatenate([x[..., ::2], x[..., 1::2]], -1)


def _halves(x: Any) -> Any:
    """Halves of the last axis, as neighbours."""
    return jnp.stack(jnp.split(x, 2, -1), -1).reshape(x.shape)


def _whole(region: Region) -> list[Trap]:
    """Rows of the whole region."""
    array = region.step[region.output]
    rows = [
        Trap(
            "activation-added",
            ("region",),
            lambda region, activation: _after(region, BY_NAME[activation]),
            "There is a {activation} more than in torch's program.",
            "Leave it out.",
            options={"activation": list(BY_NAME)},
        ),
        Trap(
            "value-scaled",
            ("region",),
            lambda region, factor: _after(region, lambda y: y * factor),
            "The result is multiplied by {factor:.7g}; torch's is not.",
            "Leave the factor out.",
            constants={"factor": (2.0, 0.5, 1.0)},
        ),
    ]
    if array.ndim and array.shape[-1] % 2 == 0 and len(region.functions) > 3:

        def turned(region: Region, order: str) -> Region:
            before, after = (_pairs, _halves) if order == "neighbours" else (_halves, _pairs)

            def first(site: str, x: Any) -> Any:
                return before(x) if x.shape == array.shape else x

            return dataclasses.replace(region, around=(first, after))

        rows.append(
            Trap(
                "rotary-order",
                ("region",),
                turned,
                "Rotary positions turn pairs of {order}; torch's turn the others (the numbers of a "
                "pair are neighbours, or lie half the width apart).",
                "Pair the numbers as torch's program does: x[..., ::2] with x[..., 1::2], or the "
                "two halves.",
                options={"order": ("neighbours", "halves")},
            )
        )
    return rows


def _after(region: Region, function: Callable[[Any], Any]) -> Region:
    first, last = region.around
    return dataclasses.replace(region, around=(first, lambda y: function(last(y))))


def arriving(step: Step, site: str, array: np.ndarray | None, cause: Cause) -> Cause:
    """The cause of an array that is another recorded one: what comes after it is left out.

    Args:
        step: The recorded step.
        site: The site of the array.
        array: What the JAX program has there.
        cause: What was found so far.
    """
    if array is None or not np.issubdtype(array.dtype, np.floating):
        return cause
    own, scale = step.double(site), rms(array)
    phases = ("forward", "function", "batch", "input")
    sites = [name for phase in phases for name in step.sites if phase_of(name) == phase]
    for name in sites:
        other = step[name]
        if other.shape != array.shape or not np.issubdtype(other.dtype, np.floating):
            continue
        wide = step.double(name)
        if difference(wide, array) <= SAME_SCALE * scale < difference(wide, own):
            words = f"What is there is {_said(name)}; what torch computes of it is left out."
            trap = Trap("code-omitted", ("region",), lambda region: region, words, "Compute it.")
            return dataclasses.replace(
                cause,
                proven=((Hypothesis(trap),),),
                tried=cause.tried + 1,
                before=difference(own, array) / max(rms(own), 1e-300),
                after=difference(wide, array) / max(scale, 1e-300),
            )
    return cause


def _said(site: str) -> str:
    phase, _, place = site.partition(":")
    words = {"forward": "the output of", "function": "the output of", "input": "the input of"}
    return f"{words.get(phase, 'the array')} {place}"
