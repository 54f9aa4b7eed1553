"""Windows of a Visdom server, drawn while training goes on."""

import math
import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any
from urllib.parse import urlparse

import jax
import numpy as np
from numpy.typing import ArrayLike

from jaxnet._checks import check_integer
from jaxnet.train._values import scalars

_SECONDS = 5.0  # how long a server may take for an answer

Line = Mapping[str, Any]
Points = tuple[list[float], list[float]]


class Visdom:
    """Lines, images and text in the windows of a Visdom server.

    As part of `Records` it appends each metric to a line: "loss" and "val_loss" share the
    window "loss", over the epochs; with `every_step`, the window "loss_by_step" shows the
    values of the steps too. Values that are not finite are left out. A run replaces what its
    windows showed before, when it begins and when it is resumed.

    Training never waits for the server: a thread sends what has gathered. If the server
    goes away during a run, one warning says so, and nothing more is sent.

        board = train.Visdom(port=8097)
        train.fit(..., records=train.Records("runs/digits", board))
        board.images(x[:10], "x")
        board.text(str(predicted[:10]), "predicted")
        board.close()

    Args:
        server: The address of the server, without the port.
        port: The port of the server.
        env: The name of the set of windows, which Visdom calls environment.

    Raises:
        ConnectionError: No Visdom server answers at the address.
        ImportError: The package visdom is not installed.
        ValueError: The address or the port is malformed.
    """

    def __init__(
        self, server: str = "http://localhost", port: int = 8097, env: str = "main"
    ) -> None:
        self._client = _connect(server, port, env)
        self._place = f"{server}:{port}"
        # The lock is for the next four, which the thread and the run share. Points gather by
        # window, axis and name. Of the images and texts for one window only the newest is sent.
        self._lock = threading.Lock()
        self._points: dict[tuple[str, str, str], Points] = {}
        self._contents: dict[str, Callable[[], object]] = {}
        self._thread: threading.Thread | None = None
        self._lost: Exception | None = None
        self._warned = False
        self._drawn: set[str] = set()  # the windows that this run has replaced

    def open(self, kept: Sequence[Line], step: int) -> None:
        """Begins new lines in all windows.

        Args:
            kept: The records of a resumed run, with which its lines begin.
            step: The number of steps that are done; not used here.
        """
        # What is still being sent belongs to the earlier lines, so it has to arrive first.
        self.close()
        self._drawn = set()
        self.write(kept)

    def write(self, lines: Sequence[Line], window: str | None = None) -> None:
        """Appends the numbers of epochs or of steps.

        Args:
            lines: The records. One with the name "epoch" is an epoch's, any other a step's.
            window: The window for all these numbers, a line for each name; None gives each metric
                its own.
        """
        with self._lock:
            for line in lines:
                axis = "epoch" if "epoch" in line else "step"
                for name, value in scalars(line).items():
                    if math.isfinite(value):
                        home = window or name.removeprefix("val_")
                        x, y = self._points.setdefault((home, axis, name), ([], []))
                        x.append(line[axis])
                        y.append(value)
        self._send()

    def images(self, images: ArrayLike, window: str = "images", columns: int = 8) -> None:
        """Shows images in a grid, instead of the images that the window showed before.

        Args:
            images: The images (N, C, H, W), with one or three channels, uint8 or floats from
                0 to 1.
            window: The name of the window, which is its title too.
            columns: The number of images in a row.

        Raises:
            TypeError: The images are integers other than uint8.
            ValueError: The images have another shape, or floats outside of 0 to 1.
        """
        self._show(window, self._client.image, _grid(np.asarray(images), columns))

    def text(self, text: str, window: str = "text") -> None:
        """Shows a text, instead of the text that the window showed before.

        Args:
            text: The text, which may be HTML.
            window: The name of the window, which is its title too.
        """
        self._show(window, self._client.text, text)

    def _show(self, window: str, show: Callable[..., object], content: Any) -> None:
        with self._lock:
            self._contents[window] = partial(show, content, win=window, opts={"title": window})
        self._send()

    def close(self) -> None:
        """Waits until everything is sent. The object can be used again afterwards."""
        if (thread := self._thread) is not None:
            thread.join()
        self._warn_once()

    def _send(self) -> None:
        """Starts the thread, unless it runs or the server is lost."""
        with self._lock:
            if self._lost is not None:
                self._points, self._contents = {}, {}
            elif self._thread is None and (self._points or self._contents):
                self._thread = threading.Thread(target=self._send_all, name="visdom")
                self._thread.start()
        self._warn_once()

    def _warn_once(self) -> None:
        if self._lost is not None and not self._warned:
            self._warned = True
            warnings.warn(
                f"the Visdom server at {self._place} is lost ({_reason(self._lost)}): it shows "
                "nothing new of this run, which goes on; its other records are complete",
                stacklevel=3,
            )

    def _send_all(self) -> None:
        while True:
            with self._lock:
                points, self._points = self._points, {}
                contents, self._contents = self._contents, {}
                # Under the same lock as `_send` looks for a thread: what is added from now on
                # starts a new one.
                if not points and not contents:
                    self._thread = None
                    return
            try:
                for key, (x, y) in points.items():
                    self._append(*key, np.array(x), np.array(y))
                for show in contents.values():
                    show()
            except Exception as error:  # an error of the display must not end the run
                with self._lock:
                    self._lost, self._thread = error, None
                return

    def _append(self, metric: str, axis: str, name: str, x: np.ndarray, y: np.ndarray) -> None:
        window = metric if axis == "epoch" else f"{metric}_by_step"
        known = window in self._drawn
        self._drawn.add(window)
        self._client.line(
            y,
            x,
            win=window,
            name=name,
            update="append" if known else None,
            opts={
                "title": metric,
                "xlabel": axis,
                "ylabel": metric,
                "showlegend": True,
                "markers": axis == "epoch",
                "markersize": 5,
            },
        )


