"""jaxnet/train/_visdom.py, against a real server."""

import base64
import http.server
import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
import warnings
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from jaxnet import losses, nn, optim, train
from jaxnet.random import Generator
from jaxnet.train import Records, Visdom
from jaxnet.train import _records as records_module
from jaxnet.train import _visdom as visdom

pytestmark = pytest.mark.visdom
HOST = "http://127.0.0.1"
LINES = [
    {"epoch": 1, "step": 10, "loss": 0.5, "val_loss": 0.75, "confusion": [[1, 0], [0, 1]]},
    {"epoch": 2, "step": 20, "loss": 0.25, "val_loss": 0.5, "confusion": [[1, 0], [0, 1]]},
    {"epoch": 3, "step": 30, "loss": 0.125, "val_loss": float("nan"), "confusion": [[1, 1]]},
]


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def start(folder: Path) -> tuple[subprocess.Popen, int]:
    """A server; the command `visdom` would first fetch its pages' scripts."""
    port = free_port()
    code = "from visdom.server.run_server import main; main()"
    words = ["-port", str(port), "--hostname", "127.0.0.1", "-env_path", str(folder)]
    with open(folder / "log", "w") as log:
        server = subprocess.Popen([sys.executable, "-c", code, *words], stdout=log, stderr=log)
    for _ in range(600):
        try:
            ask(port, "env_state", {})
            return server, port
        except OSError:
            if server.poll() is not None:
                break
            time.sleep(0.1)
    server.kill()
    raise RuntimeError((folder / "log").read_text())


def ask(port: int, endpoint: str, message: dict) -> object:
    data = json.dumps(message).encode()
    with urllib.request.urlopen(f"{HOST}:{port}/{endpoint}", data, timeout=10) as answer:
        return json.loads(answer.read())


@pytest.fixture(scope="module")
def port(tmp_path_factory):
    server, port = start(tmp_path_factory.mktemp("visdom"))
    yield port
    server.kill()
    server.wait()


def windows(port: int, env: str) -> dict:
    return ask(port, "win_data", {"win": None, "eid": env})


def drawn(port: int, env: str) -> dict[str, dict[str, list]]:
    """{window: {line: [x, y]}} of an environment."""
    return {
        name: {line["name"]: [line["x"], line["y"]] for line in window["content"]["data"]}
        for name, window in windows(port, env).items()
    }


def fit(folder: Path, board: Visdom, epochs: int, **options) -> train.Result:
    x = np.random.RandomState(0).standard_normal((40, 3)).astype(np.float32)
    rows = x, x.sum(1, keepdims=True)
    optimizer, loss = optim.SGD(lr=0.05), train.supervised(losses.mse_loss)
    return train.fit(
        train.create(nn.Linear(3, 1, rngs=Generator(0)), optimizer),
        train.make_train_step(loss, optimizer),
        rows,
        epochs=epochs,
        batch_size=8,
        validation=rows,
        eval_step=train.make_eval_step(loss),
        records=Records(folder, board, every_step=True),
        compilation_cache=False,
        quiet=True,
        **options,
    )


def test_a_run_and_the_one_that_goes_on_draw_what_they_write(port, tmp_path):
    for epochs in (2, 5):
        board = Visdom(HOST, port, env="fit")
        result = fit(tmp_path, board, epochs, checkpoint=tmp_path / "checkpoints")
    history = [json.loads(text) for text in (tmp_path / "history.jsonl").read_text().splitlines()]
    seen = drawn(port, "fit")
    count = list(range(1, 6))
    assert seen["loss"]["loss"] == [count, [line["loss"] for line in result.history]]
    assert seen["loss"]["val_loss"] == [count, [line["val_loss"] for line in result.history]]
    losses_by_step = [line["loss"] for line in history if "epoch" not in line]
    assert len(losses_by_step) == 25
    assert seen["loss_by_step"] == {"loss": [list(range(1, 26)), losses_by_step]}
    assert set(seen) == {"loss", "loss_by_step", "lr", "seconds", "samples_per_second"}
    layout = windows(port, "fit")["loss"]["content"]["layout"]
    assert layout["showlegend"]
    assert [layout[key] for key in ("title", "xaxis", "yaxis")] == [
        "loss", {"title": "epoch"}, {"title": "loss"}
    ]  # fmt: skip


def test_what_a_killed_run_drew_after_its_checkpoint_goes(port, tmp_path):
    for kept, lines in ((0, LINES), (1, LINES[1:2])):
        records = Records(tmp_path, Visdom(HOST, port, env="killed"))
        records.open(kept, 10 * kept, resume=bool(kept))
        for line in lines:
            records.epoch(line)
        records.close()
        ends = [line["loss"] for line in [*LINES[:kept], *lines]]
        seen = drawn(port, "killed")
        assert set(seen) == {"loss"}
        assert seen["loss"]["loss"] == [list(range(1, len(ends) + 1)), ends]
        assert seen["loss"]["val_loss"] == [[1, 2], [0.75, 0.5]]  # nan is left out


def test_records_by_name_draw_in_the_folders_environment(port, tmp_path, monkeypatch):
    class Here(Visdom):
        def __init__(self, env: str) -> None:
            super().__init__(HOST, port, env)

    monkeypatch.setattr(records_module, "Visdom", Here)
    records = Records(tmp_path / "digits", "csv", "visdom")
    records.open(0, 0)
    records.epoch(LINES[0])
    records.close()
    assert drawn(port, "digits") == {"loss": {"loss": [[1], [0.5]], "val_loss": [[1], [0.75]]}}


