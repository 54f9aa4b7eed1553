"""jaxnet/train: steps over several models, beside the same programs of PyTorch."""

import functools
from contextlib import nullcontext
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnet import losses, nn, optim, train
from jaxnet.random import Generator
from tests.train.runs import bits

STEPS, ROWS = 30, 4


def numbers(*shape: int, seed: int = 1) -> np.ndarray:
    return np.random.RandomState(seed).standard_normal((STEPS * ROWS, *shape))


def binary(scores, target):
    return losses.binary_cross_entropy_with_logits(scores, jnp.full_like(scores, target))


# Each program is there twice: `ours(model)` gives state, step and data for models that are cast by
# `model`; `theirs(torch, model, data)` yields for each step its metrics, and at last its networks.


class ActorCritic:
    """Two networks, two optimizers, and a loss of the actor that looks at the critic."""

    data = numbers(3), numbers(seed=2), (numbers(seed=3) > 0).astype(np.int64)

    @staticmethod
    def nets(nn, **k):
        return [
            nn.Sequential(nn.Linear(3, 5, **k), nn.Tanh(), nn.Linear(5, n, **k)) for n in (2, 1)
        ]

    @classmethod
    def ours(cls, model):
        actor, critic = map(model, cls.nets(nn, rngs=Generator(0)))
        sgd, adam = optim.SGD(lr=0.1, momentum=0.9), optim.Adam(lr=1e-2)

        def actor_loss(nets, batch):
            seen, returns, actions = batch
            advantage = returns - nets.critic(seen)[:, 0]
            logs = jax.nn.log_softmax(nets.actor(seen))
            return -(jnp.take_along_axis(logs, actions[:, None], 1)[:, 0] * advantage).mean()

        def critic_loss(nets, batch):
            return losses.mse_loss(nets.critic(batch[0])[:, 0], batch[1])

        act = train.make_train_step(actor_loss, sgd, model="actor")
        value = train.make_train_step(critic_loss, adam, model="critic")

        def step(states, batch):
            states, acted = act(states, batch)
            states, valued = value(states, batch)
            return states, {"loss": acted["loss"], "critic": valued["loss"]}

        return Both(train.create(actor, sgd), train.create(critic, adam)), step

    @classmethod
    def theirs(cls, torch, model, batches):
        actor, critic = map(model, cls.nets(torch.nn))
        sgd = torch.optim.SGD(actor.parameters(), lr=0.1, momentum=0.9)
        adam = torch.optim.Adam(critic.parameters(), lr=1e-2)
        for seen, returns, actions in batches:
            values = critic(seen)[:, 0]
            chosen = torch.distributions.Categorical(logits=actor(seen)).log_prob(actions)
            loss = -(chosen * (returns - values).detach()).mean()
            error = torch.nn.functional.mse_loss(values, returns)
            for optimizer, each in ((sgd, loss), (adam, error)):
                optimizer.zero_grad()
                each.backward()
                optimizer.step()
            yield {"loss": loss, "critic": error}
        yield {"actor": actor, "critic": critic}


class Both(NamedTuple):
    actor: Any
    critic: Any


class MeanTeacher:
    """A student, taught by the running average of its own weights, with batch norm in both."""

    data = numbers(3), numbers(2, seed=2), numbers(3, seed=3)

    @staticmethod
    def net(nn, **k):
        first = nn.Linear(3, 5, bias=False, **k)
        return nn.Sequential(first, nn.BatchNorm1d(5), nn.Linear(5, 2, **k))

    @classmethod
    def ours(cls, model):
        ema, adam = optim.AveragedModel(optim.get_ema_avg_fn(0.9)), optim.Adam(lr=1e-2)

        def loss(student, batch):
            inputs, targets, taught = batch
            outputs = student(inputs)
            return losses.mse_loss(outputs, targets) + losses.mse_loss(outputs, taught)

        inner = train.make_train_step(loss, adam, average=ema)

        def step(state, batch):
            inputs, targets, noise = batch
            teacher = state.model(averaged=True, training=True)
            return inner(state, (inputs, targets, teacher(inputs + 0.1 * noise)))

        return train.create(model(cls.net(nn, rngs=Generator(0))), adam, average=ema), step

    @classmethod
    def theirs(cls, torch, model, batches):
        student = model(cls.net(torch.nn))
        swa, mse = torch.optim.swa_utils, torch.nn.functional.mse_loss
        teacher = swa.AveragedModel(student, avg_fn=swa.get_ema_avg_fn(0.9))
        adam = torch.optim.Adam(student.parameters(), lr=1e-2)
        for inputs, targets, noise in batches:
            with torch.no_grad():
                taught = teacher(inputs + 0.1 * noise)
            outputs = student(inputs)
            loss = mse(outputs, targets) + mse(outputs, taught)
            adam.zero_grad()
            loss.backward()
            adam.step()
            teacher.update_parameters(student)
            yield {"loss": loss}
        yield {"": student, "average": teacher.module}


