"""A program that uses jaxnet, fully annotated: mypy reads it in its strict mode."""

import jax
import jax.numpy as jnp

from jaxnet import losses, metrics, nn, optim, train
from jaxnet.data import TensorDataset
from jaxnet.precision import full_float32, set_float32_matmul_precision
from jaxnet.random import Generator


class Net(nn.Module):
    def __init__(self, rngs: Generator) -> None:
        self.conv = nn.Conv2d(3, 8, 3, padding=1, rngs=rngs)
        self.norm = nn.BatchNorm2d(8)
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(8 * 8 * 8, 10, rngs=rngs))
        self.scale = nn.Parameter(jnp.ones(()))

    def __call__(self, x: jax.Array) -> jax.Array:
        out: jax.Array = self.head(nn.functional.relu(self.norm(self.conv(x))))
        return out * self.scale[...]


def count(model: nn.Module) -> int:
    return sum(p.size for p in model.parameters())


@full_float32()
def gram(x: jax.Array) -> jax.Array:
    return x @ x.T


def main() -> None:
    model = Net(rngs=Generator(0))
    optimizer = optim.SGD(lr=0.1, momentum=0.9)
    state = train.create(model, optimizer)
    loss = train.supervised(losses.cross_entropy, {"accuracy": metrics.accuracy})
    step = jax.jit(train.make_train_step(loss, optimizer))
    batch = jnp.zeros((4, 3, 8, 8)), jnp.zeros(4, jnp.int32)
    state, measured = step(state, batch)
    value: float = float(measured["loss"])
    set_float32_matmul_precision("highest")
    scores: jax.Array = losses.mse_loss(jnp.ones(3), jnp.zeros(3))
    print(count(model), value, scores, gram(jnp.ones((2, 3))), len(TensorDataset(*batch)))
