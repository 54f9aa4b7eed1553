"""jaxnet/train/_fit.py, _run.py: the loop on the host; nothing is lost when it is stopped."""

import logging
import os
import re
import signal
import time

import jax
import jax.experimental
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxnet import data, losses, nn, optim, train
from jaxnet.checkpoint import Checkpoints
from jaxnet.random import Generator
from jaxnet.train._result import Monitor
from jaxnet.train._resume import RunPosition
from tests.train.runs import (
    EVAL,
    LOSS,
    OPTIMIZER,
    STEP,
    assert_same,
    bits,
    make_state,
    plateau,
    rows,
    run,
)

LISTS = train.make_train_step(
    train.supervised(losses.cross_entropy, {"list": lambda outputs, y: outputs.mean(0)}), OPTIMIZER
)


@pytest.mark.long
def test_the_steps_are_those_of_epochs_by_hand():
    state, generator = make_state(), Generator(5)
    epoch = train.make_epoch(STEP, 8)
    expected = []
    for _ in range(3):
        order = jnp.asarray(data.epoch_order(50, generator))
        state, measured = epoch(state, jax.tree.map(jnp.asarray, rows(50)), order)
        expected.append(float(np.mean(np.asarray(measured["loss"], np.float64))))
    given = Generator(5)
    result = run(arrays=rows(50), generator=given)
    np.testing.assert_allclose([line["loss"] for line in result.history], expected, rtol=1e-5)
    for name, value in state.params.items():
        np.testing.assert_allclose(result.state.params[name], value, rtol=1e-4, atol=1e-5)
    assert [line["step"] for line in result.history] == [7, 14, 21]
    assert result.reason == "done"
    np.testing.assert_array_equal(given.rand(3), generator.rand(3))


@pytest.mark.parametrize("options", [{"chunk_steps": 1}, {"chunk_steps": 4}, {"feed": "host"}])
def test_no_bit_depends_on_how_the_epoch_is_cut(options, capsys):
    if "feed" in options:
        pytest.importorskip("grain")
    assert_same(run(arrays=rows(50), chunk_steps=1000), run(arrays=rows(50), **options))
    assert ("fed from the host, as asked for" in capsys.readouterr().out) == ("feed" in options)


def test_validation_weighs_rows_and_leaves_the_state_alone():
    result = run(validation=rows(21), eval_step=EVAL, eval_batch_size=8)
    _, whole = EVAL(result.state, jax.tree.map(jnp.asarray, rows(21)))
    assert result.history[-1]["val_loss"] == pytest.approx(float(whole["loss"]), rel=1e-5)
    assert result.history[-1]["val_accuracy"] == float(whole["accuracy"].compute())
    assert bits(run().state) == bits(result.state)


def test_patience_gives_back_the_best_weights(capsys):
    frozen = train.make_train_step(LOSS, optim.SGD(lr=0.0))
    state = make_state(optim.SGD(lr=0.0))
    worse = iter([1.0, 0.5, 0.7, 0.6, 0.9])
    seen = []

    def judge(report):
        seen.append(report.epoch)
        return report.state.replace(
            params=jax.tree.map(lambda p: p * 0 + report.epoch, report.state.params)
        )

    def eval_step(state, batch):
        return state, {"loss": jax.pure_callback(lambda: np.float32(next(worse)), SCALAR)}

    result = run(
        frozen,
        state,
        epochs=10,
        patience=2,
        callbacks=[judge],
        validation=rows(8),
        eval_step=eval_step,
    )
    assert (result.reason, result.best_epoch, seen) == ("patience", 2, [1, 2, 3, 4])
    assert set(np.unique(result.state.params["0.weight"])) == {1.0}  # the second epoch's
    assert "stopped after epoch 4: patience" in capsys.readouterr().out


SCALAR = jax.ShapeDtypeStruct((), jnp.float32)


