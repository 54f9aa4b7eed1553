"""Windows of a Visdom server, drawn while a run goes on."""

import math
import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import urlparse

import jax
import numpy as np
from numpy.typing import ArrayLike

from jaxnet.train._values import scalars

_SECONDS = 5.0  # the longest that a server may take for one answer

Line = Mapping[str, Any]
Points = tuple[list[float], list[float]]


class Visdom:
    """Lines, images and text in the windows of a Visdom server.

    In `Records` it appends each metric to a line: "loss" and "val_loss" share the window
    "loss", over the epochs; with `every_step`, the window "loss_by_step" has the steps'
    too. Values that are not finite are left out. A window belongs to the run that writes
    to it: its first line, and resuming a run, replace what the window showed before.

    Nothing here waits for the server: a thread sends what has gathered. A server that
    goes away during a run is warned of once, and then left alone.

        board = train.Visdom(port=8097)
        train.fit(..., records=train.Records("runs/digits", board))
        board.images(x[:10], "x")
        board.text(str(predicted[:10]), "predicted")
        board.close()

    Args:
        server: address without a port.
        port: of the server.
        env: Visdom's name for a set of windows.

    Raises:
        ConnectionError: there is no Visdom server.
        ImportError: the package visdom is not installed.
        ValueError: server or port cannot be one.
    """

    def __init__(
        self, server: str = "http://localhost", port: int = 8097, env: str = "main"
    ) -> None:
        self._client = _connect(server, port, env)
        self._place = f"{server}:{port}"
        self._lock = threading.Lock()  # around the next four
        self._points: dict[tuple[str, str, str], Points] = {}  # not sent yet
        self._contents: dict[str, Callable[[], object]] = {}  # images and texts, the same
        self._thread: threading.Thread | None = None
        self._lost: Exception | None = None
        self._warned = False
        self._drawn: set[str] = set()  # windows that this run began

    def open(self, kept: Sequence[Line], step: int) -> None:
        """Begins the lines, with those of a run that goes on."""
        self.close()  # what is on its way belongs to the lines before
        self._drawn = set()
        self.write(kept)

    def write(self, lines: Sequence[Line]) -> None:
        """Appends the numbers of epochs ("epoch" in the line) or steps."""
        with self._lock:
            for line in lines:
                axis = "epoch" if "epoch" in line else "step"
                for name, value in scalars(line).items():
                    if math.isfinite(value):
                        window = name.removeprefix("val_")
                        x, y = self._points.setdefault((window, axis, name), ([], []))
                        x.append(line[axis])
                        y.append(value)
        self._send()

    def images(self, images: ArrayLike, window: str = "images", columns: int = 8) -> None:
        """Shows images in a grid; the newest take the place of those before.

        Args:
            images: (N, C, H, W) with one or three channels, uint8 or floats from 0 to 1.
            window: its name and title.
            columns: images in a row.

        Raises:
            TypeError: integers that are not uint8.
            ValueError: another shape, or floats outside of 0 to 1.
        """
        grid = _grid(np.asarray(images), columns)
        client, title = self._client, {"title": window}
        with self._lock:
            self._contents[window] = lambda: client.image(grid, win=window, opts=title)
        self._send()

    def text(self, text: str, window: str = "text") -> None:
        """Shows a text, which may be HTML, in place of the one before.

        Args:
            text: what to show.
            window: its name and title.
        """
        client, title = self._client, {"title": window}
        with self._lock:
            self._contents[window] = lambda: client.text(text, win=window, opts=title)
        self._send()

    def close(self) -> None:
        """Waits until all is sent. More may be shown afterwards."""
        thread = self._thread
        if thread is not None:
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
                if not points and not contents:
                    self._thread = None
                    return
            try:
                for key, (x, y) in points.items():
                    self._append(*key, np.array(x), np.array(y))
                for show in contents.values():
                    show()
            except Exception as error:  # whatever it is, the run goes on
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
    """Visdom's client, once the server has answered."""
    if isinstance(port, bool) or not isinstance(port, int) or not 0 < port < 65536:
        raise ValueError(f"port: {port!r}; accepted is an integer from 1 to 65535")
    parsed = urlparse(server if "://" in server else f"http://{server}")
    has_port = ":" in parsed.netloc.rpartition("]")[2]  # not one of [::1]'s
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
        """Visdom's own, which takes any answer for success and waits for it for ever."""

        def _handle_post(self, url: str, data: Any = None) -> str:
            answer = session.post(url, data=data or {}, timeout=_SECONDS)
            answer.raise_for_status()
            return str(answer.text)

    # With send=True from the start it would listen to the server in a thread, or warn.
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
    """What Visdom's client hides behind "Error connecting to Visdom server"."""
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