class Contrastive:
    """Two encoders and a temperature, one loss, and an optimizer for each encoder."""

    data = numbers(4), numbers(3, seed=2)

    @classmethod
    def ours(cls, model):
        class Pair(nn.Module):
            def __init__(self, rngs):
                self.image, self.text = nn.Linear(4, 3, rngs=rngs), nn.Linear(3, 3, rngs=rngs)
                self.scale = nn.Parameter(jnp.zeros(()))

            def __call__(self, *inputs):
                a, b = (
                    x / jnp.linalg.norm(x, axis=1, keepdims=True)
                    for x in (self.image(inputs[0]), self.text(inputs[1]))
                )
                return jnp.exp(self.scale[...]) * a @ b.T

        def loss(pair, batch):
            scores, same = pair(*batch), jnp.arange(ROWS)
            return losses.cross_entropy(scores, same) + losses.cross_entropy(scores.T, same)

        optimizer = optim.groups([("text.*", optim.SGD(lr=0.1))], optim.Adam(lr=1e-2))
        step = train.make_train_step(loss, optimizer)
        return train.create(model(Pair(Generator(0))), optimizer), step

    @classmethod
    def theirs(cls, torch, model, batches):
        image, text = model(torch.nn.Linear(4, 3)), model(torch.nn.Linear(3, 3))
        scale = torch.nn.Parameter(torch.zeros((), dtype=image.weight.dtype))
        adam = torch.optim.Adam([*image.parameters(), scale], lr=1e-2)
        sgd = torch.optim.SGD(text.parameters(), lr=0.1)
        cross = torch.nn.functional.cross_entropy
        for images, texts in batches:
            a, b = (torch.nn.functional.normalize(x) for x in (image(images), text(texts)))
            scores, same = scale.exp() * a @ b.T, torch.arange(ROWS)
            loss = cross(scores, same) + cross(scores.T, same)
            for optimizer in (adam, sgd):
                optimizer.zero_grad()
            loss.backward()
            for optimizer in (adam, sgd):
                optimizer.step()
            yield {"loss": loss}
        yield {"": torch.nn.ModuleDict({"image": image, "text": text})}


def arrays(state: Any) -> dict[str, dict[str, Any]]:
    """The parameters and buffers by name of each model, as torch's state_dict has them."""
    found = state._asdict() if isinstance(state, Both) else state
    found = found if isinstance(found, dict) else {"": found}
    if (average := getattr(state, "average", None)) is not None:
        found = {**found, "average": average}
    return {name: {**one.params, **one.buffers} for name, one in found.items()}


@pytest.mark.torch
@pytest.mark.parametrize(
    ("program", "dtype"),
    [
        (ActorCritic, "float64"),
        (ActorCritic, "float32"),
        (MeanTeacher, "float64"),
        (MeanTeacher, "float32"),
        (Contrastive, "float64"),
        (Contrastive, "float32"),
    ],
)
def test_thirty_steps_are_those_of_torch(program, dtype):
    torch = pytest.importorskip("torch")
    double, close = dtype == "float64", 1e-10 if dtype == "float64" else 1e-5
    data = [x if x.dtype == np.int64 else x.astype(dtype) for x in program.data]
    cuts = range(0, STEPS * ROWS, ROWS)
    batches = [[torch.tensor(x[i : i + ROWS]) for x in data] for i in cuts]
    torch.manual_seed(0)
    *steps, theirs = program.theirs(torch, lambda net: net.double() if double else net, batches)
    with jax.enable_x64(True) if double else nullcontext():
        state, step = program.ours(lambda net: net.double() if double else net)
        data = [jnp.asarray(x) for x in data]
        batch = data[0] if len(data) == 1 else tuple(data)
        state, measured = train.make_epoch(step, ROWS)(state, batch, jnp.arange(STEPS * ROWS))
        for name, values in measured.items():
            wanted = [float(each[name].detach()) for each in steps]
            np.testing.assert_allclose(values, wanted, rtol=close, atol=close, err_msg=name)
        ours = arrays(state)
        for name, net in theirs.items():
            for key, value in net.state_dict().items():
                np.testing.assert_allclose(
                    ours[name][key], value.numpy(), rtol=close, atol=close, err_msg=f"{name} {key}"
                )


# The containers of states, and what fit does for them.


@flax.struct.dataclass
class Struct:
    maker: Any
    judge: Any
    seen: Any


def as_dict(maker, judge, seen):
    return {"maker": maker, "judge": judge, "seen": seen}


