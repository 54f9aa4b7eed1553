"""Normalisations, with PyTorch's numbers: epsilon, momentum, and the unbiased running variance."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxnet.port._flax.layers import renamed


class BatchNormNd(nnx.BatchNorm):
    """nnx.BatchNorm with the arguments of torch.nn.BatchNorm1d, BatchNorm2d and BatchNorm3d.

    The momentum is PyTorch's, the share of the new value, which is 1 minus flax's; and the running
    variance takes the unbiased one.
    """

    eps = renamed("epsilon")
    torch_layout = True  # of the data outside, which jaxnet.parity is told so

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        *,
        rngs: nnx.Rngs | None = None,
    ) -> None:
        if momentum is None:
            raise NotImplementedError("momentum=None, the mean of all: give a number")
        super().__init__(
            num_features,
            axis=1,  # of (N, C, ...)
            epsilon=eps,
            momentum=momentum,
            use_bias=affine,
            use_scale=affine,
            use_fast_variance=False,
            rngs=nnx.Rngs(0),  # what it begins with are zeros and ones
        )
        self.track_running_stats = self.has_running_stats = track_running_stats

    @property
    def weight(self) -> Any:
        return self.scale

    @property
    def running_mean(self) -> Any:
        return self.mean if self.has_running_stats else None

    @property
    def running_var(self) -> Any:
        return self.var if self.has_running_stats else None

    def __call__(self, x: jax.Array) -> jax.Array:  # type: ignore[override]
        if self.use_running_average and self.has_running_stats:
            return super().__call__(x)
        before, share = (self.mean[...], self.var[...]), self.momentum
        self.momentum = 0.0  # of flax, which then puts those of the batch in place
        try:
            y = super().__call__(x, use_running_average=False)
        finally:
            self.momentum = share
        if not (self.track_running_stats and self.has_running_stats):
            self.mean[...], self.var[...] = before
            return y
        n = x.size // x.shape[1]
        self.mean[...] = share * self.mean[...] + (1 - share) * before[0]
        self.var[...] = share * self.var[...] * (n / max(n - 1, 1)) + (1 - share) * before[1]
        return y


class BatchNorm1d(BatchNormNd):
    """Normalizes (N, C) or (N, C, L) by the batch."""


class BatchNorm2d(BatchNormNd):
    """Normalizes (N, C, H, W) by the batch."""


class BatchNorm3d(BatchNormNd):
    """Normalizes (N, C, D, H, W) by the batch."""


class LayerNorm(nnx.LayerNorm):
    """nnx.LayerNorm with the arguments of torch.nn.LayerNorm, whose epsilon is another."""

    eps = renamed("epsilon")

    def __init__(
        self,
        normalized_shape: Any,
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
        *,
        rngs: nnx.Rngs | None = None,
    ) -> None:
        shape = (normalized_shape,) if isinstance(normalized_shape, int) else normalized_shape
        super().__init__(
            math.prod(shape),
            epsilon=eps,
            use_scale=elementwise_affine,
            use_bias=elementwise_affine and bias,
            use_fast_variance=False,
            rngs=nnx.Rngs(0),  # what it begins with are zeros and ones
        )
        self.normalized_shape = tuple(shape)

    @property
    def weight(self) -> Any:
        return self.scale

    def __call__(self, x: jax.Array, **options: Any) -> jax.Array:
        axes = len(self.normalized_shape)
        flat = x.reshape(*x.shape[: x.ndim - axes], -1)
        return super().__call__(flat, **options).reshape(x.shape)


class RMSNorm(nnx.RMSNorm):
    """nnx.RMSNorm with the arguments of torch.nn.RMSNorm, whose epsilon is that of the dtype."""

    def __init__(
        self,
        normalized_shape: Any,
        eps: float | None = None,
        elementwise_affine: bool = True,
        *,
        rngs: nnx.Rngs | None = None,
    ) -> None:
        shape = (normalized_shape,) if isinstance(normalized_shape, int) else normalized_shape
        super().__init__(
            math.prod(shape),
            epsilon=0.0 if eps is None else eps,
            use_scale=elementwise_affine,
            rngs=nnx.Rngs(0),  # what it begins with are ones
        )
        self.normalized_shape, self.eps = tuple(shape), eps

    @property
    def weight(self) -> Any:
        return self.scale

    def __call__(self, x: jax.Array, **options: Any) -> jax.Array:  # type: ignore[override]
        epsilon = float(jnp.finfo(x.dtype).eps) if self.eps is None else self.eps
        if self.epsilon != epsilon:
            self.epsilon = epsilon
        axes = len(self.normalized_shape)
        flat = x.reshape(*x.shape[: x.ndim - axes], -1)
        return super().__call__(flat, **options).reshape(x.shape)


class GroupNorm(nnx.GroupNorm):
    """nnx.GroupNorm with the arguments of torch.nn.GroupNorm, for (N, C, ...)."""

    eps = renamed("epsilon")
    torch_layout = True  # of the data outside, which jaxnet.parity is told so

    def __init__(
        self,
        num_groups: int,
        num_channels: int,
        eps: float = 1e-5,
        affine: bool = True,
        *,
        rngs: nnx.Rngs | None = None,
    ) -> None:
        super().__init__(
            num_channels,
            num_groups=num_groups,
            epsilon=eps,
            use_bias=affine,
            use_scale=affine,
            use_fast_variance=False,
            rngs=nnx.Rngs(0),  # what it begins with are zeros and ones
        )
        self.num_channels = num_channels

    @property
    def weight(self) -> Any:
        return self.scale

    def __call__(self, x: jax.Array, **options: Any) -> jax.Array:  # type: ignore[override]
        return jnp.moveaxis(super().__call__(jnp.moveaxis(x, 1, -1), **options), -1, 1)


class InstanceNormNd(nnx.InstanceNorm):
    """nnx.InstanceNorm with the arguments of torch.nn.InstanceNorm2d, for (N, C, ...)."""

    eps = renamed("epsilon")
    torch_layout = True  # of the data outside, which jaxnet.parity is told so

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float = 0.1,
        affine: bool = False,
        track_running_stats: bool = False,
        *,
        rngs: nnx.Rngs | None = None,
    ) -> None:
        self.track_running_stats = track_running_stats
        super().__init__(
            num_features,
            epsilon=eps,
            use_bias=affine,
            use_scale=affine,
            use_fast_variance=False,
            rngs=nnx.Rngs(0),  # what it begins with are zeros and ones
        )

    @property
    def track_running_stats(self) -> bool:
        return False

    @track_running_stats.setter
    def track_running_stats(self, new: bool) -> None:
        if new:
            raise NotImplementedError(
                "track_running_stats=True is not written here: flax keeps no running statistics "
                "of an instance norm; leave it False"
            )

    @property
    def weight(self) -> Any:
        return self.scale

    def __call__(self, x: jax.Array, **options: Any) -> jax.Array:  # type: ignore[override]
        return jnp.moveaxis(super().__call__(jnp.moveaxis(x, 1, -1), **options), -1, 1)


class InstanceNorm1d(InstanceNormNd):
    """Normalizes each channel of each (C, L)."""


class InstanceNorm2d(InstanceNormNd):
    """Normalizes each channel of each (C, H, W)."""


class InstanceNorm3d(InstanceNormNd):
    """Normalizes each channel of each (C, D, H, W)."""
