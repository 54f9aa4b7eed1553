"""A layer or a function of the recorded program, built again with jaxnet and run in float64."""

import dataclasses
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet import nn, ops
from jaxnet._names import join, named_variables
from jaxnet.nn import functional
from jaxnet.parity._tree import leaves
from jaxnet.random import Generator

FLOAT32_EPS = float(np.finfo(np.float32).eps)
"""What torch's RMSNorm adds if it is given no eps: the recorded program is one of float32."""

Arrays = Mapping[str, Any]
Result = tuple[Any, Arrays]
"""What a layer gives: its output, and its buffers after the call."""
Compute = Callable[..., Result]
"""compute(layer, parameters, buffers, inputs) -> (output, buffers)"""

_PARAMETERS = ("weight", "bias", "in_proj_weight", "in_proj_bias", "out_proj_weight")
_BUFFERS = ("running_mean", "running_var")


@dataclasses.dataclass(frozen=True)
class Layer:
    """A layer or a function with its inputs: the `Reference` of forward and backward sites.

    Attributes:
        kind: The name of its class in torch.nn, or of its function.
        config: The arguments of the constructor, or those of the function that are no arrays.
        parameters: The parameters by name; of a function its arguments weight and bias.
        buffers: The buffers by name, before the call.
        inputs: The arguments of the call: "0", "1", ... by position, or by name. Those of a
            function have its names.
        training: Whether it is in training mode.
        draws: The random draws of the call, in order.
        cotangents: The gradients of the loss by the outputs, by the outputs' names: "output", or
            "output.0" of several. Without them no gradient is observed.
        compute: How it is computed.
        dtype: The dtype of the computation.
        same: For inputs that are equal to another one the name of that one.
    """

    kind: str
    config: Mapping[str, Any]
    parameters: Mapping[str, np.ndarray]
    buffers: Mapping[str, np.ndarray]
    inputs: Mapping[str, Any]
    training: bool = True
    draws: tuple[np.ndarray, ...] = ()
    cotangents: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    compute: Compute = dataclasses.field(kw_only=True)
    dtype: type = np.float64
    same: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @property
    def first(self) -> str:
        """The name of the first argument."""
        return next(iter(self.inputs))

    @property
    def input(self) -> Any:
        """The first argument."""
        return self.inputs[self.first]

    def altered(self, **config: Any) -> "Layer":
        """The layer with other arguments."""
        return dataclasses.replace(self, config={**self.config, **config})

    def wrapped(self, function: Callable[..., Result]) -> "Layer":
        """The layer computed by another function.

        Args:
            function: A function of (inner, parameters, buffers, inputs) that returns the output
                and the buffers; `inner(parameters, buffers, inputs)` is the layer as it was.
        """

        def compute(layer: Layer, parameters: Arrays, buffers: Arrays, inputs: Arrays) -> Result:
            return function(partial(self.compute, layer), parameters, buffers, inputs)

        return dataclasses.replace(self, compute=compute)

    def fed(self, function: Callable[[Any], Any]) -> "Layer":
        """The layer that is given a function of the first argument."""
        return self.wrapped(
            lambda inner, p, b, x: inner(p, b, {**x, self.first: function(x[self.first])})
        )

    def then(self, function: Callable[[Any], Any]) -> "Layer":
        """The layer whose output goes through a function."""

        def after(inner: Any, p: Arrays, b: Arrays, x: Arrays) -> Result:
            output, buffers = inner(p, b, x)
            return function(output), buffers

        return self.wrapped(after)

    def with_parameters(self, **functions: Callable[[Any], Any]) -> "Layer":
        """The layer that uses functions of its parameters, given by their names.

        Raises:
            ValueError: It has no such parameter.
        """
        if missing := functions.keys() - self.parameters.keys():
            raise ValueError(f"{self.kind}: it has no {', '.join(sorted(missing))}")

        def changed(inner: Any, p: Arrays, b: Arrays, x: Arrays) -> Result:
            return inner({**p, **{n: f(p[n]) for n, f in functions.items()}}, b, x)

        return self.wrapped(changed)

    def instead(self, function: Callable[..., Any]) -> "Layer":
        """The layer that is a function of (parameters, *inputs) and changes no buffer."""
        return self.wrapped(lambda inner, p, b, x: (function(p, *x.values()), b))

    def observe(self) -> dict[str, np.ndarray]:
        """Its numbers: "output", "buffer:NAME", "param_grad:NAME" and "input_grad:0".

        Outputs and inputs with parts have a name for each: "output.0", "input_grad:2.hidden".
        Inputs that are equal, as in self-attention, have one gradient, the sum of theirs: which
        of them a layer uses for what is its own affair.

        Raises:
            ValueError, TypeError: It cannot be computed.
        """
        with in_float64():
            parameters, buffers = (
                {name: self._array(array) for name, array in arrays.items()}
                for arrays in (self.parameters, self.buffers)
            )
            given = {path: self._array(a) for path, a in array_leaves(self.inputs)}
            moving = {path: a for path, a in given.items() if _is_float(a)}

            def run(parameters: Arrays, moving: Arrays) -> tuple[dict[str, Any], Any]:
                inputs = filled(self.inputs, {**given, **moving})
                output, after = self.compute(self, parameters, buffers, inputs)
                named = {n: leaf for n, leaf in leaves(output, "output") if _is_array(leaf)}
                floats = {name: leaf for name, leaf in named.items() if _is_float(leaf)}
                rest = {name: leaf for name, leaf in named.items() if name not in floats}
                return floats, (rest, after)

            if not self.cotangents:
                floats, (rest, after) = run(parameters, moving)
                gradients: dict[str, Any] = {}
            else:
                floats, pull, (rest, after) = jax.vjp(run, parameters, moving, has_aux=True)
                gradients = self._gradients(floats, pull)
            found = {**floats, **rest, **{f"buffer:{n}": a for n, a in after.items()}, **gradients}
            return {name: np.asarray(array) for name, array in found.items()}

    def _gradients(self, outputs: dict[str, Any], pull: Any) -> dict[str, Any]:
        slopes = {}
        for name, output in outputs.items():
            given = self.cotangents.get(name)
            if given is not None and given.shape != output.shape:
                return {}  # the altered layer gives another shape, which its output shows
            slopes[name] = jnp.zeros_like(output) if given is None else self._array(given)
        of_parameters, of_inputs = pull({n: s.astype(outputs[n].dtype) for n, s in slopes.items()})
        found = {f"param_grad:{name}": array for name, array in of_parameters.items()}
        for path, array in of_inputs.items():
            name = f"input_grad:{self.same.get(path, path)}"
            found[name] = found[name] + array if name in found else array
        return found

    def _array(self, array: Any) -> jax.Array:
        array = jnp.asarray(array)
        return array.astype(self.dtype) if _is_float(array) else array


