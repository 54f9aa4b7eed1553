"""The records of a run: the metrics of its epochs and steps, written while it goes on."""

import csv
import io
import json
import logging
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from jaxnet import _files as files
from jaxnet._extras import needed
from jaxnet.train._values import plain, scalars
from jaxnet.train._visdom import Visdom

Line = Mapping[str, Any]
_log = logging.getLogger(__name__)


class Recorder(Protocol):
    """The methods that `fit` calls to record a run: those of `train.Records`."""

    def open(self, epoch: int, step: int, resume: bool) -> None: ...

    def epoch(self, line: Line) -> None: ...

    def steps(self, lines: Sequence[Line]) -> None: ...

    def log(self, lines: Sequence[Line]) -> None: ...

    def close(self) -> None: ...


class Records:
    """Records with a line for each epoch in FOLDER/history.jsonl, and in other formats.

    Lines are flushed one by one, so that the file of a killed run can be read. A run
    that is resumed from a checkpoint first removes the lines that were written after the
    checkpoint, so that no line is there twice. If the checkpoint has no whole epoch, nothing
    tells whose epochs the folder holds: they are kept as FOLDER/history-1.jsonl.

    Args:
        folder: Path of the folder, which is made if it does not exist.
        *also: Further formats: "csv" (FOLDER/history.csv), "tensorboard" (event files in
            FOLDER, read by `tensorboard --logdir FOLDER`), "visdom" (a server on this machine
            at port 8097, with the environment FOLDER's name), or a `Visdom` for another server.
        every_step: Whether each step gets a line too.

    Raises:
        ValueError: A name is unknown.
        ImportError: The package of a format is not installed.
        ConnectionError: No Visdom server answers.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *also: str | Visdom,
        every_step: bool = False,
    ) -> None:
        self.folder = Path(folder).expanduser()
        self.every_step = every_step
        writers: dict[str, Any] = {
            "csv": lambda: _Csv(self.folder / "history.csv"),
            "tensorboard": lambda: _TensorBoard(self.folder),
            "visdom": lambda: Visdom(env=self.folder.resolve().name),
        }
        for name in also:
            if not isinstance(name, Visdom) and name not in writers:
                names = ", ".join(map(repr, writers))
                raise ValueError(f"also: {name!r}; accepted are {names} and a Visdom")
        self._writers: list[Any] = [_Jsonl(self.folder / "history.jsonl")]
        for name in also:
            self._writers.append(name if isinstance(name, Visdom) else writers[name]())

    def open(self, epoch: int, step: int, resume: bool = False) -> None:
        """Begins the records, or continues them after an epoch and a step.

        Args:
            epoch: The number of whole epochs that are done.
            step: The number of steps that are done.
            resume: Whether lines in the folder belong to this run; lines after the epoch and
                the step are then removed.

        Raises:
            ValueError: The folder contains the records of another run.
        """
        file = self.folder / "history.jsonl"
        if not resume and file.exists() and file.stat().st_size:
            raise ValueError(
                f"records: {file} holds another run; give another folder (a run with a "
                "checkpoint folder goes on in its own)"
            )
        self.folder.mkdir(parents=True, exist_ok=True)
        lines = _read_lines(file)
        if epoch == 0 and any("epoch" in line for line in lines):
            number = 1
            while (kept := self.folder / f"history-{number}.jsonl").exists():
                number += 1
            os.rename(file, kept)
            _log.warning("records: %s has epochs that no checkpoint has; kept as %s", file, kept)
        # A run that was killed may have written lines after its last checkpoint. They are
        # removed, since the resumed run writes the same epochs and steps again.
        before = [
            line for line in lines if line.get("epoch", 0) <= epoch and line.get("step", 0) <= step
        ]
        for writer in self._writers:
            writer.open(before, step)

    def check_run(self, history: Sequence[Line]) -> None:
        """Refuses the records of another run than that of a checkpoint; `open` comes after it.

        Args:
            history: The lines of the run's epochs so far, as the checkpoint has them.

        Raises:
            ValueError: An epoch in the folder has other numbers than in the checkpoint.
        """
        file = self.folder / "history.jsonl"
        there = {line["epoch"]: line for line in _read_lines(file) if "epoch" in line}
        for line in map(plain, history):
            recorded = there.get(line["epoch"], line)
            for name, value in line.items():
                if recorded.get(name) != value:
                    raise ValueError(
                        f"records: {file} holds another run than the checkpoints: in epoch "
                        f"{line['epoch']} {name} is {recorded.get(name)!r} there, and {value!r} "
                        "in the checkpoint; give this run's own folder, or a new one"
                    )

    def epoch(self, line: Line) -> None:
        """Records an epoch: the numbers by name, "epoch", "step" and the metrics."""
        for writer in self._writers:
            writer.write([line])

    def steps(self, lines: Sequence[Line]) -> None:
        """Records steps, if `every_step` is True: each "step", "in_epoch" and the metrics."""
        if self.every_step:
            self.log(lines)

    def log(self, lines: Sequence[Line]) -> None:
        """Records what a callback of `train.EverySteps` logged, as `steps` does the metrics."""
        for writer in self._writers:
            writer.write(lines)

    def close(self) -> None:
        """Closes the files, and waits until a Visdom server has everything."""
        for writer in self._writers:
            writer.close()


def _read_lines(file: Path) -> list[dict[str, Any]]:
    """The complete lines of a file; a killed run may have left an incomplete one at the end."""
    if not file.exists():
        return []
    lines = []
    for text in file.read_text(encoding="utf-8").splitlines(keepends=True):
        if not text.endswith("\n"):  # only the last line can be incomplete
            break
        try:
            lines.append(json.loads(text))
        except ValueError:
            break
    return lines


class _Jsonl:
    """The file history.jsonl: a JSON object on each line."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: Any = None

    def open(self, before: Sequence[Line], step: int) -> None:
        self._begin(before)

    def _begin(self, lines: Sequence[Line]) -> None:
        # Replaced as a whole and then appended to: a process that is killed here leaves either
        # the old lines or those that stay.
        self.close()
        files.write_text(self._path, "".join(map(self._text, lines)))
        self._file = open(self._path, "a", newline="", encoding="utf-8")  # noqa: SIM115

    def _text(self, line: Line) -> str:
        return json.dumps(plain(line), allow_nan=False) + "\n"

    def write(self, lines: Sequence[Line]) -> None:
        self._file.write("".join(map(self._text, lines)))
        self._file.flush()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


