"""The code between modules: the functions that made one array of the recorded program."""

import ast
import dataclasses
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxnet import ops
from jaxnet.parity._attribute import IMPOSSIBLE, Cause
from jaxnet.parity._evidence import Evidence, difference
from jaxnet.parity._judgement import SAME_SCALE, rms
from jaxnet.parity._reference import Layer, in_float64, of_function
from jaxnet.parity._sites import call_of, phase_of
from jaxnet.parity._trace import Function, Step
from jaxnet.parity._traps import Hypothesis, Trap, traps_of
from jaxnet.parity._traps.functions import lifted, rows_of_function, rows_of_region
from jaxnet.parity._tree import from_json, keys_of, leaves, renamed

# Longer chains of functions are a whole model, whose parts are layers.
_LONGEST = 80


@dataclasses.dataclass(frozen=True)
class Region:
    """Functions of torch's, one after the other, that give one array: a `Reference`.

    Attributes:
        step: The recorded step.
        functions: The functions in their order.
        output: The site of the result.
        changes: Changes of single functions, by their indices.
        around: A function before and one after the whole: of the inputs by site, of the output.
        known: Arrays that take the place of recorded ones or of what a function gives, by site.
    """

    step: Step
    functions: tuple[Function, ...]
    output: str
    changes: Mapping[int, Callable[[Layer], Layer]] = dataclasses.field(default_factory=dict)
    around: tuple[Callable[[str, Any], Any], Callable[[Any], Any]] = (
        lambda site, x: x,
        lambda y: y,
    )
    known: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)

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
                if site in self.known:
                    return jnp.asarray(self.known[site])
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
            found += [lifted(row, i, where) for row in traps_of(layer.kind) if not row.precision]
            found += rows_of_function(i, layer, where)
        return [*found, *rows_of_region(self.step[self.output].shape, len(self.functions))]


def region_of(step: Step, site: str) -> Region:
    """The functions that made the array of a site."""
    order, makers = _order(step), _makers(step)
    target = _source(step, site, makers, order)
    needed: dict[int, Function] = {}
    waiting = [target]

    def source(name: str) -> str:  # the argument of a module is stored beside what it was made by
        return _source(step, name, makers, order) if name.startswith("input:") else name

    while waiting and len(needed) <= _LONGEST:
        index = makers.get(waiting.pop())
        if index is not None and index not in needed:
            function = step.functions[index]
            inputs = renamed(function.inputs, source)
            needed[index] = dataclasses.replace(function, inputs=inputs)
            waiting += keys_of(inputs).values()
    return Region(step, tuple(needed[i] for i in sorted(needed)), target)


def follows(step: Step, site: str, others: Mapping[str, np.ndarray], jax64: np.ndarray) -> str:
    """The site of an array because of which another one differs; "" if it differs by itself.

    Args:
        step: The recorded step.
        site: The site of the array, an argument of a call or the output of an outer one.
        others: The checked program's arrays of other sites that differ, in float64.
        jax64: Its array of the site.
    """
    region = region_of(step, site)
    order, makers = _order(step), _makers(step)
    own = {s for f in region.functions for s in keys_of(f.inputs).values()}
    known, first = {}, ""
    for other, array in others.items():
        source = _source(step, other, makers, order)
        if source in own and step[source].shape == array.shape:
            known[source], first = array, first or other
    if not known:
        return ""
    try:
        plain = region.observe()["output"]
        changed = dataclasses.replace(region, known=known).observe()["output"]
    except IMPOSSIBLE:
        return ""
    numbers = [{"output": array} for array in (step[site], step.double(site), jax64, jax64)]
    evidence = Evidence(*numbers)
    allowed = evidence.tolerance("output")
    right = difference(plain, evidence.torch64["output"]) <= allowed
    return first if right and difference(changed, jax64) <= allowed else ""


def _order(step: Step) -> dict[str, int]:
    return {name: i for i, name in enumerate(step.sites)}


def _makers(step: Step) -> dict[str, int]:
    """The number of the function that gave an array, by the array's site."""
    return {
        made: i
        for i, function in enumerate(step.functions)
        for made in keys_of(function.output).values()
    }


def _source(step: Step, site: str, makers: Mapping[str, int], order: Mapping[str, int]) -> str:
    """The site of the function or of the module that an array came from; itself if from none.

    A module that is not among the calls of the step, as the program has none of its kind, is what
    its functions compute.
    """
    array = step[site]
    called = {call.name for call in step.calls}
    at = order.get(site, len(order))
    found = [
        name
        for name in order
        if order[name] < at
        and (name in makers or (phase_of(name) == "forward" and call_of(name) in called))
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
