"""Files of a recorded model alone, as `jaxnet port` writes them: tests jaxnet/parity/_recorded.py.

The torch programs here are recorded as a user's are, and the ported files are what `jaxnet port`
writes of them, so that the two sides of a check are never made by one hand.
"""

import json
import re
import shutil
import sys

import pytest

from jaxnet.__main__ import main
from jaxnet.parity import check
from jaxnet.parity._constructed import only_constructs
from jaxnet.parity._port import SubjectError
from tests.marks import slow_among

pytestmark = [pytest.mark.libcst, pytest.mark.torch, pytest.mark.long]

HEAD = """
import dataclasses
import torch
from torch import nn, optim
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset
"""

# Each has its own way to be built, to compute its loss and to update.
PROGRAMS = {
    # Classes as arguments, dropout, batch norm, a criterion, a schedule by epochs, clipping.
    "blocks": """
class Block(nn.Module):
    def __init__(self, width, act=nn.ReLU):
        super().__init__()
        self.fc = nn.Linear(width, width)
        self.norm = nn.BatchNorm1d(width)
        self.act = act()

    def forward(self, x):
        return x + self.act(self.norm(self.fc(x)))


class Unused(nn.Module):
    def forward(self, x):
        return torch.unique(x)


class Net(nn.Module):
    def __init__(self, block, hidden=16, depth=2, verbose=False):
        super().__init__()
        self.stem = nn.Linear(12, hidden)
        self.blocks = nn.Sequential(*[block(hidden) for _ in range(depth)])
        self.drop = nn.Dropout(0.1)
        self.head = nn.Linear(hidden, 5)
        self.verbose = verbose

    def forward(self, x):
        if self.verbose:
            return torch.unique(x)
        return self.head(self.drop(self.blocks(self.stem(torch.flatten(x, 1)))))


torch.manual_seed(1)
x, y = torch.randn(24, 3, 4), torch.randint(0, 5, (24,))
model = Net(Block, hidden=8)
optimizer = optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
scheduler = optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.5)
criterion = nn.CrossEntropyLoss(label_smoothing=0.1)
for _ in range(3):
    for data, target in DataLoader(TensorDataset(x, y), batch_size=12, shuffle=True):
        optimizer.zero_grad()
        criterion(model(data), target).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()
    scheduler.step()
""",
    # A configuration, weights that are changed after they are made, a loss of the program's own,
    # data that is computed of the batch, accumulated gradients, groups with and without decay.
    "configured": """
@dataclasses.dataclass
class Config:
    inputs: int = 6
    hidden: int = 4
    act: object = F.gelu


class Net(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.fc = nn.Linear(config.inputs, config.hidden)
        self.out = nn.Linear(config.hidden, 1)
        self.act = config.act

    def forward(self, x):
        return self.out(self.act(self.fc(x)))


class Robust(nn.Module):
    def __init__(self, delta):
        super().__init__()
        self.delta = delta

    def forward(self, output, target):
        return F.huber_loss(output, target, delta=self.delta)


def weights_init(m):
    if isinstance(m, nn.Linear):
        nn.init.xavier_normal_(m.weight)


torch.manual_seed(2)
x = torch.randn(32, 2, 3)
model = Net(Config(hidden=8))
model.apply(weights_init)
criterion = Robust(0.5)
optimizer = optim.AdamW(
    [
        {"params": [model.fc.weight, model.out.weight], "weight_decay": 0.1},
        {"params": [model.fc.bias, model.out.bias], "weight_decay": 0.0},
    ],
    lr=1e-2,
)
for step in range(3):
    for half in range(2):
        rows = x[8 * half + step : 8 * half + step + 8].flatten(1)
        loss = criterion(model(rows), rows.sum(1, keepdim=True)) / 2
        loss += 1e-2 * model.fc.weight.pow(2).sum() / 2
        loss.backward()
    torch.nn.utils.clip_grad_value_(model.parameters(), 0.05)
    optimizer.step()
    optimizer.zero_grad()
""",
    # A loss from step to step of another form, and a part of the model called by itself.
    "episodes": """
class Policy(nn.Module):
    def __init__(self, *sizes, **more):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(sizes[0], sizes[1]), nn.Tanh())
        self.head = nn.Linear(sizes[1], more["actions"])

    def forward(self, x):
        return F.log_softmax(self.head(self.body(x)), dim=-1)


torch.manual_seed(3)
model = Policy(4, 8, actions=2)
optimizer = optim.RMSprop(model.parameters(), lr=1e-2)
for episode in range(3):
    kept, state = [], torch.randn(4)
    for _ in range(2 + episode):
        log_p = model(state)
        kept.append(log_p[int(torch.randint(0, 2, ()))])
        state = state + 0.1 * model.body(state).detach()[:4]
    returns = torch.arange(1.0, len(kept) + 1)
    loss = -(torch.stack(kept) * returns).sum()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
""",
    # An update by hand, and a line that is not supported on the way.
    "marked": """
class Net(nn.Module):
    def __init__(self, table):
        super().__init__()
        self.fc = nn.Linear(3, 2)
        self.table = table

    def forward(self, x):
        return self.fc(x) * len(torch.unique(x))


torch.manual_seed(4)
model = Net(object())
for _ in range(2):
    loss = model(torch.randn(5, 3)).pow(2).mean()
    loss.backward()
    with torch.no_grad():
        for p in model.parameters():
            p -= 0.1 * p.grad
            p.grad = None
""",
    "two models": """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3, 3)

    def forward(self, x):
        return self.fc(x)


torch.manual_seed(5)
first, second = Net(), Net()
optimizer = optim.SGD([*first.parameters(), *second.parameters()], lr=0.1)
for _ in range(2):
    second(first(torch.randn(4, 3))).pow(2).mean().backward()
    optimizer.step()
    optimizer.zero_grad()
""",
    # The loss takes what the model keeps while it computes.
    "inside": """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3, 3)

    def forward(self, x):
        self.kept = self.fc(x)
        return self.kept.relu()


torch.manual_seed(6)
model = Net()
optimizer = optim.SGD(model.parameters(), lr=0.1)
for _ in range(2):
    output = model(torch.randn(4, 3))
    (output.pow(2).mean() + (2 * model.kept).mean()).backward()
    optimizer.step()
    optimizer.zero_grad()
""",
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The folder of a program with its trace, and what jaxnet port writes of it."""
    folders = {}
    places = list(sys.path)  # to which the folder of a checked file is added

    def of(name):
        if name not in folders:
            from jaxnet.parity._script import record_script
            from jaxnet.port import port

            folder = folders[name] = tmp_path_factory.mktemp("recorded")
            source = folder / "main.py"
            source.write_text(HEAD + PROGRAMS[name])
            record_script(folder / "trace", [str(source)], 3, self_check=False)
            # The statements of the script itself are training, which is not ported.
            (folder / "net.py").write_text(HEAD + PROGRAMS[name].partition("torch.manual_seed")[0])
            (folder / "net_jax.py").write_text(port(str(folder / "net.py")).code)
        return folders[name]

    yield of
    sys.path[:] = places
    for name, module in [*sys.modules.items()]:
        file = str(getattr(module, "__file__", None))
        if any(file.startswith(str(folder)) for folder in folders.values()) or "out_jax" in name:
            del sys.modules[name]


def missing(report):
    (coverage,) = (c for kind, c in report.coverage.items() if kind.startswith("classes"))
    return coverage.missing


def test_a_ported_file_is_the_recorded_program(made, usual_settings):
    folder = made("blocks")
    report = check(folder / "trace", str(folder / "net_jax.py"))
    assert report.verdict == "same", report
    # By itself the port makes torch's initial weights, and updates are compared.
    levels = {(result.level, result.site.partition(":")[0]) for result in report.results}
    assert {("preflight", "before"), ("layer", "update"), ("step", "update")} <= levels
    assert {*report.coverage["steps"].seen} >= {"0", "1", "2"}
    assert not report.settings
    assert not [note for note in report.notes if "initial weights" in note]
    assert [note for note in report.notes if "Net with what it calls" in note]
    said = missing(report)
    assert "nothing of it is called" in said["Unused"]
    assert re.fullmatch(r"line \d+ is not reached: .*, and 1 more", said["Net.__call__"])
    assert report.horizon.equal_to == 3


# What is changed in the ported file, and the places where the check must find it.
FAULTS = {
    "a constant": ("nn.BatchNorm1d(width)", "nn.BatchNorm1d(width, eps=1e-3)", "blocks.0.norm"),
    "a skip": ("return x + self.act(", "return 2 * x + self.act(", "blocks.0"),
    "dropout": ("nn.Dropout(0.1)", "nn.Dropout(0.2)", "drop"),
    "the order of layers": (
        "        self.stem = nn.Linear(12, hidden, rngs=rngs)\n",
        "        nn.Linear(12, hidden, rngs=rngs)\n        self.stem = nn.Linear(12, hidden, "
        "rngs=rngs)\n",
        "stem.weight",
    ),
}


@pytest.mark.parametrize("fault", slow_among(FAULTS, ["a constant", "a skip"]))
def test_a_fault_in_the_file_is_found_at_its_place(made, fault, usual_settings):
    folder, (right, wrong, place) = made("blocks"), FAULTS[fault]
    text = (folder / "net_jax.py").read_text()
    assert right in text
    (folder / "faulty.py").write_text(text.replace(right, wrong))
    report = check(folder / "trace", str(folder / "faulty.py"))
    assert report.verdict == "different"
    assert report.exit_status == 1
    assert place in {result.place for finding in report.findings for result in finding.results}


@pytest.mark.slow
def test_configuration_own_loss_accumulation_and_groups(made, usual_settings):
    folder = made("configured")
    report = check(folder / "trace", str(folder / "net_jax.py"))
    assert report.verdict == "same", report
    assert any(r.level == "step" and r.site.startswith("update:") for r in report.results)
    (note,) = [note for note in report.notes if "initial weights" in note]
    assert "the program changed after it had built the model" in note
    assert "bits of torch's" in note  # of the constructor, before that change
    assert "updates" not in report.coverage
    # The loss of the program's own is computed by the port's class.
    text = (folder / "net_jax.py").read_text()
    (folder / "net_lost.py").write_text(text.replace("delta=self.delta", "delta=2 * self.delta"))
    assert check(folder / "trace", str(folder / "net_lost.py")).verdict == "different"


@pytest.mark.slow
def test_steps_of_several_forms(made, usual_settings):
    folder = made("episodes")
    report = check(folder / "trace", str(folder / "net_jax.py"))
    assert report.verdict == "same", report
    assert {result.step for result in report.results} == {0, 1, 2}
    assert any(r.level == "step" and r.site.startswith("update:") for r in report.results)


def test_a_trace_says_how_its_model_was_built(made):
    calls = {
        name: json.loads((made(name) / "trace" / "trace.json").read_text())["constructed"]
        for name in ("blocks", "configured", "episodes", "marked")
    }
    assert calls["blocks"][""]["call"] == "Net(block=Block, hidden=8)"
    assert calls["blocks"]["criterion"]["call"] == "nn.CrossEntropyLoss(label_smoothing=0.1)"
    assert calls["configured"][""]["call"] == "Net(config=Config(inputs=6, hidden=8, act=F.gelu))"
    assert calls["configured"]["criterion"]["call"] == "Robust(delta=0.5)"
    assert calls["episodes"][""]["call"] == "Policy(4, 8, actions=2)"
    assert calls["marked"][""]["call"] == ""
    assert calls["marked"][""]["unwritten"] == "table: builtins.object"


def test_what_the_trace_does_not_say_the_user_says(made, usual_settings):
    folder = made("marked")
    with pytest.raises(SubjectError, match=r"has no Python text: table: .*--model \"Net\(\.\.\.\)"):
        check(folder / "trace", str(folder / "net_jax.py"))
    with pytest.raises(SubjectError, match=r"accepted is a constructor's call with names of net"):
        check(folder / "trace", f"{folder / 'net_jax.py'}:Net(table=nowhere)")
    with pytest.raises(SubjectError, match=r"net_jax.py:\d+: the recorded run comes to .*unique"):
        check(folder / "trace", f"{folder / 'net_jax.py'}:Net(table=None)")
    text = (folder / "net_jax.py").read_text()
    mark = text[text.index("        raise NotImpl") : text.index("        return self.fc")]
    mended = text.replace(mark, "").replace("ops.unique(x)", "x.reshape(-1)")
    (folder / "mended.py").write_text(mended)
    report = check(folder / "trace", f"{folder / 'mended.py'}:Net(table=None)")
    assert report.verdict == "same", report
    assert [note for note in report.notes if "without an optimizer" in note]
    assert "updates" in report.coverage


WRONG = {
    "two models": ("net_jax.py", r"trains the models first, second; accepted is a program of one"),
    "inside": ("net_jax.py", r"loss is computed from forward:fc#0, which a model computes inside"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_checked_says_why_and_what_to_do(made, name, usual_settings):
    file, words = WRONG[name]
    with pytest.raises(SubjectError, match=words) as raised:
        check(made(name) / "trace", str(made(name) / file))
    assert "FILE.py:make" in str(raised.value)


@pytest.mark.slow
def test_a_file_without_the_recorded_class(made, usual_settings):
    folder = made("blocks")
    (folder / "other.py").write_text(
        "from jaxnet import nn\n\n\nclass Nets(nn.Module):\n    pass\n"
    )
    with pytest.raises(SubjectError, match=r"recorded model is Net \(.*file's classes are Nets"):
        check(folder / "trace", str(folder / "other.py"))
    text = (folder / "net_jax.py").read_text().replace("Block", "Part")
    (folder / "renamed.py").write_text(text)
    with pytest.raises(SubjectError, match=r"built by Net\(block=Block, hidden=8\), of which"):
        check(folder / "trace", str(folder / "renamed.py"))
    report = check(folder / "trace", f"{folder / 'renamed.py'}:Net(Part, hidden=8)")
    assert report.verdict == "same", report


@pytest.mark.parametrize(
    "call",
    [
        "Net(hidden=8)", "Net(Net(), [1, -2.0], (3,), {'a': nn.ReLU}, act=partial(F.gelu))",
        "nn.Sequential(nn.Linear(in_features=2, out_features=3), Net())",
    ],
)  # fmt: skip
def test_calls_that_only_build(call):
    assert only_constructs(call, {"Net": type})


@pytest.mark.parametrize(
    "call",
    [
        "__import__('os').system('true')", "Net(open('x'))", "Net(().__class__)", "Net(nn.a.b)",
        "Net(x for x in y)", "Net(lambda: 0)", "Net(", "Net(hidden=other)", "Net.fail()",
    ],
)  # fmt: skip
def test_a_trace_is_data_and_runs_nothing_else(call):
    assert not only_constructs(call, {"Net": type})


def test_a_trace_calls_nothing_that_the_file_imports(made, tmp_path, usual_settings):
    shutil.copytree(made("blocks") / "trace", tmp_path / "trace")
    about = tmp_path / "trace" / "trace.json"
    content = json.loads(about.read_text())
    content["constructed"][""]["call"] = f"mkdir('{tmp_path}/made')"
    about.write_text(json.dumps(content))
    text = (made("blocks") / "net_jax.py").read_text()
    (made("blocks") / "importing.py").write_text(text + "\n\nfrom os import mkdir  # noqa: E402\n")
    with pytest.raises(SubjectError, match=r"of which the file does not have everything"):
        check(tmp_path / "trace", str(made("blocks") / "importing.py"))
    assert not (tmp_path / "made").exists()


def run(capsys, *words):
    """(exit status, standard output, standard error) of a command."""
    try:
        status = main([str(word) for word in words])
    except SystemExit as stop:
        status = stop.code
    return status, *capsys.readouterr()


def test_port_with_check(made, tmp_path, capsys, usual_settings):
    folder, output = made("blocks"), tmp_path / "out_jax.py"
    trace = folder / "trace"
    status, out, err = run(capsys, "port", folder / "net.py", "-o", output, "--check", trace)
    assert status == 0, out + err
    assert out.startswith("parity: SAME")
    assert "not supported" in err  # what the recorded steps do not reach
    content = json.loads((tmp_path / "out_jax.certificate" / "certificate.json").read_text())
    assert content["verdict"] == "same"
    assert content["subject"]["commands"] == [f"jaxnet check {trace} {output}"]
    assert (tmp_path / "out_jax.certificate" / "certificate.html").exists()
    assert run(capsys, "certificate", tmp_path / "out_jax.certificate", "--verify")[0] == 0
    output.write_text(output.read_text().replace("nn.Dropout(0.1)", "nn.Dropout(0.3)"))
    assert run(capsys, "certificate", tmp_path / "out_jax.certificate", "--verify")[0] == 2
    assert run(capsys, "check", trace, output)[0] == 1


@pytest.mark.slow
def test_a_port_to_plain_flax_is_checked_with_torchs_weights(
    made, tmp_path, capsys, usual_settings
):
    source, trace = tmp_path / "plain.py", made("blocks") / "trace"
    source.write_text((made("blocks") / "net.py").read_text())
    output = tmp_path / "out_jax_nnx.py"
    arguments = "port", source, "-o", output, "--to", "nnx", "--check", trace
    status, out, err = run(capsys, *arguments)
    assert status == 0, out + err
    assert out.startswith("parity: SAME")
    assert "the model was given the recorded program's initial weights" in out
    assert "jaxnet" not in "".join(x for x in output.read_text().splitlines() if "import" in x)
    output.write_text(output.read_text().replace("Dropout(0.1", "Dropout(0.2"))
    status, out, err = run(capsys, "check", trace, output)
    assert status == 1, out + err
    assert "drop" in out


def test_port_with_check_of_what_is_not_supported(made, tmp_path, capsys, usual_settings):
    folder, output = made("marked"), tmp_path / "out_jax.py"
    words = ("port", folder / "net.py", "-o", output, "--check", folder / "trace")
    status, _, err = run(capsys, *words, "--model", "Net(table=None)")
    assert status == 2
    assert "the recorded run comes to what is not supported: net.py:" in err
    assert output.exists()
    assert not (tmp_path / "out_jax.certificate").exists()


REFUSED = {
    "no output": ("", "no --output: what is checked is a file of Python: -o model_jax.py"),
    "no trace": ("-o out.py --check nowhere", "nowhere: there is no trace.json"),
    "a model without a check": ("-o out.py --model Net()", "give --check TRACE too"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_port_refuses_before_it_writes(made, case, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words, message = REFUSED[case]
    words = words.split() or ["--check", made("blocks") / "trace"]
    status, out, err = run(capsys, "port", made("blocks") / "net.py", *words)
    assert (status, out) == (2, "")
    assert message in err
    assert not [*tmp_path.iterdir()]


def test_help_of_check_and_port_shows_it(capsys):
    assert 'jaxnet check trace/ "model_jax.py:Net(hidden=32)"' in run(capsys, "check", "-h")[1]
    assert "--check trace/" in run(capsys, "port", "-h")[1]
