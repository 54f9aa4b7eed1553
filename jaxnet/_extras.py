"""Packages that only some parts of jaxnet need, imported where they are used."""

import importlib
from typing import Any


def needed(module: str, what: str, install: str) -> Any:
    """A module, or an error that says what needs it and how it is installed.

    Args:
        module: its name for `import`.
        what: the part of jaxnet that needs it, first in the message.
        install: what pip is to install: names of packages, not of an extra of jaxnet, since
            the package of that name on the index is another project's.

    Raises:
        ImportError: it, or something that it needs itself, is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise ImportError(
            f"{what}: it needs the package {package}: pip install {install} ({error})"
        ) from error
