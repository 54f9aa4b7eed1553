"""Draws, running statistics and resumed runs, on the device that JAX takes by default.

A card draws the numbers that a CPU draws, its running statistics follow float64, and a run
that was stopped goes on to the bits of the one that was not. `benchmarks.gpu.right` runs them.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.compilation_cache import compilation_cache

from jaxnet import losses, nn, optim, train
from jaxnet.random import Generator
from tests.tolerances import distance, tolerance

__all__ = [
    "device_name",
    "dropout",
    "finite",
    "host",
    "resume",
    "resume_deterministic",
    "running_statistics",
]


def host() -> jax.Device:
    """The CPU of this process.

    Raises:
        RuntimeError: JAX was started without it.
    """
    try:
        return jax.local_devices(backend="cpu")[0]
    except RuntimeError as error:
        asked = os.environ.get("JAX_PLATFORMS", "")
        raise RuntimeError(
            f"JAX_PLATFORMS={asked} leaves no CPU to compare with; add it, as in "
            "JAX_PLATFORMS=cuda,cpu, or leave the variable unset"
        ) from error


def device_name() -> str:
    """The default device in words, "gpu NVIDIA H100 80GB HBM3"."""
    device = jax.local_devices()[0]
    return f"{device.platform} {device.device_kind}"


def finite(number: float) -> float:
    """A distance for JSON, which has no infinity: the largest number there is stands for it."""
    return min(number, sys.float_info.max)


# Dropout


def dropout(count: int) -> dict[str, Any]:
    """Whether one key drops the same numbers on the device and on the CPU, and as many as it says.

    Args:
        count: numbers a layer sees.

    Returns:
        "ok"; for every layer whether the masks are the "same" and channels dropped "whole",
        the share that it "kept", and how many standard "deviations" of a binomial that is off
        (at most 5 pass), each as "Dropout kept"; "resumed": whether a state that went through
        the host's memory draws what the other would have.
    """
    shapes = {"Dropout": (count,), "AlphaDropout": (count,), "Dropout2d": (count // 8, 8, 2, 2)}
    found: dict[str, Any] = {}
    ok = True
    for name, shape in shapes.items():
        layer, p = getattr(nn, name)(0.3), 0.3
        with jax.default_device(host()):
            there = _kept(layer, shape)
        here = _kept(layer, shape)
        draws = here if here.ndim == 1 else here[:, :, 0, 0]
        deviation = (draws.mean() - (1 - p)) / (p * (1 - p) / draws.size) ** 0.5
        same = np.array_equal(here, there)
        whole = here.ndim == 1 or bool((here == here[:, :, :1, :1]).all())
        ok &= same and whole and bool(abs(deviation) <= 5)
        found |= {
            f"{name} same": same,
            f"{name} whole": whole,
            f"{name} kept": float(draws.mean()),
            f"{name} deviations": float(deviation),
        }
    resumed = _resumed_draws()
    return {"ok": ok and resumed, "device": device_name(), "resumed": resumed, **found}


def _kept(layer: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Where a layer kept the ones that it was given, under one key."""

    @jax.jit
    def run(seed: jax.Array) -> jax.Array:
        with nn.keys(jax.random.key(seed)):
            y = layer(jnp.ones(shape))
        return y == y.max()

    return np.asarray(run(jnp.asarray(7)))


def _resumed_draws() -> bool:
    """Three steps, then two more: of the state itself, and of one that was on the host."""
    layers = (
        nn.Linear(32, 64, rngs=Generator(0)),
        nn.Dropout(0.5),
        nn.Linear(64, 1, rngs=Generator(1)),
    )
    optimizer = optim.SGD(lr=0.0)  # so that only the draws differ from step to step
    step = jax.jit(train.make_train_step(train.supervised(losses.mse_loss), optimizer))
    batch = jnp.ones((16, 32)), jnp.zeros((16, 1))

    def go(state: Any, steps: int) -> tuple[Any, list[float]]:
        seen = []
        for _ in range(steps):
            state, metrics = step(state, batch)
            seen.append(float(metrics["loss"]))
        return state, seen

    state, first = go(train.create(nn.Sequential(*layers), optimizer, seed=3), 3)
    data = np.asarray(jax.random.key_data(state.key))
    arrays = jax.tree.map(np.asarray, state.replace(key=data))
    again = arrays.replace(key=jax.random.wrap_key_data(jnp.asarray(data)))
    _, expected = go(state, 2)
    _, seen = go(jax.tree.map(jnp.asarray, again), 2)
    return seen == expected and len({*first, *expected}) == 5


