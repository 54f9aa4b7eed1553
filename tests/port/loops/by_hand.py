"""An update of the parameters that is written by hand."""

import torch
import torch.nn as nn

torch.manual_seed(1)
x = torch.rand(50, 3)
# double: x = x.double()
y = x @ torch.tensor([[1.0], [2.0], [3.0]], dtype=x.dtype)
model = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 1))
# double: model = model.double()
loss_fn = nn.MSELoss(reduction="sum")
learning_rate = 1e-3
for t in range(30):
    y_pred = model(x)
    loss = loss_fn(y_pred, y)
    if t % 10 == 9:
        print(t, loss.item())
    # Zero the gradients before running the backward pass.
    model.zero_grad()
    loss.backward()
    with torch.no_grad():
        for param in model.parameters():
            param -= learning_rate * param.grad
print(f"last {loss.item()}")
