"""The recorded calls of modules and functions, built again with jaxnet."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxnet.parity._evidence import Numbers
from jaxnet.parity._reference import Layer, of_function, of_module
from jaxnet.parity._trace import Call, Function, Step, Trace
from jaxnet.parity._tree import from_json, leaves


def of_call(trace: Trace, step: Step, call: Call) -> Layer:
    """A recorded call of a module.

    Raises:
        ValueError: jaxnet has no such class, or its arrays were not recorded.
    """
    module = trace.modules[call.module]
    if not module.qualname.startswith("torch."):
        raise ValueError(f"{module.qualname}: jaxnet has no such class")
    prefix = f"{call.module}." if call.module else ""

    def own(known: Mapping[str, Mapping[str, Any]], phase: str) -> dict[str, np.ndarray]:
        found = {}
        for first, about in known.items():
            for name in about.get("names", (first,)):
                if name.startswith(prefix) and f"{phase}:{first}" in step:
                    found[name.removeprefix(prefix)] = step.double(f"{phase}:{first}")
        return found

    form = from_json(call.output, lambda key: key)
    sites = dict(zip(_names("output", form), _names(f"grad:{call.name}", form), strict=True))
    cotangents = {name: step.double(site) for name, site in sites.items() if site in step}
    try:
        return of_module(
            module.cls,
            module.config,
            own(trace.parameters, "before"),
            own(trace.buffers, "buffer_before"),
            from_json(call.inputs, step.double),
            training=call.training,
            draws=[step[f"draw:{i}"] for i in (*call.draws, *call.elsewhere)],
            cotangents=cotangents,
        )
    except KeyError as error:
        raise ValueError(f"{call.name}: {error} was not recorded") from error


def of_function_call(step: Step, function: Function) -> Layer:
    """A recorded call of a function.

    Raises:
        ValueError: jaxnet has no such function, or its arrays were not recorded.
    """
    try:
        inputs = from_json(function.inputs, step.double)
        draws = [step[f"draw:{i}"] for i in function.draws]
    except KeyError as error:
        raise ValueError(f"{function.name}: {error} was not recorded") from error
    return of_function(function.function, inputs, draws=draws)


def _names(name: str, value: Any) -> list[str]:
    """The names of the leaves of a value, which itself has a name."""
    return [path for path, _ in leaves(value, name)]


def recorded_numbers(trace: Trace, step: Step, call: Call) -> tuple[Numbers, Numbers]:
    """The recorded numbers of a call, by the names of `Layer.observe`."""
    sites = {}
    form = from_json(call.output, lambda key: key)
    for (name, _), (_, key) in zip(leaves(form, "output"), leaves(form), strict=True):
        sites[name] = key
    prefix = f"{call.module}." if call.module else ""
    if sum(other.module == call.module for other in step.calls) == 1:
        for name in trace.buffers:
            if name.startswith(prefix):
                sites[f"buffer:{name.removeprefix(prefix)}"] = f"buffer:{name}"
        for name, about in trace.parameters.items():
            if name.startswith(prefix) and len(about.get("names", ())) < 2:
                sites[f"param_grad:{name.removeprefix(prefix)}"] = f"param_grad:{name}"
    known = {name: site for name, site in sites.items() if isinstance(site, str) and site in step}
    narrow = {name: step[site] for name, site in known.items()}
    return narrow, {name: step.double(site) for name, site in known.items()}
