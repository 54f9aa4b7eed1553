"""A small vision transformer."""

import jax

from jaxnet import losses, nn, ops, optim, train
from jaxnet.data import DataLoader, TensorDataset
from jaxnet.random import Generator
from tests.programs.synthetic import images


class VisionTransformer(nn.Module):
    def __init__(self, rngs, size=12, patch=4, width=16, classes=10):
        self.patches = nn.Conv2d(1, width, patch, stride=patch, rngs=rngs)
        self.cls = nn.Parameter(ops.zeros(1, 1, width))
        self.position = nn.Parameter(ops.empty(1, 1 + (size // patch) ** 2, width))
        nn.init.trunc_normal_(self.position, std=0.02, generator=rngs)
        options = {"dropout": 0.0, "activation": "gelu", "batch_first": True, "norm_first": True}
        layer = nn.TransformerEncoderLayer(width, 2, 32, **options, rngs=rngs)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes, rngs=rngs)

    def __call__(self, x):
        x = ops.transpose(ops.flatten(self.patches(x), 2), 1, 2)
        x = ops.cat([ops.expand(self.cls, len(x), -1, -1), x], dim=1)
        x = self.encoder(x + self.position)
        return self.head(self.norm(x[:, 0]))


def main(cast=lambda x: x):
    rngs = Generator(1)
    dataset = TensorDataset(*images(80, 12))
    loader = DataLoader(dataset, batch_size=8, shuffle=True, rngs=rngs)
    model = cast(VisionTransformer(rngs))
    optimizer = optim.Adam(lr=3e-3)
    state = train.create(model, optimizer)
    step = jax.jit(train.make_train_step(train.supervised(losses.cross_entropy), optimizer))
    for _ in range(5):
        for data, target in loader:
            state, metrics = step(state, (cast(data), target))
            yield metrics["loss"].item()
    return state.model().state_dict()
