"""Settings and batches that are compared before anything runs."""

from functools import partial

import numpy as np
import optax
import pytest

from jaxnet import losses, nn, optim, parity, train
from jaxnet.parity._batches import difference
from jaxnet.parity._model_names import recorded_models
from jaxnet.parity._port import SubjectError
from jaxnet.parity._preflight import settings
from jaxnet.parity._subject import make_subject
from jaxnet.parity._trace import read
from jaxnet.random import Generator

DATA = np.random.default_rng(0).normal(size=(8, 2, 3, 3)).astype(np.float32)
CLASSES = np.array([0, 1, 2, 0, 1, 2, 2, 1])


@pytest.fixture(scope="module")
def trace(tmp_path_factory):
    """Two steps of a convolution, a norm, dropout and AdamW, with a schedule that acts later."""
    import torch

    torch.manual_seed(0)
    network = torch.nn.Sequential(
        torch.nn.Conv2d(2, 4, 3), torch.nn.GroupNorm(2, 4), torch.nn.Dropout(0.2),
        torch.nn.Flatten(), torch.nn.Linear(4, 3),
    )  # fmt: skip
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2, weight_decay=0.1)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 3)
    folder = tmp_path_factory.mktemp("preflight") / "trace"
    data = torch.utils.data.TensorDataset(torch.tensor(DATA), torch.tensor(CLASSES))
    with parity.recording(folder, steps=2):
        for images, classes in torch.utils.data.DataLoader(data, 4):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(network(images), classes).backward()
            optimizer.step()
            scheduler.step()
    return read(folder)


def port(eps=1e-5, p=0.2, loss=losses.cross_entropy, schedule=3, **settings):
    generator = Generator(0)
    network = nn.Sequential(
        nn.Conv2d(2, 4, 3, rngs=generator), nn.GroupNorm(2, 4, eps=eps), nn.Dropout(p),
        nn.Flatten(), nn.Linear(4, 3, rngs=generator),
    )  # fmt: skip
    adam = optim.AdamW(**{"lr": 1e-2, "weight_decay": 0.1, **settings})
    whole = optim.scheduled(adam, optim.StepLR(adam, schedule), 10) if schedule else adam
    return {"model": network, "loss": loss, "optimizer": whole}


def said(trace, **faults):
    return [(s.place, s.message) for s in settings(trace, make_subject(trace, **port(**faults)))]


def smooth(outputs, targets):
    return losses.cross_entropy(outputs, targets, label_smoothing=0.1)


@pytest.mark.torch
@pytest.mark.parametrize(
    ("faults", "place", "message"),
    [
        ({"eps": 1e-6}, "1", "eps is 1e-06; torch's is 1e-05"),
        ({"p": 0.5}, "2", "p is 0.5; torch's is 0.2"),
        ({"weight_decay": 0.01}, "optimizer", "weight_decay is 0.01; torch's is 0.1"),
        ({"betas": (0.9, 0.99)}, "optimizer", "betas is (0.9, 0.99); torch's is (0.9, 0.999)"),
        ({"loss": losses.mse_loss}, "loss", "it is mse_loss; torch's is cross_entropy"),
        ({"loss": nn.CrossEntropyLoss(reduction="sum")}, "loss",
         "reduction is 'sum'; torch's is 'mean'"),
        ({"schedule": 5}, "optimizer",
         "from the schedule's step 3 on it is 0.01; torch's StepLR gives 0.001 there"),
        ({"schedule": 6}, "optimizer",
         "it is that of torch's StepLR only if torch's program calls scheduler.step() once in 2 "
         "updates or so"),
        ({"schedule": 20}, "optimizer",
         "it stays 0.01 in the 10 updates that are known of it; torch's program has "
         "StepLR(step_size=3, gamma=0.1), which stays so only if scheduler.step() is called once "
         "in 4 updates or less often"),
        ({"schedule": 0}, "optimizer",
         "it stays 0.01; torch's program has StepLR(step_size=3, gamma=0.1)"),
    ],
)  # fmt: skip
def test_settings_that_differ(trace, faults, place, message):
    assert said(trace, **faults) == [(place, message)]


@pytest.mark.torch
def test_settings_that_agree(trace):
    assert said(trace) == []
    assert said(trace, loss=smooth) == []  # a function of the user's own, which is only run


