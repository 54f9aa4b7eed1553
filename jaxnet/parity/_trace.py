"""Traces: recorded training runs, as folders of JSON and safetensors files.

    trace.json            the program: its environment, models, optimizers, the number of steps
    step-0000.json        one step: module calls in order, draws, hyperparameters
    step-0000.safetensors its arrays

A step is written whole before trace.json counts it, so that a trace can be read after a kill.

An array is stored under the name of its site, "PHASE:PLACE". A float32 array may come with what
the same step in float64 has more, under "SITE~", in float32: the float64 value is their sum. A
"SITE~" in float64 is that value itself, of an array of less precision or with infinite elements.
What a step begins with is not stored again where the step before left the same bits, nor are
initial weights that the program's seed gives (_seeded.py).
The phases, in the order of the computation:

    batch:0.1               a leaf of the step's batch 0, as the program took it from its loader
    draw:3                  the result of the step's fourth random draw
    before:fc.weight        a parameter before the step
    buffer_before:bn.running_mean
    state_before:fc.weight.exp_avg      the optimizer's state before the step
    input:fc1#0.0           an argument of the first call of fc1 (".0" is the first, ".mask" one
                            by keyword; what follows is the path inside a nested argument)
    forward:fc1#0           the output of that call; "forward:lstm#0.1.0" of one with several
    function:gelu#2         the output of the step's third call of torch's function gelu; its
                            arguments are "function_input:gelu#2.0" and so on
    loss:0                  the value that backward() was called on
    grad:fc1#0              the gradient of the loss by the output of the call
    param_grad:fc.weight    the gradient of a parameter after the last backward()
    clipped:fc.weight       the gradient that the optimizer was given, where it is another
    update:fc.weight        the parameter after the step
    state:fc.weight.exp_avg the optimizer's state after the step
    buffer:bn.running_mean  a buffer after the step
"""

import dataclasses
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file

from jaxnet._files import replacing, write_text
from jaxnet._names import few
from jaxnet.parity._seeded import replayed
from jaxnet.parity._stored import more, same_bits, save
from jaxnet.parity._tree import from_json

FORMAT = 1
_DOUBLE = "~"


class TraceError(ValueError):
    """A trace that cannot be used: it is missing, cut off, damaged or of a newer format."""


@dataclasses.dataclass(frozen=True)
class Call:
    """One call of one module.

    Attributes:
        module: The module's dotted name.
        number: Which call of this module it is in the step, from 0.
        parent: The index, in the step's calls, of the call around it; None for the outermost.
        training: Whether the module was in training mode.
        inputs: The form of {"0": first argument, "1": ..., "name": ...} (`_tree.to_json`).
        output: The form of the output.
        where: File and line of the call, "model.py:88".
        draws: The indices of the draws that the call itself made.
        elsewhere: Those of them that whoever comes takes, as the checked program has no such call.
    """

    module: str
    number: int
    parent: int | None
    training: bool
    inputs: Any
    output: Any
    where: str
    draws: tuple[int, ...] = ()
    elsewhere: tuple[int, ...] = ()

    @property
    def name(self) -> str:
        """The call's name in sites, "fc1#0"."""
        return f"{self.module}#{self.number}"


@dataclasses.dataclass(frozen=True)
class Function:
    """One call of a function of torch's, such as F.gelu, outside of modules that do it inside.

    Attributes:
        function: The name of the function, "gelu".
        number: Which call of this function it is in the step, from 0.
        parent: The index of the module call that it happened in; None outside of all.
        inputs: The form of its arguments, as in `Call`. An argument that was the output of a
            module call, or of a function call, has the name of that site.
        output: The form of its output.
        where: File and line.
        draws: The indices of the draws that it made.
    """

    function: str
    number: int
    parent: int | None
    inputs: Any
    output: Any
    where: str
    draws: tuple[int, ...] = ()

    @property
    def name(self) -> str:
        return f"{self.function}#{self.number}"


@dataclasses.dataclass(frozen=True)
class Draw:
    """One random draw.

    Attributes:
        kind: "mask", "normal", "uniform", "integers", "permutation", "exponential", or the name
            of torch's operation for others.
        arguments: What it was drawn with, such as {"p": 0.9}.
        where: File and line.
    """

    kind: str
    arguments: Mapping[str, Any]
    where: str


