"""benchmarks.gpu on a machine without a card: its parts, and its way through crash and cut-off."""

import argparse
import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from benchmarks.gpu import document, fast, machine, peaks, plan, report, task, workloads
from benchmarks.gpu import run as gpu_run
from benchmarks.gpu.child import Child, EndedError
from benchmarks.gpu.flops import flops
from benchmarks.gpu.run import Run
from jaxnet import nn, optim

ROOT = Path(__file__).parents[1]


# How many operations


def counted(function: Any, *shapes: tuple[int, ...]) -> float:
    arguments = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    lowered = jax.jit(function).trace(*arguments).lower(lowering_platforms=("cuda",))
    return flops(lowered.compiler_ir("stablehlo"))


def conv(x, w, stride=1):
    return lax.conv_general_dilated(x, w, (stride, stride), ((1, 1), (1, 1)))


X, W = (2, 4, 8, 8), (6, 4, 3, 3)
CONV = 2 * (2 * 6 * 8 * 8) * (4 * 3 * 3)


@pytest.mark.parametrize(
    ("function", "shapes", "expected"),
    [
        (lambda a, b: a @ b, [(2, 3), (3, 5)], 2 * 2 * 3 * 5),
        (lambda a, b: jnp.einsum("bij,bjk->bik", a, b), [(7, 2, 3), (7, 3, 5)], 7 * 60),
        (lambda a, b: a + b, [(2, 3), (2, 3)], 0),
        (conv, [X, W], CONV),
        (lambda x, w: conv(x, w, 2), [X, W], CONV / 4),
        # Both gradients and the convolution itself, whose result the square needs.
        (jax.grad(lambda x, w: (conv(x, w, 2) ** 2).sum(), (0, 1)), [X, W], 3 * CONV / 4),
        (lambda a: lax.fori_loop(0, 7, lambda i, c: c @ c, a), [(4, 4)], 7 * 128),
        (lambda a: lax.map(lambda row: row @ row.T, a), [(3, 4, 4)], 3 * 128),
    ],
)
def test_operations_are_counted(function, shapes, expected):
    assert counted(function, *shapes) == expected


def test_a_layer_counts_what_its_arithmetic_is_on_a_card():
    layer = nn.Conv2d(4, 6, 3, padding=1, rngs=workloads.Generator(0))
    assert counted(lambda x: layer(x), X) == CONV


def test_a_loop_without_a_known_end_is_not_counted():
    def dynamic(a, n):
        return lax.fori_loop(0, n.astype(jnp.int32), lambda i, c: c @ c, a)

    with pytest.raises(ValueError, match="number of turns is not a constant"):
        counted(dynamic, (4, 4), ())


# What is trained


@pytest.mark.slow
def test_full_sizes_are_those_of_the_report():
    full = workloads.workloads()
    assert full.keys() == workloads.workloads(tiny=True).keys()
    parameters = {
        name: sum(x.size for x in jax.eval_shape(work.state).params.values())
        for name, work in full.items()
        if name in ("Net", "ResNet-18, batch 1024", "GPT")
    }
    assert parameters == {"Net": 18090, "ResNet-18, batch 1024": 11_173_962, "GPT": 124_475_904}


@pytest.mark.parametrize("name", ["3072-512-2", "GPT"])
def test_shapes_stand_for_numbers(name):
    work = workloads.workloads(tiny=True)[name]

    def outline(tree):
        return jax.tree.map(lambda x: (x.shape, x.dtype), tree)

    real, abstract = (workloads.jaxnet_step(work, "bfloat16", abstract=a) for a in (False, True))
    assert outline((real[0].params, real[2])) == outline((abstract[0].params, abstract[2]))


def test_batches_take_all_rows_before_one_comes_again():
    work = dataclasses.replace(workloads.workloads(tiny=True)["3072-512-2"], rows=10, steps=3)
    _, _, order = workloads.rows(work)
    assert order.shape == (24,)
    assert sorted(order[:10]) == sorted(order[10:20]) == list(range(10))


def test_a_precision_holds_for_its_program_alone():
    work = workloads.workloads(tiny=True)["3072-512-2"]
    before = jax.config.jax_default_matmul_precision
    texts = {}
    for precision in workloads.PRECISIONS:
        state, epoch, arguments = workloads.jaxnet_step(work, precision, abstract=True)
        texts[precision] = epoch.trace(state, *arguments).lower().as_text()
    assert jax.config.jax_default_matmul_precision == before
    assert "precision = [HIGHEST, HIGHEST]" in texts["float32"]
    assert "precision = [HIGH, HIGH]" in texts["tf32"]
    assert "HIGHEST" not in texts["tf32"]
    assert re.search(r"dot_general.*xbf16>, tensor<.*xbf16>", texts["bfloat16"])


