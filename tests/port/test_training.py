"""Whole programs are ported, and both are run: the losses that they print are the same."""

import contextlib
import io
import re
import runpy
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from jax.experimental import io_callback

from jaxnet import nn
from jaxnet.port import port

pytestmark = pytest.mark.libcst
FOLDER = Path(__file__).parent / "loops"
PROGRAMS = sorted(file.stem for file in FOLDER.glob("[a-z]*.py"))
FLOAT32, FLOAT64 = 2e-5, 1e-9  # relative to the number; float64 prints fewer digits of rates
NUMBER = re.compile(r"-?\d+\.\d+(?:e[-+]?\d+)?")


def run(file: Path) -> str:
    """What a program prints."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        runpy.run_path(str(file), run_name="__main__")
    return out.getvalue()


def run_torch(file: Path) -> tuple[str, list[np.ndarray]]:
    """What PyTorch's program prints, and the masks of its dropout."""
    import torch

    masks: list[np.ndarray] = []
    drop = torch.nn.Dropout.forward

    def recorded(module, x):
        y = drop(module, x)
        if module.training:
            masks.append(((y != 0) | (x == 0)).numpy())
        return y

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.nn.Dropout.forward = recorded
    try:
        return run(file), masks
    finally:
        torch.nn.Dropout.forward = drop
        torch.set_num_threads(threads)


def run_ported(file: Path, masks: list[np.ndarray], double: bool) -> str:
    """What the ported program prints, with the masks of PyTorch's."""
    left = iter(masks)
    drop = nn.Dropout.__call__

    def replayed(module, x):
        if not module.training:
            return drop(module, x)
        shape = jax.ShapeDtypeStruct(x.shape, bool)
        mask = io_callback(lambda: next(left), shape, ordered=True)
        return x * (mask.astype(x.dtype) / (1 - module.p))

    lenient = jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard")
    nn.Dropout.__call__ = replayed
    try:
        with lenient[0], lenient[1], jax.enable_x64(double):
            text = run(file)
            jax.effects_barrier()
    finally:
        nn.Dropout.__call__ = drop
    assert next(left, None) is None, "the program drew fewer masks than PyTorch's"
    return text


def same(ours: str, theirs: str, tolerance: float) -> None:
    """Whether two programs printed the same words, and nearly the same numbers."""
    assert NUMBER.sub("?", ours) == NUMBER.sub("?", theirs)
    numbers = [[float(x) for x in NUMBER.findall(text)] for text in (ours, theirs)]
    assert len(numbers[0]) > 2
    np.testing.assert_allclose(*numbers, rtol=tolerance, atol=tolerance / 100)


@pytest.mark.torch
@pytest.mark.parametrize(
    "double",
    [pytest.param(False, marks=pytest.mark.slow), True],
    ids=["float32", "float64"],
)
@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_prints_the_losses_of_pytorch(name, double, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [name])
    text = (FOLDER / f"{name}.py").read_text()
    source, output = tmp_path / "program.py", tmp_path / "ported.py"
    source.write_text(text.replace("# double: ", "") if double else text)
    ported = port(str(source))
    assert ported.marked == ()
    assert "torch" not in re.sub(r"#.*|'[^']*'|\"[^\"]*\"", "", ported.code)
    output.write_text(ported.code)
    theirs, masks = run_torch(source)
    same(run_ported(output, masks, double), theirs, FLOAT64 if double else FLOAT32)


def lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines()]


def test_comments_names_and_docstrings_stay():
    code = port(str(FOLDER / "language_model.py")).code
    for words in (
        "# `clip_grad_norm` helps prevent the exploding gradient problem.",
        "# Starting each batch, we detach the hidden state from how it was previously produced.",
        '"""Wraps hidden states in new Tensors, to detach them from their history."""',
        "optimizer = optim.chain(optim.clip_by_norm(0.25), optim.AdamW(lr=lr, weight_decay=1e-2))",
        'hidden = metrics["hidden"]',
    ):
        assert words in code


LOOP = """
import random
import torch
from torch import nn, optim
from torch.nn import functional as F

torch.manual_seed(0)
x, y = torch.randn(8, 3), torch.randn(8, 1)
model = nn.Sequential(nn.Linear(3, 4), nn.{layer}, nn.Linear(4, 1))
optimizer = optim.SGD(model.parameters(), lr=0.1)
{before}
for epoch in range(3):
    {first}
    optimizer.zero_grad()
    out = model(x)
    {middle}
    loss = F.mse_loss(out, y)
    {seen}
    loss.backward({backward})
    {between}
    optimizer.{step}
    {after}
"""
PLAIN = {
    "layer": "ReLU()", "before": "", "first": "", "middle": "", "seen": "", "backward": "",
    "between": "", "step": "step()", "after": "print(loss.item())",
}  # fmt: skip