@pytest.mark.torch
@pytest.mark.long  # a check compiles six programs
def test_a_setting_without_effect_is_a_warning_and_one_with_an_effect_is_named(trace):
    batches = [(DATA[:4], CLASSES[:4]), (DATA[4:], CLASSES[4:])]
    late = parity.check(trace, **port(schedule=5), batches=batches)
    assert late.verdict == "same", str(late)
    (setting,) = late.settings
    assert setting.effect == "it makes no difference in the recorded steps"
    assert "warning: learning rate: from the schedule's step 3 on" in str(late)
    swapped = [(np.moveaxis(x, 1, -1), y) for x, y in batches]
    wrong = parity.check(trace, **port(eps=1e-3), batches=swapped)
    assert [f.level for f in wrong.findings] == ["preflight", "layer"], str(wrong)
    assert "batch 0: its axes are in another order: NHWC for NCHW" in str(wrong)
    assert [s.effect for s in wrong.settings] == ["see 2"]


@pytest.mark.torch
def test_schedules_of_optax_are_one_warning_for_all_parts(tmp_path):
    import torch

    torch.manual_seed(0)
    nets = torch.nn.Linear(3, 2), torch.nn.Linear(4, 2)
    data = torch.utils.data.TensorDataset(torch.randn(10, 3), torch.randn(10, 4))
    with parity.recording(tmp_path / "trace", steps=1):
        optimizers = [torch.optim.SGD(net.parameters(), 0.1) for net in nets]
        schedulers = [torch.optim.lr_scheduler.StepLR(each, 3) for each in optimizers]
        for batch in torch.utils.data.DataLoader(data, 5):
            values = [net(x).square().mean() for net, x in zip(nets, batch, strict=True)]
            sum(values).backward()
            for each in (*optimizers, *schedulers):
                each.step()
    rngs, sgd = Generator(0), optax.sgd(0.1)
    models = {"A": nn.Linear(3, 2, rngs=rngs), "B": nn.Linear(4, 2, rngs=rngs)}

    def loss(number, models, batch):
        return (models["AB"[number]](batch[number]) ** 2).mean()

    steps = [train.make_train_step(partial(loss, i), sgd, model="AB"[i]) for i in range(2)]

    def step(state, batch):
        for each in steps:
            state, metrics = each(state, batch)
        return state, metrics

    trace = read(tmp_path / "trace")
    state = {name: train.create(model, sgd) for name, model in models.items()}
    found = settings(trace, make_subject(trace, step=step, state=state))
    messages = [setting.message for setting in found if setting.kind == "learning rate"]
    assert messages == ["torch's StepLR cannot be compared with a schedule of optax of A, B"]


X = np.random.default_rng(1).normal(size=(4, 3, 2, 5)).astype(np.float32)
SCALES = np.array([0.2, 0.3, 0.4], np.float32)[:, None, None]
LABELS = np.array([2, 0, 1, 1, 2, 0])


@pytest.mark.torch
@pytest.mark.long  # a check compiles six programs
def test_learning_rates_that_no_rule_explains_are_said(trace):
    faults = port(schedule=0)
    adam = faults["optimizer"]
    curve = optim.LambdaLR(adam, lambda step: 0.7 if step else 1.0)
    report = parity.check(trace, **{**faults, "optimizer": optim.scheduled(adam, curve, 10)})
    (finding,) = report.findings
    assert (finding.site, finding.step, finding.cause) == ("lr:0", 1, None)
    assert "it is 0.01, 0.007; torch's is 0.01, 0.01" in finding.message
    assert "parameter group 0" in str(report)
    assert "cause: not known" in str(report)