def test_schedule_each_epoch():
    optimizer = optim.SGD(lr=0.1)
    schedule = optim.StepLR(optimizer, step_size=1, gamma=0.1)
    rates = []

    def look(report):
        rates.append(float(optim.get_hyperparams(report.state.opt_state)["lr"]))

    run(
        train.make_train_step(LOSS, optimizer),
        make_state(optimizer),
        schedule=schedule.apply,
        callbacks=[look],
    )
    np.testing.assert_allclose(rates, [0.1, 0.01, 0.001], rtol=1e-6)


def test_a_callbacks_memory_is_kept(tmp_path):
    optimizer = optim.SGD(lr=0.1)
    step = train.make_train_step(LOSS, optimizer)
    whole = run(step, make_state(optimizer), callbacks=[plateau(optimizer)], epochs=5)
    rate = float(optim.get_hyperparams(whole.state.opt_state)["lr"])
    assert rate == pytest.approx(1e-5)
    for epochs in (2, 5):
        again = run(
            step,
            make_state(optimizer),
            callbacks=[plateau(optimizer)],
            epochs=epochs,
            checkpoint=tmp_path,
        )
    assert_same(whole, again)
    with pytest.raises(ValueError, match=r"lacks callbacks\.1.*other callbacks"):
        run(step, make_state(optimizer), callbacks=[plateau(optimizer)] * 2, checkpoint=tmp_path)


def test_a_callback_stops_the_run():
    result = run(callbacks=[lambda report: report.stop("enough") if report.epoch == 2 else None])
    assert (result.reason, len(result.history)) == ("enough", 2)


def interrupt_after(steps: int) -> train.EverySteps:
    """Ctrl-C after the call that ends at a multiple of so many steps."""
    return train.EverySteps(steps, lambda report: signal.raise_signal(signal.SIGINT))


def test_stopped_again_and_again_it_goes_on(tmp_path):
    results = []
    for _ in range(20):  # each call makes up to four steps and stops
        results.append(run(checkpoint=tmp_path, callbacks=[interrupt_after(4)], chunk_steps=4))
        if results[-1].reason == "done":
            break
    assert {result.reason for result in results[:-1]} == {"interrupted"}
    assert len(results) > 5
    assert_same(results[-1], run())


def test_the_time_budget_is_that_of_the_whole_run(tmp_path):
    assert run(checkpoint=tmp_path, time_budget=0).reason == "time"
    assert Checkpoints(tmp_path).steps() == [0]
    used = [0.0]
    for _ in range(2):
        run(checkpoint=tmp_path, callbacks=[interrupt_after(1)], chunk_steps=1)
        used.append(Checkpoints(tmp_path).restore(make_state()).host["position"]["total_seconds"])
    assert used == sorted(set(used))
    again = run(checkpoint=tmp_path, time_budget=used[-1])  # used up before this call
    assert (again.reason, int(again.state.step)) == ("time", 2)
    assert_same(run(checkpoint=tmp_path, time_budget=1e6), run())


@pytest.mark.long
def test_the_seconds_of_an_epoch_count_across_a_stop(tmp_path):
    seconds = []

    def slow(state, batch):  # 50 ms a step at least
        jax.experimental.io_callback(lambda: time.sleep(0.05), None, ordered=True)
        return STEP(state, batch)

    options = {"epochs": 1, "callbacks": [lambda report: seconds.append(report.seconds)]}
    stops = 0
    options["callbacks"].append(interrupt_after(2))
    while run(slow, checkpoint=tmp_path, chunk_steps=2, **options).reason == "interrupted":
        stops += 1
    assert stops > 2
    assert 7 * 0.05 <= seconds[0] < 60  # 56 rows in batches of 8: seven steps


def test_patience_survives_being_stopped(tmp_path):
    options = {"epochs": 6, "patience": 1, "mode": "max"}
    whole = run(**options)
    assert whole.reason == "patience"
    for _ in range(40):
        again = run(checkpoint=tmp_path, callbacks=[interrupt_after(4)], chunk_steps=4, **options)
        if again.reason != "interrupted":
            break
    assert_same(whole, again)
    assert again.reason == "patience"
    assert_same(whole, run(checkpoint=tmp_path, **options))  # nothing is trained any more


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_saves_and_stops(tmp_path, number):
    def interrupt(report):
        if report.epoch == 1:
            os.kill(os.getpid(), number)

    before = signal.getsignal(number)
    result = run(checkpoint=tmp_path, callbacks=[interrupt])
    assert (result.reason, len(result.history)) == ("interrupted", 1)
    assert signal.getsignal(number) is before
    assert Checkpoints(tmp_path).steps() == [7]
    assert_same(run(checkpoint=tmp_path), run())


