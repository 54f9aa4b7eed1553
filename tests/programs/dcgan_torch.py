"""A DCGAN: two networks with batch norm, two Adams, in PyTorch."""

import torch
from torch import nn, optim
from torch.utils.data import DataLoader

from tests.programs.synthetic import images

NZ, NF = 6, 4


class Generator(nn.Module):
    def __init__(self):
        super().__init__()
        self.main = nn.Sequential(
            nn.ConvTranspose2d(NZ, NF * 2, 4, 1, 0, bias=False),
            nn.BatchNorm2d(NF * 2),
            nn.ReLU(True),
            nn.ConvTranspose2d(NF * 2, NF, 4, 2, 1, bias=False),
            nn.BatchNorm2d(NF),
            nn.ReLU(True),
            nn.ConvTranspose2d(NF, 1, 4, 2, 1, bias=False),
            nn.Tanh(),
        )

    def forward(self, input):
        return self.main(input)


class Discriminator(nn.Module):
    def __init__(self):
        super().__init__()
        self.main = nn.Sequential(
            nn.Conv2d(1, NF, 4, 2, 1, bias=False),
            nn.LeakyReLU(0.2, inplace=True),
            nn.Conv2d(NF, NF * 2, 4, 2, 1, bias=False),
            nn.BatchNorm2d(NF * 2),
            nn.LeakyReLU(0.2, inplace=True),
            nn.Conv2d(NF * 2, 1, 4, 1, 0, bias=False),
            nn.Sigmoid(),
        )

    def forward(self, input):
        return self.main(input).reshape(-1)


def weights_init(m):
    if isinstance(m, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.normal_(m.weight, 0.0, 0.02)
    elif isinstance(m, nn.BatchNorm2d):
        nn.init.normal_(m.weight, 1.0, 0.02)
        nn.init.zeros_(m.bias)


def main(cast=lambda x: x):
    torch.manual_seed(1)
    netG, netD = Generator(), Discriminator()
    netG.apply(weights_init)
    netD.apply(weights_init)
    netG, netD = cast(netG), cast(netD)
    criterion = nn.BCELoss()
    optimizerD = optim.Adam(netD.parameters(), lr=2e-3, betas=(0.5, 0.999))
    optimizerG = optim.Adam(netG.parameters(), lr=2e-3, betas=(0.5, 0.999))
    loader = DataLoader(2 * torch.tensor(images(80, 16)[0]) - 1, batch_size=8, shuffle=True)
    for _ in range(5):
        for data in loader:
            real, noise = cast(data), cast(torch.randn(8, NZ, 1, 1))
            ones, zeros = real.new_ones(8), real.new_zeros(8)
            netD.zero_grad()
            errD_real = criterion(netD(real), ones)
            errD_real.backward()
            fake = netG(noise)
            errD_fake = criterion(netD(fake.detach()), zeros)
            errD_fake.backward()
            optimizerD.step()
            netG.zero_grad()
            errG = criterion(netD(fake), ones)
            errG.backward()
            optimizerG.step()
            yield (errD_real + errD_fake).item(), errG.item()
    return netG.state_dict(), netD.state_dict()
