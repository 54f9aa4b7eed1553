"""A PyTorch program is recorded: its own bits, and the float64 numbers that it would have."""

import gc
import importlib
import itertools
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

from jaxnet import parity
from jaxnet.parity._losses import loss_references
from jaxnet.parity._trace import read
from jaxnet.parity._updates import Carried, updates

pytestmark = pytest.mark.torch
torch = pytest.importorskip("torch")
nn, F = torch.nn, torch.nn.functional
DataLoader, TensorDataset = torch.utils.data.DataLoader, torch.utils.data.TensorDataset


class Formula(nn.Module):
    """f(x, w) as a module with the parameter w."""

    def __init__(self, f):
        super().__init__()
        self.w = nn.Parameter(torch.linspace(-1, 1, 6))
        self.f = f

    def forward(self, x):
        return self.f(x, self.w)


class First(nn.Module):
    """The first output of a module."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, *args):
        return self.inner(*args)[0]


def in_place(x, w):
    y = x * w
    y[:, 1:3] *= 2.5
    y[0] = w * 3
    y.add_(0.1)
    return y.clamp_(-1, 1)


def sorted_sums(x, w):
    order = (x * w).argsort(1)
    return torch.gather(x * w, 1, order).cumsum(1) * torch.where(x > 0, w, w * 0.3)


def constants(x, w):
    full = torch.full((6,), 0.3, dtype=x.dtype)
    return x * w * torch.tensor(0.1, dtype=x.dtype) + full + torch.linspace(0, 1, 6, dtype=x.dtype)


def conjugated(x, w):
    h = torch.fft.fft(x * w)
    mirrored = h.conj()
    return (mirrored * h.roll(1, 1)).imag + mirrored.imag + torch.view_as_real(h)[..., 1]


def like_a_number_of_the_program(x, w):
    (0.5 + 1e-9 * w.detach())[-1].item()  # 0.5 in float32, and another number in float64
    return F.leaky_relu(x * w, 0.5)


def recomputed(x, w):
    return torch.utils.checkpoint.checkpoint(
        lambda a, b: F.dropout(torch.tanh(a * b), 0.4), x, w, use_reentrant=False
    )


def sgd(parameters):
    return torch.optim.SGD(parameters, 0.1, momentum=0.9, nesterov=True, weight_decay=0.01)


ROWS, TIMES, IMAGES = (4, 6), (3, 2, 6), (2, 6, 8, 8)
PROGRAMS = {
    "batch norm": (lambda: nn.BatchNorm1d(6), ROWS),
    "layer norm": (lambda: nn.LayerNorm(6), ROWS),
    "convolution": (lambda: nn.Conv2d(6, 4, 3, stride=2, padding=1), IMAGES),
    "channels last": (lambda: nn.Conv2d(6, 4, 3).to(memory_format=torch.channels_last), IMAGES),
    "transposed": (lambda: nn.ConvTranspose2d(6, 4, 3, 2), IMAGES),
    "pooling": (lambda: nn.Sequential(nn.Conv2d(6, 4, 3), nn.MaxPool2d(2)), IMAGES),
    "lstm": (lambda: First(nn.LSTM(6, 5, 2, dropout=0.3)), TIMES),
    "lstm both ways": (lambda: First(nn.LSTM(6, 5, bidirectional=True, batch_first=True)), TIMES),
    "gru": (lambda: First(nn.GRU(6, 5, 2)), TIMES),
    "flash attention": (
        lambda: Formula(lambda x, w: F.scaled_dot_product_attention(x * w, x, x + w)),
        TIMES,
    ),
    "attention with dropout": (
        lambda: Formula(lambda x, w: F.scaled_dot_product_attention(x * w, x, x + w, None, 0.3)),
        TIMES,
    ),
    "dropout2d": (lambda: nn.Sequential(nn.Conv2d(6, 4, 3), nn.Dropout2d(0.4)), IMAGES),
    "relu in place": (lambda: nn.Sequential(nn.Linear(6, 6), nn.ReLU(True), nn.Linear(6, 2)), ROWS),
    "rrelu, not training": (lambda: nn.Sequential(nn.Linear(6, 3), nn.RReLU()).eval(), ROWS),
    "spectral norm": (lambda: nn.utils.parametrizations.spectral_norm(nn.Linear(6, 3)), ROWS),
    "embedding with max_norm": (lambda: nn.Embedding(9, 4, max_norm=0.5), "integers"),
    "in place": (lambda: Formula(in_place), ROWS),
    "indices": (lambda: Formula(sorted_sums), ROWS),
    "constants": (lambda: Formula(constants), ROWS),
    "checkpoint": (lambda: Formula(recomputed), ROWS),
    "fft": (lambda: Formula(lambda x, w: torch.fft.rfft(x * w).abs()), ROWS),
    "conjugate": (lambda: Formula(conjugated), ROWS),
    "number of Python's": (lambda: Formula(like_a_number_of_the_program), ROWS),
    "vmap": (lambda: Formula(lambda x, w: torch.func.vmap(lambda r: torch.sin(r * w))(x)), ROWS),
}
OPTIMIZERS = {
    "Adam foreach": lambda p: torch.optim.Adam(p, 0.1, foreach=True),
    "Adam fused": lambda p: torch.optim.Adam(p, 0.1, fused=True),
    "AdamW amsgrad": lambda p: torch.optim.AdamW(p, 0.1, amsgrad=True),
    "RMSprop": lambda p: torch.optim.RMSprop(p, 0.1, centered=True, momentum=0.5),
    "Adadelta": lambda p: torch.optim.Adadelta(p, 0.1),
}


def train(make, shape, optimizer, dtype, path=None, steps=1):
    """Losses, parameters and buffers of a few steps, recorded if there is a path."""
    torch.manual_seed(3)
    model = make().to(dtype)
    stepper = optimizer(list(model.parameters()))
    generator = torch.Generator().manual_seed(1)
    found = []

    def loop():
        for _ in range(steps):
            if shape == "integers":
                x = torch.randint(0, 9, (4, 3), generator=generator)
            else:
                x = torch.randn(shape, generator=generator).to(dtype)
            stepper.zero_grad()
            loss = model(x).square().mean()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 0.05)
            stepper.step()
            found.append(loss.detach().clone())

    torch.manual_seed(5)
    if path is None:
        loop()
    else:
        with parity.recording(path, steps=steps, full=range(steps)):
            loop()
    return [*found, *model.state_dict().values()]


CASES = {name: (*row, sgd) for name, row in PROGRAMS.items()} | {
    name: (lambda: nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 2)), ROWS, optimizer)
    for name, optimizer in OPTIMIZERS.items()
}


@pytest.mark.parametrize("name", CASES)
def test_a_recorded_program_has_its_bits_and_the_numbers_of_float64(tmp_path, name):
    make, shape, optimizer = CASES[name]
    steps = {}
    for dtype in (torch.float32, torch.float64):
        path = tmp_path / str(dtype)
        bare = train(make, shape, optimizer, dtype)
        recorded = train(make, shape, optimizer, dtype, path)
        assert all(map(torch.equal, bare, recorded))
        steps[dtype] = read(path).steps[0]
    single, double = steps.values()
    assert not single.single
    assert set(double.sites) <= set(single.sites)
    compared = 0
    for site in double.sites:
        if double[site].dtype.kind == "f":
            expected, found = double[site], single.double(site)
            error = np.linalg.norm(found - expected)
            assert error <= 1e-12 * np.linalg.norm(expected) + 1e-15, site
            assert site.startswith(("batch", "before", "buffer_b")) or single.has_double(site)
            compared += 1
    assert compared > 8


def batches(n=32, size=8):
    x, y = torch.randn(n, 4), torch.randn(n, 1)
    return DataLoader(TensorDataset(x, y), batch_size=size)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(4, 3)
        self.drop = nn.Dropout(0.5)
        self.b = nn.Linear(3, 1)

    def forward(self, x, scale=1.0):
        return self.b(self.drop(F.relu(self.a(x)))) * scale


def plain(net):
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    for x, y in batches():
        optimizer.zero_grad()
        F.mse_loss(net(x), y).backward()
        optimizer.step()


@pytest.fixture(scope="module")
def plain_trace(tmp_path_factory):
    path = tmp_path_factory.mktemp("record") / "plain"
    torch.manual_seed(0)
    with parity.recording(path, steps=3, full=(0,)):
        plain(Net())
    return read(path)


def test_calls_functions_and_draws_have_their_names_and_lines(plain_trace):
    step = plain_trace.steps[0]
    assert [c.name for c in step.calls] == ["#0", "a#0", "drop#0", "b#0"]
    assert [c.parent for c in step.calls] == [None, 0, 0, 0]
    assert [c.draws for c in step.calls] == [(), (), (0,), ()]
    assert [(f.name, f.parent) for f in step.functions] == [
        ("relu#0", 0),
        ("mul#0", 0),
        ("mse_loss#0", None),
    ]
    relu = step.functions[0]
    assert relu.inputs["dict"]["0"] == {"array": "forward:a#0"}
    assert step.functions[2].inputs["dict"]["1"] == {"array": "batch:0.1"}
    assert [(d.kind, d.arguments) for d in step.draws] == [("mask", {"p": 0.5})]
    assert step["draw:0"].dtype == bool
    lines = Path(__file__).read_text().splitlines()
    for each, text in ((relu, "F.relu(self.a(x))"), (step.calls[0], "F.mse_loss(net(x), y)")):
        file, line = each.where.rsplit(":", 1)
        assert Path(file).name == "test_record.py"
        assert text in lines[int(line) - 1]


def test_a_step_is_whole_and_the_next_goes_on_from_it(plain_trace):
    first, second, third = plain_trace.steps
    assert first.events == ("zero_grad", "forward", "backward", "step")
    assert [first.full, second.full, third.full] == [True, False, False]
    assert first.groups[0][0]["lr"] == 0.1
    assert plain_trace.parameters["a.weight"]["shape"] == [3, 4]
    assert plain_trace.modules["drop"].config == {"p": 0.5, "inplace": False}
    for name, site in first.of("update").items():
        np.testing.assert_array_equal(second[f"before:{name}"], first[site])
        gradient = first.double(f"param_grad:{name}")
        expected = first.double(f"before:{name}") - 0.1 * gradient
        np.testing.assert_allclose(first.double(site), expected, rtol=1e-13, atol=1e-15)
    assert not second.of("forward")
    assert second.of("param_grad").keys() == first.of("param_grad").keys()
    # The float64 numbers of a step begin with the program's own.
    assert second.double("before:a.weight").astype(np.float32).dtype == np.float32
    loss = second.double("loss:0") - second["loss:0"]
    assert 0 < abs(loss) < 1e-6


def test_gradients_of_outputs_are_those_that_torch_computes(plain_trace):
    step = plain_trace.steps[0]
    x, y = step["batch:0.0"], step["batch:0.1"]
    output = step.double("forward:#0")
    np.testing.assert_allclose(step.double("grad:#0"), 2 * (output - y) / len(x), rtol=1e-12)
    weight = step.double("before:b.weight")
    np.testing.assert_allclose(
        step.double("grad:drop#0"), step.double("grad:b#0") @ weight, rtol=1e-12, atol=1e-15
    )


def gan():
    G, D = nn.Linear(2, 4), nn.Linear(4, 1)
    og, od = torch.optim.Adam(G.parameters()), torch.optim.SGD(D.parameters(), 0.1)
    for x, _ in batches():
        fake = G(torch.randn(8, 2))
        od.zero_grad()
        (D(fake.detach()).mean() - D(x).mean()).backward()
        od.step()
        og.zero_grad()
        (-D(fake)).mean().backward()
        og.step()


def accumulation():
    net = Net()
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    for i, (x, y) in enumerate(batches(64)):
        (F.mse_loss(net(x), y) / 2).backward()
        if i % 2:
            optimizer.step()
            optimizer.zero_grad()


def validation():
    net = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 1))
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    for i in range(4):
        net.eval()
        for x, y in batches(16):  # on even epochs gradients are left on, as is often forgotten
            with torch.set_grad_enabled(i % 2 == 0):
                F.mse_loss(net(x), y).item()
        net.train()
        for x, y in batches(8):
            optimizer.zero_grad()
            F.mse_loss(net(x), y).backward()
            optimizer.step()


def with_a_closure(make):
    net = nn.Linear(4, 1)
    optimizer = make(net.parameters())
    x, y = torch.randn(8, 4), torch.randn(8, 1)

    def evaluate():
        optimizer.zero_grad()
        loss = F.mse_loss(net(x), y)
        loss.backward()
        return loss

    for _ in range(3):
        optimizer.step(evaluate)


def closure():
    with_a_closure(lambda parameters: torch.optim.LBFGS(parameters, lr=0.5, max_iter=2))


def closure_of_adam():
    with_a_closure(lambda parameters: torch.optim.Adam(parameters, lr=0.1))


def without_a_loader():
    net = nn.Linear(4, 1)
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    for _ in range(4):
        x, y = torch.randn(8, 4), torch.randn(8, 1)
        optimizer.zero_grad()
        for part in range(2):
            loss = F.mse_loss(net(x[4 * part : 4 * part + 4]), y[4 * part : 4 * part + 4])
            (loss / 2).backward()
        optimizer.step()


def two_losses():
    net = nn.Linear(4, 2)
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    for _ in range(4):
        x, y = torch.randn(8, 4), torch.randn(8)
        optimizer.zero_grad()
        output = net(x)
        F.mse_loss(output[:, 0], y).backward(retain_graph=True)
        F.l1_loss(output[:, 1], 2 * y).backward()
        optimizer.step()


def left_over():
    net = nn.Linear(4, 1)
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    for _ in range(3):
        optimizer.zero_grad()
        for i, (x, y) in enumerate(batches(24)):
            F.mse_loss(net(x), y).backward()
            if i % 2:
                optimizer.step()
                optimizer.zero_grad()


def last_group():
    net = nn.Linear(4, 1)
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    for _ in range(3):
        optimizer.zero_grad()
        for i, (x, y) in enumerate(batches(24)):
            F.mse_loss(net(x), y).backward()
            if i % 2 or i == 2:
                optimizer.step()
                optimizer.zero_grad()


def layer_by_layer():
    net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    x = torch.randn(8, 4)

    def train(layer, x, steps):
        optimizer = torch.optim.Adam(layer.parameters())
        for _ in range(steps):
            optimizer.zero_grad()
            layer.forward(x).square().mean().backward()
            optimizer.step()

    def everything(net):
        for layer in net:
            train(layer, x, 2)

    everything(net)


def forward_itself():
    net = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 1))
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    for x, y in batches():
        optimizer.zero_grad()
        F.mse_loss(net.forward(x), y).backward()
        optimizer.step()


def without_optimizer():
    net = nn.Linear(4, 1)
    for x, y in batches():
        net.zero_grad()
        F.mse_loss(net(x), y).backward()
        nn.utils.clip_grad_norm_(net.parameters(), 0.01)
        for p in net.parameters():
            p.data.add_(p.grad, alpha=-0.1)


def without_modules():
    w = torch.ones(1, requires_grad=True)
    optimizer = torch.optim.SGD([w], 0.01)
    x = torch.arange(5.0)
    for _ in range(3):
        optimizer.zero_grad()
        ((w * x - 3 * x) ** 2).mean().backward()
        optimizer.step()


def tied_and_shared():
    net = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4), nn.Tanh())
    net[2].weight = net[0].weight
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    for x, _ in batches():
        optimizer.zero_grad()
        net(net(x)).sum().backward()
        optimizer.step()


def wrapped():
    net = nn.DataParallel(nn.Linear(4, 1))
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    for x, _ in batches():
        optimizer.zero_grad()
        net(x).sum().backward()
        optimizer.step()


def penalty():
    net = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 1))
    optimizer = torch.optim.Adam(net.parameters())
    for x, _ in batches():
        x.requires_grad_()
        output = net(x)
        (slope,) = torch.autograd.grad(output.sum(), x, create_graph=True)
        optimizer.zero_grad()
        (output.mean() + slope.pow(2).mean()).backward()
        optimizer.step()


def mixed():
    net = nn.Linear(4, 1)
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    for x, y in batches():
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = F.mse_loss(net(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def distillation():
    teacher, net = nn.Linear(4, 1), nn.Linear(4, 1)
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    for _ in range(4):
        x = torch.randn(8, 4)
        with torch.no_grad():
            y = teacher(x)
        optimizer.zero_grad()
        F.mse_loss(net(x), y).backward()
        optimizer.step()


def micro_batches():
    net = nn.Linear(4, 1)
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    loader = iter(batches(64))
    for _ in range(4):
        taken = [next(loader) for _ in range(2)]
        optimizer.zero_grad()
        for x, y in taken:
            F.mse_loss(net(x), y).backward()
        optimizer.step()


def prefetched():
    net = nn.Linear(4, 1)
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    loader = iter(batches(64))
    following = next(loader)
    for _ in range(4):
        (x, _), following = following, next(loader)
        optimizer.zero_grad()
        net(x).sum().backward()
        optimizer.step()


def two_loaders():
    net = nn.Linear(4, 1)
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    first, second = iter(batches()), iter(batches())
    torch.randn(1)
    for _ in range(4):
        x, _ = next(first)
        noise = torch.randn(8, 1)
        _, y = next(second)
        optimizer.zero_grad()
        F.mse_loss(net(x) + noise, y).backward()
        optimizer.step()


def one_batch():
    net = nn.Linear(4, 1)
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    x, y = next(iter(batches()))
    for _ in range(4):
        optimizer.zero_grad()
        F.mse_loss(net(x), y).backward()
        optimizer.step()


def frozen_statistics():
    back, head = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)).eval(), nn.Linear(4, 1)
    optimizer = torch.optim.SGD([*back.parameters(), *head.parameters()], 0.1)
    for x, y in batches():
        optimizer.zero_grad()
        F.mse_loss(head(back(x)), y).backward()
        optimizer.step()


def new_optimizers():
    net = nn.Linear(4, 1)
    x, y = torch.randn(8, 4), torch.randn(8, 1)
    for _ in range(4):
        optimizer = torch.optim.SGD(net.parameters(), 0.1)
        optimizer.zero_grad()
        F.mse_loss(net(x), y).backward()
        optimizer.step()


def new_optimizers_in_cycles():
    net = nn.Linear(4, 1)
    x, y = torch.randn(8, 4), torch.randn(8, 1)
    for _ in range(4):
        optimizer = torch.optim.SGD(net.parameters(), 0.1)
        optimizer.myself = optimizer  # only the garbage collector ends it
        optimizer.zero_grad()
        F.mse_loss(net(x), y).backward()
        optimizer.step()


def two_optimizers_of_one_network():
    q, d = nn.Linear(4, 2), nn.Linear(2, 4)
    first, last = torch.optim.SGD(q.parameters(), 0.01), torch.optim.SGD(q.parameters(), 0.05)
    other = torch.optim.SGD(d.parameters(), 0.01)
    for x, _ in batches():
        first.zero_grad()
        other.zero_grad()
        F.mse_loss(d(q(x)), x).backward()
        first.step()
        other.step()
        last.zero_grad()
        q(x).square().mean().backward()
        last.step()


def clipped_after_a_decay():
    net = nn.Linear(4, 1)
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    for x, y in batches():
        optimizer.zero_grad()
        F.mse_loss(net(x), y).backward()
        with torch.no_grad():
            for p in net.parameters():
                p.mul_(0.99)
        nn.utils.clip_grad_norm_(net.parameters(), 0.001)
        optimizer.step()


ONE = ("zero_grad", "forward", "backward", "step")
LOOPS = {  # loop: models, events of a step, calls, batches
    gan: (
        ("G", "D"),
        (*["forward", "zero_grad", "forward", "forward", "backward", "step"], *ONE),
        ["G#0", "D#0", "D#1", "D#2"],
        1,
    ),
    accumulation: (
        ("",),
        ("zero_grad", "forward", "backward", "forward", "backward", "step"),
        ["#0", "a#0", "drop#0", "b#0", "#1", "a#1", "drop#1", "b#1"],
        2,
    ),
    validation: (("",), ONE, ["#0", "0#0", "1#0", "2#0"], 1),
    closure: (
        ("",),
        ("zero_grad", "forward", "backward", "evaluation", "step"),
        ["#0"],
        1,
    ),
    closure_of_adam: (("",), ONE, ["#0"], 1),
    without_a_loader: (
        ("",),
        ("zero_grad", "forward", "backward", "forward", "backward", "step"),
        ["#0", "#1"],
        2,
    ),
    two_losses: (("",), ("zero_grad", "forward", "backward", "backward", "step"), ["#0"], 1),
    left_over: (
        ("",),
        ("zero_grad", "forward", "backward", "forward", "backward", "step"),
        ["#0", "#1"],
        2,
    ),
    forward_itself: (("",), ONE, ["#0", "0#0", "1#0"], 1),
    without_optimizer: (("",), ("zero_grad", "forward", "backward", "clip", "step"), ["#0"], 1),
    without_modules: ((), ("zero_grad", "backward", "step"), [], 1),
    tied_and_shared: (
        ("",),
        ("zero_grad", "forward", "forward", "backward", "step"),
        [f"{name}#{i}" for i in range(2) for name in ("", "0", "1", "2", "3")],
        1,
    ),
    wrapped: (("",), ONE, ["#0"], 1),
    penalty: (
        ("",),
        ("forward", "zero_grad", "backward", "step"),
        ["#0", "0#0", "1#0", "2#0"],
        1,
    ),
    mixed: (("",), ("forward", "zero_grad", "backward", "step"), ["#0"], 1),
    distillation: (("",), ONE, ["#0"], 1),
    micro_batches: (
        ("",),
        ("zero_grad", "forward", "backward", "forward", "backward", "step"),
        ["#0", "#1"],
        2,
    ),
    prefetched: (("",), ONE, ["#0"], 1),
    two_loaders: (("",), ONE, ["#0"], 2),
    one_batch: (("",), ONE, ["#0"], 1),
    frozen_statistics: (
        ("back", "head"),
        ("zero_grad", "forward", "forward", "backward", "step"),
        ["back#0", "back.0#0", "back.1#0", "head#0"],
        1,
    ),
    new_optimizers: (("",), ONE, ["#0"], 1),
    new_optimizers_in_cycles: (("",), ONE, ["#0"], 1),
    two_optimizers_of_one_network: (
        ("q", "d"),
        ("zero_grad", "zero_grad", "forward", *ONE[1:], "step", *ONE),
        ["q#0", "d#0", "q#1"],
        1,
    ),
    clipped_after_a_decay: (("",), (*ONE[:3], "step", "clip", "step"), ["#0"], 1),
}


@pytest.mark.parametrize("loop", LOOPS, ids=lambda loop: loop.__name__)
def test_steps_of_all_kinds_of_loops(tmp_path, loop):
    models, events, calls, count = LOOPS[loop]
    torch.manual_seed(0)
    loop_state = torch.get_rng_state()
    loop()
    expected = torch.rand(1)
    torch.set_rng_state(loop_state)
    with parity.recording(tmp_path / "t", steps=3):
        loop()
    assert torch.equal(torch.rand(1), expected)  # not one number more was drawn
    trace = read(tmp_path / "t")
    assert trace.models == models
    assert len(trace.steps) == 3
    for step in trace:
        found = (
            step.events if step.index or events[0] == step.events[0] else events[:1] + step.events
        )
        assert found == events
        assert [c.name for c in step.calls] == calls
        assert len(step.batches) == count
        assert "?" not in str((step.batches, step.calls, step.functions))
        assert all(step.groups)
        assert not step.single
        changed = [
            not np.array_equal(step[s], step[f"before:{n}"]) for n, s in step.of("update").items()
        ]
        assert any(changed)
    for before, after in itertools.pairwise(trace.steps):
        for name, site in before.of("update").items():
            np.testing.assert_array_equal(after[f"before:{name}"], before[site])


@pytest.mark.parametrize(
    ("loop", "kinds"),
    [
        (distillation, []),
        (micro_batches, []),
        (prefetched, []),
        (two_loaders, ["normal"]),
        (one_batch, []),
    ],
)
def test_the_batches_and_draws_of_a_step_are_those_that_it_used(tmp_path, loop, kinds):
    with parity.recording(tmp_path / "t", steps=2):
        loop()
    for step in read(tmp_path / "t"):
        assert [draw.kind for draw in step.draws] == kinds
        for call in step.calls:
            given = step[f"input:{call.name}.0"]
            np.testing.assert_array_equal(step.batch(call.number)[0], given)


def test_the_last_group_of_an_epoch_may_be_smaller(tmp_path):
    with parity.recording(tmp_path / "t", steps=4):
        last_group()
    assert [len(step.batches) for step in read(tmp_path / "t")] == [2, 1, 2, 1]


def test_layers_that_are_trained_one_after_another_are_those_of_one_model(tmp_path):
    with parity.recording(tmp_path / "t", steps=4):
        layer_by_layer()
    trace = read(tmp_path / "t")
    assert trace.models == ("",)
    assert [[c.name for c in step.calls] for step in trace] == [["0#0"]] * 2 + [["1#0"]] * 2
    assert [[*step.of("param_grad")] for step in trace][1:3] == [
        ["0.weight", "0.bias"],
        ["1.weight", "1.bias"],
    ]
    assert [o["class"] for o in trace.optimizers] == ["Adam", "Adam"]
    assert trace.optimizers[1]["groups"][0]["params"] == ["1.weight", "1.bias"]


def test_the_groups_of_an_optimizer_that_steps_later_come_last(tmp_path):
    net = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 1))
    late, early = torch.optim.SGD(net[0].parameters(), 0.5), torch.optim.SGD(net[1].parameters())
    gc.collect()  # which leaves them in this order, in which they get their numbers
    with parity.recording(tmp_path / "t", steps=3):
        for i, (x, y) in enumerate(batches()):
            late.zero_grad()
            early.zero_grad()
            F.mse_loss(net(x), y).backward()
            early.step()
            if i:
                late.step()
    trace = read(tmp_path / "t")
    rates = [optimizer["groups"][0]["lr"] for optimizer in trace.optimizers]
    assert rates == [0.001, 0.5]
    assert [[group["lr"] for (group,) in step.groups] for step in trace] == [
        rates[:1],
        rates,
        rates,
    ]
    found = {name: [r.config["lr"] for r in u.records] for name, u in updates(trace).items()}
    assert found == {f"0.{n}": [0.5] * 2 for n in ("weight", "bias")} | {
        f"1.{n}": [0.001] * 3 for n in ("weight", "bias")
    }
    carried = Carried(trace)
    assert [len(carried.advance(step)) for step in trace] == [2, 4, 4]


def test_a_model_that_is_called_later_has_a_name_of_its_own(tmp_path):
    def loop():
        first, second = nn.Linear(4, 4), nn.Linear(4, 4)
        for net in (first, second):
            optimizer = torch.optim.SGD(net.parameters(), 0.1)
            net(torch.randn(8, 4)).square().mean().backward()
            optimizer.step()

    with parity.recording(tmp_path / "t", steps=2):
        loop()
    trace = read(tmp_path / "t")
    assert trace.models == ("", "second")
    assert [[*step.of("param_grad")] for step in trace] == [
        ["weight", "bias"],
        ["second.weight", "second.bias"],
    ]


def test_a_wrapper_is_said_in_words(tmp_path):
    with parity.recording(tmp_path / "t", steps=1):
        wrapped()
    assert read(tmp_path / "t").about["notes"] == ["DataParallel: the model inside is recorded"]


def test_a_tied_parameter_has_one_place_and_all_its_names(tmp_path):
    with parity.recording(tmp_path / "t", steps=1):
        tied_and_shared()
    trace = read(tmp_path / "t")
    assert trace.parameters["0.weight"]["names"] == ["0.weight", "2.weight"]
    assert "2.weight" not in trace.parameters


def globals_of_torch():
    optimizer = importlib.import_module("torch.optim.optimizer")
    return (
        torch.nn.Module.__call__,
        torch.nn.Module.zero_grad,
        torch.optim.Optimizer.zero_grad,
        torch.autograd.backward,
        DataLoader.__iter__,
        torch.utils.data.dataloader._BaseDataLoaderIter.__next__,
        dict(optimizer._global_optimizer_pre_hooks),
        dict(optimizer._global_optimizer_post_hooks),
        torch._C._len_torch_dispatch_stack(),
        torch._C._len_torch_function_stack(),
        torch.is_grad_enabled(),
        torch.get_default_dtype(),
    )


def fails(_):
    raise KeyError("the program's own")


def test_torch_is_as_it_was_also_after_an_error(tmp_path):
    before = globals_of_torch()
    with pytest.raises(KeyError, match="own"), parity.recording(tmp_path / "t"):
        fails(plain(Net()))
    assert globals_of_torch() == before
    assert len(read(tmp_path / "t").steps) == 4  # what was whole is kept
    with parity.recording(tmp_path / "u", steps=1):
        plain(Net())
    assert globals_of_torch() == before


def test_a_recording_in_a_recording_is_refused_and_the_outer_one_goes_on(tmp_path):
    with parity.recording(tmp_path / "t", steps=1):
        with pytest.raises(RuntimeError, match="is open already"), parity.recording(tmp_path / "u"):
            pass
        plain(Net())
    assert len(read(tmp_path / "t").steps) == 1


def test_a_number_that_python_reads_is_noted(tmp_path):
    net = nn.Linear(4, 1)
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    with parity.recording(tmp_path / "t", steps=1):
        output = net(torch.ones(2, 4))
        (output / (1 + output.sum().item())).sum().backward()
        optimizer.step()
    (note,) = read(tmp_path / "t").about["notes"]
    assert "test_record.py" in note
    assert "item() reads a float32 number" in note


def test_a_number_of_a_validation_is_not_noted(tmp_path):
    with parity.recording(tmp_path / "t", steps=2):
        validation()
    assert not read(tmp_path / "t").about["notes"]


KILLED = """
import os, signal, sys, torch
from jaxnet import parity
net = torch.nn.Linear(4, 1)
optimizer = torch.optim.SGD(net.parameters(), 0.1)
with parity.recording(sys.argv[1], steps=9):
    for i in range(9):
        optimizer.zero_grad()
        net(torch.ones(2, 4)).sum().backward()
        optimizer.step()
        if i == 3:
            os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.long  # a Python of its own, to be killed
