"""Tensor operations, PyTorch's line beside JAX's, each run and compared with its result.

The operations of two documents, the notes on "Deep Learning with PyTorch" and the lesson on
PyTorch as a tool (1 and 2 in docs/pages/book.md): creation, dtype, indexing, transposing,
reshaping, scattering, joining, comparing, multiplying, sharing memory, changing in
place, turning gradients off. Each row is run here in JAX; the test suite runs PyTorch's line
and compares it with the same result.

    python -m experiments tensors

Result: every line gives its result. JAX differs in that arrays do not change (`.at[]`
gives a new array), that float64 has to be switched on, and that strides are not visible.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.harness.record import Run
from experiments.harness.settings import Settings
from experiments.harness.tables import save_table, show
from jaxnet.random import Generator

DATA = ()


@dataclasses.dataclass(frozen=True)
class Config(Settings):
    """Settings of tensors."""


@dataclasses.dataclass(frozen=True)
class Line:
    """One operation, in PyTorch and in JAX.

    Attributes:
        what: The name of the operation.
        torch: PyTorch's expression.
        jax: JAX's expression.
        result: The result of both, as lists and numbers; arrays are compared by their values.
        differs: The difference that a PyTorch user has to know, if there is one.
    """

    what: str
    torch: str
    jax: str
    result: Any
    differs: str = ""


# The values of the names that the expressions of both columns use.
START = {
    "points": [[4.0, 1.0], [5.0, 3.0], [2.0, 1.0]],
    "a": [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]],
    "b": [[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]],
    "labels": [2, 0],
}

START_TEXT = [
    "In both columns: " + "; ".join(f"`{name}` is {value}" for name, value in START.items()) + ".",
    "`fails` says whether a line raises an error, `double` runs it under jax.enable_x64(True); "
    "`shared`, `changed`, `put` and `backward_twice` stand in tests/experiments/test_tensors.py.",
]
LINES = (
    Line("ones", "torch.ones(3)", "jnp.ones(3)", [1.0, 1.0, 1.0]),
    Line("zeros", "torch.zeros(2, 2)", "jnp.zeros((2, 2))", [[0.0, 0.0]] * 2,
         "the shape is one tuple"),
    Line("from a list", "torch.tensor([[4.0, 1.0]])", "jnp.array([[4.0, 1.0]])", [[4.0, 1.0]]),
    Line("size", "list(points.shape)", "list(points.shape)", [3, 2]),
    Line("random, after manual_seed(1)", "torch.randn(2).round(decimals=4)",
         "Generator(1).randn(2).round(4)", [0.6614, 0.2669],
         "a generator is an object, and jaxnet's draws torch's numbers; jax.random takes keys"),
    Line("like another", "list(torch.randn_like(points).shape)",
         "list(jax.random.normal(jax.random.key(0), points.shape).shape)", [3, 2]),
    Line("one element", "points[0, 1]", "points[0, 1]", 1.0),
    Line("rows from 1 on", "points[1:, :]", "points[1:, :]", [[5.0, 3.0], [2.0, 1.0]]),
    Line("beyond the end", "points[1:9]", "points[1:9]", [[5.0, 3.0], [2.0, 1.0]],
         "a slice stops at the end in both; points[9] is an error in torch, the last row in JAX"),
    Line("float32 by default", "str(points.dtype).split('.')[-1]", "str(points.dtype)", "float32"),
    Line("float64", "str(torch.ones(2, dtype=torch.double).dtype).split('.')[-1]",
         "double('str(jnp.ones(2, dtype=jnp.float64).dtype)')", "float64",
         "needs jax.enable_x64(True); without it JAX gives float32 and a warning"),
    Line("to integers", "points.long()", "points.astype(int)", [[4, 1], [5, 3], [2, 1]],
         "32 bits wide unless x64 is on"),
    Line("transpose", "points.t()", "points.T", [[4.0, 5.0, 2.0], [1.0, 3.0, 1.0]]),
    Line("swap two axes", "list(torch.ones(3, 4, 5).transpose(0, 2).shape)",
         "list(jnp.ones((3, 4, 5)).swapaxes(0, 2).shape)", [5, 4, 3],
         "jnp's transpose takes all axes, as torch's permute does"),
    Line("permute", "list(torch.ones(4, 5, 3).permute(2, 0, 1).shape)",
         "list(jnp.ones((4, 5, 3)).transpose(2, 0, 1).shape)", [3, 4, 5]),
    Line("contiguous", "points.t().contiguous()", "points.T", [[4.0, 5.0, 2.0], [1.0, 3.0, 1.0]],
         "no strides: nothing to make contiguous"),
    Line("is_contiguous", "[points.is_contiguous(), points.t().is_contiguous()]",
         "[np.asarray(points).flags.c_contiguous, np.asarray(points).T.flags.c_contiguous]",
         [True, False], "of NumPy's view: a JAX array does not show how it lies in memory"),
    Line("view", "a.view(3, 2)", "a.reshape(3, 2)", [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]],
         "torch's view shares memory; reshape is JAX's only one, and the compiler decides"),
    Line("view with another count", "fails('a.view(4, 2)')", "fails('a.reshape(4, 2)')", True,
         "RuntimeError in torch, TypeError in JAX"),
    Line("reshape, one side worked out", "a.reshape(-1, 2)", "a.reshape(-1, 2)",
         [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]),
    Line("resize_ to fewer", "a.clone().resize_(2, 2)", "a.ravel()[:4].reshape(2, 2)",
         [[1.0, 2.0], [3.0, 4.0]],
         "torch's drops elements, or shows unset memory when it grows; here one says which"),
    Line("unsqueeze", "list(points.unsqueeze(1).shape)", "list(jnp.expand_dims(points, 1).shape)",
         [3, 1, 2]),
    Line("one-hot by scatter_", "torch.zeros(2, 3).scatter_(1, labels.unsqueeze(1), 1.0)",
         "jnp.zeros((2, 3)).at[jnp.arange(2), labels].set(1.0)", [[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]],
         "a new array; jax.nn.one_hot(labels, 3) is shorter"),
    Line("stack", "torch.stack([points[:, 0], points[:, 1]])",
         "jnp.stack([points[:, 0], points[:, 1]])", [[4.0, 5.0, 2.0], [1.0, 3.0, 1.0]]),
    Line("cat", "torch.cat((a, a), dim=0)", "jnp.concatenate((a, a), axis=0)",
         [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]] * 2),
    Line("lt", "torch.lt(a, 3.5)", "jnp.less(a, 3.5)", [[True] * 3, [False] * 3], "or a < 3.5"),
    Line("pick by a mask", "a[a > 4]", "a[a > 4]", [5.0, 6.0],
         "not inside jit, where the size must be known: jnp.where(a > 4, a, 0)"),
    Line("sum", "a.sum(dim=0)", "a.sum(axis=0)", [5.0, 7.0, 9.0]),
    Line("sum to a number", "torch.sum(a).item()", "a.sum().item()", 21.0),
    Line("mean", "torch.mean(a, dim=0)", "a.mean(axis=0)", [2.5, 3.5, 4.5]),
    Line("variance", "torch.var(a, dim=0)", "a.var(axis=0, ddof=1)", [4.5, 4.5, 4.5],
         "torch divides by n - 1; jnp by n unless ddof=1"),
    Line("mm", "torch.mm(a, b)", "a @ b", [[4.0, 5.0], [10.0, 11.0]],
         "no mm: it is matmul without broadcasting"),
    Line("matmul broadcasts", "list(torch.matmul(torch.ones(5, 2, 3), b).shape)",
         "list(jnp.matmul(jnp.ones((5, 2, 3)), b).shape)", [5, 2, 2]),
    Line("mm takes matrices only", "fails('torch.mm(torch.ones(5, 2, 3), b)')",
         "fails('jnp.einsum(\"ij,jk\", jnp.ones((5, 2, 3)), b)')", True,
         "einsum names the axes, and refuses others"),
    Line("shapes that do not fit", "fails('torch.mm(a, a)')", "fails('a @ a')", True,
         "RuntimeError in torch, TypeError in JAX"),
    Line("from numpy, shared", "shared()", "shared()", {"torch": True, "jax": False},
         "torch.from_numpy sees later changes of the numpy array; jnp.array copies"),
    Line("to numpy", "points.numpy().tolist()", "np.asarray(points).tolist()", START["points"],
         "on a CPU neither copies"),
    Line("writing to that", "changed(points.clone())",
         "fails('np.asarray(points).__setitem__(0, 9.0)')", True,
         "torch's tensor changes with it; JAX's cannot be written to"),
    Line("float64 from numpy", "str(torch.from_numpy(np.ones(2)).dtype).split('.')[-1]",
         "double('str(jnp.asarray(np.ones(2)).dtype)')", "float64",
         "without jax.enable_x64(True) JAX makes it float32"),
    Line("add in place", "a.clone().add_(1)", "a + 1", [[2.0, 3.0, 4.0], [5.0, 6.0, 7.0]],
         "arrays do not change: bind the result"),
    Line("set an element", "put(points.clone())", "points.at[0, 1].set(9.0)",
         [[4.0, 9.0], [5.0, 3.0], [2.0, 1.0]], "points[0, 1] = 9 is an error in JAX"),
    Line("the original stays", "points", "points", START["points"]),
    Line("a random order, after manual_seed(1)", "torch.randperm(11)", "Generator(1).randperm(11)",
         [0, 10, 2, 3, 7, 6, 4, 8, 1, 9, 5],
         "the document splits its rows by [:-n_val] and [-n_val:] of it"),
    Line("probabilities of random scores", "torch.rand(2, 3).softmax(1).round(decimals=4)",
         "jax.nn.softmax(Generator(1).rand(2, 3), axis=1).round(4)",
         [[0.4308, 0.2670, 0.3022], [0.3904, 0.1928, 0.4167]]),
    Line("share of right answers", "(a.softmax(1).argmax(1) == labels).float().mean().item()",
         "(jax.nn.softmax(a, axis=1).argmax(axis=1) == labels).mean().item()", 0.5),
    Line("no_grad", "torch.no_grad()(lambda: (points.requires_grad_() * 2).requires_grad)()",
         "hasattr(points * 2, 'requires_grad')", False,
         "nothing is recorded until jax.grad asks: there is nothing to turn off"),
    Line("grad_fn", "type((a.requires_grad_() + b.T).grad_fn).__name__[:3].lower()",
         "jax.make_jaxpr(jnp.add)(a, b.T).eqns[0].primitive.name", "add",
         "torch keeps the graph with the result; jax.make_jaxpr shows a function's"),
    Line("detach", "torch.autograd.functional.jacobian(lambda x: (x * x.detach()).sum(), a)",
         "jax.grad(lambda x: (x * jax.lax.stop_gradient(x)).sum())(a)", START["a"]),
    Line("backward twice", "backward_twice(lambda x: (x * x).sum(), a)",
         "2 * jax.grad(lambda x: (x * x).sum())(a)", [[4.0, 8.0, 12.0], [16.0, 20.0, 24.0]],
         "torch adds to x.grad until it is cleared; jax.grad returns, and adding is up to you"),
    Line("to a device", "points.to('cpu').device.type",
         "jax.device_put(points, jax.devices('cpu')[0]).device.platform", "cpu",
         "JAX puts arrays on a GPU by itself, if there is one"),
)  # fmt: skip


def evaluate(expression: str) -> Any:
    """The value of a JAX expression of the table, as lists and numbers."""
    names: dict[str, Any] = {
        "jax": jax, "jnp": jnp, "np": np, "Generator": Generator,
        "fails": lambda line: _fails(line, names), "double": lambda line: _double(line, names),
        "shared": lambda: {"torch": True, "jax": _shares()},
        **{name: jnp.asarray(value) for name, value in START.items()},
    }  # fmt: skip
    value = eval(expression, dict(names))  # the table's own text
    return value.tolist() if isinstance(value, (jax.Array, np.ndarray)) else value


def _fails(line: str, names: dict) -> bool:
    try:
        eval(line, dict(names))
    except (TypeError, ValueError):
        return True
    return False


def _double(line: str, names: dict) -> Any:
    with jax.enable_x64(True):
        return eval(line, dict(names))


def _shares() -> bool:
    source = np.zeros(3, np.float32)
    array = jnp.array(source)
    source[0] = 1
    return bool(array[0] == 1)


def main(config: Config, run: Run) -> None:
    """Runs the table."""
    record = []
    with jax.default_device(jax.devices("cpu")[0]):
        for line in LINES:
            got = evaluate(line.jax)
            ok = got == line.result or (
                isinstance(got, list)
                and np.shape(got) == np.shape(line.result)
                and np.allclose(got, line.result, rtol=1e-6)
            )
            record.append(dataclasses.asdict(line) | {"got": got, "verdict": "ok" if ok else "OFF"})
    header = ("operation", "PyTorch", "JAX", "result", "what differs")
    show(("operation", "PyTorch", "JAX"), [(line.what, line.torch, line.jax) for line in LINES])
    off = [row for row in record if row["verdict"] == "OFF"]
    if off:
        show(("operation", "result", "got"), [(r["what"], r["result"], r["got"]) for r in off],
             title="These are OFF:")  # fmt: skip
    print(f"{len(LINES) - len(off)} of {len(LINES)} lines give their result")
    same = sum(not line.differs for line in LINES)
    run.result = f"{same} of {len(LINES)} lines have nothing to learn anew"
    print(f"{run.result}; what differs in the others stands in result.md")
    run.metrics["lines"] = record
    cells = [
        [row["what"], f"`{row['torch']}`", f"`{row['jax']}`", row["got"], row["differs"]]
        for row in record
    ]
    save_table(run, "tensors", header, cells, START_TEXT)