def test_an_unknown_precision_is_refused():
    work = workloads.workloads(tiny=True)["Net"]
    with pytest.raises(ValueError, match="precision: 'half'; accepted are 'float32', 'tf32'"):
        workloads.make_step(work, "half")  # type: ignore[arg-type]


@pytest.mark.torch
@pytest.mark.parametrize(
    ("name", "precision"),
    [
        ("MLP 784-128-64-10", "bfloat16"),
        ("GPT", "float32"),
        pytest.param("ResNet-18, batch 128", "float32", marks=pytest.mark.slow),
    ],
)
def test_both_libraries_train_the_same(name, precision):
    from benchmarks.gpu import torch_forms

    work = workloads.workloads(tiny=True)[name]
    ours = fast.Compiled(work, precision)
    ours.compile()
    with torch_forms.precision_of(precision):
        forms = torch_forms.Forms(work, precision, ours.weights, workloads.rows(work), "cpu")
        theirs = {form: forms.make(form) for form in ("eager", "channels_last")}
        first = ours.run()
        for trainer in theirs.values():
            trainer.run()
            gap = fast.apart(trainer.losses(), first)  # from the initial weights again
            assert gap <= fast.ALLOWED[precision]
            assert fast.apart(trainer.losses(), first) == gap


@pytest.mark.torch
@pytest.mark.parametrize("change", ["activation", "optimizer"])
def test_another_program_is_not_taken_for_the_same(change):
    tiny = workloads.workloads(tiny=True)["MLP 784-128-64-10"]
    work = dataclasses.replace(tiny, forms=("eager",), steps=20)
    if change == "activation":
        theirs = lambda t: t.mlp(784, 128, 64, 10, activation=t.nn.Tanh)  # noqa: E731
        work = dataclasses.replace(work, theirs=theirs)
    else:

        class Slower(workloads.Workload):
            def make_optimizer(self) -> optim.Optimizer:
                return optim.SGD(lr=0.0)

        work = Slower(**{f.name: getattr(work, f.name) for f in dataclasses.fields(work)})
    result = fast.measure("changed", work, "float32", tiny=True)
    assert not result["ok"]
    assert result["gaps"]["eager"] > result["allowed"]
    assert result["ms"].keys() == {"jaxnet", "torch eager"}