def test_what_was_whole_before_a_kill_is_read(tmp_path):
    command = [sys.executable, "-c", KILLED, str(tmp_path / "t")]
    assert subprocess.run(command, cwd=Path(__file__).parents[2]).returncode == -9
    trace = read(tmp_path / "t")
    assert [len(step.of("update")) for step in trace] == [2, 2, 2]


def only_forward():
    Net()(torch.ones(2, 4))


def only_backward():
    Net()(torch.ones(2, 4)).sum().backward()


@pytest.mark.parametrize(
    ("program", "why"),
    [
        (Net, "no model was called with gradients switched on"),
        (only_forward, "never called backward"),
        (only_backward, "no optimizer stepped"),
    ],
)
def test_a_program_that_trains_nothing_is_explained(tmp_path, program, why):
    with pytest.raises(parity.TraceError, match=why), parity.recording(tmp_path / "t"):
        program()


@pytest.mark.parametrize("steps", [0, 1.5, True])
def test_steps_that_are_no_number_are_refused(tmp_path, steps):
    with (
        pytest.raises(ValueError, match="accepted is a whole number from 1"),
        parity.recording(tmp_path / "t", steps=steps),
    ):
        pass


def test_an_operation_without_float64_is_named_and_nothing_is_made_up(tmp_path):
    embedding = nn.Embedding(9, 4, sparse=True)
    optimizer = torch.optim.SGD(embedding.parameters(), 0.1)
    with parity.recording(tmp_path / "t", steps=1):
        embedding(torch.tensor([1, 2])).sum().backward()
        optimizer.step()
    step = read(tmp_path / "t").steps[0]
    assert not step.has_double("update:weight")
    assert "sparse" in step.single["update:weight"]