@dataclasses.dataclass(frozen=True)
class Step:
    """One recorded step; its arrays are read from the file when they are asked for.

    Attributes:
        index: The step's number, from 0.
        full: Whether activations and their gradients were recorded, not only what the step began
            and ended with.
        sites: All sites in the order of the computation.
        calls: The module calls in their order.
        functions: The calls of functions in their order.
        draws: The random draws in their order.
        batches: The forms of the batches.
        losses: The sites of the losses.
        loss_of: For each loss the site whose array it is, "function:nll_loss#0"; "" where that is
            not known. Empty in traces of earlier versions.
        origins: For each outermost call, by the site of its output, the sites that its arguments
            were at first, by their paths: an output of another call, or a part of the batch; ""
            for one that was computed in a way that was not seen. Those that are not named were
            data.
        groups: For each optimizer so far the hyperparameters of each group when it last stepped.
        events: The order of "forward", "backward", "clip", "step" and "zero_grad", and of
            "evaluation" where an optimizer evaluates its closure once more, unrecorded.
        again: The parameters that are updated several times within the step.
        obstacle: Why no other program can be given what the step was given; "" if one can.
        single: The sites whose float64 value is missing, and why.
        seeded: Which parameters before the first step are stored as a seed, as
            `_seeded.InitialDraws.of` gives it.
        same: The sites whose arrays are those of the step before at other sites, by site.
    """

    index: int
    full: bool
    sites: tuple[str, ...]
    calls: tuple[Call, ...]
    functions: tuple[Function, ...]
    draws: tuple[Draw, ...]
    batches: tuple[Any, ...]
    losses: tuple[str, ...]
    groups: tuple[tuple[Mapping[str, Any], ...], ...]
    events: tuple[str, ...]
    again: tuple[str, ...]
    obstacle: str
    single: Mapping[str, str]
    seeded: Mapping[str, Any]
    same: Mapping[str, str]
    loss_of: tuple[str, ...]
    origins: Mapping[str, Mapping[str, str]]
    _file: Path = dataclasses.field(repr=False)
    _arrays: dict[str, np.ndarray] = dataclasses.field(default_factory=dict, repr=False)

    def _loaded(self) -> dict[str, np.ndarray]:
        if not self._arrays:
            try:
                arrays = load_file(self._file)
                if self.same:
                    name = f"step-{self.index - 1:04d}.safetensors"
                    with safe_open(self._file.with_name(name), "numpy") as before:
                        for site, other in self.same.items():
                            arrays[site] = before.get_tensor(other)
                arrays |= replayed(self.seeded, arrays)
            except (OSError, SafetensorError) as error:
                raise TraceError(f"{self._file}: {error}; record the program again") from error
            except (LookupError, TypeError, ValueError) as error:
                step = self._file.with_suffix(".json")
                raise TraceError(
                    f"{step}: it is damaged ({error!r}); record the program again"
                ) from error
            missing = [site for site in self.sites if site not in arrays]
            if missing:
                raise TraceError(f"{self._file}: it lacks {few(missing)}; record the program again")
            self._arrays.update(arrays)
        return self._arrays

    def forget(self) -> None:
        """Drops the arrays from memory; they are read again when they are asked for."""
        self._arrays.clear()

    def __contains__(self, site: str) -> bool:
        return site in self._loaded()

    def __getitem__(self, site: str) -> np.ndarray:
        """The array as the program had it."""
        return self._loaded()[site]

    def double(self, site: str) -> np.ndarray:
        """The value of the same step in float64; arrays that are not floating are as they are."""
        array = self[site]
        if array.dtype.kind not in "fcV":  # ml_dtypes' bfloat16 is of kind V
            return array
        more = self._loaded().get(site + _DOUBLE)
        wide = array.astype(np.complex128 if array.dtype.kind == "c" else np.float64)
        if more is None:
            return wide
        return more if more.dtype == np.float64 else wide + more

    def has_double(self, site: str) -> bool:
        """Whether the float64 value was recorded."""
        return self[site].dtype == np.float64 or site + _DOUBLE in self._loaded()

    def of(self, phase: str) -> dict[str, str]:
        """The sites of a phase by their places, in order: {"fc.weight": "update:fc.weight"}."""
        return {s.split(":", 1)[1]: s for s in self.sites if s.startswith(phase + ":")}

    @property
    def collected(self) -> int:
        """The number of batches whose gradients the step adds up, at least 1.

        Several backward() of one batch, as of several losses, collect no batches.
        """
        backwards = max(self.events.count("backward"), 1)
        return min(len(self.batches) or backwards, backwards)

    def batch(self, number: int = 0, double: bool = False) -> Any:
        """A batch as the program took it, with arrays in place of tensors."""
        return from_json(self.batches[number], self.double if double else self.__getitem__)


