"""A DCGAN: two networks with batch norm, two Adams."""

import jax

from jaxnet import losses, nn, ops, optim, random, train
from jaxnet.data import DataLoader
from tests.programs.synthetic import images

NZ, NF = 6, 4


class Generator(nn.Module):
    def __init__(self, rngs):
        self.main = nn.Sequential(
            nn.ConvTranspose2d(NZ, NF * 2, 4, 1, 0, bias=False, rngs=rngs),
            nn.BatchNorm2d(NF * 2),
            nn.ReLU(True),
            nn.ConvTranspose2d(NF * 2, NF, 4, 2, 1, bias=False, rngs=rngs),
            nn.BatchNorm2d(NF),
            nn.ReLU(True),
            nn.ConvTranspose2d(NF, 1, 4, 2, 1, bias=False, rngs=rngs),
            nn.Tanh(),
        )

    def __call__(self, input):
        return self.main(input)


class Discriminator(nn.Module):
    def __init__(self, rngs):
        self.main = nn.Sequential(
            nn.Conv2d(1, NF, 4, 2, 1, bias=False, rngs=rngs),
            nn.LeakyReLU(0.2, inplace=True),
            nn.Conv2d(NF, NF * 2, 4, 2, 1, bias=False, rngs=rngs),
            nn.BatchNorm2d(NF * 2),
            nn.LeakyReLU(0.2, inplace=True),
            nn.Conv2d(NF * 2, 1, 4, 1, 0, bias=False, rngs=rngs),
            nn.Sigmoid(),
        )

    def __call__(self, input):
        return self.main(input).reshape(-1)


def weights_init(m, rngs):
    if isinstance(m, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.normal_(m.weight, 0.0, 0.02, generator=rngs)
    elif isinstance(m, nn.BatchNorm2d):
        nn.init.normal_(m.weight, 1.0, 0.02, generator=rngs)
        nn.init.zeros_(m.bias)


def criterion(output, label):
    return losses.binary_cross_entropy(output, ops.full_like(output, label))


def lossD(nets, batch):
    real, fake = batch
    return criterion(nets["D"](real), 1.0) + criterion(nets["D"](fake), 0.0)


def lossG(nets, noise):
    return criterion(nets["D"](nets["G"](noise)), 1.0)


def main(cast=lambda x: x):
    rngs = random.Generator(1)
    netG, netD = Generator(rngs), Discriminator(rngs)
    netG.apply(lambda m: weights_init(m, rngs))
    netD.apply(lambda m: weights_init(m, rngs))
    netG, netD = cast(netG), cast(netD)
    adam = optim.Adam(lr=2e-3, betas=(0.5, 0.999))
    states = {"G": train.create(netG, adam), "D": train.create(netD, adam)}
    stepD = train.make_train_step(lossD, adam, model="D")
    stepG = train.make_train_step(lossG, adam, model="G")

    @jax.jit
    def step(states, real, noise):
        fake = states["G"].model(training=True)(noise)
        states, D = stepD(states, (real, fake))
        states, G = stepG(states, noise)
        return states, D["loss"], G["loss"]

    loader = DataLoader(2 * images(80, 16)[0] - 1, batch_size=8, shuffle=True, rngs=rngs)
    for _ in range(5):
        for data in loader:
            real, noise = cast(data), cast(rngs.randn(8, NZ, 1, 1))
            states, errD, errG = step(states, real, noise)
            yield errD.item(), errG.item()
    return states["G"].model().state_dict(), states["D"].model().state_dict()