# Running statistics


def running_statistics() -> dict[str, Any]:
    """Whether batch norm's statistics after 50 steps of training are float64's.

    The net learns (its units are smooth, so that no rounding becomes a jump), one of its
    norms is used three times a step, and the batches drift, as a net's activations do.

    Returns:
        "ok", for every buffer its distance from float64 on the CPU, the "worst" of these,
        and what is "allowed": the tolerance of forward results.
    """
    with jax.default_device(host()), jax.enable_x64(True):
        exact = _trained_buffers(jnp.float64)
    ours = _trained_buffers(jnp.float32)
    found = {name: finite(distance("forward", ours[name], exact[name])) for name in exact}
    allowed = tolerance("forward", "float32")
    counted = all(
        np.array_equal(ours[name], exact[name]) for name in exact if name.endswith("tracked")
    )
    return {
        "ok": counted and all(gap <= allowed for gap in found.values()),
        "device": device_name(),
        "worst": max(found.values()),
        "allowed": allowed,
        "distances": found,
    }


class _Normed(nn.Module):
    """Images to two numbers, by way of a norm for images and one used three times."""

    def __init__(self) -> None:
        g = Generator(0)
        self.conv = nn.Conv2d(3, 16, 3, padding=1, rngs=g)
        self.norm2d = nn.BatchNorm2d(16)
        self.pool = nn.AdaptiveAvgPool2d(2)
        self.block = nn.Sequential(nn.Linear(64, 64, rngs=g), nn.BatchNorm1d(64), nn.Tanh())
        self.head = nn.Linear(64, 2, rngs=g)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.pool(nn.functional.tanh(self.norm2d(self.conv(x))))
        x = x.reshape(len(x), -1)  # (N, 64)
        for _ in range(3):
            x = x + self.block(x)
        return self.head(x)


def _trained_buffers(dtype: Any) -> dict[str, np.ndarray]:
    rng = np.random.RandomState(0)
    drift = np.linspace(0, 2, 50)[:, None, None, None, None]
    images = (rng.standard_normal((50, 32, 3, 8, 8)) + drift).astype(np.float32)
    wanted = rng.standard_normal((50, 32, 2)).astype(np.float32)
    optimizer = optim.SGD(lr=0.01)
    step = train.make_train_step(train.supervised(losses.mse_loss), optimizer)
    # Drawn in float32 for both: in float64 the generator draws other numbers.
    structure, params, buffers = train.split(_Normed())
    params, buffers = jax.tree.map(
        lambda x: x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x, (params, buffers)
    )
    state = train.create(train.merge(structure, params, buffers), optimizer)
    batches = jnp.asarray(images, dtype), jnp.asarray(wanted, dtype)
    state, _ = jax.jit(lambda state, batches: jax.lax.scan(step, state, batches))(state, batches)
    return {name: np.asarray(value) for name, value in state.buffers.items()}


# Resumed runs


def resume(tiny: bool, change: Callable[[Any], Any] = lambda step: step) -> dict[str, Any]:
    """Whether a run that was stopped ends with the bits of the one that was not.

    A convolutional net with batch norm and dropout is trained by `train.fit` with the cache of
    compiled programs that it has by default (empty at the start), stopped three times, within
    epochs and between them, and started again from its checkpoint, so that its compiled calls
    begin at other steps than the whole run's. Beside that, XLA itself may differ: a card may add
    numbers in another order at every run, and a program that is compiled again may be tuned to
    other algorithms.

    Args:
        tiny: fewer and smaller images.
        change: of the training step, so that a test can spoil it.

    Returns:
        "ok" (the resumed run has the same bits), "repeats" (two whole runs have the same
        bits), "repeats compiled anew" (as does a third one without the cache), "stops", and
        in words how the resumed run "differs", if it does.
    """
    with tempfile.TemporaryDirectory() as programs, _programs_kept_in(programs):
        whole = _fit(tiny, change)
        repeats = _bits(_fit(tiny, change)) == _bits(whole)
        reasons = []
        with tempfile.TemporaryDirectory() as folder:
            for stop in ({"time_budget": 0}, {"epochs": 1}, {"time_budget": 0}, {}):
                again = _fit(tiny, change, checkpoint=folder, chunk_steps=2, **stop)
                reasons.append(again.reason)
    with _programs_kept_in(None):
        anew = _fit(tiny, change, compilation_cache=False)
    stopped = reasons == ["time", "done", "time", "done"]
    return {
        "ok": stopped and _bits(again) == _bits(whole),
        "device": device_name(),
        "repeats": repeats,
        "repeats compiled anew": _bits(anew) == _bits(whole),
        "stops": reasons,
        "differs": _difference(whole, again),
    }


