"""The same gradients through an optimizer of ours and through torch's."""

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from jaxnet import optim

SHAPES: dict[str, tuple[int, ...]] = {"a": (5,), "b": (), "c": (2, 3, 1, 4)}
MATRICES: dict[str, tuple[int, ...]] = {"a": (3, 5), "b": (8, 4)}
STEPS = 100


@dataclasses.dataclass(frozen=True)
class Row:
    """One configuration of an optimizer that both libraries have."""

    name: str
    kwargs: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    shapes: Mapping[str, tuple[int, ...]] = dataclasses.field(default_factory=lambda: SHAPES)

    def __str__(self) -> str:
        return f"{self.name}({', '.join(f'{k}={v}' for k, v in self.kwargs.items())})"


def problem(
    shapes: Mapping[str, tuple[int, ...]] = SHAPES, steps: int = STEPS
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Parameters, and gradients whose size changes from step to step, in float32."""
    rng = np.random.RandomState(0)
    params, grads = {}, {}
    for name, shape in shapes.items():
        size = np.exp(rng.standard_normal((steps,) + (1,) * len(shape)))
        grads[name] = (rng.standard_normal((steps, *shape)) * size).astype(np.float32)
        params[name] = rng.standard_normal(shape).astype(np.float32)
    return params, grads


def run_ours(
    row: Row, dtype: Any, late: Mapping[str, int] = MappingProxyType({}), steps: int = STEPS
) -> dict[str, np.ndarray]:
    """The parameters after every step, compiled as one loop.

    Args:
        row: The row.
        dtype: The dtype of parameters and gradients.
        late: The first step in which a parameter has a gradient.
        steps: The number of steps.
    """
    params, grads = problem(row.shapes, steps)
    return run(getattr(optim, row.name)(**row.kwargs), params, grads, dtype, late)


def run(
    optimizer: Any,
    params: Any,
    grads: Any,
    dtype: Any,
    late: Mapping[str, int] = MappingProxyType({}),
) -> dict[str, np.ndarray]:
    with jax.enable_x64(np.dtype(dtype) == np.float64):
        params, grads = jax.tree.map(lambda x: jnp.asarray(x, dtype), (params, grads))

        def step(carry, numbered):
            params, state = carry
            i, grads = numbered
            has = {name: i >= first for name, first in late.items()}
            updates, state = optimizer.update(grads, state, params, has_gradient=has)
            with jax.numpy_dtype_promotion("standard"):  # optax adds float32 to bfloat16
                params = optax.apply_updates(params, updates)
            return (params, state), params

        @jax.jit
        def loop(params, grads):
            numbered = jnp.arange(len(next(iter(grads.values())))), grads
            return lax.scan(step, (params, optimizer.init(params)), numbered)[1]

        return {name: np.asarray(value) for name, value in loop(params, grads).items()}


def run_torch(
    row: Row, dtype: Any, late: Mapping[str, int] = MappingProxyType({}), steps: int = STEPS
) -> dict[str, np.ndarray]:
    """The same from torch, parameter by parameter (foreach=False); bfloat16 as float32."""
    import torch

    kinds = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16}
    kind = kinds[np.dtype(dtype).name]
    params, grads = problem(row.shapes, steps)
    tensors = {name: torch.tensor(p, dtype=kind).requires_grad_() for name, p in params.items()}
    # torch keeps a few scalars of the state in its default dtype
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32 if kind == torch.bfloat16 else kind)
    try:
        plain = {} if row.name == "Muon" else {"foreach": False}
        optimizer = getattr(torch.optim, row.name)(list(tensors.values()), **row.kwargs, **plain)
        seen: dict[str, list[np.ndarray]] = {name: [] for name in params}
        for i in range(steps):
            for name, tensor in tensors.items():
                given = i >= late.get(name, 0)
                tensor.grad = torch.tensor(grads[name][i], dtype=kind) if given else None
            optimizer.step()
            for name, tensor in tensors.items():
                narrow = tensor.detach()
                wide = narrow.float() if kind == torch.bfloat16 else narrow
                seen[name].append(wide.numpy().copy())
    finally:
        torch.set_default_dtype(before)
    return {name: np.stack(values) for name, values in seen.items()}
