"""The error for a weights file that cannot be read."""


class FileError(ValueError):
    """A file that is not a sound weights file; the message names the file and the fault."""
