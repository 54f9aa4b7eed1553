"""The table of `tensors`: PyTorch's expression, JAX's, and the result of each."""

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class Line:
    """One operation, in PyTorch and in JAX.

    Attributes:
        what: The name of the operation.
        torch: PyTorch's expression.
        jax: JAX's expression.
        result: The result, as lists and numbers; arrays are compared by their values.
        differs: The difference that a PyTorch user has to know, if there is one.
        ours: JAX's result where it is another one; None where both have `result`.
    """

    what: str
    torch: str
    jax: str
    result: Any
    differs: str = ""
    ours: Any = None

    @property
    def jax_result(self) -> Any:
        """The result that JAX's expression has to give."""
        return self.result if self.ours is None else self.ours


NAN = float("nan")
# The values of the names that the expressions of both columns use.
START = {
    "points": [[4.0, 1.0], [5.0, 3.0], [2.0, 1.0]],
    "a": [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]],
    "b": [[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]],
    "labels": [2, 0],
}

START_TEXT = [
    "In both columns: " + "; ".join(f"`{name}` is {value}" for name, value in START.items()) + ".",
    "`fails` says whether a line raises an error, `same` whether two arrays begin at one address, "
    "`sees` whether an array of 1,000,000 zeros changes with its NumPy source, `double` runs a "
    "line under jax.enable_x64(True), `primitives` lists the operations of a function's jaxpr. "
    "These and `traced`, `stepped` and `shown` stand in experiments/tensors.py; their "
    "counterparts for PyTorch, and `put`, `changed`, `grad_fn`, `deterministic` and "
    "`backward_twice`, in tests/experiments/test_tensors.py.",
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
    Line("bytes of float32 and of float64", "[points.nbytes, points.double().nbytes]",
         "[points.nbytes, double('points.astype(float).nbytes')]", [24, 48],
         "half the memory, and half the bytes to move; the run prints the times of both"),
    Line("their precision", "[torch.finfo(kind).eps for kind in (torch.float32, torch.float64)]",
         "[float(jnp.finfo(kind).eps) for kind in (jnp.float32, jnp.float64)]",
         [2.0**-23, 2.0**-52]),
    Line("the first whole number that is lost",
         "[(torch.tensor(2.0**24, dtype=kind) + 1).item() for kind in (torch.float, torch.double)]",
         "[(jnp.float32(2.0**24) + 1).item(), double('(jnp.float64(2.0**24) + 1).item()')]",
         [16777216.0, 16777217.0]),
    Line("set_printoptions", "shown(edgeitems=2, linewidth=75)", "shown(edgeitems=2, linewidth=75)",
         [0.0, 1.0, 1998.0, 1999.0],
         "the numbers that are printed of 0 to 1999; jnp.set_printoptions is NumPy's, and "
         "jnp.printoptions lasts for a `with` only"),
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
    Line("writing through a view",
         "(lambda t: [t.view(3, 2).fill_(9.0), t[0, 0].item()][1])(a.clone())",
         "(lambda t: [t.reshape(3, 2).at[:].set(9.0), t[0, 0].item()][1])(a)", 9.0,
         "the view and the old tensor are one memory in torch; a JAX array never changes", 1.0),
    Line("view of a transpose", "fails('points.t().view(6)')", "fails('points.T.reshape(6)')", True,
         "torch's view works on contiguous tensors only and says: use reshape", False),
    Line("reshape of a transpose", "points.t().reshape(6)", "points.T.reshape(6)",
         [4.0, 5.0, 2.0, 1.0, 3.0, 1.0]),
    Line("reshape: the same memory or a copy", "[same(a, a.reshape(6)), same(a, a.t().reshape(6))]",
         "[same(a, a.reshape(6)), same(a, a.T.reshape(6))]", [True, False],
         "torch copies what is not contiguous; JAX makes a new array for every operation outside "
         "jit, and inside jit its compiler removes copies", [False, False]),
    Line("view with another count", "fails('a.view(4, 2)')", "fails('a.reshape(4, 2)')", True,
         "RuntimeError in torch, TypeError in JAX"),
    Line("reshape, one side worked out", "a.reshape(-1, 2)", "a.reshape(-1, 2)",
         [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]),
    Line("resize_ to fewer", "a.clone().resize_(2, 2)", "a.ravel()[:4].reshape(2, 2)",
         [[1.0, 2.0], [3.0, 4.0]],
         "torch's drops elements, or shows unset memory when it grows; here one says which"),
    Line("resize_ to more", "deterministic('a.clone().resize_(3, 3)')", "jnp.resize(a, (3, 3))",
         [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0], [NAN, NAN, NAN]],
         "torch shows unset memory, filled with nan here by torch.use_deterministic_algorithms; "
         "jnp.resize repeats the array", [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0], [1.0, 2.0, 3.0]]),
    Line("more rows that are set", "torch.nn.functional.pad(a, (0, 0, 0, 1), value=7.0)",
         "jnp.pad(a, ((0, 1), (0, 0)), constant_values=7.0)",
         [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0], [7.0, 7.0, 7.0]], "the widths of the first axis first"),
    Line("empty", "deterministic('torch.empty(3)')", "jnp.empty(3)", [NAN, NAN, NAN],
         "unset memory in torch, zeros in JAX", [0.0, 0.0, 0.0]),
    Line("unsqueeze", "list(points.unsqueeze(1).shape)", "list(jnp.expand_dims(points, 1).shape)",
         [3, 1, 2]),
    Line("one-hot by scatter_", "torch.zeros(2, 3).scatter_(1, labels.unsqueeze(1), 1.0)",
         "jnp.zeros((2, 3)).at[jnp.arange(2), labels].set(1.0)", [[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]],
         "a new array; jax.nn.one_hot(labels, 3) is shorter"),
    Line("stack", "torch.stack([points[:, 0], points[:, 1]])",
         "jnp.stack([points[:, 0], points[:, 1]])", [[4.0, 5.0, 2.0], [1.0, 3.0, 1.0]]),
    Line("stack on another axis", "list(torch.stack([torch.ones(3, 32, 32)] * 5, dim=3).shape)",
         "list(jnp.stack([jnp.ones((3, 32, 32))] * 5, axis=3).shape)", [3, 32, 32, 5]),
    Line("view(3, -1) of that", "list(torch.ones(3, 32, 32, 5).view(3, -1).shape)",
         "list(jnp.ones((3, 32, 32, 5)).reshape(3, -1).shape)", [3, 5120]),
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
    Line("max with its index", "[part.tolist() for part in torch.max(a, dim=1)]",
         "[a.max(axis=1).tolist(), a.argmax(axis=1).tolist()]", [[3.0, 6.0], [2, 2]],
         "one call in torch, two in JAX, which jit makes one"),
    Line("sum of products and matrix product",
         "[torch.sum(a[0] * b[:, 0]).item(), torch.mm(a[:1], b[:, :1]).item()]",
         "[jnp.sum(a[0] * b[:, 0]).item(), (a[:1] @ b[:, :1]).item()]", [4.0, 4.0],
         "one result; the run prints the times of both"),
    Line("mm", "torch.mm(a, b)", "a @ b", [[4.0, 5.0], [10.0, 11.0]],
         "no mm: it is matmul without broadcasting"),
    Line("matmul broadcasts", "list(torch.matmul(torch.ones(5, 2, 3), b).shape)",
         "list(jnp.matmul(jnp.ones((5, 2, 3)), b).shape)", [5, 2, 2]),
    Line("mm takes matrices only", "fails('torch.mm(torch.ones(5, 2, 3), b)')",
         "fails('jnp.einsum(\"ij,jk\", jnp.ones((5, 2, 3)), b)')", True,
         "einsum names the axes, and refuses others"),
    Line("shapes that do not fit", "fails('torch.mm(a, a)')", "fails('a @ a')", True,
         "RuntimeError in torch, TypeError in JAX"),
    Line("from numpy, copied or shared", "[sees(torch.tensor), sees(torch.from_numpy)]",
         "[sees(jnp.array), sees(jax.device_put)]", [False, True],
         "jnp.array copies; of a large array the copy may go on after the call, so write into the "
         "source only after jax.block_until_ready. On a CPU jax.device_put and jnp.from_dlpack "
         "share an array that begins at a multiple of 64 bytes, for as long as both live"),
    Line("to numpy, shared or copied",
         "(lambda t: [same(t, t.numpy()), same(t, t.numpy().copy())])(torch.ones(1000000))",
         "(lambda t: [same(t, np.asarray(t)), same(t, np.array(t))])(jnp.ones(1000000))",
         [True, False]),
    Line("writing to that", "changed(points.clone())",
         "fails('np.asarray(points).__setitem__(0, 9.0)')", True,
         "of the shared one: torch's tensor changes with it; JAX's cannot be written to"),
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
    Line("requires_grad=True when it is made",
         "(lambda w, b: [(w * b).backward(), w.grad, b.grad][1:])"
         "(torch.tensor(2.0, requires_grad=True), torch.tensor(3.0))",
         "[*jax.grad(lambda w, b: w * b, argnums=(0,))(2.0, 3.0), None]", [3.0, None],
         "argnums says by which arguments; the default is the first"),
    Line("requires_grad_(True) later",
         "(lambda w, b: [(w * b.requires_grad_(True)).backward(), w.grad, b.grad][1:])"
         "(torch.tensor(2.0, requires_grad=True), torch.tensor(3.0))",
         "[*jax.grad(lambda w, b: w * b, argnums=(0, 1))(2.0, 3.0)]", [3.0, 2.0],
         "asked anew at each jax.grad: nothing is stored with the array"),
    Line("a layer's weight that is not trained", "stepped('weight')", "stepped('weight')",
         {"weight": False, "bias": True},
         "which parameters a step changes after layer.weight.requires_grad_(False); here "
         "optim.groups([('weight', optim.frozen())], optim.SGD(0.1))"),
    Line("no_grad", "[(points.requires_grad_() * 2).requires_grad, "
         "torch.no_grad()(lambda: (points * 2).requires_grad)()]",
         "[traced(lambda x: x * 2, inside=True), traced(lambda x: x * 2, inside=False)]",
         [True, False],
         "operations are followed inside jax.grad only: outside there is nothing to turn off"),
    Line("grad_fn=<AddBackward0>", "grad_fn(a + b.t())", "primitives(jnp.add, a, b.T)",
         "AddBackward0", "torch keeps the graph with the result; jax.make_jaxpr shows a "
         "function's, and `autograd` draws one", ["add"]),
    Line("grad_fn=<DivBackward0>", "grad_fn(-2 * a / 3)", "primitives(lambda a: -2 * a / 3, a)",
         "DivBackward0", "the last operation only in torch", ["mul", "div"]),
    Line("grad_fn=<AddmmBackward0>", "grad_fn(torch.nn.functional.linear(a, b.t(), torch.ones(2)))",
         "primitives(nn.functional.linear, a, b.T, jnp.ones(2))", "AddmmBackward0",
         "x W^T + b", ["transpose", "dot_general", "broadcast_in_dim", "add"]),
    Line("grad_fn=<MseLossBackward0>", "grad_fn(torch.nn.MSELoss()(a, b.t()))",
         "primitives(losses.mse_loss, a, b.T)", "MseLossBackward0", "",
         ["sub", "square", "reduce_sum", "div"]),
    Line("grad_fn=<NllLossBackward0>", "grad_fn(torch.nn.NLLLoss()(a, labels))",
         "primitives(losses.nll_loss, a, labels)[-3:]", "NllLossBackward0",
         "the last three: sum of the losses, number of rows, their quotient",
         ["reduce_sum", "reduce_sum", "div"]),
    Line("detach", "torch.autograd.functional.jacobian(lambda x: (x * x.detach()).sum(), a)",
         "jax.grad(lambda x: (x * jax.lax.stop_gradient(x)).sum())(a)", START["a"]),
    Line("backward twice", "backward_twice(lambda x: (x * x).sum(), a)",
         "2 * jax.grad(lambda x: (x * x).sum())(a)", [[4.0, 8.0, 12.0], [16.0, 20.0, 24.0]],
         "torch adds to x.grad until it is cleared; jax.grad returns, and adding is up to you"),
    Line("to a device, and work there",
         "all((points.to(d) * 2).device.type == d for d in ['cpu'] + "
         "['cuda'] * torch.cuda.is_available())",
         "all((jax.device_put(points, d) * 2).devices() == {d} for d in "
         "[jax.devices()[0], jax.devices('cpu')[0]])", True,
         "JAX puts arrays on a GPU by itself, if there is one"),
)  # fmt: skip
