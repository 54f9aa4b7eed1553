"""Linear layers, convolutions, embeddings and containers, as flax.nnx has them."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxnet.port._flax.activations import prelu
from jaxnet.port._flax.functions import flatten, per_axis, unflatten


class Buffer(nnx.Variable[jax.Array]):
    """An array that belongs to a model and is not trained."""


def renamed(name: str) -> Any:
    """PyTorch's name of an attribute that flax reads by another; what is set is what flax reads."""
    return property(lambda self: getattr(self, name), lambda self, new: setattr(self, name, new))


class TorchLayout:
    """The kernel of a layer of flax.nnx in PyTorch's layout; what is written goes to the kernel."""

    def __init__(self, param: Any, axes: tuple[int, ...]) -> None:
        self.param, self.axes = param, axes

    def __getitem__(self, index: Any) -> jax.Array:
        return self.param[...].transpose(self.axes)[index]

    def __setitem__(self, index: Any, value: Any) -> None:
        array = self[...].at[index].set(value)
        self.param[...] = array.transpose([self.axes.index(i) for i in range(array.ndim)])

    def __jax_array__(self) -> jax.Array:
        return self[...]

    def __getattr__(self, name: str) -> Any:  # shape, dtype, ndim, T, ...
        return getattr(self[...], name)


def uniform(bound: float) -> Callable[..., jax.Array]:
    """Initial weights from -bound to bound, as PyTorch has them."""

    def init(key: Any, shape: Any, dtype: Any = jnp.float32, **options: Any) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


class Linear(nnx.Linear):
    """nnx.Linear with the arguments and the initial weights of torch.nn.Linear."""

    axes: tuple[int, ...] = (1, 0)

    def __init__(
        self, in_features: int, out_features: int, bias: bool = True, *, rngs: nnx.Rngs
    ) -> None:
        init = uniform(1 / math.sqrt(in_features) if in_features else 0.0)
        super().__init__(
            in_features, out_features, use_bias=bias, kernel_init=init, bias_init=init, rngs=rngs
        )

    @property
    def weight(self) -> Any:
        """The kernel as (out_features, in_features)."""
        return TorchLayout(self.kernel, self.axes)

    @weight.setter
    def weight(self, weight: Any) -> None:  # is shared with another layer
        self.kernel, self.axes = shared(weight)

    def __call__(self, inputs: Any) -> Any:  # type: ignore[override]
        y = inputs @ self.weight[...].T
        return y if self.bias is None else y + self.bias


def shared(weight: Any) -> tuple[Any, tuple[int, ...]]:
    """The nnx.Param of a weight, and the axes that bring it to PyTorch's layout."""
    if isinstance(weight, TorchLayout):
        return weight.param, weight.axes
    return weight, tuple(range(weight.ndim))


class Embedding(nnx.Embed):
    """nnx.Embed with the arguments and the initial weights of torch.nn.Embedding."""

    axes: tuple[int, ...] = (0, 1)

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        padding_idx: int | None = None,
        *,
        rngs: nnx.Rngs,
    ) -> None:
        init = nnx.initializers.normal(1.0)
        super().__init__(num_embeddings, embedding_dim, embedding_init=init, rngs=rngs)
        self.embedding_dim = embedding_dim
        self.padding_idx = padding_idx
        if padding_idx is not None:
            self.padding_idx = padding_idx % num_embeddings
            self.embedding[self.padding_idx] = 0.0

    @property
    def weight(self) -> Any:
        """The embedding as (num_embeddings, embedding_dim)."""
        return TorchLayout(self.embedding, self.axes)

    @weight.setter
    def weight(self, weight: Any) -> None:  # is shared with another layer
        self.embedding, self.axes = shared(weight)

    def __call__(self, inputs: Any) -> Any:  # type: ignore[override]
        y = self.weight[...][inputs]
        if self.padding_idx is None:
            return y
        # Its row has no gradient.
        return jnp.where((inputs == self.padding_idx)[..., None], jax.lax.stop_gradient(y), y)