def test_a_torch_that_is_broken_costs_torchs_figures_alone(tmp_path, monkeypatch):
    (tmp_path / "torch.py").write_text("raise OSError('libcudart is not there')")
    for name in [name for name in sys.modules if name.split(".")[0] == "torch"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(tmp_path)
    work = workloads.workloads(tiny=True)["3072-512-2"]
    result = fast.measure("3072-512-2", work, "float32", tiny=True)
    why = "torch does not import: OSError: libcudart is not there"
    assert result["left_out"]["torch"] == why
    assert result["ok"]
    assert result["ms"].keys() == {"jaxnet"}
    assert peaks.bandwidth(tiny=True)["left_out"] == {"torch": why}


@pytest.mark.torch
@pytest.mark.parametrize("forwards", [0, 3])
def test_an_error_of_torch_costs_its_own_figures_alone(forwards):
    """At the model's making, and in the epoch that is held against jaxnet's."""
    tiny = workloads.workloads(tiny=True)["MLP 784-128-64-10"]

    def theirs(t):
        if not forwards:
            raise RuntimeError("out of memory")
        model = t.mlp(784, 128, 64, 10, activation=t.nn.ReLU)
        seen = []

        def count(module, inputs):
            seen.append(1)
            if len(seen) >= forwards:
                raise RuntimeError("out of memory")

        model.register_forward_pre_hook(count)
        return model

    work = dataclasses.replace(tiny, forms=("eager",), theirs=theirs, steps=5)
    result = fast.measure("failing", work, "float32", tiny=True)
    what = "eager" if forwards else "torch"
    assert result["left_out"][what] == "failed: RuntimeError: out of memory"
    assert result["ok"]
    assert result["ms"].keys() == {"jaxnet"}


def test_the_makers_figures_are_in_order():
    for kind, figures in peaks.DATASHEET.items():
        assert figures["float32"] <= figures["tf32"] <= figures["bfloat16"], kind
        assert 0 < figures["bytes"] < 10, kind
    assert peaks.datasheet("NVIDIA H100 80GB HBM3") == peaks.DATASHEET["NVIDIA H100 80GB HBM3"]
    assert peaks.datasheet("cpu") is None


# Packed images


def test_packed_images_come_back(tmp_path):
    rng = np.random.default_rng(0)
    arrays = {}
    for split, n in (("train", 5), ("test", 3)):
        arrays[f"{split}_images"] = rng.integers(0, 256, (n, 32, 32, 3), np.uint8)
        arrays[f"{split}_labels"] = rng.integers(0, 2, n, np.uint8)
    path = tmp_path / "some.npz"
    assert document.write(path, arrays) == path.stat().st_size
    training, validation = document.unpack(path)
    assert training[0].shape == (5, 3, 32, 32)
    assert validation[0].dtype == np.float32
    assert training[1].tolist() == arrays["train_labels"].tolist()
    red = (arrays["train_images"][1, 2, 3, 0] / 255 - 0.4914) / 0.2470
    assert training[0][1, 0, 2, 3] == pytest.approx(red, abs=1e-6)


@pytest.mark.data
def test_cifars_birds_and_airplanes_fit_into_the_file(tmp_path):
    path = tmp_path / "both.npz"
    assert document.pack(path) <= document.MOST_BYTES == 40_000_000
    packed = document.unpack(path)
    for split, rows in zip(("train", "test"), packed, strict=True):
        expected = document.birds.two_classes(split)[1]
        for a, b in zip(rows, expected, strict=True):
            assert a.dtype == b.dtype
            assert np.array_equal(a, b)


def test_too_large_a_file_is_refused_and_not_left_there(tmp_path):
    noise = np.random.default_rng(0).bytes(document.MOST_BYTES + 1)
    with pytest.raises(ValueError, match="bytes; at most 40,000,000 are accepted"):
        document.write(tmp_path / "large.npz", {"x": np.frombuffer(noise, np.uint8)})
    assert not list(tmp_path.iterdir())


def test_files_that_hold_no_images_are_named(tmp_path):
    path = tmp_path / "other.npz"
    with pytest.raises(FileNotFoundError, match=r"there is no file .*--pack FILE"):
        document.unpack(path)
    document.write(path, {"x": np.zeros(3)})
    with pytest.raises(ValueError, match=r"holds no packed images .*train_images"):
        document.unpack(path)
    path.write_bytes(b"no archive")
    with pytest.raises(ValueError, match="holds no packed images"):
        document.unpack(path)


def packed(n: int = 4) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    arrays: dict[str, np.ndarray] = {}
    for split in ("train", "test"):
        arrays[f"{split}_images"] = rng.integers(0, 256, (n, 32, 32, 3), np.uint8)
        arrays[f"{split}_labels"] = rng.integers(0, 2, n, np.uint8)
    return arrays


@pytest.mark.parametrize(
    ("name", "array", "words"),
    [
        ("train_images", np.zeros((4, 3, 32, 32), np.uint8), r"uint8 \(4, 3, 32, 32\)"),
        ("train_images", np.zeros((4, 32, 32, 3), np.float32), "images: float32"),
        ("test_labels", np.zeros(3, np.uint8), r"labels: \(3,\) for images"),
        ("test_labels", np.full(4, 7, np.uint8), r"labels: \[7\]; 0 and 1"),
    ],
)
def test_other_images_and_labels_are_refused(tmp_path, name, array, words):
    path = tmp_path / "some.npz"
    document.write(path, packed() | {name: array})
    with pytest.raises(ValueError, match=f"holds no packed images .*{words}"):
        document.unpack(path)


@pytest.mark.parametrize("damage", ["cut short", "altered", "empty"])
def test_damaged_files_are_refused(tmp_path, damage):
    path = tmp_path / "some.npz"
    document.write(path, packed())
    whole = path.read_bytes()
    middle = len(whole) // 4
    altered = whole[:middle] + bytes(64) + whole[middle + 64 :]
    path.write_bytes({"cut short": whole[:-100], "altered": altered, "empty": b""}[damage])
    with pytest.raises(ValueError, match=r"holds no packed images .*--pack FILE"):
        document.unpack(path)


def test_where_a_packed_file_cannot_go_is_said_first(tmp_path, capsys):
    (tmp_path / "file").touch()
    for path in (tmp_path, tmp_path / "file" / "some.npz"):
        with pytest.raises(SystemExit) as ended:
            document.main(["--pack", str(path), "--data-dir", str(tmp_path / "nowhere")])
        assert ended.value.code == 2
        assert "error: --pack: " in capsys.readouterr().err


# Time


def test_a_task_is_told_its_time_and_interrupted():
    kept: list[dict[str, Any]] = []
    assert task.seconds_left() == float("inf")
    task.so_far({"nobody": "listens"})
    with task.running(1000.0, keep=kept.append):
        assert 0 < task.seconds_left() <= 1000
        task.so_far({"a": 1})
    assert kept == [{"a": 1}]
    with pytest.raises(task.TooLong), task.at_most(0.01):
        signal.sigtimedwait([], 1000)
    with task.at_most(1000.0):
        pass
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_the_order_of_tasks_is_that_of_their_value():
    tasks = [
        *("document: res_deep", "fast: LSTM, tf32", "loops: Net", "fast: LSTM, float32"),
        *("fast: GPT, bfloat16", "fast: Net, float32", "peaks: bandwidth", "right: losses"),
        "right: optim",
    ]

    def order(right: float) -> list[str]:
        waiting, found = list(tasks), []
        while waiting:
            found.append(plan.following(waiting, right, 300.0))
            waiting.remove(found[-1])
        return found

    assert order(0.0) == [
        *("right: losses", "right: optim", "peaks: bandwidth"),
        *("fast: GPT, bfloat16", "fast: Net, float32", "loops: Net"),
        *("fast: LSTM, float32", "fast: LSTM, tf32", "document: res_deep"),
    ]
    # A third of the time is right's; then the targets come first.
    assert order(101.0)[:5] == [
        *("peaks: bandwidth", "fast: GPT, bfloat16", "fast: Net, float32"),
        *("right: losses", "right: optim"),
    ]


def test_targets_and_order_name_tasks_that_are_there():
    known = {f"fast: {name}" for name in fast.tasks(tiny=True)}
    assert {target.task for target in plan.TARGETS} < known
    for target in plan.TARGETS:
        forms = workloads.workloads()[target.task[6:].rsplit(", ", 1)[0]].forms
        assert target.against == ("peak",) or set(target.against) & set(forms)


def test_a_task_gets_what_is_left_at_most():
    assert plan.limit("right: losses", 500.0, tiny=False) == 60.0
    assert plan.limit("fast: Net, float32", 50.0, tiny=False) == 50.0
    assert plan.limit("fast: Net, float32", 10.0, tiny=False) is None
    assert plan.limit("fast: Net, float32", 10.0, tiny=True) == 10.0
    assert plan.limit("document: res_deep", 300.0, tiny=False) == 300.0


def test_tasks_are_chosen_by_words_and_precision():
    tasks = ["right: losses", "peaks: matrix, tf32", "fast: Net, float32", "fast: Net, tf32"]
    assert plan.chosen(tasks, None, None) == tasks
    assert plan.chosen(tasks, ["net", "MATRIX"], None) == tasks[1:]
    assert plan.chosen(tasks, None, ["float32"]) == [tasks[0], tasks[2]]
    words = r"no task of the parts right, peaks, fast has 'nix' in its name \(--parts .* are: right"
    with pytest.raises(plan.CommandLineError, match=words):
        plan.chosen(tasks, ["nix"], None)
    with pytest.raises(plan.CommandLineError, match="no task is left in bfloat16; without it"):
        plan.chosen(tasks, ["Net"], ["bfloat16"])


# The page


def timing(median: float) -> dict[str, float]:
    return {"median": median, "low": median * 0.9, "high": median * 1.1, "n": 9}


def written(**tasks: Any) -> dict[str, Any]:
    """Results as the main program keeps them, of a card that was never there."""
    fast_results = {
        "Net, float32": {"jaxnet": 0.02, "torch eager": 0.4, "torch graph": 0.025},
        "GPT, bfloat16": {"jaxnet": 20.0, "torch compile": 25.0},
    }
    records: dict[str, Any] = {
        f"fast: {name}": {
            "status": "done",
            "seconds": 30.0,
            "result": {
                "ok": True,
                "precision": name.split(", ")[-1],
                "batch": 64,
                "ms": {who: timing(median) for who, median in times.items()},
                "compile_seconds": {"jaxnet": 3.25},
                "trace_seconds": 0.5,
                "gaps": {"eager": 2e-7},
                "flops": 7e12,
                "traffic": 3e10,
                "memory": {"jaxnet": 2**30},
                "left_out": {"graph of compile": "compile is left out"},
            },
        }
        for name, times in fast_results.items()
    }
    peak = {"ok": True, "peaks": {"jaxnet": 6e14, "torch": 5e14}, "datasheet": 9.894e14}
    records["peaks: matrix, bfloat16"] = {"status": "done", "seconds": 9.0, "result": peak}
    return {
        "began": "2026-01-02T03:04:05+00:00",
        "limit": 340.0,
        "used": 123.0,
        "ended": "all tasks are done",
        "tiny": False,
        "machine": {"card": "a card, driver 580", "versions": {"jax": "0.11.2"}},
        "device": {"kind": "NVIDIA H100 80GB HBM3", "platform": "gpu"},
        "notes": ["a note"],
        "missing_parts": {"lowered": "ModuleNotFoundError"},
        "tasks": records | tasks,
    }


def test_the_page_says_what_was_reached_and_what_was_not():
    text = report.page(written())
    rows = {line.split(" | ")[1]: line for line in text.splitlines() if line.startswith("| Net,")}
    assert "| 20.00 | yes |" in rows["5 times as fast as torch's eager"]
    assert "| 1.25 | no |" in next(r for what, r in rows.items() if what.startswith("1.5 times"))
    assert "| GPT, bfloat16 | 0.5 of the matrix peak | 0.58 | yes |" in text  # 350 of 600
    assert "| ResNet-18, batch 1024, bfloat16 | 1 times as fast" in text
    assert "not measured" in text
    for words in ("NVIDIA H100", "driver 580", "0.11.2", "123 of 340 s", "a note", "989.4"):
        assert words in text
    # One reason stands once, with all its tasks.
    assert text.count("graph of compile: compile is left out") == 1
    assert "part lowered: ModuleNotFoundError" in text
    assert "Wrong or failed: nothing." in text


def test_the_page_and_the_exit_status_know_what_is_wrong():
    failures = [{"row": "Linear(3, 2)", "distance": 1.0}]
    right = {"ok": False, "rows": 9, "hold": 8, "worst": None, "failures": failures}
    results = written(
        **{
            "right: nn_linear": {"status": "done", "seconds": 1.0, "result": right},
            "fast: LSTM, tf32": {"status": "failed", "seconds": 1.0, "why": "signal 9"},
            "document: res_deep": {"status": "cut off", "seconds": 1.0, "why": "time"},
        }
    )
    assert report.wrong(results) == ["right: nn_linear", "fast: LSTM, tf32"]
    text = report.page(results)
    assert "Wrong or failed: right: nn_linear; fast: LSTM, tf32." in text
    assert "| nn_linear | NO | 8 of 9 rows hold |" in text
    assert "Linear(3, 2)" in text
    assert "- cut off: time (document: res_deep)" in text


def test_a_line_has_the_key_figures():
    results = written()["tasks"]
    line = report.line("fast: Net, float32", results["fast: Net, float32"])
    assert line == (
        "fast: Net, float32: jaxnet 0.02 ms, eager 0.4 (20.00x), CUDA graph 0.025 (1.25x); "
        "XLA compiled 3.2 s"
    )
    cut = {"status": "cut off", "seconds": 1.0, "why": "its time is over"}
    assert report.line("loops: Net", cut) == "loops: Net: cut off: its time is over"


def test_numbers_that_are_not_finite_have_their_words():
    results = written()
    name = "fast: Net, float32"
    result = results["tasks"][name]["result"]
    result["ms"]["torch eager"] = dict.fromkeys(("median", "low", "high", "n"), "inf")
    result |= {"gaps": {"eager": "nan"}, "flops": "nan", "traffic": "inf"}
    results["tasks"]["peaks: bandwidth"] = {
        "status": "done",
        "seconds": 1.0,
        "result": {"peaks": {"jaxnet": "inf"}, "rounding": "nan", "datasheet": 1e12},
    }
    curves = {"train_loss": {"1": 2.0, "2": "nan"}, "val_loss": {"1": "-inf"}}
    deep = {"epochs": 1, "of": 2, "seconds": 3.0, "curves": curves}
    deep["without_eval"] = {"val_accuracy": "nan"}
    results["tasks"]["document: res_deep"] = {"status": "done", "seconds": 1.0, "result": deep}
    results["tasks"]["loops: Net"] = {
        "status": "done",
        "seconds": 1.0,
        "result": {"ms": {"epoch": {"median": "nan"}}},
    }
    assert "eager inf (infx)" in report.line(name, results["tasks"][name])
    assert report.line("document: res_deep", results["tasks"]["document: res_deep"]) == (
        "document: res_deep: 1 of 2 epochs in 3 s, train_loss nan, val_loss -inf, "
        "val_accuracy without eval() nan"
    )
    text = report.page(results)
    assert "| bandwidth | inf | - | 1 | nan |" in text
    assert "| epoch | nan |" in text
    json.dumps(results, allow_nan=False)


def test_the_page_links_the_picture_that_is_there(tmp_path, monkeypatch):
    assert "ratios.png" not in report.page(written())
    assert "(ratios.png)" in report.page(written(), drawn=True)
    (tmp_path / "results.json").write_text(json.dumps(written() | {"tasks": {}}))
    (tmp_path / "ratios.png").write_text("an older run's")
    monkeypatch.setattr(sys, "argv", ["report", str(tmp_path)])
    assert report.main() == 0
    assert not (tmp_path / "ratios.png").exists()
    assert "ratios.png" not in (tmp_path / "GPU.md").read_text()


@pytest.mark.parametrize(
    "text",
    [
        *("", "{}", "[]", '{"tasks": {}}', json.dumps(written() | {"device": None})),
        json.dumps(written(**{"peaks: bandwidth": {"status": "done"}})),
        json.dumps(written(**{"peaks: bandwidth": {"status": "done", "seconds": 1.0}})),
        json.dumps(written() | {"machine": {}}),
    ],
)
def test_damaged_results_are_refused(tmp_path, text, monkeypatch, capsys):
    (tmp_path / "results.json").write_text(text)
    with pytest.raises(plan.CommandLineError, match=r"results.json cannot be read"):
        report.read(tmp_path)
    monkeypatch.setattr(sys, "argv", ["report", str(tmp_path)])
    assert report.main() == 1
    assert "results.json cannot be read" in capsys.readouterr().err


def test_results_are_read_as_they_were_written(tmp_path):
    (tmp_path / "results.json").write_text(json.dumps(written()))
    assert report.read(tmp_path) == written()


def test_the_picture_is_drawn_where_there_are_ratios(tmp_path):
    assert report.picture(written(), tmp_path / "ratios.png")
    assert (tmp_path / "ratios.png").stat().st_size > 1000
    assert not report.picture({"tasks": {}, "device": {}}, tmp_path / "none.png")


def test_a_machine_without_card_and_torch_is_told_so():
    facts = machine.facts()
    assert facts["versions"]["jax"] == jax.__version__
    assert facts["processor"]
    said = machine.notes({"platform": "cpu"}, {"versions": {}}, tiny=False)
    assert [words.split()[0] for words in said] == ["JAX", "the", "PyTorch"]
    assert machine.notes({"platform": "gpu"}, {"versions": {"torch": "2.11"}}, tiny=False) == []


# The whole program, with real tasks in a real child process


def environment() -> dict[str, str]:
    return {**os.environ, "JAX_PLATFORMS": "cpu"}


def command(out: Path, *more: str) -> list[str]:
    start = [sys.executable, "-m", "benchmarks.gpu", "--tiny", "--out", str(out)]
    return [*start, "--seconds", "300", *more]


def run(out: Path, *more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(out, *more),
        cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=250, check=False,
    )  # fmt: skip


def read(out: Path) -> dict[str, Any]:
    return json.loads((out / "results.json").read_text())


def test_a_run_is_kept_and_gone_on_with(tmp_path):
    parts = "--parts", "peaks", "fast"
    done = run(tmp_path, *parts, "--only", "bandwidth", "3072-512-2", "--precision", "float32")
    assert done.returncode == 0, done.stdout + done.stderr
    first = read(tmp_path)
    names = ["peaks: bandwidth", "fast: 3072-512-2, float32"]
    assert list(first["tasks"]) == names
    assert first["ended"] == "all tasks are done"
    assert first["tasks"][names[1]]["result"]["ms"]["jaxnet"]["median"] > 0
    assert "JAX sees no card" in (tmp_path / "GPU.md").read_text()
    assert (tmp_path / "programs" / "3072-512-2, float32.txt.gz").is_file()

    done = run(tmp_path, *parts, "--only", "peaks", "--precision", "float32", "--missing")
    assert done.returncode == 0, done.stdout + done.stderr
    second = read(tmp_path)
    assert set(second["tasks"]) == {*names, "peaks: matrix, float32"}
    for name in names:
        assert second["tasks"][name] == first["tasks"][name]
    assert f"2 tasks are taken from the run of {first['began']}" in done.stdout
    assert len(list(tmp_path.glob("results_*.json"))) == 1  # the first run's own


def workers(parent: int) -> list[int]:
    """The processes that a process has started."""
    return [int(p) for p in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()]


def started(out: Path, *more: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command(out, *more), cwd=ROOT, env=environment(), stdout=subprocess.PIPE, text=True
    )


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="needs Linux's /proc")
@pytest.mark.slow  # it starts several processes
def test_a_killed_child_costs_one_task(tmp_path):
    with started(tmp_path, "--parts", "document", "peaks", "--precision", "float32") as program:
        assert program.stdout is not None
        for line in program.stdout:
            if "peaks: bandwidth" in line:  # the last before the long ones
                for child in workers(program.pid):
                    os.kill(child, signal.SIGKILL)
                break
        rest = program.stdout.read()
    assert program.returncode == 1
    tasks = read(tmp_path)["tasks"]
    statuses = {name: record["status"] for name, record in tasks.items()}
    assert statuses.pop("document: res_deep") == "failed"
    assert set(statuses.values()) == {"done"}
    assert "document: res_deep_separate" in statuses
    assert "signal 9 (SIGKILL)" in tasks["document: res_deep"]["why"]
    assert "wrong or failed: document: res_deep" in rest


