"""experiments/mnist_mlp.py: the nets in both forms, and their runs against torch's."""

import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.harness import ledger
from experiments.harness.registry import run
from experiments.mnist_forms import make_tensor_steps, tensor_state
from experiments.mnist_judge import checks_of, layer_by_layer, writings_apart
from experiments.mnist_mlp import Config, inputs, keras_net, train_one
from experiments.mnist_nets import OUTPUTS, PROGRAMS, named_network
from jaxnet import data, nn, train, weights
from jaxnet.random import Generator

# Torch's dropout masks cannot be drawn here; that net replays recorded ones below.
REPLAYED = [
    (name, form)
    for name, program in PROGRAMS.items()
    for form in ("module", "tensors")
    if not program.dropout
]
# Without a start of their own the plain tensors repeat the module, as another test shows.
PROGRAMS_APART = [(n, form) for n, form in REPLAYED if form == "module" or PROGRAMS[n].kaiming]


def images(n: int) -> data.Labelled:
    """Pictures of nothing whose brightest rows tell the digit."""
    rng = np.random.RandomState(0)
    labels = (np.arange(n) % 10).astype(np.int32)
    pixels = rng.randint(0, 100, (n, 28, 28, 1)).astype(np.uint8)
    for image, label in zip(pixels, labels, strict=True):
        image[2 * label : 2 * label + 4] += 150
    return data.Labelled(pixels, labels, tuple("0123456789"))


def start(name, form, seed, dtype=jnp.float32):
    """A program's state and training step, and the generator that the run goes on with."""
    program = PROGRAMS[name]
    generator = Generator(seed)
    optimizer = program.make_optimizer("document")
    loss = train.supervised(OUTPUTS[program.gives][0])

    def cast(params):
        return jax.tree.map(lambda p: p.astype(dtype), params)

    if form == "module":
        state = train.create(program.build(rngs=generator), optimizer, seed)
        params = cast(state.params)
        state = state.replace(params=params, opt_state=optimizer.init(params))
        return state, train.make_train_step(loss, optimizer), generator
    state = tensor_state(program, optimizer, seed, generator)
    state["params"] = cast(state["params"])
    state["opt_state"] = optimizer.init(state["params"])
    return state, make_tensor_steps(program, loss, loss, optimizer)[0], generator


def test_parameters_are_counted():
    counts = {name: program.build(rngs=Generator(0)).num_parameters
              for name, program in PROGRAMS.items()}  # fmt: skip
    documented = {name: ledger.documented(f"mnist.{name}")["parameters"] for name in PROGRAMS}
    assert counts == documented
    assert keras_net(rngs=Generator(0)).num_parameters == counts["dropout"]
    for program in PROGRAMS.values():
        pairs = itertools.pairwise(program.sizes)
        sizes = sum(i * o + o for i, o in pairs)
        assert sizes == program.build(rngs=Generator(0)).num_parameters


@pytest.mark.parametrize("name", PROGRAMS)
def test_both_forms_are_one_program(name):
    program = PROGRAMS[name]
    x, y = inputs(images(30), program.mean, program.std)
    results = []
    for form in ("module", "tensors"):
        state, step, _ = start(name, form, seed=3)
        if form == "module":
            names = list(weights.state_dict(state.model()))
        elif program.kaiming:  # the forms start from different weights
            values = [results[0][0][name] for name in names]
            keys = [f"{kind}{i}" for i in (1, 2, 3) for kind in "wb"]
            state["params"] = dict(zip(keys, values, strict=True))
        before = state.params if form == "module" else state["params"]
        losses, step = [], jax.jit(step)
        for _ in range(3):
            state, metrics = step(state, (x, y))
            losses.append(float(metrics["loss"]))
        results.append((before, losses))
    np.testing.assert_allclose(results[1][1], results[0][1], rtol=1e-6)
    assert results[0][1][2] < results[0][1][0]


@pytest.mark.parametrize("form", ["module", pytest.param("tensors", marks=pytest.mark.slow)])
def test_learns_repeats_itself_and_comes_back_from_a_file(form, tmp_path):
    program = PROGRAMS["dropout"]
    rows = inputs(images(384), program.mean, program.std)
    config = Config(epochs=4, form=form)
    first, second = (train_one(program, 5, config, rows, rows, lambda line: None) for _ in "ab")
    assert first.curves["train_loss"] == second.curves["train_loss"]
    assert first.curves["test_accuracy"][4] > 0.9
    assert first.curves["recall"].shape == first.curves["precision"].shape == (10,)
    weights.save(tmp_path / "net.pt", first.arrays)
    again = first.load(tmp_path / "net.pt")
    np.testing.assert_array_equal(again(rows[0]), first.predict(rows[0]))
    np.testing.assert_allclose(first.predict(rows[0]).sum(1), 1, rtol=1e-5)