def test_a_checkpoint_of_other_settings(tmp_path):
    run(checkpoint=tmp_path, epochs=1)
    with pytest.raises(ValueError, match="batch_size: 8 before, 4 now"):
        run(checkpoint=tmp_path, batch_size=4)
    with pytest.raises(ValueError, match="rows: 56 before, 20 now"):
        run(checkpoint=tmp_path, arrays=rows(20))
    with pytest.raises(ValueError, match="holds a run already"):
        run(checkpoint=tmp_path, resume=False)
    with pytest.raises(ValueError, match="another model or optimizer"):
        run(state=make_state(optim.SGD(lr=0.1)), checkpoint=tmp_path)


def poisoned(n: int = 56) -> tuple[np.ndarray, np.ndarray]:
    x, y = rows(n)
    x[29] = np.nan
    return x, y


@pytest.mark.long
def test_a_loss_that_is_not_finite_stops_and_is_explained(tmp_path):
    with pytest.raises(train.NonFiniteError, match="epoch 1, step 4: not finite") as caught:
        run(arrays=poisoned(), shuffle=False, checkpoint=tmp_path)
    found = caught.value
    assert int(found.state.step) == 3
    assert found.diagnosis.batch == "[0]"
    assert found.diagnosis.layer == "0"
    assert found.diagnosis.parameter is None
    assert found.diagnosis.gradient == "0.weight"
    reached = run(arrays=rows(24), shuffle=False, epochs=1)
    assert bits(found.state) == bits(reached.state)


def test_a_gradient_that_is_not_finite_behind_a_finite_loss():
    class Root(nn.Module):
        def __init__(self):
            self.first = nn.Linear(3, 2, rngs=Generator(0))
            self.scale = nn.Parameter(jnp.zeros(()))

        def __call__(self, x):
            return self.first(x) + jnp.sqrt(self.scale[...] * 0)

    optimizer = optim.SGD(lr=0.1)
    step = train.make_train_step(train.supervised(losses.cross_entropy), optimizer)
    with pytest.raises(train.NonFiniteError, match="epoch 1, step 1:") as caught:
        run(step, train.create(Root(), optimizer), chunk_steps=3)
    found = caught.value.diagnosis
    assert (found.layer, found.parameter, found.gradient) == (None, None, "scale")


@pytest.mark.long
def test_skip_leaves_the_step_out_and_go_on_goes_on():
    skipped = run(arrays=poisoned(), shuffle=False, epochs=1, nonfinite="skip")
    assert np.isfinite(skipped.state.params["0.weight"]).all()
    assert int(skipped.state.step) == 7
    assert np.isfinite(skipped.history[0]["loss"])
    on = run(arrays=poisoned(), shuffle=False, epochs=1, nonfinite="go on")
    assert np.isnan(on.state.params["0.weight"]).all()


def test_bar_and_lines(capsys):
    run(quiet=False)
    shown = capsys.readouterr().err
    assert "epoch 3/3" in shown
    assert "100%" in shown
    assert "loss" in shown
    assert "samples/s" in shown
    fresh = train.make_train_step(LOSS, OPTIMIZER)
    run(fresh, quiet=True)
    out = capsys.readouterr()
    assert out.err == ""
    assert re.search(r"compiled training with batches of 8 in [\d.]+ s", out.out)
    assert re.search(r"epoch 3/3: loss [\d.]+, accuracy [\d.]+, lr 0.02, [\d,]+ samples/s", out.out)
    lines: list[str] = []
    run(quiet=True, log=lines.append)
    assert capsys.readouterr().out == ""
    assert lines[-1].startswith("epoch 3/3")


