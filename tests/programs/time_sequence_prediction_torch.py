"""Sine waves that two LSTM cells go on with; LBFGS and double precision, in PyTorch."""

import torch
from torch import nn, optim

from tests.programs.synthetic import waves


class Sequence(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm1 = nn.LSTMCell(1, 8)
        self.lstm2 = nn.LSTMCell(8, 8)
        self.linear = nn.Linear(8, 1)

    def forward(self, input):
        outputs = []
        h_t = input.new_zeros(len(input), 8)
        c_t, h_t2, c_t2 = h_t, h_t, h_t
        for input_t in input.split(1, dim=1):
            h_t, c_t = self.lstm1(input_t, (h_t, c_t))
            h_t2, c_t2 = self.lstm2(h_t, (h_t2, c_t2))
            output = self.linear(h_t2)
            outputs += [output]
        return torch.cat(outputs, dim=1)


def main(cast=lambda x: x):
    torch.manual_seed(0)
    data = cast(torch.tensor(waves(4, 13)))
    input, target = data[:, :-1], data[:, 1:]
    seq = cast(Sequence().double())
    criterion = nn.MSELoss()
    optimizer = optim.LBFGS(seq.parameters(), lr=0.8, max_iter=5)

    def closure():
        optimizer.zero_grad()
        loss = criterion(seq(input), target)
        loss.backward()
        return loss

    for _ in range(5):
        yield optimizer.step(closure).item()
    return seq.state_dict()