def resume_deterministic(tiny: bool) -> dict[str, Any]:
    """`resume` in a process of its own whose card may only add in one order.

    XLA_FLAGS=--xla_gpu_deterministic_ops=true is what a user sets who wants every run to
    repeat itself; it is read when a process starts. On a CPU it changes nothing.

    Returns:
        As `resume`; "ok" asks for "repeats" in both ways as well. An "error" in words if the
        process failed, or took more than 50 seconds.
    """
    flags = os.environ.get("XLA_FLAGS", "") + " --xla_gpu_deterministic_ops=true"
    # The parent holds memory of the card: the child takes what it needs and no more.
    changes = {"XLA_FLAGS": flags.strip(), "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    words = [sys.executable, "-m", "benchmarks.gpu.right", "resume", *["--tiny"] * tiny]
    try:
        done = subprocess.run(
            words,
            cwd=Path(__file__).parents[2],
            env={**os.environ, **changes},
            capture_output=True,
            encoding="utf-8",
            check=False,
            timeout=50,
        )
    except subprocess.TimeoutExpired as error:
        return {"ok": False, "error": f"no result after {error.timeout:.0f} s"}
    lines = done.stdout.strip().splitlines()
    if not lines:
        return {"ok": False, "error": f"exit status {done.returncode}: {done.stderr[-2000:]}"}
    found = json.loads(lines[-1])
    del found["task"]
    return {**found, "ok": found["ok"] and found["repeats"] and found["repeats compiled anew"]}


def _fit(tiny: bool, change: Callable[[Any], Any], **options: Any) -> train.Result:
    width, size, count = (4, 8, 40) if tiny else (64, 32, 1000)
    g = Generator(0)
    model = nn.Sequential(
        nn.Conv2d(3, width, 3, padding=1, rngs=g),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Dropout2d(0.2),
        nn.Conv2d(width, 2 * width, 3, padding=1, rngs=g),
        nn.BatchNorm2d(2 * width),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(4),
        nn.Flatten(),
        nn.Dropout(0.5),
        nn.Linear(2 * width * 16, 10, rngs=g),
    )
    rng = np.random.RandomState(0)
    x = rng.standard_normal((count, 3, size, size)).astype(np.float32)
    y = rng.randint(0, 10, count).astype(np.int32)
    optimizer = optim.Adam(lr=1e-3)
    step = change(train.make_train_step(train.supervised(losses.cross_entropy), optimizer))
    settings = {"epochs": 3, "batch_size": 8 if tiny else 64, "quiet": True} | options
    state = train.create(model, optimizer, seed=5)
    return train.fit(state, step, (x, y), log=lambda line: None, **settings)


def _arrays(result: train.Result) -> dict[str, np.ndarray]:
    state = result.state.replace(key=jax.random.key_data(result.state.key))
    leaves = jax.tree.flatten_with_path(state)[0]
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}


def _bits(result: train.Result) -> list[Any]:
    return [result.history, *((name, a.tobytes()) for name, a in _arrays(result).items())]


def _difference(whole: train.Result, again: train.Result) -> str | None:
    ours, theirs = _arrays(again), _arrays(whole)
    off = {n: distance("gradient", ours[n], theirs[n]) for n in theirs
           if ours[n].tobytes() != theirs[n].tobytes()}  # fmt: skip
    if off:
        name = max(off, key=lambda n: off[n])
        return f"{len(off)} of {len(theirs)} arrays; most {name}, by {off[name]:.1e} of its largest"
    return None if whole.history == again.history else "the history alone"


@contextmanager
def _programs_kept_in(folder: str | None) -> Iterator[None]:
    """Keeps compiled programs there, by the rule that `train.fit` sets, or nowhere."""
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = [getattr(jax.config, name) for name in names]
    try:
        for name, value in zip(names, (folder, 0.1), strict=True):
            jax.config.update(name, value)
        compilation_cache.reset_cache()  # it may have opened another folder
        yield
    finally:
        for name, value in zip(names, before, strict=True):
            jax.config.update(name, value)
        compilation_cache.reset_cache()
