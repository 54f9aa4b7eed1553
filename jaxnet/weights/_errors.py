"""What is raised for a weights file that cannot be read."""


class FileError(ValueError):
    """A file that is no sound weights file: the message names the file and the fault."""
