"""An actor and a critic in one network learn to balance a pole.

Episodes have different lengths; they are padded to one, so that the step is compiled once.
"""

import jax
import numpy as np

from jaxnet import losses, nn, ops, optim, train
from jaxnet.nn import functional as F
from jaxnet.random import Generator
from tests.programs.cart_pole import CartPole

LONGEST = 64


class Policy(nn.Module):
    def __init__(self, rngs):
        self.affine1 = nn.Linear(4, 32, rngs=rngs)
        self.action_head = nn.Linear(32, 2, rngs=rngs)
        self.value_head = nn.Linear(32, 1, rngs=rngs)

    def __call__(self, x):
        x = F.relu(self.affine1(x))
        return F.softmax(self.action_head(x), dim=-1), self.value_head(x)[..., 0]


def loss_function(model, episode):
    states, actions, returns, played = episode
    probs, values = model(states)
    log_probs = ops.log(ops.gather(probs, 1, actions[:, None])[:, 0])
    advantages = returns - ops.detach(values)
    value_losses = losses.smooth_l1_loss(values, returns, reduction="none")
    return (value_losses - log_probs * advantages).sum(where=played)


def main(cast=lambda x: x):
    rngs, env = Generator(1), CartPole(1)
    optimizer = optim.Adam(lr=1e-2)
    state = train.create(cast(Policy(rngs)), optimizer)
    act = jax.jit(lambda state, x: state.model()(x)[0])
    learn = jax.jit(train.make_train_step(loss_function, optimizer))
    for _ in range(50):
        seen, over, states, actions = env.reset(), False, [], []
        while not over and len(actions) < LONGEST:
            states.append(cast(seen))
            actions.append(int(rngs.rand() > act(state, states[-1])[0]))
            seen, over = env.step(actions[-1])
        returns = [1.0]
        while len(returns) < len(actions):
            returns.insert(0, 1.0 + 0.99 * returns[0])
        returns = np.array(returns, states[0].dtype) / LONGEST
        played = np.arange(LONGEST) < len(actions)
        episode = [np.resize(x, (LONGEST, *np.shape(x)[1:])) for x in (states, actions, returns)]
        state, metrics = learn(state, (*episode, played))
        yield metrics["loss"].item()
    return state.model().state_dict()
