"""`jaxnet record`: an unmodified program is run and recorded, and run without a recording too."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxnet._files import flush
from jaxnet.parity import _bare
from jaxnet.parity._describe import describe
from jaxnet.parity._record import Recorder


def record_script(
    path: str | Path,
    program: Sequence[str],
    steps: int = 5,
    full: Sequence[int] = (0, 1, -1),
    *,
    go_on: bool = False,
    self_check: bool = True,
    weights: str = "own",
) -> dict[str, Any]:
    """Runs a program and records its training; nothing of it needs to be changed.

    Args:
        path: Folder of the trace, which must not exist or be empty.
        program: The program's command: ["python", "main.py", "--epochs", "1"]; "python" may be
            missing, and "-m" with a module may stand in place of the script. It runs in this
            process, in the current folder.
        steps: Number of steps to record.
        full: Steps whose activations are recorded too; -1 is the last one.
        go_on: Whether the program goes on, unrecorded, once its steps are recorded; by default
            it is ended there.
        self_check: Whether the program is run once more, as far as the recorded steps and
            without a recording, to see that the recording changed none of its bits.
        weights: As in `recording`. With "generic" the recording does change bits, on purpose.

    Returns:
        What trace.json says under "self_check": "verdict" ("same", "different" or "not made"),
        and in words what was compared.

    Raises:
        ImportError: torch is not installed, or too old.
        FileExistsError: The folder holds something.
        FileNotFoundError: There is no such program.
        TraceError: The program ended before its first step was over.
    """
    about = {"program": [*program]}
    recorder = Recorder(path, steps, full, stop=not go_on, about=about, weights=weights)
    try:
        with recorder:
            _bare.run_program(program)
    except _bare.Enough:
        pass
    except SystemExit as end:
        if end.code not in (None, 0) and recorder.writer.steps < steps:
            recorder.notes.append(f"the program ended itself with status {end.code}")
    except Exception as error:
        if not recorder.writer.steps:
            raise
        recorder.notes.append(f"the program ended with {type(error).__name__}: {error}")
    recorder.require_steps()
    if weights != "own":
        made = {"verdict": "not made", "words": "generic weights change its bits, on purpose"}
    elif not self_check:
        made = {"verdict": "not made", "words": "--once switches it off"}
    else:
        made = _self_check(recorder.checks, program)
    recorder.about["self_check"] = made
    recorder.writer.write_about(describe(recorder))
    flush(recorder.writer.path)
    return dict(recorder.about["self_check"])


def _self_check(checks: list[tuple[str, int]], program: Sequence[str]) -> dict[str, Any]:
    """Whether the bits of a recorded program are those of the program without a recording."""
    expected = [list(each) for each in checks]
    what = f"{len(expected)} checksums of losses and of parameters after each update"
    if not expected:
        return {"verdict": "not made", "words": "there was no loss to compare"}
    found = _bare_run(program, len(expected))
    if found == expected:
        return {"verdict": "same", "words": f"{what} are those of a run without a recording"}
    again = _bare_run(program, len(expected))
    if again != found:
        first = _first_difference(again, found)
        return {
            "verdict": "different",
            "words": f"two runs without a recording differ, from checksum {first} of {what}: the "
            "program is not deterministic. Seed it (torch.manual_seed), or see "
            "torch.use_deterministic_algorithms",
        }
    first = _first_difference(found, expected)
    return {
        "verdict": "different",
        "words": f"a run without a recording differs, from checksum {first} of {what}, and two "
        "such runs agree. Either the program finds its files changed when it is run again, or "
        "the recording changes its bits",
    }


def _first_difference(a: list[Any], b: list[Any]) -> int:
    pairs = zip(a, b, strict=False)
    return next((i for i, (x, y) in enumerate(pairs) if x != y), min(len(a), len(b)))


def _bare_run(program: Sequence[str], count: int) -> list[Any]:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "checksums.json")
        command = [sys.executable, str(_bare.__file__), str(file), str(count), "--", *program]
        quiet = subprocess.DEVNULL
        subprocess.run(command, stdin=quiet, stdout=quiet, stderr=quiet, check=False)
        return list(json.loads(file.read_text(encoding="utf-8"))) if file.exists() else []
