"""A small program that repeats one difference without the user's code."""

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from jaxnet import nn, ops
from jaxnet._files import replacing, write_text
from jaxnet.parity import _trace
from jaxnet.parity._rebuilt import of_call, of_function_call
from jaxnet.parity._result import Finding, Report
from jaxnet.parity._text import printable

PROGRAM, ARRAYS = "repro.py", "repro.safetensors"

_TEXT = '''"""{site}, step {step}: {message}"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from safetensors.numpy import load_file

from jaxnet import nn, ops

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
    if not findings or "trace" not in report.subject:
        return None
    trace = _trace.read(report.subject["trace"]["path"])
    for finding in findings:
        program = _program(trace, finding)
        if program is None:
            continue
        text, arrays = program
        with replacing(folder / ARRAYS) as file:
            save_file({key: np.asarray(array, order="C") for key, array in arrays.items()}, file)
        write_text(folder / PROGRAM, text)
        return finding
    return None


def _program(trace: _trace.Trace, finding: Finding) -> tuple[str, dict[str, np.ndarray]] | None:
    """The text of the program and its arrays; None where no layer of jaxnet's stands for it."""
    step = trace.steps[finding.step]
    phase, _, place = finding.site.partition(":")
    calls: Sequence[Any] = {"forward": step.calls, "function": step.functions}.get(phase, ())
    call = next((call for call in calls if f"{place}.".startswith(f"{call.name}.")), None)
    # With draws the numbers are those of the recorded masks, which a layer alone has not.
    if call is None or call.draws:
        return None
    try:
        of_torch = (
            of_call(trace, step, call) if phase == "forward" else of_function_call(step, call)
        )
    except ValueError:
        return None
    arrays: dict[str, np.ndarray] = {}
    if phase == "forward":
        accepted = inspect.signature(getattr(nn, of_torch.kind).__init__).parameters
        config = [f"{key}={value!r}" for key, value in of_torch.config.items()]
        config += ["rngs=nnx.Rngs(0)"] if "rngs" in accepted else []
        lines = [f"layer = nn.{of_torch.kind}({', '.join(config)})"]
        weights = {**of_torch.parameters, **of_torch.buffers}
        if weights:
            arrays |= {f"weight:{name}": array for name, array in weights.items()}
            state = '{k[7:]: v for k, v in arrays.items() if k.startswith("weight:")}'
            lines.append(f"layer.load_state_dict({state})")
        lines += [] if call.training else ["layer.eval()"]
        function = "layer"
        given = of_torch.inputs
    else:
        homes = {"nn.functional": nn.functional, "ops": ops}
        home = next((name for name, each in homes.items() if hasattr(each, of_torch.kind)), None)
        if home is None:  # an operator, such as x[0]
            return None
        lines, function = [], f"{home}.{of_torch.kind}"
        given = {**of_torch.inputs, **of_torch.parameters, **of_torch.buffers, **of_torch.config}
    words = [
        f"{'' if name.isdigit() else f'{name}='}{_source(value, name, arrays)}"
        for name, value in given.items()
    ]
    path = place.partition("#")[2].split(".")[1:]
    index = "".join(f"[{int(part) if part.isdigit() else part!r}]" for part in path)
    lines.append(f"output = {function}({', '.join(words)}){index}")
    arrays |= {"torch": step.double(finding.site), "checked": np.asarray(finding.jax64)}
    text = _TEXT.format(
        site=finding.site,
        step=finding.step,
        message=(finding.cause or finding.message).replace("\\", "/").replace('"', "'"),
        file=ARRAYS,
        build="\n".join(lines),
        what=f"torch's {of_torch.kind}",
    )
    return printable(text), arrays


def _source(value: Any, name: str, arrays: dict[str, np.ndarray]) -> str:
    """An argument as source; its arrays are put into `arrays`."""
    if isinstance(value, np.ndarray):
        arrays[f"input:{name}"] = value
        return f'arrays["input:{name}"]'
    if isinstance(value, Mapping):
        parts = [f"{k!r}: {_source(v, f'{name}.{k}', arrays)}" for k, v in value.items()]
        return f"{{{', '.join(parts)}}}"
    if isinstance(value, tuple | list):
        inner = ", ".join(_source(v, f"{name}.{i}", arrays) for i, v in enumerate(value))
        return f"[{inner}]" if isinstance(value, list) else f"({inner},)"
    return repr(value)
