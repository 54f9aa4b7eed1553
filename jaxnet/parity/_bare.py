"""Runs a Python program as `python` does, and the bits of its training without a recording.

As a script it imports nothing of jaxnet's, so that the program runs as if there were none:

    python _bare.py checksums.json 100 -- main.py --epochs 1
"""

import importlib
import json
import os
import re
import runpy
import sys
import zlib
from collections.abc import Callable, Sequence
from typing import Any

# Options of python's that change nothing here, or that came too late.
_OPTIONS = {"-u", "-B", "-s", "-q"}
_PYTHON = re.compile(r"python(w|[\d.]+t?)?(\.exe)?")


class Enough(BaseException):
    """All that was asked for is there: it ends a program."""


def run_program(words: Sequence[str]) -> None:
    """Runs a program in this process, as `__main__`, with its own arguments.

    Args:
        words: Its command: "python main.py --epochs 1", "main.py", or "python -m package".

    Raises:
        FileNotFoundError: There is no such script.
        ValueError: The command is none of Python's.
    """
    words = [*words]
    if words and _PYTHON.fullmatch(os.path.basename(words[0])):
        words = words[1:]
    while words and words[0] in _OPTIONS:
        words = words[1:]
    if not words:
        raise ValueError("no program: give it after --, as in `-- python main.py --epochs 1`")
    before = sys.argv, sys.path[:], sys.modules.get("__main__")
    try:
        if words[0] == "-m":
            if len(words) < 2:
                raise ValueError("python -m: the name of the module is missing")
            sys.path.insert(0, os.getcwd())
            sys.argv = words[1:]
            runpy.run_module(words[1], run_name="__main__", alter_sys=True)
        elif words[0].startswith("-"):
            raise ValueError(
                f"python {words[0]}: accepted are a script and -m MODULE; set what else the "
                "interpreter needs for `jaxnet` itself, or in the environment"
            )
        elif not os.path.exists(words[0]):
            raise FileNotFoundError(
                f"{words[0]}: there is no such script in {os.getcwd()}; give the program as it "
                "is started there"
            )
        else:
            sys.path.insert(0, os.path.dirname(os.path.abspath(words[0])))
            sys.argv = words
            runpy.run_path(words[0], run_name="__main__")
    finally:
        sys.argv, sys.path[:] = before[0], before[1]
        if before[2] is not None:
            sys.modules["__main__"] = before[2]


def checksum(torch: Any, tensor: Any) -> int:
    """The CRC32 of a tensor's bits."""
    tensor = tensor.detach().cpu().contiguous().reshape(-1)
    return zlib.crc32(tensor.view(torch.uint8).numpy())


def watch(note: Callable[[str, int], None]) -> None:
    """Notes the bits of each loss and, after each step of an optimizer, of its parameters."""
    torch: Any = importlib.import_module("torch")
    optim: Any = importlib.import_module("torch.optim.optimizer")
    depth = {"backward": 0, "step": 0}
    original = torch.autograd.backward

    def backward(tensors: Any, *args: Any, **kwargs: Any) -> Any:
        if not depth["backward"]:
            for each in [tensors] if isinstance(tensors, torch.Tensor) else tensors:
                note("loss", checksum(torch, each))
        depth["backward"] += 1
        try:
            return original(tensors, *args, **kwargs)
        finally:
            depth["backward"] -= 1

    def before(optimizer: Any, args: Any, kwargs: Any) -> None:
        depth["step"] += 1

    def after(optimizer: Any, args: Any, kwargs: Any) -> None:
        depth["step"] -= 1
        if not depth["step"]:
            for group in optimizer.param_groups:
                for parameter in group["params"]:
                    note("parameter", checksum(torch, parameter))

    torch.autograd.backward = backward
    optim.register_optimizer_step_pre_hook(before)
    optim.register_optimizer_step_post_hook(after)


def main(arguments: Sequence[str]) -> None:
    """Writes the first checksums of a program to a file."""
    file, count, _, *words = arguments
    found: list[tuple[str, int]] = []

    def note(what: str, value: int) -> None:
        found.append((what, value))
        if len(found) == int(count):
            raise Enough

    watch(note)
    try:
        run_program(words)
    except (Enough, SystemExit):
        pass
    finally:
        with open(file, "w", encoding="utf-8") as out:
            json.dump(found, out)


if __name__ == "__main__":
    main(sys.argv[1:])
