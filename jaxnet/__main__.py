"""The command line: `jaxnet record`, `jaxnet check` and so on, or `python -m jaxnet`.

What only some of the commands need is imported by them, so that `--help` takes no time.
"""

import argparse
import contextlib
import difflib
import logging
import shutil
import sys
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import jaxnet

if TYPE_CHECKING:
    from jaxnet.parity._result import Report

_EXPLAINING = [Path(jaxnet.__file__).parent / name for name in ("parity", "port")]

_ABOUT = """Whether a JAX training program computes what a PyTorch program computes.

    jaxnet record trace/ --steps 5 -- python main.py    # record the PyTorch program, unchanged
    jaxnet check trace/ port.py:make --save report/     # check the JAX program, without torch
    jaxnet certificate report/ --verify                 # is the certificate still true?

make() in port.py returns (model, loss, optimizer), or (step, state) of a step of your own.
Exit status: 0 the same, 1 different, 2 not comparable, undecided, or an error. That of `record` is
1 where the program has other bits when it runs without the recording.
"""

_RECORD = """The program is run as it is; nothing in it has to change:

    jaxnet record trace/ --steps 5 -- python main.py --epochs 1

It is ended after the last recorded update. The trace holds batches, weights, random draws,
activations, gradients and optimizer states as safetensors and JSON, and is checked without torch.
Batches of 8 to 32 rows are enough, and keep the trace small.

Then it is run again without the recording. If its bits are others the exit status is 1: the
recording changed them, or they are others in each run, which what is printed says. The trace stays
and can be checked, but the report will have a note of it."""

_CHECK = """    jaxnet check trace/ port.py:make --save report/

make() is a function without arguments that returns (model, loss, optimizer), where
loss(model, batch) is what the JAX program minimises, or (step, state) of a step of your own. The
model has torch's names of parameters. Every layer, gradient and update is compared in float32 and
float64, so there is no tolerance to choose."""

_COMPARE = """    jaxnet compare reference.py:make port.py:make --steps 20

make() of the reference returns (model, loss, optimizer, batches) of PyTorch, where optimizer is a
function of the parameters, such as lambda p: torch.optim.SGD(p, 0.1); that of the port returns
(model, loss, optimizer). A loss is a criterion of outputs and targets, or a function of the model
and a batch. The port begins with torch's weights."""

_DIFF = """    jaxnet diff trace_a/ trace_b/

Both are recorded PyTorch programs: of two versions of torch, two devices, or two commits. The first
is called torch and the second jax in what is printed."""

_EXPLAIN = """    jaxnet explain trace/ port.py:make --at blocks.3.norm1

Prints every array of this layer, each at the step with the largest difference, and the differences
in which it has a part with their causes. `loss` and the name of a parameter will do too."""

_VERIFY = """    jaxnet certificate report/             # what it says
    jaxnet certificate report/ --verify    # exit status 2 if something has changed since
    jaxnet certificate report/ --line      # one line, for a README"""