@pytest.mark.parametrize(
    ("torch", "jax", "message"),
    [
        (X, X.transpose(0, 2, 3, 1), "its axes are in another order: NHWC for NCHW"),
        (X, X.transpose(0, 2, 3, 1) * 255, "NHWC for NCHW, and it is torch's times 255"),
        (X, X.transpose(0, 1, 3, 2), "its axes are in another order: NCWH for NCHW"),
        (X, X * 255, "it is torch's times 255 (from"),
        (X, (X - 0.5) / 0.25, "it is torch's times 4 - 2 (from"),
        (X, (X - 0.5) / SCALES, "each channel is torch's x normalised in another way: 5 x -2.5"),
        (X, X[:, ::-1], "its channels are in the opposite order"),
        (X, X[::-1], "it has torch's rows in another order"),
        (X, X[:3], "it has 3 rows; torch's has 4"),
        (X, X.astype(np.float16).astype(np.float32) + 1e-2 * X**2, "its numbers are others: from"),
        (LABELS, LABELS + 1, "its numbers are torch's + 1"),
        (LABELS, np.array([1, 2, 0])[LABELS], "its classes are numbered in another order: 1 for"),
        (LABELS, np.eye(3)[LABELS], "it has one-hot vectors; torch's has numbers of classes"),
        (np.eye(3)[LABELS], LABELS, "it has numbers of classes; torch's has one-hot vectors"),
        (LABELS, LABELS[:, None], "its shape is (6, 1); torch's is (6,), with the same numbers"),
        (X, np.roll(X, 1, 3), "its numbers are others"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_how_batches_differ(torch, jax, message):
    found, fix = difference(torch, jax)
    assert found.startswith(message) or message in found
    assert fix


TOKENS = np.array([[100_000, 5, 7]])
COLUMNS = np.array([[1e6, 1.0], [2e6, 2.0]], np.float32)


@pytest.mark.parametrize(
    ("torch", "jax"),
    [
        (TOKENS, TOKENS + np.array([[0, 1, 0]])),
        (COLUMNS, COLUMNS + np.array([0, 5], np.float32)),
        (np.array([[np.inf, 1.0]]), np.array([[3.0, 1.0]])),
        (np.array([[np.inf, 1.0]]), np.array([[np.inf, 2.0]])),
        (np.array(3.0), np.array(4.0)),
    ],
)
def test_one_large_number_hides_no_difference(torch, jax):
    assert difference(torch, jax) is not None


@pytest.mark.parametrize(
    ("torch", "jax"),
    [
        (COLUMNS, COLUMNS),
        (np.array([np.inf, 1.0]), np.array([np.inf, 1.0])),
        (LABELS, LABELS.astype(np.int32)),
        (X, X * np.float32(1 + 1e-7)),
        (X, X.astype(np.float64)),
    ],
)
def test_batches_that_agree(torch, jax):
    assert difference(torch, jax) is None


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """One step of two models of the same shapes and of one with a tied parameter."""
    import torch

    first, second = torch.nn.Linear(3, 3), torch.nn.Linear(3, 3)
    tied = torch.nn.Sequential(torch.nn.Linear(3, 3, bias=False), torch.nn.Linear(3, 3))
    tied[1].weight = tied[0].weight
    parts = first, second, tied
    optimizer = torch.optim.SGD([p for part in parts for p in part.parameters()], 0.1)
    folder = tmp_path_factory.mktemp("preflight") / "models"
    with parity.recording(folder, steps=1):
        tied(second(first(torch.randn(2, 3)))).sum().backward()
        optimizer.step()
    return read(folder)


def states(**layers):
    return {name: train.create(layer, optim.SGD(lr=0.1)) for name, layer in layers.items()}


def layers(*biases):
    return [nn.Linear(3, 3, bias, rngs=Generator(0)) for bias in biases]


@pytest.mark.torch
def test_a_model_is_the_recorded_one_of_its_name_though_another_comes_before_it(models):
    tied, (another, first) = nn.Sequential(*layers(False, True)), layers(True, True)
    tied[1].weight = tied[0].weight
    found = recorded_models(models, states(another=another, tied=tied, first=first))
    assert found == {"another": "second", "tied": "tied", "first": "first"}


@pytest.mark.torch
def test_a_tied_parameter_of_one_of_several_models_is_named(models):
    first, second, *rest = layers(True, True, False, True)
    given = states(first=first, second=second, tied=nn.Sequential(*rest))
    message = r"tied: 1.weight is an array of its own; torch's is tied to 0.weight"
    with pytest.raises(SubjectError, match=message):
        recorded_models(models, given)


@pytest.mark.torch
def test_half_precision_is_said_and_not_compared(tmp_path):
    import torch

    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Tanh())
    optimizer = torch.optim.SGD(network.parameters(), 0.1)
    with parity.recording(tmp_path / "trace", steps=1):
        with torch.autocast("cpu", torch.bfloat16):
            value = network(torch.randn(5, 4)).square().mean()
        value.backward()
        optimizer.step()
    model, sgd = nn.Sequential(nn.Linear(4, 3, rngs=Generator(0)), nn.Tanh()), optim.SGD(lr=0.1)

    def loss(model, batch):
        return (model(batch[0]) ** 2).mean()

    trace = read(tmp_path / "trace")
    (found,) = settings(trace, make_subject(trace, model, loss, sgd))
    assert found.message == "torch's 0, 1 give bfloat16 (autocast)"
    step = train.make_train_step(loss, sgd, compute_dtype="bfloat16")
    with pytest.raises(SubjectError, match="Leave compute_dtype out for the check"):
        make_subject(trace, step=step, state=train.create(model, sgd))
    step = train.make_train_step(loss, sgd, batch_norm_parts=5)
    with pytest.raises(SubjectError, match="Leave batch_norm_parts out for the check"):
        make_subject(trace, step=step, state=train.create(model, sgd))
