"""A language model with a transformer encoder and a causal mask."""

import math

import jax

from jaxnet import losses, nn, ops, optim, train
from jaxnet.nn import functional as F
from jaxnet.random import Generator
from tests.programs.synthetic import text

WORDS, WIDTH, BPTT = 24, 16, 6


class PositionalEncoding(nn.Module):
    def __init__(self, d_model, dropout=0.1, max_len=20):
        self.dropout = nn.Dropout(dropout)
        pe = ops.zeros(max_len, d_model)
        position = ops.float(ops.arange(max_len))[:, None]
        div_term = ops.exp(ops.float(ops.arange(0, d_model, 2)) * (-math.log(10000.0) / d_model))
        pe = pe.at[:, 0::2].set(ops.sin(position * div_term))
        pe = pe.at[:, 1::2].set(ops.cos(position * div_term))
        self.register_buffer("pe", pe[:, None])

    def __call__(self, x):
        return self.dropout(x + self.pe[: len(x)])


class TransformerModel(nn.Module):
    def __init__(self, rngs):
        self.pos_encoder = PositionalEncoding(WIDTH)
        layer = nn.TransformerEncoderLayer(WIDTH, 2, 32, dropout=0.0, rngs=rngs)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.input_emb = nn.Embedding(WORDS, WIDTH, rngs=rngs)
        self.decoder = nn.Linear(WIDTH, WORDS, rngs=rngs)
        nn.init.uniform_(self.input_emb.weight, -0.1, 0.1, generator=rngs)
        nn.init.uniform_(self.decoder.weight, -0.1, 0.1, generator=rngs)
        nn.init.zeros_(self.decoder.bias)

    def __call__(self, src):
        mask = nn.Transformer.generate_square_subsequent_mask(len(src))
        src = self.pos_encoder(self.input_emb(src) * math.sqrt(WIDTH))
        output = self.encoder(src, mask=mask, is_causal=True)
        return F.log_softmax(self.decoder(output), dim=-1)


def loss_function(model, batch):
    data, targets = batch
    return losses.nll_loss(model(data).reshape(-1, WORDS), targets.reshape(-1))


def batchify(tokens, batch):
    return tokens[: len(tokens) // batch * batch].reshape(batch, -1).T


def main(cast=lambda x: x):
    source = batchify(text(1204, WORDS), 4)
    model = cast(TransformerModel(Generator(1)))
    optimizer = optim.chain(optim.clip_by_norm(0.25), optim.SGD(lr=0.5))
    state = train.create(model, optimizer)
    step = jax.jit(train.make_train_step(loss_function, optimizer))
    for i in range(0, len(source) - 1, BPTT):
        data, targets = source[i : i + BPTT], source[i + 1 : i + 1 + BPTT]
        state, metrics = step(state, (data, targets))
        yield metrics["loss"].item()
    return state.model().state_dict()