@pytest.mark.slow
def test_a_stopped_run_keeps_what_it_has(tmp_path):
    with started(tmp_path, "--parts", "peaks", "document") as program:
        assert program.stdout is not None
        for line in program.stdout:
            if "peaks: bandwidth" in line:
                program.send_signal(signal.SIGTERM)
                break
        program.stdout.read()
    assert program.returncode == 128 + signal.SIGTERM
    results = read(tmp_path)
    assert results["ended"] == "stopped by signal 15"
    assert results["tasks"]["peaks: bandwidth"]["status"] == "done"
    assert "stopped by signal 15" in (tmp_path / "GPU.md").read_text()


def test_a_task_is_cut_off_and_its_child_ends(tmp_path, monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    monkeypatch.chdir(ROOT)
    child = Child(["--tiny", "--parts", "document", "nothing"], tmp_path / "log")
    try:
        ready = child.event(time.monotonic() + 200)
        assert ready is not None
        assert ready["tasks"] == ["document: res_deep", "document: res_deep_separate"]
        assert "No module named 'benchmarks.gpu.nothing'" in ready["missing"]["nothing"]
        child.ask("document: res_deep", 1000.0)
        event = None
        while event is None:  # a signal before the task has begun cuts nothing off
            child.cut_off()
            event = child.event(time.monotonic() + 0.1)
        assert (event["event"], event["task"]) == ("cut off", "document: res_deep")
        with pytest.raises(EndedError, match="the process ended by exit status 1"):
            child.event(time.monotonic() + 200)
    finally:
        child.close(0.0)


@pytest.mark.slow
def test_a_task_that_is_over_its_time_ends_the_run_in_order(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    monkeypatch.chdir(ROOT)
    options = argparse.Namespace(
        tiny=True, seconds=300.0, parts=["document"], only=["res_deep_separate"],
        precision=None, out=tmp_path, data=None, missing=None,
    )  # fmt: skip
    program = Run(options, None)
    try:
        assert program._begin() == ["document: res_deep_separate"]
        program._one("document: res_deep_separate", 0.5)
    finally:
        program.stop()
    record = read(tmp_path)["tasks"]["document: res_deep_separate"]
    assert record["status"] == "cut off"
    assert "document: res_deep_separate: cut off" in capsys.readouterr().out
    assert report.wrong(program.results) == []


def earlier_run(out: Path) -> dict[str, Any]:
    """What a run on this machine may have left, whole and not."""
    options = argparse.Namespace(tiny=True, seconds=300.0, out=out)
    earlier = Run(options, None).results
    earlier |= {"device": {"platform": "cpu", "kind": "cpu"}, "ended": "the time was over"}
    earlier["tasks"] = {
        "peaks: bandwidth": {"status": "done", "seconds": 1.0, "result": {"ok": True}},
        "right: optim": {"status": "failed", "seconds": 1.0, "why": "signal 9"},
        "document: res_deep": {
            "status": "cut off",
            "seconds": 9.0,
            "why": "time",
            "result": {"ok": True, "epochs": 0, "unfinished": True},
        },
    }
    (out / "results.json").write_text(json.dumps(earlier))
    (out / "ratios.png").write_text("an older picture")
    return earlier


@pytest.mark.slow  # it starts several processes
def test_earlier_results_outlive_a_run_that_does_not_begin(tmp_path, monkeypatch):
    from benchmarks.gpu.__main__ import main

    monkeypatch.chdir(ROOT)
    earlier = earlier_run(tmp_path)
    before = (tmp_path / "results.json").read_text()
    (tmp_path / "worker.log").write_text("an older process said this\n")
    start = ["--tiny", "--out", str(tmp_path), "--missing", "--parts", "peaks"]
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    assert main([*start, "--only", "nix"]) == 2
    assert (tmp_path / "results.json").read_text() == before
    assert not list(tmp_path.glob("results_*.json"))
    assert (tmp_path / "ratios.png").exists()

    monkeypatch.setenv("JAX_PLATFORMS", "nix")
    assert main(start) == 1
    results = read(tmp_path)
    assert results["tasks"] == earlier["tasks"]
    assert results["device"] == earlier["device"]
    assert "the process ended by exit status 1" in results["ended"]
    assert "nix" in results["ended"]
    assert "older process" not in results["ended"]
    assert len(list(tmp_path.glob("results_*.json"))) == 1
    assert not (tmp_path / "ratios.png").exists()


def test_earlier_records_stay_until_their_task_starts(tmp_path):
    earlier = earlier_run(tmp_path)
    options = argparse.Namespace(tiny=True, seconds=300.0, out=tmp_path)
    program = Run(options, earlier)
    for name in (*earlier["tasks"], "right: losses"):
        program._leave_out(name, "there was no time")
    tasks = dict(program.results["tasks"])
    assert tasks.pop("right: losses")["status"] == "left out"
    assert tasks == earlier["tasks"]
    for key, value in (("source", "other"), ("XLA_FLAGS", "--x"), ("versions", {"jax": "0"})):
        other = earlier | {"machine": earlier["machine"] | {key: value}}
        assert Run(options, other).results["tasks"] == {}
    assert Run(options, earlier | {"tiny": False}).results["tasks"] == {}


def test_an_error_of_the_main_program_ends_the_run_in_order(tmp_path, monkeypatch, capsys):
    """A worker.log that cannot be opened, for it is a folder."""
    from benchmarks.gpu.__main__ import main

    monkeypatch.chdir(ROOT)
    (tmp_path / "worker.log").mkdir()
    assert main(["--tiny", "--out", str(tmp_path), "--parts", "peaks"]) == 1
    assert read(tmp_path)["ended"].startswith("stopped by IsADirectoryError")
    assert "stopped by IsADirectoryError" in capsys.readouterr().out


def test_the_source_is_known_by_its_text(tmp_path):
    assert machine.facts()["source"] == machine._source(ROOT)
    seen = {machine._source(tmp_path)}
    for file, text in (("jaxnet/a.py", "1"), ("jaxnet/a.py", "2"), ("benchmarks/gpu/b.py", "")):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text(text)
        seen.add(machine._source(tmp_path))
    (tmp_path / "jaxnet" / "notes.txt").write_text("no program")
    assert machine._source(tmp_path) in seen
    assert len(seen) == 4


@pytest.mark.parametrize(
    ("status", "result", "expected"),
    [
        ("done", {"unfinished": True, "epochs": 1, "of": 2}, True),
        ("done", {"unfinished": False, "epochs": 2, "of": 2}, False),
        ("done", {"unfinished": True, "needs": "--data"}, False),
        ("cut off", {}, True),
        ("failed", {}, False),
    ],
)
def test_a_task_that_ran_out_of_time_is_known(status, result, expected):
    assert gpu_run._wants_time({"status": status, "result": result}) is expected


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path, capsys):
    from benchmarks.gpu.__main__ import main

    (tmp_path / "file").touch()
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(SystemExit) as ended:
            main(["--out", str(out)])
        assert ended.value.code == 2
        assert "error: --out: " in capsys.readouterr().err


def test_data_of_another_kind_is_refused_at_once(tmp_path, capsys):
    from benchmarks.gpu import __main__ as program

    path = tmp_path / "some.npz"
    document.write(path, packed())
    assert program._is_packed(path)
    document.write(path, {"x": np.zeros(3)})
    with pytest.raises(SystemExit) as ended:
        program.main(["--out", str(tmp_path / "out"), "--data", str(path)])
    assert ended.value.code == 2
    assert f"--data: {path} holds no packed images; pack them" in capsys.readouterr().err
    path.write_bytes(b"no archive")
    assert not program._is_packed(path)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--seconds", "0"], "--seconds: 0.0; a positive number is needed"),
        (["--seconds", "nan"], "--seconds: nan; a positive number is needed"),
        (["--seconds", "inf"], "--seconds: inf; a positive number is needed"),
        (["--data", "nowhere.npz"], "--data: there is no file nowhere.npz; pack them where"),
        (["--missing"], "results.json cannot be read"),
        (["--parts", "nix"], "invalid choice: 'nix'"),
    ],
)
def test_a_wrong_command_line_is_explained(tmp_path, more, words, capsys):
    from benchmarks.gpu.__main__ import main

    try:
        status = main(["--out", str(tmp_path), *more])
    except SystemExit as error:
        status = error.code
    assert status == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "results.json").exists()


def test_the_main_program_needs_neither_jax_nor_torch(tmp_path):
    check = (
        "import sys, benchmarks.gpu.__main__ as m, benchmarks.gpu.run as r, argparse, pathlib;"
        f"r.Run(argparse.Namespace(out=pathlib.Path({str(tmp_path)!r}), seconds=9, tiny=True),"
        " None).save();"
        "print({'jax', 'torch', 'jaxnet', 'flax', 'matplotlib'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", check], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "set()"
    assert read(tmp_path)["tasks"] == {}


def test_an_error_of_torch_in_a_product_leaves_jaxnets_rate(monkeypatch):
    def too_large(*arguments):
        raise RuntimeError("CUDA out of memory")

    monkeypatch.setattr(peaks, "torch_device", lambda left_out: "cpu")
    monkeypatch.setattr(peaks, "_torch_matrix", too_large)
    monkeypatch.setattr(peaks, "_torch_addition", too_large)
    for result in (peaks.matrix("float32", True), peaks.bandwidth(True)):
        assert list(result["peaks"]) == ["jaxnet"]
        assert "CUDA out of memory" in result["left_out"]["torch"]
