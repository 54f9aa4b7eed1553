"""`jaxnet weights show | convert | diff`."""

import argparse
import functools
from collections.abc import Callable
from pathlib import Path

ABOUT = """    jaxnet weights show net.pt
    jaxnet weights show checkpoint.pt --key model
    jaxnet weights convert checkpoint.pt net.safetensors --key model --strip module.
    jaxnet weights diff before.pt after.safetensors

A file is one of torch.save, a .safetensors, or an index such as model.safetensors.index.json with
its files beside it. Nothing that a file names is run, and torch is not needed: of a file that holds
objects too, such as a configuration or a whole model, the tensors are read. Exit status: 0, of diff
1 where something differs, and 2 after an error."""


def add(parser: argparse.ArgumentParser, make: Callable[..., argparse.ArgumentParser]) -> None:
    """Gives the parser of `jaxnet weights` its three commands.

    Args:
        parser: The parser.
        make: The function that makes the parser of a command, of its name, the function that
            runs it, what it does, the rest of its help, and the parsers that it belongs to.
    """
    commands = parser.add_subparsers(metavar="show|convert|diff", required=True)

    def command(
        name: str, run: Callable[[argparse.Namespace], int], about: str
    ) -> argparse.ArgumentParser:
        return make(name, functools.partial(_run, run), about, ABOUT, commands)

    def key(one: argparse.ArgumentParser) -> None:
        one.add_argument("--key", help="the part that is meant, such as model or state.ema")

    show = command("show", _show, "print the arrays of a weights file")
    show.add_argument("file", type=Path)
    key(show)
    convert = command("convert", _convert, "write the arrays of a file as another kind of file")
    convert.add_argument("file", type=Path)
    convert.add_argument("target", type=Path, help="a new file, .safetensors or .pt")
    key(convert)
    convert.add_argument("--strip", default="", help="a beginning of all names that is taken away")
    convert.add_argument(
        "--dtype", choices=("float32", "float64", "float16", "bfloat16"), help="of all floats"
    )
    convert.add_argument("--force", action="store_true", help="replace a file that is there")
    diff = command("diff", _diff, "say what is different between two weights files")
    diff.add_argument("first", type=Path)
    diff.add_argument("second", type=Path)
    key(diff)


def _run(run: Callable[[argparse.Namespace], int], options: argparse.Namespace) -> int:
    try:
        return run(options)
    except PermissionError as error:
        options.fail(f"{error.filename}: {error.strerror}")
        raise


def _show(options: argparse.Namespace) -> int:
    from rich.console import Console

    from jaxnet.weights._inspect import show

    table, words = show(options.file, options.key)
    console = Console(highlight=False)
    # A pipe has no width; a name that is cut there is of no use.
    console.print(table) if console.is_terminal else Console(width=1000, highlight=False).print(
        table
    )
    for each in words:
        print(each)
    return 0


def _convert(options: argparse.Namespace) -> int:
    from jaxnet.weights._inspect import convert

    if options.target.exists() and not options.force:
        options.fail(f"{options.target} is there; --force replaces it")
    arrays = convert(options.file, options.target, options.key, options.strip, options.dtype)
    print(f"written: {options.target}, {len(arrays)} arrays, "
          f"{options.target.stat().st_size / 1e6:,.1f} MB")  # fmt: skip
    return 0


def _diff(options: argparse.Namespace) -> int:
    from jaxnet.weights._inspect import diff

    lines, equal = diff(options.first, options.second, options.key)
    print("\n".join(lines))
    return int(not equal)
