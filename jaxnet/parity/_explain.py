"""The cause of a difference in words: of one layer in one process, or at a site of a trace."""

import copy
import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxnet._arrays import as_numpy, is_array, is_tensor
from jaxnet._names import named_variables
from jaxnet._state_dict import load_state_dict
from jaxnet.parity._attribute import Cause, Evidence, attribute, difference
from jaxnet.parity._judge import rms
from jaxnet.parity._reference import array_leaves, filled, of_module
from jaxnet.parity._result import Finding
from jaxnet.parity._tree import leaves

_MOST_ALTERNATIVES = 8


def explain(
    torch_layer: Any, jax_layer: Callable[..., Any], *inputs: Any, **kwargs: Any
) -> Finding:
    """Which known mistake makes a JAX layer differ from a PyTorch one.

    Both layers are run, forward and backward, in float32 and in float64, on the same inputs and
    from the torch layer's weights. A random gradient of the output is used for the backward pass.
    Neither layer is changed.

    Args:
        torch_layer: The layer, a torch.nn.Module in the mode that is meant.
        jax_layer: The layer to be explained: a module of jaxnet.nn or of plain flax, or a
            function of the inputs. A module with torch's names gets torch's weights; of another
            one the weights are taken as they are.
        *inputs: The inputs, arrays or tensors.
        **kwargs: Inputs by keyword.

    Returns:
        The finding. Its kind is "same" if there is no difference; its cause is None if no known
        mistake gives the JAX layer's numbers, and its message then says what the numbers show.

    Raises:
        TypeError: The first argument is no torch module.
        ValueError: The JAX layer refuses the inputs.
    """
    torch: Any = importlib.import_module("torch")
    if not isinstance(torch_layer, torch.nn.Module):
        raise TypeError(
            f"explain: torch_layer: {type(torch_layer).__name__}; accepted is a torch.nn.Module, "
            "and after it the JAX layer"
        )
    given = {**{str(i): x for i, x in enumerate(inputs)}, **kwargs}
    arrays = _numpy(given)
    state = {n: as_numpy(a) for n, a in torch_layer.state_dict().items()}
    parameters = {n for n, _ in torch_layer.named_parameters(remove_duplicate=False)}
    single, cotangents = _of_torch(torch, torch_layer, arrays, np.float32, {})
    double, cotangents = _of_torch(torch, torch_layer, arrays, np.float64, cotangents)
    evidence = Evidence(
        single,
        double,
        _of_jax(jax_layer, state, arrays, cotangents, np.float32),
        _of_jax(jax_layer, state, arrays, cotangents, np.float64),
    )
    reference = of_module(
        type(torch_layer).__name__,
        config_of(torch_layer),
        {n: a for n, a in state.items() if n in parameters},
        {n: a for n, a in state.items() if n not in parameters},
        arrays,
        training=torch_layer.training,
        cotangents=cotangents,
    )
    return finding(attribute(reference, evidence), evidence, type(torch_layer).__name__)


def config_of(module: Any) -> dict[str, Any]:
    """The arguments of a torch module's constructor, as far as it has them as attributes."""
    names = inspect.signature(type(module).__init__).parameters
    found = {name: getattr(module, name) for name in names if hasattr(module, name)}
    return {n: v for n, v in found.items() if isinstance(v, bool | int | float | str | tuple)}


def _numpy(value: Any) -> Any:
    """A nested value with numpy's arrays in place of tensors and of JAX's arrays."""
    if isinstance(value, Mapping):
        return {n: _numpy(part) for n, part in value.items()}
    if isinstance(value, tuple | list):
        return type(value)(_numpy(part) for part in value)
    return as_numpy(value) if is_array(value) else value


def _called(function: Callable[..., Any], arrays: Mapping[str, Any]) -> Any:
    args = [a for name, a in arrays.items() if name.isdigit()]
    return function(*args, **{n: a for n, a in arrays.items() if not n.isdigit()})


