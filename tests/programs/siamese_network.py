"""A siamese network: do two images show the same class?"""

import jax
import numpy as np

from jaxnet import losses, nn, ops, optim, train
from jaxnet.data import DataLoader, TensorDataset
from jaxnet.random import Generator
from tests.programs.synthetic import images


class SiameseNetwork(nn.Module):
    def __init__(self, rngs):
        self.trunk = nn.Sequential(
            nn.Conv2d(1, 6, 3, stride=2, bias=False, rngs=rngs),
            nn.BatchNorm2d(6),
            nn.ReLU(inplace=True),
            nn.Conv2d(6, 8, 3, rngs=rngs),
            nn.AdaptiveAvgPool2d(1),
        )
        last = nn.Linear(16, 12, rngs=rngs), nn.ReLU(inplace=True), nn.Linear(12, 1, rngs=rngs)
        self.fc = nn.Sequential(*last)
        self.apply(lambda m: self.init_weights(m, rngs))

    def init_weights(self, m, rngs):
        if isinstance(m, nn.Linear):
            nn.init.xavier_uniform_(m.weight, generator=rngs)
            nn.init.constant_(m.bias, 0.01)

    def forward_once(self, x):
        return ops.flatten(self.trunk(x), 1)

    def __call__(self, input1, input2):
        output1, output2 = self.forward_once(input1), self.forward_once(input2)
        output = self.fc(ops.cat((output1, output2), 1))
        return ops.squeeze(ops.sigmoid(output), 1)


def loss_function(model, batch):
    images_1, images_2, targets = batch
    return losses.binary_cross_entropy(model(images_1, images_2), targets)


def main(cast=lambda x: x):
    rngs = Generator(1)
    inputs, labels = images(160, 12)
    same = (labels[:80] == labels[80:]).astype(np.float32)
    dataset = TensorDataset(inputs[:80], inputs[80:], same)
    model = cast(SiameseNetwork(rngs))
    optimizer = optim.Adadelta(lr=1.0)
    state = train.create(model, optimizer)
    step = jax.jit(train.make_train_step(loss_function, optimizer))
    loader = DataLoader(dataset, batch_size=8, shuffle=True, rngs=rngs)
    for _ in range(5):
        for batch in loader:
            state, metrics = step(state, tuple(map(cast, batch)))
            yield metrics["loss"].item()
    return state.model().state_dict()
