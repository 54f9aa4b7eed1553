"""A language model with an LSTM whose state is carried from batch to batch, in PyTorch."""

import torch
from torch import nn
from torch.nn import functional as F

from tests.programs.synthetic import text

WORDS, WIDTH, BPTT = 24, 16, 6


class RNNModel(nn.Module):
    def __init__(self):
        super().__init__()
        self.drop = nn.Dropout(0.2)
        self.encoder = nn.Embedding(WORDS, WIDTH)
        self.rnn = nn.LSTM(WIDTH, WIDTH, 2)
        self.decoder = nn.Linear(WIDTH, WORDS)
        self.decoder.weight = self.encoder.weight
        nn.init.uniform_(self.encoder.weight, -0.1, 0.1)
        nn.init.zeros_(self.decoder.bias)

    def forward(self, tokens, hidden):
        emb = self.drop(self.encoder(tokens))
        output, hidden = self.rnn(emb, hidden)
        decoded = self.decoder(self.drop(output))
        return F.log_softmax(decoded.reshape(-1, WORDS), dim=1), hidden

    def init_hidden(self, batch):
        weight = self.decoder.weight
        return weight.new_zeros(2, batch, WIDTH), weight.new_zeros(2, batch, WIDTH)


def repackage_hidden(hidden):
    return tuple(h.detach() for h in hidden)


def batchify(tokens, batch):
    return tokens[: len(tokens) // batch * batch].reshape(batch, -1).T


def main(cast=lambda x: x):
    torch.manual_seed(1)
    source = batchify(torch.tensor(text(604, WORDS)), 4)
    model = cast(RNNModel())
    for _ in range(2):
        hidden = model.init_hidden(4)
        for i in range(0, len(source) - 1, BPTT):
            data, targets = source[i : i + BPTT], source[i + 1 : i + 1 + BPTT]
            hidden = repackage_hidden(hidden)
            model.zero_grad()
            output, hidden = model(data, hidden)
            loss = F.nll_loss(output, targets.reshape(-1))
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 0.25)
            with torch.no_grad():
                for p in model.parameters():
                    p.add_(p.grad, alpha=-1.0)
            yield loss.item()
    return model.state_dict()