@dataclasses.dataclass(frozen=True)
class Module:
    """A module of a recorded model.

    Attributes:
        cls: The name of its class, "Conv2d".
        qualname: The full name, "torch.nn.modules.conv.Conv2d".
        config: The arguments of its constructor, as far as the module has them as attributes.
        text: The module's extra_repr.
        where: File and line of the class, "" for torch's own.
        sha256: The checksum of the class's source, "" for torch's own.
        training: Whether it was in training mode at the start.
    """

    cls: str
    qualname: str
    config: Mapping[str, Any]
    text: str
    where: str
    sha256: str
    training: bool


@dataclasses.dataclass(frozen=True)
class Trace:
    """A recorded training run.

    Attributes:
        path: The folder.
        about: The rest of trace.json: environment, arguments, seeds, flags, self-checks.
        models: The names of the models; the only one is "", whose modules have plain names. Of
            several each name is the first part of the names of its modules.
        modules: The modules by name.
        parameters: {"shape", "dtype", "names" (all of a tied one), "requires_grad"} by first name.
        buffers: {"shape", "dtype"} by name.
        optimizers: {"class", "defaults", "groups": [{"params": [names], ...}]}.
        schedulers: {"class", "config"}.
        steps: The steps.
    """

    path: Path
    about: Mapping[str, Any]
    models: tuple[str, ...]
    modules: Mapping[str, Module]
    parameters: Mapping[str, Mapping[str, Any]]
    buffers: Mapping[str, Mapping[str, Any]]
    optimizers: tuple[Mapping[str, Any], ...]
    schedulers: tuple[Mapping[str, Any], ...]
    steps: tuple[Step, ...]

    def __iter__(self) -> Iterator[Step]:
        return iter(self.steps)


