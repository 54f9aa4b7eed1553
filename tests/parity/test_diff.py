"""PyTorch against PyTorch: what was changed in one of two programs is found, and nothing else."""

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jaxnet import parity
from jaxnet.parity._diff import diff
from jaxnet.parity._result import Report
from jaxnet.parity._trace import read

pytestmark = pytest.mark.torch

LENGTH, WIDTH = 6, 8


def program(
    steps: int = 1,
    seed: int = 0,
    eps: float = 1e-5,
    between: Callable[[Any], Any] = lambda x: x,
    approximate: str = "none",
    momentum: float = 0.9,
    rotary: int = WIDTH,
    length: int = LENGTH,
    backward: Callable[[Any], Any] = lambda x: x,
    smoothing: float = 0.0,
    group: bool = False,
    clip: Callable[..., Any] = lambda parameters, norm: None,
) -> None:
    """A small network on sequences with rotary positions, trained by SGD."""
    import torch
    from torch import nn
    from torch.nn import functional as F

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.norm = nn.Linear(4, WIDTH), nn.LayerNorm(WIDTH, eps=eps)
            self.drop, self.head = nn.Dropout(0.25), nn.Linear(WIDTH, 3)

        def forward(self, x):
            x = between(rotated(self.embed(x)))
            x = F.gelu(self.norm(x), approximate=approximate)
            return self.head(self.drop(backward(x)).mean(1))

    def rotated(x):
        rates = 100.0 ** (-np.arange(0, rotary, 2) / rotary)
        turns = np.arange(x.shape[1])[:, None] * rates
        turns = np.pad(turns, ((0, 0), (0, (WIDTH - rotary) // 2)))
        angle = torch.from_numpy(turns).float()
        a, b = x[..., ::2], x[..., 1::2]
        turned = a * angle.cos() - b * angle.sin(), a * angle.sin() + b * angle.cos()
        return torch.stack(turned, -1).flatten(-2)

    torch.manual_seed(seed)
    net = Net()
    groups = [{"params": net.parameters()}]
    if group:
        groups = [{"params": net.embed.parameters()}, {"params": net.norm.parameters()}]
    optimizer = torch.optim.SGD(groups, lr=0.1, momentum=momentum)
    inputs, targets = torch.randn(2, 5, length, 4), torch.randint(0, 3, (2, 5))
    for x, y in zip(inputs[:steps], targets[:steps], strict=True):
        loss = F.cross_entropy(net(x), y, label_smoothing=smoothing)
        optimizer.zero_grad()
        loss.backward()
        clip(net.parameters(), 1e-3)
        optimizer.step()


def recorded(folder: Path, **changes: Any) -> Path:
    with parity.recording(folder, steps=changes.get("steps", 1)):
        program(**changes)
    return folder


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return recorded(tmp_path_factory.mktemp("diff") / "first", steps=2)


@pytest.fixture
def against(first: Path, tmp_path: Path) -> Callable[..., Report]:
    return lambda **changes: diff(first, recorded(tmp_path / "second", **changes))


def test_what_the_recordings_noted_is_said(first: Path) -> None:
    trace = read(first)
    noisy = dataclasses.replace(trace, about={**trace.about, "notes": ["it is noisy"]})
    assert "the first recording: it is noisy" in diff(noisy, trace).notes
    assert "the second recording: it is noisy" in diff(trace, noisy).notes


def only(report: Report) -> Any:
    (finding,) = [each for each in report.findings if each.level != "preflight"]
    return finding


def test_a_program_is_itself(against):
    report = against(steps=2)
    assert report.verdict == "same"
    assert report.findings == []
    assert {result.step for result in report.results} == {0, 1}
    assert set(report.coverage["modules"].seen) == {"", "embed", "norm", "drop", "head"}


def test_rounding_is_no_difference(against):
    # The order of a sum: step 1 begins with numbers that differ by rounding.
    report = against(between=lambda x: (x * 3) / 3, steps=2)
    assert report.verdict == "same"
    assert any("step 1 begins with other numbers" in note for note in report.notes)
    assert {result.level for result in report.results if result.step == 1} == {"layer"}


def test_one_altered_module(against):
    report = against(eps=1e-4, steps=2)
    assert report.verdict == "different"
    assert report.findings[0].level == "preflight"
    assert "eps is 1e-05, the second program's is 0.0001" in report.findings[0].message
    finding = only(report)
    assert (finding.site, finding.step) == ("forward:norm#0", 0)
    assert "epsilon is 0.0001" in finding.cause
    assert any("downstream" in note and "function:gelu#0" in note for note in report.notes)
    # It is found in the step that began with other numbers too.
    assert {result.step for result in finding.results} == {0, 1}


def test_one_altered_function(against):
    finding = only(against(approximate="tanh"))
    assert finding.site == "function:gelu#0"
    assert "tanh" in finding.cause


@pytest.mark.parametrize(
    "between",
    [
        lambda x: x.flip(-1),
        lambda x: x + 1e-6 * (x.new_ones(WIDTH).cumsum(0) % 2 * 2 - 1),
        lambda x: (
            x * (1 + 1e-6 * (x.new_zeros(LENGTH, 1).index_fill(0, x.new_tensor([5]).long(), 1)))
        ),
    ],
    ids=["permutation", "errors that cancel", "last position"],
)
def test_what_statistics_do_not_see(against, between):
    finding = only(against(between=between))
    assert (finding.step, finding.site) == (0, "input:norm#0.0")
    assert finding.message == "the code before norm: its input differs"


def test_a_wrong_rotary_width_that_short_prompts_hide(first, tmp_path, against):
    assert only(against(rotary=4)).step == 0
    shorts = [recorded(tmp_path / str(w), length=1, rotary=w) for w in (WIDTH, 4)]
    assert diff(*shorts).verdict == "same"


def test_a_gradient_alone(against):
    def halved(x):
        return 0.5 * x + 0.5 * x.detach()

    finding = only(against(backward=halved))
    assert finding.site.startswith("grad:")
    assert finding.step == 0


def test_hyperparameters_and_what_they_explain(against):
    report = against(momentum=0.5, steps=2)
    (finding,) = report.findings
    assert finding.level == "preflight"
    assert finding.message.endswith("momentum is 0.9, the second program's is 0.5")
    assert report.verdict == "different"


def test_loss(against):
    finding = only(against(smoothing=0.1))
    assert finding.site == "function:cross_entropy#0"


def test_other_seeds_are_told_and_layers_are_compared_all_the_same(against):
    report = against(seed=1)
    words = " ".join(finding.message for finding in report.findings)
    assert "the parameters of step 0" in words
    assert "the random draws of step 0" in words
    assert "seed: 0 and 1" in report.notes
    assert {result.level for result in report.results} == {"layer"}
    assert not any(result.judgement.failed for result in report.results)


def test_traces_of_other_lengths_and_what_is_no_trace(first, against, tmp_path):
    report = against(steps=1)
    assert report.verdict == "same"
    assert "the traces have 2 and 1 steps; the first 1 are compared" in report.notes
    shutil.rmtree(tmp_path / "second")
    with pytest.raises(parity.TraceError, match=r"there is no trace\.json"):
        diff(first, tmp_path / "second")
    assert np.isfinite(report.results[0].judgement.double)


def test_a_clipped_gradient_and_a_group_that_only_one_program_has(against):
    import torch

    report = against(group=True, clip=torch.nn.utils.clip_grad_norm_)
    messages = [finding.message for finding in report.findings]
    assert "the numbers of groups of the optimizers are 1 and 2" in messages
    assert "only the second program has clipped:embed.weight, from step 0 on" in messages
