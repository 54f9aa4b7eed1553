"""Training and validation in one loop, the best weights, batch norm, momentum and a schedule."""

import copy

import torch
import torch.nn as nn
from torch.utils.data import DataLoader, TensorDataset, random_split

torch.manual_seed(42)
device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

# Hyperparameters
num_epochs = 4
batch_size = 16

X = torch.rand(200, 6)
w = torch.rand(6, 1)
# double: X, w = X.double(), w.double()
y = X @ w + 0.1 * torch.rand(200, 1).to(X.dtype)
dataset = TensorDataset(X, y)
train_set, val_set = random_split(dataset, [160, 40])
train_loader = DataLoader(train_set, batch_size=batch_size, shuffle=True)
val_loader = DataLoader(val_set, batch_size=batch_size)


class MLP(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(6, 32),
            nn.BatchNorm1d(32),
            nn.ReLU(),
            nn.Linear(32, 1),
        )

    def forward(self, x):
        return self.net(x)


model = MLP().to(device)
# double: model = model.double()
criterion = nn.MSELoss()
optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-4)
scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=2, gamma=0.5)
best_loss = float("inf")
best_weights = None
history = []

for epoch in range(num_epochs):
    # Training
    model.train()
    running_loss = 0.0
    for _i, (inputs, targets) in enumerate(train_loader):
        inputs = inputs.to(device)
        targets = targets.to(device)

        # Forward pass
        outputs = model(inputs)
        loss = criterion(outputs, targets)

        # Backward and optimize
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

        running_loss += loss.item() * inputs.size(0)
    train_loss = running_loss / len(train_loader.dataset)

    # Validation
    model.eval()
    val_loss = 0.0
    with torch.no_grad():
        for inputs, targets in val_loader:
            inputs, targets = inputs.to(device), targets.to(device)
            outputs = model(inputs)
            val_loss += criterion(outputs, targets).item() * inputs.size(0)
    val_loss /= len(val_set)
    history.append((train_loss, val_loss))
    print(
        f"epoch {epoch + 1}/{num_epochs}: train {train_loss} val {val_loss} "
        f"lr {optimizer.param_groups[0]['lr']:.6f}"
    )
    scheduler.step()

    if val_loss < best_loss:
        best_loss = val_loss
        best_weights = copy.deepcopy(model.state_dict())

model.load_state_dict(best_weights)
model.eval()
with torch.no_grad():
    print("best", best_loss, model(X[:3]).flatten().tolist())
torch.save(model.state_dict(), "best.pt")
print(sum(p.numel() for p in model.parameters()))
