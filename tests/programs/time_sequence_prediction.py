"""Sine waves that two LSTM cells go on with; LBFGS and double precision.

A loop over time in Python would be compiled step by step; `jax.lax.scan` is compiled once.
"""

import jax

from jaxnet import losses, nn, ops, optim, train
from jaxnet.random import Generator
from tests.programs.synthetic import waves


class Sequence(nn.Module):
    def __init__(self, rngs):
        self.lstm1 = nn.LSTMCell(1, 8, rngs=rngs)
        self.lstm2 = nn.LSTMCell(8, 8, rngs=rngs)
        self.linear = nn.Linear(8, 1, rngs=rngs)

    def __call__(self, input):
        def advance(states, input_t):
            first, second = states
            first = self.lstm1(input_t[:, None], first)
            second = self.lstm2(first[0], second)
            return (first, second), self.linear(second[0])

        zeros = ops.zeros(len(input), 8, dtype=input.dtype)
        _, outputs = jax.lax.scan(advance, ((zeros, zeros), (zeros, zeros)), input.T)
        return outputs[..., 0].T


def main(cast=lambda x: x):
    data = cast(waves(4, 13))
    seq = cast(Sequence(Generator(0)).double())
    optimizer = optim.LBFGS(lr=0.8, max_iter=5)
    state = train.create(seq, optimizer)
    step = jax.jit(train.make_train_step(train.supervised(losses.mse_loss), optimizer))
    for _ in range(5):
        state, metrics = step(state, (data[:, :-1], data[:, 1:]))
        yield metrics["loss"].item()
    return state.model().state_dict()
