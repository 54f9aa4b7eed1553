"""A language model with an LSTM whose state is carried from batch to batch."""

import jax

from jaxnet import losses, nn, ops, optim, train
from jaxnet.nn import functional as F
from jaxnet.random import Generator
from tests.programs.synthetic import text

WORDS, WIDTH, BPTT = 24, 16, 6


class RNNModel(nn.Module):
    def __init__(self, rngs, batch):
        self.drop = nn.Dropout(0.2)
        self.encoder = nn.Embedding(WORDS, WIDTH, rngs=rngs)
        self.rnn = nn.LSTM(WIDTH, WIDTH, 2, rngs=rngs)
        self.decoder = nn.Linear(WIDTH, WORDS, rngs=rngs)
        self.decoder.weight = self.encoder.weight
        nn.init.uniform_(self.encoder.weight, -0.1, 0.1, generator=rngs)
        nn.init.zeros_(self.decoder.bias)
        self.h = nn.Buffer(ops.zeros(2, batch, WIDTH), persistent=False)
        self.c = nn.Buffer(ops.zeros(2, batch, WIDTH), persistent=False)

    def __call__(self, tokens, begins):
        emb = self.drop(self.encoder(tokens))
        hidden = tuple(ops.where(begins, 0.0, h) for h in (self.h, self.c))
        output, hidden = self.rnn(emb, hidden)
        self.h[...], self.c[...] = map(ops.detach, hidden)
        decoded = self.decoder(self.drop(output))
        return F.log_softmax(decoded.reshape(-1, WORDS), dim=1)


def loss_function(model, batch):
    data, targets, begins = batch
    return losses.nll_loss(model(data, begins), targets.reshape(-1))


def batchify(tokens, batch):
    return tokens[: len(tokens) // batch * batch].reshape(batch, -1).T


def main(cast=lambda x: x):
    source = batchify(text(604, WORDS), 4)
    model = cast(RNNModel(Generator(1), 4))
    optimizer = optim.chain(optim.clip_by_norm(0.25), optim.SGD(lr=1.0))
    state = train.create(model, optimizer)
    step = jax.jit(train.make_train_step(loss_function, optimizer))
    for _ in range(2):
        for i in range(0, len(source) - 1, BPTT):
            data, targets = source[i : i + BPTT], source[i + 1 : i + 1 + BPTT]
            state, metrics = step(state, (data, targets, i == 0))
            yield metrics["loss"].item()
    return state.model().state_dict()
