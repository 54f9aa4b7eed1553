"""A regression with all rows in every step, as PyTorch's first tutorials have it."""

import torch

torch.manual_seed(0)
x = torch.arange(-100.0, 100.0).unsqueeze(1) / 32
# double: x = x.double()
y = torch.sin(x)
model = torch.nn.Sequential(torch.nn.Linear(1, 16), torch.nn.Tanh(), torch.nn.Linear(16, 1))
# double: model = model.double()
loss_fn = torch.nn.MSELoss(reduction="sum")
learning_rate = 1e-3
optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate)
for t in range(200):
    # Forward pass
    y_pred = model(x)
    loss = loss_fn(y_pred, y)
    if t % 20 == 19:
        print(t, loss.item())
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
