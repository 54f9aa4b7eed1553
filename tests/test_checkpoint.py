"""jaxnet/checkpoint: whole checkpoints or none, and errors that say what is wrong."""

import hashlib
import json
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnet import losses, nn, optim, train
from jaxnet.checkpoint import Checkpoints, DamagedError
from jaxnet.random import Generator
from tests import forked


def make_state(width: int = 4, optimizer=None) -> train.TrainState:
    g = Generator(0)
    model = nn.Sequential(nn.Linear(3, width, rngs=g), nn.BatchNorm1d(width))
    return train.create(model, optimizer or optim.Adam(lr=0.1), seed=7)


def assert_same(a, b) -> None:
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert x.dtype == y.dtype
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            x, y = jax.random.key_data(x), jax.random.key_data(y)
        np.testing.assert_array_equal(x, y)


def saved(folder: Path, *steps: int, **options) -> train.TrainState:
    state = make_state()
    with Checkpoints(folder, **options) as run:
        for step in steps:
            run.save(step, state, metrics={"loss": abs(step - 3)})
    return state


def test_a_training_state_comes_back_with_all_that_belongs_to_it(tmp_path):
    optimizer = optim.Adam(lr=0.1)
    state = make_state(optimizer=optimizer)
    loss = train.supervised(losses.mse_loss)
    epoch = train.make_epoch(train.make_train_step(loss, optimizer), 4)
    data = jnp.ones((8, 3)), jnp.ones((8, 4))
    state, _ = epoch(state, data, jnp.arange(8))
    generator = Generator(3)
    generator.randn(3)
    with Checkpoints(tmp_path / "run") as run:
        run.save(
            2,
            state,
            metrics={"loss": np.float32(0.5)},
            config={"lr": 0.1},
            host={"generator": generator.get_state().tobytes(), "epoch": 1, "at": [1, None]},
            arrays={"losses": np.arange(3.0), "none": np.zeros((0, 3), np.int8)},
        )
        epoch(state, data, jnp.arange(8))  # the state is given up while it is being written
    back = Checkpoints(tmp_path / "run").restore(make_state(optimizer=optimizer))
    again, _ = epoch(make_state(optimizer=optimizer), data, jnp.arange(8))
    assert_same(back.state, again)
    assert (back.step, back.metrics, back.config) == (2, {"loss": 0.5}, {"lr": 0.1})
    assert (back.host["epoch"], back.host["at"]) == (1, [1, None])
    drawn = Generator(0).set_state(np.frombuffer(back.host["generator"], np.uint8)).rand(5)
    np.testing.assert_array_equal(drawn, generator.rand(5))
    np.testing.assert_array_equal(back.arrays["losses"], np.arange(3.0))
    assert back.arrays["none"].shape == (0, 3)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "bool", "int8", "uint32", "complex64"])
def test_dtypes_and_odd_shapes(tmp_path, dtype):
    tree = {
        "a": jnp.ones((2, 1, 3), dtype),
        "b": (jnp.zeros((), dtype), None, np.ones(2, dtype)),
        "none": jnp.zeros((0, 2), dtype),
        "keys": jax.random.split(jax.random.key(1, impl="rbg"), 3),
        "number": 3,
    }
    with Checkpoints(tmp_path / "x") as run:
        run.save(0, tree)
        back = run.restore(tree).state
    assert back.pop("number") == tree.pop("number")
    assert_same(back, tree)
    assert isinstance(back["b"][2], np.ndarray)


def test_names_that_collide_stay_apart(tmp_path):
    tree = {"a.b": {"c": jnp.ones(1)}, "a": {"b.c": jnp.zeros(2)}}
    with Checkpoints(tmp_path) as run:
        run.save(0, tree)
        assert_same(run.restore(tree).state, tree)


