"""A small program that repeats one difference without the user's code."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from jaxnet import nn
from jaxnet._files import replacing, write_text
from jaxnet.parity import _trace
from jaxnet.parity._result import Finding, Report

PROGRAM, ARRAYS = "repro.py", "repro.safetensors"

_TEXT = '''"""{site}, step {step}: {message}"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from safetensors.numpy import load_file

from jaxnet import nn

jax.config.update("jax_enable_x64", True)
arrays = {{k: jnp.asarray(v) for k, v in load_file(Path(__file__).with_name("{file}")).items()}}
{build}
for name in ("torch", "checked"):
    difference = np.sqrt(np.mean(np.square(arrays[name] - output)))
    print(f"{{name}} program to {what}: {{difference:.1e}} (RMS, float64)")
'''


def write(report: Report, folder: Path) -> Finding | None:
    """Writes repro.py and its arrays for the first finding that a layer or a function shows.

    Args:
        report: The report. The arrays are read from the trace that its subject names.
        folder: The folder.

    Returns:
        The finding; None if there is no such finding, and nothing is written.
    """
    for name in (PROGRAM, ARRAYS):  # those of an earlier report
        (folder / name).unlink(missing_ok=True)
    findings = [f for f in report.findings if f.jax64 is not None and f.level == "layer"]
    if not findings:
        return None
    trace = _trace.read(report.subject["trace"]["path"])
    for finding in findings:
        step = trace.steps[finding.step]
        phase, _, place = finding.site.partition(":")
        name, _, path = place.partition("#")
        path = path.partition(".")[2]
        if phase == "forward":
            found = _layer(trace, step, name, place)
        elif phase == "function":
            found = _function(step, place)
        else:
            continue
        if found is None:
            continue
        what, build, sites = found
        arrays = {key: step.double(site) for key, site in sites.items()}
        arrays |= {"torch": step.double(finding.site), "checked": np.asarray(finding.jax64)}
        text = _TEXT.format(
            site=finding.site,
            step=finding.step,
            message=(finding.cause or finding.message).replace('"""', "'''").replace("\\", "/"),
            file=ARRAYS,
            build=build
            + "".join(f"[{int(p) if p.isdigit() else p!r}]" for p in path.split(".") if p),
            what=what,
        )
        with replacing(folder / ARRAYS) as file:
            save_file({key: np.ascontiguousarray(array) for key, array in arrays.items()}, file)
        write_text(folder / PROGRAM, text)
        return finding
    return None


def _layer(
    trace: _trace.Trace, step: _trace.Step, name: str, place: str
) -> tuple[str, str, dict[str, str]] | None:
    """The name of a layer of torch's, the lines that build and call jaxnet's, and their arrays."""
    call = next(call for call in step.calls if f"{place}.".startswith(f"{call.name}."))
    module = trace.modules[name]
    # With draws the numbers are those of the recorded masks, which a layer alone has not.
    if not module.qualname.startswith("torch.nn.") or not hasattr(nn, module.cls) or call.draws:
        return None
    prefix = f"{name}." if name else ""
    weights = {
        f"weight:{key.removeprefix(prefix)}": site
        for phase in ("before", "buffer_before")
        for key, site in step.of(phase).items()
        if key.startswith(prefix)
    }
    config = ", ".join(f"{key}={value!r}" for key, value in module.config.items())
    arguments, sites = _arguments(call.inputs)
    lines = [f"layer = nn.{module.cls}({config}, rngs=nnx.Rngs(0))"]
    if weights:
        state = '{k[7:]: v for k, v in arrays.items() if k.startswith("weight:")}'
        lines.append(f"layer.load_state_dict({state})")
    if not call.training:
        lines.append("layer.eval()")
    lines.append(f"output = layer({arguments})")
    return f"torch's {module.cls}", "\n".join(lines), weights | sites


def _function(step: _trace.Step, place: str) -> tuple[str, str, dict[str, str]] | None:
    """The same for a function of torch.nn.functional."""
    call = next(call for call in step.functions if f"{place}.".startswith(f"{call.name}."))
    if not hasattr(nn.functional, call.function) or call.draws:
        return None
    arguments, sites = _arguments(call.inputs)
    line = f"output = nn.functional.{call.function}({arguments})"
    return f"torch's {call.function}", line, sites


def _arguments(form: Any) -> tuple[str, dict[str, str]]:
    """The arguments of a recorded call as source, and the sites of its arrays by their keys."""
    sites: dict[str, str] = {}

    def source(form: Mapping[str, Any]) -> str:
        ((kind, content),) = form.items()
        if kind == "array":
            sites[content] = content
            return f'arrays["{content}"]'
        if kind in ("tuple", "list"):
            inner = ", ".join(source(each) for each in content)
            return f"({inner},)" if kind == "tuple" else f"[{inner}]"
        if kind == "dict":
            return f"{{{', '.join(f'{key!r}: {source(each)}' for key, each in content.items())}}}"
        return repr(content)

    ((_, named),) = form.items()
    words = [
        source(each) if name.isdigit() else f"{name}={source(each)}" for name, each in named.items()
    ]
    return ", ".join(words), sites