MARKED = {
    "a graph that is kept": ({"backward": "retain_graph=True"}, "backward with arguments"),
    "a second backward": ({"between": "F.l1_loss(model(x), y).backward()"}, "several calls"),
    "a gradient that is read": ({"between": "print(model[0].weight.grad)"}, "model"),
    "a gradient that is changed": (
        {"between": "for p in model.parameters(): p.grad *= 2"}, "model"
    ),
    "a closure": ({"step": "step(lambda: loss)"}, "a step with a closure"),
    "a step that may be left out": ({"seen": "if loss > 9: continue"}, "depends on it"),
    "weights that are changed after": (
        {"after": "for p in model.parameters(): p.data.clamp_(-1, 1)"}, "parameters are changed"
    ),
    "a part of the model that is changed": (
        {"after": "model[0].weight.data.fill_(0.0)"}, "a change of the model"
    ),
    "a number while the loss is computed": (
        {"middle": "out = out * int(out.sum() > 0)"}, "run once"
    ),
    "random numbers of Python": ({"middle": "out = out * random.random()"}, "run once"),
    "evaluation mode that stays": (
        {"layer": "Dropout(0.5)", "after": "model.eval()"}, "evaluation mode"
    ),
    "the model in training mode on the host": (
        {"layer": "BatchNorm1d(4)", "after": "print(model(x).sum())"}, "training mode"
    ),
    "a dictionary that goes on changing": ({"after": "best = model.state_dict()"}, "deepcopy"),
    "a second name": ({"after": "best = model"}, "second name"),
    "a second optimizer": (
        {"before": "other = optim.Adam(model.parameters())"}, "two optimizers"
    ),
    "an optimizer of a part": (
        {"before": "optimizer = optim.SGD(model[0].parameters(), lr=0.1)"}, "two optimizers"
    ),
    "a rate from the one before": (
        {"after": "for g in optimizer.param_groups: g['lr'] *= 0.5"}, "set_hyperparams"
    ),
    "a rate that is multiplied": (
        {"after": 'optimizer.param_groups[0]["lr"] *= 0.5'}, "set_hyperparams"
    ),
    "a rate of the loss before the step": (
        {"seen": 'optimizer.param_groups[0]["lr"] = 0.1 * loss.item()'}, "before its step"
    ),
    "a rate beside a scheduler": (
        {"before": "scheduler = optim.lr_scheduler.StepLR(optimizer, 2)",
         "first": "optimizer.param_groups[0]['lr'] = 0.1"}, "the one before"
    ),
    "a part of the model that is multiplied": (
        {"after": "model[0].weight.data *= 0.5"}, "a change of the model"
    ),
    "inputs that are changed after the model has read them": (
        {"middle": "x = x + 1"}, "changes what is read"
    ),
    "an output that is printed and then changed": (
        {"middle": "print(out.mean())\n    out = out * 2"}, "changes what is read"
    ),
    "what is printed beside an output and then changed": (
        {"middle": "print(out.mean(), y.mean())\n    y = y + 1"}, "changes what is read"
    ),
    "a scheduler before the optimizer": (
        {"before": "scheduler = optim.lr_scheduler.StepLR(optimizer, 2)",
         "first": "scheduler.step()"}, "before the step"
    ),
    "a scheduler between the gradients and the step": (
        {"before": "scheduler = optim.lr_scheduler.StepLR(optimizer, 2)",
         "between": "scheduler.step()"}, "before the step"
    ),
    "a plateau before the optimizer": (
        {"before": "scheduler = optim.lr_scheduler.ReduceLROnPlateau(optimizer)",
         "seen": "scheduler.step(loss)"}, "before the step"
    ),
    "a scheduler that is passed over": (
        {"before": "scheduler = optim.lr_scheduler.StepLR(optimizer, 2)",
         "after": "if epoch == 1:\n        continue\n    scheduler.step()"}, "left out"
    ),
    "frozen parameters": ({"before": "model.requires_grad_(False)"}, "optim.frozen"),
    "frozen parameters of a layer": (
        {"before": "for p in model[0].parameters(): p.requires_grad = False"}, "optim.frozen"
    ),
    "a second name before the loop": (
        {"before": "other = model", "after": "print(other(x))"}, "second name"
    ),
    "a weight before the loop": (
        {"before": "w = model[0].weight", "after": "print(w.sum())"}, "second name"
    ),
    "a list of the parameters": (
        {"before": "ps = list(model.parameters())", "after": "print(ps[0].sum())"}, "second name"
    ),
    "a comprehension of the parameters": (
        {"before": "ps = [p for p in model.parameters()]", "after": "print(ps[0].sum())"},
        "second name",
    ),
    "a comprehension of what shares its memory": (
        {"before": "kept = {k: v.detach() for k, v in model.named_parameters()}",
         "after": "print(kept['0.bias'].sum())"}, "second name"
    ),
    "another form of a weight": (
        {"before": "w = model[2].bias.squeeze()", "after": "print(w)"}, "second name"
    ),
    "a function of the weights": (
        {"before": "norm = lambda: model[0].weight.sum().item()", "after": "print(norm())"},
        "second name",
    ),
    "a partial function of the model": (
        {"before": "import functools; again = functools.partial(model)",
         "after": "print(again(x).sum())"}, "second name"
    ),
    "a name within an expression": (
        {"before": "print((w := model[0].weight).sum())", "after": "print(w.sum())"},
        "second name",
    ),
    "a wrapped model": (
        {"before": "other = nn.Sequential(model)", "after": "print(other(x))"}, "second name"
    ),
    "a dictionary of before": (
        {"before": "start = model.state_dict()", "after": "model.load_state_dict(start)"},
        "second name",
    ),
    "a dictionary in a dictionary": (
        {"after": "print(best['m'] if epoch else '')\n    best = {'m': model.state_dict()}"},
        "second name",
    ),
    "a dictionary in a list": (
        {"before": "kept = []", "after": "kept.append(model.state_dict())"}, "second name"
    ),
    "a dictionary that is added to a list": (
        {"before": "kept = []", "after": "kept += [model.state_dict()]"}, "second name"
    ),
    "another use of the optimizer": ({"after": "print(optimizer.state_dict())"}, "optimizer"),
    "a hook": ({"before": "model[0].weight.register_hook(print)"}, "hook"),
    "autocast": ({"middle": "with torch.autocast('cpu'): out = model(x)"}, "around the model"),
}  # fmt: skip