SCRIPT = """
import sys
import torch
from torch import nn

torch.manual_seed(int(sys.argv[1]))
net = nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.5), nn.Linear(3, 1))
optimizer = torch.optim.Adam(net.parameters())
for i in range(int(sys.argv[2])):
    optimizer.zero_grad()
    net(torch.randn(5, 4)).square().mean().backward()
    optimizer.step()
    print("step", i)
sys.exit(0)
"""


def record(path, monkeypatch, words, **options):
    from jaxnet.parity._script import record_script

    monkeypatch.chdir(path)
    (path / "main.py").write_text(SCRIPT)
    return record_script(path / "t", words, **options)


@pytest.mark.long  # the program runs once more, in a Python of its own
def test_a_script_is_recorded_unchanged_and_run_without_recording_too(
    tmp_path, monkeypatch, capsys
):
    check = record(tmp_path, monkeypatch, ["python", "main.py", "7", "9"], steps=2)
    assert check["verdict"] == "same"
    assert "10 checksums" in check["words"]
    trace = read(tmp_path / "t")
    assert len(trace.steps) == 2
    assert trace.about["self_check"] == {key: check[key] for key in ("verdict", "words")}
    assert (check["steps"], check["notes"]) == (2, [])
    assert trace.about["argv"] == ["main.py", "7", "9"]
    assert capsys.readouterr().out.split() == ["step", "0", "step", "1"]  # and it was ended there


