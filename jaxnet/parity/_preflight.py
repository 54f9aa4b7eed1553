"""The settings of both programs, compared before anything runs.

A setting that differs shows in the numbers only if the recorded steps use it: an epsilon beside a
large variance does not, nor does a schedule that acts later. So what both programs say of
themselves is compared too: the arguments of layers, optimizers, schedules and losses.
"""

import dataclasses
import inspect
import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from flax import nnx

from jaxnet import nn
from jaxnet._names import dotted, few, join
from jaxnet.optim import Optimizer
from jaxnet.optim._state_dict import has_torch_form, optimizer_state_dict
from jaxnet.parity._learning_rates import UNKNOWN, learning_rates
from jaxnet.parity._losses import ARGUMENTS, CRITERIA
from jaxnet.parity._result import Finding, Setting
from jaxnet.parity._sites import phase_of
from jaxnet.parity._subject import Subject
from jaxnet.parity._trace import Trace
from jaxnet.parity._tree import from_json
from jaxnet.train._several import named_states

# What changes the arithmetic of no program: arguments of layers, and of optimizers.
_INERT = ("device", "dtype", "enable_nested_tensor", "inplace")
_FORM = ("foreach", "fused", "capturable", "differentiable", "params", "lr", "initial_lr", "name")
_PLACES = {"optimizer": "optimizer", "learning rate": "schedule", "loss": "loss"}


def settings(trace: Trace, subject: Subject) -> list[Setting]:
    """The settings in which the programs differ, as far as both can be read.

    Args:
        trace: The trace.
        subject: The program that is checked.
    """
    found = [*_layers(trace, subject)]
    unread: list[str] = []
    for part in subject.parts if subject.updated else ():
        name = "" if part.model is None else str(part.model)
        one = named_states(subject.state).get(name)
        if isinstance(part.optimizer, Optimizer) and one is not None:
            model = subject.models[name]
            found += _optimizer(trace, model, part.optimizer, one)
            found += learning_rates(trace, model, part.optimizer, one)
        else:
            unread.append(name)
    if unread and trace.schedulers:
        named = ", ".join(dict.fromkeys(each["class"] for each in trace.schedulers))
        of = f" of {few(unread)}" if any(unread) else ""
        message = f"torch's {named} cannot be compared with a schedule of optax{of}"
        fix = f"compare {named} by hand"
        found.append(Setting("learning rate", "optimizer", message, fix, effect=UNKNOWN))
    return [*found, *_dtypes(trace, subject), *_half(trace), *_loss(trace, subject)]


def beginning(subject: Subject) -> dict[str, np.ndarray]:
    """What the optimizers of a program begin with, by torch's sites before a step.

    Args:
        subject: The program that is checked.
    """
    found: dict[str, np.ndarray] = {}
    for part in subject.parts if subject.updated else ():
        name = "" if part.model is None else str(part.model)
        one = named_states(subject.state).get(name)
        if one is None or not isinstance(part.optimizer, Optimizer):
            continue
        if not has_torch_form(part.optimizer):
            continue
        order = subject.orders[name]
        entries = optimizer_state_dict(part.optimizer, one.opt_state, one.params, order)["state"]
        groups = [set(group) for group in part.optimizer.partition(one.params)]
        numbered = [n for group in groups for n in order if n in group]
        for number, slots in entries.items():
            place = join(subject.models[name], numbered[number])
            found |= {f"state_before:{place}.{k}": np.asarray(v) for k, v in slots.items()}
    return found


def with_effects(
    found: list[Setting], findings: list[Finding], compared: set[str]
) -> list[Setting]:
    """The settings, each with the difference that it makes in the recorded steps.

    Args:
        found: The settings.
        findings: The differences that were found.
        compared: The modules that were compared.
    """

    def effect(setting: Setting) -> str:
        for number, finding in enumerate(findings, 1):
            modules = {result.place for result in finding.results}
            if setting.kind == "layer" and setting.place in modules:
                return f"see {number}"
            lr = {phase_of(r.site) for r in finding.results} == {"lr"}
            kind = "schedule" if lr else finding.origin
            if kind in ("optimizer", "schedule", "loss") and kind == _PLACES.get(setting.kind):
                return f"see {number}"
            if not finding.origin and setting.kind != "layer":  # a whole step
                return f"see {number}, perhaps"
        if setting.kind == "layer" and setting.place not in compared:
            return "it was not compared what that does"
        return "it makes no difference in the recorded steps"

    return [dataclasses.replace(one, effect=one.effect or effect(one)) for one in found]


