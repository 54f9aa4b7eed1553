"""benchmarks/gpu/right.py and repeated.py: what is wrong is seen, and said where."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.experimental
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.gpu import repeated, right
from jaxnet import nn, optim
from tests.rows.optim import ROWS
from tests.table import families

ROOT = Path(__file__).parents[1]


def activations(*names: str) -> list[Any]:
    return [case for case in families()["nn_activation"] if case.name in names]


def test_every_family_is_a_task() -> None:
    named = right.tasks(tiny=True)
    assert list(named)[: len(families())] == list(families())
    golden = {path.stem for path in (ROOT / "tests" / "golden").glob("*.npz")}
    by_seed = {"nn_init", "nn_default_init", "random"}  # drawn by numpy, on no device
    # Functions of tensors and transforms are no layers; the GPU command does not judge them.
    others = {"optim_schedules", "ops", "transforms"}
    assert golden - by_seed - others == {*families(), "optim"}


def test_rows_and_tasks_need_no_pytest() -> None:
    code = (
        "import sys\n"
        "for name in ('pytest', 'hypothesis', 'torch', 'tyro', 'PIL'): sys.modules[name] = None\n"
        "from benchmarks.gpu import right\n"
        "print(right.tasks(False)['nn_dropout']()['hold'])"
    )
    words = [sys.executable, "-c", code]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["7"]


def test_a_layer_that_is_off_in_float32_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    class Softsign(nn.Softsign):
        def __call__(self, x: jax.Array) -> jax.Array:
            y = super().__call__(x)
            return y * (1 + 1e-4) if y.dtype == jnp.float32 else y

    monkeypatch.setattr(nn, "Softsign", Softsign)
    found = right.check_table("nn_activation", activations("Softsign", "Tanh"))
    assert (found["ok"], found["rows"], found["hold"]) == (False, 2, 1)
    off = {(f["row"], f["array"], f["ours"], f["against"]) for f in found["failures"]}
    assert off == {
        ("Softsign()[]", array, "float32", against)
        for array in ("out.0", "d_input.0")
        for against in (right.EXACT, right.GOLDEN)
    }
    assert found["worst"]["row"] == "Softsign()[]"
    assert found["worst"]["distance"] == pytest.approx(1e-4, rel=0.1)
    assert json.loads(json.dumps(found)) == found


def test_a_layer_that_is_off_everywhere_or_fails_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    class Tanh(nn.Tanh):
        def __call__(self, x: jax.Array) -> jax.Array:
            return jnp.where(x == 0, jnp.inf, super().__call__(x))

    class Mish(nn.Mish):
        def __call__(self, x: jax.Array) -> jax.Array:
            raise RuntimeError("out of memory")

    monkeypatch.setattr(nn, "Tanh", Tanh)
    monkeypatch.setattr(nn, "Mish", Mish)
    found = right.check_table("nn_activation", activations("Mish", "Softsign", "Tanh"))
    assert (found["ok"], found["rows"], found["hold"]) == (False, 3, 1)
    assert {"row": "Mish()[]", "error": "RuntimeError: out of memory"} in found["failures"]
    wrong = [f for f in found["failures"] if f.get("array") == "out.0"]
    assert {(f["ours"], f["against"]) for f in wrong} >= {
        ("float32", right.GOLDEN),
        ("float64", right.GOLDEN),
    }
    assert {f["distance"] for f in wrong} == {sys.float_info.max}  # JSON has no infinity


def test_an_optimizer_that_is_off_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = optim.SGD
    monkeypatch.setattr(optim, "SGD", lambda lr=1e-3, **options: plain(lr * 1.001, **options))
    rows = [row for row in ROWS if str(row) in ("SGD()", "Adam()")]
    found = right.check_optimizers(rows)
    assert (found["ok"], found["rows"], found["hold"]) == (False, 2, 1)
    assert {f["row"] for f in found["failures"]} == {"SGD()"}
    assert {(f["ours"], f["against"]) for f in found["failures"]} == {
        ("float32", right.GOLDEN),
        ("float64", right.GOLDEN),
    }


def test_products_of_this_cpu_are_float32s(monkeypatch: pytest.MonkeyPatch) -> None:
    found = right.rounding(64)
    assert (found["ok"], found["applicable"], found["precision"]) == (True, False, "highest")
    assert jax.config.jax_default_matmul_precision is None  # it was put back

    def short(x: jax.Array, w: jax.Array) -> jax.Array:
        """Rounds float32 factors to bfloat16, as a card might."""
        factors = [a.astype(jnp.bfloat16) if a.dtype == jnp.float32 else a for a in (x, w.T)]
        return jnp.matmul(*factors).astype(x.dtype)

    monkeypatch.setattr(right.F, "linear", short)
    found = right.rounding(64)
    assert not found["ok"]
    assert found["linear highest"] > 1e-4
    assert found["convolution highest"] < 1e-5


@pytest.mark.long
def test_dropout_that_drops_too_few_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    found = repeated.dropout(10_000)
    assert found["ok"], found
    assert found["Dropout kept"] == pytest.approx(0.7, abs=0.03)
    plain = nn.Dropout
    monkeypatch.setattr(nn, "Dropout", lambda p: plain(p - 0.05))
    found = repeated.dropout(10_000)
    assert not found["ok"]
    assert found["Dropout deviations"] > 5
    assert abs(found["AlphaDropout deviations"]) < 5


@pytest.mark.slow
def test_statistics_with_another_momentum_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    found = repeated.running_statistics()
    assert found["ok"], found

    class BatchNorm1d(nn.BatchNorm1d):
        def __call__(self, x: jax.Array) -> jax.Array:
            self.momentum = 0.1001 if x.dtype == jnp.float32 else 0.1
            y = super().__call__(x)
            self.momentum = 0.1
            return y

    monkeypatch.setattr(nn, "BatchNorm1d", BatchNorm1d)
    found = repeated.running_statistics()
    assert not found["ok"]
    off = {name for name, gap in found["distances"].items() if gap > found["allowed"]}
    assert off == {"block.1.running_mean", "block.1.running_var"}


@pytest.mark.long
@pytest.mark.slow  # it starts several processes
def test_a_run_that_does_not_come_back_is_told_from_one_that_does() -> None:
    assert repeated.resume(tiny=True)["ok"]
    calls = iter(range(10**6))

    def change(step: Any) -> Any:
        """Adds a number that the host counts on, which no checkpoint brings back."""
        shape = jax.ShapeDtypeStruct((), jnp.float32)

        def spoilt(state: Any, batch: Any) -> Any:
            count = jax.experimental.io_callback(lambda: np.float32(next(calls)), shape)
            state, metrics = step(state, batch)
            biased = {**state.params, "11.bias": state.params["11.bias"] + 1e-6 * count}
            return state.replace(params=biased), metrics

        return spoilt

    found = repeated.resume(tiny=True, change=change)
    assert (found["ok"], found["repeats"], found["repeats compiled anew"]) == (False,) * 3
    assert "11.bias" in found["differs"] or "arrays; most" in found["differs"]


def test_the_command_says_what_it_knows(capsys: pytest.CaptureFixture[str]) -> None:
    assert right.main(["--tiny", "nn_dropout"]) == 0
    (line,) = map(json.loads, capsys.readouterr().out.splitlines())
    assert (line["task"], line["ok"], line["rows"]) == ("nn_dropout", True, 3)
    with pytest.raises(SystemExit, match="2"):
        right.main(["nn_dropuot"])
    assert "no task nn_dropuot; there are losses, nn_activation" in capsys.readouterr().err