def test_a_run_that_was_not_finite_goes_on_leaving_such_steps_out(tmp_path):
    options = {"arrays": poisoned(), "checkpoint": tmp_path, "save_seconds": 0.0, "chunk_steps": 1}
    with pytest.raises(train.NonFiniteError):
        run(**options)
    result = run(nonfinite="skip", **options)
    assert (result.reason, int(result.state.step)) == ("done", 21)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(result.state.params))


@pytest.mark.parametrize("nonfinite", ["stop", "skip"])
def test_stopped_within_the_first_epoch_with_patience(nonfinite, tmp_path):
    options = {"patience": 2, "nonfinite": nonfinite}
    stop = train.EverySteps(3, lambda report: os.kill(os.getpid(), signal.SIGINT))
    first = run(checkpoint=tmp_path, callbacks=[stop], chunk_steps=1, **options)
    assert (first.reason, first.best_epoch, int(first.state.step)) == ("interrupted", None, 3)
    assert bits(first.state) == bits(Checkpoints(tmp_path).restore(first.state).state)
    assert_same(run(**options), run(checkpoint=tmp_path, **options))


@pytest.mark.parametrize("asked", [False, True])
def test_notices_are_lines_and_go_to_the_programs_log_if_it_asks_for_them(asked, caplog):
    if asked:
        caplog.set_level(logging.INFO)
    lines: list[str] = []
    run(log=lines.append, callbacks=[lambda report: run(log=lines.append, epochs=1) and None])
    notices = [record.getMessage() for record in caplog.records]
    assert (len(notices) > 0) == asked
    assert [line for line in lines if line in notices] == notices
    assert sum("put on the device" in line for line in lines) == 4  # one for each run
    library = logging.getLogger("jaxnet")
    assert (library.level, library.propagate, library.handlers) == (logging.NOTSET, True, [])


def test_a_function_of_the_epoch_as_data(tmp_path):
    asked = []

    def arrays(epoch):
        asked.append(epoch)
        return jax.tree.map(lambda a: a * (1 + epoch) if a.dtype == np.float32 else a, rows())

    whole = run(arrays=arrays)
    assert asked == [0, 1, 2]
    run(arrays=arrays, epochs=2, checkpoint=tmp_path)
    assert_same(whole, run(arrays=arrays, checkpoint=tmp_path))


@pytest.mark.parametrize("feed", ["device", "host", "data set"])
def test_a_smaller_last_batch_is_left_out_as_the_loader_does(feed):
    rest = {"drop_last": True, "batch_size": 8, "generator": Generator(5)}
    as_set = data.TensorDataset(*rows(50))
    given = {"arrays": as_set} if feed == "data set" else {"arrays": rows(50), "feed": feed}
    ours = run(**given, **rest)
    loader = data.DataLoader(as_set, 8, True, drop_last=True, rngs=Generator(5))
    theirs = run(arrays=loader, batch_size=None)
    assert ours.state.step == 3 * (50 // 8)
    assert bits(ours.state) == bits(theirs.state)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"epochs": -1}, "epochs: -1"),
        ({"batch_size": 0}, "batch_size: 0"),
        ({"mode": "best"}, "mode: 'best'; accepted are 'min' and 'max'"),
        ({"nonfinite": "no"}, "nonfinite: 'no'"),
        ({"feed": "disk"}, "feed: 'disk'"),
        ({"patience": 0}, "patience: 0"),
        ({"shuffle": "no"}, "shuffle: 'no'; accepted are True and False"),
        ({"drop_last": "yes"}, "drop_last: 'yes'; accepted are True and False"),
        ({"arrays": rows(5), "drop_last": True}, "drop_last: True leaves nothing of 5 rows"),
        (
            {"arrays": iter(()), "batch_size": None, "drop_last": True},
            "drop_last: True; a .* has its own batches",
        ),
        ({"time_budget": -1.0}, "time_budget: -1.0"),
        ({"time_budget": "1 h"}, "time_budget: '1 h'; accepted is a number of seconds"),
        (
            {"monitor": "list", "mode": "min", "step": LISTS},
            "monitor: 'list' is a list of 2 numbers",
        ),
        ({"validation": rows(4)}, "validation, eval_step: one without the other"),
        ({"monitor": "spread"}, "mode: None does not tell which way 'spread' gets better"),
        ({"monitor": "f1"}, "monitor: no metric 'f1'; there are loss, accuracy"),
        ({"arrays": (np.zeros((3, 1)), np.zeros(4))}, r"shapes \[\(3, 1\), \(4,\)\]"),
        ({"arrays": (np.zeros((0, 1)),)}, "holds no rows"),
    ],
)
def test_wrong_arguments(options, says):
    with pytest.raises(ValueError, match=says):
        run(**options)


