"""Runs the programs of PyTorch and of jaxnet from the same seeds, and compares their losses."""

import dataclasses
import functools
import importlib
import io
import tokenize
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import io_callback

from jaxnet import nn

FOLDER = Path(__file__).parent
GOLDEN = FOLDER / "golden.npz"
PAGE = FOLDER.parents[1] / "docs" / "pages" / "programs.md"

# How far the losses of 50 steps may lie from PyTorch's, relative to the loss.
FLOAT32, FLOAT64 = 1e-5, 1e-10
# How far a number from a normal distribution may lie from PyTorch's.
DRAWN = 1e-6


@dataclasses.dataclass(frozen=True)
class Program:
    """One program, and what is known about its arithmetic.

    Attributes:
        about: What it shows, for the table of the page.
        normal: Whether initial weights are drawn from a normal distribution, which goes through
            logarithms and cosines, whose last digits differ; uniform ones are the same bits.
        double: Whether the program itself is in double precision.
        steps: The number of losses.
    """

    about: str
    normal: bool = False
    double: bool = False
    steps: int = 50


PROGRAMS = {
    "vae": Program("variational autoencoder, with the noise of `torch.randn`"),
    "mnist": Program("convolutions, dropout, Adadelta, `StepLR`"),
    "gpt": Program(
        "tied weights, groups with and without decay, warm-up and cosine, clipping, accumulation",
        normal=True,
    ),
    "word_language_model": Program(
        "LSTM with a state from batch to batch, dropout, clipping, tied weights"
    ),
    "transformer_language_model": Program(
        "`nn.TransformerEncoder`, positional encoding, causal mask", normal=True
    ),
    "dcgan": Program("two networks, two Adams, batch norm", normal=True),
    "siamese_network": Program("one network for two inputs, batch norm"),
    "time_sequence_prediction": Program(
        "two `LSTMCell`s, LBFGS, double precision", double=True, steps=5
    ),
    "actor_critic": Program("cart-pole; actions by `torch.rand`"),
    "forward_forward": Program("a loss and an Adam for each layer"),
    "vision_transformer": Program("patches, class token, `nn.TransformerEncoder`", normal=True),
}


@dataclasses.dataclass
class Run:
    """What one run of a program gave.

    Attributes:
        losses: The loss of each step.
        start: The initial weights of each model, in the order in which they were made.
        arrays: The arrays that were given to `cast`: data and noise.
        masks: The masks of all dropout calls, in their order.
        end: The weights and buffers of each model at the end.
    """

    losses: np.ndarray = dataclasses.field(default_factory=lambda: np.empty(0))
    start: list[dict[str, np.ndarray]] = dataclasses.field(default_factory=list)
    arrays: list[np.ndarray] = dataclasses.field(default_factory=list)
    masks: list[np.ndarray] = dataclasses.field(default_factory=list)
    end: list[dict[str, np.ndarray]] = dataclasses.field(default_factory=list)

    def execute(self, name: str, cast: Callable[[Any], Any]) -> None:
        """Runs the program with this name to its end, and stores what it yields and returns."""
        program, losses = importlib.import_module(f"tests.programs.{name}").main(cast), []
        while True:
            try:
                losses.append(next(program))
            except StopIteration as stop:
                end = stop.value if isinstance(stop.value, tuple) else [stop.value]
                break
        self.losses = np.array(losses)
        self.end = [{key: np.asarray(value).copy() for key, value in each.items()} for each in end]


def of_torch(name: str, double: bool = False, nudged: bool = False) -> Run:
    """PyTorch's program, in float32 or float64.

    Args:
        name: The name of the program.
        double: Whether models and data are cast to float64 first.
        nudged: Whether every weight is moved to a neighbouring floating point number at first.
    """
    import torch

    run = Run()

    def record(module: Any, args: tuple[Any], output: Any) -> None:
        if module.training:
            run.masks.append(((output != 0) | (args[0] == 0)).numpy())

    def cast(x: Any) -> Any:
        if isinstance(x, torch.Tensor):
            x = x.double() if double and x.is_floating_point() else x
            run.arrays.append(x.numpy().copy())
            return x
        for module in x.modules():
            if isinstance(module, torch.nn.Dropout) and module.p:
                module.register_forward_hook(record)
        x = x.double() if double else x
        run.start.append({name: p.numpy().copy() for name, p in x.state_dict().items()})
        for p in x.parameters() if nudged else ():
            up = torch.arange(p.numel()).reshape(p.shape) % 2 == 0
            p.data = torch.nextafter(p.data, torch.where(up, torch.inf, -torch.inf).to(p.dtype))
        return x

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # With more they wait for each other longer than they compute.
    try:
        run.execute(f"{name}_torch", cast)
    finally:
        torch.set_num_threads(threads)
    return run


