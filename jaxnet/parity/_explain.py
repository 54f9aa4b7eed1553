"""The cause of a difference in words: of one layer in one process, or at a site of a trace."""

import copy
import dataclasses
import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxnet import nn
from jaxnet._arrays import as_numpy, is_array, is_tensor
from jaxnet._keys import taking_draws
from jaxnet._mixed_precision import written_for
from jaxnet._names import named_variables
from jaxnet._state_dict import load_state_dict
from jaxnet.parity._attribute import Cause, attribute
from jaxnet.parity._describe import config_of
from jaxnet.parity._draws import Replay, classify
from jaxnet.parity._draws import draws as draws_random
from jaxnet.parity._evidence import Evidence, difference
from jaxnet.parity._force import QUICK
from jaxnet.parity._functions import operations
from jaxnet.parity._judgement import rms
from jaxnet.parity._layer_causes import describe, rows_of
from jaxnet.parity._reference import Layer, array_leaves, filled, of_module
from jaxnet.parity._result import Finding
from jaxnet.parity._trace import Draw
from jaxnet.parity._traps import Trap
from jaxnet.parity._tree import leaves
from jaxnet.parity._twin import Twins


def explain(
    torch_layer: Any, jax_layer: Callable[..., Any], *inputs: Any, **kwargs: Any
) -> Finding:
    """Which known mistake makes a JAX layer differ from a PyTorch one.

    Both layers are run, forward and backward, in float32 and in float64, on the same inputs and
    from the torch layer's weights. A random gradient of the output is used for the backward pass;
    within torch.no_grad() there is none. Neither layer is changed.

    Args:
        torch_layer: The layer, a torch.nn.Module in the mode that is meant. Of a class that
            jaxnet.nn does not have only the numbers are compared, and no mistake is tried.
        jax_layer: The layer to be explained: a module of jaxnet.nn or of plain flax, or a
            function of the inputs. A module with torch's names gets torch's weights; of another
            one the weights are taken as they are.
        *inputs: The inputs, arrays or tensors.
        **kwargs: Inputs by keyword.

    Returns:
        The finding. Its kind is "same" if there is no difference; its cause is None if no known
        mistake gives the JAX layer's numbers, and its message then says what the numbers show.
        Other outputs than torch's are a difference; what else the JAX layer does not have (a
        function has no buffers and no gradients of parameters) is not compared, as the message
        says.

    Raises:
        TypeError: The first argument is no torch module.
        ValueError: The JAX layer refuses the inputs.
    """
    return explained(torch_layer, jax_layer, inputs, kwargs)


def explained(
    torch_layer: Any,
    jax_layer: Callable[..., Any],
    inputs: Sequence[Any],
    kwargs: Mapping[str, Any],
    rows: Sequence[Trap] | None = None,
) -> Finding:
    """`explain`, which tries the given rows of the catalogue, by default those of the layer."""
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
    ran = _of_torch(torch, torch_layer, arrays)
    evidence = Evidence(
        ran.single,
        ran.double,
        _of_jax(jax_layer, state, arrays, ran, np.float32),
        _of_jax(jax_layer, state, arrays, ran, np.float64),
    )
    given_state = (
        {n: a for n, a in state.items() if n in parameters},
        {n: a for n, a in state.items() if n not in parameters},
    )
    cls = type(torch_layer)
    if cls.__module__.startswith("torch.") and hasattr(nn, cls.__name__):
        reference = of_module(
            cls.__name__,
            config_of(torch_layer),
            *given_state,
            arrays,
            training=torch_layer.training,
            draws=ran.drawn,
            cotangents=ran.cotangents,
        )
    else:
        reference = Layer(cls.__name__, {}, *given_state, arrays, compute=_unknown)
    cause = attribute(reference, evidence, rows_of(reference) if rows is None else rows)
    return finding(cause, evidence, type(torch_layer).__name__)


def _is_output(value: Any) -> bool:
    return isinstance(value, jax.Array | np.ndarray)


def _unknown(*_: Any) -> Any:
    raise ValueError("jaxnet has no such class, so that only the numbers are compared")


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


@dataclasses.dataclass
class _Run:
    """What a torch layer gave, by the names of `Layer.observe`, and what it drew."""

    single: dict[str, np.ndarray]
    double: dict[str, np.ndarray]
    cotangents: dict[str, np.ndarray]
    draws: list[Draw]
    drawn: list[np.ndarray]


