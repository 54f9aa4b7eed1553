"""The shared checks of layers and losses: one row, `Case`, runs them all.

A family of rows is a file, tests/rows/nn_linear.py,

    CASES = [Case("Linear", (3, 2), inputs=[(5, 3)]), ...]

and a test module runs the checks on it with

    TestLinear = table("nn_linear")

Because names and arguments are torch's, a row says both programs at once:
`jaxnet.nn.Linear(3, 2)` and `torch.nn.Linear(3, 2)`. Every row is compared with
golden arrays, float64 results for float32-representable weights and inputs, which
`python -m tests.golden.make` wrote with torch; where torch is installed, they are
compared with what it gives now.

Only `table` imports pytest: a benchmark runs the rows on machines that lack it.
"""

import dataclasses
import importlib
import inspect
import zlib
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet import nn, train, weights
from jaxnet.random import Generator
from tests.tolerances import distance, tolerance

GOLDEN = Path(__file__).parent / "golden"
ROWS = Path(__file__).parent / "rows"
# Golden arrays that are no table: what torch gives, by name, for each family.
MAKERS: dict[str, Callable[[], dict[str, np.ndarray]]] = {}

Input = tuple[int, ...] | Callable[[np.random.RandomState], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Case:
    """One configuration of one class that both libraries have.

    Attributes:
        name: of the class in torch.nn and in jaxnet.nn.
        args, kwargs: of its constructor. A callable value is called with the
            library's array maker (so a weight tensor can be an argument).
        inputs: a shape for normal float input, or a function of a RandomState
            that gives an array; integer arrays get no gradient.
        call: keyword arguments of the call.
        apply: calls the module of either library with the arrays, where a plain call
            with the arrays in order will not do.
        train: whether the module is in training mode.
        output: picks the float arrays to compare from what the call returned.
        change: what is done to the module of either library after it is built, such as
            `nn.utils.weight_norm`.
        id: tells apart rows that read alike.
    """

    name: str
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    inputs: Sequence[Input] = ()
    call: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    apply: Callable[..., Any] = lambda module, *inputs, **call: module(*inputs, **call)
    train: bool = True
    output: Callable[[Any], Any] = lambda out: out
    change: Callable[[Any], Any] = lambda module: module
    id: str = ""

    def __str__(self) -> str:
        words = [repr(a) for a in self.args] + [f"{k}={v!r}" for k, v in self.kwargs.items()]
        words = [w if len(w) < 40 else "..." for w in words]
        shapes = ["x".join(map(str, i)) for i in self.inputs if isinstance(i, tuple)]
        text = f"{self.name}({', '.join(words)})[{','.join(shapes)}]"
        return text + ("" if self.train else ":eval") + (f":{self.id}" if self.id else "")

    def seed(self) -> int:
        return zlib.crc32(str(self).encode())

    def arrays(self) -> list[np.ndarray]:
        """The inputs; floats are float64 that float32 holds exactly."""
        rng = np.random.RandomState(self.seed())
        made = [
            i(rng) if callable(i) else rng.standard_normal(i).astype(np.float32)
            for i in self.inputs
        ]
        return [a.astype(np.float32).astype(np.float64) if a.dtype.kind == "f" else a for a in made]

    def module(self, dtype: Any = jnp.float32) -> Any:
        """Our module with the row's weights."""
        kind = getattr(nn, self.name)
        kwargs = {k: _made(v, lambda a: jnp.asarray(a, dtype)) for k, v in self.kwargs.items()}
        accepted = inspect.signature(kind).parameters
        if "rngs" in accepted:
            kwargs["rngs"] = Generator(0)
        if "dtype" in accepted:
            kwargs["dtype"] = dtype
        module = self.change(kind(*self.args, **kwargs))
        weights.load_state_dict(module, fill(weights.state_dict(module), self.seed()))
        return module.train(self.train)

    def torch_module(self) -> Any:
        """torch's module with the row's weights, in float64."""
        import torch

        kwargs = {k: _made(v, lambda a: torch.tensor(a).double()) for k, v in self.kwargs.items()}
        module = self.change(getattr(torch.nn, self.name)(*self.args, **kwargs)).double()
        current = {k: v.numpy() for k, v in module.state_dict().items()}
        filled = {k: torch.tensor(v) for k, v in fill(current, self.seed()).items()}
        module.load_state_dict(filled)
        return module.train(self.train)


def functional(name: str, **options: Any) -> Callable[..., Any]:
    """An `apply` that calls a function of either library's nn.functional, for rows of Identity."""

    def apply(module: Any, *inputs: Any) -> Any:
        library = "jaxnet" if isinstance(module, nn.Module) else "torch"
        return getattr(importlib.import_module(f"{library}.nn.functional"), name)(
            *inputs, **options
        )

    return apply


def _made(value: Any, make: Callable[[Any], Any]) -> Any:
    return value(make) if callable(value) else value


def fill(state: Mapping[str, np.ndarray], seed: int) -> dict[str, np.ndarray]:
    """Weights for every name: normal, positive for variances, counters as they are."""
    filled = {}
    for name in sorted(state):
        value = np.asarray(state[name])
        rng = np.random.RandomState((seed + zlib.crc32(name.encode())) % 2**32)
        drawn = (0.5 * rng.standard_normal(value.shape)).astype(np.float32).astype(np.float64)
        if value.dtype.kind not in "f":
            drawn = value
        elif name.endswith("running_var"):
            drawn = np.abs(drawn) + 0.5
        filled[name] = drawn
    return filled


def _cotangent(i: int, shape: tuple[int, ...]) -> np.ndarray:
    rng = np.random.RandomState(1000 + i)
    return rng.standard_normal(shape).astype(np.float32).astype(np.float64)


def torch_results(case: Case) -> dict[str, np.ndarray]:
    """Outputs, gradients and buffers after one call, from torch in float64."""
    import torch

    module = case.torch_module()
    inputs = [torch.tensor(a, requires_grad=a.dtype.kind == "f") for a in case.arrays()]
    outputs = case.output(case.apply(module, *inputs, **case.call))
    leaves = list(outputs) if isinstance(outputs, tuple) else [outputs]
    total = sum(
        (leaf * torch.tensor(_cotangent(i, tuple(leaf.shape)))).sum()
        for i, leaf in enumerate(leaves)
    )
    results = {f"out.{i}": leaf.detach().numpy() for i, leaf in enumerate(leaves)}
    if total.requires_grad:
        total.backward()
    for i, x in enumerate(inputs):
        if x.requires_grad:
            results[f"d_input.{i}"] = _grad(x)
    for name, parameter in module.named_parameters():
        results[f"d_param.{name}"] = _grad(parameter)
    for name, buffer in module.named_buffers():
        results[f"buffer.{name}"] = buffer.numpy()
    return results


def _grad(x: Any) -> np.ndarray:
    return np.zeros(tuple(x.shape)) if x.grad is None else x.grad.numpy()


def our_gradient(case: Case, dtype: Any) -> tuple[Callable[..., Any], list[int], tuple[Any, Any]]:
    """What computes a row's outputs and gradients, the inputs that are floats, its arguments."""
    structure, params, buffers = train.split(case.module(dtype))
    # Put there by device_put, where jnp.asarray would compile a program for each shape.
    arrays = [a.astype(dtype) if a.dtype.kind == "f" else a for a in case.arrays()]
    inputs: list[jax.Array] = jax.device_put(arrays)
    floats = [i for i, x in enumerate(inputs) if jnp.issubdtype(x.dtype, jnp.floating)]

    def total(params, moving):
        values = list(inputs)
        for i, x in zip(floats, moving, strict=True):
            values[i] = x
        module = train.merge(structure, params, buffers)
        outputs = case.output(case.apply(module, *values, **case.call))
        leaves = list(outputs) if isinstance(outputs, tuple) else [outputs]
        value = sum(
            (leaf * jnp.asarray(_cotangent(i, leaf.shape), leaf.dtype)).sum()
            for i, leaf in enumerate(leaves)
        )
        kept = {name: buffer[...] for name, buffer in module.named_buffers()}
        return value, (leaves, kept)

    gradient = jax.value_and_grad(total, argnums=(0, 1), has_aux=True)
    return gradient, floats, (params, [inputs[i] for i in floats])


def our_results(case: Case, dtype: Any, jit: bool) -> dict[str, np.ndarray]:
    """The same from jaxnet, in the given dtype, eagerly or compiled."""
    gradient, floats, arguments = our_gradient(case, dtype)
    if jit:
        gradient = jax.jit(gradient)
    (_, (leaves, kept)), (d_params, d_inputs) = gradient(*arguments)
    results = {f"out.{i}": leaf for i, leaf in enumerate(leaves)}
    results |= {f"d_input.{i}": d for i, d in zip(floats, d_inputs, strict=True)}
    results |= {f"d_param.{name}": d for name, d in d_params.items()}
    results |= {f"buffer.{name}": value for name, value in kept.items()}
    for name, value in results.items():
        if jnp.issubdtype(value.dtype, jnp.floating):
            assert value.dtype == dtype, f"{case}: {name} is {value.dtype}, not {dtype}"
    return {name: np.asarray(value) for name, value in results.items()}


def our_outputs(case: Case, dtype: Any) -> dict[str, np.ndarray]:
    """The outputs alone, eagerly."""
    arrays = [a.astype(dtype) if a.dtype.kind == "f" else a for a in case.arrays()]
    outputs = case.output(case.apply(case.module(dtype), *jax.device_put(arrays), **case.call))
    leaves = list(outputs) if isinstance(outputs, tuple) else [outputs]
    return {f"out.{i}": np.asarray(leaf) for i, leaf in enumerate(leaves)}


@cache
def families() -> dict[str, Sequence[Case]]:
    """The rows of every family that has a table, by the family's name."""
    found = {}
    for path in sorted(ROWS.glob("*.py")):
        module = importlib.import_module(f"tests.rows.{path.stem}")
        if hasattr(module, "CASES"):
            found[path.stem] = module.CASES
    return found


@cache
def golden_arrays(family: str) -> dict[str, np.ndarray]:
    """All of a family's golden arrays by name."""
    with np.load(GOLDEN / f"{family}.npz") as archive:
        return dict(archive)


def golden_results(family: str, case: Case) -> dict[str, np.ndarray]:
    start = f"{case}|"
    found = {k[len(start) :]: v for k, v in golden_arrays(family).items() if k.startswith(start)}
    assert found, f"{case} has no golden arrays; run: python -m tests.golden.make {family}"
    return found


def distances(
    case: Case, ours: Mapping[str, np.ndarray], theirs: Mapping[str, np.ndarray], dtype: Any
) -> dict[str, tuple[float, float]]:
    """How far each array of `our_results` lies from the other's, and how far it may, in `dtype`."""
    assert sorted(ours) == sorted(theirs), f"{case}: names differ"
    found = {}
    for name, value in theirs.items():
        kind = "gradient" if name.startswith("d_") else "forward"
        assert ours[name].shape == value.shape, f"{case}: {name}"
        found[name] = distance(kind, ours[name], value), tolerance(kind, dtype)
    return found


def assert_close(case: Case, ours: Mapping, theirs: Mapping, dtype: Any) -> None:
    for name, (gap, allowed) in distances(case, ours, theirs, dtype).items():
        assert gap <= allowed, f"{case}: {name} is {gap:.2e} off in {dtype}; {allowed:.0e} allowed"


def table(family: str) -> type:
    """The test class that runs every check on every row of a family."""
    import pytest

    cases = families()[family]
    names = [str(case) for case in cases]
    assert len(set(names)) == len(names), "two rows read alike; give one an id"

    every = pytest.mark.parametrize("case", cases, ids=str)
    # Eagerly each operation is a program to compile: the forward pass of one row of a class is
    # computed so, and everything of all rows with --slow.
    firsts = list({case.name: case for case in reversed(cases)}.values())

    class TestTable:
        @every
        def test_float32(self, case: Case) -> None:
            ours = our_results(case, jnp.float32, jit=True)
            assert_close(case, ours, golden_results(family, case), "float32")

        @pytest.mark.parametrize("case", firsts, ids=str)
        def test_eager(self, case: Case) -> None:
            ours = our_outputs(case, jnp.float32)
            theirs = golden_results(family, case)
            theirs = {name: value for name, value in theirs.items() if name in ours}
            assert_close(case, ours, theirs, "float32")

        @pytest.mark.slow
        @every
        def test_eager_gradients(self, case: Case) -> None:
            ours = our_results(case, jnp.float32, jit=False)
            assert_close(case, ours, golden_results(family, case), "float32")

        @every
        def test_float64(self, case: Case) -> None:
            with jax.enable_x64(True):
                ours = our_results(case, jnp.float64, jit=True)
            assert_close(case, ours, golden_results(family, case), "float64")

        @pytest.mark.torch
        @every
        def test_golden_arrays_are_torchs(self, case: Case) -> None:
            assert_close(case, golden_results(family, case), torch_results(case), "float64")

        @every
        def test_state_dict_round_trip(self, case: Case) -> None:
            module, fresh = case.module(), case.module()
            state = weights.state_dict(module)
            weights.load_state_dict(fresh, {k: v + 1 for k, v in state.items()})
            weights.load_state_dict(fresh, state)
            after = weights.state_dict(fresh)
            assert list(after) == list(state)
            assert all(np.array_equal(after[k], state[k]) for k in state)

        @pytest.mark.torch
        @every
        def test_state_dict_is_torchs(self, case: Case) -> None:
            state = weights.state_dict(case.module())
            theirs = {k: tuple(v.shape) for k, v in case.torch_module().state_dict().items()}
            assert {k: v.shape for k, v in state.items()} == theirs
            assert list(state) == list(theirs)

        @pytest.mark.torch
        @every
        def test_printed(self, case: Case) -> None:
            assert repr(case.module()) == repr(case.torch_module())

    return TestTable