PARTS = train.make_train_step(LOSS, OPTIMIZER, microbatches=4)


@pytest.mark.parametrize("feed", ["device", "host", "loader"])
@pytest.mark.parametrize(
    ("step", "count", "says"),
    [(PARTS, 18, "2 of 8 rows.*cut into 4"), (STEP, 17, "1 of 8 rows.*more than 1 value")],
)
def test_a_last_batch_that_cannot_be_trained_is_refused_before_the_first_step(
    step, count, says, feed
):
    steps = []
    options = {"callbacks": [train.EverySteps(1, steps.append)], "epochs": 1, "step": step}

    def loader(**kw):
        return data.DataLoader(data.TensorDataset(*rows(count)), 8, False, **kw)

    if feed == "loader":
        options |= {"arrays": loader(), "batch_size": None}
    else:
        options |= {"arrays": rows(count), "feed": feed}
    with pytest.raises(ValueError, match=f"batch_size: .*{says}.*drop_last=True"):
        run(**options)
    assert not steps
    if feed == "loader":
        assert run(**options | {"arrays": loader(drop_last=True)}).state.step == 2


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"callbacks": train.EverySteps(1, print)}, "callbacks: EverySteps.*accepted is a list"),
        ({"generator": 0}, r"generator: int; accepted is a jaxnet.random.Generator"),
        ({"arrays": [*zip(*rows(), strict=True)]}, r"data: a list of 56 tuples.*data.DataLoader\("),
        ({"arrays": [(1.0, 0), (2.0, 1)]}, r"data: a list of 2 tuples, which is row by row"),
        ({"callbacks": [3]}, r"callbacks: \[3\]; accepted is a list of functions"),
        ({"validation": rows(4), "eval_step": STEP}, "eval_step: a training step"),
        ({"step": losses.mse_loss}, r"step: .*give make_train_step\(loss, optimizer\)"),
        ({"schedule": optim.StepLR(OPTIMIZER, 1)}, "schedule: a StepLR; accepted is its `apply`"),
        ({"state": {"w": np.ones(3)}, "schedule": max}, "schedule: the state is a dict without"),
    ],
)
def test_arguments_of_another_kind(options, says):
    with pytest.raises(TypeError, match=says):
        run(**options)


def test_flax_draws_no_order():
    says = r"generator: Rngs; accepted is a jaxnet.random.Generator"
    with pytest.raises(TypeError, match=says):
        run(generator=nnx.Rngs(0))


def test_skipped_steps_are_in_no_mean_and_patience_goes_on(tmp_path):
    lines: list[str] = []
    seen = []
    look = train.EverySteps(4, lambda report: seen.append(report.metrics["loss"]))
    options = {"arrays": poisoned(), "nonfinite": "skip", "patience": 3, "callbacks": [look]}
    result = run(log=lines.append, **options)
    assert (result.reason, result.best_epoch) == ("done", 3)
    assert all(np.isfinite(line["loss"]) for line in result.history)
    assert np.isfinite(seen).all()
    assert sum("left out 1 steps, which were not finite" in line for line in lines) == 3
    assert_same(result, run(checkpoint=tmp_path, **options))
    never = run(arrays=(rows()[0] * np.nan, rows()[1]), nonfinite="skip", patience=2)
    assert (never.reason, never.best_epoch) == ("patience", None)