def as_tuple(maker, judge, seen):
    return maker, judge, seen


ADAM, SGD = optim.Adam(lr=0.01), optim.SGD(lr=0.1)


def part(states, name):
    if isinstance(states, tuple):
        return states[("maker", "judge", "seen").index(name)]
    return states[name] if isinstance(states, dict) else getattr(states, name)


@functools.cache  # so that it is compiled once
def small(make):
    """States and a step of two small networks with batch norm and dropout, and a counter."""
    g = Generator(0)
    maker = nn.Sequential(nn.Linear(2, 3, bias=False, rngs=g), nn.BatchNorm1d(3), nn.Dropout(0.5))
    judge = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 1, rngs=g))
    states = make(train.create(maker, ADAM, seed=1), train.create(judge, SGD), jnp.zeros(()))

    def of(name):
        return ("maker", "judge").index(name) if make is as_tuple else name

    def make_loss(nets, batch):
        return binary(part(nets, "judge")(part(nets, "maker")(batch)), 1.0)

    def judge_loss(nets, batch):
        with nn.keys(jax.random.key(0)):  # as long as the judge is at work
            return binary(part(nets, "judge")(part(nets, "maker")(batch)), 0.0)

    make_step = train.make_train_step(make_loss, ADAM, model=of("maker"))
    judge_step = train.make_train_step(judge_loss, SGD, model=of("judge"))

    def step(states, batch):
        states, judged = judge_step(states, batch)
        states, made = make_step(states, batch)
        seen = part(states, "seen") + 1
        return make(part(states, "maker"), part(states, "judge"), seen), {
            "loss": made["loss"],
            "judge": judged["loss"],
        }

    return states, step, make_loss


X = np.random.RandomState(0).standard_normal((24, 2)).astype(np.float32)
OPTIONS = {"epochs": 3, "batch_size": 8, "compilation_cache": False, "quiet": True}


@pytest.mark.parametrize("make", [as_dict, as_tuple, Struct])
def test_fit_takes_the_states_of_several_models(make, tmp_path):
    states, step, loss = small(make)
    options = {**OPTIONS, "validation": X[:8], "eval_step": train.make_eval_step(loss)}
    whole = train.fit(states, step, X, **options)
    assert int(part(whole.state, "seen")) == 9
    for name in ("maker", "judge"):
        assert int(part(whole.state, name).step) == 9
    prefix = ("0.", "1.") if make is as_tuple else ("maker.", "judge.")
    rates = dict(zip((f"{name}lr" for name in prefix), (0.01, 0.1), strict=True))
    assert rates.items() <= whole.history[-1].items()
    # Both losses call both networks, so that the statistics of both move twice in a step.
    assert int(part(whole.state, "maker").buffers["1.num_batches_tracked"]) == 18
    assert int(part(whole.state, "judge").buffers["0.num_batches_tracked"]) == 18

    def stop(report):
        if report.step == 5:  # within the second epoch
            report.stop("here")

    saved = {**options, "checkpoint": tmp_path, "records": tmp_path / "records"}
    cut = train.fit(states, step, X, **saved, callbacks=[train.EverySteps(1, stop)])
    assert cut.reason == "here"
    resumed = train.fit(states, step, X, **saved | {"epochs": 4})
    longer = train.fit(states, step, X, **options | {"epochs": 4})
    assert bits(resumed.state) == bits(longer.state)
    assert resumed.history == longer.history
    again = train.fit(whole.state, step, X, **options | {"epochs": 1})
    assert bits(again.state) != bits(whole.state)
    assert again.history[0]["step"] == 12


def test_the_best_weights_of_several_models_come_back():
    states, step, _ = small(as_dict)
    first = train.fit(states, step, X, **OPTIONS | {"epochs": 1})

    def worse(states, batch):  # in every epoch
        return states, {"loss": states["judge"].step}

    options = {**OPTIONS, "patience": 1, "validation": X[:8], "eval_step": worse}
    best = train.fit(states, step, X, **options)
    assert (best.reason, best.best_epoch) == ("patience", 1)
    for name in ("maker", "judge"):
        assert bits(best.state[name].params) == bits(first.state[name].params)
        assert bits(best.state[name].buffers) == bits(first.state[name].buffers)
        assert int(best.state[name].step) == 6  # the optimizer's memory is that of the last epoch


