"""jaxnet/train/_callbacks.py: what fit calls, what it tells, and what stays usable."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnet import losses, metrics, nn, optim, train
from jaxnet.random import Generator

LOSS = train.supervised(losses.cross_entropy, {"accuracy": metrics.accuracy})
OPTIMIZER = optim.SGD(lr=0.1)
STEP = train.make_train_step(LOSS, OPTIMIZER, grad_norm=True)


def rows(n: int = 56) -> tuple[np.ndarray, np.ndarray]:
    x = np.random.RandomState(0).standard_normal((n, 3)).astype(np.float32)
    return x, (x.sum(1) > 0).astype(np.int32)


def make_state() -> train.TrainState:
    return train.create(nn.Linear(3, 2, rngs=Generator(1)), OPTIMIZER)


def run(**options) -> train.Result:
    options = {"epochs": 3, "batch_size": 8, "compilation_cache": False, "quiet": True} | options
    return train.fit(make_state(), STEP, rows(), **options)


def weights(state: train.TrainState) -> list[bytes]:
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(state.params)]


@pytest.mark.parametrize("chunk_steps", [None, 1, 4])
def test_every_so_many_steps_over_the_whole_run(chunk_steps, tmp_path):
    seen = []

    def look(report):
        seen.append((report.epoch, report.step, int(report.state.step)))
        report.log(seen=len(seen))

    records = train.Records(tmp_path)
    result = run(callbacks=[train.EverySteps(5, look)], chunk_steps=chunk_steps, records=records)
    assert seen == [(1, 5, 5), (2, 10, 10), (3, 15, 15), (3, 20, 20)]  # seven steps an epoch
    assert weights(result.state) == weights(run().state)
    lines = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    logged = [line for line in lines if "in_epoch" in line]
    assert [(line["step"], line["seen"]) for line in logged] == [(5, 1), (10, 2), (15, 3), (20, 4)]


def test_its_metrics_are_the_means_over_its_steps(tmp_path):
    records = train.Records(tmp_path, every_step=True)
    seen = {}

    def look(report):
        seen[report.step] = report.metrics["loss"]

    run(epochs=1, callbacks=[train.EverySteps(3, look)], chunk_steps=2, records=records)
    lines = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    losses_ = [line["loss"] for line in lines if "in_epoch" in line]
    assert seen == {
        3: pytest.approx(np.mean(losses_[:3]), rel=1e-6),
        6: pytest.approx(np.mean(losses_[3:6]), rel=1e-6),
    }


def test_a_step_callback_stops_and_changes_the_run():
    def stop(report):
        return report.stop("enough") if report.step == 4 else None

    result = run(callbacks=[train.EverySteps(2, stop)])
    assert (result.reason, int(result.state.step)) == ("enough", 4)

    def reset(report):
        return report.state.replace(params=jax.tree.map(jnp.zeros_like, report.state.params))

    result = run(epochs=1, callbacks=[train.EverySteps(7, reset)])
    assert all(not np.any(value) for value in result.state.params.values())
    anew = train.EverySteps(3, lambda report: make_state() if report.step == 3 else None)
    changed = run(epochs=1, callbacks=[anew], shuffle=False)
    x, y = rows()
    rest = train.fit(
        make_state(),
        STEP,
        (x[24:], y[24:]),
        epochs=1,
        batch_size=8,
        shuffle=False,
        quiet=True,
        compilation_cache=False,
    )
    assert weights(changed.state) == weights(rest.state)


def test_what_is_logged_is_in_history_and_records_and_csv_gains_a_column(tmp_path):
    def look(report):
        assert report.metrics["lr"] == 0.1
        if report.epoch == 2:
            report.log(extra=np.float32(7), more=jnp.ones(1))
            assert report.metrics["extra"] == 7.0

    result = run(callbacks=[look], records=train.Records(tmp_path, "csv"))
    assert [line.get("extra") for line in result.history] == [None, 7.0, None]
    assert all(line["lr"] == 0.1 and line["grad_norm"] > 0 for line in result.history)
    head, *table = (tmp_path / "history.csv").read_text().splitlines()
    column = head.split(",").index("extra")
    assert [row.split(",")[column] for row in table] == ["", "7.0", ""]


@pytest.mark.parametrize(
    ("action", "error", "says"),
    [
        (lambda report: report.log(loss=1.0), ValueError, "log: 'loss' is there already"),
        (lambda report: report.log(epoch=1.0), ValueError, "log: 'epoch' is there already"),
        (lambda report: report.log(a=np.ones(2)), TypeError, "log: a: .*accepted is one number"),
        (lambda report: report.log(a="good"), TypeError, "log: a: 'good'; accepted is one"),
        (lambda report: report.metrics.update(a=1), AttributeError, "update"),
        (lambda report: setattr(report, "state", report.state), AttributeError, "state"),
        (lambda report: 3, TypeError, "callbacks: one returned int; accepted are None, and a st"),
        (
            lambda report: jax.tree.map(lambda x: x[:1] if x.ndim else x, report.state),
            ValueError,
            r"shape \(1,\) where there was one of shape \(2,\)",
        ),
    ],
)
def test_wrong_callbacks(action, error, says):
    with pytest.raises(error, match=says):
        run(callbacks=[action], epochs=1)


def test_every_no_steps():
    with pytest.raises(ValueError, match="steps: 0; accepted is an integer, at least 1"):
        train.EverySteps(0, print)


@pytest.mark.parametrize("nonfinite", ["stop", "skip", "go on"])
def test_states_that_callbacks_keep_stay_usable(nonfinite):
    """A call takes the memory of a state where it may; never that of one that was handed out."""
    kept = []
    start = make_state()

    def keep(report):
        kept.append(report.state)

    callbacks = [keep, train.EverySteps(3, keep)]
    options = {"epochs": 2, "batch_size": 8, "compilation_cache": False, "quiet": True}
    result = train.fit(
        start, STEP, rows(), nonfinite=nonfinite, patience=5, callbacks=callbacks, **options
    )
    assert [int(state.step) for state in kept] == [3, 6, 7, 9, 12, 14]
    for state in [start, *kept, result.state]:
        assert np.isfinite(np.asarray(state.model()(rows()[0]))).all()
    # To skip is another program, which may round differently.
    alone = run(epochs=2, nonfinite=nonfinite)
    assert weights(result.state) == weights(alone.state)


def test_the_best_weights_survive_a_callback_that_gives_the_state_away():
    epoch = train.make_epoch(train.make_eval_step(LOSS), 8)
    data = jax.tree.map(jnp.asarray, rows())

    def measure(report):
        copy = jax.tree.map(jnp.copy, report.state)
        epoch(report.state, data, jnp.arange(56))  # donates what it is given
        return copy

    options = {"patience": 1, "mode": "max"}  # the first epoch is the best
    result = run(callbacks=[measure], **options)
    assert (result.reason, result.best_epoch) == ("patience", 1)
    assert weights(result.state) == weights(run(epochs=1).state)


def test_a_step_of_ones_own_over_two_models():
    """Any pytree is a state: two models and two optimizers in one step."""
    other = optim.Adam(lr=0.01)
    second = train.make_train_step(LOSS, other)

    def both(states, batch):
        first, measured = STEP(states["first"], batch)
        after, of_second = second(states["second"], batch)
        return {"first": first, "second": after}, {
            "loss": measured["loss"],
            "second": of_second["loss"],
        }

    states = {
        "first": make_state(),
        "second": train.create(nn.Linear(3, 2, rngs=Generator(2)), other),
    }
    options = {"epochs": 2, "batch_size": 8, "compilation_cache": False, "quiet": True}
    result = train.fit(states, both, rows(), patience=5, **options)
    assert weights(result.state["first"]) == weights(run(epochs=2).state)
    assert set(result.history[0]) == {"epoch", "step", "loss", "second", "first.lr", "second.lr"}
    poisoned = rows()
    poisoned[0][29] = np.nan
    with pytest.raises(train.NonFiniteError, match=r"epoch 1, step 4: not finite: batch\[0\]"):
        train.fit(states, both, poisoned, shuffle=False, **options)
    infinite = {**states, "best": jnp.array(jnp.inf)}

    def three(states, batch):
        after, measured = both(states, batch)
        return {**after, "best": states["best"]}, measured

    with pytest.raises(
        train.NonFiniteError, match="state before the step: in best 0 nan and 1 inf"
    ):
        train.fit(infinite, three, rows(), **options)


def test_reprs_are_short():
    result = run(epochs=1)
    assert repr(result.state) == (
        "TrainState(step 7, Linear: 8 numbers in 2 parameters, 0 buffers, "
        f"{len(jax.tree.leaves(result.state.opt_state))} arrays of the optimizer)"
    )
    assert repr(result.state.structure) == "Structure(Linear, 2 arrays)"
    assert repr(result).startswith("Result('done' after 1 epoch, loss ")
    assert len(repr(result)) < 200
    assert result._repr_html_().count("<tr>") == 2


@pytest.mark.parametrize(
    ("metric", "error", "says"),
    [
        (lambda out, y: "good", TypeError, "metrics: m: 'good'; accepted are numbers, arrays"),
        (lambda out, y: {"a": out.mean()}, TypeError, "metrics: m: a dict; accepted are numbers"),
        (lambda out, y: out[:, 0], ValueError, r"metrics: m: of shapes \[\(2,\), \(8,\)\] in ba"),
    ],
)
def test_metrics_that_are_no_numbers(metric, error, says):
    step = train.make_train_step(train.supervised(losses.cross_entropy, {"m": metric}), OPTIMIZER)
    options = {"epochs": 1, "batch_size": 8, "compilation_cache": False, "quiet": True}
    with pytest.raises(error, match=says):
        train.fit(make_state(), step, rows(50), **options)


@pytest.mark.parametrize(
    "name", ["epoch", "step", "in_epoch", "lr", "seconds", "samples_per_second", "val_loss"]
)
def test_a_metric_does_not_hide_what_a_line_says_itself(name):
    loss = train.supervised(losses.cross_entropy, {name: metrics.accuracy})
    step = train.make_train_step(loss, OPTIMIZER)
    with pytest.raises(ValueError, match=f"metrics: '{name}' has its own meaning"):
        train.fit(make_state(), step, rows(), epochs=1, batch_size=8, quiet=True)


@pytest.mark.parametrize("name", ["loss", "grad_norm"])
def test_a_metric_does_not_hide_what_the_step_says_itself(name):
    loss = train.supervised(losses.cross_entropy, {name: metrics.accuracy})
    step = train.make_train_step(loss, OPTIMIZER, grad_norm=True)
    with pytest.raises(ValueError, match=rf"metrics: '{name}' is .*give this metric another name"):
        train.fit(make_state(), step, rows(), epochs=1, batch_size=8, quiet=True)


def test_a_state_of_another_optimizer_and_of_none():
    options = {"epochs": 1, "batch_size": 8, "compilation_cache": False, "quiet": True}
    state = train.create(nn.Linear(3, 2, rngs=Generator(1)), optim.Adam(lr=0.1))
    with pytest.raises(ValueError, match=r"optimizer: the state is that of another.*create\("):
        train.fit(state, STEP, rows(), **options)
    with pytest.raises(TypeError, match=r"state: a model \(Linear\).*train.create\(model, opt"):
        train.fit(nn.Linear(3, 2, rngs=Generator(1)), STEP, rows(), **options)
    with pytest.raises(TypeError, match="step: a function that calls the state"):
        train.fit(make_state(), LOSS, rows(), **options)
    with pytest.raises(TypeError, match="step: an evaluation step, which trains nothing"):
        train.fit(make_state(), train.make_eval_step(LOSS), rows(), **options)


def test_the_memory_of_a_step_callback_is_kept(tmp_path):
    def count(memory, state, metrics):
        return memory + 1, state

    def counted(epochs, folder):
        each = train.EachEpoch(count, jnp.zeros((), jnp.int32))
        run(epochs=epochs, callbacks=[train.EverySteps(3, each)], checkpoint=folder)
        return int(each.memory)

    assert counted(4, tmp_path / "whole") == 9
    counted(2, tmp_path / "stopped")
    assert counted(4, tmp_path / "stopped") == 9


def test_a_state_on_several_devices_stays_usable():
    mesh = jax.sharding.Mesh(np.array(jax.devices()), ("rows",))
    everywhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    state = jax.device_put(make_state(), everywhere)
    result = train.fit(state, STEP, rows(), epochs=1, batch_size=8, nonfinite="skip", quiet=True)
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(state))
    assert result.state.key.sharding.device_set == set(jax.devices())


def test_patience_gives_back_the_running_average_of_the_best_epoch():
    average = optim.AveragedModel(optim.get_ema_avg_fn(0.5))
    step = train.make_train_step(LOSS, OPTIMIZER, average=average)
    state = train.create(nn.Linear(3, 2, rngs=Generator(1)), OPTIMIZER, average=average)
    kept = []
    options = {"monitor": "loss", "mode": "max", "patience": 2, "quiet": True}
    options |= {"callbacks": [lambda report: kept.append(report.state)]}
    result = train.fit(state, step, rows(), epochs=5, batch_size=8, **options)
    assert (result.best_epoch, len(kept)) == (1, 3)
    assert weights(result.state.average) == weights(kept[0].average)
    assert weights(result.state) == weights(kept[0])


def test_a_state_of_numpy_and_python_numbers_can_be_gone_on_with(tmp_path):
    def halve(report):
        params = {name: np.asarray(p) * 0.5 for name, p in report.state.params.items()}
        return report.state.replace(params=params, step=int(report.state.step))

    whole = run(epochs=4, callbacks=[halve])
    run(epochs=2, callbacks=[halve], checkpoint=tmp_path)
    result = run(epochs=4, callbacks=[halve], checkpoint=tmp_path)
    assert weights(result.state) == weights(whole.state)
    assert (result.state.step.dtype, result.history) == (jnp.int32, whole.history)
