"""Weight decay for matrices alone, sorted by a loop, with a schedule and clipping."""

import torch
from torch import nn, optim

torch.manual_seed(4)
x = torch.rand(96, 6)
# double: x = x.double()
y = torch.sin(3 * x).sum(1, keepdim=True)


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.fc = nn.Linear(width, width)

    def forward(self, x):
        return x + torch.relu(self.fc(self.norm(x)))


class Net(nn.Module):
    def __init__(self, width=12, depth=2):
        super().__init__()
        self.stem = nn.Linear(6, width)
        self.blocks = nn.ModuleList([Block(width) for _ in range(depth)])
        self.head = nn.Linear(width, 1)

    def forward(self, x):
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def main():
    net = Net()
    # double: net = net.double()
    # No decay for biases, norms and the head.
    skipped = ("bias", "norm.weight")
    decay, no_decay = [], []
    for name, param in net.named_parameters():
        if not param.requires_grad:
            continue
        if name.endswith(skipped) or param.dim() < 2 or name.startswith("head"):
            no_decay.append(param)
        else:
            decay.append(param)  # the matrices
    groups = [
        {"params": decay, "weight_decay": 0.3},
        {"params": no_decay, "weight_decay": 0.0, "lr": 0.005},
    ]
    optimizer = optim.AdamW(groups, lr=0.02, betas=(0.9, 0.99))
    scheduler = optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=30)
    for epoch in range(20):
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(net(x), y)
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 0.5)
        optimizer.step()
        scheduler.step()
        if epoch % 4 == 3:
            first, last = optimizer.param_groups[0]["lr"], scheduler.get_last_lr()[-1]
            print(f"{epoch} {loss.item()} {first:.6f} {last:.6f}")
    print(net(x)[:4, 0].tolist())


main()