class _Csv(_Jsonl):
    """The file history.csv: a row for each epoch. A name that appears late adds a column."""

    def open(self, before: Sequence[Line], step: int) -> None:
        self._lines = [line for line in before if "epoch" in line]
        self._rewrite()

    def _rewrite(self) -> None:
        """Writes the whole file again, with the columns of all lines."""
        self._columns = list(dict.fromkeys(name for line in self._lines for name in line))
        head = [dict(zip(self._columns, self._columns, strict=True))] if self._lines else []
        self._begin([*head, *self._lines])

    def _text(self, line: Line) -> str:
        text = io.StringIO()
        csv.DictWriter(text, self._columns, restval="", lineterminator="\n").writerow(line)
        return text.getvalue()

    def write(self, lines: Sequence[Line]) -> None:
        for line in lines:
            if "epoch" in line:
                self._lines.append(line)
                if set(line) <= set(self._columns):
                    super().write([line])
                else:
                    self._rewrite()


class _TensorBoard:
    """TensorBoard's own event files, without TensorFlow."""

    def __init__(self, folder: Path) -> None:
        for module in ("compat.proto.event_pb2", "summary.writer.event_file_writer"):
            needed(f"tensorboard.{module}", 'records: "tensorboard"', "tensorboard")
        self._folder = folder
        self._writer: Any = None

    def open(self, before: Sequence[Line], step: int) -> None:
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self._writer = EventFileWriter(str(self._folder))
        # Event files cannot be cut. This event makes TensorBoard hide what an earlier, killed
        # process wrote from this step on.
        start = SessionLog(status=SessionLog.START)
        self._writer.add_event(Event(step=step + 1, session_log=start, wall_time=time.time()))

    def write(self, lines: Sequence[Line]) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        for line in lines:
            group = "epoch" if "epoch" in line else "step"
            values = [
                Summary.Value(tag=f"{group}/{name}", simple_value=float(value))
                for name, value in scalars(line).items()
            ]
            event = Event(step=int(line["step"]), summary=Summary(value=values))
            event.wall_time = time.time()
            self._writer.add_event(event)
        self._writer.flush()

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