def _of_torch(torch: Any, layer: Any, arrays: Mapping[str, Any]) -> _Run:
    """Runs a copy of a torch layer, forward and backward, in both precisions at once."""
    layer = copy.deepcopy(layer)
    twins = Twins()
    draws: list[Draw] = []
    drawn: list[np.ndarray] = []

    def handle(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        random = draws_random(torch, func, args, kwargs)
        result = twins(func, args, kwargs, random)
        found = classify(torch, func, args, kwargs, result) if random else None
        if found is not None:
            draws.append(Draw(found[0], found[1], ""))
            drawn.append(np.array(as_numpy(found[2])))
        return result

    tensors = {path: torch.from_numpy(np.array(array)) for path, array in array_leaves(arrays)}
    moving = {path: t.requires_grad_() for path, t in tensors.items() if t.is_floating_point()}
    slope_of, cotangents = np.random.RandomState(0), {}
    with operations(handle):
        twins.on = True
        output = _called(layer, filled(arrays, tensors))
        found = {n: t for n, t in leaves(output, "output") if is_tensor(t)}
        slopes = []
        for name, value in found.items():
            if value.requires_grad and torch.is_grad_enabled():
                slope = slope_of.standard_normal(tuple(value.shape)).astype(np.float32)
                cotangents[name] = slope
                slopes.append((value, torch.from_numpy(slope)))
        if slopes:
            torch.autograd.backward(*zip(*slopes, strict=True))
        twins.on = False
        found |= {f"buffer:{n}": t for n, t in layer.named_buffers()}
        parameters = dict(layer.named_parameters(remove_duplicate=False))
        for kind, given in (("param_grad", parameters), ("input_grad", moving)):
            found |= {f"{kind}:{n}": t.grad for n, t in given.items() if t.grad is not None}
        return _Run(
            {name: np.array(as_numpy(t)) for name, t in found.items()},
            {name: np.array(as_numpy(twins.twin(t))) for name, t in found.items()},
            cotangents,
            draws,
            drawn,
        )


def _of_jax(
    layer: Any,
    state: Mapping[str, np.ndarray],
    arrays: Mapping[str, Any],
    ran: _Run,
    dtype: type,
) -> dict[str, np.ndarray]:
    """The JAX layer's numbers, by the names of `Layer.observe`."""
    cotangents = ran.cotangents
    with jax.enable_x64(dtype is np.float64), written_for(np.float32):

        def cast(array: Any) -> Any:
            array = jnp.asarray(array)
            return array.astype(dtype) if jnp.issubdtype(array.dtype, jnp.floating) else array

        if isinstance(layer, nnx.Module):
            if set(dict(named_variables(layer))) == set(state):
                layer = nnx.clone(layer)
                load_state_dict(layer, state)
            parts: Any = nnx.split(layer, nnx.Param, ...)
            graphdef = parts[0]
            parameters, rest = jax.tree.map(cast, parts[1:])
        else:
            graphdef, parameters, rest = None, {}, {}
        given = {path: cast(a) for path, a in array_leaves(arrays)}
        moving = {n: a for n, a in given.items() if jnp.issubdtype(a.dtype, jnp.floating)}

        def run(parameters: Any, moving: Any, rest: Any) -> Any:
            inputs = filled(arrays, {**given, **moving})
            after: dict[str, Any] = {}
            if graphdef is None:
                with _replayed(ran):
                    output = _called(layer, inputs)
            else:
                module = nnx.merge(graphdef, parameters, rest)
                with _replayed(ran):
                    output = _called(module, inputs)
                after = {
                    f"buffer:{n}": v[...]
                    for n, v in named_variables(module)
                    if not isinstance(v, nnx.Param)
                }
            named = {n: jnp.asarray(a) for n, a in leaves(output, "output") if _is_output(a)}
            return named, after

        def numbers(parameters: Any, moving: Any, rest: Any) -> dict[str, Any]:
            if not cotangents:
                named, after = run(parameters, moving, rest)
                return {**named, **after}
            named, pull, after = jax.vjp(run, parameters, moving, rest, has_aux=True)
            slopes = {
                n: jnp.asarray(cotangents.get(n, np.zeros(a.shape)), a.dtype)
                for n, a in named.items()
            }
            found = {**named, **after}
            if any(slopes[n].shape != a.shape for n, a in named.items()):
                return found
            of_parameters, of_inputs, _ = pull(slopes)
            if graphdef is not None:
                module = nnx.merge(graphdef, of_parameters, rest)
                gradients = named_variables(module, nnx.Param)
                found |= {f"param_grad:{n}": v[...] for n, v in gradients}
            return found | {f"input_grad:{n}": a for n, a in of_inputs.items()}

        return jax.device_get(jax.jit(numbers, compiler_options=QUICK)(parameters, moving, rest))


@contextmanager
def _replayed(ran: _Run) -> Iterator[None]:
    """Supplies torch's draws to whoever draws the same kind of numbers of their shape."""
    arrays = dict(enumerate(ran.drawn))
    replay = Replay(ran.draws, arrays, list(arrays), [])
    with taking_draws(replay.take):
        yield


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
    theirs, ours = (
        [name for name in numbers if name.split(".")[0] == "output"]
        for numbers in (evidence.torch64, evidence.jax64)
    )
    other = sorted(theirs) != sorted(ours)
    kind = "different" if apart or other else "precision" if cause.precision else "same"
    if other:
        message = f"the outputs are {_names(ours)}; torch's are {_names(theirs)}"
    elif apart:
        first, size = next(iter(apart.items()))
        message = f"{first} differs by {size:.1e} of its size"
    elif cause.precision:
        message = "float32 is less accurate than torch's"
    else:
        message = "both layers compute the same"
    missing = [n for n in evidence.torch64 if n not in evidence.jax64 and n not in theirs]
    if missing:
        message += f" (not compared: {_names(missing)})"
    if kind == "same":
        return Finding("", 0, "layer", kind, f"{what}: {message}.")
    site = next(iter(apart), "output" if other else "")
    found = Finding(site, 0, "layer", kind, f"{what}: {message}")
    describe(found, cause)
    return found


def _names(names: Sequence[str]) -> str:
    return ", ".join(names) or "none"