def of_jaxnet(
    name: str,
    masks: list[np.ndarray],
    double: bool = False,
    like: Run | None = None,
) -> Run:
    """jaxnet's program, in float32 or float64.

    Args:
        name: The name of the program.
        masks: The dropout masks to replay.
        double: Whether models and data are cast to float64 first.
        like: The run of PyTorch whose weights, data and noise are used in place of the
            program's own, which must be near; None for the program's own.
    """
    run = Run()
    left = iter(masks)

    def replay(module: Any, args: tuple[Any], output: Any) -> Any:
        if not module.training:
            return output
        shape = jax.ShapeDtypeStruct(output.shape, bool)
        mask = io_callback(lambda: next(left), shape, ordered=True)
        return args[0] * (mask.astype(output.dtype) / (1 - module.p))

    def cast(x: Any) -> Any:
        if not isinstance(x, nn.Module):
            x = np.asarray(x)
            x = x.astype(np.float64) if double and np.issubdtype(x.dtype, np.floating) else x
            run.arrays.append(x)
            return x if like is None else near(x, like.arrays[len(run.arrays) - 1])
        for module in x.modules():
            if isinstance(module, nn.Dropout) and module.p:
                module.register_forward_hook(replay)
        x = x.double() if double else x
        if like is not None:
            theirs = like.start[len(run.start)]
            x.load_state_dict({key: near(p, theirs[key]) for key, p in x.state_dict().items()})
        run.start.append({name: np.array(p) for name, p in x.state_dict().items()})
        return x

    # As a user has JAX: the tests' strict settings are for the library.
    lenient = jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard")
    with lenient[0], lenient[1], jax.enable_x64(True) if double else nullcontext():
        run.execute(name, cast)
        jax.effects_barrier()
    assert next(left, None) is None, "the program drew fewer masks than PyTorch's"
    return run


def near(ours: Any, theirs: np.ndarray) -> np.ndarray:
    """PyTorch's numbers, after a check that ours are those but for the rounding of normal draws."""
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=DRAWN)
    return theirs


def distance(ours: np.ndarray, theirs: np.ndarray) -> float:
    """The largest difference of two runs' losses, each relative to the second one's."""
    assert ours.shape == theirs.shape, (ours.shape, theirs.shape)
    return float(np.max(np.abs(ours - theirs) / np.abs(theirs)))


def lines(name: str) -> int:
    """The lines of a program without blank ones, comments and docstrings."""
    tokens = tokenize.generate_tokens(io.StringIO((FOLDER / f"{name}.py").read_text()).readline)
    counted: set[int] = set()
    skipped = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT}
    before = tokenize.NEWLINE
    for token in tokens:
        docstring = token.type == tokenize.STRING and before in skipped
        if token.type not in {*skipped, tokenize.ENDMARKER} and not docstring:
            counted.update(range(token.start[0], token.end[0] + 1))
        before = token.type
    return len(counted)


class Distances(NamedTuple):
    """How far the losses of two runs are apart.

    Attributes:
        float32: jaxnet's from PyTorch's, in float32 (in float64 for a program in float64).
        control: PyTorch's with nudged weights from PyTorch's, in the same dtype.
        float64: jaxnet's from PyTorch's in float64.
    """

    float32: float
    control: float
    float64: float


class Golden(NamedTuple):
    """PyTorch's losses, its dropout masks, and the distances that were measured."""

    losses: np.ndarray
    masks: list[np.ndarray]
    distances: Distances


@functools.cache
def golden(name: str) -> Golden:
    """What the golden file has of a program."""
    with np.load(GOLDEN) as file:
        each = [file[key] for key in file.files if key.startswith(f"{name}|mask")]
        masks = [mask for step in zip(*each, strict=True) for mask in step]
        return Golden(file[f"{name}|losses"], masks, Distances(*file[f"{name}|distances"].tolist()))


def golden_arrays(name: str, run: Run, distances: Distances) -> dict[str, np.ndarray]:
    """What `golden` reads; a program calls its dropout layers in the same order at every step."""
    each = len(run.masks) // PROGRAMS[name].steps
    masks = {f"{name}|mask{i}": np.stack(run.masks[i::each]) for i in range(each)}
    return {f"{name}|losses": run.losses, f"{name}|distances": np.array(distances), **masks}


def page() -> str:
    """The text of the page, its table made from the golden file and the lines of the programs."""
    rows = [
        "| program | what it shows | float32 | control | float64 | lines | of PyTorch |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, program in PROGRAMS.items():
        float32, control, float64 = (f"{x:.0e}" for x in golden(name).distances)
        cells = name, program.about, "-" if program.double else float32, control, float64
        rows.append(f"| {' | '.join(cells)} | {lines(name)} | {lines(f'{name}_torch')} |")
    before, rest = PAGE.read_text(encoding="utf-8").split("<!-- measured -->\n")
    _, after = rest.split("<!-- end: measured -->\n")
    return "\n".join([f"{before}<!-- measured -->", *rows, f"<!-- end: measured -->\n{after}"])
