"""Names of sites, taken apart: "input:fc1#0.mask" is the argument mask of the first call of fc1.

`_trace` says which phases there are.
"""


def at(site: str, path: str) -> str:
    """The site of a part of a value; the path "" is that of the whole value."""
    return f"{site}.{path}" if path else site


def phase_of(site: str) -> str:
    """The phase: "input" of "input:fc1#0.mask"."""
    return site.partition(":")[0]


def call_of(site: str) -> str:
    """The call: "fc1#0" of "input:fc1#0.mask"; "" for an array of no call."""
    name, mark, rest = site.partition(":")[2].partition("#")
    return f"{name}#{rest.partition('.')[0]}" if mark else ""


def place_of(site: str) -> str:
    """The module or array: "fc1" of "forward:fc1#0", "fc.weight" of "update:fc.weight"."""
    return module_name(site.partition(":")[2])


def module_name(call: str) -> str:
    """The module of a call or of a part of its output: "fc1" of "fc1#0.1"."""
    return call.partition("#")[0]
