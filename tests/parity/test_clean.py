"""Programs that are the same are found to be; `python -m benchmarks.parity --clean` has more."""

import pytest

from benchmarks.parity import trial
from tests.parity import pairs
from tests.parity.architectures import Recipe, Task, chain, layer, repeated

pytestmark = pytest.mark.torch

# BatchNorm, dropout and a layer used twice, with Adam, a schedule, clipping and accumulation.
_BLOCK = chain(layer("Linear", 8, 8), layer("BatchNorm1d", 8), layer("GELU"), kind="Residual")
EVERYTHING = Task(
    chain(layer("Linear", 6, 8), repeated(2, _BLOCK), layer("Dropout", 0.3), layer("Linear", 8, 3)),
    (6,),
    "numbers",
    ("mse_loss", {}),
    Recipe(
        ("AdamW", {"lr": 1e-2, "weight_decay": 0.1}),
        ("CosineAnnealingLR", {"T_max": 4}),
        ("norm", 0.1),
        parts=2,
    ),
    batch=6,
    targets=3,
)


@pytest.mark.long  # compiled in two precisions
def test_a_program_with_everything_is_the_same():
    outcome = trial(pairs.of_task("everything", EVERYTHING), 3)
    assert outcome.report is not None, outcome.error
    outcome.report.raise_for_difference()
    assert not outcome.report.findings
    assert {result.level for result in outcome.report.results} >= {"preflight", "layer", "step"}
    sites = {result.site.partition(":")[0] for result in outcome.report.results}
    assert sites >= {"forward", "loss", "grad", "param_grad", "update", "buffer"}


@pytest.mark.parametrize("name", ["thermometer, tanh"])
def test_the_documents_networks_are_the_same(name):
    outcome = trial(pairs.document(name), 2)
    assert outcome.report is not None, outcome.error
    outcome.report.raise_for_difference()


def test_a_seed_gives_the_same_description_everywhere():
    kinds = [pairs.task(seed).kind for seed in range(12)]
    assert [i for i, kind in enumerate(kinds) if kind == "tokens"] == [1, 9]
    assert kinds[0] == "numbers"
    assert kinds[7] == "binary"
    assert pairs.task(3).network.parts[0].arguments == (3, 6, 3)
    assert pairs.task(3).recipe.optimizer[1]["momentum"] == 0.9
