"""A variational autoencoder of small images: the draws are those of torch.randn."""

import jax

from jaxnet import losses, nn, ops, optim, train
from jaxnet.data import DataLoader
from jaxnet.nn import functional as F
from jaxnet.random import Generator
from tests.programs.synthetic import images


class VAE(nn.Module):
    def __init__(self, rngs):
        self.fc1 = nn.Linear(64, 32, rngs=rngs)
        self.fc21 = nn.Linear(32, 4, rngs=rngs)
        self.fc22 = nn.Linear(32, 4, rngs=rngs)
        self.fc3 = nn.Linear(4, 32, rngs=rngs)
        self.fc4 = nn.Linear(32, 64, rngs=rngs)

    def encode(self, x):
        h1 = F.relu(self.fc1(x))
        return self.fc21(h1), self.fc22(h1)

    def reparameterize(self, mu, logvar):
        std = ops.exp(0.5 * logvar)
        eps = ops.randn_like(std)
        return mu + eps * std

    def decode(self, z):
        h3 = F.relu(self.fc3(z))
        return ops.sigmoid(self.fc4(h3))

    def __call__(self, x):
        mu, logvar = self.encode(x)
        z = self.reparameterize(mu, logvar)
        return self.decode(z), mu, logvar


def loss_function(model, batch):
    x, noise = batch
    with nn.draws([noise]):  # Without this line the step's own random key gives the numbers.
        recon_x, mu, logvar = model(x)
    bce = losses.binary_cross_entropy(recon_x, x, reduction="sum")
    kld = -0.5 * ops.sum(1 + logvar - ops.pow(mu, 2) - ops.exp(logvar))
    return bce + kld


def main(cast=lambda x: x):
    rngs = Generator(1)
    x = images(160, 8)[0].reshape(-1, 64)
    model = cast(VAE(rngs))
    optimizer = optim.Adam(lr=1e-2)
    loader = DataLoader(x, batch_size=16, shuffle=True, rngs=rngs)
    state = train.create(model, optimizer)
    step = jax.jit(train.make_train_step(loss_function, optimizer))
    for _ in range(5):
        for data in loader:
            data = cast(data)
            noise = rngs.randn(16, 4, dtype=data.dtype)
            state, metrics = step(state, (data, noise))
            yield metrics["loss"].item()
    return state.model().state_dict()