def test_a_script_can_go_on(tmp_path, monkeypatch, capsys):
    check = record(
        tmp_path, monkeypatch, ["main.py", "7", "4"], steps=2, go_on=True, self_check=False
    )
    assert check["verdict"] == "not made"
    assert capsys.readouterr().out.count("step") == 4
    assert sys.argv[0] != "main.py"


@pytest.mark.parametrize(
    ("words", "error", "message"),
    [
        (["python", "main.py", "7", "0"], parity.TraceError, "no model was called"),
        (["python", "other.py"], FileNotFoundError, "there is no such script"),
        (["pythonic.py"], FileNotFoundError, "pythonic.py: there is no such script"),
        (["python", "-c", "pass"], ValueError, "accepted are a script and -m"),
        (["python"], ValueError, "no program"),
    ],
)
def test_a_script_that_cannot_be_recorded_is_explained(
    tmp_path, monkeypatch, words, error, message
):
    with pytest.raises(error, match=message):
        record(tmp_path, monkeypatch, words)


def test_nothing_is_silent_about_warnings(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with parity.recording(tmp_path / "t", steps=1):
            plain(Net())


def test_without_torch_the_way_out_is_said(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with (
        pytest.raises(ImportError, match="`jaxnet check` needs no torch"),
        parity.recording(tmp_path / "t"),
    ):
        pass


def test_a_torch_that_is_too_old_is_explained(tmp_path, monkeypatch):
    monkeypatch.setattr(torch, "__version__", "2.3.1")
    with pytest.raises(ImportError, match="needs torch"), parity.recording(tmp_path / "t"):
        pass


@pytest.mark.torch
@pytest.mark.parametrize(("batches", "backwards", "collected"), [(1, 2, 1), (2, 1, 2), (2, 2, 4)])
def test_how_many_batches_a_step_collects(tmp_path, batches, backwards, collected):
    """Several backward() of one batch collect no batches."""
    import torch

    torch.manual_seed(0)
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    data = torch.utils.data.TensorDataset(torch.randn(24, 3))
    with parity.recording(tmp_path / "trace", steps=2):
        for i, (x,) in enumerate(torch.utils.data.DataLoader(data, 4), 1):
            for _ in range(backwards):
                model(x).square().mean().backward()
            if i % batches == 0:
                optimizer.step()
                optimizer.zero_grad()
    step = read(tmp_path / "trace").steps[1]
    assert step.events.count("backward") == batches * backwards
    assert step.collected == min(batches, collected)
    losses = loss_references(read(tmp_path / "trace"))
    assert {loss.batches for loss in losses} == {min(batches, collected)}
