"""experiments/cifar2_variants.py"""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.birds import Trainer
from experiments.cifar2_nets import NetResDeep
from experiments.cifar2_variants import Config, checkpoint_folder, run_variant, variants
from experiments.harness import registry
from experiments.harness.unfinished import Unfinished, checksum
from experiments.without_eval import without_eval
from jaxnet import metrics, nn, train, weights
from jaxnet.random import Generator

PARAMETERS = {
    "net": 18090,
    "width": 38386,
    "dropout": 38386,
    "batch_norm": 38386 + 2 * (32 + 16),
    "res": 16 * 3 * 3 * 16 + 16 + 13810,
}


@pytest.mark.parametrize("name", [*PARAMETERS, "l1", "l2", "weight_decay"])
def test_every_variant_takes_a_step(name):
    variant = variants(n_blocks=2)[name]
    model = variant.build(rngs=Generator(0))
    assert model.num_parameters == PARAMETERS.get(name, 18090)
    optimizer = variant.optimizer()
    state = train.create(model, optimizer)
    batch = jnp.ones((2, 3, 32, 32)), jnp.array([0, 1])
    _, metrics = jax.eval_shape(train.make_train_step(variant.loss, optimizer), state, batch)
    assert metrics["loss"].shape == ()


def test_weight_decay_is_the_l2_penalty():
    after = {}
    batch = jax.random.normal(jax.random.key(0), (4, 3, 32, 32)), jnp.array([0, 1, 1, 0])
    for name in ("l2", "weight_decay"):
        variant = variants(n_blocks=1)[name]
        optimizer = variant.optimizer()
        state = train.create(variant.build(rngs=Generator(0)), optimizer)
        step = jax.jit(train.make_train_step(variant.loss, optimizer))
        after[name] = step(state, batch)[0].params
    gaps = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), *after.values())
    assert max(gaps.values()) < 1e-6


def test_shared_blocks_are_one_block():
    shared = NetResDeep(8, 5, shared=True, rngs=Generator(0))
    separate = NetResDeep(8, 5, shared=False, rngs=Generator(0))
    assert separate.num_parameters - shared.num_parameters == 4 * (8 * 8 * 9 + 2 * 8)
    names = weights.state_dict(shared)
    assert "resblocks.4.conv.weight" in names  # repeated, as torch repeats it
    shared(jnp.ones((2, 3, 32, 32)))
    assert int(shared.resblocks[0].batch_norm.num_batches_tracked[...]) == 5


def images() -> tuple[jax.Array, jax.Array]:
    labels = jnp.arange(64) % 2
    x = jax.random.normal(jax.random.key(0), (64, 3, 32, 32))
    return x + labels[:, None, None, None].astype(x.dtype), labels


@pytest.mark.slow
def test_a_killed_run_goes_on_where_it_was(tmp_path):
    rows = images()
    variant = variants(n_blocks=1)["dropout"]
    config = Config(epochs=3)
    whole = run_variant("dropout", variant, config, (rows, rows), Unfinished(tmp_path, "whole"))

    def die(report):
        if report.epoch == 2:
            raise RuntimeError("killed")

    trainer = Trainer(variant.build, variant.optimizer(), rows, rows, variant.loss)
    folder = checkpoint_folder(
        Unfinished(tmp_path, "cut"), "dropout", 0, config, checksum(rows, rows)
    )
    with pytest.raises(RuntimeError, match="killed"):
        trainer.run(0, 3, 64, callbacks=[die], checkpoint=folder)
    cut = run_variant("dropout", variant, config, (rows, rows), Unfinished(tmp_path, "cut"))
    for name in ("train_loss", "val_accuracy", "train_accuracy"):
        assert cut.runs[0][name] == whole.runs[0][name]

    again = run_variant("dropout", variant, config, (rows, rows), Unfinished(tmp_path, "whole"))
    assert again.runs[0]["train_loss"] == whole.runs[0]["train_loss"]
    assert again.runs[0]["seconds"] == whole.runs[0]["seconds"]  # nothing was trained again


@pytest.mark.parametrize("name", ["net", "batch_norm", "dropout"])
def test_measured_without_eval(name):
    images_, labels = images()
    variant = variants(n_blocks=1)[name]
    model = variant.build(rngs=Generator(0))
    state = train.create(model, variant.optimizer())
    step = jax.jit(without_eval(variant.loss))
    after, measured = step(state, (images_, labels))
    for key, buffer in state.buffers.items():
        np.testing.assert_array_equal(after.buffers[key], buffer)

    fresh = state.model()
    fresh.train()
    if name == "dropout":
        with nn.keys(jax.random.fold_in(state.key, state.step)):
            outputs = fresh(images_)
        with nn.keys(jax.random.fold_in(state.key, state.step + 1)):
            assert not np.allclose(outputs, fresh(images_))
    else:
        outputs = fresh(images_)
    right = metrics.accuracy(outputs, labels).compute()
    assert float(measured["accuracy"].compute()) == float(right)
    in_eval_mode = state.model()(images_)
    assert np.allclose(outputs, in_eval_mode, atol=1e-5) == (name == "net")


def test_hours_that_hold_no_epoch_are_refused(tmp_path):
    rows = images()
    variant = variants(n_blocks=1)["net"]
    config, kept = Config(epochs=5, hours=1e-9), Unfinished(tmp_path, "short")
    with pytest.raises(ValueError, match="--hours: 1e-09; net ends no epoch in that; give more"):
        run_variant("net", variant, config, (rows, rows), kept)


def test_a_run_of_some_hours_is_measured_as_it_ended(tmp_path, monkeypatch):
    rows = images()
    variant = variants(n_blocks=1)["net"]
    fit, given = train.fit, []

    def short(*arguments, time_budget, callbacks, **options):
        given.append(time_budget)
        end = [lambda report: report.stop("time") if report.epoch == 2 else None]
        return fit(*arguments, callbacks=[*callbacks, *end], **options)

    monkeypatch.setattr(train, "fit", short)
    config, kept = Config(epochs=5, hours=0.5), Unfinished(tmp_path, "short")
    outcome = run_variant("net", variant, config, (rows, rows), kept)
    assert given == [1800.0]
    assert outcome.epochs == [2]
    assert outcome.runs[0]["train_accuracy"].keys() == {1, 2}
    assert outcome.last("train_accuracy") == outcome.last("val_accuracy")  # of the same rows


@pytest.mark.slow
@pytest.mark.data
def test_smoke(tmp_path):
    config = Config(epochs=1, variants=("net",), out=tmp_path)
    assert registry.execute("cifar2_variants", config) == 0
    (folder,) = (tmp_path / "cifar2_variants").iterdir()
    pictures = ["accuracy.png", "accuracy_without_eval.png"]
    assert sorted(p.name for p in folder.iterdir()) == [*pictures, "record.json", "result.md"]
    table = (folder / "result.md").read_text()
    assert "python -m experiments cifar2_variants --epochs 1 --variants net" in table
    assert "| net | 18,090 | 1 |" in table
    record = json.loads((folder / "record.json").read_text())["metrics"]
    (run,) = record["net"]["runs"].values()
    assert 0.6 < run["val_accuracy"]["1"] < 0.95
    assert run["val_accuracy_without_eval"] == run["val_accuracy"]  # nothing here that eval changes


@pytest.mark.parametrize("field", ["seeds", "n_blocks"])
def test_bad_settings(field):
    with pytest.raises(ValueError, match="at least 1"):
        Config(**{field: 0}).validate()
    with pytest.raises(ValueError, match="--hours: 0; a positive number"):
        Config(hours=0).validate()
