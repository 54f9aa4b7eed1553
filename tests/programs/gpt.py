"""A small GPT: tied weights, decay groups, warm-up and cosine, clipping, accumulation."""

import math

import jax
import numpy as np

from jaxnet import losses, nn, ops, optim, train
from jaxnet.nn import functional as F
from jaxnet.random import Generator
from tests.programs.synthetic import text

WORDS, BLOCK, WIDTH, HEADS, LAYERS = 24, 8, 16, 2, 2


class CausalSelfAttention(nn.Module):
    def __init__(self, rngs):
        self.c_attn = nn.Linear(WIDTH, 3 * WIDTH, rngs=rngs)
        self.c_proj = nn.Linear(WIDTH, WIDTH, rngs=rngs)

    def __call__(self, x):
        B, T, C = x.shape
        qkv = self.c_attn(x).reshape(B, T, 3, HEADS, C // HEADS)
        q, k, v = ops.permute(qkv, 2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.c_proj(ops.transpose(y, 1, 2).reshape(B, T, C))


class Block(nn.Module):
    def __init__(self, rngs):
        self.ln_1 = nn.LayerNorm(WIDTH, bias=False)
        self.attn = CausalSelfAttention(rngs)
        self.ln_2 = nn.LayerNorm(WIDTH, bias=False)
        self.mlp = nn.Sequential(
            nn.Linear(WIDTH, 4 * WIDTH, rngs=rngs),
            nn.GELU(),
            nn.Linear(4 * WIDTH, WIDTH, rngs=rngs),
        )

    def __call__(self, x):
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class GPT(nn.Module):
    def __init__(self, rngs):
        self.wte = nn.Embedding(WORDS, WIDTH, rngs=rngs)
        self.wpe = nn.Embedding(BLOCK, WIDTH, rngs=rngs)
        self.h = nn.ModuleList([Block(rngs) for _ in range(LAYERS)])
        self.ln_f = nn.LayerNorm(WIDTH, bias=False)
        self.lm_head = nn.Linear(WIDTH, WORDS, bias=False, rngs=rngs)
        self.lm_head.weight = self.wte.weight
        self.apply(lambda module: self.init_weights(module, rngs))

    def init_weights(self, module, rngs):
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=0.02, generator=rngs)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)

    def __call__(self, tokens):
        x = self.wte(tokens) + self.wpe(ops.arange(tokens.shape[1]))
        for block in self.h:
            x = block(x)
        return self.lm_head(self.ln_f(x))


def warm_up_and_cosine(step):
    if step < 10:
        return (step + 1) / 10
    return 0.1 + 0.45 * (1 + math.cos(math.pi * (step - 10) / 40))


def loss_function(model, rows):
    logits = model(rows[:, :-1])
    return losses.cross_entropy(logits.reshape(-1, WORDS), rows[:, 1:].reshape(-1))


def main(cast=lambda x: x):
    rngs = Generator(1)
    tokens = text(2000, WORDS)
    model = cast(GPT(rngs))
    adamw = optim.groups(
        [(lambda name, p: p.ndim < 2, optim.AdamW(lr=1e-2, betas=(0.9, 0.95), weight_decay=0.0))],
        optim.AdamW(lr=1e-2, betas=(0.9, 0.95), weight_decay=0.1),
    )
    schedule = optim.LambdaLR(adamw, warm_up_and_cosine)
    optimizer = optim.chain(optim.clip_by_norm(1.0), optim.scheduled(adamw, schedule, steps=50))
    state = train.create(model, optimizer)
    step = jax.jit(train.make_train_step(loss_function, optimizer, microbatches=2))
    for _ in range(50):
        starts = rngs.randint(0, len(tokens) - BLOCK - 1, 8)
        rows = np.stack([tokens[i : i + BLOCK + 1] for i in starts])
        state, metrics = step(state, rows)
        yield metrics["loss"].item()
    return state.model().state_dict()
