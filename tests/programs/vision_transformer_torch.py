"""A small vision transformer, in PyTorch."""

import torch
from torch import nn, optim
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from tests.programs.synthetic import images


class VisionTransformer(nn.Module):
    def __init__(self, size=12, patch=4, width=16, classes=10):
        super().__init__()
        self.patches = nn.Conv2d(1, width, patch, stride=patch)
        self.cls = nn.Parameter(torch.zeros(1, 1, width))
        self.position = nn.Parameter(torch.empty(1, 1 + (size // patch) ** 2, width))
        nn.init.trunc_normal_(self.position, std=0.02)
        layer = nn.TransformerEncoderLayer(
            width, 2, 32, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls.expand(len(x), -1, -1), x], dim=1)
        x = self.encoder(x + self.position)
        return self.head(self.norm(x[:, 0]))


def main(cast=lambda x: x):
    torch.manual_seed(1)
    inputs, targets = images(80, 12)
    dataset = TensorDataset(torch.tensor(inputs), torch.tensor(targets))
    loader = DataLoader(dataset, batch_size=8, shuffle=True)
    model = cast(VisionTransformer())
    optimizer = optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(5):
        for data, target in loader:
            optimizer.zero_grad()
            loss = F.cross_entropy(model(cast(data)), target)
            loss.backward()
            optimizer.step()
            yield loss.item()
    return model.state_dict()
