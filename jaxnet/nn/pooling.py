"""Pooling."""

import jax
import jax.numpy as jnp

from jaxnet.nn.module import Module, wrong_shape

__all__ = ["MaxPool2d", "max_pool2d"]


@jax.custom_vjp
def _block_max(blocks: jax.Array) -> jax.Array:
    """(..., H, kH, W, kW) to (..., H, W): the largest of each block.

    The gradient goes to the first largest in reading order, as torch sends it;
    XLA's own would share it between ties and is several times slower.
    """
    return blocks.max((-3, -1))


def _block_max_forward(blocks):
    largest = _block_max(blocks)
    return largest, (blocks, largest)


def _block_max_backward(saved, dy):
    blocks, largest = saved
    free = jnp.ones(largest.shape, bool)
    rows = []
    for i in range(blocks.shape[-3]):
        row = []
        for j in range(blocks.shape[-1]):
            first = (blocks[..., i, :, j] == largest) & free
            free = free & ~first
            row.append(jnp.where(first, dy, 0))
        rows.append(jnp.stack(row, -1))
    return (jnp.stack(rows, -3),)


_block_max.defvjp(_block_max_forward, _block_max_backward)


def max_pool2d(input: jax.Array, kernel_size: int | tuple[int, int]) -> jax.Array:
    """The largest number of each window, windows side by side: F.max_pool2d.

    Args:
        input: (..., H, W); rows and columns that fill no window are left out.
        kernel_size: height and width of the window, or one number for both.

    Returns:
        (..., H // kH, W // kW).
    """
    high, wide = (kernel_size, kernel_size) if isinstance(kernel_size, int) else kernel_size
    h, w = input.shape[-2] // high, input.shape[-1] // wide
    whole = input[..., : h * high, : w * wide]
    return _block_max(whole.reshape(*input.shape[:-2], h, high, w, wide))


class MaxPool2d(Module):
    """The largest number of each window: torch.nn.MaxPool2d, windows side by side."""

    def __init__(self, kernel_size: int | tuple[int, int]) -> None:
        self.kernel_size = kernel_size

    def __call__(self, input: jax.Array) -> jax.Array:
        if input.ndim not in (3, 4):
            raise wrong_shape(self, "(N, C, H, W) or (C, H, W)", input)
        return max_pool2d(input, self.kernel_size)

    def extra_repr(self) -> str:
        return f"kernel_size={self.kernel_size}, stride={self.kernel_size}"
