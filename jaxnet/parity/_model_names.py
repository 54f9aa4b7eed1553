"""Which recorded model each model of a checked program is."""

from collections.abc import Mapping
from typing import Any

from jaxnet._names import few, join
from jaxnet.parity._port import SubjectError
from jaxnet.parity._trace import Trace
from jaxnet.train._several import named_states


def own_parameters(trace: Trace, model: str) -> dict[str, Mapping[str, Any]]:
    """The parameters of a recorded model, by the names that they have within it."""
    prefix = f"{model}." if model else ""
    others = tuple(f"{name}." for name in trace.models if name and not model)
    return {
        name.removeprefix(prefix): {
            **each,
            "names": [one.removeprefix(prefix) for one in each["names"]],
        }
        for name, each in trace.parameters.items()
        if name.startswith(prefix) and not name.startswith(others)
    }


def recorded_models(trace: Trace, state: Any) -> dict[str, str]:
    """Which recorded model each model of the state is, by names and shapes of the parameters.

    A model of the state may be a part of a recorded one, as the encoder of an autoencoder.
    """
    states = named_states(state)
    shapes = {n: {k: tuple(p.shape) for k, p in s.params.items()} for n, s in states.items()}
    free = {name: own_parameters(trace, name) for name in trace.models}
    if len(states) > len(free):
        parts = _parts_of_models(trace, shapes)
        if parts is not None:
            return parts
    faults: list[str] = []
    found: dict[str, str] = {}
    for name in sorted(states, key=lambda each: each not in free):  # namesakes first
        ranked = sorted(
            free,
            key=lambda each: (len(_differences(shapes[name], free[each])), each != name),
        )
        if not ranked:
            faults.append(f"the model {name!r} has no partner in the trace")
            continue
        best = ranked[0]
        if wrong := _differences(shapes[name], free.pop(best)):
            faults += [f"{name}: {w}" if name else w for w in wrong[:8]]
            if len(wrong) > 8:
                faults.append(f"and {len(wrong) - 8} more")
        found[name] = best
    faults += [f"the recorded model {name!r} has no partner" for name in free]
    known = {key for name in trace.models for key in own_parameters(trace, name)}
    if faults and not any(known & {*one.params} for one in states.values()):
        given = [name for one in states.values() for name in one.params]
        raise SubjectError(
            f"check: the trace is of another program: its parameters are {few([*trace.parameters])}"
            f", and this program's {few(given)}. Record the program that this one was written from:"
            " jaxnet record trace/ -- python main.py"
        )
    if faults:
        raise SubjectError(
            "check: the parameters are not those of the trace: " + "; ".join(faults) + ". Modules "
            "and parameters have torch's names and shapes: compare the models' named_parameters()"
        )
    return {name: found[name] for name in states}


def _parts_of_models(
    trace: Trace, shapes: Mapping[str, Mapping[str, tuple[int, ...]]]
) -> dict[str, str] | None:
    """The recorded modules that the models of a state are; None where they are not all found."""
    found: dict[str, str] = {}
    left = dict.fromkeys(trace.parameters)
    for name, own in shapes.items():
        fitting = [
            module
            for module in trace.modules
            if not _differences(own, own_parameters(trace, module))
            and all(join(module, key) in left for key in own)
        ]
        if not fitting:
            return None
        # Of several alike the one with the same name, or else the first that is left.
        best = min(fitting, key=lambda each: not f".{each}".endswith(f".{name}"))
        found[name] = best
        for key in own:
            del left[join(best, key)]
    return None if left else found


def _differences(
    shapes: Mapping[str, tuple[int, ...]], recorded: Mapping[str, Mapping[str, Any]]
) -> list[str]:
    wrong = [f"{name} is missing" for name in recorded if name not in shapes]
    tied = {other: name for name, each in recorded.items() for other in each["names"]}
    wrong += [
        f"{name} is an array of its own; torch's is tied to {tied[name]}"
        if name in tied
        else f"{name} is not in the trace"
        for name in shapes
        if name not in recorded
    ]
    for name, each in recorded.items():
        theirs = tuple(each["shape"])
        if name in shapes and shapes[name] != theirs:
            wrong.append(f"{name} has shape {shapes[name]}, torch's {theirs}")
    return wrong
