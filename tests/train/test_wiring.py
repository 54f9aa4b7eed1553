"""jaxnet/train, jaxnet/optim: what is put together wrongly is refused, and says what is right."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxnet import nn, optim, train
from jaxnet.random import Generator

ADAM, SGD = optim.Adam(lr=0.01), optim.SGD(lr=0.1)
X = np.ones((8, 2), np.float32)
OPTIONS = {"epochs": 1, "batch_size": 8, "compilation_cache": False, "quiet": True}


def fc(seed: int = 0):
    return nn.Linear(2, 2, rngs=Generator(seed))


def of_a(nets, batch):
    return nets["a"](batch).mean()


STEP_A = train.make_train_step(of_a, SGD, model="a")
ALONE = train.make_train_step(lambda model, batch: model(batch).mean(), SGD)
AVERAGE = optim.AveragedModel()


def two(**more):
    return {"a": train.create(fc(), SGD), "b": train.create(fc(), ADAM), **more}


@pytest.mark.parametrize(
    ("state", "step", "error", "says"),
    [
        (
            two,
            lambda s, x: ({"a": s["b"], "b": s["a"]}, {}),
            ValueError,
            "given the state dict .a: a Linear with SGD, b: .*back dict .a: a Linear with Adam",
        ),
        (two, lambda s, x: (s["a"], {}), ValueError, "gave back TrainState .a Linear with SGD"),
        (two, ALONE, ValueError, "model: None; the state has the models 'a', 'b': say which"),
        (
            two,
            train.make_train_step(of_a, SGD, model="c"),
            ValueError,
            "model: 'c'; the state has the models 'a', 'b'",
        ),
        (
            lambda: train.create(fc(), SGD),
            STEP_A,
            ValueError,
            "model: 'a', and the state is that of one model; leave `model` out",
        ),
        (
            two,
            train.make_train_step(lambda model, x: model(x).mean(), SGD, model="a"),
            TypeError,
            "loss: it calls the dict of all models",
        ),
        (
            lambda: {"a": train.create(fc(), SGD), "b": train.create(fc(), SGD)},
            train.make_train_step(of_a, SGD, model="b"),
            ValueError,
            "loss: it depends on no parameter of the model 'b', which the step trains",
        ),
        (
            lambda: {"a": train.create(fc(), ADAM), "b": train.create(fc(), SGD)},
            STEP_A,
            ValueError,
            "optimizer: the state is that of another one",
        ),
        (
            lambda: {"a": train.create(fc(), optim.SGD(lr=0.2))},
            STEP_A,
            ValueError,
            r"optimizer: SGD\(lr=0.1, .*`create` was given SGD\(lr=0.2, .*set_hyperparams",
        ),
        (lambda: two(c=fc()), STEP_A, TypeError, r"state: 'c' is a model \(Linear\).*optim.frozen"),
        (
            lambda: train.create(fc(), SGD, average=AVERAGE),
            ALONE,
            ValueError,
            "average: the state keeps a running average, which this step would leave",
        ),
        (
            lambda: train.create(fc(), SGD),
            train.make_train_step(of_a, SGD, average=AVERAGE),
            ValueError,
            "average: the state keeps none",
        ),
        (lambda: jnp.zeros(3), ALONE, TypeError, "state: a .*Tracer; accepted is the state"),
    ],
)
def test_states_and_steps_that_do_not_go_together(state, step, error, says):
    with pytest.raises(error, match=says):
        train.make_repeat(step, 2)(state(), jnp.asarray(X))


def test_what_is_no_key_average_or_scale():
    with pytest.raises(TypeError, match="make_train_step: model: a Linear; accepted is the key"):
        train.make_train_step(of_a, SGD, model=fc())
    with pytest.raises(TypeError, match=r"create: average: <function.*AveragedModel"):
        train.create(fc(), SGD, average=optim.get_ema_avg_fn())
    with pytest.raises(TypeError, match=r"loss_scale: 1024.0; accepted is optim.loss_scale"):
        train.make_train_step(of_a, SGD, loss_scale=1024.0)
    with pytest.raises(TypeError, match="state: a dict of the models 'a', 'b'; accepted is the st"):
        train.predict(two(), X, batch_size=8)


def test_schedules_that_the_optimizer_would_not_follow():
    other = optim.StepLR(optim.SGD(lr=1.0), 2).apply
    with pytest.raises(ValueError, match=r"schedule: it was built for SGD\(lr=1.0.*SGD\(lr=0.1"):
        train.fit(train.create(fc(), SGD), ALONE, X, schedule=other, **OPTIONS)
    own = optim.StepLR(SGD, 2)
    twice = optim.scheduled(SGD, own, 9)
    with pytest.raises(ValueError, match=r"schedule: the optimizer is in optim.scheduled"):
        train.fit(train.create(fc(), twice), ALONE, X, schedule=own.apply, **OPTIONS)
    with pytest.raises(ValueError, match="scheduled: there is a schedule inside already"):
        train.create(fc(), optim.scheduled(twice, own, 9))
    with pytest.raises(TypeError, match="schedule: the state is a dict without the opt_state"):
        train.fit(two(), STEP_A, X, schedule=own.apply, **OPTIONS)


CLIP = optim.clip_by_norm(1.0)


@pytest.mark.parametrize(
    ("parts", "says"),
    [
        ((SGD, CLIP), "chain: clipping after the optimizer would limit its updates"),
        ((CLIP, SGD, optim.clip_by_value(1.0)), "chain: clipping after the optimizer"),
        ((CLIP, optim.accumulate(SGD, 2)), "chain: clipping before `accumulate` would limit"),
    ],
)
def test_clipping_in_the_wrong_position(parts, says):
    with pytest.raises(ValueError, match=says):
        optim.chain(*parts)
