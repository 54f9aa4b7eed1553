"""benchmarks/gpu/lowered.py: it finds what is planted, and nothing in the real programs."""

import dataclasses
import warnings
from functools import partial

import jax
import jax.numpy as jnp
import pytest
from jax import lax
from jax.experimental import io_callback

from benchmarks.gpu import lowered
from benchmarks.gpu.lowered import KINDS, findings
from benchmarks.gpu.workloads import PRECISIONS, workloads
from benchmarks.jaxnet_models import GPT
from jaxnet.precision import full_float32
from tests.marks import slow_among

X = jax.ShapeDtypeStruct((4, 3, 8, 8), jnp.float32)
W = jax.ShapeDtypeStruct((5, 3, 3, 3), jnp.float32)
M = jax.ShapeDtypeStruct((4, 4), jnp.float32)
N = jax.ShapeDtypeStruct((), jnp.int32)


def conv(x, w, numbers=("NCHW", "OIHW", "NCHW")):
    return lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=numbers)


def cpu_kernel(x):
    return jax.ffi.ffi_call("jaxnet_few_rows", jax.ShapeDtypeStruct(x.shape, x.dtype))(x)


def asks_python(x):
    return io_callback(lambda x: x, jax.ShapeDtypeStruct(x.shape, x.dtype), x)


def wide(x):
    with jax.enable_x64(True):
        return x.astype(jnp.float64).sum().astype(jnp.float32)


def wide_numbers(x):
    with jax.enable_x64(True):
        return lax.iota(jnp.int64, 4).astype(jnp.float32) + x[0]


def channels_last(x, w):
    x, w = jnp.moveaxis(x, 1, -1), jnp.moveaxis(w, (0, 1), (-1, -2))
    return conv(x, w, ("NHWC", "HWIO", "NHWC"))


def transposed_input(x, w):
    """The transpose lies in another function, and a cast between."""
    turned = jax.jit(lambda x: jnp.swapaxes(x, 2, 3))
    return conv(turned(x).astype(jnp.bfloat16), w.astype(jnp.bfloat16))


def transposed_result(x, w):
    turned = jax.jit(lambda y: jnp.swapaxes(y.astype(jnp.float32), 1, 2))
    return turned(conv(x, w))


def turns(x, n):
    return lax.fori_loop(0, n, lambda i, x: x + 1, x)


def turns_from(x, n):
    return lax.while_loop(lambda c: c[0] < 9, lambda c: (c[0] + 1, c[1] * 2), (n, x))[1]


def turns_by(x, n):
    return lax.while_loop(lambda c: c[0] < 9, lambda c: (c[0] + n, c[1] * 2), (0, x))[1]


def until_large(x):
    return lax.while_loop(lambda x: x.sum() < 9, lambda x: x * 2, x)


def product(precision):
    return lambda x: jnp.matmul(x, x, precision=precision)


def half_product(x):
    return x.astype(jnp.bfloat16) @ x.astype(jnp.bfloat16)


# What is planted, how it is meant to multiply, the kind that finds it, and what that says.
PLANTS = {
    "kernel of the CPU": (cpu_kernel, [M], "float32", "call", "jaxnet_few_rows"),
    "float64": (wide, [M], "float32", "float64", "tensor<4x4xf64>"),
    "int64": (wide_numbers, [M], "float32", "int64", "tensor<4xi64>"),
    "channels last": (channels_last, [X, W], "float32", "layout", "axes [1, 2] of its input"),
    "transposed input": (transposed_input, [X, W], "bfloat16", "layout", "transposed input"),
    "transposed result": (transposed_result, [X, W], "float32", "layout", "transposed result"),
    "silent TF32": (product("default"), [M], "float32", "precision", "4x4xf32 with DEFAULT"),
    "silent float32": (product("highest"), [M], "tf32", "precision", "with HIGHEST"),
    "float32 in a bfloat16 program": (product("high"), [M], "bfloat16", "precision", "4x4xf32"),
    "convolution in TF32": (
        lambda x, w: lax.conv(x, w, (1, 1), "SAME", precision="high"),
        [X, W],
        "float32",
        "precision",
        "stablehlo.convolution of 4x3x8x8xf32 and 5x3x3x3xf32 with HIGH",
    ),
    "computed end": (turns, [M, N], "float32", "loop", "ends at a number that is computed"),
    "computed begin": (turns_from, [M, N], "float32", "loop", "begins at a number"),
    "computed steps": (turns_by, [M, N], "float32", "loop", "goes by steps that are computed"),
    "end by what is found": (until_large, [M], "float32", "loop", "ends when something is found"),
}


