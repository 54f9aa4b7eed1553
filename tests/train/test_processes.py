"""One run in several processes, which `jaxnet launch` starts: the numbers of one, and its ends."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxnet import _processes as processes
from jaxnet import train
from jaxnet.checkpoint import DamagedError
from tests.train.test_mesh import EVAL, ROWS, Small, assert_close, fit, make_state

ROOT = Path(__file__).parents[2]
PROGRAM = [sys.executable, "-m", "tests.train.processes_program"]


def launched(count, words, **options):
    """`jaxnet launch` in a process of its own, with one CPU device in each of its processes."""
    command = [
        sys.executable,
        "-m",
        "jaxnet",
        "launch",
        "--processes",
        str(count),
        *options.pop("also", ()),
    ]
    given = {k: v for k, v in os.environ.items() if k not in processes.VARIABLES}
    environment = given | {
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": "1",
        "PYTHONPATH": str(ROOT),
    }
    environment.pop("XLA_FLAGS", None)
    return subprocess.Popen(
        [*command, "--", *map(str, words)],
        env=environment,
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        **options,
    )


def ended(count, words, **options):
    running = launched(count, words, **options)
    out, err = running.communicate(timeout=500)
    return running.returncode, out, err


@pytest.mark.long
@pytest.mark.parametrize("count", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_several_processes_train_as_one(tmp_path, count):
    """56 steps of Adam with batch norm, dropout, clipping, accumulation, an average, a schedule."""
    status, out, err = ended(count, [*PROGRAM, "one", tmp_path])
    assert status == 0, err
    assert "process 0 is done" in out
    assert "process 1 is done" not in out + err  # one prints
    one = fit(*make_state(), epochs=8, validation=ROWS, eval_step=EVAL)
    every = [json.loads((tmp_path / f"found_{i}.json").read_text()) for i in range(count)]
    for found in every:
        assert found["processes"] == found["devices"] == count
        for line, wanted in zip(found["history"], one.history, strict=True):
            assert line == pytest.approx(wanted, rel=1e-5, abs=1e-5)
        predicted = train.predict(one.state, ROWS[0], batch_size=16, quiet=True)
        np.testing.assert_allclose(found["predicted"], predicted, rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(
            found["weight"], one.state.params["fc1.weight"], rtol=1e-3, atol=1e-4
        )
        wanted = {k: one.history[-1][f"val_{k}"] for k in ("loss", "accuracy")}
        assert found["evaluated"] == pytest.approx(wanted, rel=1e-4)
        for line, wanted in zip(found["loader"], one.history[:2], strict=True):
            assert {k: line[k] for k in ("loss", "accuracy")} == pytest.approx(
                {k: wanted[k] for k in ("loss", "accuracy")}, rel=1e-5
            )
        refused = found["refused"]
        assert f'such as mesh="data={count}"' in refused["no mesh"]
        assert "the loader gives each process its own batches" in refused["other loader"]
        assert "64" in refused["too large"]
        assert "mesh" in refused["too small"]
        assert "the axes of the mesh are 'data'" in refused["unknown axis"]
        assert "process 1 has others than process 0" in refused["other state"]
        assert "data: the processes have other rows (process 1" in refused["other rows"]
        assert "data: the processes have other rows (process 1" in refused["fewer rows"]
        assert "generator: the processes would draw other orders" in refused["other order"]
        assert "some have read all their batches" in refused["fewer batches"]
    lines = (tmp_path / "records" / "history.jsonl").read_text().splitlines()
    assert len(lines) == 8  # written once


@pytest.mark.slow
def test_a_killed_process_ends_the_run_which_another_number_of_devices_goes_on_with(tmp_path):
    status, _, err = ended(2, [*PROGRAM, 11, tmp_path])
    assert status == 1
    assert "process 1 ended in fit by sys.exit(3)" in err
    (tmp_path / "again").touch()
    status, _, err = ended(2, [*PROGRAM, 25, tmp_path])
    assert status == 128 + signal.SIGKILL
    assert "process 1 of 2 was killed by SIGKILL; the other was stopped" in err
    assert not (tmp_path / "history.json").exists()
    steps = sorted((tmp_path / "checkpoints").glob("step_*"))
    assert steps
    assert {file.name for file in steps[-1].iterdir()} == {
        "SHA256SUMS",
        "about.json",
        "arrays-00000.safetensors",
        "arrays-00001.safetensors",
    }
    lost = tmp_path / "lost"
    shutil.copytree(tmp_path / "checkpoints", lost)
    for file in lost.glob("*/arrays-00001.safetensors"):
        file.unlink()
    with pytest.raises(
        DamagedError, match=r"arrays-00001.safetensors.*remove .*lost to begin anew"
    ):
        fit(*make_state(model=Small), epochs=8, checkpoint=lost)
    more = {"mesh": "data=4", "sharding": "fsdp", "chunk_steps": 2}
    resumed = fit(*make_state(model=Small), epochs=8, checkpoint=tmp_path / "checkpoints", **more)
    assert_close(
        resumed, fit(*make_state(model=Small), epochs=8, mesh="data=2", chunk_steps=2), 1e-6
    )


def test_the_first_error_ends_all_and_is_shown(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(
        "import os, sys, time\n"
        "if os.environ['RANK'] == '1':\n"
        "    print('about to fail')\n"
        "    sys.exit('a word about why')\n"
        "time.sleep(600)\n"
    )
    status, _, err = ended(3, [program])
    assert status == 1
    assert "[process 1] about to fail" in err
    assert "[process 1] a word about why" in err
    assert "process 1 of 3 ended with status 1; the others were stopped" in err


def test_what_the_others_print_is_kept_where_it_is_asked_for(tmp_path):
    code = "import os; print(*(os.environ[n] for n in ('RANK', 'LOCAL_RANK', 'WORLD_SIZE')))"
    words = [sys.executable, "-c", code]
    status, out, err = ended(2, words, also=("--output", str(tmp_path / "kept")))
    assert (status, out, err) == (0, "0 0 2\n", "")
    assert (tmp_path / "kept" / "process_1.txt").read_text() == "1 1 2\n"


def test_a_signal_reaches_every_process(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(
        "import os, signal, sys, time\n"
        "def stop(*_):\n"
        f"    open({str(tmp_path)!r} + '/stopped' + os.environ['RANK'], 'w').close()\n"
        "    sys.exit(0)\n"
        "signal.signal(signal.SIGTERM, stop)\n"
        f"open({str(tmp_path)!r} + '/ready' + os.environ['RANK'], 'w').close()\n"
        "time.sleep(600)\n"
    )
    running = launched(2, [program])
    while not all((tmp_path / f"ready{i}").exists() for i in range(2)):
        time.sleep(0.05)
    running.send_signal(signal.SIGTERM)
    running.communicate(timeout=60)
    assert running.returncode == 0
    assert (tmp_path / "stopped0").exists()
    assert (tmp_path / "stopped1").exists()


def test_what_cannot_be_launched_is_said(tmp_path):
    status, _, err = ended(2, ["no-such-program"])
    assert status == 2
    assert "no-such-program: No such file or directory; the program comes after --" in err
    status, _, err = ended(0, ["python"])
    assert status == 2
    assert "--processes: '0'; accepted is a whole number from 1" in err


def test_a_process_that_never_comes_is_said_in_time():
    code = "from jaxnet import train; train.init_processes(timeout=2)"
    given = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1", "WORLD_SIZE": "2", "RANK": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | given | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 1
    assert "after 2 s not all processes of the run are there (this is 1 of 2" in done.stderr


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"RANK": "0"}, "MASTER_ADDR, MASTER_PORT, WORLD_SIZE: not among the environment"),
        ({"RANK": "2", "WORLD_SIZE": "2"}, "RANK: 2 in the environment; accepted are 0 to"),
        ({"RANK": "one", "WORLD_SIZE": "2"}, "RANK: 'one' in the environment; accepted is a whole"),
    ],
)
def test_variables_that_make_no_run_are_refused(monkeypatch, given, said):
    here = {} if len(given) == 1 else {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
    for name, value in (given | here).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=said):
        train.init_processes()


def test_a_program_that_nobody_launched_is_one_process(monkeypatch):
    for name in processes.VARIABLES:
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ValueError, match=r"timeout: -1; accepted"):
        train.init_processes(timeout=-1)
    monkeypatch.setenv("WORLD_SIZE", "1")
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", "29500")
    assert train.init_processes() == 1


def test_a_state_comes_home_from_a_mesh_as_it_was():
    state, _ = make_state()
    home = train.gather(train.shard(state, "data=8", "fsdp"))
    for one, wanted in zip(jax.tree.leaves(home), jax.tree.leaves(state), strict=True):
        assert len(one.sharding.device_set) == 1
        for part, whole in zip(*map(jax.tree.leaves, map(plain, (one, wanted))), strict=True):
            np.testing.assert_array_equal(part, whole)


def plain(x):
    return jax.random.key_data(x) if jax.numpy.issubdtype(x.dtype, jax.dtypes.prng_key) else x