@contextmanager
def in_float64() -> Iterator[None]:
    """Computes in float64, and without the strictness that the process may have chosen."""
    with (
        jax.enable_x64(True),
        jax.numpy_rank_promotion("allow"),
        jax.numpy_dtype_promotion("standard"),
    ):
        yield


def _is_array(value: Any) -> bool:
    return isinstance(value, np.ndarray | np.generic | jax.Array)


def _is_float(array: Any) -> bool:
    return bool(jnp.issubdtype(array.dtype, jnp.floating))


def array_leaves(value: Any) -> list[tuple[str, Any]]:
    """The arrays of a nested value with their paths."""
    return [(path, leaf) for path, leaf in leaves(value) if _is_array(leaf)]


def filled(value: Any, arrays: Arrays, path: str = "") -> Any:
    """A nested value with other arrays at some paths."""
    if isinstance(value, Mapping):
        return {n: filled(part, arrays, join(path, str(n))) for n, part in value.items()}
    if isinstance(value, tuple | list):
        parts = [filled(part, arrays, join(path, str(i))) for i, part in enumerate(value)]
        return tuple(parts) if isinstance(value, tuple) else parts
    return arrays.get(path, value)


def of_module(
    cls: str,
    config: Mapping[str, Any],
    parameters: Mapping[str, np.ndarray],
    buffers: Mapping[str, np.ndarray],
    inputs: Mapping[str, Any],
    *,
    training: bool = True,
    draws: Iterable[np.ndarray] = (),
    cotangents: Mapping[str, np.ndarray] | None = None,
) -> Layer:
    """A module of torch.nn, built with jaxnet; the arguments are the attributes of `Layer`.

    Raises:
        ValueError: jaxnet has no such class.
    """
    if not hasattr(nn, cls):
        raise ValueError(f"{cls}: jaxnet.nn has no such class")
    accepted = inspect.signature(getattr(nn, cls).__init__).parameters
    known = {name: _tuples(value) for name, value in config.items() if name in accepted}
    if "nonlinearity" in accepted and str(config.get("mode", "")).startswith("RNN_"):
        known["nonlinearity"] = config["mode"].removeprefix("RNN_").lower()
    if known.get("eps", 0) is None:
        known["eps"] = FLOAT32_EPS
    if "bias" in accepted:
        named = [name.rpartition(".")[2] for name in parameters]
        known["bias"] = any("bias" in name and name not in ("bias_k", "bias_v") for name in named)
    return Layer(
        cls,
        known,
        parameters,
        buffers,
        inputs,
        training,
        tuple(draws),
        cotangents or {},
        compute=_module,
        same=_same(array_leaves(inputs)),
    )


