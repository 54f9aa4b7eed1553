"""Functions that call functions, a data set of the program, and a function that seeds."""

import torch
from torch import nn
from torch.optim import Adam
from torch.utils.data import DataLoader, Dataset


class Points(Dataset):
    def __init__(self, n, seed):
        g = torch.Generator()
        g.manual_seed(seed)
        self.x = torch.rand(n, 2, generator=g)
        # double: self.x = self.x.double()
        self.y = ((self.x[:, 0] > 0.5) ^ (self.x[:, 1] > 0.5)).to(self.x.dtype)

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        return self.x[i], self.y[i]


class Net(nn.Module):
    def __init__(self, width=16):
        super().__init__()
        self.a = nn.Linear(2, width)
        self.b = nn.Linear(width, 1)

    def forward(self, x):
        return self.b(torch.tanh(self.a(x))).squeeze(-1)


def accuracy(logits, labels):
    return ((logits > 0).float() == labels).float().mean()


def train_epoch(net, loader, loss_fn, opt):
    net.train()
    total, count = 0.0, 0
    for x, y in loader:
        logits = net(x)
        loss = loss_fn(logits, y)
        opt.zero_grad()
        loss.backward()
        opt.step()
        total += loss.item() * len(y)
        count += len(y)
        acc = accuracy(logits.detach(), y)
    return total / count, acc.item()


@torch.no_grad()
def evaluate(net, loader, loss_fn):
    net.eval()
    losses, accs = [], []
    for x, y in loader:
        logits = net(x)
        losses.append(loss_fn(logits, y).item())
        accs.append(accuracy(logits, y).item())
    return sum(losses) / len(losses), sum(accs) / len(accs)


def fit(net, train_loader, val_loader, opt, loss_fn, epochs):
    for epoch in range(epochs):
        train_loss, train_acc = train_epoch(net, train_loader, loss_fn, opt)
        val_loss, val_acc = evaluate(net, val_loader, loss_fn)
        print(f"{epoch}: {train_loss} {train_acc:.3f} {val_loss} {val_acc:.3f}")


def set_seed(seed):
    torch.manual_seed(seed)


def main(epochs=3):
    set_seed(7)
    train_loader = DataLoader(Points(64, 1), batch_size=8, shuffle=True)
    val_loader = DataLoader(Points(32, 2), batch_size=8)
    net = Net()
    # double: net = net.double()
    loss_fn = nn.BCEWithLogitsLoss()
    opt = Adam(net.parameters(), lr=0.02, betas=(0.9, 0.99))
    fit(net, train_loader, val_loader, opt, loss_fn, epochs)
    print(evaluate(net, val_loader, loss_fn))


if __name__ == "__main__":
    main()
