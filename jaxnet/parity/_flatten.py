"""The order of features that were flattened from images: C, H, W in torch, H, W, C in plain flax.

A Linear after it has its rows in the same order. A port that is trained by itself, or that gets
torch's weights from here, may have either: its numbers say which.
"""

import math
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from jaxnet.parity._evidence import difference
from jaxnet.parity._force import forward_inputs
from jaxnet.parity._layouts import flattened
from jaxnet.parity._region import region_of
from jaxnet.parity._subject import Subject
from jaxnet.parity._trace import Step
from jaxnet.parity._tree import keys_of


def orders(subject: Subject, copied: bool) -> dict[str, tuple[int, ...]]:
    """The layers of a plain flax model that are given rows in the order H, W, C.

    Args:
        subject: The program, whose layers are taken to have torch's order so far.
        copied: Whether its weights are torch's, copied by the check.

    Returns:
        For each such layer, by its name in the model, the sizes C, H, W.
    """
    step = next((each for each in subject.trace.steps if each.full), None)
    if step is None or subject.partners is None:
        return {}
    suspects = _suspects(subject, step)
    if not copied:
        suspects = {n: each for n, each in suspects.items() if not _has_rows(subject, n)}
    if not suspects:
        return {}
    try:
        inputs = forward_inputs(subject, step)
    except Exception:  # what is wrong is said when the step is run
        return {}
    found = {}
    for name, (site, sizes) in suspects.items():
        own, theirs = inputs.get(site), step[_key(step, site)]
        if own is None or own.shape != theirs.shape:
            continue
        turned = np.asarray(flattened(sizes).torch(jax.numpy.asarray(own)))
        if difference(turned, theirs) < 0.5 * difference(own, theirs):
            found[name] = sizes
    return found


def rows_note(turned: tuple[str, tuple[int, ...]]) -> str:
    """What a report says of such a layer."""
    name, (channels, *space) = turned
    sizes = ", ".join(map(str, (channels, *space)))
    return (
        f"{name}: its inputs are flattened with the channels last, torch's with the channels first "
        f"({sizes}); the rows of its kernel are taken to be in its own order"
    )


def _suspects(subject: Subject, step: Step) -> dict[str, tuple[str, tuple[int, ...]]]:
    """The layers whose inputs torch flattens: the site of the input, and the sizes C, H, W."""
    assert subject.partners is not None
    found: dict[str, tuple[str, tuple[int, ...]]] = {}
    for name, partner in subject.partners.items():
        module = subject.trace.modules.get(partner.module)
        call = next((c for c in step.calls if c.module == partner.module), None)
        if module is None or module.cls != "Linear" or call is None:
            continue
        site = f"input:{call.name}.0"
        key = _key(step, site)
        features = int(module.config.get("in_features", 0))
        if key not in step:
            continue
        for function in region_of(step, key).functions:
            shapes = [step[k].shape for k in keys_of(function.inputs).values() if k in step]
            out = [step[k].shape for k in keys_of(function.output).values() if k in step]
            if not shapes or not out or len(shapes[0]) < 3 or len(out[0]) >= len(shapes[0]):
                continue
            sizes = shapes[0][1:]
            if math.prod(sizes) == features and sizes[0] > 1 and math.prod(sizes[1:]) > 1:
                found[name] = site, sizes
    return found


def _key(step: Step, site: str) -> str:
    """The name under which the array of an argument is stored."""
    name, _, path = site.removeprefix("input:").partition(".")
    call = next((c for c in step.calls if c.name == name), None)
    return keys_of(call.inputs).get(path, site) if call is not None else site


def _has_rows(subject: Subject, name: str) -> bool:
    """Whether the model begins with torch's numbers in torch's order."""
    assert subject.pairing is not None
    partner = next(p for p in subject.pairing.partners if p.own == name)
    first = subject.trace.steps[0]
    params: Mapping[str, Any] = subject.state.params
    names = [n for one in partner.made.values() for n in one.names]
    return all(
        f"before:{n}" in first and np.allclose(params[n], first[f"before:{n}"], 1e-5, 1e-7)
        for n in names
        if n in params
    )