def _layers(trace: Trace, subject: Subject) -> Iterator[Setting]:
    for name, one in named_states(subject.state).items():
        for path, module in nnx.iter_modules(one.model(training=True)):
            place = join(subject.models[name], dotted(path))
            known = trace.modules.get(place)
            own = getattr(nn, known.cls, None) if known is not None else None
            if known is None or not isinstance(own, type) or not known.qualname.startswith("torch"):
                continue
            where = next((c.where for s in trace.steps for c in s.calls if c.module == place), "")
            where = f"{known.cls} {where}".strip()
            if not isinstance(module, own):
                theirs = getattr(nn, type(module).__name__, None)
                if theirs is type(module):  # one of the user's own may compute the same
                    message = f"it is {theirs.__name__}; torch's is {known.cls}"
                    yield Setting("layer", place, message, f"nn.{known.cls}", where)
                continue
            for argument, torch in known.config.items():
                if argument not in _INERT and hasattr(module, argument):
                    jax = getattr(module, argument)
                    if isinstance(jax, nnx.Variable) or argument == "bias":
                        continue  # arrays, which are compared by name
                    if _differ(torch, jax):
                        yield _setting("layer", place, argument, torch, jax, where)


def _optimizer(trace: Trace, model: str, optimizer: Optimizer, one: Any) -> Iterator[Setting]:
    """The hyperparameters but for the learning rate, parameter by parameter."""
    ours = {
        join(model, name): group
        for group, names in zip(optimizer.groups, optimizer.partition(one.params), strict=True)
        for name in names
    }
    apart: dict[tuple[str, str, str], list[str]] = {}
    trained = set()
    for theirs in trace.optimizers:
        for group in theirs["groups"]:
            for name in group["params"]:
                trained.add(name)
                own = ours.get(name)
                if own is not None:
                    for difference in _hyperparameters(theirs["class"], group, own):
                        apart.setdefault(difference, []).append(name)
    for (argument, torch, jax), names in apart.items():
        places = "" if len(names) == len(trained & ours.keys()) else f" of {few(names)}"
        message = f"{argument}{places} is {jax}; torch's is {torch}"
        fix = f"optim.{torch}" if argument == "the class" else f"{argument}={torch}"
        yield Setting("optimizer", "optimizer", message, fix)
    names = [n for n in one.params if join(model, n) in trained and join(model, n) not in ours]
    if names:
        message = f"{few(names)}: frozen here; torch trains them"
        yield Setting("optimizer", "optimizer", message, "train them, or freeze them in torch")


def _hyperparameters(
    cls: str, torch: Mapping[str, Any], jax: Optimizer
) -> Iterator[tuple[str, str, str]]:
    """What differs in a group: the argument, torch's value, and the program's."""
    alike = {cls, jax.name} <= {"Adam", "AdamW"} and not torch.get("weight_decay")
    if cls != jax.name and not alike:
        yield "the class", cls, jax.name
        return
    for argument, theirs in torch.items():
        if argument not in _FORM and argument in jax.defaults:
            own = jax.defaults[argument]
            if _differ(theirs, own):
                yield argument, _text(theirs), _text(own)


def _dtypes(trace: Trace, subject: Subject) -> Iterator[Setting]:
    apart: dict[tuple[str, str], list[str]] = {}
    for name, one in named_states(subject.state).items():
        for key, array in one.params.items():
            place = join(subject.models[name], key)
            torch = trace.parameters[place].get("dtype")
            if torch is not None and hasattr(array, "dtype") and str(array.dtype) != torch:
                apart.setdefault((torch, str(array.dtype)), []).append(place)
    for (torch, jax), names in apart.items():
        message = f"{few(names)} {'is' if len(names) == 1 else 'are'} {jax}; torch's {torch}"
        yield Setting("parameters", "parameters", message, f"parameters of dtype {torch}")


def _half(trace: Trace) -> Iterator[Setting]:
    """The layers that torch computes in half precision though their parameters are float32."""
    step = next((step for step in trace.steps if step.full), None)
    found: dict[str, dict[str, None]] = {}
    for call in step.calls if step is not None else ():
        site = f"forward:{call.name}"
        dtype = step[site].dtype.name if step is not None and site in step else ""
        if call.module and dtype in ("float16", "bfloat16"):
            found.setdefault(dtype, {})[call.module] = None
    narrow = any(each.get("dtype") in found for each in trace.parameters.values())
    for dtype, names in found.items() if not narrow else ():
        yield Setting(
            "precision",
            "precision",
            f"torch's {few([*names])} {'gives' if len(names) == 1 else 'give'} {dtype} (autocast)",
            f'compute_dtype="{dtype}" in make_train_step for the training, and not for a check',
            effect="the programs were compared as both compute in float64, without its rounding",
        )


