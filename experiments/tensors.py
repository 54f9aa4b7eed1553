"""Tensor operations, PyTorch's line beside JAX's, each run and compared with its result.

The operations of two documents, the notes on "Deep Learning with PyTorch" and the lesson on
PyTorch as a tool (1 and 2 in docs/pages/book.md): creation, dtype, indexing, transposing,
reshaping, scattering, joining, comparing, multiplying, sharing memory, changing in
place, choosing what is differentiated. The table is experiments/tensor_lines.py. Each row is
run here in JAX; the test suite runs PyTorch's line and compares it with its result.

    python -m experiments tensors

Result: every line gives its result. JAX differs in that arrays do not change (`.at[]`
gives a new array), that float64 has to be switched on, and that strides are not visible.
"""

import dataclasses
import re
import timeit
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.harness.record import Run
from experiments.harness.settings import Settings
from experiments.harness.tables import save_table, show
from experiments.tensor_lines import LINES, START, START_TEXT
from jaxnet import losses, nn, optim, train
from jaxnet.random import Generator

DATA = ()


@dataclasses.dataclass(frozen=True)
class Config(Settings):
    """Settings of tensors."""


def evaluate(expression: str) -> Any:
    """The value of a JAX expression of the table, as lists and numbers."""
    names: dict[str, Any] = {
        "jax": jax, "jnp": jnp, "np": np, "nn": nn, "losses": losses, "Generator": Generator,
        "fails": lambda line: _fails(line, names), "double": lambda line: _double(line, names),
        "same": same, "sees": sees, "shown": shown, "traced": traced, "stepped": stepped,
        "primitives": primitives, **{name: jnp.asarray(value) for name, value in START.items()},
    }  # fmt: skip
    value = eval(expression, dict(names))  # the table's own text
    return jax.tree.map(
        lambda x: x.tolist() if isinstance(x, (jax.Array, np.ndarray)) else x, value
    )


def _fails(line: str, names: dict) -> bool:
    try:
        eval(line, dict(names))
    except (TypeError, ValueError):
        return True
    return False


def _double(line: str, names: dict) -> Any:
    with jax.enable_x64(True):
        return eval(line, dict(names))


def same(*arrays: Any) -> bool:
    """Whether arrays of JAX or NumPy begin at the same address of the memory."""

    def address(array: Any) -> int:
        if isinstance(array, np.ndarray):
            return array.ctypes.data
        return jax.block_until_ready(array).unsafe_buffer_pointer()

    return len({address(array) for array in arrays}) == 1


def sees(make: Callable[[np.ndarray], Any], count: int = 1_000_000) -> bool:
    """Whether an array that is made of a NumPy array changes when that one is written to.

    Args:
        make: The function that makes the array.
        count: The number of elements.
    """
    # JAX shares only memory that begins at a multiple of 64 bytes, so that is what it is given.
    raw = np.zeros(4 * count + 64, np.uint8)
    first = -raw.ctypes.data % 64
    source = raw[first : first + 4 * count].view(np.float32)
    array = jax.block_until_ready(make(source))
    source[:] = 1
    return bool((np.asarray(array) == 1).any())


def shown(**options: Any) -> list[float]:
    """The numbers in the text of 0 to 1999 with some of `set_printoptions`' options."""
    with jnp.printoptions(**options):
        text = str(jnp.arange(2000.0))
    return [float(number) for number in re.findall(r"\d+\.?\d*(?:e[+-]?\d+)?", text)]


def traced(function: Callable[[Any], Any], *, inside: bool) -> bool:
    """Whether JAX follows the operations of a function, inside or outside of `jax.grad`."""
    seen = []

    def loss(x: Any) -> Any:
        y = function(x)
        seen.append(isinstance(y, jax.core.Tracer))
        return y.sum()

    (jax.grad(loss) if inside else loss)(jnp.ones(3))
    return seen[0]


