"""From ported definitions to the parts of a file in plain flax.nnx."""

from collections.abc import Sequence
from typing import Any

from jaxnet.port._flax.calls import MARK
from jaxnet.port._flax.convert import Converter
from jaxnet.port._flax.written import copies
from jaxnet.port._nodes import read_names
from jaxnet.port._own_names import restored
from jaxnet.port._source import Definition

IMPORTS = {
    "import itertools": "itertools", "import math": "math", "import typing": "typing",
    "import jax": "jax", "import jax.numpy as jnp": "jnp", "from flax import nnx": "nnx",
    "from functools import partial": "partial", "from typing import Any": "Any",
}  # fmt: skip
"""What an output may need; the formatter takes out what it does not."""

_HEADING = """
# Layers and functions that flax and jax have otherwise than PyTorch, with PyTorch's arguments and
# numbers, on data in PyTorch's layout.
"""


class Parts:
    """The definitions of an output, one after the other.

    Attributes:
        converters: What converted them.
    """

    def __init__(self) -> None:
        self.converters: list[Converter] = []
        self._nodes: list[Any] = []

    def add(self, definition: Definition, node: Any, lines: dict[int, int], keeping: Any) -> Any:
        """Converts a definition, and returns it."""
        converter = Converter(definition, lines, keeping)
        new = node.visit(converter)
        self.converters.append(converter)
        self._nodes.append(new)
        return new

    def head(self, imports: Sequence[str]) -> tuple[list[str], str, dict[str, str]]:
        """What comes before the definitions.

        Args:
            imports: The import statements of the program.

        Returns:
            The import statements, the copies, and the name of each copy by its mark.
        """
        needed = {name for one in self.converters for name in one.copied}
        taken = {restored(name) for node in self._nodes for name in read_names(node)}
        bound = {line.replace(",", " ").split()[-1] for line in imports}
        shown, texts = copies(needed, taken | (bound - set(IMPORTS.values())))
        lines = [line for line, name in IMPORTS.items() if name not in bound]
        text = _HEADING + "\n\n" + "\n\n\n".join(texts) + "\n\n" if texts else ""
        return lines, text, {f"{name}{MARK}": new for name, new in shown.items()}
