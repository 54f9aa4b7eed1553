"""A rate that falls by a metric, and the norm of clipped gradients."""

import torch
import torch.nn as nn
import torch.optim as optim

torch.manual_seed(3)
x = torch.rand(64, 5)
# double: x = x.double()
y = x.sum(dim=1, keepdim=True)
net = nn.Linear(5, 1)
# double: net = net.double()
optimizer = optim.SGD(net.parameters(), lr=0.5, momentum=0.5)
scheduler = optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=1, factor=0.5)
for epoch in range(8):
    optimizer.zero_grad()
    loss = nn.functional.l1_loss(net(x), y)
    loss.backward()
    norm = nn.utils.clip_grad_norm_(net.parameters(), max_norm=1.0)
    optimizer.step()
    scheduler.step(loss.item())
    print(f"{epoch} {loss.item()} {norm.item()} {optimizer.param_groups[0]['lr']:.6f}")
print(net(x)[:3, 0].tolist())