def stepped(frozen: str) -> dict[str, bool]:
    """Which parameters of a linear layer a step changes if those of one name are frozen."""
    optimizer = optim.groups([(frozen, optim.frozen())], optim.SGD(lr=0.1))
    state = train.create(nn.Linear(3, 2, rngs=Generator(0)), optimizer)
    step = train.make_train_step(train.supervised(losses.mse_loss), optimizer)
    after, _ = step(state, (jnp.ones((4, 3)), jnp.ones((4, 2))))
    return {name: bool((after.params[name] != old).any()) for name, old in state.params.items()}


def primitives(function: Callable[..., Any], *arguments: Any) -> list[str]:
    """The names of the operations of a function, from its jaxpr."""
    return [each.primitive.name for each in jax.make_jaxpr(function)(*arguments).eqns]


def agrees(got: Any, wanted: Any) -> bool:
    """Whether a result is the wanted one, numbers to 1e-6 of their size."""
    if got == wanted:
        return True
    try:
        numbers = np.asarray(got, np.float64), np.asarray(wanted, np.float64)
    except (TypeError, ValueError):
        return False
    if numbers[0].shape != numbers[1].shape or isinstance(wanted, (bool, str, dict)):
        return False
    return np.allclose(*numbers, rtol=1e-6, equal_nan=True)


def timings() -> dict[str, float]:
    """The milliseconds of what the documents say is faster, the best of 5 calls each."""
    x, w = Generator(0).randn(1000, 1000), Generator(1).randn(1000)
    matrix = jax.jit(lambda x, y: x @ y)
    products = jax.jit(lambda x, w: (x * w[None]).sum(axis=1))

    def best(function: Callable[..., Any], *arguments: Any) -> float:
        def call() -> Any:
            return jax.block_until_ready(function(*arguments))

        call()  # compiles
        return 1e3 * min(timeit.repeat(call, number=1, repeat=5))

    found = {
        "sum of products, 1000 rows of 1000": best(products, x, w),
        "matrix product, the same numbers": best(matrix, x, w),
        "matrix product of 1000 x 1000, float32": best(matrix, x, x),
    }
    with jax.enable_x64(True):
        wide = jnp.asarray(x, jnp.float64)
        found["matrix product of 1000 x 1000, float64"] = best(matrix, wide, wide)
    return found


def main(config: Config, run: Run) -> None:
    """Runs the table."""
    record = []
    with jax.default_device(jax.devices("cpu")[0]):
        for line in LINES:
            got = evaluate(line.jax)
            verdict = "ok" if agrees(got, line.jax_result) else "OFF"
            record.append(dataclasses.asdict(line) | {"got": got, "verdict": verdict})
        times = timings()
    show(("operation", "PyTorch", "JAX"), [(line.what, line.torch, line.jax) for line in LINES])
    show(("what takes how long (not judged)", "ms"), [(k, f"{v:.3f}") for k, v in times.items()])
    off = [row for row in record if row["verdict"] == "OFF"]
    if off:
        show(("operation", "result", "got"), [(r["what"], r["result"], r["got"]) for r in off],
             title="These are OFF:")  # fmt: skip
    print(f"{len(LINES) - len(off)} of {len(LINES)} lines give their result")
    same = sum(not line.differs for line in LINES)
    run.result = f"{same} of {len(LINES)} lines have nothing to learn anew"
    print(f"{run.result}; what differs in the others stands in result.md")
    run.metrics |= {"lines": record, "milliseconds": times}
    header = ("operation", "PyTorch", "JAX", "result", "what differs")
    cells = [
        [row["what"], f"`{row['torch']}`", f"`{row['jax']}`", _both(row), row["differs"]]
        for row in record
    ]
    save_table(run, "tensors", header, cells, START_TEXT)


def _both(row: dict[str, Any]) -> str:
    """The result in words, PyTorch's and JAX's if they differ."""
    return str(row["got"]) if row["ours"] is None else f"{row['result']}; JAX: {row['got']}"