def read(path: str | Path) -> Trace:
    """Reads a trace; arrays are read when they are asked for.

    Raises:
        TraceError: The folder holds no trace, one without a whole step, one that is damaged, or
            one of a newer format.
    """
    path = Path(path)
    about = _json(path / "trace.json", path)
    if about.get("format") != FORMAT:
        raise TraceError(
            f"{path}: its format is {about.get('format')!r}, and this version of jaxnet reads "
            f"{FORMAT}; pip install --upgrade jaxnet, or record the program again"
        )
    try:
        steps = tuple(_read_step(path, number) for number in range(about.pop("steps")))
        modules = {name: Module(**each) for name, each in about.pop("modules").items()}
        trace = Trace(
            path=path,
            models=tuple(about.pop("models")),
            modules=modules,
            parameters=about.pop("parameters"),
            buffers=about.pop("buffers"),
            optimizers=tuple(about.pop("optimizers")),
            schedulers=tuple(about.pop("schedulers")),
            steps=steps,
            about=about,
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise TraceError(
            f"{path}: trace.json is damaged ({error!r}); record the program again"
        ) from error
    if not steps:
        raise TraceError(
            f"{path}: the trace has no whole step: the program ended before its first update. "
            "Record it for longer"
        )
    return trace


def generic_trace(path: str | Path | Trace) -> Trace:
    """A trace that was recorded with generic weights.

    Raises:
        TraceError: It was recorded with the program's own, or cannot be read.
    """
    trace = path if isinstance(path, Trace) else read(path)
    if trace.about.get("weights") != "generic":
        raise TraceError(
            f"check: generic: {trace.path} was recorded with the program's own weights; record "
            "another with `jaxnet record generic/ --weights generic -- python main.py`"
        )
    return trace


def _read_step(path: Path, number: int) -> Step:
    file = path / f"step-{number:04d}.json"
    content = _json(file, path)
    if not file.with_suffix(".safetensors").exists():
        before = f"check the {number} before it with --steps {number}, or " if number else ""
        raise TraceError(
            f"{path}: the arrays of step {number} are missing ({file.stem}.safetensors): the trace "
            f"was cut off or copied in part; {before}copy it again, or record the program again"
        )
    try:
        for each in (*content["calls"], *content["functions"]):
            each["draws"] = tuple(each["draws"])
        return Step(
            index=number,
            full=content["full"],
            sites=tuple(content["sites"]),
            calls=tuple(Call(**each) for each in content["calls"]),
            functions=tuple(Function(**each) for each in content["functions"]),
            draws=tuple(Draw(**each) for each in content["draws"]),
            batches=tuple(content["batches"]),
            losses=tuple(content["losses"]),
            groups=tuple(tuple(groups) for groups in content["groups"]),
            events=tuple(content["events"]),
            again=tuple(content.get("again", ())),
            obstacle=content.get("obstacle", ""),
            single=content.get("single", {}),
            seeded=content.get("seeded", {}),
            same=content.get("same", {}),
            loss_of=tuple(content.get("loss_of", ())),
            origins=content.get("origins", {}),
            _file=file.with_suffix(".safetensors"),
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise TraceError(f"{file}: it is damaged ({error!r}); record the program again") from error


def _json(file: Path, folder: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise TraceError(
            f"{folder}: there is no {file.name}; parity.recording writes a trace, and so does "
            f"`jaxnet record {folder} -- python main.py`"
        ) from None
    except (OSError, ValueError) as error:
        raise TraceError(f"{file}: {error}; record the program again") from error
    if not isinstance(content, dict):
        raise TraceError(f"{file}: it holds no JSON object; record the program again")
    return content


class TraceWriter:
    """Writes a trace, step by step; whoever opened it flushes it to the disk at the end.

    Args:
        path: The folder, which must not exist or be empty.

    Attributes:
        steps: How many steps were written.
        left: The parameters, buffers and states that the last of them left, by site.

    Raises:
        FileExistsError: The folder holds something.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if self.path.exists() and any(self.path.iterdir()):
            raise FileExistsError(
                f"{self.path}: it is not empty; give a new folder, or remove this one first"
            )
        self.path = self.path.absolute()  # the program may go to another folder
        self.path.mkdir(parents=True, exist_ok=True)
        self.steps = 0
        self.left: dict[str, np.ndarray] = {}

    def write_step(
        self,
        content: Mapping[str, Any],
        arrays: Mapping[str, np.ndarray],
        doubles: Mapping[str, np.ndarray],
        corrections: Mapping[str, np.ndarray] | None = None,
    ) -> None:
        """Writes the next step; `write_about` counts it.

        Args:
            content: The fields of `Step` but for `index`, `sites` and the private ones; calls,
                functions and draws as dataclasses.
            arrays: The arrays by site, in the order of the computation. Those that a step leaves
                are kept until the next one is written, so that nothing may change them.
            doubles: For floating arrays the values of the same step in float64.
            corrections: What `_seeded.InitialDraws.of` gave.
        """
        name = f"step-{self.steps:04d}"
        stored = {site: np.asarray(array, order="C") for site, array in arrays.items()}
        for site, apart in (corrections or {}).items():
            stored[site] = np.asarray(apart, order="C")
        for site, wide in doubles.items():
            stored[site + _DOUBLE] = np.asarray(more(stored[site], wide), order="C")
        same = {
            site: other
            for site in stored
            if (other := _left_by(site)) in self.left and same_bits(stored[site], self.left[other])
        }
        others = (*same, *content.get("seeded", {}).get("sites", ()))
        with replacing(self.path / f"{name}.safetensors", flushed=False) as file:
            save({site: array for site, array in stored.items() if site not in others}, file)
        last = [s for s in arrays if s.partition(":")[0] in ("update", "buffer", "state")]
        self.left = {site: stored[site] for site in last}
        whole = {**content, "sites": [*arrays], "same": same}
        write_text(self.path / f"{name}.json", json.dumps(whole, default=vars), flushed=False)
        self.steps += 1

    def write_about(self, about: Mapping[str, Any]) -> None:
        """Writes trace.json: all that `Trace` has but for path and steps."""
        whole = {**about, "format": FORMAT, "steps": self.steps}
        write_text(self.path / "trace.json", json.dumps(whole, default=vars), flushed=False)


def _left_by(site: str) -> str:
    """The site at which the step before has what a step begins with; "" for other sites."""
    phase, _, place = site.partition(":")
    last = {"before": "update", "buffer_before": "buffer", "state_before": "state"}.get(phase)
    return f"{last}:{place}" if last else ""
