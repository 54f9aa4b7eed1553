"""A language model with a transformer encoder and a causal mask, in PyTorch."""

import math

import torch
from torch import nn
from torch.nn import functional as F

from tests.programs.synthetic import text

WORDS, WIDTH, BPTT = 24, 16, 6


class PositionalEncoding(nn.Module):
    def __init__(self, d_model, dropout=0.1, max_len=20):
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        pe = torch.zeros(max_len, d_model)
        position = torch.arange(max_len).float()[:, None]
        div_term = torch.exp(torch.arange(0, d_model, 2).float() * (-math.log(10000.0) / d_model))
        pe[:, 0::2] = torch.sin(position * div_term)
        pe[:, 1::2] = torch.cos(position * div_term)
        self.register_buffer("pe", pe[:, None])

    def forward(self, x):
        return self.dropout(x + self.pe[: len(x)])


class TransformerModel(nn.Module):
    def __init__(self):
        super().__init__()
        self.pos_encoder = PositionalEncoding(WIDTH)
        layer = nn.TransformerEncoderLayer(WIDTH, 2, 32, dropout=0.0)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.input_emb = nn.Embedding(WORDS, WIDTH)
        self.decoder = nn.Linear(WIDTH, WORDS)
        nn.init.uniform_(self.input_emb.weight, -0.1, 0.1)
        nn.init.uniform_(self.decoder.weight, -0.1, 0.1)
        nn.init.zeros_(self.decoder.bias)

    def forward(self, src):
        mask = nn.Transformer.generate_square_subsequent_mask(
            len(src), dtype=self.pos_encoder.pe.dtype
        )
        src = self.pos_encoder(self.input_emb(src) * math.sqrt(WIDTH))
        output = self.encoder(src, mask=mask, is_causal=True)
        return F.log_softmax(self.decoder(output), dim=-1)


def batchify(tokens, batch):
    return tokens[: len(tokens) // batch * batch].reshape(batch, -1).T


def main(cast=lambda x: x):
    torch.manual_seed(1)
    source = batchify(torch.tensor(text(1204, WORDS)), 4)
    model = cast(TransformerModel())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    for i in range(0, len(source) - 1, BPTT):
        data, targets = source[i : i + BPTT], source[i + 1 : i + 1 + BPTT]
        optimizer.zero_grad()
        output = model(data).reshape(-1, WORDS)
        loss = F.nll_loss(output, targets.reshape(-1))
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.25)
        optimizer.step()
        yield loss.item()
    return model.state_dict()