def _connect(server: str, port: int, env: str) -> Any:
    """A client of Visdom, after the server has answered it, with the errors of `Visdom`."""
    check_integer("port", port, least=1, most=65535)
    parsed = urlparse(server if "://" in server else f"http://{server}")
    has_port = ":" in parsed.netloc.rpartition("]")[2]  # a colon within [::1] is none of a port
    if not parsed.netloc or has_port or parsed.path.strip("/"):
        raise ValueError(
            f"server: {server!r}; accepted is an address such as 'http://localhost', without "
            "a path or port (give that as port=)"
        )
    try:
        import requests
        import visdom
    except ImportError as error:
        raise ImportError(
            f'visdom needs its package ({error}): pip install "setuptools<81" wheel && '
            "pip install --no-build-isolation visdom"
        ) from error

    session = requests.Session()

    class Client(visdom.Visdom):  # type: ignore[misc]  # it has no types
        """Visdom's client with a time limit and a check of the answer, which it lacks."""

        def _handle_post(self, url: str, data: Any = None) -> str:
            answer = session.post(url, data=data or {}, timeout=_SECONDS)
            answer.raise_for_status()
            return str(answer.text)

    # With send=True from the start the client would listen to the server in a thread of its
    # own, or print a warning.
    client = Client(
        server, port=port, env=env, send=False, use_incoming_socket=False, raise_exceptions=True
    )
    client.send = True
    try:
        client.get_env_list()
    except (ConnectionError, ValueError) as error:
        raise ConnectionError(
            f"visdom: no server (without login) answers at {server}, port {port}: "
            f"{_reason(error)}; start one by `visdom -port {port}`, or name another by "
            "Visdom(server=..., port=...)"
        ) from error
    return client


def _reason(error: BaseException) -> BaseException:
    """The cause of an error, which Visdom hides behind "Error connecting to Visdom server"."""
    return error.__context__ or error


def _grid(images: np.ndarray, columns: int) -> np.ndarray:
    """Images side by side, with white lines between them: uint8 (C, height, width)."""
    if images.ndim != 4 or images.shape[1] not in (1, 3) or not images.size:
        raise ValueError(
            f"images: shape {images.shape}; accepted is (N, C, H, W) with one or three channels"
        )
    if columns < 1:
        raise ValueError(f"columns: {columns}; a row has at least one image")
    if jax.numpy.issubdtype(images.dtype, np.floating):
        if not (images.min() >= 0 and images.max() <= 1):
            raise ValueError(
                f"images: floats from {images.min():g} to {images.max():g}; accepted are those "
                "from 0 to 1 (undo the normalisation), or uint8"
            )
        images = np.rint(images.astype(np.float32) * 255).astype(np.uint8)
    if images.dtype != np.uint8:
        raise TypeError(f"images: {images.dtype}; accepted are uint8, and floats from 0 to 1")
    n, c, h, w = images.shape
    columns = min(columns, n)
    rows = -(-n // columns)
    blank = np.full((rows * columns - n, c, h, w), 255, np.uint8)
    cells = np.concatenate([images, blank])
    cells = np.pad(cells, ((0, 0), (0, 0), (0, 2), (0, 2)), constant_values=255)
    cells = cells.reshape(rows, columns, c, h + 2, w + 2)
    # (rows, columns, C, h, w) -> (C, rows * h, columns * w), without the last line
    return cells.transpose(2, 0, 3, 1, 4).reshape(c, rows * (h + 2), -1)[:, :-2, :-2]