def _loss(trace: Trace, subject: Subject) -> Iterator[Setting]:
    """The arguments of a criterion, where the program was given one and torch's calls one."""
    kind, ours = _criterion(subject.criterion)
    known = [*_recorded_losses(trace)]
    if not kind or len(known) != 1:
        return
    theirs, torch, where = known[0]
    if theirs != kind:
        yield Setting("loss", "loss", f"it is {kind}; torch's is {theirs}", theirs, where)
        return
    for argument, own in ours.items():
        given = torch.get(argument, _DEFAULTS.get(argument, own))
        if not _is_array(given) and not _is_array(own) and _differ(given, own):
            yield _setting("loss", "loss", argument, given, own, where)


_DEFAULTS = {"reduction": "mean", "ignore_index": -100, "label_smoothing": 0.0}


def _criterion(loss: Any) -> tuple[str, dict[str, Any]]:
    """The name of torch's function and the arguments of a jaxnet criterion; "" for others."""
    given = dict(getattr(loss, "keywords", {}))
    function = getattr(loss, "func", loss)
    if type(function).__name__ in CRITERIA:
        names = [*inspect.signature(type(function).__init__).parameters][1:]
        values = {n: getattr(function, n) for n in names if hasattr(function, n)}
        return CRITERIA[type(function).__name__], values
    kind = getattr(function, "__name__", "")
    if kind not in ARGUMENTS or getattr(loss, "args", None):
        return "", {}
    parameters = inspect.signature(function).parameters.values()
    plain = {p.name: p.default for p in parameters if p.default is not p.empty}
    return kind, {**plain, **given}


def _recorded_losses(trace: Trace) -> Iterator[tuple[str, dict[str, Any], str]]:
    """Kind, arguments and line of each loss of the first step that was recorded in full."""
    step = next((step for step in trace.steps if step.full), None)
    for call in step.calls if step is not None else ():
        module = trace.modules.get(call.module)
        if module is not None and module.cls in CRITERIA:
            yield CRITERIA[module.cls], dict(module.config), f"{module.cls} {call.where}"
    for function in step.functions if step is not None else ():
        kind = function.function
        if kind in ARGUMENTS and kind not in ("mean", "sum"):
            form = from_json(function.inputs, lambda _: np.zeros(0))
            names = ARGUMENTS[kind]
            given = {
                names[int(k)] if k.isdigit() and int(k) < len(names) else k: v
                for k, v in form.items()
            }
            yield kind, given, f"{kind} {function.where}"


def _setting(
    kind: str, place: str, argument: str, torch: Any, jax: Any, where: str = ""
) -> Setting:
    fix = f"{argument}={_text(torch)}"
    return Setting(
        kind, place, f"{argument} is {_text(jax)}; torch's is {_text(torch)}", fix, where
    )


def _is_array(value: Any) -> bool:
    return hasattr(value, "shape") and value.shape != ()


def _differ(torch: Any, jax: Any) -> bool:
    """Whether two arguments are different ones; what cannot be compared is not."""
    torch, jax = _plain(torch), _plain(jax)
    if isinstance(torch, tuple) or isinstance(jax, tuple):
        # A number stands for that number along all axes.
        many, other = (torch, jax) if isinstance(torch, tuple) else (jax, torch)
        if not isinstance(other, tuple):
            other = (other,) * len(many)
        if len(many) != len(other):
            return True
        return any(_differ(a, b) for a, b in zip(many, other, strict=True))
    numbers = [isinstance(x, int | float) and not isinstance(x, bool) for x in (torch, jax)]
    if all(numbers):
        return not (math.isclose(torch, jax, rel_tol=1e-6) or torch == jax)
    simple = (bool, int, float, str, type(None))
    if not (isinstance(torch, simple) and isinstance(jax, simple)):
        return False
    return torch != jax


def _plain(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return tuple(_plain(part) for part in value)
    if hasattr(value, "shape") and value.shape == () and hasattr(value, "item"):
        return value.item()
    return value


def _text(value: Any) -> str:
    value = _plain(value)
    if isinstance(value, float):
        return f"{value:.7g}"
    if isinstance(value, tuple):
        return f"({', '.join(map(_text, value))}{',' if len(value) == 1 else ''})"
    return repr(value)