def _same(arrays: Sequence[tuple[str, Any]]) -> dict[str, str]:
    """The names of arrays that are equal to one before, each with the name of that one."""
    found = {}
    for i, (name, array) in enumerate(arrays):
        equal = (first for first, other in arrays[:i] if np.array_equal(array, other))
        found[name] = next(equal, name)
    return {name: first for name, first in found.items() if name != first}


def _module(layer: Layer, parameters: Arrays, buffers: Arrays, inputs: Arrays) -> Result:
    cls: Any = getattr(nn, layer.kind)
    config = dict(layer.config)
    if "rngs" in inspect.signature(cls.__init__).parameters:
        config["rngs"] = Generator(0)  # whose numbers are replaced
    module = cls(**config)
    module.train(layer.training)
    variables = dict(named_variables(module))
    # A change may take a parameter away or keep one that the changed module has no use for.
    for name, array in {**parameters, **buffers}.items():
        if name in variables:
            variables[name].set_value(array)
    args = [value for name, value in inputs.items() if name.isdigit()]
    kwargs = {name: value for name, value in inputs.items() if not name.isdigit()}
    with nn.draws(layer.draws):
        output = module(*args, **kwargs)
    return output, {name: variables[name][...] for name in buffers if name in variables}


def of_function(
    name: str,
    inputs: Mapping[str, Any],
    *,
    draws: Iterable[np.ndarray] = (),
    cotangents: Mapping[str, np.ndarray] | None = None,
) -> Layer:
    """A function of torch's by its name, such as "gelu", computed by jaxnet's.

    Args:
        name: The name, as torch's function or method has it: "softmax", "add_", "rsub".
        inputs: Its arguments: "0", "1", ... by position, others by name.
        draws: Its random draws.
        cotangents: As in `Layer`.

    Raises:
        ValueError: jaxnet has no such function, or it does not take these arguments.
    """
    name = name.strip("_")  # relu_ changes its argument, and gives what relu gives
    function = _OPERATORS.get(name) or getattr(functional, name, None) or getattr(ops, name, None)
    if function is None:
        raise ValueError(f"{name}: jaxnet has no such function")
    args = [_tuples(value) for key, value in inputs.items() if key.isdigit()]
    kwargs = {key: _tuples(value) for key, value in inputs.items() if not key.isdigit()}
    try:
        bound = inspect.signature(function).bind(*args, **kwargs)
    except TypeError as error:
        raise ValueError(f"{name}: {error}") from error
    bound.apply_defaults()
    given = bound.arguments
    if name == "rms_norm" and given["eps"] is None:
        given["eps"] = FLOAT32_EPS
    arrays = {key: v for key, v in given.items() if any(_is_array(a) for _, a in leaves(v))}
    inputs = {n: v for n, v in arrays.items() if n not in (*_PARAMETERS, *_BUFFERS)}
    # F.linear and the like are given a weight; the weight of F.embedding is its second argument.
    return Layer(
        name,
        {n: v for n, v in given.items() if n not in arrays},
        {n: v for n, v in arrays.items() if n in _PARAMETERS},
        {n: v for n, v in arrays.items() if n in _BUFFERS},
        inputs,
        bool(given.get("training", True)),
        tuple(draws),
        cotangents or {},
        compute=partial(_call, function),
    )


def _call(function: Any, layer: Layer, parameters: Arrays, buffers: Arrays, inputs: Arrays) -> Any:
    kept = {name: nn.Buffer(array) for name, array in buffers.items()}
    # By position where the function has no names for its arguments.
    given = {**layer.config, **inputs, **parameters, **kept}
    signature = inspect.signature(function)
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    for name, parameter in signature.parameters.items():
        if parameter.kind is parameter.VAR_POSITIONAL:
            args += given.get(name, ())
        elif parameter.kind is parameter.VAR_KEYWORD:
            kwargs |= given.get(name, {})
        elif parameter.kind is parameter.KEYWORD_ONLY:
            kwargs[name] = given[name]
        else:
            args.append(given[name])
    with nn.draws(layer.draws):
        output = function(*args, **kwargs)
    return output, {name: variable[...] for name, variable in kept.items()}


def _index(input: Any, index: Any) -> Any:
    return input[index]


# Torch's operators under the names that a trace has for them, without their underscores.
_OPERATORS: Mapping[str, Callable[..., Any]] = {
    "getitem": _index,
    "radd": lambda input, other: other + input,
    "rmul": lambda input, other: other * input,
    "rdiv": lambda input, other: other / input,
    "rtruediv": lambda input, other: other / input,
    "truediv": ops.div,
    "rpow": lambda input, other: other**input,
    "rmatmul": lambda input, other: ops.matmul(other, input),
    "T": lambda input: input.T,
    "mT": lambda input: input.mT,
}


def _tuples(value: Any) -> Any:
    """The lists that JSON has in place of tuples, as tuples."""
    return tuple(_tuples(part) for part in value) if isinstance(value, list) else value
