"""Where jaxnet keeps what would cost time to make again."""

import os
from pathlib import Path

__all__ = ["cache_folder"]


def cache_folder() -> Path:
    """The folder that JAXNET_CACHE names, or jaxnet's in the user's cache."""
    if os.environ.get("JAXNET_CACHE"):
        return Path(os.environ["JAXNET_CACHE"]).expanduser()
    try:
        import pooch
    except ImportError:  # it knows the place on every system, and comes with the extra "data"
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "jaxnet"
    return Path(pooch.os_cache("jaxnet"))