def test_buffers_that_become_nan_are_found_and_masks_may_be_infinite():
    class Normed(nn.Module):
        def __init__(self):
            self.fc, self.bn = nn.Linear(3, 2, rngs=Generator(0)), nn.BatchNorm1d(3)
            self.mask = nn.Buffer(jnp.array([[0.0, -jnp.inf]]))

        def __call__(self, x):
            self.bn(x)  # only its running statistics are used
            return self.fc(jnp.nan_to_num(x)) + jnp.maximum(self.mask[...], -1e9)

    optimizer = optim.SGD(lr=0.1)
    step = train.make_train_step(train.supervised(losses.cross_entropy), optimizer)
    state = train.create(Normed(), optimizer)
    with pytest.raises(train.NonFiniteError, match=r"buffer is bn.running_mean: .*3 nan") as caught:
        run(step, state, arrays=poisoned(), shuffle=False)
    assert caught.value.diagnosis.gradient is None
    skipped = run(step, state, arrays=poisoned(), nonfinite="skip")
    assert np.isfinite(skipped.state.buffers["bn.running_mean"]).all()
    assert run(step, state).reason == "done"


@pytest.mark.parametrize(
    ("name", "mode", "best"),
    [
        ("accuracy", None, 2),
        ("val_top_k_accuracy", None, 2),
        ("val_loss", None, 3),
        ("mae", None, 3),
        ("accuracy", "min", 3),
        ("spread", "max", 2),
    ],
)
def test_which_epoch_is_the_best_follows_the_metric(name, mode, best):
    monitor, position = Monitor(name, mode, None, validates=True), RunPosition()
    for position.epoch, value in enumerate((0.5, 0.75, 0.25, 0.5), 1):
        monitor.judge({name: value}, position)
    assert position.best_epoch == best


BIG = rows()[1].astype(np.int64) + 2**40


@pytest.mark.parametrize(
    "options",
    [
        {"arrays": (rows()[0], BIG)},
        {"arrays": data.TensorDataset(rows()[0], BIG)},
        {"arrays": data.DataLoader([*zip(rows()[0], BIG, strict=True)], 8), "batch_size": None},
        {"validation": (rows()[0], BIG), "eval_step": EVAL},
    ],
)
def test_classes_that_do_not_fit_32_bits_are_refused(options):
    with pytest.raises(ValueError, match=r"1099511627776 does not fit the 32 bits.*enable_x64"):
        run(**options)


def test_the_cause_of_a_nan_is_named_and_the_advice_is_for_it():
    class Log(nn.Module):
        def __init__(self):
            self.first = nn.Linear(3, 3, rngs=Generator(0))
            self.second = nn.Linear(3, 2, rngs=Generator(1))

        def __call__(self, x):
            return self.second(jnp.log(self.first(x)))

    optimizer = optim.SGD(lr=0.1)
    step = train.make_train_step(train.supervised(losses.cross_entropy), optimizer)
    with pytest.raises(train.NonFiniteError, match="what is computed before the layer second: in "):
        run(step, train.create(Log(), optimizer))
    with pytest.raises(
        train.NonFiniteError, match=r"batch\[0\].*The data is the cause: clean"
    ) as e:
        run(arrays=poisoned())
    assert "learning rate" not in str(e.value)


def test_lines_with_validation_arrays_say_that_torchs_orders_are_others():
    lines: list[str] = []
    options = {"validation": rows(4), "eval_step": EVAL, "epochs": 1, "log": lines.append}
    run(generator=Generator(0), **options)
    assert sum("validation: draws nothing from the generator" in line for line in lines) == 1
    lines.clear()
    run(generator=Generator(0), shuffle=False, **options)
    assert not any("draws nothing" in line for line in lines)


def test_a_step_counter_does_not_run_over_in_silence():
    last = make_state().replace(step=jnp.int32(2**31 - 9))
    done = train.fit(last, STEP, rows(64), epochs=1, batch_size=8, quiet=True)
    assert int(done.state.step) == 2**31 - 1
    with pytest.raises(OverflowError, match=r"state: 21474836\d\d steps, .* counts to 2147483647"):
        train.fit(done.state, STEP, rows(64), epochs=1, batch_size=8, quiet=True)
