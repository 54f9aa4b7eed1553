"""What `jaxnet.port` offers; what needs libcst is imported by the function that is called."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Note:
    """Something that the reader of the output should look at.

    Attributes:
        file: The name of the source's file.
        line: The line there.
        text: What it is.
    """

    file: str
    line: int
    text: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.text}"


@dataclasses.dataclass(frozen=True)
class Ported:
    """The output of `port`.

    Attributes:
        code: The source on jaxnet.
        classes: The names of the classes in it.
        functions: The names of the functions in it.
        marked: What is not supported: the output raises NotImplementedError there, with the file
            and the line of the source.
        notes: What a reader should look at, such as a branch on the values of an array.
    """

    code: str
    classes: tuple[str, ...]
    functions: tuple[str, ...]
    marked: tuple[Note, ...]
    notes: tuple[Note, ...]

    def __str__(self) -> str:
        lines = [f"ported: {len(self.classes)} classes, {len(self.functions)} functions"]
        lines += [f"not supported: {note}" for note in self.marked]
        lines += [f"look at: {note}" for note in self.notes]
        return "\n".join(lines)


TARGETS = ("jaxnet", "nnx")
"""What source can be turned into."""


def port(target: str, to: str = "jaxnet") -> Ported:
    """Turns the PyTorch source of modules into source on jaxnet.

    Classes, functions, names, order, comments and docstrings stay. `forward` becomes
    `__call__`, what makes layers takes `rngs` and hands it on in torch's order, so that the same
    seed gives the same weights, and torch's functions and tensor methods become those of
    `jaxnet.ops` and `jaxnet.nn.functional`. Nothing is run and torch is not needed.

    Args:
        target: A file, such as "model.py", or an import path, such as
            "timm.models.resnet:ResNet", whose output has what the class needs of its package.
        to: "jaxnet", or "nnx" for plain flax.nnx, which does not import jaxnet: what flax and jax
            have not with PyTorch's numbers is written out at the top of the output.

    Returns:
        The source, and what in it is marked as not supported.

    Raises:
        FileNotFoundError: There is no such file or package.
        ImportError: libcst or ruff is not installed.
        ValueError: The file has no such definition, or is no Python, or `to` is none of both.
    """
    if to not in TARGETS:
        raise ValueError(f'to={to!r}: accepted are "jaxnet", and "nnx" for flax.nnx without jaxnet')
    from jaxnet._extras import needed

    for package in ("libcst", "ruff"):
        needed(package, "jaxnet port", "libcst ruff")
    from jaxnet.port._output import output

    return output(target, to)
