"""The variants of the document's small net: width, dropout, batch norm, skips, depth."""

import jax
import jax.numpy as jnp

from jaxnet import nn
from jaxnet.nn import functional as F


class NetWidth(nn.Module):
    """The document's net with more channels."""

    def __init__(self, n_channel: int = 32, *, rngs: nn.init.Rngs) -> None:
        self.conv1 = nn.Conv2d(3, n_channel, kernel_size=3, padding=1, rngs=rngs)
        self.conv2 = nn.Conv2d(n_channel, n_channel // 2, kernel_size=3, padding=1, rngs=rngs)
        self.fc1 = nn.Linear(n_channel // 2 * 8 * 8, 32, rngs=rngs)
        self.fc2 = nn.Linear(32, 2, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        out = F.max_pool2d(jnp.tanh(self.conv1(x)), 2)
        out = F.max_pool2d(jnp.tanh(self.conv2(out)), 2)
        out = out.reshape(x.shape[0], -1)
        return self.fc2(jnp.tanh(self.fc1(out)))


class NetDropout(nn.Module):
    """Whole channels dropped after each pool."""

    def __init__(self, n_chans1: int = 32, *, rngs: nn.init.Rngs) -> None:
        self.conv1 = nn.Conv2d(3, n_chans1, kernel_size=3, padding=1, rngs=rngs)
        self.conv1_dropout = nn.Dropout2d(p=0.4)
        self.conv2 = nn.Conv2d(n_chans1, n_chans1 // 2, kernel_size=3, padding=1, rngs=rngs)
        self.conv2_dropout = nn.Dropout2d(p=0.4)
        self.fc1 = nn.Linear(8 * 8 * n_chans1 // 2, 32, rngs=rngs)
        self.fc2 = nn.Linear(32, 2, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        out = self.conv1_dropout(F.max_pool2d(jnp.tanh(self.conv1(x)), 2))
        out = self.conv2_dropout(F.max_pool2d(jnp.tanh(self.conv2(out)), 2))
        out = out.reshape(x.shape[0], -1)
        return self.fc2(jnp.tanh(self.fc1(out)))


class NetBatchNorm(nn.Module):
    """Batch normalisation between convolution and activation."""

    def __init__(self, n_chans1: int = 32, *, rngs: nn.init.Rngs) -> None:
        self.conv1 = nn.Conv2d(3, n_chans1, kernel_size=3, padding=1, rngs=rngs)
        self.conv1_batchnorm = nn.BatchNorm2d(num_features=n_chans1)
        self.conv2 = nn.Conv2d(n_chans1, n_chans1 // 2, kernel_size=3, padding=1, rngs=rngs)
        self.conv2_batchnorm = nn.BatchNorm2d(num_features=n_chans1 // 2)
        self.fc1 = nn.Linear(8 * 8 * n_chans1 // 2, 32, rngs=rngs)
        self.fc2 = nn.Linear(32, 2, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        out = F.max_pool2d(jnp.tanh(self.conv1_batchnorm(self.conv1(x))), 2)
        out = F.max_pool2d(jnp.tanh(self.conv2_batchnorm(self.conv2(out))), 2)
        out = out.reshape(x.shape[0], -1)
        return self.fc2(jnp.tanh(self.fc1(out)))


class NetRes(nn.Module):
    """A third convolution with a skip connection."""

    def __init__(self, n_chans1: int = 32, *, rngs: nn.init.Rngs) -> None:
        half = n_chans1 // 2
        self.conv1 = nn.Conv2d(3, n_chans1, kernel_size=3, padding=1, rngs=rngs)
        self.conv2 = nn.Conv2d(n_chans1, half, kernel_size=3, padding=1, rngs=rngs)
        self.conv3 = nn.Conv2d(half, half, kernel_size=3, padding=1, rngs=rngs)
        self.fc1 = nn.Linear(4 * 4 * half, 32, rngs=rngs)
        self.fc2 = nn.Linear(32, 2, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        out = F.max_pool2d(F.relu(self.conv1(x)), 2)
        out = F.max_pool2d(F.relu(self.conv2(out)), 2)
        out = F.max_pool2d(F.relu(self.conv3(out)) + out, 2)
        out = out.reshape(x.shape[0], -1)
        return self.fc2(F.relu(self.fc1(out)))


class ResBlock(nn.Module):
    """Convolution, batch norm, ReLU, and a skip connection; the document's initial weights."""

    def __init__(self, n_chans: int, *, rngs: nn.init.Rngs) -> None:
        self.conv = nn.Conv2d(n_chans, n_chans, kernel_size=3, padding=1, bias=False, rngs=rngs)
        self.batch_norm = nn.BatchNorm2d(num_features=n_chans)
        nn.init.kaiming_normal_(self.conv.weight, nonlinearity="relu", generator=rngs)
        nn.init.constant_(self.batch_norm.weight, 0.5)
        nn.init.zeros_(self.batch_norm.bias)

    def __call__(self, x: jax.Array) -> jax.Array:
        return F.relu(self.batch_norm(self.conv(x))) + x


class NetResDeep(nn.Module):
    """A net of many residual blocks; by default, as in the document, one block used many times.

    Args:
        n_chans1: The number of channels.
        n_blocks: The number of blocks.
        shared: Whether all blocks are one module.
        rngs: The generator of the initial weights.
    """

    def __init__(
        self,
        n_chans1: int = 32,
        n_blocks: int = 10,
        shared: bool = True,
        *,
        rngs: nn.init.Rngs,
    ) -> None:
        self.conv1 = nn.Conv2d(3, n_chans1, kernel_size=3, padding=1, rngs=rngs)
        if shared:
            blocks = n_blocks * [ResBlock(n_chans=n_chans1, rngs=rngs)]
        else:
            blocks = [ResBlock(n_chans=n_chans1, rngs=rngs) for _ in range(n_blocks)]
        self.resblocks = nn.Sequential(*blocks)
        self.fc1 = nn.Linear(8 * 8 * n_chans1, 32, rngs=rngs)
        self.fc2 = nn.Linear(32, 2, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        out = F.max_pool2d(F.relu(self.conv1(x)), 2)
        out = F.max_pool2d(self.resblocks(out), 2)
        out = out.reshape(x.shape[0], -1)
        return self.fc2(F.relu(self.fc1(out)))
