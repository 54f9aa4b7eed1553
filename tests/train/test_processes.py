"""One run in several processes, which `jaxnet launch` starts: the numbers of one, and its ends."""

import importlib.util
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
from jaxnet import data, train
from jaxnet.checkpoint import DamagedError
from tests.data.test_sharded import write
from tests.train import counted
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
def test_each_process_reads_its_own_rows(tmp_path):
    """Seven batches of 16: the first whole, and 8 rows of each other one."""
    written = []
    if importlib.util.find_spec("grain") and importlib.util.find_spec("array_record"):
        written = [tmp_path / "rows.array_record"]
        write(written[0], [str(i).encode() for i in range(len(ROWS[1]))])
    status, _, err = ended(2, [*PROGRAM, "own", tmp_path, *written])
    assert status == 0, err
    every = [json.loads((tmp_path / f"found_{i}.json").read_text()) for i in range(2)]
    # 103 rows are six batches of 16 and one of 7, which both compute whole.
    # Four rows of the first batch are read twice by those that read their own rows.
    reads = {"counted": 68, "uneven": 67, "threads": 68, "noisy": 112, "joined": 112}
    for name, kind, count, more in counted.READ:
        path = tmp_path / f"one_{name}"
        one = fit(
            *counted.plain_state(),
            counted.loader_of(kind(path, count), **more),
            **counted.ONE_EPOCH,
        )
        order = path.read_text().split()
        for found in every:
            assert len(found[name]["read"]) == reads[name]
            for line, wanted in zip(found[name]["history"], one.history, strict=True):
                assert line == pytest.approx(wanted, rel=1e-5, abs=1e-5)
        first, second = (set(found[name]["read"]) for found in every)
        assert first | second == set(order)
        if reads[name] != count:
            whole = set(order[:16]) | set(order[96:] if name == "uneven" else [])
            assert first & second == whole
    plain = fit(*counted.plain_state(), epochs=2)
    for found in every:
        for line, wanted in zip(found["fit"]["history"], plain.history, strict=True):
            assert line == pytest.approx(wanted, rel=1e-5, abs=1e-5)
        assert "the loader gives each process its own batches" in found["other order"]
        if written:
            alone = counted.reader_of(written[0])
            one = fit(*counted.plain_state(), alone, **counted.ONE_EPOCH)
            for line, wanted in zip(found["reader"]["history"], one.history, strict=True):
                assert line == pytest.approx(wanted, rel=1e-5, abs=1e-5)
            assert "process_index=0, process_count=1, and the batch_size" in found["own reader"]
    # Stopped by two processes within the second epoch, it goes on in one.
    options = {**counted.ONE_EPOCH, "epochs": 3}
    unbroken = fit(
        *counted.plain_state(), counted.loader_of(counted.Counted(tmp_path / "a")), **options
    )
    more = {"checkpoint": tmp_path / "checkpoints", **options}
    with pytest.raises(ValueError, match="does not give the batches again"):
        fit(
            *counted.plain_state(),
            counted.loader_of(data.Subset(counted.Counted(tmp_path / "b"), range(111, -1, -1))),
            **more,
        )
    resumed = fit(
        *counted.plain_state(), counted.loader_of(counted.Counted(tmp_path / "c")), **more
    )
    assert_close(resumed, unbroken)


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


@pytest.mark.parametrize(("how", "wanted"), [("sys.exit(3)", 3), ("exit('a word about why')", 1)])
def test_sys_exit_ends_all_while_another_waits_for_a_sum(tmp_path, how, wanted):
    program = tmp_path / "program.py"
    program.write_text(
        "import sys\n"
        "from jaxnet import train\n"
        "train.init_processes()\n"
        "import jax, numpy as np\n"
        "from jax.experimental import multihost_utils\n"
        "multihost_utils.process_allgather(np.zeros(1))\n"
        "try:\n"
        "    sys.exit(4)\n"
        "except SystemExit as stop:\n"
        "    assert stop.code == 4\n"  # who looks at the status is no end
        "if jax.process_index() == 1:\n"
        "    try:\n"
        f"        {how}\n"
        "    finally:\n"
        f"        open({str(tmp_path)!r} + '/cleaned', 'w').close()\n"
        "multihost_utils.process_allgather(np.zeros(1))\n"
    )
    status, _, err = ended(2, [program])
    assert status == wanted  # JAX would wait for five minutes, and abort
    assert f"process 1 of 2 ended with status {wanted}; the other was stopped" in err
    if wanted == 1:
        assert "[process 1] a word about why" in err
    assert (tmp_path / "cleaned").exists()


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


def test_a_second_signal_kills_every_process_at_once(tmp_path):
    """One that waits in C++ for the others sees no signal, as this one that ignores it."""
    program = tmp_path / "program.py"
    program.write_text(
        "import os, signal, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        f"with open({str(tmp_path)!r} + '/ready' + os.environ['RANK'], 'w') as file:\n"
        "    file.write(str(os.getpid()))\n"
        "time.sleep(600)\n"
    )
    running = launched(2, [program])
    ready = [tmp_path / f"ready{i}" for i in range(2)]
    while not all(each.exists() and each.read_text() for each in ready):
        time.sleep(0.05)
    running.send_signal(signal.SIGTERM)
    running.send_signal(signal.SIGTERM)  # at once, as `timeout` does: it is the same
    time.sleep(1)
    assert running.poll() is None
    running.send_signal(signal.SIGTERM)
    _, err = running.communicate(timeout=60)
    assert running.returncode == 128 + signal.SIGKILL
    assert "was killed by SIGKILL" in err
    assert "give the same command again" not in err
    for each in ready:
        with pytest.raises(ProcessLookupError, match="No such process"):
            os.kill(int(each.read_text()), 0)


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
