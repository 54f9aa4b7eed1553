"""The whole programs of tests/programs as pairs: what `parity.check` is given for each.

The programs of jaxnet there draw their batches themselves; here the batches and the draws are
those of the trace, so that only model, loss and optimizer are taken from them.
"""

import importlib
import itertools
from collections.abc import Callable
from typing import Any

import jax

from jaxnet import losses, nn, ops, optim, train
from jaxnet.random import Generator
from tests.parity.pairs import Pair
from tests.programs import (
    actor_critic,
    dcgan,
    forward_forward,
    gpt,
    mnist,
    siamese_network,
    time_sequence_prediction,
    transformer_language_model,
    vae,
    vision_transformer,
    word_language_model,
)

Subject = dict[str, Any]


def _vae(trace: Any) -> Subject:
    def loss(model: Any, x: Any) -> Any:
        recon_x, mu, logvar = model(x)
        bce = losses.binary_cross_entropy(recon_x, x, reduction="sum")
        return bce - 0.5 * ops.sum(1 + logvar - ops.pow(mu, 2) - ops.exp(logvar))

    return {"model": vae.VAE(Generator(1)), "loss": loss, "optimizer": optim.Adam(lr=1e-2)}


def _mnist(trace: Any) -> Subject:
    adadelta = optim.Adadelta(lr=1.0)
    schedule = optim.StepLR(adadelta, step_size=1, gamma=0.7)
    return {
        "model": mnist.Net(Generator(1)),
        "loss": train.supervised(losses.nll_loss),
        "optimizer": optim.scheduled(adadelta, schedule, steps=5, every=10),
    }


def _gpt(trace: Any) -> Subject:
    def loss(model: Any, batch: Any) -> Any:
        tokens, targets = batch
        scores = model(tokens).reshape(-1, gpt.WORDS)
        return losses.cross_entropy(scores, targets) / 2

    options: dict[str, Any] = {"lr": 1e-2, "betas": (0.9, 0.95)}
    adamw = optim.groups(
        [(lambda name, p: p.ndim < 2, optim.AdamW(weight_decay=0.0, **options))],
        optim.AdamW(weight_decay=0.1, **options),
    )
    schedule = optim.LambdaLR(adamw, gpt.warm_up_and_cosine)
    clipped = optim.chain(optim.clip_by_norm(1.0), optim.scheduled(adamw, schedule, steps=50))
    return {
        "model": gpt.GPT(Generator(1)),
        "loss": loss,
        "optimizer": optim.accumulate(clipped, 2, "sum"),
    }


class _RNNModel(word_language_model.RNNModel):
    """The model with PyTorch's arguments: its state is given and returned."""

    def __call__(self, tokens: Any, hidden: Any) -> Any:
        output, hidden = self.rnn(self.drop(self.encoder(tokens)), hidden)
        decoded = self.decoder(self.drop(output)).reshape(-1, word_language_model.WORDS)
        return nn.functional.log_softmax(decoded, dim=1), hidden


def _word_language_model(trace: Any) -> Subject:
    def loss(model: Any, batch: Any) -> Any:
        tokens, h, c, targets = batch
        return losses.nll_loss(model(tokens, (h, c))[0], targets)

    optimizer = optim.chain(optim.clip_by_norm(0.25), optim.SGD(lr=1.0))
    return {"model": _RNNModel(Generator(1), 4), "loss": loss, "optimizer": optimizer}


def _transformer_language_model(trace: Any) -> Subject:
    def loss(model: Any, batch: Any) -> Any:
        data, targets = batch
        return losses.nll_loss(model(data).reshape(-1, transformer_language_model.WORDS), targets)

    return {
        "model": transformer_language_model.TransformerModel(Generator(1)),
        "loss": loss,
        "optimizer": optim.chain(optim.clip_by_norm(0.25), optim.SGD(lr=0.5)),
    }


