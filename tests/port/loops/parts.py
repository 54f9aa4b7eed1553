"""A slower rate for one part of a model than for another, which is set by hand later."""

import torch
import torch.nn as nn

torch.manual_seed(5)
x = torch.rand(80, 4)
# double: x = x.double()
y = (x[:, :1] - x[:, 1:2]).abs()


class Net(nn.Module):
    def __init__(self, width=6):
        super().__init__()
        self.width = width
        self.encoder = nn.Sequential(nn.Linear(4, width), nn.Tanh(), nn.Linear(width, width))
        self.act, self.drop = nn.ReLU(), nn.Dropout(0.0)
        self.decoder = nn.Linear(width, 1)

    def forward(self, x):
        return self.decoder(self.drop(self.act(self.encoder(x))))


model = Net()
# double: model = model.double()
optimizer = torch.optim.SGD(
    [
        {"params": model.encoder.parameters(), "lr": 0.01},
        {"params": model.decoder.parameters(), "momentum": 0.5},
    ],
    lr=0.1,
    momentum=0.9,
)
for epoch in range(12):
    optimizer.param_groups[1]["lr"] = 0.1 / (1 + epoch)
    loss = nn.functional.mse_loss(model(x), y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    rates = optimizer.param_groups[0]["lr"], optimizer.param_groups[-1]["lr"]
    print(f"{epoch} {loss.item()} {rates[0]:.5f} {rates[1]:.5f}")
