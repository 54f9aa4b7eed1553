"""A language model with an LSTM, clipping and a schedule by batches."""

import math

import torch
from torch import nn, optim

VOCAB, BPTT = 24, 6


class RNNModel(nn.Module):
    """An LSTM between an encoder and a decoder."""

    def __init__(self, ntoken, ninp, nhid, nlayers):
        super().__init__()
        self.ntoken = ntoken
        self.encoder = nn.Embedding(ntoken, ninp)
        self.rnn = nn.LSTM(ninp, nhid, nlayers)
        self.decoder = nn.Linear(nhid, ntoken)
        self.nhid = nhid
        self.nlayers = nlayers
        self.init_weights()

    def init_weights(self):
        initrange = 0.1
        nn.init.uniform_(self.encoder.weight, -initrange, initrange)
        nn.init.zeros_(self.decoder.bias)
        nn.init.uniform_(self.decoder.weight, -initrange, initrange)

    def forward(self, input, hidden):
        emb = self.encoder(input)
        output, hidden = self.rnn(emb, hidden)
        decoded = self.decoder(output)
        return decoded.view(-1, self.ntoken), hidden

    def init_hidden(self, bsz):
        weight = next(self.parameters())
        return (
            weight.new_zeros(self.nlayers, bsz, self.nhid),
            weight.new_zeros(self.nlayers, bsz, self.nhid),
        )


def repackage_hidden(h):
    """Wraps hidden states in new Tensors, to detach them from their history."""
    if isinstance(h, torch.Tensor):
        return h.detach()
    else:
        return tuple(repackage_hidden(v) for v in h)


def batchify(data, bsz):
    nbatch = data.size(0) // bsz
    data = data.narrow(0, 0, nbatch * bsz)
    return data.view(bsz, -1).t().contiguous()


def get_batch(source, i):
    seq_len = min(BPTT, len(source) - 1 - i)
    data = source[i : i + seq_len]
    target = source[i + 1 : i + 1 + seq_len].view(-1)
    return data, target


def evaluate(model, criterion, source, bsz):
    # Turn on evaluation mode which disables dropout.
    model.eval()
    total_loss = 0.0
    hidden = model.init_hidden(bsz)
    with torch.no_grad():
        for i in range(0, source.size(0) - 1, BPTT):
            data, targets = get_batch(source, i)
            output, hidden = model(data, hidden)
            hidden = repackage_hidden(hidden)
            total_loss += len(data) * criterion(output, targets).item()
    return total_loss / (len(source) - 1)


def train(model, criterion, optimizer, scheduler, source, bsz, clip):
    # Turn on training mode which enables dropout.
    model.train()
    total_loss = 0.0
    hidden = model.init_hidden(bsz)
    for batch, i in enumerate(range(0, source.size(0) - 1, BPTT)):
        data, targets = get_batch(source, i)
        # Starting each batch, we detach the hidden state from how it was previously produced.
        hidden = repackage_hidden(hidden)
        model.zero_grad()
        output, hidden = model(data, hidden)
        loss = criterion(output, targets)
        loss.backward()
        # `clip_grad_norm` helps prevent the exploding gradient problem.
        torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
        scheduler.step()
        total_loss += loss.item()
        if batch % 5 == 0 and batch > 0:
            lr = scheduler.get_last_lr()[0]
            cur_loss = total_loss / 5
            print(f"batch {batch} lr {lr:.5f} loss {cur_loss} ppl {math.exp(cur_loss):.4f}")
            total_loss = 0
    return cur_loss


def main():
    torch.manual_seed(1111)
    tokens = torch.randint(0, VOCAB, (600,), generator=torch.Generator().manual_seed(5))
    train_data = batchify(tokens[:500], 4)
    val_data = batchify(tokens[500:], 4)
    model = RNNModel(VOCAB, 16, 16, 2)
    # double: model = model.double()
    criterion = nn.CrossEntropyLoss()
    lr = 0.01
    optimizer = optim.AdamW(model.parameters(), lr=lr, weight_decay=1e-2)
    scheduler = optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=60)
    best_val_loss = None
    for epoch in range(1, 4):
        final = train(model, criterion, optimizer, scheduler, train_data, 4, 0.25)
        val_loss = evaluate(model, criterion, val_data, 4)
        print("-" * 30)
        print("epoch", epoch, f"valid loss {val_loss} {final}")
        if not best_val_loss or val_loss < best_val_loss:
            best_val_loss = val_loss
    print(best_val_loss)


if __name__ == "__main__":
    main()
