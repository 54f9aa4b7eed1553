"""A convolutional classifier with dropout, Adadelta and a schedule by epochs."""

import jax

from jaxnet import losses, nn, ops, optim, train
from jaxnet.data import DataLoader, TensorDataset
from jaxnet.nn import functional as F
from jaxnet.random import Generator
from tests.programs.synthetic import images


class Net(nn.Module):
    def __init__(self, rngs):
        self.conv1 = nn.Conv2d(1, 8, 3, 1, rngs=rngs)
        self.conv2 = nn.Conv2d(8, 8, 3, 1, rngs=rngs)
        self.dropout1 = nn.Dropout(0.25)
        self.dropout2 = nn.Dropout(0.5)
        self.fc1 = nn.Linear(128, 16, rngs=rngs)
        self.fc2 = nn.Linear(16, 10, rngs=rngs)

    def __call__(self, x):
        x = self.conv1(x)
        x = F.relu(x)
        x = self.conv2(x)
        x = F.relu(x)
        x = F.max_pool2d(x, 2)
        x = self.dropout1(x)
        x = ops.flatten(x, 1)
        x = self.fc1(x)
        x = F.relu(x)
        x = self.dropout2(x)
        x = self.fc2(x)
        return F.log_softmax(x, dim=1)


def main(cast=lambda x: x):
    dataset = TensorDataset(*images(80, 12))
    loader = DataLoader(dataset, 8, shuffle=True, generator=Generator(2))
    model = cast(Net(Generator(1)))
    optimizer = optim.Adadelta(lr=1.0)
    schedule = optim.StepLR(optimizer, step_size=1, gamma=0.7)
    state = train.create(model, optimizer)
    step = jax.jit(train.make_train_step(train.supervised(losses.nll_loss), optimizer))
    for epoch in range(5):
        state = state.replace(opt_state=schedule.apply(state.opt_state, epoch))
        for data, target in loader:
            state, metrics = step(state, (cast(data), target))
            yield metrics["loss"].item()
    return state.model().state_dict()