@pytest.mark.parametrize("name", MARKED)
def test_a_loop_that_does_more_is_marked_as_a_whole(name, tmp_path):
    changes, words = MARKED[name]
    file = tmp_path / "loop.py"
    file.write_text(LOOP.format(**{**PLAIN, **changes}))
    ported = port(str(file))
    whole = [note for note in ported.marked if "a training loop that is not ported" in str(note)]
    assert len(whole) == 1, ported.marked
    assert words in whole[0].text
    assert whole[0].line == 12
    code = ported.code
    assert code.index("a training loop that is not ported") < code.index("for epoch in range(3)")
    assert "create(" not in code
    with pytest.raises(NotImplementedError, match="training"):
        exec(compile(code, "loop", "exec"), {"__name__": "__main__"})


def test_the_plain_loop_is_ported(tmp_path):
    file = tmp_path / "loop.py"
    file.write_text(LOOP.format(**PLAIN))
    ported = port(str(file))
    assert ported.marked == ()
    assert "state, metrics = step(state, (x, y))" in lines(ported.code)


PRINTED = {
    "a rate by the pass": {"first": 'optimizer.param_groups[0]["lr"] = 0.1 / (epoch + 1)'},
    "a rate of the last group": {"after": "optimizer.param_groups[-1]['lr'] = 0.05 * loss.item()\n"
                                          "    print(loss.item())"},
    "weights that are read before the next step": {
        "before": "w = model[0].weight\nprint(w.sum().item())",
        "after": "w = model[0].weight\n    print(w.sum().item())",
    },
    "a dictionary that is saved before the next step": {
        "before": "import copy\nstart = copy.deepcopy(model.state_dict())",
        "after": "kept = {'m': model.state_dict(), 'epoch': epoch}\n"
                 "    print(kept['m']['0.bias'].sum().item())\n"
                 "    last = {k: v.clone() for k, v in model.state_dict().items()}\n"
                 "    print(last['0.bias'].sum().item(), start['0.bias'].sum().item())",
    },
    "what looks stays in its order": {
        "before": "n = 0", "first": "n += 1",
        "middle": "print(out.mean().item())\n    print(n, y.mean().item())\n    n += 1",
    },
}  # fmt: skip


@pytest.mark.torch
@pytest.mark.parametrize("name", PRINTED)
def test_loops_print_what_pytorchs_print(name, tmp_path):
    file, output = tmp_path / "loop.py", tmp_path / "ported.py"
    file.write_text(LOOP.format(**{**PLAIN, **PRINTED[name]}))
    ported = port(str(file))
    assert ported.marked == ()
    output.write_text(ported.code)
    same(run_ported(output, [], False), run_torch(file)[0], FLOAT32)


GROUPED = LOOP.replace("optimizer = optim.SGD(model.parameters(), lr=0.1)\n{before}", "{made}")
BY_NAME = "[p for n, p in model.named_parameters() if {}]"
SORTED = """
decay, other = [], []
for n, p in model.named_parameters():
    {}
optimizer = optim.AdamW([{{"params": decay, "weight_decay": 0.5}}, {{"params": other}}], lr=0.1)
"""
TWO = """
optimizer = optim.SGD([{{"params": {}, "weight_decay": 0.5}}, {{"params": {}}}], lr=0.1)
"""
HALVES = "if p.ndim > 1: decay.append(p)\n    else: other.append(p)"
NET = """
class Net(nn.Module):
    def __init__(self, {given}):
        super().__init__()
        self.a = nn.Linear(3, 3)
        {layers}

    def forward(self, x):
        return self.b(self.a(x))

model = Net({value})
{then}
"""


def of_parts(layers="self.b = nn.Linear(3, width)", given="width=1", value="", then=""):
    """A model of two parts, each of which is a group."""
    text = NET.format(layers=layers, given=given, value=value, then=then)
    return text + TWO.format("model.a.parameters()", "model.b.parameters()")


