"""A PyTorch module beside its port to plain flax.nnx: the same weights, results and gradients."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

_NAMES = {"running_mean": "mean", "running_var": "var"}


def part(model: Any, path: str) -> Any:
    """The module of the port that has the name of one of torch's."""
    for name in filter(None, path.split(".")):
        model = model[int(name)] if name.isdigit() else getattr(model, name)
    return model


def assign(twin: Any, values: dict[str, Any], model: Any) -> None:
    """Gives a port torch's parameters and buffers, by torch's names."""
    for name, place in places(model):
        if name in values:
            place(twin, np.asarray(values[name]))


def read(twin: Any, model: Any) -> dict[str, Any]:
    """The parameters and buffers of a port by torch's names, in torch's layout."""
    return {name: np.asarray(place(twin, None)) for name, place in places(model)}


def places(model: Any) -> Iterator[tuple[str, Any]]:
    """The name of each array of a torch module, and what reads or writes it in the port."""
    import torch

    for path, module in model.named_modules():
        for name, array in [*module._parameters.items(), *module._buffers.items()]:
            if array is None or name == "num_batches_tracked":
                continue
            whole = f"{path}.{name}" if path else name
            owner = path.rpartition(".")[0]
            if path.endswith("out_proj") and isinstance(
                model.get_submodule(owner), torch.nn.MultiheadAttention
            ):
                yield whole, _heads(owner, name, "out")
            elif isinstance(module, torch.nn.MultiheadAttention):
                yield whole, _heads(path, name, "")
            elif isinstance(module, torch.nn.RNNBase):
                yield whole, _cell(path, module, name)
            elif isinstance(module, torch.nn.RNNCellBase):
                yield whole, _single(path, name)
            else:
                yield whole, _plain(path, name)


def _plain(path: str, name: str) -> Any:
    def place(twin: Any, value: Any) -> Any:
        target = getattr(part(twin, path), _NAMES.get(name, name), None)
        if target is None:
            target = getattr(part(twin, path), name)
        if value is None:
            found = np.asarray(target[...])
            shape = getattr(part(twin, path), "normalized_shape", found.shape)
            return found.reshape(shape)
        target[...] = jnp.asarray(value).reshape(target.shape)
        return None

    return place


def _turned(variable: Any, value: Any) -> Any:
    if value is None:
        return np.asarray(variable[...]).T
    variable[...] = jnp.asarray(value).T
    return None


def _cell(path: str, module: Any, name: str) -> Any:
    kind, side, layer = name.split("_", 2)
    index = int(layer.removesuffix("_reverse")[1:])
    place = index * (2 if module.bidirectional else 1) + layer.endswith("_reverse")

    def of(twin: Any, value: Any) -> Any:
        dense = getattr(part(twin, path).layers[place].cell, f"dense_{side[0]}")
        return _turned(dense.kernel if kind == "weight" else dense.bias, value)

    return of


def _single(path: str, name: str) -> Any:
    kind, side = name.split("_")

    def of(twin: Any, value: Any) -> Any:
        dense = getattr(part(twin, path).cell, f"dense_{side[0]}")
        return _turned(dense.kernel if kind == "weight" else dense.bias, value)

    return of


def _heads(path: str, name: str, out: str) -> Any:
    """The matrices of an attention, which flax keeps apart, and each by its heads."""
    last = "bias" if name.endswith("bias") else "kernel"

    def of(twin: Any, value: Any) -> Any:
        attention = part(twin, path)
        parts = [attention.out] if out else [attention.query, attention.key, attention.value]
        if name in ("q_proj_weight", "k_proj_weight", "v_proj_weight"):
            parts = [parts["qkv".index(name[0])]]
        if value is None:
            found = []
            for one in parts:
                array = np.asarray(getattr(one, last)[...])
                if last == "bias":
                    found.append(array.reshape(-1))
                else:
                    found.append(array.reshape(-1, array.shape[-1]).T if out else (
                        array.reshape(array.shape[0], -1).T))  # fmt: skip
            return np.concatenate(found)
        for one, array in zip(parts, np.split(np.asarray(value), len(parts)), strict=True):
            variable = getattr(one, last)
            turned = array if last == "bias" else array.T
            variable[...] = jnp.asarray(turned.reshape(variable.shape))
        return None

    return of


def flat(found: Any) -> list[Any]:
    """The arrays in a result."""
    return [x for x in jax.tree.leaves(found) if hasattr(x, "shape")]


def torch_run(model: Any, inputs: list[Any]) -> tuple[list[Any], dict[str, Any], dict[str, Any]]:
    """The results, the gradients of the sum of the squares, and the buffers afterwards."""
    import torch

    model.zero_grad()
    given = [torch.from_numpy(x) for x in inputs]
    for x in given:
        if x.is_floating_point():
            x.requires_grad_()
    results = [x for x in _tensors(model(*given)) if x.is_floating_point()]
    sum((x * x * _ramp(x.shape, torch.linspace)).sum() for x in results).backward()
    gradients = {n: np.zeros(p.shape) if p.grad is None else p.grad.numpy()
                 for n, p in model.named_parameters()}  # fmt: skip
    for i, x in enumerate(given):
        if x.is_floating_point():
            gradients[f"input {i}"] = np.zeros(x.shape) if x.grad is None else x.grad.numpy()
    buffers = {n: b.numpy() for n, b in model.named_buffers() if "num_batches" not in n}
    return [x.detach().numpy() for x in results], gradients, buffers


def _tensors(found: Any) -> list[Any]:
    import torch

    if isinstance(found, torch.Tensor):
        return [found]
    if isinstance(found, dict):
        return [x for key in sorted(found) for x in _tensors(found[key])]
    return [x for one in found for x in _tensors(one)] if isinstance(found, tuple | list) else []


def _ramp(shape: Any, linspace: Any) -> Any:
    """Weights that tell the numbers of a result apart."""
    count = int(np.prod(shape))
    return linspace(0.5, 1.5, count).reshape(shape)


def flax_run(
    twin: Any, model: Any, inputs: list[Any]
) -> tuple[list[Any], dict[str, Any], dict[str, Any]]:
    """What `torch_run` gives, of the port."""
    definition, params, rest = nnx.split(twin, nnx.Param, ...)

    @jax.jit
    def run(params: Any, inputs: list[Any]) -> Any:
        def loss(params: Any, floats: dict[int, Any]) -> Any:
            one = nnx.merge(definition, params, rest, copy=True)
            given = [floats.get(i, x) for i, x in enumerate(inputs)]
            results = [x for x in flat(one(*given)) if jnp.issubdtype(x.dtype, jnp.floating)]
            total = sum((x * x * _ramp(x.shape, jnp.linspace)).sum() for x in results)
            return total, (results, nnx.state(one, nnx.Not(nnx.Param)))

        floats = {i: x for i, x in enumerate(inputs) if jnp.issubdtype(x.dtype, jnp.floating)}
        return jax.grad(loss, argnums=(0, 1), has_aux=True)(params, floats)

    (gradients, of_inputs), (results, after) = run(params, [jnp.asarray(x) for x in inputs])
    by_name = read(nnx.merge(definition, gradients, rest), model)
    parameters = dict(model.named_parameters())
    found = {n: by_name[n] for n in parameters}
    found |= {f"input {i}": np.asarray(x) for i, x in of_inputs.items()}
    nnx.update(twin, after)
    now = read(twin, model)
    buffers = {n: now[n] for n, _ in model.named_buffers() if "num_batches" not in n}
    return [np.asarray(x) for x in results], found, buffers
