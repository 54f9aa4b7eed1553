"""jaxnet/ops/: every row of tests/rows/ops.py against torch, compiled, with gradients."""

import warnings
import zlib
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnet import ops
from tests.rows.ops import EAGER, INPUTS, ROWS
from tests.table import MAKERS, golden_arrays
from tests.tolerances import distance, tolerance

NARROW = {"float64": "float32", "int64": "int32", "complex128": "complex64"}


class Torch:
    """torch, with the methods of tensors as functions."""

    def __getattr__(self, name: str) -> Any:
        import torch

        if hasattr(torch, name) and name not in ("float", "half", "bfloat16", "int", "short",
                                                 "int8", "bool"):  # fmt: skip
            return getattr(torch, name)
        if name == "int8":
            return lambda x: x.to(torch.int8)
        if name in ("size", "view") or not isinstance(getattr(torch, name, None), torch.dtype):
            return lambda x, *args, **kwargs: getattr(x, name)(*args, **kwargs)
        return Cast(name)


class Cast:
    """A dtype of torch that casts when it is called, as ours do."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, x: Any) -> Any:
        return getattr(x, self.name)()


def leaves(result: Any) -> list[Any]:
    return list(result) if isinstance(result, tuple | list) else [result]


def cotangent(row: str, i: int, shape: tuple[int, ...]) -> np.ndarray:
    rng = np.random.RandomState((zlib.crc32(row.encode()) + i) % 2**32)
    return rng.standard_normal(shape).astype(np.float32).astype(np.float64)


def torch_results(row: str) -> dict[str, np.ndarray]:
    """What torch gives for float64 inputs, and the gradients of what is differentiable."""
    import torch

    inputs = {n: torch.tensor(v, requires_grad=v.dtype.kind == "f") for n, v in INPUTS.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of forms that torch means to change
        outputs = [torch.as_tensor(x) for x in leaves(eval(row, {"t": Torch(), **inputs}))]
    found = {}
    for i, out in enumerate(outputs):
        half = out.dtype in (torch.float16, torch.bfloat16)
        found[f"out.{i}"] = (out.float() if half else out).detach().numpy()
        found[f"dtype.{i}"] = np.array(str(out.dtype).removeprefix("torch."))
    total = sum(
        (out * torch.tensor(cotangent(row, i, tuple(out.shape)), dtype=out.dtype)).sum()
        for i, out in enumerate(outputs)
        if out.requires_grad and out.dtype in (torch.float32, torch.float64)
    )
    if isinstance(total, torch.Tensor):
        try:
            total.backward()
        except (RuntimeError, NotImplementedError) as error:
            # Of a few functions torch has no gradient.
            if "derivative" not in str(error):
                raise
            return found
    for name, value in inputs.items():
        if value.grad is not None:
            found[f"d_{name}"] = value.grad.numpy()
    return found


def make_golden() -> dict[str, np.ndarray]:
    """All results in one array, with a line for each that says where it belongs."""
    rows = [row for group in ROWS.values() for row in group] + EAGER
    assert len(set(rows)) == len(rows), "a row occurs twice"
    lines, values = [], []
    for row in rows:
        results = torch_results(row)
        for name, value in results.items():
            if name.startswith("dtype"):
                continue
            dtype = results.get(name.replace("out", "dtype"), np.array(value.dtype.name))
            shape = ",".join(map(str, value.shape))
            lines.append(f"{row}|{name}|{dtype}|{shape}")
            values.append(value.astype(np.float64).ravel())
    return {"index": np.array(lines), "values": np.concatenate(values)}


MAKERS["ops"] = make_golden


@cache
def golden() -> dict[str, dict[str, np.ndarray]]:
    """Row -> name of a result -> its numbers; under "dtype.0" stands that of "out.0"."""
    found: dict[str, dict[str, np.ndarray]] = {}
    values, start = golden_arrays("ops")["values"], 0
    for line in golden_arrays("ops")["index"].tolist():
        row, name, dtype, shape = line.rsplit("|", 3)
        sizes = tuple(int(n) for n in shape.split(",") if n)
        end = start + int(np.prod(sizes, dtype=int))
        results = found.setdefault(row, {})
        results[name] = values[start:end].reshape(sizes)
        if name.startswith("out"):
            results[name.replace("out", "dtype")] = np.array(dtype)
        start = end
    return found


def run(row: str, inputs: dict[str, jax.Array], gradients: bool) -> dict[str, jax.Array]:
    """The outputs of a row, and the gradients that the golden arrays have."""
    names = [n.removeprefix("d_") for n in golden()[row] if n.startswith("d_") and gradients]

    def total(moving: dict[str, jax.Array]) -> Any:
        outputs = [jnp.asarray(x) for x in leaves(eval(row, {"t": ops, **inputs, **moving}))]
        products = [
            (out * jnp.asarray(cotangent(row, i, out.shape), out.dtype)).sum()
            for i, out in enumerate(outputs)
            if out.dtype in (jnp.float32, jnp.float64)
        ]
        return sum(x.astype(jnp.float64) for x in products) if names else None, outputs

    moving = {name: inputs[name] for name in names}
    found, outputs = jax.grad(total, has_aux=True)(moving) if names else ({}, total({})[1])
    return {
        **{f"out.{i}": out for i, out in enumerate(outputs)},
        **{f"d_{name}": gradient for name, gradient in found.items()},
    }


def check(row: str, found: dict[str, Any], wide: bool) -> list[str]:
    """What is wrong with a row's results: other numbers, dtypes or shapes than torch's."""
    wrong = []
    expected = golden()[row]
    if {n for n in expected if n.startswith("out" if not wide else ("out", "d_"))} != set(found):
        return [f"{row}: results {sorted(found)}, torch has {sorted(expected)}"]
    for name, value in found.items():
        theirs = expected[name]
        if name.startswith("out"):
            dtype = str(expected[name.replace("out", "dtype")])
            dtype = dtype if wide else NARROW.get(dtype, dtype)
            if value.dtype.name != dtype:
                wrong.append(f"{row}: {name} is {value.dtype}, torch's is {dtype}")
        if value.shape != theirs.shape:
            wrong.append(f"{row}: {name} has shape {value.shape}, torch's {theirs.shape}")
            continue
        precise = "float64" if wide and value.dtype == np.float64 else "float32"
        if value.dtype in (np.float16, jnp.bfloat16):
            gap, allowed = float(np.abs(value.astype(np.float64) - theirs).max()), 0.02
        elif value.dtype.kind in "iub":
            gap, allowed = float((np.asarray(value) != theirs).sum()), 0
        else:
            kind = "gradient" if name.startswith("d_") else "forward"
            gap, allowed = distance(kind, value, theirs), tolerance(kind, precise)
        if not gap <= allowed:
            wrong.append(f"{row}: {name} is {gap:.1e} off, {value} for {theirs}")
    return wrong


def arrays(wide: bool) -> dict[str, jax.Array]:
    return {
        n: jnp.asarray(v, None if wide else NARROW.get(v.dtype.name)) for n, v in INPUTS.items()
    }


@pytest.mark.parametrize("wide", [False, True], ids=["float32", "float64 with gradients"])
@pytest.mark.parametrize("group", ROWS)
def test_compiled(group, wide):
    def every(inputs):
        return {row: run(row, inputs, gradients=wide) for row in ROWS[group]}

    with jax.enable_x64(wide):
        results = jax.device_get(jax.jit(every)(arrays(wide)))
    wrong = [line for row, found in results.items() for line in check(row, found, wide)]
    assert not wrong, "\n".join(wrong)


def test_eager_where_results_depend_on_values():
    inputs = arrays(False)
    for row in EAGER:
        found = [np.asarray(x) for x in leaves(eval(row, {"t": ops, **inputs}))]
        for i, value in enumerate(found):
            np.testing.assert_allclose(value, golden()[row][f"out.{i}"], 1e-6, err_msg=row)


@pytest.mark.torch
@pytest.mark.parametrize("group", ROWS)
def test_golden_arrays_are_torchs(group):
    for row in ROWS[group]:
        now = {n: v for n, v in torch_results(row).items() if not n.startswith("dtype")}
        then = {n: v for n, v in golden()[row].items() if not n.startswith("dtype")}
        assert sorted(now) == sorted(then)
        for name, value in now.items():
            assert distance("forward", value, then[name]) <= 1e-10, f"{row}: {name}"


def traced(function):
    """The call inside a compiled function, where values are not known."""
    return lambda: jax.jit(function)(jnp.asarray(INPUTS["x"], jnp.float32), jnp.arange(3))


X, K = jnp.asarray(INPUTS["x"], jnp.float32), jnp.asarray(INPUTS["k"], jnp.int32)
REFUSED = [
    (lambda: ops.add(X, 1, out=X), TypeError, r"add: out=ArrayImpl; .* x = ops.add"),
    (lambda: ops.zeros(2, device="cuda"), TypeError, r"device='cuda'; leave it out"),
    (lambda: ops.zeros(2, requires_grad=True), TypeError, r"jax.grad say"),
    (lambda: ops.sum(X, axis=1), TypeError, r"axis= is no argument; accepted are input, dim"),
    (lambda: ops.relu_, AttributeError, r"x = ops.relu\(x, ...\)"),
    (lambda: ops.masked_fill_, AttributeError, r"x = ops.masked_fill\(x, ...\)"),
    (lambda: ops.nonzero, AttributeError, r"jnp.nonzero\(x, size=n"),
    (lambda: ops.unique, AttributeError, r"jnp.unique\(x, size=n"),
    (lambda: ops.masked_select, AttributeError, r"jnp.where\(mask, x, 0\)"),
    (lambda: ops.as_strided, AttributeError, r"no strides.*ops.unfold"),
    (lambda: ops.gelu, AttributeError, r"write nn.functional.gelu"),
    (lambda: ops.manual_seed, AttributeError, r"Generator\(seed\)"),
    (lambda: ops.nothing, AttributeError, r"^module 'jaxnet.ops' has no attribute 'nothing'$"),
    (lambda: ops.where(X > 0), ValueError, r"jnp.nonzero\(condition, size=n"),
    (lambda: ops.mean(K), ValueError, r"mean: input is int32; accepted are floats"),
    (lambda: ops.std(K), ValueError, r"std: input is int32"),
    (lambda: ops.mm(X, K), ValueError, r"mm: input float32, mat2 int32; accepted is one dtype"),
    (lambda: ops.mm(X, X), ValueError, r"the inner axes, 3 and 2, have to be equal"),
    (lambda: ops.bmm(X, X), ValueError, r"bmm: input has shape \(2, 3\); accepted are 3 axes"),
    (lambda: ops.gather(X, 1, K), ValueError, r"index: -7 is out of range; .* 3 is 0 to 2"),
    (lambda: ops.gather(X, 1, X), TypeError, r"index: float32; accepted are integers"),
    (lambda: ops.index_select(X, 0, jnp.array([2])), ValueError, r"index: 2 is out of range"),
    (lambda: ops.index_add(X, 0, jnp.array([-1]), X[:1]), ValueError, r"-1 is out of range"),
    (lambda: ops.scatter(X, 1, K[:, :0], K), TypeError, r"src: int32; accepted is .*float32"),
    (lambda: ops.masked_fill(X, K, 0.0), TypeError, r"mask: int32; accepted are booleans"),
    (lambda: ops.masked_scatter(X, K, X), TypeError, r"mask: int32; accepted are booleans, such"),
    (lambda: ops.where(K, X, X), TypeError, r"condition: int32; accepted are booleans"),
    (lambda: ops.index_add(K, 0, jnp.array([0]), X[:1]), TypeError, r"source: float32; .*int32"),
    (lambda: ops.fft.fftshift(np.array([2**40, 1])), ValueError, r"does not fit"),
    (lambda: ops.masked_fill(ops.half(X), X > 0, -1e9), ValueError, r"not fit float16; .*finfo"),
    (lambda: ops.masked_fill(K, K > 0, 0.5), ValueError, r"value: 0.5 has no place among int32"),
    (lambda: ops.sub(X > 0, X > 0), TypeError, r"logical_xor"),
    (lambda: ops.remainder(K, 0), ZeroDivisionError, r"remainder: other holds a 0"),
    (lambda: ops.pow(K, -1), ValueError, r"exponent: -1 of integers"),
    (lambda: ops.sum(X, 2), ValueError, r"dim: 2; accepted for 2 axes is an integer from -2 to 1"),
    (lambda: ops.sum(X, (0, -2)), ValueError, r"dim: \(0, -2\) names an axis twice"),
    (lambda: ops.add(X, K[:1, :2]), ValueError, r"shapes \(2, 3\) and \(1, 2\) cannot be"),
    (lambda: ops.view(X, 4, -1), ValueError, r"shape: \(4, -1\) does not fit 6 numbers"),
    (lambda: ops.expand(X, 4, 3), ValueError, r"size: \(4, 3\) does not fit shape \(2, 3\)"),
    (lambda: ops.cat([X, X[:, :2]]), ValueError, r"shapes \[\(2, 3\), \(2, 2\)\]"),
    (lambda: ops.cat(X), TypeError, r"tensors: ArrayImpl; accepted is a list"),
    (lambda: ops.split(X, [1, 3]), ValueError, r"have to add up to 2"),
    (lambda: ops.zeros(2, dtype=ops.float64), ValueError, r"dtype: float64, .*jax_enable_x64"),
    (lambda: ops.double(X), ValueError, r"jax_enable_x64"),
    (lambda: ops.tensor([2**40]), ValueError, r"data: 1099511627776 does not fit"),
    (lambda: ops.arange(0, 1, -1), ValueError, r"step: -1 leads from 0 away from 1"),
    (lambda: ops.quantile(X, 1.5), ValueError, r"q: 1.5; accepted are numbers from 0 to 1"),
    (lambda: ops.clamp(X), ValueError, r"neither min nor max"),
    (lambda: ops.linalg.inv(X), ValueError, r"inv: A has shape \(2, 3\); accepted are square"),
    (lambda: ops.tril(X[0]), ValueError, r"input: shape \(3,\); accepted are matrices"),
    (lambda: ops.fft.fft(X, norm="x"), ValueError, r"norm: 'x'; accepted are None, 'backward'"),
    (lambda: ops.fft.fft(X, n=0), ValueError, r"n: 0; accepted is an integer, at least 1"),
    (lambda: ops.linalg.solve(jnp.eye(3), X), ValueError, r"A \(3, 3\), B \(2, 3\); their rows"),
    (traced(lambda x, k: ops.bincount(k)), ValueError, r"give length="),
    (traced(lambda x, k: ops.repeat_interleave(x, k, 1)), ValueError, r"give output_size="),
    (traced(lambda x, k: ops.arange(k[0])), TypeError, r"end: its value is not known"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "error", "says"), REFUSED, ids=[says for _, _, says in REFUSED])
def test_refused_in_words(call, error, says):
    with pytest.raises(error, match=says):
        call()


@pytest.mark.parametrize(
    ("found", "wanted"),
    [
        (lambda: ops.var(jnp.tile(jnp.array([1, 3], jnp.float16), 50_000)), 1.0),
        (lambda: ops.diff(jnp.array([1, 2, 4]), prepend=jnp.array([0.5])), [0.5, 1, 2]),
        (lambda: ops.float_power(jnp.array([1 + 2j]), 2), [-3 + 4j]),
        (lambda: ops.pow(X[:1, :1] * 0 + 2.0, float("inf")), [[np.inf]]),
        (lambda: ops.bincount(jnp.array([0, 0]), jnp.array([100, 100], jnp.int8)), [200.0]),
        (lambda: ops.histc(jnp.ones(1000, jnp.bfloat16), 1, 0, 2), [1000.0]),
        (lambda: ops.linalg.norm(X * 0, "nuc"), 0.0),
    ],
)
def test_no_number_is_lost_in_a_narrower_dtype(found, wanted):
    np.testing.assert_allclose(np.asarray(found()).astype(complex), wanted, rtol=1e-3)


def test_what_means_nothing_is_left_out():
    np.testing.assert_array_equal(ops.zeros(2, device=None, requires_grad=False, out=None), [0, 0])


def test_indices_out_of_range_in_compiled_functions():
    read = jax.jit(lambda x, i: ops.gather(x, 1, i))(X, K)
    assert np.isnan(np.asarray(read)[(K < 0) | (K > 2)]).all()
    written = jax.jit(lambda x, i: ops.scatter(x, 1, i, 9.0))(X, jnp.full((2, 1), -1))
    np.testing.assert_array_equal(written, X)


@pytest.mark.torch
@pytest.mark.parametrize("owner", ["", "Tensor", "linalg", "fft", "special"])
def test_every_documented_name_is_there_or_answered(owner):
    import torch

    place = getattr(torch, owner) if owner else torch
    ours = getattr(ops, owner) if owner not in ("", "Tensor") else ops
    silent = []
    for name in dir(place):
        value = getattr(place, name)
        documented = callable(value) and value.__doc__ and not isinstance(value, type)
        known = owner or hasattr(torch._C._VariableFunctions, name)
        if not documented or not known or name.startswith("_") or name.endswith("_copy"):
            continue
        try:
            getattr(ours, name)
        except AttributeError as error:
            if "; in jaxnet, " not in str(error):
                silent.append(name)
    assert not silent


def test_dtypes_stand_for_what_there_is():
    assert jnp.zeros(2, ops.long).dtype == ops.int64
    assert ops.zeros(2, dtype=ops.long).dtype == (
        jnp.int64 if jax.config.jax_enable_x64 else jnp.int32
    )
    assert X.dtype == ops.float32 != ops.float16
    assert repr(ops.float) == "ops.float32"
    assert ops.finfo(ops.float16).min == -65504
