"""Packages that only some parts of jaxnet need, imported where they are used."""

import importlib
from typing import Any


def needed(module: str, what: str, install: str) -> Any:
    """Imports a module, with an error that says which part of jaxnet needs the module.

    Args:
        module: The name of the module, as `import` takes it.
        what: The part of jaxnet that needs the module, with which the message begins.
        install: The packages that pip is to install. They are not named as an extra of
            jaxnet, since the package called jaxnet on the index is another project's.

    Raises:
        ImportError: The module, or something that the module needs, is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise ImportError(
            f"{what}: it needs the package {package}: pip install {install} ({error})"
        ) from error