def test_log_lines_are_the_documents():
    losses = np.tile([2.0, 1.0], 150)
    lines = {
        name: list(program.lines(2, program.epoch_loss(losses, 60000), losses, 60000))
        for name, program in PROGRAMS.items()
    }
    assert lines["classifier"] == ["Training loss: 1.5"]
    assert lines["dropout"] == ["Epoch 2 - Training loss: 1.5"]
    assert lines["mlp"][1] == "Train Epoch: 1 [20000/60000 (33%)]\tLoss: 2.000000"
    program = PROGRAMS["stack"]
    uneven = program.epoch_loss(np.array([1.0, 3.0]), 80)  # 64 and 16 images
    assert uneven == pytest.approx(1.4)
    assert list(program.lines(3, uneven, np.ones(2), 80)) == ["Epoch: 3 \tTraining Loss: 1.400000"]


def torch_program(name, form):
    """The document's net in torch, with its parameters."""
    import torch
    from torch.nn import Flatten, LeakyReLU, Linear, LogSoftmax, ReLU, Sequential, Sigmoid, Softmax

    sizes = PROGRAMS[name].sizes
    if form == "tensors" and PROGRAMS[name].kaiming:
        tensors = []
        for inputs_, outputs in itertools.pairwise(sizes):
            tensors += [torch.randn(outputs, inputs_), torch.zeros(outputs)]
        for weight in tensors[::2]:
            torch.nn.init.kaiming_normal_(weight)
        act = {"mlp": torch.relu, "leaky": torch.nn.functional.leaky_relu}[name]

        def net(x):
            w1, b1, w2, b2, w3, b3 = tensors
            x = act(x.view(-1, 28 * 28) @ w1.t() + b1)
            x = act(x @ w2.t() + b2)
            return x @ w3.t() + b3

        return net, tensors
    between = {"sigmoid": Sigmoid, "leaky": LeakyReLU}.get(name, ReLU)
    layers = [Flatten()]
    for i, (inputs_, outputs) in enumerate(itertools.pairwise(sizes)):
        layers += [between()] if i else []
        layers += [Linear(inputs_, outputs)]
    if PROGRAMS[name].gives != "logits":
        layers.append({"sigmoid": Softmax}.get(name, LogSoftmax)(dim=1))
    net = Sequential(*layers)
    return net, list(net.parameters())