def test_the_newest_and_the_best_stay(tmp_path):
    saved(tmp_path, 1, 2, 3, 4, 5, 6, keep=2, best="loss")
    run = Checkpoints(tmp_path, best="loss")
    assert run.steps() == [3, 5, 6]
    assert run.best_step() == 3
    assert Checkpoints(tmp_path, best="loss", mode="max").best_step() == 6
    with pytest.raises(ValueError, match="which way 'gap' gets better; give mode='max' or 'min'"):
        Checkpoints(tmp_path, best="gap")
    assert (run.mode, Checkpoints(tmp_path, best="val_accuracy").mode) == ("min", "max")
    assert run.restore(make_state()).step == 6
    assert run.restore(make_state(), step=3).metrics == {"loss": 0.0}
    with pytest.raises(FileNotFoundError, match=r"no checkpoint of step 4; there: 3, 5, 6"):
        run.restore(make_state(), step=4)


def test_a_nan_is_never_the_best(tmp_path):
    with Checkpoints(tmp_path, keep=1, best="loss") as run:
        for step, loss in enumerate([2.0, float("nan"), 3.0]):
            run.save(step, {"w": jnp.zeros(1)}, metrics={"loss": loss})
    assert run.steps() == [0, 2]


def test_a_checkpoint_of_the_same_number_is_replaced(tmp_path):
    with Checkpoints(tmp_path) as run:
        run.save(1, {"w": jnp.zeros(1)})
        run.save(1, {"w": jnp.ones(1)})
        assert run.restore({"w": jnp.zeros(1)}).state["w"] == 1
    assert run.steps() == [1]


def test_another_model_is_named_array_by_array(tmp_path):
    saved(tmp_path, 1)
    with pytest.raises(ValueError, match="another model or optimizer") as error:
        Checkpoints(tmp_path).restore(make_state(optimizer=optim.SGD(lr=0.1), width=5))
    text = str(error.value)
    assert "params.0.weight: float32[4, 3] in the checkpoint, float32[5, 3] asked for" in text
    assert "only in the checkpoint: opt_state" in text
    smaller = {"params": {"x": jnp.zeros(1)}}
    with pytest.raises(ValueError, match=r"not in the checkpoint: params\.x"):
        Checkpoints(tmp_path).restore(smaller)


def test_a_folder_that_is_not_ours_stays_untouched(tmp_path):
    (tmp_path / "thesis.tex").write_text("words")
    with pytest.raises(ValueError, match=r"holds thesis\.tex and no .*not a folder of checkpoints"):
        Checkpoints(tmp_path)
    with pytest.raises(ValueError, match="a file; give a folder"):
        Checkpoints(tmp_path / "thesis.tex")
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_reading_makes_no_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no checkpoint"):
        Checkpoints(tmp_path / "none").restore({})
    assert not (tmp_path / "none").exists()


def test_two_writers_at_once(tmp_path):
    with Checkpoints(tmp_path) as first:
        first.claim()
        with pytest.raises(ValueError, match="another process writes"):
            Checkpoints(tmp_path).claim()
    Checkpoints(tmp_path).claim()


def files_of(path: Path) -> list[Path]:
    return sorted(p for p in path.rglob("*") if p.is_file() and p.stat().st_size)


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> tuple[Path, train.TrainState]:
    folder = tmp_path_factory.mktemp("good") / "run"
    return folder, saved(folder, 1, 2)


