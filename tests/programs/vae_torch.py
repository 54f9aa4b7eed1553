"""A variational autoencoder of small images, in PyTorch."""

import torch
from torch import nn, optim
from torch.nn import functional as F
from torch.utils.data import DataLoader

from tests.programs.synthetic import images


class VAE(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1 = nn.Linear(64, 32)
        self.fc21 = nn.Linear(32, 4)
        self.fc22 = nn.Linear(32, 4)
        self.fc3 = nn.Linear(4, 32)
        self.fc4 = nn.Linear(32, 64)

    def encode(self, x):
        h1 = F.relu(self.fc1(x))
        return self.fc21(h1), self.fc22(h1)

    def reparameterize(self, mu, logvar):
        std = torch.exp(0.5 * logvar)
        eps = torch.randn_like(std)
        return mu + eps * std

    def decode(self, z):
        h3 = F.relu(self.fc3(z))
        return torch.sigmoid(self.fc4(h3))

    def forward(self, x):
        mu, logvar = self.encode(x)
        z = self.reparameterize(mu, logvar)
        return self.decode(z), mu, logvar


def loss_function(recon_x, x, mu, logvar):
    bce = F.binary_cross_entropy(recon_x, x, reduction="sum")
    kld = -0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp())
    return bce + kld


def main(cast=lambda x: x):
    torch.manual_seed(1)
    x = torch.tensor(images(160, 8)[0]).reshape(-1, 64)
    model = cast(VAE())
    optimizer = optim.Adam(model.parameters(), lr=1e-2)
    loader = DataLoader(x, batch_size=16, shuffle=True)
    for _ in range(5):
        for data in loader:
            data = cast(data)
            optimizer.zero_grad()
            recon_batch, mu, logvar = model(data)
            loss = loss_function(recon_batch, data, mu, logvar)
            loss.backward()
            optimizer.step()
            yield loss.item()
    return model.state_dict()