GROUPS = {
    "a choice in the call": SORTED.format("(decay if p.ndim >= 2 else other).append(p)"),
    "branches that add to one list": SORTED.format(
        "if n == '0.weight': decay.append(p)\n    elif p.numel() == 4 and not p.dim() > 1:\n"
        "        decay.append(p)\n    else: other.append(p)"
    ),
    "groups in another order": SORTED.format(
        "if n.split('.')[-1] in ['bias']: other.append(p)\n    else: decay.append(p)"
    ),
    "three lists": """
decay, other, last = [], [], []
for n, p in model.named_parameters():
    if not p.requires_grad:
        continue
    if n.startswith('2'):
        decay.append(p)
    elif len(p.shape) == 1:
        other.append(p)
    else:
        last.append(p)
optimizer = optim.Adam([{"params": decay, "lr": 0.2}, {"params": other}, {"params": last,
                        "betas": (0.5, 0.9)}], 0.1)
""",
    "lists with names": """
matrices = [w for w in model.parameters() if w.requires_grad and w.dim() >= 2]
others = [p for p in model.parameters() if p.requires_grad and p.dim() < 2]
groups = [{"params": others}, {"params": matrices, "weight_decay": 0.5}]
optimizer = optim.AdamW(params=groups, lr=0.1)
""",
    "generators": TWO.format("(p for _, p in model.named_parameters() if p.ndim == 1)",
                             "(q for _, q in model.named_parameters() if q.ndim != 1)"),
    "parts of a model": of_parts(),
    "one group": 'optimizer = optim.SGD([{"params": model.parameters(), "lr": 0.05}], lr=0.1)',
}  # fmt: skip


@pytest.mark.torch
@pytest.mark.parametrize("name", GROUPS)
def test_parameter_groups_train_as_pytorchs(name, tmp_path):
    file, output = tmp_path / "loop.py", tmp_path / "ported.py"
    after = (
        "print(loss.item())\n    for group in optimizer.param_groups:\n"
        "        group['lr'] = 0.1 / (2 + epoch)"
    )
    file.write_text(GROUPED.format(**{**PLAIN, "after": after, "made": GROUPS[name]}))
    ported = port(str(file))
    assert ported.marked == ()
    output.write_text(ported.code)
    same(run_ported(output, [], False), run_torch(file)[0], FLOAT32)