@pytest.mark.parametrize(
    "how", ["cut", "empty", "first bit", "a bit", "last bit", "longer", "gone"]
)
@pytest.mark.parametrize("number", range(3))
def test_damage_anywhere_is_noticed_and_the_one_before_is_used(tmp_path, caplog, good, number, how):
    folder, state = good
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    files = files_of(copy / "step_0000000002")
    assert [f.name for f in files] == ["SHA256SUMS", "about.json", "arrays-00000.safetensors"]
    broken = files[number]
    content = bytearray(broken.read_bytes())
    match how:
        case "cut":
            content = content[: len(content) // 2]
        case "empty":
            content.clear()
        case "longer":
            content += b"0\n"
        case "first bit":
            content[0] ^= 1
        case "a bit":
            content[len(content) // 2] ^= 0x20
        case "last bit":
            content[-1] ^= 0x80
    broken.write_bytes(content)
    if how == "gone":
        broken.unlink()
    back = Checkpoints(copy).restore(state)
    assert_same(back.state, state)
    assert back.step == 1
    (record,) = caplog.records
    assert (record.name.split(".")[0], record.levelno) == ("jaxnet", logging.WARNING)
    assert "step_0000000002: damaged" in record.message
    assert "looking for an older one" in record.message
    with pytest.raises(DamagedError, match="step_0000000002: damaged"):
        Checkpoints(copy).restore(state, step=2)
    with Checkpoints(copy) as run:  # and the run can go on from there
        run.save(2, state)
        assert run.restore(state).step == 2


@pytest.mark.slow
def test_every_bit_of_the_small_files(tmp_path, good):
    """What a flip of any bit does: nothing is believed, and the one before is used."""
    state = {"w": jnp.ones(2)}
    with Checkpoints(tmp_path) as run:
        for step in (1, 2):
            run.save(step, state)
    for name in ("SHA256SUMS", "about.json"):
        file = tmp_path / "step_0000000002" / name
        whole = file.read_bytes()
        for at in range(0, len(whole) * 8, 5):  # all of them were tried once
            broken = bytearray(whole)
            broken[at // 8] ^= 1 << at % 8
            file.write_bytes(broken)
            assert run.restore(state).step == 1, (name, at)
        file.write_bytes(whole)
    assert run.restore(state).step == 2


def test_all_damaged(tmp_path):
    state = saved(tmp_path, 1, 2)
    for step in (1, 2):
        (tmp_path / f"step_{step:010d}" / "about.json").write_text("{")
    with pytest.raises(
        DamagedError, match=r"step_0000000002: damaged.*step_0000000001: damaged.*; remove .* anew$"
    ):
        Checkpoints(tmp_path).restore(state)


def test_a_killed_writer_leaves_nothing_that_counts(tmp_path):
    state = saved(tmp_path, 1, 2)
    shutil.copytree(tmp_path / "step_0000000002", tmp_path / ".step_0000000003.partial")
    shutil.copytree(tmp_path / "step_0000000002", tmp_path / ".step_0000000000.gone")
    os.rename(tmp_path / "step_0000000002", tmp_path / ".step_0000000002.replaced")
    run = Checkpoints(tmp_path)
    assert run.steps() == [1]
    run.claim()
    run.close()
    assert run.restore(state).step == 2
    assert sorted(p.name for p in tmp_path.iterdir() if p.name.startswith(".")) == [".lock"]


def test_a_file_system_that_refuses(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="the folder cannot be written"):
        Checkpoints(tmp_path / "file" / "run").save(1, make_state())


@pytest.mark.parametrize("target", [1, 2, 3, 4])
def test_a_sharded_array_is_saved_and_restored_part_by_part(tmp_path, target):
    devices = np.array(jax.devices()[:4])
    mesh = jax.sharding.Mesh(devices.reshape(2, 2), ("a", "b"))

    def sharding(*axes):
        return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*axes))

    whole = np.arange(48, dtype=np.float32).reshape(4, 12)
    state = {
        "split": jax.device_put(whole, sharding("a", "b")),
        "rows": jax.device_put(whole.astype("bfloat16"), sharding(("a", "b"))),
        "copied": jax.device_put(whole[:, 0], sharding()),
        "one": jnp.float32(3),
    }
    with Checkpoints(tmp_path) as run:
        run.save(1, state)
    about = json.loads((tmp_path / "step_0000000001" / "about.json").read_text(encoding="utf-8"))
    shapes = {
        name: [part["shape"] for part in array["parts"]] for name, array in about["arrays"].items()
    }
    assert shapes == {
        "state/split": [[2, 6]] * 4,
        "state/rows": [[1, 12]] * 4,
        "state/copied": [[4]],
        "state/one": [[]],
    }
    other = {
        1: sharding("a", "b"),
        2: sharding("b", "a"),
        3: sharding(None, "a"),
        4: jax.sharding.SingleDeviceSharding(devices[3]),
    }[target]
    like = state | {"split": jax.ShapeDtypeStruct((4, 12), jnp.float32, sharding=other)}
    back = run.restore(like).state
    assert_same(back, state)
    assert back["split"].sharding == other
    assert back["rows"].sharding == state["rows"].sharding
    assert back["copied"].sharding == state["copied"].sharding
    assert not back["one"].committed  # so that it can be used beside the others
    jax.jit(lambda s: s["one"] * s["copied"])(state | {"one": back["one"]})


def test_safetensors_reads_the_arrays(tmp_path):
    from safetensors.numpy import load_file

    with Checkpoints(tmp_path) as run:
        run.save(1, {"w": jnp.arange(3.0)}, arrays={"x": np.int64([1, 2])})
    arrays = load_file(tmp_path / "step_0000000001" / "arrays-00000.safetensors")
    assert {name: array.tolist() for name, array in arrays.items()} == {
        "state/w": [0, 1, 2],
        "arrays/x": [1, 2],
    }


def test_the_checksums_are_those_of_sha256sum(tmp_path, good):
    folder, _ = good
    if shutil.which("sha256sum") is None:
        pytest.skip("needs the command sha256sum")
    subprocess.run(
        ["sha256sum", "--check", "--strict", "SHA256SUMS"],
        cwd=folder / "step_0000000001",
        check=True,
        capture_output=True,
    )


def test_checkpoints_of_another_format_or_hand(tmp_path):
    state = {"w": jnp.zeros(1)}
    older = tmp_path / "older" / "step_0000000001"
    (older / "arrays").mkdir(parents=True)
    (older / "about.json").touch()
    (older.parent / "jaxnet-checkpoints.json").touch()
    with pytest.raises(ValueError, match="checkpoints of format 1; this jaxnet reads format 2"):
        Checkpoints(older.parent)
    foreign = tmp_path / "foreign" / "step_0000000001"
    (foreign / "state").mkdir(parents=True)
    with pytest.raises(ValueError, match="not a checkpoint of jaxnet; give another folder"):
        Checkpoints(foreign.parent)
    with Checkpoints(tmp_path / "run") as run:
        run.save(1, state)
    about = run.folder / "step_0000000001" / "about.json"
    written = json.loads(about.read_text(encoding="utf-8"))
    for change, error in (({"format": 3}, "format 3"), ({"arrays": None}, "it lacks arrays")):
        content = written | change
        content = {name: value for name, value in content.items() if value is not None}
        about.write_text(json.dumps(content), encoding="utf-8")
        sums = "".join(
            f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}\n"
            for file in (about, about.with_name("arrays-00000.safetensors"))
        )
        about.with_name("SHA256SUMS").write_text(sums, encoding="utf-8")
        with pytest.raises(ValueError, match=error):
            run.restore(state)


