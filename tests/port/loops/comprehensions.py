"""Groups by comprehensions over the names of the parameters, with a rate of its own for each."""

import torch
import torch.nn as nn

torch.manual_seed(6)
x = torch.rand(64, 5)
# double: x = x.double()
y = (x**2).mean(1, keepdim=True)
model = nn.Sequential(nn.Linear(5, 9), nn.LayerNorm(9), nn.GELU(), nn.Linear(9, 1))
# double: model = model.double()
no_decay = ["bias", "1.weight"]
optimizer_grouped_parameters = [
    {
        "params": [p for n, p in model.named_parameters() if not any(nd in n for nd in no_decay)],
        "weight_decay": 0.2,
    },
    {
        "params": [p for n, p in model.named_parameters() if any(nd in n for nd in no_decay)],
        "weight_decay": 0.0,
    },
]
optimizer = torch.optim.AdamW(optimizer_grouped_parameters, lr=0.03)
scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + 0.1 * step))
for epoch in range(10):
    loss = nn.functional.mse_loss(model(x), y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    scheduler.step()
    print(f"{epoch} {loss.item()} {scheduler.get_last_lr()[0]:.5f}")
print(sum(p.abs().sum().item() for p in model.parameters()))