NO_GROUPS = {
    "a parameter in no list": (
        SORTED.format("if p.ndim > 1: decay.append(p)\n    elif 'bias' in n: other.append(p)"),
        "in no group"),
    "a list in no group": (
        SORTED.format(HALVES).replace(', {"params": other}', ""), "a list of parameters"),
    "conditions that are no opposites": (
        TWO.format(BY_NAME.format("p.ndim > 1"), BY_NAME.format("'bias' in n")), "leaves"),
    "conditions that meet": (
        TWO.format(BY_NAME.format("p.ndim > 1"), BY_NAME.format("p.ndim <= 2")), "leaves"),
    "a list that is counted": (
        SORTED.format(HALVES) + "print(len(decay))", "print(len(decay)): decay is read"),
    "a list that grows": (
        SORTED.format(HALVES).replace("optimizer", "decay.append(other.pop())\noptimizer", 1),
        "a list of parameters"),
    "a list that is made in two loops": (
        SORTED.format(HALVES).replace(
            "optimizer", "for p in model.parameters():\n    " + HALVES + "\noptimizer", 1),
        "lists of parameters"),
    "a function that reads a list": (
        SORTED.format(HALVES) + "def count():\n    return len(decay)", "reads"),
    "a loop that does more": (SORTED.format("print(n)\n    " + HALVES), "sorts the parameters"),
    "a condition on values": (
        SORTED.format("if p.abs().max() > 0.5: decay.append(p)\n    else: other.append(p)"),
        "not of names and shapes"),
    "a condition on a parameter itself": (
        SORTED.format("if p is model[0].weight: decay.append(p)\n    else: other.append(p)"),
        "not of names and shapes"),
    "a condition by a function": (
        "def first(n): return n[0] == '0'\n"
        + SORTED.format("if first(n): decay.append(p)\n    else: other.append(p)"),
        "not of names and shapes"),
    "names that change": (
        "small = ['bias']\n"
        + SORTED.format("if n in small: other.append(p)\n    else: decay.append(p)")
        + "small.append('0.weight')", "small may be another later"),
    "names that are another's too": (
        "small = ['bias']\nothers = small\n"
        + SORTED.format("if n in small: other.append(p)\n    else: decay.append(p)"),
        "small may be another later"),
    "a number that changes": (
        "axes = 2\n" + SORTED.format("if p.ndim == axes: decay.append(p)\n    else: "
                                     "other.append(p)") + "axes = 1", "axes may be another"),
    "a model that changes meanwhile": (
        SORTED.format(HALVES).replace("optimizer", "model.append(nn.ReLU())\noptimizer", 1),
        "may change after"),
    "two models": (
        "net = nn.Linear(2, 2)\n" + TWO.format(
            BY_NAME.format("p.ndim > 1"), BY_NAME.format("p.ndim <= 1").replace("model", "net")),
        "several models"),
    "a dictionary that is unpacked": (
        "base = {'lr': 0.1}\n" + SORTED.format(HALVES).replace('"params": other', "**base"),
        "keys"),
    "arguments by position": (
        SORTED.format(HALVES).replace("lr=0.1", "0.1, (0.8, 0.9)"), "by name"),
    "what is computed for all groups": (
        SORTED.format(HALVES).replace("lr=0.1", "lr=random.random()"), "numbers or names"),
    "another kind of list": (
        "optimizer = optim.SGD(list(model.parameters()), lr=0.1)", "something else"),
    "the parameters of a layer": (
        TWO.format("model[0].parameters()", "model[2].parameters()"), "which parameters"),
    "one tensor": (TWO.format("[model[0].weight]", "model[2].parameters()"), "which parameters"),
    "a group that is added": (
        SORTED.format(HALVES) + 'optimizer.add_param_group({"params": []})', "add_param_group"),
    "parts that are not all": (
        of_parts("self.b, self.c = nn.Linear(3, 1), nn.Linear(2, 2)"),
        "['c']: parameters in no group"),
    "parts that share": (
        of_parts("self.b = nn.Linear(3, 3); self.b.weight = self.a.weight"), "not known"),
    "parts that are one": (of_parts("self.b = nn.Sequential(self.a)"), "not known"),
    "parts that share from outside": (
        of_parts(then="model.b.bias = model.a.bias"), "not known"),
    "a part from outside": (of_parts("self.b = b", "b", "nn.Linear(3, 1)"), "not known"),
    "a part that a function gets": (
        "def tie(m): m.b = m.a\n" + of_parts(then="tie(model)"), "not known"),
    "parts that a second name makes share": (
        of_parts("self.b = nn.Linear(3, 3)\n        b = self.b\n        b.bias = self.a.bias"),
        "not known"),
    "parts that a second name outside makes share": (
        of_parts(then="b = model.b\nb.bias = model.a.bias"), "not known"),
    "parts that a function makes share": (
        "def tie(m, n): m.bias = n.bias\n"
        + of_parts("self.b = nn.Linear(3, 3)\n        tie(self.a, self.b)"), "not known"),
    "a rate that changes after the list": (
        "rate = 0.1\nmine = [{'params': model.parameters(), 'lr': rate}]\nrate = 0.2\n"
        "optimizer = optim.SGD(mine, lr=0.3)", "another than in the list"),
    "a rate that is computed before": (
        "mine = [{'params': model.parameters(), 'lr': random.random()}]\nprint(random.random())\n"
        "optimizer = optim.SGD(mine, lr=0.3)", "another than in the list"),
    "a list of groups that changes": (
        "mine = [{'params': model.parameters()}]\nmine[0]['lr'] = 0.5\n"
        "optimizer = optim.SGD(mine, lr=0.3)", "mine is read beside"),
    "a name of the program as that of a parameter": (
        "name = 'a'\n"
        + TWO.format("[p for p in model.parameters() if name == 'a' and p.ndim > 1]",
                     "[p for p in model.parameters() if not (name == 'a' and p.ndim > 1)]")
        + "name = 'b'", "name may be another"),
    "a model with other names": (
        "model = torch.compile(model)\n" + SORTED.format(
            "if n.startswith('0'): decay.append(p)\n    else: other.append(p)"), "wrapped"),
    "parameters that are not trained": (
        of_parts("self.c = nn.Parameter(torch.ones(1), requires_grad=False)\n"
                 "        self.b = nn.Linear(3, 1)").partition("\noptimizer")[0]
        + SORTED.format("if p.requires_grad and p.ndim > 1: decay.append(p)\n"
                        "    else: other.append(p)"), "not of names and shapes"),
    "parameters that are not trained and passed over": (
        of_parts("self.c = nn.Parameter(torch.ones(1), requires_grad=False)\n"
                 "        self.b = nn.Linear(3, 1)").partition("\noptimizer")[0]
        + SORTED.format("if not p.requires_grad: continue\n    " + HALVES), "not be trained"),
    "a part that is made in a loop": (
        of_parts("for n in 'bc': setattr(self, n, nn.Linear(3, 1))"), "not known"),
}  # fmt: skip


@pytest.mark.parametrize("name", NO_GROUPS)
def test_parameter_groups_that_are_not_understood_are_marked(name, tmp_path):
    made, words = NO_GROUPS[name]
    file = tmp_path / "loop.py"
    file.write_text(GROUPED.format(**{**PLAIN, "made": made}))
    ported = port(str(file))
    whole = [note for note in ported.marked if "a training loop that is not ported" in str(note)]
    assert len(whole) == 1, ported.marked
    assert words in whole[0].text
    assert "create(" not in ported.code


@pytest.mark.torch
def test_the_rate_of_one_group_is_read_and_set_alone(tmp_path):
    file, output = tmp_path / "loop.py", tmp_path / "ported.py"
    after = (
        "optimizer.param_groups[-1]['lr'] = 0.05 / (1 + epoch)\n"
        "    print(loss.item(), [optimizer.param_groups[0]['lr'], optimizer.param_groups[1]['lr']])"
    )
    file.write_text(GROUPED.format(**{**PLAIN, "after": after, "made": SORTED.format(HALVES)}))
    ported = port(str(file))
    assert ported.marked == ()
    assert "group=1, lr=0.05 / (1 + epoch)" in ported.code
    output.write_text(ported.code)
    same(run_ported(output, [], False), run_torch(file)[0], FLOAT32)


