"""What a PyTorch user types first works, or is answered by what to write here."""

import copy
import importlib
import inspect
import pickle
import re

import jax
import jax.numpy as jnp
import pytest

from jaxnet import _hints as hints
from jaxnet import data, nn, optim, train
from jaxnet.random import Generator


def linear():
    return nn.Linear(3, 2, rngs=Generator(0))


class OnlyForward(nn.Module):
    def forward(self, x):
        return x


def freeze(p):
    p.requires_grad = False


SGD = optim.SGD(lr=0.1)
REFLEXES = [
    # modules
    (lambda: linear().cuda(), AttributeError, r"jax.device_put\(state, jax.devices"),
    (lambda: linear().cpu(), AttributeError, r'jax.devices\("cpu"\)'),
    (lambda: linear().to("cuda"), ValueError, r"to: 'cuda'; .*jax.device_put\(state, jax.devices"),
    (lambda: linear().to(jnp.int32), ValueError, r"accepted is a floating dtype"),
    (lambda: linear().register_full_backward_hook(1), AttributeError, r"jax.grad returns the"),
    (lambda: linear().double(), ValueError, r'jax.config.update\("jax_enable_x64", True\)'),
    (lambda: linear().requires_grad_(False), AttributeError, r"optim.frozen\(\)"),
    (lambda: linear().zero_grad(), AttributeError, r"nothing to reset"),
    (lambda: linear().forward(jnp.ones(3)), AttributeError, r"call the module itself, model\(x\)"),
    (lambda: linear().nothing, AttributeError, r"^'Linear' object has no attribute 'nothing'$"),
    (lambda: OnlyForward()(1), NotImplementedError, r"OnlyForward .*rename its forward to"),
    (
        lambda: nn.Linear(3, 2, bias=False),
        TypeError,
        r"Linear: rngs is missing.* Linear\(3, 2, bias=..., rngs=Generator\(0\)\)",
    ),
    # parameters
    (lambda: freeze(linear().weight), AttributeError, r"'requires_grad'; .*optim.frozen\(\)"),
    (lambda: linear().weight.requires_grad, AttributeError, r"optim.frozen\(\)"),
    (lambda: linear().weight.grad, AttributeError, r"jax.grad\(f\)\(params\)"),
    (lambda: linear().weight.data, AttributeError, r"p\[...\] to read"),
    (lambda: linear().weight.numel(), AttributeError, r"p.size"),
    (lambda: linear().weight.fill_(1), AttributeError, r"nn.init.constant_\(p, value\)"),
    # names of torch.optim
    (lambda: optim.SparseAdam(lr=0.1), AttributeError, r"never sparse; write optim.Adam"),
    (lambda: optim.lr_scheduler.StepLR, AttributeError, r"write optim.StepLR for torch"),
    (lambda: optim.LRScheduler, AttributeError, r"'jaxnet.optim' has .*write optim.Schedule"),
    (lambda: optim.swa_utils, AttributeError, r"write optim.AveragedModel for torch"),
    (lambda: optim.get_ema_multi_avg_fn(), AttributeError, r"write optim.get_ema_avg_fn"),
    (lambda: optim.get_swa_multi_avg_fn(), AttributeError, r"write optim.get_swa_avg_fn"),
    (lambda: optim.nothing, AttributeError, r"^module 'jaxnet.optim' has no attribute 'nothing'$"),
    # optimizers
    (
        lambda: optim.SGD(linear().parameters(), lr=0.1),
        TypeError,
        r"SGD: the parameters .*optim.SGD\(lr=0.1\) and state = train.create\(model, optimizer\)",
    ),
    (lambda: optim.Adam(linear().parameters()), TypeError, r"optimizer = optim.Adam\(\) and state"),
    (lambda: optim.Adam(list(linear().parameters())), TypeError, r"Adam: the parameters are not"),
    (lambda: optim.AdamW([{"params": []}], lr=1), TypeError, r"optim.groups\(\[\(pattern, opt"),
    (lambda: optim.LBFGS(linear()), TypeError, r"LBFGS: the parameters are not given"),
    (lambda: optim.SGD(params=linear().parameters(), lr=1), TypeError, r"optim.SGD\(lr=1\)"),
    (lambda: SGD.step(), AttributeError, r"state, metrics = step\(state, batch\)"),
    (lambda: SGD.zero_grad(), AttributeError, r"nothing to reset"),
    (lambda: SGD.state_dict(), AttributeError, r"optim.optimizer_state_dict\("),
    (lambda: SGD.load_state_dict({}), AttributeError, r"optim.load_optimizer_state_dict\("),
    (lambda: SGD.param_groups[0]["lr"], AttributeError, r"optim.set_hyperparams\("),
    (lambda: optim.GradScaler(SGD).scale(1.0), AttributeError, r"loss_scale=optim.loss_scale"),
    (lambda: SGD.nothing, AttributeError, r"^'Optimizer' object has no attribute 'nothing'$"),
    # schedules
    (lambda: optim.StepLR(SGD, 3).step(), AttributeError, r"schedule.apply\(opt_state, epoch\)"),
    (lambda: optim.StepLR(SGD, 3).get_last_lr(), AttributeError, r"schedule.lr\(step\)"),
    (lambda: optim.StepLR(SGD, 3).state_dict(), AttributeError, r"keeps no state"),
    (lambda: nn.attention.SDPBackend.FLASH_ATTENTION, AttributeError,
     r"^class 'SDPBackend' has no attribute 'FLASH_ATTENTION'; .*SDPBackend.CUDNN_ATTENTION"),
    # modules of Python
    (lambda: nn.utils.clip_grad_norm_([], 1.0), AttributeError, r"optim.clip_grad_norm_\(grads"),
    (lambda: nn.utils.skip_init(nn.Linear, 3, 2), AttributeError, r"layer.load_state_dict\("),
    (lambda: nn.utils.nothing, AttributeError, r"^module 'jaxnet.nn.utils' has .* 'nothing'$"),
    (lambda: data.IterDataPipe, AttributeError, r"a data.IterableDataset"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("reflex", "error", "message"), REFLEXES, ids=[str(i) for i in range(len(REFLEXES))]
)
def test_a_reflex_is_answered_by_what_to_write(reflex, error, message):
    with pytest.raises(error, match=message):
        reflex()


@pytest.mark.parametrize(
    ("owner", "table"),
    [
        (linear(), hints.MODULE),
        (linear().weight, hints.PARAMETER),
        (SGD, hints.OPTIMIZER),
        (optim.StepLR(SGD, 3), hints.SCHEDULE),
        (nn.attention.SDPBackend.MATH, hints.SDP_BACKEND),
    ],
    ids=["module", "parameter", "optimizer", "schedule", "backend"],
)
def test_what_has_a_hint_is_not_there(owner, table):
    """Otherwise the hint would never be seen, and hasattr would say what is not so."""
    for name in table:
        assert not hasattr(owner, name), name
    if table is not hints.PARAMETER:  # flax's variables hand __deepcopy__ on to their arrays
        assert type(copy.deepcopy(owner)) is type(owner)
    if table in (hints.MODULE, hints.PARAMETER):
        assert type(pickle.loads(pickle.dumps(owner))) is type(owner)


@pytest.mark.torch
def test_every_method_of_torchs_modules_is_here_or_answered():
    import torch

    no_methods = {"T_destination", "call_super_init", "dump_patches"}
    theirs = {name for name in dir(torch.nn.Module) if not name.startswith("_")} - no_methods
    layer = linear()
    assert [n for n in sorted(theirs) if not hasattr(layer, n) and n not in hints.MODULE] == []


TABLES = {module: {**hints.NAMES.get(module, {}), **hints.NO_USE.get(module, {})}
          for module in [*hints.NAMES, *hints.NO_USE]}  # fmt: skip


@pytest.mark.parametrize("module", TABLES)
def test_names_of_torch_that_a_module_has_not_are_answered(module):
    there = importlib.import_module(module)
    assert not set(dir(there)) & set(TABLES[module])
    for name, words in TABLES[module].items():
        message = f"^module '{module}' has no attribute '{name}'; in jaxnet, {re.escape(words)}$"
        assert not hasattr(there, name)
        with pytest.raises(AttributeError, match=message):
            getattr(there, name)
        with pytest.raises(ImportError, match=message):
            exec(f"from {module} import {name}")


@pytest.mark.parametrize("module", TABLES)
def test_other_names_raise_pythons_errors(module):
    there = importlib.import_module(module)
    with pytest.raises(AttributeError, match=f"^module '{module}' has no attribute 'nothing'$"):
        there.nothing
    with pytest.raises(ImportError, match=f"cannot import name 'nothing' from '{module}'"):
        exec(f"from {module} import nothing")
    names: dict = {}
    exec(f"from {module} import *", names)
    assert not {"TYPE_CHECKING", "module_getattr"} & set(dir(there))
    assert names.keys() - {"__builtins__"} == set(there.__all__)


def test_casts_and_state_dicts_are_methods_as_in_torch():
    layer = linear()
    before = layer.state_dict()
    assert layer.half() is layer
    assert layer.weight.dtype == jnp.float16
    assert layer.bfloat16().to("float16").weight.dtype == jnp.float16
    assert layer.float().weight.dtype == jnp.float32
    norm = nn.BatchNorm1d(2).half()
    assert [str(b.dtype) for b in norm.buffers()] == ["float16", "float16", "int32"]
    assert list(layer.state_dict(prefix="fc.")) == ["fc.weight", "fc.bias"]
    assert layer.load_state_dict(before).missing_keys == []
    assert layer.load_state_dict({}, strict=False).missing_keys == ["weight", "bias"]
    with pytest.raises(ValueError, match="weight: missing"):
        layer.load_state_dict({"bias": before["bias"]})


def test_a_module_may_define_what_has_a_hint():
    class Own(nn.Module):
        def __init__(self):
            self.scale = nn.Parameter(jnp.ones(2))

        def forward(self, x):
            return x * self.scale[...]

        def __call__(self, x):
            return self.forward(x)

        def to(self, device):
            return device

    model = Own()
    assert model.to("here") == "here"
    assert model(jnp.ones(2)).tolist() == [1.0, 1.0]


@pytest.mark.parametrize(
    "layer",
    [
        lambda g: nn.BatchNorm2d(6, rngs=g),
        lambda g: nn.LayerNorm(6, rngs=g),
        lambda g: nn.ReLU(rngs=g),
        lambda g: nn.Sigmoid(rngs=g),
        lambda g: nn.Dropout(0.5, rngs=g),
        lambda g: nn.MaxPool2d(2, rngs=g),
    ],
)
def test_layers_that_draw_nothing_accept_rngs(layer):
    generator = Generator(0)
    assert isinstance(layer(generator), nn.Module)
    assert generator.uniform(0, 1, (1,)) == Generator(0).uniform(0, 1, (1,))


def test_a_module_of_ones_own_that_takes_no_rngs_refuses_them():
    class Own(nn.Module):
        def __init__(self, width):
            self.width = width

    with pytest.raises(TypeError, match="unexpected keyword argument 'rngs'"):
        Own(3, rngs=Generator(0))

    class Derived(nn.BatchNorm2d):
        pass

    assert Derived(3, rngs=Generator(0)).num_features == 3


def test_the_learning_rate_by_position_may_be_a_number_or_an_array():
    for lr in (0.1, jnp.float32(0.1)):
        optimizer = optim.SGD(lr)
        state = train.create(linear(), optimizer)
        assert round(float(optim.get_hyperparams(state.opt_state)["lr"]), 6) == 0.1
    assert list(inspect.signature(optim.SGD).parameters)[:2] == ["lr", "momentum"]
    grads = jax.jit(lambda lr: optim.SGD(lr).init({"w": jnp.ones(1)}).hyperparams["lr"])(0.5)
    assert float(grads) == 0.5
