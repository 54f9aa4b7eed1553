"""What torch's own optimizers do in float64, at once and operation by operation."""

import numpy as np
import pytest

from jaxnet import parity
from jaxnet.parity import _record
from jaxnet.parity._trace import read
from jaxnet.parity._wide_optimizer import KINDS, WideStep

pytestmark = pytest.mark.torch
STEPS = 3
OPTIMIZERS = {
    "SGD": ("SGD", {}),
    "SGD, momentum": ("SGD", {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1}),
    "SGD, dampening": ("SGD", {"momentum": 0.9, "dampening": 0.5, "maximize": True}),
    "Adam": ("Adam", {}),
    "Adam, AMSGrad": ("Adam", {"amsgrad": True, "weight_decay": 0.1}),
    "Adam, foreach": ("Adam", {"foreach": True}),
    "AdamW": ("AdamW", {"betas": (0.8, 0.95)}),
    "RMSprop": ("RMSprop", {"centered": True, "momentum": 0.9}),
    "Adagrad": ("Adagrad", {"lr_decay": 0.1}),
    "Adadelta": ("Adadelta", {"rho": 0.8}),
    "Adamax": ("Adamax", {}),
    "RAdam": ("RAdam", {"betas": (0.5, 0.6)}),
}


def train(name, count=STEPS, **also):
    """Two layers with one weight, and a parameter that gets no gradient, in two groups."""
    import torch

    kind, given = OPTIMIZERS[name]
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Tanh(), torch.nn.Linear(4, 4))
    model[2].weight = model[0].weight
    model.register_parameter("unused", torch.nn.Parameter(torch.ones(3)))
    vectors = [p for p in model.parameters() if p.dim() == 1]
    groups = [{"params": [model[0].weight]}, {"params": vectors, "lr": 3e-2}]
    optimizer = getattr(torch.optim, kind)(groups, lr=1e-2, **{**given, **also})
    rows = torch.utils.data.TensorDataset(torch.randn(count * 5, 4), torch.randn(count * 5, 4))
    for x, y in torch.utils.data.DataLoader(rows, 5):
        optimizer.zero_grad()
        torch.nn.functional.mse_loss(model(x), y).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()
    return model.state_dict()


def arrays(folder):
    found = {}
    for step in read(folder).steps:
        for name, array in step._loaded().items():
            found[step.index, name] = array
    return found


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_at_once_is_operation_by_operation(tmp_path, monkeypatch, name):
    seen = []

    def of(*args):
        seen.append(made := WideStep.of(*args))
        return made

    monkeypatch.setattr(_record, "WideStep", type("Watched", (), {"of": staticmethod(of)}))
    with parity.recording(tmp_path / "once", steps=STEPS):
        weights = train(name)
    assert len(seen) == STEPS
    assert None not in seen
    monkeypatch.setattr(
        _record, "WideStep", type("Unknown", (), {"of": staticmethod(lambda *_: None)})
    )
    with parity.recording(tmp_path / "each", steps=STEPS):
        other = train(name)
    bare = train(name)
    for key, value in bare.items():
        np.testing.assert_array_equal(weights[key].numpy(), value.numpy())
        np.testing.assert_array_equal(other[key].numpy(), value.numpy())
    once, each = arrays(tmp_path / "once"), arrays(tmp_path / "each")
    assert once.keys() == each.keys()
    assert any(name.startswith("update:") and name.endswith("~") for _, name in once)
    for key, array in each.items():
        np.testing.assert_array_equal(once[key], array, err_msg=str(key))
    for first, second in zip(
        read(tmp_path / "once").steps, read(tmp_path / "each").steps, strict=True
    ):
        assert first.single == second.single
        assert first.same == second.same


def test_every_optimizer_that_is_made_at_once_is_compared():
    assert {kind for kind, _ in OPTIMIZERS.values()} == {*KINDS}


@pytest.mark.parametrize("way", ["closure", "tensor", "hook", "subclass", "another"])
def test_what_has_to_be_seen_is_seen(tmp_path, monkeypatch, way):
    import torch

    torch.manual_seed(0)
    made = []

    def of(*args):
        made.append(WideStep.of(*args))
        return made[-1]

    monkeypatch.setattr(_record, "WideStep", type("Watched", (), {"of": staticmethod(of)}))
    model = torch.nn.Linear(3, 2)
    rate = torch.tensor(1e-2) if way == "tensor" else 1e-2

    class Own(torch.optim.SGD):
        pass

    cls = {"subclass": Own, "another": torch.optim.NAdam, "tensor": torch.optim.Adam}
    optimizer = cls.get(way, torch.optim.SGD)(model.parameters(), lr=rate)
    if way == "hook":
        optimizer.register_step_pre_hook(lambda *_: None)
    rows = torch.utils.data.TensorDataset(torch.randn(10, 3), torch.randn(10, 2))
    with parity.recording(tmp_path / "trace", steps=2):
        for x, y in torch.utils.data.DataLoader(rows, 5):

            def closure(x=x, y=y):
                optimizer.zero_grad()
                loss = torch.nn.functional.mse_loss(model(x), y)
                loss.backward()
                return loss

            if way == "closure":
                optimizer.step(closure)
            else:
                closure()
                optimizer.step()
    assert made == [None] * 2
    for step in read(tmp_path / "trace").steps:
        assert step.has_double("update:weight")


def test_a_step_that_raises_leaves_torch_seen(tmp_path):
    """The next step is recorded with its calls, and torch's modes are as they were."""
    import torch

    torch.manual_seed(0)
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    modes = [torch._C._len_torch_function_stack(), torch._C._len_torch_dispatch_stack()]
    rows = torch.utils.data.TensorDataset(torch.randn(10, 3), torch.randn(10, 2))

    def run():
        for number, (x, y) in enumerate(torch.utils.data.DataLoader(rows, 5)):
            optimizer.zero_grad()
            torch.nn.functional.mse_loss(model(x), y).backward()
            if number:
                optimizer.param_groups[0]["betas"] = ("a", "b")
            optimizer.step()

    with pytest.raises(TypeError), parity.recording(tmp_path / "trace", steps=2):
        run()
    assert [torch._C._len_torch_function_stack(), torch._C._len_torch_dispatch_stack()] == modes
    (step,) = read(tmp_path / "trace").steps
    assert step.has_double("state:weight.exp_avg")