def program(function, *arguments, **options):
    return (
        jax.jit(full_float32()(function), **options)
        .trace(*arguments)
        .lower(lowering_platforms=("cuda",))
    )


def test_a_call_into_python_is_found():
    # For this machine: where there is no card, JAX refuses to lower one for a card.
    (found,) = findings(jax.jit(asks_python).lower(M), "asks")
    assert (found.kind, "callback" in found.operation) == ("host", True)


@pytest.mark.parametrize("name", PLANTS)
def test_what_is_planted_is_found(name):
    function, arguments, precision, kind, text = PLANTS[name]
    # The first argument is no training state here: one that is given away.
    found = findings(program(lambda all: function(*all), arguments), name, precision)
    assert [f.kind for f in found if text in f.operation] == [kind]
    assert {f.kind for f in found} == {kind}
    assert all(f.program == name and "test_gpu_programs.py:" in f.location for f in found)


def test_nothing_is_found_in_what_a_card_runs_well():
    def step(state, x):
        def body(carry, _):
            return jnp.tanh(carry @ carry.T) + jax.random.normal(jax.random.key(0), (4, 4)), None

        y = conv(x, jnp.ones((3, 3, 1, 1)))
        return lax.scan(body, state, length=5)[0], jnp.swapaxes(jnp.tanh(y), 1, 2)

    good = program(step, M, X, donate_argnums=0)
    assert not findings(good, "good")
    assert not findings(program(half_product, M), "half", "bfloat16")
    assert not findings(program(product("high"), M), "tf32", "tf32")


def test_a_state_that_is_in_memory_twice():
    def step(state, x):
        return {"w": state["w"] + x, "n": state["n"] + 1}

    state = {"w": M, "n": N}
    found = findings(program(step, state, M), "kept")
    assert [(f.kind, f.operation) for f in found] == [
        ("donation", "state['n'] is not donated"),
        ("donation", "state['w'] is not donated"),
    ]
    assert not findings(program(step, state, M, donate_argnums=0), "given")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # JAX says it too, while it lowers
        vain = program(lambda state, x: x[0, 0] + state, M, M, donate_argnums=(0, 1))
    (found,) = findings(vain, "vain")
    assert found.operation == "1 donated arguments of which no result can take the place"


# What a net with fewer of the same blocks has many times over, for seconds: with --slow.
DEEP = "NetResDeep, 10 blocks", "NetResDeep, 100 blocks", "ResNet-18, batch 128", "GPT"
WORKS = workloads() | {
    "GPT of 2 blocks": dataclasses.replace(workloads()["GPT"], ours=partial(GPT, blocks=2))
}


@pytest.mark.parametrize(
    "name",
    slow_among(WORKS, DEEP),
)
def test_the_programs_of_the_workloads_are_clean(name, monkeypatch):
    monkeypatch.setattr(lowered, "workloads", lambda tiny: WORKS)
    for precision in PRECISIONS:
        found = findings(lowered.lower(name, precision), name, precision)
        assert not found, "\n".join(map(str, found))


def test_the_table_and_its_exit_code(monkeypatch, capsys):
    monkeypatch.setattr(lowered, "workloads", lambda tiny: {"Net": workloads(tiny)["Net"]})
    assert lowered.main(["--tiny"]) == 0
    clean = capsys.readouterr().out
    assert "| Net, tf32 | " + " | ".join("-" * len(KINDS)) + " |" in clean
    (task,) = lowered.tasks(tiny=True).values()
    assert task() == {"ok": True, "programs": 3, "findings": []}

    plant = program(lambda all: turns(*all), [M, N])
    monkeypatch.setattr(lowered, "lower", lambda *_: plant)
    assert lowered.main([]) == 1
    said = capsys.readouterr().out
    assert "Net, float32: loop: loop that ends at a number that is computed (tests/" in said
    assert not task()["ok"]