_PORT = """    jaxnet port model.py -o model_jax.py                   # a file
    jaxnet port timm.models.resnet:ResNet -o resnet_jax.py # a class, with what it calls

Classes, functions, names, order, comments and docstrings stay. Nothing is run, and torch is not
needed; libcst and ruff are (pip install libcst ruff). Exit status 0 if everything was ported, 1
if the output raises NotImplementedError somewhere: each such line is printed."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command.

    Args:
        arguments: The words after `jaxnet`; those of the process where it is None.

    Returns:
        The exit status: 0 for the same, 1 for different, 2 for all else. Of `record` it is 1
        where a run without the recording has other bits.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    program: list[str] = []
    if "--" in words:  # what follows is another program's, whose options argparse must not see
        cut = words.index("--")
        words, program = words[:cut], words[cut + 1 :]
    parser = _parser()
    if not words and not program:
        parser.print_help()
        return 0
    options = parser.parse_args(words)
    if program and options.run is not _record:
        parser.error(f"{' '.join(program)!r} after --: only `jaxnet record` takes a program")
    options.program = program
    try:
        return options.run(options)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    except Exception as error:
        # Python's own status after an exception is 1, which would say "different".
        if _is_explained(error):
            print(f"error: {error}", file=sys.stderr)
        else:
            traceback.print_exc()
        return 2


def _is_explained(error: Exception) -> bool:
    """Whether jaxnet raised an error by itself, so that its message says what to do."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    ours = Path(last.filename).parent in _EXPLAINING or Path(last.filename).stem == "_extras"
    return ours and (last.line or "").startswith("raise ")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="jaxnet", description=_ABOUT, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--version", action="version", version=f"jaxnet {jaxnet.__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def command(name: str, run: object, about: str, more: str) -> argparse.ArgumentParser:
        one = commands.add_parser(
            name,
            help=about,
            description=f"{about[0].upper()}{about[1:]}.\n\n{more}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        one.set_defaults(run=run, fail=one.error)
        return one

    record = command("record", _record, "record the training of a PyTorch program", _RECORD)
    record.add_argument("trace", type=Path, help="a new folder for the trace")
    record.add_argument("--steps", type=_positive, default=5, help="updates to record (default 5)")
    record.add_argument(
        "--weights",
        choices=("own", "generic"),
        default="own",
        help="generic: random numbers in all parameters first, beside which no mistake hides",
    )
    record.add_argument(
        "--go-on", action="store_true", help="let the program go on after the last recorded update"
    )
    record.add_argument(
        "--once",
        action="store_true",
        help="do not run it again without recording, to see that its bits are the same",
    )

    check = command("check", _check, "compare a JAX program with a trace", _CHECK)
    check.add_argument("trace", type=Path, help="the folder that `jaxnet record` wrote")
    check.add_argument("port", help="module:function or file.py:function")
    check.add_argument("--steps", type=_positive, help="compare only the first of the steps")
    check.add_argument(
        "--power",
        action="store_true",
        help="find out which known mistakes the trace would show, some seconds a layer",
    )
    compare = command("compare", _compare, "compare two programs in one process", _COMPARE)
    compare.add_argument("reference", help="file.py:function or module:function, with torch")
    compare.add_argument("port", help="file.py:function or module:function")
    compare.add_argument("--steps", type=_positive, help="updates; by default one for each batch")

    diff = command("diff", _diff, "compare two traces", _DIFF)
    diff.add_argument("first", type=Path, help="a trace")
    diff.add_argument("second", type=Path, help="the trace that is compared with it")

    for one in (check, compare, diff):
        one.add_argument("--save", type=Path, metavar="FOLDER", help="write a certificate there")
        one.add_argument("--arrays", action="store_true", help="print one line for every array")

    explain = command("explain", _explain, "what is known of one layer", _EXPLAIN)
    explain.add_argument("trace", type=Path, help="the folder that `jaxnet record` wrote")
    explain.add_argument("port", help="module:function or file.py:function")
    explain.add_argument("--at", required=True, metavar="LAYER", help="such as blocks.3.norm1")

    for one in (check, explain):
        one.add_argument(
            "--weights",
            choices=("own", "copy"),
            default="own",
            help="compare the program's initial weights too (own), or start from a copy of torch's",
        )

    port = command("port", _port, "turn PyTorch modules into source on jaxnet", _PORT)
    port.add_argument("target", help="a file, or an import path such as timm.models.resnet:ResNet")
    port.add_argument("-o", "--output", type=Path, help="the file to write; printed without it")

    certificate = command("certificate", _certificate, "read or verify a certificate", _VERIFY)
    certificate.add_argument("folder", type=Path, help="the folder that --save wrote")
    certificate.add_argument(
        "--verify", action="store_true", help="fail if sources, trace or versions have changed"
    )
    certificate.add_argument("--line", action="store_true", help="one line, for a README")
    return parser


def _positive(text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r}; accepted is a whole number from 1")
    return number


def _record(options: argparse.Namespace) -> int:
    from jaxnet.parity._script import record_script

    if not options.program:
        options.fail("no program: jaxnet record TRACE -- python main.py --epochs 1")
    if not options.once:
        print("the program is run twice, the second time without recording", file=sys.stderr)
    found = record_script(
        options.trace,
        options.program,
        options.steps,
        go_on=options.go_on,
        self_check=not options.once,
        weights=options.weights,
    )
    size = sum(file.stat().st_size for file in options.trace.iterdir()) / 1e6
    print(f"recorded: {options.trace}, {size:.1f} MB")
    print(f"the same bits without recording: {found['verdict']}; {found['words']}")
    print(f"next: jaxnet check {options.trace} port.py:make")
    return int(found["verdict"] == "different")


def _check(options: argparse.Namespace) -> int:
    from jaxnet.parity._check import check

    if ":" in str(options.trace) and ":" not in options.port:
        options.fail(f"the trace comes first: jaxnet check {options.port} {options.trace}")
    with _progress():
        report = check(
            options.trace,
            options.port,
            steps=options.steps,
            weights=options.weights,
            power=options.power,
        )
    return _shown(report, options, f"jaxnet check {options.trace} {options.port}")


def _compare(options: argparse.Namespace) -> int:
    from jaxnet.parity._compare import compare
    from jaxnet.parity._port import load, load_port

    made = load(options.reference)
    if not isinstance(made, tuple) or len(made) != 4:
        options.fail(
            f"{options.reference}: accepted is a function that returns (model, loss, optimizer, "
            "batches), with a function of the parameters as optimizer"
        )
    torch_model, torch_loss, torch_optimizer, batches = made
    model, loss, optimizer, *_ = load_port(options.port)
    trace = options.save and options.save / "trace"
    if trace and (trace / "trace.json").exists():  # of an earlier comparison
        shutil.rmtree(trace)
    with _progress():
        report = compare(
            torch_model,
            model,
            batches,
            options.steps,
            loss=(torch_loss, loss),
            optimizer=(torch_optimizer, optimizer),
            trace=trace,
        )
    return _shown(report, options, f"jaxnet compare {options.reference} {options.port}")


def _diff(options: argparse.Namespace) -> int:
    from jaxnet.parity._diff import diff

    with _progress():
        report = diff(options.first, options.second)
    return _shown(report, options, f"jaxnet diff {options.first} {options.second}")


def _shown(report: "Report", options: argparse.Namespace, command: str) -> int:
    """Prints a report and writes its certificate where that is asked for."""
    from jaxnet.parity._text import power_counts

    report.subject["commands"] = [command]
    print(report)
    counted = bool(report.power)
    if options.arrays:
        print(report.details())
    if options.save is not None:
        with _progress():
            report.save(options.save)
        print(f"certificate: {options.save / 'certificate.html'}")
        if report.power and not counted:  # a report that says "same" gets it when it is saved
            print(power_counts(report))
    return report.exit_status


def _explain(options: argparse.Namespace) -> int:
    from jaxnet.parity._check import check
    from jaxnet.parity._text import explained, part

    with _progress():
        report = check(options.trace, options.port, weights=options.weights)
    there = part(report, options.at)
    if not there.results and not there.exclusions and report.verdict != "not comparable":
        places = sorted({result.place for result in report.results if result.place})
        near = difflib.get_close_matches(options.at, places, n=5, cutoff=0.3) or places[:5]
        options.fail(f"--at {options.at}: nothing was compared there; there are {', '.join(near)}")
    print(there.details())
    text, status = explained(there, options.at)
    print(text)
    return status


def _port(options: argparse.Namespace) -> int:
    from jaxnet._files import write_text
    from jaxnet.port import port

    if options.output is not None and options.output.resolve() == Path(options.target).resolve():
        options.fail(f"--output {options.output}: this is the file that is ported; name another")
    ported = port(options.target)
    if options.output is None:
        print(ported.code, end="")
    else:
        write_text(options.output, ported.code)
    print(ported, file=sys.stderr)
    return int(bool(ported.marked))


def _certificate(options: argparse.Namespace) -> int:
    from jaxnet.parity import _certificate

    content = _certificate.read(options.folder)
    changes = _certificate.stale(content) if options.verify else []
    if changes:
        print(f"stale: {len(changes)} of what it was made of has changed since {content['date']}")
        print("\n".join(f"  {change}" for change in changes))
        commands = content["subject"].get("commands", ())
        print(
            "".join(f"make it again: {command} --save {options.folder}\n" for command in commands)
        )
        return 2
    print(content["line"] if options.line else content["text"])
    if options.verify:
        print(f"verified: nothing that it names has changed since {content['date']}")
        for words in _certificate.unchecked(content):
            print(f"not verified: {words}")
    return content["exit_status"]


@contextlib.contextmanager
def _progress() -> Iterator[None]:
    """Shows on a terminal what is under way: the notices of jaxnet.parity."""
    from rich.console import Console
    from rich.text import Text

    logger = logging.getLogger("jaxnet.parity")
    level = logger.level
    with Console(stderr=True).status("") as status:

        class Shown(logging.Handler):
            def emit(self, record: logging.LogRecord) -> None:
                status.update(Text(record.getMessage()))

        handler = Shown()
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        try:
            yield
        finally:
            logger.removeHandler(handler)
            logger.setLevel(level)


if __name__ == "__main__":
    sys.exit(main())