def test_masks_of_one_of_several_may_be_infinite_and_bad_steps_are_left_out():
    class Masked(nn.Module):
        def __init__(self):
            self.fc = nn.Linear(2, 2, rngs=Generator(0))
            self.mask = nn.Buffer(jnp.array([[0.0, -jnp.inf]]))

        def __call__(self, x):
            return jax.nn.softmax(self.fc(x) + self.mask[...])

    def loss(nets, batch):
        return nets["a"](batch).mean() + nets["b"](batch).mean()

    step = train.make_train_step(loss, SGD, model="a")
    states = {name: train.create(Masked(), SGD) for name in "ab"}
    assert train.fit(states, step, X, **OPTIONS).reason == "done"
    bad = X.copy()
    bad[3] = np.nan
    result = train.fit(states, step, bad, **OPTIONS, shuffle=False, nonfinite="skip")
    assert int(result.state["a"].step) == 9
    assert np.isfinite(result.state["a"].params["fc.weight"]).all()
    with pytest.raises(train.NonFiniteError, match=r"epoch 1, step 1: not finite: batch"):
        train.fit(states, step, bad, **OPTIONS, shuffle=False)


@pytest.mark.parametrize("options", [{"microbatches": 2}, {"remat": True}, {"grad_norm": True}])
def test_options_of_a_step_hold_with_several_models(options):
    nets = [nn.Linear(2, 2, rngs=Generator(i)) for i in (0, 1)]
    states = {name: train.create(net, SGD) for name, net in zip("ab", nets, strict=True)}

    def loss(nets, batch):
        return losses.mse_loss(nets["a"](batch), nets["b"](batch))

    step = train.make_train_step(loss, SGD, model="a", **options)
    after, measured = jax.jit(step)(states, jnp.asarray(X))
    target = nets[1](jnp.asarray(X))
    alone = train.make_train_step(lambda m, x: losses.mse_loss(m(x), target), SGD, grad_norm=True)
    wanted, of_one = jax.jit(alone)(states["a"], jnp.asarray(X))
    for name, value in wanted.params.items():
        np.testing.assert_allclose(after["a"].params[name], value, rtol=1e-6)
    np.testing.assert_allclose(measured["loss"], of_one["loss"], rtol=1e-6)
    if "grad_norm" in options:
        np.testing.assert_allclose(measured["grad_norm"], of_one["grad_norm"], rtol=1e-6)
    assert bits(after["b"]) == bits(states["b"])


def test_what_one_of_several_does_not_use_stays_and_what_both_use_moves():
    class Two(nn.Module):
        def __init__(self):
            self.a, self.b = (nn.Linear(2, 2, rngs=Generator(i)) for i in (0, 1))

    decay = optim.SGD(lr=0.1, momentum=0.9, weight_decay=0.1)
    ema = optim.AveragedModel(optim.get_ema_avg_fn(0.5))
    states = {
        "x": train.create(Two(), decay, average=ema),
        "y": train.create(Two(), decay),
    }

    def loss(nets, batch):
        return losses.mse_loss(nets["x"].a(batch), nets["y"].b(batch))

    step = train.make_train_step(loss, decay, model="x", microbatches=2, average=ema)
    after, _ = train.make_repeat(step, 3)(states, jnp.asarray(X))
    for name in ("b.weight", "b.bias"):
        assert bits(after["x"].params[name]) == bits(states["x"].params[name])
        assert bits(after["x"].average.params[name]) == bits(states["x"].params[name])
        assert not np.any(after["x"].opt_state.slots["momentum_buffer"][name])
    assert np.any(after["x"].params["a.weight"] != states["x"].params["a.weight"])
    assert bits(after["y"]) == bits(states["y"])


@pytest.mark.parametrize(
    ("part", "says"),
    [
        ("b", r"in the step of the model 'b': the first layer is a.1: in its output 0 nan and"),
        ("batch", r"in the step of the model 'b': batch\[0\]: .*; the first layer is a.0"),
        ("state", r"the state before the step: in b.0.weight 4 nan"),
    ],
)
def test_the_cause_is_named_in_a_step_of_steps(part, says):
    class Root(nn.Module):
        def __call__(self, x):
            return jnp.log(jnp.abs(x - x)) if part == "b" else x

    nets = {name: nn.Sequential(nn.Linear(2, 2, rngs=Generator(0)), Root()) for name in "ab"}
    states = {name: train.create(net, SGD) for name, net in nets.items()}

    def loss(nets, batch):
        return nets["a"](batch[0]).mean() + nets["b"](batch[0]).mean()

    first = train.make_train_step(lambda nets, x: nets["a"][0](x).mean(), SGD, model="a")
    second = train.make_train_step(loss, SGD, model="b")

    def step(states, x):
        states, _ = first(states, x)
        states, measured = second(states, (x / 0 if part == "batch" else x,))
        return states, measured

    if part == "state":
        broken = states["b"].replace(params={k: v * jnp.nan for k, v in states["b"].params.items()})
        states = {**states, "b": broken}
    with pytest.raises(train.NonFiniteError, match=f"epoch 1, step 1: not finite: {says}"):
        train.fit(states, step, X, **OPTIONS)
