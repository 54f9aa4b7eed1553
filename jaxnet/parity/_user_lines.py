"""Lines of the program that is checked, told from those of the libraries that it uses."""

import sys
import traceback
from pathlib import Path

import flax
import jax

import jaxnet

# Those that a model may be of, which need not be installed, have the names of their folders.
_LIBRARIES = (
    *(str(Path(module.__file__).parent) for module in (jaxnet, flax, jax) if module.__file__),
    *(str(Path(jax.__file__).parents[1] / name) for name in ("equinox", "haiku")),
)


def raised(error: BaseException) -> str:
    """An error of the user's program: its first line, and the line that was reached last."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if not f.filename.startswith((*_LIBRARIES, "<"))]
    where = f" ({Path(own[-1].filename).name}:{own[-1].lineno})" if own else ""
    first = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {first}{where}"


def caller() -> str:
    """File and line of the user's program that called a module."""
    frame = sys._getframe(1)
    while frame.f_back is not None:
        file = frame.f_code.co_filename
        if not file.startswith((*_LIBRARIES, "<")) and "contextlib" not in file:
            return f"{Path(file).name}:{frame.f_lineno}"
        frame = frame.f_back
    return ""
