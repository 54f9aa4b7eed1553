"""python -m experiments: lists the experiments; python -m experiments NAME: runs one."""

import difflib
import sys
from collections.abc import Sequence

from experiments.harness.all import COMMANDS
from experiments.harness.console import steady
from experiments.harness.registry import list_all, names, run

_USAGE = """
Run one:           python -m experiments NAME
Its settings:      python -m experiments NAME --help
All with data:     python -m experiments all --report
A page of runs:    python -m experiments report runs"""


def main(arguments: Sequence[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        if arguments:
            print("usage: python -m experiments [NAME | all | report] [settings]\n")
        list_all()
        print(_USAGE)
        return 0
    name, rest = arguments[0], arguments[1:]
    if name in COMMANDS:
        return COMMANDS[name](rest)
    if name not in names():
        near = difflib.get_close_matches(name, [*names(), *COMMANDS], n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(names())}"
        print(f"error: no experiment {name!r}; {hint}", file=sys.stderr)
        return 2
    return run(name, rest)


if __name__ == "__main__":
    with steady():
        sys.exit(main(sys.argv[1:]))
