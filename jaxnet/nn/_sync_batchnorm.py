"""Batch normalisation over all devices, under torch's name."""

from contextlib import nullcontext
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxnet._batch_parts import whole_batch
from jaxnet._names import members
from jaxnet.nn._batchnorm import BatchNorm1d, BatchNorm2d, BatchNorm3d, _BatchNorm


class SyncBatchNorm(_BatchNorm):
    """Normalises each channel over the batch of all devices: torch.nn.SyncBatchNorm.

    The input is (N, C, ...), and so is the output. In JAX one program computes with arrays that
    are spread over the devices, so the statistics of every batch norm of jaxnet are those of the
    whole batch already. This class is `BatchNorm1d` for any number of axes, under torch's name. A
    training step with `batch_norm_parts` cuts the batch for the other batch norms, and not for
    this one.

    Args:
        num_features: The number of channels C.
        eps: As in `BatchNorm1d`, and so are momentum, affine and track_running_stats.
        process_group: None; a mesh says which devices take part.
        bias: Whether an affine layer has a bias beside the weight.
        dtype: The dtype of the parameters and statistics.

    Raises:
        ValueError: A process_group is given.
    """

    _axes = tuple(range(2, 33))  # JAX's arrays have at most 32 axes
    _layouts = "(N, C, ...)"

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        process_group: None = None,
        *,
        bias: bool = True,
        dtype: DTypeLike = jnp.float32,
    ) -> None:
        _check_group(process_group)
        super().__init__(
            num_features, eps, momentum, affine, track_running_stats, bias=bias, dtype=dtype
        )

    def __call__(self, input: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        # In evaluation mode without running statistics torch's takes those of each process too.
        with whole_batch() if self.training else nullcontext():
            return super().__call__(input)

    @classmethod
    def convert_sync_batchnorm(cls, module: nnx.Module, process_group: None = None) -> Any:
        """Replaces every batch norm of a model by a SyncBatchNorm with the same arrays.

        Args:
            module: The model, which is changed in place; a batch norm itself is not changed.
            process_group: None.

        Returns:
            The model, or the new layer if the model is a batch norm itself.

        Raises:
            ValueError: A process_group is given.

        >>> from jaxnet import nn
        >>> SyncBatchNorm.convert_sync_batchnorm(nn.Sequential(nn.BatchNorm2d(3)))[0].num_features
        3
        """
        _check_group(process_group)
        if isinstance(module, BatchNorm1d | BatchNorm2d | BatchNorm3d):
            new = cls(
                module.num_features,
                module.eps,
                module.momentum,
                module.affine,
                module.track_running_stats,
            )
            for name in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
                setattr(new, name, getattr(module, name))
            return new.train(module.training)
        for name, child in members(module):
            if isinstance(child, nnx.Module):
                new = cls.convert_sync_batchnorm(child)
                if new is not child:
                    setattr(module, name, new)
        return module


def _check_group(process_group: Any) -> None:
    if process_group is not None:
        raise ValueError(
            f"SyncBatchNorm: process_group {process_group!r}; accepted is None. The devices that "
            "a batch is spread over are those of its sharding"
        )