def changed(value, path, new):
    """A copy of a JSON value with something else at a path; KeyError takes it away."""
    if not path:
        return new
    copy = dict(value) if isinstance(value, dict) else list(value)
    if new is KeyError and len(path) == 1:
        del copy[path[0]]
    else:
        copy[path[0]] = changed(value[path[0]], path[1:], new)
    return copy


def paths_of(value, path=()):
    yield path
    if isinstance(value, dict | list):
        for key, part in value.items() if isinstance(value, dict) else enumerate(value):
            yield from paths_of(part, (*path, key))


ODD = (None, {}, [], "x", -1, 2**70, 1.5, [1], {"a": 1}, True, KeyError, "O", "../x")


def test_about_of_another_hand_is_damaged_or_read_and_never_a_bare_error(tmp_path, caplog):
    """With checksums that are right: every value of about.json exchanged for every odd one."""
    caplog.set_level(logging.ERROR)
    state = {"w": np.arange(2.0), "k": jax.random.key(0)}
    with Checkpoints(tmp_path) as run:
        run.save(1, state, metrics={"a": 1.0}, host={"b": b"x"}, arrays={"h": np.arange(3)})
    about = tmp_path / "step_0000000001" / "about.json"
    written = json.loads(about.read_text(encoding="utf-8"))
    done = {"read": 0, "refused": 0}
    for path in paths_of(written):
        for odd in ODD if path else ODD[:3]:
            about.write_text(json.dumps(changed(written, path, odd)), encoding="utf-8")
            sums = "".join(
                f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}\n"
                for file in (about, about.with_name("arrays-00000.safetensors"))
            )
            about.with_name("SHA256SUMS").write_text(sums, encoding="utf-8")
            try:
                back = run.restore(state)
            except ValueError:  # DamagedError, or another format or model
                done["refused"] += 1
            else:
                done["read"] += 1
                assert back.step == 1
                assert_same(back.state, state)
    assert done["refused"] > 300
    assert done["read"] > 50