def shades(channels: int) -> np.ndarray:
    return np.arange(5 * channels * 6, dtype=np.uint8).reshape(5, channels, 2, 3) * 2


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", ["uint8", "float32", "jax bfloat16"])
def test_images_in_a_grid(port, channels, kind):
    from PIL import Image

    given, expected = shades(channels), shades(channels)
    if kind == "float32":
        given = given.astype(np.float32) / 255
    if kind == "jax bfloat16":
        given = jnp.asarray(given / 255, jnp.bfloat16)
        expected = np.rint(np.asarray(given, np.float32) * 255)
    board = Visdom(HOST, port, env="images")
    board.images(np.zeros((1, 1, 9, 9)), "x")
    board.images(given, "x", columns=3)
    board.close()
    window = windows(port, "images")["x"]
    assert window["title"] == "x"
    source = window["content"]["src"].removeprefix("data:image/png;base64,")
    seen = np.asarray(Image.open(io.BytesIO(base64.b64decode(source))))
    assert seen.shape == (2 * 2 + 2, 3 * 3 + 4, 3)
    for i, image in enumerate(expected):
        top, left = i // 3 * 4, i % 3 * 5
        cell = seen[top : top + 2, left : left + 3]
        np.testing.assert_array_equal(cell, np.broadcast_to(image.transpose(1, 2, 0), cell.shape))
    assert (seen[2:4] == 255).all()
    assert (seen[:, 3:5] == 255).all()
    assert (seen[4:, 10:] == 255).all()  # where the sixth would be


@pytest.mark.parametrize(
    ("images", "columns", "error", "words"),
    [
        (np.zeros((2, 3, 3)), 8, ValueError, r"shape \(2, 3, 3\); accepted is \(N, C, H, W\)"),
        (np.zeros((2, 4, 3, 3)), 8, ValueError, "one or three channels"),
        (np.zeros((0, 3, 3, 3)), 8, ValueError, r"shape \(0, 3, 3, 3\)"),
        (np.full((1, 1, 2, 2), -0.5), 8, ValueError, "floats from -0.5 to -0.5; accepted"),
        (np.full((1, 1, 2, 2), np.nan), 8, ValueError, "floats from nan to nan"),
        (np.zeros((1, 1, 2, 2), int), 8, TypeError, "int64; accepted are uint8"),
        (np.zeros((1, 1, 2, 2)), 0, ValueError, "columns: 0; a row has at least one"),
    ],
)
def test_images_that_cannot_be_shown(port, images, columns, error, words):
    with pytest.raises(error, match=words):
        Visdom(HOST, port).images(images, columns=columns)


def test_the_newest_text_is_shown(port):
    board = Visdom(HOST, port, env="text")
    for text in ("[7 2]", "[7 1]"):
        board.text(text, "predicted")
        board.close()
    assert windows(port, "text")["predicted"]["content"] == "[7 1]"


def test_no_server_is_one_error_that_says_how_to_start_it(tmp_path):
    port = free_port()
    words = rf"no server \(without login\) answers at {HOST}, port {port}: .*refused.*`visdom -port"
    with pytest.raises(ConnectionError, match=words):
        Records(tmp_path / "run", Visdom(HOST, port))
    assert not (tmp_path / "run").exists()


def test_a_server_of_something_else_is_told_apart():
    other = http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler)
    other.RequestHandlerClass.log_message = lambda *words: None
    threading.Thread(target=other.serve_forever, daemon=True).start()
    with pytest.raises(ConnectionError, match=r"no server .* 501 Server Error"):
        Visdom(HOST, other.server_port)
    other.shutdown()
    other.server_close()


@pytest.mark.parametrize(
    ("server", "port", "words"),
    [
        ("http://localhost:8097", 8097, r"without a path or port \(give that as port=\)"),
        ("http://localhost/visdom", 8097, "without a path or port"),
        ("", 8097, "server: ''; accepted is an address such as"),
        ("http://localhost", 0, "port: 0; accepted is an integer from 1 to 65535"),
        ("http://localhost", "8097", "port: '8097'; accepted is an integer"),
    ],
)
def test_addresses_that_cannot_be_one(server, port, words):
    with pytest.raises(ValueError, match=words):
        Visdom(server, port)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_a_server_that_goes_away_is_warned_of_once_and_the_run_goes_on(tmp_path, monkeypatch, how):
    monkeypatch.setattr(visdom, "_SECONDS", 0.5)
    server, port = start(tmp_path)
    board = Visdom(HOST, port, env="lost")

    def lose(report: train.EpochReport) -> None:
        if report.epoch == 2:
            board.close()  # so that it knows of the first epoch
            os.kill(server.pid, how)
            if how == signal.SIGKILL:
                server.wait()

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = fit(tmp_path / "run", board, 30, callbacks=[lose])
        board.text("after")
        board.close()
    assert [str(w.message) for w in caught if "is lost" in str(w.message)] == [
        str(w.message) for w in caught
    ]
    assert len(caught) == 1
    assert f"the Visdom server at {HOST}:{port} is lost" in str(caught[0].message)
    lines = (tmp_path / "run" / "history.jsonl").read_text().splitlines()
    epochs = [json.loads(text) for text in lines if '"epoch"' in text]
    assert [line["loss"] for line in epochs] == [line["loss"] for line in result.history]
    assert len(epochs) == 30
    assert result.reason == "done"
    server.kill()
    server.wait()
