"""The program that a file and a trace make together: the file's model in the recorded training.

A file that has the classes of the recorded model, as `jaxnet port` writes it, is checked without
a function that puts a program together. What the trace knows of the recorded program is enough:
how its model was built, what its loss computes, and which optimizer trains it.
"""

import ast
import base64
import dataclasses
import inspect
import linecache
import sys
import traceback
import zlib
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxnet import nn, ops
from jaxnet._keys import keys
from jaxnet._names import few, named_variables
from jaxnet.nn import functional
from jaxnet.parity._constructed import only_constructs
from jaxnet.parity._exercised import exercised, lines_run
from jaxnet.parity._port import SubjectError, module_of
from jaxnet.parity._recorded_loss import RecordedLoss, recorded_loss
from jaxnet.parity._recorded_optimizer import UnknownOptimizerError, recorded_optimizer
from jaxnet.parity._result import Coverage
from jaxnet.parity._trace import Trace
from jaxnet.random import Generator

_NAMES = {
    "nn": nn, "F": functional, "ops": ops, "partial": partial, "SimpleNamespace": SimpleNamespace,
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Recorded:
    """A program of a file's model and a trace's training.

    Attributes:
        trace: The trace, with the batches that the loss takes.
        model: The model.
        loss: The loss `(model, batch)`.
        optimizer: The optimizer; None where it cannot be built.
        copied: Whether the model begins with torch's weights, as it cannot with its own.
        steps: The numbers of the steps that can be compared.
        coverage: What of the file the recorded run reaches.
        notes: What the reader of a report should know, in sentences.
        module: The file's module.
    """

    trace: Trace
    model: nnx.Module
    loss: Any
    optimizer: Any
    copied: bool
    steps: tuple[int, ...]
    coverage: Coverage
    notes: tuple[str, ...]
    module: ModuleType


def is_recorded(name: str) -> bool:
    """Whether a program's name is that of a file, or of a model in it, and not of a function."""
    where, _, call = name.partition(":")
    return call.rstrip().endswith(")") or (where.endswith(".py") and not call)


def recorded(trace: Trace, name: str) -> Recorded:
    """The program of a file's model.

    Args:
        trace: The trace.
        name: "model_jax.py", or with the model that it is about "model_jax.py:Net(hidden=32)". A
            module's name will do in place of the file's, with the model.

    Raises:
        SubjectError: The file has no such model, or the trace does not say how it is trained.
    """
    where, _, call = name.partition(":")
    module = _loaded(where)
    file = Path(str(module.__file__))
    if len(trace.models) != 1 or trace.models[0]:
        raise SubjectError(
            f"{trace.path}: the program trains the models {few(trace.models)}; accepted is a "
            f"program of one model. {_by_hand(trace)}"
        )
    built = trace.about.get("constructed", {}).get("", {})
    with lines_run(file) as lines:
        model, generator = _model(trace, module, call or _call(trace, module, built), built, call)
        own = partial(_own, trace, module, generator)
        made = recorded_loss(trace, own)
        _try(made, model, file)
    copied, words = _weights(trace, built, model, bool(call))
    notes = [
        f"the loss and the optimizer are those that the trace has: of {file.name} was compared "
        f"{type(model).__name__} with what it calls",
        words,
        *_left_out(made),
    ]
    optimizer = None
    try:
        steps = [made.trace.steps[number] for number in made.steps]
        optimizer = recorded_optimizer(made.trace, steps)
    except UnknownOptimizerError as error:
        notes.append(f"no updates were compared: {error}")
    return Recorded(
        made.trace,
        model,
        made.function,
        optimizer,
        copied,
        made.steps,
        exercised(file, lines),
        tuple(note for note in notes if note),
        module,
    )


def _by_hand(trace: Trace) -> str:
    return (
        "Write a function make() that returns the ported model, its loss and its optimizer, and "
        f"name it in the place of the file: jaxnet check {trace.path} FILE.py:make"
    )


def _loaded(where: str) -> ModuleType:
    """The module of a file, as the file is now."""
    if where.endswith(".py"):
        path = str(Path(where).resolve())
        for name in (Path(path).stem, path):
            if getattr(sys.modules.get(name), "__file__", None) == path:
                del sys.modules[name]
        linecache.checkcache(path)
    try:
        return module_of(f"{where}:make")
    except NotImplementedError as error:
        raise SubjectError(f"{where}: it cannot be imported: {error}") from error


def _defined(module: ModuleType) -> dict[str, Any]:
    """The classes and functions that a file defines itself."""
    return {
        name: value
        for name, value in vars(module).items()
        if getattr(value, "__module__", None) == module.__name__
    }


def _call(trace: Trace, module: ModuleType, built: Mapping[str, Any]) -> str:
    """The constructor's call of the recorded model, as the trace has it.

    Raises:
        SubjectError: It has none, or the file has no such class.
    """
    root = trace.modules[""]
    file = Path(str(module.__file__)).name
    classes = [name for name, value in _defined(module).items() if inspect.isclass(value)]
    if not root.qualname.startswith("torch.") and root.cls not in classes:
        raise SubjectError(
            f"{file}: the recorded model is {root.cls} ({root.where}), and the file's classes are "
            f"{few(classes) or 'none'}. Port the file that has it, or give the model: --model "
            f'"{classes[0] if classes else root.cls}(...)"'
        )
    call = built.get("call", "")
    if call and not only_constructs(call, _defined(module)):
        raise SubjectError(
            f"{file}: the recorded model was built by {call}, of which the file does not have "
            f'everything. Give the model: --model "{root.cls}(...)"'
        )
    if not call:
        why = "its construction was not recorded (an earlier version, or before the recording)"
        if built.get("unwritten"):
            why = f"an argument of its constructor has no Python text: {built['unwritten']}"
        raise SubjectError(
            f"{trace.path}: how {root.cls} was built is not known: {why}. Give the call that "
            f'builds it in the file, of {root.cls} or of a function: --model "{root.cls}(...)"'
        )
    return str(call)


def _model(
    trace: Trace, module: ModuleType, call: str, built: Mapping[str, Any], given: str
) -> tuple[nnx.Module, Generator]:
    """The model of a constructor's call, with the random numbers that torch's had."""
    generator = Generator(int(trace.about.get("seed", 0)))
    if state := built.get("generator"):
        generator.set_state(np.frombuffer(base64.b64decode(state), np.uint8))
    file = Path(str(module.__file__))
    try:
        model = _evaluated(call, module, generator)
    except NotImplementedError as error:
        raise _marked(file, error) from error
    except (NameError, SyntaxError, TypeError, AttributeError) as error:
        if given:
            raise SubjectError(
                f"{given}: {error}; accepted is a constructor's call with names of {file.name}, "
                'such as "Net(hidden=32)", without rngs'
            ) from error
        raise
    if not isinstance(model, nnx.Module):
        raise SubjectError(f"{call}: it is {type(model).__name__}; accepted is a module")
    return model, generator


def _evaluated(call: str, module: ModuleType, generator: Generator) -> Any:
    """The value of a call, in which what takes rngs is given them."""
    # What is drawn for a model of plain flax does not matter: it is given torch's weights.
    names = {**_NAMES, **vars(module), "__generator": generator, "__rngs": nnx.Rngs(0)}

    class WithGenerator(ast.NodeTransformer):
        def visit_Call(self, node: ast.Call) -> ast.Call:
            self.generic_visit(node)
            function = eval(compile(ast.Expression(node.func), "<model>", "eval"), names)
            if _takes_rngs(function) and "rngs" not in {each.arg for each in node.keywords}:
                flax = inspect.isclass(function) and not issubclass(function, nn.Module)
                given = ast.Name("__rngs" if flax else "__generator", ast.Load())
                node.keywords.append(ast.keyword("rngs", given))
            return node

    tree = WithGenerator().visit(ast.parse(call.strip(), mode="eval"))
    return eval(compile(ast.fix_missing_locations(tree), "<model>", "eval"), names)


def _takes_rngs(function: Any) -> bool:
    if inspect.isclass(function):  # the classes of flax hide the arguments of their constructors
        function = function.__init__
    try:
        return "rngs" in inspect.signature(function).parameters
    except (TypeError, ValueError):
        return False


def _own(trace: Trace, module: ModuleType, generator: Generator, name: str) -> Any:
    """The port's module of one that the program has beside its model, such as a loss.

    Raises:
        SubjectError: The port has no such class, or how it was built is not known.
    """
    about = trace.modules[name]
    call = trace.about.get("constructed", {}).get(name, {}).get("call", "")
    if not call or not only_constructs(call, _defined(module)):
        raise SubjectError(
            f"{trace.path}: the loss is computed by {name} ({about.cls} {about.where}), which "
            f"{Path(str(module.__file__)).name} does not have. {_by_hand(trace)}"
        )
    return _evaluated(call, module, generator)


def _try(made: RecordedLoss, model: nnx.Module, file: Path) -> None:
    """Traces the loss once for each form of batch, as the training step will.

    Raises:
        SubjectError: A line is reached that says what is not supported.
    """
    graph, state = nnx.split(model)
    forms: dict[str, Any] = {}
    for number in made.steps:
        step = made.trace.steps[number]
        batch = step.batch()
        forms.setdefault(str(jax.tree.map(jnp.shape, batch)), batch)
        step.forget()

    def run(state: Any, batch: Any) -> Any:
        return made.function(nnx.merge(graph, state), batch)

    for batch in forms.values():
        try:
            with keys(jax.random.key(0)):
                jax.eval_shape(run, state, jax.tree.map(jnp.asarray, batch))
        except NotImplementedError as error:
            raise _marked(file, error) from error
        except SubjectError:
            raise
        except Exception:  # what is wrong is said when the step is run
            return


def _marked(file: Path, error: NotImplementedError) -> SubjectError:
    """An error for a line of a port that says what is not supported."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename == str(file)]
    where = f"{file.name}:{frames[-1].lineno}" if frames else file.name
    return SubjectError(
        f"{where}: the recorded run comes to what is not supported: {error}. Write this line by "
        "hand, and check the file again: jaxnet check TRACE " + file.name
    )


def _weights(
    trace: Trace, built: Mapping[str, Any], model: nnx.Module, given: bool
) -> tuple[bool, str]:
    """Whether the model is given torch's weights, and what is to be said of its own."""
    first = trace.steps[0]
    after = built.get("checksums", {})
    own = {name: _checksum(each[...]) for name, each in named_variables(model, nnx.Param)}
    same = [name for name in own if own[name] == after.get(name)]
    started = {name: _checksum(first[site]) for name, site in first.of("before").items()}
    first.forget()
    if not isinstance(model, nn.Module):
        return True, (
            "the model was given the recorded program's initial weights: a model of plain flax "
            "draws others, whose distribution was not compared"
        )
    if after and after == started and not given:
        return False, ""
    words = "the model was given the recorded program's initial weights, which "
    if not built:
        words += "cannot be made again: its construction was not recorded"
    elif given and after == started:
        words += "may come from other arguments of its constructor"
    else:
        words += "the program changed after it had built the model"
    if after and len(same) == len(after) == len(own):
        return True, words + "; those that the port's constructor makes have the bits of torch's"
    return True, words + "; what the port's constructor draws was not compared"


def _checksum(array: Any) -> int:
    return zlib.crc32(np.asarray(array).tobytes())


def _left_out(made: RecordedLoss) -> list[str]:
    """The steps that cannot be compared, in sentences."""
    by_reason: dict[str, list[str]] = {}
    for number, why in made.missing.items():
        by_reason.setdefault(why, []).append(str(number))
    return [f"step {few(numbers)} was not compared: {why}" for why, numbers in by_reason.items()]