def test_a_number_below_zero_is_refused(tmp_path):
    """A counter of 32 bits that ran over must not become a checkpoint that nobody finds."""
    with pytest.raises(ValueError, match="step: -2147483648; accepted is an integer, at least 0"):
        Checkpoints(tmp_path).save(-(2**31), {"w": jnp.zeros(1)})


@pytest.mark.parametrize("step", [1.7, 2.0, True, "3", None, np.ones(1, int)])
def test_a_number_that_is_no_integer_is_refused(step, tmp_path):
    with pytest.raises(ValueError, match=r"step: .*accepted is an integer, at least 0"):
        Checkpoints(tmp_path).save(step, {"w": jnp.zeros(1)})
    assert Checkpoints(tmp_path).steps() == []


def test_what_cannot_be_saved_is_named(tmp_path):
    run = Checkpoints(tmp_path)
    with pytest.raises(TypeError, match="w: object; accepted are arrays and numbers"):
        run.save(1, {"w": object()})
    with pytest.raises(TypeError, match=r"set .* cannot be saved; JSON does not take it"):
        run.save(1, {}, config={"a": {1}})
    run.save(1, {}, host={"base64": "x", "bytes": b"\0x"})
    assert run.restore({}).host == {"base64": "x", "bytes": b"\0x"}
    run.close()
    assert run.steps() == [1]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_killed_run_restarts_beside_its_living_workers(tmp_path):
    """Eight times over: a forked loader's worker outlives a run and has nothing of its lock."""
    program = f"""
import os, time
from jaxnet.checkpoint import Checkpoints
workers = []
for _ in range(8):
    read, write = os.pipe()
    run = os.fork()
    if run == 0:
        Checkpoints({str(tmp_path)!r}).claim()
        worker = os.fork()
        if worker == 0:
            time.sleep(600)
        os.write(write, b"%d" % worker)
        os.kill(os.getpid(), 9)
    os.close(write)
    print(os.waitstatus_to_exitcode(os.waitpid(run, 0)[1]))
    workers.append(int(os.read(read, 20) or -1))
for worker in workers:
    if worker < 0:  # the run could not claim the folder; a signal to -1 would go to everyone
        continue
    os.kill(worker, 0)  # it lives
    os.kill(worker, 9)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "-9\n" * 8, done.stdout + done.stderr
    assert done.stderr == ""


def test_another_process_is_held_off(tmp_path):
    run = Checkpoints(tmp_path)
    run.claim()
    code = f"from jaxnet.checkpoint import Checkpoints; Checkpoints({str(tmp_path)!r}).claim()"
    done = forked.run("-c", code)
    assert "another process writes its checkpoints there" in done.stderr
    run.close()


def test_a_limit_on_file_size_is_a_full_disk(tmp_path):
    """The real thing, as far as a test can have it: the system refuses to write on."""
    program = f"""
import resource, jax.numpy as jnp, numpy as np
from jaxnet.checkpoint import Checkpoints
run = Checkpoints({str(tmp_path)!r})
run.save(1, {{"w": jnp.ones(10)}}); run.wait()
resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))
run.save(2, {{"w": np.random.RandomState(0).rand(10000)}})
try:
    run.wait()
except OSError as error:
    print(error)
print(run.steps(), run.restore({{"w": jnp.ones(10)}}).step)
"""
    done = forked.run("-c", program)
    assert "the disk is full" in done.stdout, done.stdout + done.stderr
    assert done.stdout.endswith("[1] 1\n"), done.stdout + done.stderr


@pytest.mark.parametrize(
    ("options", "says"),
    [({"keep": 0}, "keep: 0"), ({"keep": True}, "keep: True"), ({"mode": "up"}, "mode: 'up'")],
)
def test_wrong_arguments(tmp_path, options, says):
    with pytest.raises(ValueError, match=says):
        Checkpoints(tmp_path, **options)
