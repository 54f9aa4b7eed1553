"""The benchmarked models that no experiment has, in jaxnet; torch_models.py has them in PyTorch."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxnet import nn
from jaxnet.nn import functional as F


class BasicBlock(nn.Module):
    """Two convolutions with batch norm and a skip connection: torchvision's BasicBlock."""

    def __init__(self, inplanes: int, planes: int, stride: int, *, rngs: nn.init.Rngs) -> None:
        args: dict[str, Any] = {"kernel_size": 3, "padding": 1, "bias": False, "rngs": rngs}
        self.conv1 = nn.Conv2d(inplanes, planes, stride=stride, **args)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, **args)
        self.bn2 = nn.BatchNorm2d(planes)
        self.downsample = None
        if stride != 1 or inplanes != planes:
            self.downsample = nn.Sequential(
                nn.Conv2d(inplanes, planes, 1, stride=stride, bias=False, rngs=rngs),
                nn.BatchNorm2d(planes),
            )

    def __call__(self, x: jax.Array) -> jax.Array:
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        around = x if self.downsample is None else self.downsample(x)
        return F.relu(out + around)


class ResNet18(nn.Module):
    """ResNet-18 with torchvision's names, and the usual first layer for images of 32 by 32.

    The first layer is a convolution of 3 by 3 with stride 1 without pooling, instead of one of
    7 by 7 with stride 2 and a pooling. Images (N, 3, H, W) become scores (N, classes); at width
    64 the net has 11.2 million parameters.
    """

    def __init__(self, classes: int = 10, width: int = 64, *, rngs: nn.init.Rngs) -> None:
        self.conv1 = nn.Conv2d(3, width, kernel_size=3, padding=1, bias=False, rngs=rngs)
        self.bn1 = nn.BatchNorm2d(width)
        self.layer1 = _layer(width, width, 1, rngs)
        self.layer2 = _layer(width, 2 * width, 2, rngs)
        self.layer3 = _layer(2 * width, 4 * width, 2, rngs)
        self.layer4 = _layer(4 * width, 8 * width, 2, rngs)
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(8 * width, classes, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.layer4(self.layer3(self.layer2(self.layer1(out))))
        return self.fc(self.avgpool(out).reshape(x.shape[0], -1))


def _layer(inplanes: int, planes: int, stride: int, rngs: nn.init.Rngs) -> nn.Sequential:
    first = BasicBlock(inplanes, planes, stride, rngs=rngs)
    return nn.Sequential(first, BasicBlock(planes, planes, 1, rngs=rngs))


class Block(nn.Module):
    """Causal attention and two linear layers, each after a LayerNorm, with skip connections."""

    def __init__(self, width: int, heads: int, *, rngs: nn.init.Rngs) -> None:
        self.heads = heads
        self.ln_1 = nn.LayerNorm(width)
        self.c_attn = nn.Linear(width, 3 * width, rngs=rngs)
        self.c_proj = nn.Linear(width, width, rngs=rngs)
        self.ln_2 = nn.LayerNorm(width)
        self.c_fc = nn.Linear(width, 4 * width, rngs=rngs)
        self.c_out = nn.Linear(4 * width, width, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        n, length, width = x.shape
        q, k, v = (
            # (N, L, E) to (N, heads, L, E / heads)
            jnp.swapaxes(part.reshape(n, length, self.heads, -1), 1, 2)
            for part in jnp.split(self.c_attn(self.ln_1(x)), 3, axis=-1)
        )
        heads = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.c_proj(jnp.swapaxes(heads, 1, 2).reshape(n, length, width))
        return x + self.c_out(F.gelu(self.c_fc(self.ln_2(x)), approximate="tanh"))


class GPT(nn.Module):
    """A language model with GPT-2's blocks; the embedding of tokens is also the last layer.

    Token numbers (N, L) become scores (N, L, vocabulary). With 12 blocks, width 768 and 12
    heads it is GPT-2 small, with 124 million parameters.
    """

    def __init__(
        self,
        vocabulary: int = 50304,
        length: int = 1024,
        width: int = 768,
        blocks: int = 12,
        heads: int = 12,
        *,
        rngs: nn.init.Rngs,
    ) -> None:
        self.wte = nn.Embedding(vocabulary, width, rngs=rngs)
        self.wpe = nn.Embedding(length, width, rngs=rngs)
        for table in (self.wte, self.wpe):
            nn.init.normal_(table.weight, std=0.02, generator=rngs)
        self.h = nn.Sequential(*(Block(width, heads, rngs=rngs) for _ in range(blocks)))
        self.ln_f = nn.LayerNorm(width)

    def __call__(self, tokens: jax.Array) -> jax.Array:
        positions = jnp.arange(tokens.shape[1])
        x = self.wte(tokens) + self.wpe(positions)[None]
        return F.linear(self.ln_f(self.h(x)), self.wte.weight[...])
