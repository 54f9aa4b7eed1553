"""An actor and a critic in one network learn to balance a pole, in PyTorch."""

import torch
from torch import nn, optim
from torch.nn import functional as F

from tests.programs.cart_pole import CartPole

LONGEST = 64


class Policy(nn.Module):
    def __init__(self):
        super().__init__()
        self.affine1 = nn.Linear(4, 32)
        self.action_head = nn.Linear(32, 2)
        self.value_head = nn.Linear(32, 1)

    def forward(self, x):
        x = F.relu(self.affine1(x))
        return F.softmax(self.action_head(x), dim=-1), self.value_head(x)[..., 0]


def main(cast=lambda x: x):
    torch.manual_seed(1)
    env = CartPole(1)
    model = cast(Policy())
    optimizer = optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(50):
        state, over, log_probs, values = env.reset(), False, [], []
        while not over and len(values) < LONGEST:
            probs, value = model(cast(torch.tensor(state)))
            action = int(torch.rand(()) > probs[0])
            log_probs.append(torch.log(probs[action]))
            values.append(value)
            state, over = env.step(action)
        returns = [1.0]
        while len(returns) < len(values):
            returns.insert(0, 1.0 + 0.99 * returns[0])
        log_probs, values = torch.stack(log_probs), torch.stack(values)
        returns = torch.tensor(returns, dtype=values.dtype)
        returns = returns / LONGEST
        advantages = returns - values.detach()
        value_loss = F.smooth_l1_loss(values, returns, reduction="sum")
        loss = value_loss - (log_probs * advantages).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        yield loss.item()
    return model.state_dict()