CALLED = """
import argparse
import torch
from torch import nn, optim
from torch.nn import functional as F

torch.manual_seed(0)
x, y = torch.randn(8, 3), torch.randn(8, 1)
beta = 0.5
seen = []
args = argparse.Namespace(beta=0.5)
cfg = {{"beta": 0.5}}

def cost(out, y):
    {body}

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3, 1)

    def forward(self, x):
        {forward}
        return self.fc(x)

model = Net()
optimizer = optim.SGD(model.parameters(), lr=0.1)
{before}
for epoch in range(4):
    {first}
    optimizer.zero_grad()
    out = model(x)
    loss = {loss}
    loss.backward()
    optimizer.step()
    print(loss.item())
"""
QUIET = {
    "body": "return F.mse_loss(out, y)", "forward": "", "before": "", "first": "",
    "loss": "cost(out, y)",
}  # fmt: skip
READ = "return F.mse_loss(out, y) + {} * out.pow(2).mean()"
ONCE = {
    "a global of a function": (
        {"body": READ.format("beta"), "first": "beta = 0.5 * epoch"}, "cost reads beta"
    ),
    "a global that the function changes": (
        {"body": "global beta; beta += 1; return beta * F.mse_loss(out, y)"}, "global beta"
    ),
    "an attribute that a function reads": (
        {"body": READ.format("args.beta"), "first": "args.beta = 0.5 * epoch"}, "cost reads args"
    ),
    "an element that a function reads": (
        {"body": READ.format("cfg['beta']"), "first": "cfg.update(beta=epoch)"}, "cost reads cfg"
    ),
    "a global of the model": (
        {"forward": "x = beta * x", "first": "beta = 0.5 * epoch"}, "forward reads beta"
    ),
    "a global of a lambda": (
        {"before": "crit = lambda a, b: beta * F.mse_loss(a, b)", "loss": "crit(out, y)",
         "first": "beta = 1.0 + epoch"}, "lambda reads beta"
    ),
    "the number of the pass, in a function": (
        {"body": READ.format("epoch")}, "cost reads epoch"
    ),
    "a tensor that is changed in place": (
        {"before": "scale = torch.ones(1)", "forward": "x = scale * x",
         "first": "scale.fill_(1.0 + epoch)"}, "forward reads scale"
    ),
    "an attribute by its name": (
        {"body": READ.format("args.beta"), "first": "setattr(args, 'beta', 0.5 * epoch)"},
        "cost reads args",
    ),
    "an object of a class without a base": (
        {"before": "class Scale:\n    def of(self, a):\n        seen.append(1)\n"
                   "        return a\nscale = Scale()",
         "body": "return F.mse_loss(scale.of(out), y)"}, "of changes seen"
    ),
    "an attribute": (
        {"loss": "args.beta * cost(out, y)", "first": "args.beta = 1.0 + epoch"}, "args changes"
    ),
    "an attribute that grows": (
        {"loss": "args.beta * cost(out, y)", "first": "args.beta += 1"}, "args changes"
    ),
    "a function that prints": (
        {"body": "print('called'); return F.mse_loss(out, y)"}, "prints while"
    ),
    "a function that keeps a list": (
        {"body": "seen.append(1); return F.mse_loss(out, y)"}, "cost changes seen"
    ),
    "a model that keeps a list": ({"forward": "seen.append(1)"}, "forward changes seen"),
}  # fmt: skip


@pytest.mark.parametrize("name", ONCE)
def test_what_a_compiled_step_would_do_once_is_marked(name, tmp_path):
    changes, words = ONCE[name]
    file = tmp_path / "loop.py"
    file.write_text(CALLED.format(**{**QUIET, **changes}))
    whole = [note for note in port(str(file)).marked if "a training loop" in str(note)]
    assert len(whole) == 1
    assert words in whole[0].text


SAME = {
    "an element of the loss": {
        "loss": "F.mse_loss(out, y) + cfg['beta'] * out.pow(2).mean()",
        "first": "cfg['beta'] = 0.5 * epoch",
    },
    "what is set before": {
        "body": READ.format("args.beta * cfg['beta'] * beta"), "before": "args.beta = beta = 0.25",
    },
    "what a loop sets before": {
        "body": READ.format("cfg['beta']"), "before": "for i in range(3): cfg['beta'] += i",
    },
}  # fmt: skip


@pytest.mark.torch
@pytest.mark.parametrize("name", SAME)
def test_what_stays_from_step_to_step_is_read_once(name, tmp_path):
    file, output = tmp_path / "loop.py", tmp_path / "ported.py"
    file.write_text(CALLED.format(**{**QUIET, **SAME[name]}))
    ported = port(str(file))
    assert ported.marked == ()
    output.write_text(ported.code)
    same(run_ported(output, [], False), run_torch(file)[0], FLOAT32)


