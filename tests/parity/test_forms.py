"""Programs whose step is not one forward, one backward and one update from a loader."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from jaxnet import losses, nn, ops, optim, parity, train
from jaxnet.random import Generator
from tests.marks import slow_among

pytestmark = pytest.mark.torch
torch: Any = pytest.importorskip("torch")
F = torch.nn.functional


def linear(*sizes, rngs=None):
    rngs = Generator(0) if rngs is None else rngs
    return nn.Linear(*sizes, rngs=rngs)


def mse(model, batch):
    x, y = batch
    return losses.mse_loss(model(x), y)


# Gradients of several batches without a loader.


def accumulated_torch():
    net = torch.nn.Linear(3, 2)
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    for _ in range(2):
        optimizer.zero_grad()
        for part in torch.randn(8, 5).chunk(2):
            (F.mse_loss(net(part[:, :3]), part[:, 3:]) / 2).backward()
        optimizer.step()


def accumulated(scale=0.5):
    def loss(model, batch):
        return mse(model, batch) * scale

    return linear(3, 2), loss, optim.accumulate(optim.SGD(lr=0.1), 2, "sum")


# One model, one backward, two optimizers.


def autoencoder_torch():
    encoder, decoder = torch.nn.Linear(3, 2), torch.nn.Linear(2, 3)
    first = torch.optim.Adam(encoder.parameters(), 0.01)
    second = torch.optim.SGD(decoder.parameters(), 0.1)
    for _ in range(2):
        x = torch.randn(4, 3)
        first.zero_grad()
        second.zero_grad()
        F.mse_loss(decoder(encoder(x)), x).backward()
        first.step()
        second.step()


def autoencoder(lr=0.1):
    rngs = Generator(0)
    adam, sgd = optim.Adam(lr=0.01), optim.SGD(lr=lr)
    states = {
        "encoder": train.create(linear(3, 2, rngs=rngs), adam),
        "decoder": train.create(linear(2, 3, rngs=rngs), sgd),
    }

    def loss(nets, batch):
        (x,) = batch
        return losses.mse_loss(nets["decoder"](nets["encoder"](x)), x)

    first = train.make_train_step(loss, adam, model="encoder")
    second = train.make_train_step(loss, sgd, model="decoder")

    def step(states, batch):
        after, metrics = first(states, batch)
        other, _ = second(states, batch)
        return {"encoder": after["encoder"], "decoder": other["decoder"]}, metrics

    return step, states


# A closure that is evaluated several times, over a loop of JAX that calls a layer.


class Recurrent(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.cell, self.out = torch.nn.LSTMCell(1, 3), torch.nn.Linear(3, 1)

    def forward(self, x):
        h = c = x.new_zeros(len(x), 3)
        outputs = []
        for x_t in x.split(1, dim=1):
            h, c = self.cell(x_t, (h, c))
            outputs.append(self.out(h))
        return torch.cat(outputs, dim=1)


class Scanned(nn.Module):
    def __init__(self, factor=1.0):
        rngs = Generator(0)
        self.cell, self.out = nn.LSTMCell(1, 3, rngs=rngs), nn.Linear(3, 1, rngs=rngs)
        self.factor = factor

    def __call__(self, x):
        def advance(state, x_t):
            state = self.cell(x_t[:, None], state)
            return state, self.out(self.factor * state[0])

        zeros = ops.zeros(len(x), 3, dtype=x.dtype)
        _, outputs = jax.lax.scan(advance, (zeros, zeros), x.T)
        return outputs[..., 0].T


def closure_torch(kind="LBFGS", **options):
    torch.manual_seed(0)
    net = Recurrent()
    x = torch.sin(torch.arange(20.0)).reshape(4, 5)
    optimizer = getattr(torch.optim, kind)(net.parameters(), **options)

    def closure():
        optimizer.zero_grad()
        loss = F.mse_loss(net(x[:, :-1]), x[:, 1:])
        loss.backward()
        return loss

    for _ in range(3):
        optimizer.step(closure)


def lbfgs_torch():
    closure_torch(lr=0.5, max_iter=3)


def lbfgs(lr=0.5, factor=1.0):
    return Scanned(factor), mse, optim.LBFGS(lr=lr, max_iter=3)


def closure_of_adam_torch():
    closure_torch("Adam", lr=0.01)


def closure_of_adam(lr=0.01):
    return Scanned(), mse, optim.Adam(lr=lr)


# Layers that are trained one after another, each by layer.forward(x).


def layers_torch():
    net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 2))
    x = torch.randn(5, 3)
    for layer in net:
        optimizer = torch.optim.Adam(layer.parameters(), lr=0.1)
        for _ in range(2):
            loss = layer.forward(x).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        x = layer(x).detach()


def layers(power=2):
    rngs, adam = Generator(0), optim.Adam(lr=0.1)
    states = [train.create(linear(*size, rngs=rngs), adam) for size in ((3, 4), (4, 2))]

    def loss_of(number):
        exponent = (2, power)[number]
        return lambda nets, batch: (nets[number](batch[-1]) ** exponent).mean()

    steps = [train.make_train_step(loss_of(i), adam, model=i) for i in range(2)]

    def step(states, batch):
        return steps[0 if batch[-1].shape[1] == 3 else 1](states, batch)

    return step, states


# A teacher that follows its student.


def teacher_torch():
    student, teacher = torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)
    optimizer = torch.optim.SGD(student.parameters(), 0.1)
    for _ in range(3):
        x = torch.randn(4, 3)
        output = student(x)
        with torch.no_grad():
            target = teacher(x)
        loss = F.mse_loss(output, target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            for theirs, own in zip(teacher.parameters(), student.parameters(), strict=True):
                theirs.mul_(0.9).add_(own, alpha=0.1)


def teacher(decay=0.9):
    rngs, sgd = Generator(0), optim.SGD(lr=0.1)
    states = {
        "student": train.create(linear(3, 2, rngs=rngs), sgd),
        "teacher": train.create(linear(3, 2, rngs=rngs), optim.frozen()),
    }

    def loss(nets, batch):
        (x,) = batch
        return losses.mse_loss(nets["student"](x), ops.detach(nets["teacher"](x)))

    student = train.make_train_step(loss, sgd, model="student")

    def step(states, batch):
        states, metrics = student(states, batch)
        own, theirs = states["student"].params, states["teacher"].params
        new = {k: decay * theirs[k] + (1 - decay) * own[k] for k in theirs}
        return {**states, "teacher": states["teacher"].replace(params=new)}, metrics

    return step, states


# A critic with a penalty on the gradient by its input, and a generator.


def penalty_torch():
    G, D = (
        torch.nn.Linear(2, 3),
        torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 1)),
    )
    first, second = (torch.optim.Adam(net.parameters(), 0.01) for net in (D, G))
    for _ in range(2):
        real, noise = torch.randn(4, 3), torch.randn(4, 2)
        fake = G(noise)
        mixed = (0.5 * real + 0.5 * fake.detach()).requires_grad_()
        (slope,) = torch.autograd.grad(D(mixed).sum(), mixed, create_graph=True)
        loss = D(fake.detach()).mean() - D(real).mean() + ((slope.norm(2, dim=1) - 1) ** 2).mean()
        first.zero_grad()
        loss.backward()
        first.step()
        second.zero_grad()
        (-D(fake).mean()).backward()
        second.step()


def penalty(weight=1.0):
    rngs, adam = Generator(0), optim.Adam(lr=0.01)
    G = linear(2, 3, rngs=rngs)
    D = nn.Sequential(linear(3, 4, rngs=rngs), nn.Tanh(), linear(4, 1, rngs=rngs))
    states = {"G": train.create(G, adam), "D": train.create(D, adam)}

    def critic(nets, batch):
        real, fake = batch
        D = nets["D"]
        slope = jax.grad(lambda x: D(x).sum())(0.5 * real + 0.5 * fake)
        size = ((jnp.sqrt((slope**2).sum(1)) - 1) ** 2).mean()
        return D(fake).mean() - D(real).mean() + weight * size

    def generator(nets, noise):
        return -nets["D"](nets["G"](noise)).mean()

    first = train.make_train_step(critic, adam, model="D")
    second = train.make_train_step(generator, adam, model="G")

    def step(states, batch):
        noise, real = batch
        fake = states["G"].model(training=True)(noise)
        states, one = first(states, (real, fake))
        states, other = second(states, noise)
        return states, {"loss": one["loss"] + other["loss"]}

    return step, states


# A generator whose images are computed anew for its own update; the first ones have no gradient.


def anew_torch(gradients=True):
    G, D = torch.nn.Linear(2, 3), torch.nn.Linear(3, 1)
    first, second = (torch.optim.Adam(net.parameters(), 0.01) for net in (D, G))
    for _ in range(2):
        real, z, w = torch.randn(4, 3), torch.randn(4, 2), torch.randn(4, 2)
        with torch.set_grad_enabled(gradients):
            fake = G(z).detach()
        first.zero_grad()
        (D(fake).square().mean() - D(real).mean()).backward()
        first.step()
        second.zero_grad()
        (-D(G(w)).mean()).backward()
        second.step()


def without_gradients_torch():
    anew_torch(gradients=False)


def anew(sign=1, given=False):
    rngs, adam = Generator(0), optim.Adam(lr=0.01)
    nets = {"G": linear(2, 3, rngs=rngs), "D": linear(3, 1, rngs=rngs)}

    def critic(nets, batch):
        real, fake = batch
        return (nets["D"](fake) ** 2).mean() - nets["D"](real).mean()

    def generator(nets, noise):
        return -sign * nets["D"](nets["G"](noise)).mean()

    first = train.make_train_step(critic, adam, model="D")
    second = train.make_train_step(generator, adam, model="G")

    def step(states, batch):
        z, real, w = batch
        fake = z if given else states["G"].model(training=True)(z)
        states, one = first(states, (real, fake))
        states, other = second(states, w)
        return states, {"loss": one["loss"] + other["loss"]}

    return step, {name: train.create(net, adam) for name, net in nets.items()}


def without_gradients(sign=1):
    return anew(sign, given=True)


@dataclasses.dataclass(frozen=True)
class Form:
    """A form of programs: one of torch's, and the same in jaxnet but for a fault of some kind.

    Attributes:
        torch: The program.
        port: The function that makes the other one.
        fault: The arguments with which it is another program.
        where: What the first difference has in its site or origin.
        step: Its step.
        layered: The modules whose calls are compared.
    """

    torch: Callable[[], None]
    port: Callable[..., Any]
    fault: dict[str, Any]
    where: str
    step: int = 0
    layered: tuple[str, ...] = ("",)


FORMS = [
    Form(accumulated_torch, accumulated, {"scale": 1.0}, "loss"),
    Form(autoencoder_torch, autoencoder, {"lr": 0.2}, "lr:", layered=("encoder", "decoder")),
    Form(lbfgs_torch, lbfgs, {"factor": 1.01}, "out", layered=("", "cell", "out")),
    Form(lbfgs_torch, lbfgs, {"lr": 0.4}, "update"),
    Form(closure_of_adam_torch, closure_of_adam, {"lr": 0.02}, "lr:0"),
    Form(layers_torch, layers, {"power": 4}, "loss", 2, ("0", "1")),
    Form(teacher_torch, teacher, {"decay": 0.8}, "teacher", 0, ("student", "teacher")),
    Form(anew_torch, anew, {"sign": -1}, "loss", layered=("G", "D")),
    Form(without_gradients_torch, without_gradients, {"sign": -1}, "loss", layered=("G", "D")),
    Form(penalty_torch, penalty, {"weight": 1.5}, "loss", layered=("G", "D", "D.2")),
]


def checked(trace, made):
    names = ("step", "state") if len(made) == 2 else ("model", "loss", "optimizer")
    return parity.check(trace, **dict(zip(names, made, strict=True)))


def name_of(form):
    return f"{form.port.__name__}-{next(iter(form.fault))}"


# Each is compiled in two precisions, right and wrong; these take most time.
SLOW = [FORMS[i] for i in (2, 3, 4, 5, 9)]


@pytest.mark.long
@pytest.mark.parametrize("form", slow_among(FORMS, SLOW), ids=name_of)
def test_a_program_of_another_form_is_compared(tmp_path, form):
    torch.manual_seed(0)
    with parity.recording(tmp_path / "t", steps=4):
        form.torch()
    report = checked(tmp_path / "t", form.port())
    assert report.verdict == "same", str(report)
    assert {*form.layered} <= {*report.coverage["modules"].seen}, str(report)
    without = report.coverage["parameters"].missing.values()
    assert {*without} <= {"torch has no gradient of it"}, str(report)
    report = checked(tmp_path / "t", form.port(**form.fault))
    assert report.verdict == "different"
    first = report.findings[0]
    assert form.where in f"{first.site} {first.origin}", str(report)
    assert first.step == form.step, str(report)