class ConvNd(nnx.Conv):
    """nnx.Conv with torch.nn.Conv2d's arguments and initial weights, on (N, C, ...) as there."""

    rank = 0
    conv_general_dilated = property(lambda self: self.padded, lambda self, new: None)
    stride, dilation, groups = map(renamed, ("strides", "kernel_dilation", "feature_group_count"))
    torch_layout = True  # of the data outside, which jaxnet.parity is told so

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Any,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        *,
        rngs: nnx.Rngs,
    ) -> None:
        size, steps = per_axis(kernel_size, self.rank), per_axis(dilation, self.rank)
        reach = [d * (k - 1) for d, k in zip(steps, size, strict=True)]
        ends = padding if isinstance(padding, str) else per_axis(padding, self.rank)
        words = {"same": reach, "valid": [0] * self.rank}
        both = words[ends] if isinstance(ends, str) else [2 * n for n in ends]
        self.pads = tuple((n // 2, n - n // 2) for n in both)
        init = uniform(1 / math.sqrt(in_channels // groups * math.prod(size)))
        super().__init__(
            in_channels,
            out_channels,
            size,
            strides=per_axis(stride, self.rank),
            padding=ends,
            kernel_dilation=steps,
            feature_group_count=groups,
            use_bias=bias,
            kernel_init=init,
            bias_init=init,
            rngs=rngs,
        )
        self.in_channels, self.out_channels = in_channels, out_channels
        self.padding_mode = padding_mode
        self.padding_of_mode = padding_mode != "zeros" and ends

    @property
    def weight(self) -> Any:
        """The kernel as (out_channels, in_channels // groups, ...)."""
        return TorchLayout(self.kernel, (self.rank + 1, self.rank, *range(self.rank)))

    def __call__(self, inputs: Any) -> Any:  # type: ignore[override]
        if self.padding_of_mode != (self.padding_mode != "zeros" and self.padding):
            raise NotImplementedError("padding_mode and its padding are not set later")
        y = super().__call__(jnp.moveaxis(inputs, -1 - self.rank, -1))
        return jnp.moveaxis(y, -1, -1 - self.rank)

    def padded(self, x: Any, kernel: Any, strides: Any, padding: Any, **options: Any) -> Any:
        """The convolution of (N, ..., C), whose ends are those of the mode."""
        if self.padding_mode != "zeros":
            mode = {"circular": "wrap", "reflect": "reflect", "replicate": "edge"}
            x = jnp.pad(x, [(0, 0), *self.pads, (0, 0)], mode=mode[self.padding_mode])
            padding = "VALID"
        return jax.lax.conv_general_dilated(x, kernel, strides, padding, **options)


class Conv1d(ConvNd):
    """A convolution of (N, C, L)."""

    rank = 1


class Conv2d(ConvNd):
    """A convolution of (N, C, H, W)."""

    rank = 2


class Conv3d(ConvNd):
    """A convolution of (N, C, D, H, W)."""

    rank = 3


class ConvTransposeNd(nnx.ConvTranspose):
    """nnx.ConvTranspose with the arguments and the initial weights of torch.nn.ConvTranspose2d.

    The data is (N, C, ...) outside, as in PyTorch, and (N, ..., C) in nnx.ConvTranspose.
    """

    rank = 0

    torch_layout = True  # of the data outside, which jaxnet.parity is told so

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Any,
        stride: Any = 1,
        padding: Any = 0,
        output_padding: Any = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: Any = 1,
        *,
        rngs: nnx.Rngs,
    ) -> None:
        size, steps = per_axis(kernel_size, self.rank), per_axis(dilation, self.rank)
        init = uniform(1 / math.sqrt(out_channels // groups * math.prod(size)))
        # PyTorch has the inputs of all groups in one axis of its weight, and so has this kernel.
        super().__init__(
            in_channels,
            out_channels // groups,
            size,
            strides=per_axis(stride, self.rank),
            kernel_dilation=steps,
            use_bias=False,
            kernel_init=init,
            transpose_kernel=True,
            rngs=rngs,
        )
        if bias:
            self.bias = nnx.Param(init(rngs.params(), (out_channels,)))
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        self.stride, self.dilation = per_axis(stride, self.rank), steps
        self.padding = per_axis(padding, self.rank)
        self.output_padding = per_axis(output_padding, self.rank)

    @property
    def weight(self) -> Any:
        """The kernel as (in_channels, out_channels // groups, ...)."""
        return TorchLayout(self.kernel, (self.rank + 1, self.rank, *range(self.rank)))

    def __call__(self, inputs: Any) -> Any:  # type: ignore[override]
        x = jnp.moveaxis(inputs, -1 - self.rank, -1)
        kernels = jnp.split(self.kernel[...], self.groups, axis=-1)
        parts = jnp.split(x, self.groups, axis=-1)
        y = jnp.concatenate([self.group(x, k) for x, k in zip(parts, kernels, strict=True)], -1)
        y = y if self.bias is None else y + self.bias
        return jnp.moveaxis(y, -1, -1 - self.rank)

    def group(self, x: jax.Array, kernel: jax.Array) -> jax.Array:
        """The transposed convolution of one group of channels."""
        single = x.ndim == self.rank + 1
        each: Any = self.dilation, self.kernel_size, self.padding, self.output_padding
        each = zip(*(per_axis(n, self.rank) for n in each), strict=True)
        # PyTorch's padding is what it takes away of the whole result.
        y = jax.lax.conv_transpose(
            x[None] if single else x,
            kernel,
            per_axis(self.stride, self.rank),
            [(d * (k - 1) - p, d * (k - 1) - p + more) for d, k, p, more in each],
            rhs_dilation=per_axis(self.dilation, self.rank),
            transpose_kernel=True,
        )
        return y[0] if single else y


class ConvTranspose1d(ConvTransposeNd):
    """A transposed convolution of (N, C, L)."""

    rank = 1


class ConvTranspose2d(ConvTransposeNd):
    """A transposed convolution of (N, C, H, W)."""

    rank = 2


class ConvTranspose3d(ConvTransposeNd):
    """A transposed convolution of (N, C, D, H, W)."""

    rank = 3


class Sequential(nnx.Sequential):
    """Layers, each of which is given what the one before it returns, as torch.nn.Sequential."""

    def __init__(self, *layers: Any, rngs: nnx.Rngs | None = None) -> None:
        names: Any = map(str, range(len(layers)))
        if len(layers) == 1 and isinstance(layers[0], dict):  # an OrderedDict
            names, layers = layers[0].keys(), tuple(layers[0].values())
        super().__init__(*layers)
        self.names: tuple[str, ...] = ()
        for name in names:
            self.names += (self.free(name),)

    def __call__(self, inputs: Any) -> Any:  # type: ignore[override]
        others = [n for n, v in vars(self).items() if n != "layers" and isinstance(v, nnx.Module)]
        if others:
            raise NotImplementedError(
                f"{others}: PyTorch calls what is assigned to a Sequential; write self.append(...)"
            )
        for layer in self.layers:
            inputs = layer(inputs)
        return inputs

    def __iter__(self) -> Any:
        return iter(self.layers)

    def __len__(self) -> int:
        return len(self.layers)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return type(self)(dict(zip(self.names[index], self.layers[index], strict=True)))
        return self.layers[index]

    def __getattr__(self, name: str) -> Any:
        names = vars(self).get("names", ())
        if name not in names:
            raise AttributeError(f"{type(self).__name__} has no attribute and no layer {name!r}")
        return self.layers[names.index(name)]

    def append(self, layer: Any) -> Any:
        self.add_module(str(len(self.layers)), layer)
        return self

    def add_module(self, name: str, layer: Any) -> None:
        """Puts a layer behind the others, or in the place that has the name."""
        if name in self.names:
            self.layers[self.names.index(name)] = layer
        else:
            self.names += (self.free(name),)
            self.layers.append(layer)

    def free(self, name: str) -> str:
        """The name of a layer, which is none of the Sequential's own."""
        if name in vars(self) or hasattr(type(self), name):
            raise NotImplementedError(
                f"a layer {name!r} cannot be read by its name, which nnx.Sequential has for "
                "something else; give it another"
            )
        return name


class Dropout(nnx.Dropout):
    """nnx.Dropout with the arguments of torch.nn.Dropout."""

    p = renamed("rate")

    def __init__(self, p: float = 0.5, inplace: bool = False, *, rngs: nnx.Rngs) -> None:
        super().__init__(p, rngs=rngs)


class Dropout2d(Dropout):
    """Drops whole channels of (N, C, H, W)."""

    space = 2

    def __call__(self, inputs: Any, **options: Any) -> Any:  # type: ignore[override]
        self.broadcast_dims: Sequence[int] = range(inputs.ndim - self.space, inputs.ndim)
        return super().__call__(inputs, **options)


class Dropout1d(Dropout2d):
    """Drops whole channels of (N, C, L)."""

    space = 1


class Dropout3d(Dropout2d):
    """Drops whole channels of (N, C, D, H, W)."""

    space = 3


class Identity(nnx.Module):
    """Gives back what it is given."""

    def __init__(self, *args: Any, rngs: nnx.Rngs | None = None, **options: Any) -> None:
        pass

    def __call__(self, x: Any) -> Any:
        return x


class Flatten(nnx.Module):
    """Makes one axis of several, in PyTorch's order."""

    def __init__(
        self, start_dim: int = 1, end_dim: int = -1, *, rngs: nnx.Rngs | None = None
    ) -> None:
        self.start_dim, self.end_dim = start_dim, end_dim

    def __call__(self, x: jax.Array) -> jax.Array:
        return flatten(x, self.start_dim, self.end_dim)


class Unflatten(nnx.Module):
    """Makes several axes of one."""

    def __init__(self, dim: int, unflattened_size: Any, *, rngs: nnx.Rngs | None = None) -> None:
        self.dim, self.unflattened_size = dim, tuple(unflattened_size)

    def __call__(self, x: jax.Array) -> jax.Array:
        return unflatten(x, self.dim, self.unflattened_size)


class PReLU(nnx.Module):
    """Leaky ReLU with slopes that are learned."""

    def __init__(
        self, num_parameters: int = 1, init: float = 0.25, *, rngs: nnx.Rngs | None = None
    ) -> None:
        self.weight = nnx.Param(jnp.full((num_parameters,), init))

    def __call__(self, x: jax.Array) -> jax.Array:
        return prelu(x, self.weight)