def test_a_class_that_only_the_host_uses_is_its_own(tmp_path):
    file = tmp_path / "loop.py"
    meter = "class Meter(object):\n    def add(self, value):\n        print(value)\n"
    meter += "        seen.append(value)\nmeter = Meter()"
    text = CALLED.format(**{**QUIET, "before": meter})
    file.write_text(text.replace("print(loss.item())", "meter.add(loss.item())"))
    ported = port(str(file))
    assert ported.marked == ported.notes == ()


def test_a_layer_of_a_class_that_inherits_is_one_of_the_model(tmp_path):
    file = tmp_path / "loop.py"
    before = "class B(nn.Module):\n    pass\nclass C(B):\n    def __init__(self):\n"
    before += "        super().__init__()\n        self.fc = nn.Linear(3, 3)\n"
    before += "    def forward(self, x):\n        return self.fc(x)\nact = C()"
    text = LOOP.format(**{**PLAIN, "after": "print(act(x).sum())"})
    text = text.replace("model = nn.Sequential(", before + "\nmodel = nn.Sequential(act, ")
    file.write_text(text)
    assert "a part of model" in str(port(str(file)))


def test_a_tensor_that_is_not_trained_is_no_parameter(tmp_path):
    file = tmp_path / "loop.py"
    before = "ones = torch.ones(3).requires_grad_(False)"
    file.write_text(LOOP.format(**{**PLAIN, "before": before}))
    assert port(str(file)).marked == ()


def test_a_layer_of_the_model_that_is_read_beside_it_is_marked(tmp_path):
    file = tmp_path / "loop.py"
    text = LOOP.format(**{**PLAIN, "after": "print(base(x).sum())"})
    file.write_text(text.replace("model = nn.Sequential(nn.Linear(3, 4)",
                                 "base = nn.Linear(3, 4); model = nn.Sequential(base"))  # fmt: skip
    assert port(str(file)).marked
    file.write_text(text.replace("model = nn.Sequential(nn.Linear(3, 4)",
                                 "base = nn.Linear(3, 4)\nmodel = nn.Sequential(base"))  # fmt: skip
    assert "a part of model" in str(port(str(file)))


def test_another_model_may_be_frozen(tmp_path):
    file = tmp_path / "loop.py"
    before = "other = nn.Linear(3, 1)\nfor p in other.parameters(): p.requires_grad = False"
    file.write_text(LOOP.format(**{**PLAIN, "before": before}))
    assert port(str(file)).marked == ()


def test_a_model_that_prints_is_something_to_look_at(tmp_path):
    file = tmp_path / "loop.py"
    file.write_text(CALLED.format(**{**QUIET, "forward": "print('forward')"}))
    ported = port(str(file))
    assert ported.marked == ()
    assert ["prints once" in note.text for note in ported.notes] == [True]


BY_HAND = """
import argparse
import torch
from torch import nn
from torch.nn import functional as F

torch.manual_seed(0)
args = argparse.Namespace(lr=0.1, n=2)
lr, decay = 0.1, 0.05
x, y = torch.randn(8, 3), torch.randn(8, 1)
model = nn.Linear(3, 1)
for epoch in range(4):
    loss = F.mse_loss(model(x), y)
    model.zero_grad()
    loss.backward()
    with torch.no_grad():
        for p in model.parameters():
            {}
    print(loss.item())
    {}
"""


@pytest.mark.torch
@pytest.mark.parametrize(
    "update",
    ["p -= (lr + decay) * p.grad", "p -= lr * decay * p.grad", "p.sub_(p.grad * (lr / args.n))",
     "p.data.add_(p.grad.data, alpha=-args.lr)", "p.data -= args.lr / args.n * p.grad"],
)  # fmt: skip
def test_an_update_by_hand_is_that_of_an_optimizer(update, tmp_path):
    file, output = tmp_path / "loop.py", tmp_path / "ported.py"
    file.write_text(BY_HAND.format(update, ""))
    ported = port(str(file))
    assert ported.marked == ()
    output.write_text(ported.code)
    same(run_ported(output, [], False), run_torch(file)[0], FLOAT32)


@pytest.mark.parametrize(
    ("update", "after"),
    [("p -= lr + decay * p.grad", ""), ("p.sub_(p.grad * lr + decay)", ""),
     ("p.sub_(lr + decay * p.grad)", ""), ("p -= lr * p.grad; print(epoch)", ""),
     ("p -= args.lr * p.grad", "args.lr = args.lr * 0.5"),
     ("p -= args.lr * p.grad", "args.lr *= 0.5"), ("p -= lr * p.grad", "lr *= 0.5"),
     ("p -= args.lr * p.grad", "setattr(args, 'lr', args.lr * 0.5)")],
)  # fmt: skip
def test_an_update_by_hand_that_is_no_step_of_sgd_is_marked(update, after, tmp_path):
    file = tmp_path / "loop.py"
    file.write_text(BY_HAND.format(update, after))
    whole = [note for note in port(str(file)).marked if "a training loop" in str(note)]
    assert [note.line for note in whole] == [12]