def torch_losses(name, form, seed, steps=None, double=False):
    """Initial parameters and losses of the first epoch's steps of the PyTorch program."""
    import torch

    program = PROGRAMS[name]
    stored = data.load("mnist", split="train")
    dtype = torch.float64 if double else torch.float32

    class Digits(torch.utils.data.Dataset):
        def __len__(self):
            return len(stored)

        def __getitem__(self, i):  # torchvision's ToTensor and Normalize
            image = torch.from_numpy(stored.images[i]).permute(2, 0, 1).float().div(255)
            return image.sub(program.mean).div(program.std), int(stored.labels[i])

    torch.manual_seed(seed)
    net, parameters = torch_program(name, form)
    before = [p.detach().numpy().copy() for p in parameters]
    for p in parameters:
        p.data = p.data.to(dtype)
        p.requires_grad_()
    kind = torch.optim.SGD if program.optimizer == "sgd" else torch.optim.Adam
    optimizer = kind(parameters, lr=program.lr[program.optimizer])
    criterion = {
        "probabilities": lambda p, y: torch.nn.functional.nll_loss(p.log(), y),
        "log_probabilities": torch.nn.functional.nll_loss,
        "logits": torch.nn.functional.cross_entropy,
    }[program.gives]
    loader = torch.utils.data.DataLoader(Digits(), batch_size=program.batch_size, shuffle=True)
    losses = []
    for pictures, labels in loader:
        loss = criterion(net(pictures.to(dtype)), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        if len(losses) == steps:
            break
    return before, losses


def our_losses(name, form, seed, steps=None, dtype=jnp.float32):
    """The same here."""
    program = PROGRAMS[name]
    stored = data.load("mnist", split="train")
    state, step, generator = start(name, form, seed, dtype)
    # Names in torch's order; a dictionary of arrays has lost it.
    if form == "module":
        before = list(weights.state_dict(state.model()).values())
    else:
        layers = range(1, len(program.sizes))
        before = [np.asarray(state["params"][f"{kind}{i}"]) for i in layers for kind in "wb"]
    order = data.epoch_order(len(stored), generator)
    rows = order[: None if steps is None else steps * program.batch_size]
    chosen = data.Labelled(stored.images[rows], stored.labels[rows], stored.classes)
    x, y = inputs(chosen, program.mean, program.std)
    epoch = train.make_epoch(step, program.batch_size)
    _, metrics = epoch(state, (x.astype(dtype), y), jnp.arange(len(rows)))
    return before, metrics["loss"]


@pytest.mark.torch
@pytest.mark.data
@pytest.mark.parametrize(("name", "form"), PROGRAMS_APART)
def test_seed_0_follows_the_pytorch_program(name, form):
    before, theirs = torch_losses(name, form, seed=0, steps=15)
    ours_before, ours = our_losses(name, form, seed=0, steps=15)
    normal = PROGRAMS[name].kaiming and form == "tensors"
    for a, b in zip(ours_before, before, strict=True):
        np.testing.assert_array_max_ulp(a, b, maxulp=4 if normal else 0)
    np.testing.assert_allclose(ours, theirs, atol=1e-5, rtol=0)


@pytest.mark.slow
@pytest.mark.torch
@pytest.mark.data
@pytest.mark.parametrize(("name", "form"), PROGRAMS_APART)
def test_seed_0_follows_the_whole_first_epoch(name, form):
    # In float32 a unit of a ReLU net that rounds to the other side of 0 moves the losses by
    # up to 1e-4, in torch on two threads against one too; float64 leaves no such unit.
    _, theirs = torch_losses(name, form, seed=0, double=True)
    with jax.enable_x64(True):
        _, ours = our_losses(name, form, seed=0, dtype=jnp.float64)
        assert ours.dtype == jnp.float64
    assert len(theirs) == -(-60000 // PROGRAMS[name].batch_size)
    np.testing.assert_allclose(ours, theirs, atol=1e-6, rtol=0)


@pytest.mark.slow
@pytest.mark.torch
@pytest.mark.data
def test_without_kinks_float32_follows_the_whole_first_epoch():
    _, theirs = torch_losses("sigmoid", "module", seed=0)
    _, ours = our_losses("sigmoid", "module", seed=0)
    assert len(theirs) == 938
    np.testing.assert_allclose(ours, theirs, atol=1e-5, rtol=0)


@pytest.mark.torch
@pytest.mark.parametrize("form", ["module", "tensors"])
def test_dropout_replays_recorded_masks(form):
    import torch

    x, y = inputs(images(20), 0.5, 0.5)
    state, step, _ = start("dropout", form, seed=1)
    torch.manual_seed(1)
    net, parameters = torch_program("dropout", form)
    theirs, masks = [], []

    def record(layer, arguments, output):
        mask = torch.nn.functional.dropout(torch.ones_like(output), 0.2)
        masks.append((mask != 0).numpy())
        return output * mask

    net[2].register_forward_hook(record)  # behind the ReLU
    optimizer = torch.optim.Adam(parameters, lr=1e-3)
    for _ in range(5):
        outputs = net(torch.tensor(np.asarray(x)))
        loss = torch.nn.functional.nll_loss(outputs, torch.tensor(np.asarray(y)).long())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        theirs.append(loss.item())

    @jax.jit
    def masked_step(state, mask):
        with nn.draws([mask]):
            return step(state, (x, y))

    ours = []
    for mask in masks:
        state, metrics = masked_step(state, mask)
        ours.append(float(metrics["loss"]))
    np.testing.assert_allclose(ours, theirs, atol=1e-5, rtol=0)


@pytest.mark.slow
@pytest.mark.data
def test_smoke(tmp_path, capsys):
    arguments = ["--nets", "classifier", "keras", "--epochs", "1", "--out", str(tmp_path)]
    assert run("mnist_mlp", arguments) == 0
    said = capsys.readouterr().out
    assert "60000 training and 10000 test images" in said
    assert "Training loss: 1.94" in said
    assert said.count("loaded into a fresh net: the same predictions") == 2
    assert "2 of 2 figures hold" in said
    (folder,) = (tmp_path / "mnist_mlp").iterdir()
    pictures = {f"{net}{part}.png" for net in ("classifier", "keras") for part in ("", "_digits")}
    files = {"curves.png", "record.json", "result.md", "classifier.pt", "keras.pt"}
    assert {path.name for path in folder.iterdir()} == pictures | files
    runs = json.loads((folder / "record.json").read_text())["metrics"]["runs"]
    assert runs["classifier"]["0"]["test_accuracy"]["1"] == pytest.approx(0.6958, abs=2e-3)
    assert runs["keras"]["0"]["test_accuracy"]["1"] > 0.94


def test_three_writings_of_a_net_give_the_same():
    x = jnp.asarray(Generator(3).randn(8, 1, 28, 28))
    assert writings_apart(0, x) == 0
    text = str(named_network(rngs=Generator(0)))
    assert "(hidden): Linear(in_features=784, out_features=256, bias=True)" in text


def test_the_keras_net_begins_as_keras_does():
    net = keras_net(rngs=Generator(0))
    weight = np.asarray(net[1].weight[...])
    bound = (6 / (784 + 128)) ** 0.5
    assert 0.99 * bound < np.abs(weight).max() <= bound
    assert not np.asarray(net[1].bias[...]).any()
    assert not np.asarray(net[4].bias[...]).any()


def test_what_the_document_says_of_layers_is_checked(monkeypatch):
    lines, checks = layer_by_layer(0)
    assert lines[:3] == [
        "Linear(in_features=784, out_features=200, bias=True): (1, 200)",
        "Linear(in_features=200, out_features=200, bias=True): (1, 200)",
        "Linear(in_features=200, out_features=10, bias=True): (1, 10)",
    ]
    assert [check["verdict"] for check in checks] == ["ok"] * 3
    monkeypatch.setattr(nn.ReLU, "__call__", lambda self, x: x)  # no activation
    assert [check["verdict"] for check in layer_by_layer(0)[1]] == ["ok", "ok", "OFF"]


@pytest.mark.parametrize(
    ("plant", "off"),
    [
        ({}, None),
        ({"ps": np.float32([[0.7, 0.3], [0.6, 0.4]])}, "argmax"),
        ({"test_accuracy_by_step": {3: 0.4, 6: 0.5}}, "test after every"),
        ({"test_accuracy_without_eval": 0.6}, "with eval"),
    ],
)
def test_a_planted_wrong_value_is_found(plant, off):
    curves = {
        "test_accuracy": {1: 0.4, 2: 0.6},
        "test_accuracy_by_step": {3: 0.4, 5: 0.1, 6: 0.6},
        "test_accuracy_without_eval": 0.5,
    } | {name: value for name, value in plant.items() if name != "ps"}
    outputs = jnp.array([[2.0, 1.0], [0.0, 1.0]])
    checks = checks_of("dropout", curves, outputs, plant.get("ps", jax.nn.softmax(outputs)))
    found = [check["check"] for check in checks if check["verdict"] == "OFF"]
    assert len(checks) == 3
    assert len(found) == (off is not None)
    assert all(off in what for what in found)


@pytest.mark.slow
@pytest.mark.data
@pytest.mark.visdom
def test_it_draws_on_a_visdom_server(tmp_path, capsys):
    from tests.train.test_visdom import start, windows

    (tmp_path / "visdom").mkdir()
    server, port = start(tmp_path / "visdom")
    try:
        arguments = ["--nets", "sigmoid", "--epochs", "1", "--visdom-port", str(port)]
        assert run("mnist_mlp", [*arguments, "--out", str(tmp_path)]) == 0
        shown = windows(port, "mnist_mlp_sigmoid")
        assert shown.keys() == {"loss", "loss_by_step", "accuracy", "test loss&acc.", "x", "pred"}
        lines = shown["test loss&acc."]["content"]["data"]  # two lines in one window
        assert [line["name"] for line in lines] == ["test loss", "acc."]
        assert all(len(line["y"]) == 1 for line in lines)
        assert len(shown["pred"]["content"].split()) == 200
    finally:
        server.kill()
        server.wait()
    assert "Sigmoid()" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"seeds": 0}, "--seeds: 0; at least 1"),
        ({"nets": ()}, "--nets: none given"),
        ({"nets": ("mlp", "mlp")}, "--nets: mlp mlp; name each once"),
    ],
)
def test_bad_settings(settings, says):
    with pytest.raises(ValueError, match=says):
        Config(**settings).validate()