def _of_torch(
    torch: Any,
    layer: Any,
    arrays: Mapping[str, Any],
    dtype: type,
    cotangents: Mapping[str, np.ndarray],
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The torch layer's numbers, by the names of `Layer.observe`, and the gradients used.

    Args:
        torch: The package.
        layer: The layer, which is copied.
        arrays: The inputs.
        dtype: The dtype of the computation.
        cotangents: The gradients of the outputs; new ones are drawn for those that are missing.
    """
    layer = copy.deepcopy(layer).to(torch.float64 if dtype is np.float64 else torch.float32)
    moving = {}

    def tensor(path: str, array: Any) -> Any:
        value = torch.from_numpy(np.array(array))
        if value.is_floating_point():
            value = value.to(torch.float64 if dtype is np.float64 else torch.float32)
            moving[path] = value.requires_grad_()
        return value

    output = _called(layer, filled(arrays, {p: tensor(p, a) for p, a in array_leaves(arrays)}))
    outputs = {n: t for n, t in leaves(output, "output") if is_tensor(t)}
    drawn = np.random.RandomState(0)
    cotangents = dict(cotangents)
    loss: Any = 0
    for name, value in outputs.items():
        if value.is_floating_point() and value.requires_grad:
            slope = cotangents.setdefault(
                name, drawn.standard_normal(tuple(value.shape)).astype(np.float32)
            )
            loss = loss + (value * torch.from_numpy(slope).to(value.dtype)).sum()
    if cotangents:
        loss.backward()
    found = {name: as_numpy(value) for name, value in outputs.items()}
    found |= {f"buffer:{n}": as_numpy(a) for n, a in layer.named_buffers()}
    for kind, tensors in (
        ("param_grad", dict(layer.named_parameters(remove_duplicate=False))),
        ("input_grad", moving),
    ):
        found |= {f"{kind}:{n}": as_numpy(t.grad) for n, t in tensors.items() if t.grad is not None}
    return found, cotangents


def _of_jax(
    layer: Any,
    state: Mapping[str, np.ndarray],
    arrays: Mapping[str, Any],
    cotangents: Mapping[str, np.ndarray],
    dtype: type,
) -> dict[str, np.ndarray]:
    """The JAX layer's numbers, by the names of `Layer.observe`."""
    with jax.enable_x64(dtype is np.float64):

        def cast(array: Any) -> Any:
            array = jnp.asarray(array)
            return array.astype(dtype) if jnp.issubdtype(array.dtype, jnp.floating) else array

        if isinstance(layer, nnx.Module):
            if set(dict(named_variables(layer))) == set(state):
                layer = nnx.clone(layer)
                load_state_dict(layer, state)
            parts: Any = nnx.split(layer, nnx.Param, ...)
            graphdef, parameters, rest = parts[0], *jax.tree.map(cast, parts[1:])
        else:
            graphdef, parameters, rest = None, {}, {}
        given = {path: cast(a) for path, a in array_leaves(arrays)}
        moving = {n: a for n, a in given.items() if jnp.issubdtype(a.dtype, jnp.floating)}

        def run(parameters: Any, moving: Any) -> Any:
            inputs = filled(arrays, {**given, **moving})
            if graphdef is None:
                output, after = _called(layer, inputs), {}
            else:
                module = nnx.merge(graphdef, parameters, rest)
                output = _called(module, inputs)
                after = {
                    f"buffer:{n}": v[...]
                    for n, v in named_variables(module)
                    if not isinstance(v, nnx.Param)
                }
            named = {n: a for n, a in leaves(output, "output") if isinstance(a, jax.Array)}
            return named, after

        named, pull, after = jax.vjp(run, parameters, moving, has_aux=True)
        found = {**named, **after}
        slopes = {
            n: jnp.asarray(cotangents.get(n, np.zeros(a.shape)), a.dtype) for n, a in named.items()
        }
        if all(slopes[n].shape == a.shape for n, a in named.items()):
            of_parameters, of_inputs = pull(slopes)
            if graphdef is not None:
                module = nnx.merge(graphdef, of_parameters, rest)
                gradients = named_variables(module, nnx.Param)
                found |= {f"param_grad:{n}": v[...] for n, v in gradients}
            found |= {f"input_grad:{n}": a for n, a in of_inputs.items()}
        return {name: np.asarray(a) for name, a in found.items()}


def finding(cause: Cause, evidence: Evidence, what: str) -> Finding:
    """What is found, for the reader.

    Args:
        cause: The cause.
        evidence: The numbers that it was found by.
        what: What was compared, "LayerNorm".
    """
    apart = {
        name: difference(torch, evidence.jax64[name]) / max(rms(torch), 1e-300)
        for name, torch in evidence.torch64.items()
        if name in evidence.jax64
        and difference(torch, evidence.jax64[name]) > evidence.tolerance(name)
    }
    kind = "precision" if cause.precision else "different" if apart else "same"
    if kind == "same":
        return Finding("", 0, "layer", "same", f"{what}: both layers compute the same.")
    if cause.precision:
        message = f"{what}: float32 is less accurate than torch's."
    else:
        first, size = next(iter(apart.items()))
        message = f"{what}: {first} differs by {size:.1e} of its size."
    if not cause.proven:
        message = " ".join([message, *cause.symptoms])
    words, fixes = cause.words, cause.fixes
    return Finding(
        next(iter(apart), ""),
        0,
        "layer",
        kind,
        message,
        cause=words[0] if words else None,
        proof=cause.proof,
        fix=fixes[0] if fixes else "",
        alternatives=words[1 : 1 + _MOST_ALTERNATIVES],
        tried=cause.tried,
    )