def _dcgan(trace: Any) -> Subject:
    adam = optim.Adam(lr=2e-3, betas=(0.5, 0.999))
    discriminate = train.make_train_step(dcgan.lossD, adam, model="D")
    generate = train.make_train_step(dcgan.lossG, adam, model="G")

    def step(states: Any, real: Any) -> Any:
        noise = ops.randn(8, dcgan.NZ, 1, 1, dtype=real.dtype)
        fake = states["G"].model(training=True)(noise)
        states, first = discriminate(states, (real, fake))
        states, second = generate(states, noise)
        return states, {"loss": first["loss"] + second["loss"]}

    rngs = Generator(1)
    nets = dcgan.Generator(rngs), dcgan.Discriminator(rngs)
    for net in nets:
        net.apply(lambda m: dcgan.weights_init(m, rngs))
    state = {name: train.create(net, adam) for name, net in zip("GD", nets, strict=True)}
    return {"step": jax.jit(step), "state": state}


def _siamese_network(trace: Any) -> Subject:
    return {
        "model": siamese_network.SiameseNetwork(Generator(1)),
        "loss": siamese_network.loss_function,
        "optimizer": optim.Adadelta(lr=1.0),
    }


def _time_sequence_prediction(trace: Any) -> Subject:
    with jax.enable_x64(True):
        model = time_sequence_prediction.Sequence(Generator(0)).double()
    return {
        "model": model,
        "loss": train.supervised(losses.mse_loss),
        "optimizer": optim.LBFGS(lr=0.8, max_iter=5),
    }


def _actor_critic(trace: Any) -> Subject:
    def loss(model: Any, batch: Any) -> Any:
        """The loss of one episode, whose actions are drawn again, state by state."""
        *states, returns, _ = batch  # the last one is what torch subtracts the detached values to
        chosen, values = [], []
        for state in states:
            probs, value = model(state)
            action = ops.rand((), dtype=probs.dtype) > probs[0]
            chosen.append(ops.log(ops.where(action, probs[1], probs[0])))
            values.append(value)
        log_probs, values = ops.stack(chosen), ops.stack(values)
        advantages = returns - ops.detach(values)
        value_loss = losses.smooth_l1_loss(values, returns, reduction="sum")
        return value_loss - (log_probs * advantages).sum()

    model = actor_critic.Policy(Generator(1))
    return {"model": model, "loss": loss, "optimizer": optim.Adam(lr=1e-2)}


def _forward_forward(trace: Any) -> Subject:
    """Each layer is a model of its own; the step trains the one that the batch is given to."""
    net, adam = forward_forward.Net([64, 32, 32], Generator(1)), optim.Adam(lr=0.2)

    def loss_of(number: int) -> Any:
        return lambda layers, batch: forward_forward.loss_function(layers[number], batch[-2:])

    steps = [train.make_train_step(loss_of(i), adam, model=i) for i in range(2)]

    def step(states: Any, batch: Any) -> Any:
        return steps[0 if batch[-1].shape[1] == 64 else 1](states, batch)

    state = [train.create(layer, adam) for layer in net.layers]
    return {"step": jax.jit(step), "state": state}


def _vision_transformer(trace: Any) -> Subject:
    return {
        "model": vision_transformer.VisionTransformer(Generator(1)),
        "loss": train.supervised(losses.cross_entropy),
        "optimizer": optim.Adam(lr=3e-3),
    }


SUBJECTS: dict[str, Callable[[Any], Subject]] = {
    "vae": _vae,
    "mnist": _mnist,
    "gpt": _gpt,
    "word_language_model": _word_language_model,
    "transformer_language_model": _transformer_language_model,
    "dcgan": _dcgan,
    "siamese_network": _siamese_network,
    "time_sequence_prediction": _time_sequence_prediction,
    "actor_critic": _actor_critic,
    "forward_forward": _forward_forward,
    "vision_transformer": _vision_transformer,
}


def program(name: str) -> Pair:
    """The pair of a program of tests/programs.

    Args:
        name: A key of `SUBJECTS`.
    """

    def train_it(steps: int) -> None:
        run = importlib.import_module(f"tests.programs.{name}_torch").main()
        for _ in itertools.islice(run, steps):  # or as many as it has
            pass
        run.close()

    return Pair(name, train_it, SUBJECTS[name])