def test_gradients_that_add_up_are_marked(tmp_path):
    file = tmp_path / "loop.py"
    text = LOOP.format(**PLAIN).replace("    optimizer.zero_grad()\n", "")
    file.write_text(text)
    assert "add up" in str(port(str(file)))


def test_a_parameter_of_the_loss_that_changes_from_call_to_call_is_not_fixed(tmp_path):
    text = """
import torch
from torch import nn, optim

def train(model, optimizer, x, weight):
    optimizer.zero_grad()
    loss = weight * model(x).pow(2).mean()
    loss.backward()
    optimizer.step()
    return loss.item()

torch.manual_seed(0)
model = nn.Linear(2, 1)
optimizer = optim.SGD(model.parameters(), lr=0.1)
x = torch.ones(4, 2)
for epoch in range(3):
    print(train(model, optimizer, x, 0.5 * epoch))
"""
    file, output = tmp_path / "loop.py", tmp_path / "ported.py"
    file.write_text(text)
    ported = port(str(file))
    assert "a call that trains, within an expression" in str(ported)
    file.write_text(text.replace(
        "    print(train(model, optimizer, x, 0.5 * epoch))",
        "    value = train(model, optimizer, x, 0.5 * epoch)\n    print(value)",
    ))  # fmt: skip
    ported = port(str(file))
    assert ported.marked == ()
    assert "state, metrics = step(state, (weight, x))" in lines(ported.code)
    output.write_text(ported.code)
    same(run_ported(output, [], False), run_torch(file)[0], FLOAT32)


@pytest.mark.parametrize("name", ["dcgan", "actor_critic", "gpt", "forward_forward"])
def test_whole_programs_that_do_more_are_marked(name):
    ported = port(str(FOLDER.parents[1] / "programs" / f"{name}_torch.py"))
    assert ported.marked
    assert "create(" not in ported.code


def test_the_page_shows_what_comes_out(tmp_path):
    page = (FOLDER.parents[2] / "docs" / "pages" / "port.md").read_text()
    section = page[page.index("## A whole program") : page.index("## What it does not write")]
    old, new = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    (tmp_path / "program.py").write_text(old)
    ported = port(str(tmp_path / "program.py"))
    assert ported.marked == ported.notes == ()
    assert ported.code.removeprefix("# From program.py for PyTorch, by jaxnet port.\n") == new


def test_layers_of_another_file_may_depend_on_the_mode(tmp_path):
    text = LOOP.format(**{**PLAIN, "after": "model.eval()"})
    (tmp_path / "loop.py").write_text(text)
    assert port(str(tmp_path / "loop.py")).marked == ()
    (tmp_path / "blocks.py").write_text("from torch import nn\nBlock = nn.BatchNorm1d\n")
    (tmp_path / "loop.py").write_text(
        text.replace("import torch\n", "import torch\nimport blocks\n", 1)
    )
    assert "evaluation mode" in str(port(str(tmp_path / "loop.py")))


def test_dropout_is_something_to_look_at(tmp_path):
    file = tmp_path / "loop.py"
    file.write_text(LOOP.format(**{**PLAIN, "layer": "Dropout(0.5)"}))
    ported = port(str(file))
    assert ported.marked == ()
    assert ["a generator of their own" in note.text for note in ported.notes] == [True]


def test_a_class_may_be_called_as_jaxnets_generator(tmp_path):
    file = tmp_path / "loop.py"
    file.write_text(LOOP.format(**PLAIN).replace(
        "model = nn.Seq", "class Generator(nn.Linear):\n    pass\n\nmodel = nn.Seq"
    ))  # fmt: skip
    code = port(str(file)).code
    assert "rngs = jaxnet.random.Generator(0)" in code
    exec(compile(code, "loop", "exec"), {"__name__": "__main__"})


def test_dropout_in_a_model_of_another_file_is_something_to_look_at(tmp_path):
    model = "import torch.nn as nn\n\n\nclass Net(nn.Module):\n    def __init__(self):\n"
    model += "        super().__init__()\n        self.fc = nn.Linear(3, 2)\n"
    model += "        self.rest = nn.{}\n\n    def forward(self, x):\n"
    model += "        return self.rest(self.fc(x))\n"
    program = "import torch\nfrom torch import nn, optim\n\nfrom model import Net\n\n"
    program += "x, y = torch.randn(8, 3), torch.randint(0, 2, (8,))\nnet = Net()\n"
    program += "optimizer = optim.SGD(net.parameters(), lr=0.1)\nfor _ in range(3):\n"
    program += "    optimizer.zero_grad()\n    loss = nn.functional.cross_entropy(net(x), y)\n"
    program += "    loss.backward()\n    optimizer.step()\n    print(loss.item())\n"
    (tmp_path / "main.py").write_text(program)
    for layer, lines in (("Dropout(0.2)", [8]), ("Tanh()", [])):
        (tmp_path / "model.py").write_text(model.format(layer))
        found = port(str(tmp_path / "main.py"))
        assert not found.marked
        told = [note.line for note in found.notes if "draws numbers in training" in note.text]
        assert told == lines
