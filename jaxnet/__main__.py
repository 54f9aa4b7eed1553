"""The command line: `jaxnet record`, `jaxnet check` and so on, or `python -m jaxnet`.

What only some of the commands need is imported by them, so that `--help` takes no time.
"""

import argparse
import contextlib
import difflib
import functools
import logging
import runpy
import shlex
import shutil
import sys
import tempfile
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jaxnet
from jaxnet import _command_texts as texts
from jaxnet import _predict_command, _weights_command

if TYPE_CHECKING:
    from jaxnet.parity._result import Report

# Where errors are raised whose messages say what to do.
_EXPLAINING = [Path(jaxnet.__file__).parent / name for name in ("parity", "port", "weights")]
# Whose lines come before those of the program that is run.
_NOT_THEIRS = (str(Path(jaxnet.__file__).parent), "<frozen", str(Path(runpy.__file__)))


class _CommandError(Exception):
    """What is wrong with a command, and what to write instead."""


class _UsageError(SystemExit):
    """The end of a command whose words do not fit each other; argparse has said why."""


def _usage_error(parser: argparse.ArgumentParser, message: str) -> None:
    try:
        parser.error(message)
    except SystemExit as stop:
        raise _UsageError(stop.code) from None


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
    if program and options.run not in (_record, _launch):
        parser.error(
            f"{' '.join(program)!r} after --: only `jaxnet record` and `jaxnet launch` take a "
            "program"
        )
    options.program = program
    try:
        _check_writable(getattr(options, "save", None))
        return options.run(options)
    except KeyboardInterrupt:
        print(f"stopped; {_after_stop(options)}", file=sys.stderr)
        return 130
    except _UsageError:
        raise
    except SystemExit as stop:
        # Its status would be read as a verdict, and 0 as "the same".
        print(
            f"error: the program ended by sys.exit({stop.code!r}) before anything was compared; "
            'put what it runs as a script under `if __name__ == "__main__":`',
            file=sys.stderr,
        )
        return 2
    except Exception as error:
        # Python's own status after an exception is 1, which would say "different".
        if _is_explained(error):
            print(f"error: {error}", file=sys.stderr)
        else:
            _print_error_of_program(error, options)
        return 2


def _after_stop(options: argparse.Namespace) -> str:
    """What is left after Ctrl-C, and how to go on."""
    if options.run is not _record:
        return "nothing was written"
    if not (options.trace / "trace.json").exists():
        return f"no whole step was recorded. Record it again: jaxnet record {options.trace} -- ..."
    return (
        f"the steps that were whole are in {options.trace}, which can be checked: "
        f"jaxnet check {options.trace} port.py:make"
    )


def _print_error_of_program(error: Exception, options: argparse.Namespace) -> None:
    """Shows an error that the user's program raised, from its own lines on, and what to do."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [i for i, frame in enumerate(frames) if not frame.filename.startswith(_NOT_THEIRS)]
    if not own and not isinstance(error, SyntaxError):  # one of jaxnet's own
        # What jaxnet refuses has a message for the user; anything else is a fault of its own.
        refused = (frames[-1].line or "").startswith("raise ")
        if refused and isinstance(error, TypeError | ValueError):
            print(f"error: {error}", file=sys.stderr)
        else:
            traceback.print_exc()
        return
    for line in traceback.format_list(frames[own[0] :] if own else []):
        print(line, end="", file=sys.stderr)
    for line in traceback.format_exception_only(error):
        print(line, end="", file=sys.stderr)
    alone = shlex.join(options.program)
    if not alone:
        where, _, function = (getattr(options, "port", "") or "").partition(":")
        module = Path(where).stem if where.endswith(".py") else where
        whole = function.isidentifier()
        names = f"from {module} import {function}; {function}()" if whole else f"import {module}"
        alone = f'python -c "{names}"'
    print(f"error: the program itself fails; run it alone first: {alone}", file=sys.stderr)


def _is_explained(error: Exception) -> bool:
    """Whether jaxnet raised an error by itself, so that its message says what to do."""
    if isinstance(error, _CommandError):
        return True
    last = traceback.extract_tb(error.__traceback__)[-1]
    ours = Path(last.filename).parent in _EXPLAINING or Path(last.filename).stem == "_extras"
    return ours and (last.line or "").startswith("raise ")


def _check_writable(folder: Path | None) -> None:
    """Refuses a folder for the certificate that cannot be written, before the check and not after.

    Raises:
        OSError: It cannot be made, or nothing can be written into it.
    """
    if folder is None:
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise _CommandError(
            f"--save {folder}: {error.strerror or error}; give a folder that can be written, such "
            "as --save report/"
        ) from error


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="jaxnet", description=texts.ABOUT, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--version", action="version", version=f"jaxnet {jaxnet.__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def command(
        name: str, run: object, about: str, more: str, among: Any = commands
    ) -> argparse.ArgumentParser:
        one: argparse.ArgumentParser = among.add_parser(
            name,
            help=about,
            description=f"{about[0].upper()}{about[1:]}.\n\n{more}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        one.set_defaults(run=run, fail=functools.partial(_usage_error, one))
        return one

    record = command("record", _record, "record the training of a PyTorch program", texts.RECORD)
    record.add_argument("trace", type=Path, help="a new folder for the trace")
    record.add_argument("--steps", type=_positive, default=5, help="updates to record (default 5)")
    record.usage = "jaxnet record [options] TRACE -- python main.py [its arguments]"
    record.add_argument(
        "--weights",
        choices=("own", "generic"),
        default="own",
        help="generic: random numbers in all parameters first, for a second trace beside which no "
        "mistake hides as beside a bias of zero (check --generic); default own",
    )
    record.add_argument(
        "--go-on", action="store_true", help="let the program go on after the last recorded update"
    )
    record.add_argument(
        "--once",
        action="store_true",
        help="do not run it again without recording, to see that its bits are the same",
    )

    check = command("check", _check, "compare a JAX program with a trace", texts.CHECK)
    check.add_argument("trace", type=Path, help="the folder that `jaxnet record` wrote")
    check.add_argument(
        "port",
        help="file.py:function or module:function; or a file of the recorded model alone, as "
        '`jaxnet port` writes it, and "file.py:Net(hidden=32)" for a model of it',
    )
    check.add_argument("--steps", type=_positive, help="compare only the first STEPS of them")
    check.add_argument(
        "--power",
        action="store_true",
        help="count the known mistakes that this trace would show, by computing them; some seconds "
        "a layer, and --save does it too",
    )
    check.add_argument(
        "--plant",
        type=_positive,
        metavar="N",
        default=0,
        help="plant N known mistakes into a program that is the same, one at a time, and count "
        "how many a check finds; as long as N checks",
    )
    check.add_argument(
        "--generic",
        type=Path,
        metavar="TRACE",
        help="a trace of `jaxnet record --weights generic`, to compare with as well",
    )
    compare = command("compare", _compare, "compare two programs in one process", texts.COMPARE)
    compare.add_argument("reference", help="file.py:function or module:function, with torch")
    compare.add_argument("port", help="file.py:function or module:function")
    compare.add_argument("--steps", type=_positive, help="updates; by default one for each batch")
    compare.add_argument(
        "--weights",
        choices=("copy", "generic"),
        default="copy",
        help="generic: a second time with random numbers in all parameters, where nothing hides",
    )

    diff = command("diff", _diff, "compare two traces", texts.DIFF)
    diff.add_argument("first", type=Path, help="a trace")
    diff.add_argument("second", type=Path, help="the trace that is compared with it")

    for one in (check, compare, diff):
        one.add_argument("--save", type=Path, metavar="FOLDER", help="write a certificate there")
        one.add_argument("--arrays", action="store_true", help="print one line for every array")

    explain = command("explain", _explain, "what is known of one layer", texts.EXPLAIN)
    explain.add_argument("trace", type=Path, help="the folder that `jaxnet record` wrote")
    explain.add_argument("port", help="as in `jaxnet check`")
    explain.add_argument("--at", required=True, metavar="LAYER", help="such as blocks.3.norm1")

    for one in (check, explain):
        one.add_argument(
            "--weights",
            choices=("own", "copy"),
            default="own",
            help="compare the program's initial weights too (own), or start from a copy of torch's",
        )

        one.add_argument(
            "--names",
            type=Path,
            metavar="FILE",
            help="names.toml: which layer of a plain flax model is which of torch's",
        )

    port = command("port", _port, "turn PyTorch modules into source on jaxnet", texts.PORT)
    port.add_argument("target", help="a file, or an import path such as timm.models.resnet:ResNet")
    port.add_argument("-o", "--output", type=Path, help="the file to write; printed without it")
    port.add_argument(
        "--to",
        choices=("jaxnet", "nnx"),
        default="jaxnet",
        help="what to write: jaxnet, or flax.nnx without jaxnet",
    )
    port.add_argument(
        "--check",
        type=Path,
        metavar="TRACE",
        help="check the output with a trace that `jaxnet record` wrote, and write a certificate",
    )
    port.add_argument(
        "--model",
        metavar="CALL",
        help='the recorded model in words of the output, such as "Net(hidden=32)"; by default as '
        "the trace says that it was built",
    )
    port.add_argument(
        "--save",
        type=Path,
        metavar="FOLDER",
        help="the folder of the certificate; by default model_jax.certificate for model_jax.py",
    )

    certificate = command(
        "certificate", _certificate, "read a certificate, or verify it", texts.VERIFY
    )
    certificate.add_argument("folder", type=Path, help="the folder that --save wrote")
    certificate.add_argument(
        "--verify", action="store_true", help="fail if sources, trace or versions have changed"
    )
    certificate.add_argument("--line", action="store_true", help="one line, for a README")

    launch = command("launch", _launch, "run a program in several processes", texts.LAUNCH)
    launch.usage = "jaxnet launch --processes N [--output FOLDER] -- python main.py [its arguments]"
    launch.add_argument("--processes", type=_positive, required=True, help="how many")
    launch.add_argument(
        "--output",
        type=Path,
        metavar="FOLDER",
        help="keep what all but the first print there, as process_1.txt and so on",
    )

    about = "use an exported model on images and tables"
    _predict_command.add(command("predict", _predict, about, _predict_command.ABOUT), _positive)

    about = "show, convert and compare weights files"
    _weights_command.add(command("weights", None, about, _weights_command.ABOUT), command)
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
    steps = f"{found['steps']} step{'s' * (found['steps'] != 1)}"
    fewer = f" of {options.steps}" if found["steps"] < options.steps else ""
    print(f"recorded: {options.trace}, {steps}{fewer}, {size:.1f} MB")
    print(f"the same bits without recording: {found['verdict']}; {found['words']}")
    for note in found["notes"]:
        print(f"note: {note}")
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
            names=options.names,
            power=options.power,
            generic=options.generic,
            plant=options.plant,
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
    port = load_port(options.port)
    if not {"model", "optimizer"} <= port.keys():
        options.fail(
            f"{options.port}: accepted is (model, loss, optimizer), which can be given "
            "torch's weights; check (step, state) with `jaxnet record` and `jaxnet check`"
        )
    trace = options.save and options.save / "trace"
    kept = ("trace.json", "own/trace.json")  # of an earlier comparison
    if trace and any((trace / name).exists() for name in kept):
        shutil.rmtree(trace)
    with _progress():
        report = compare(
            torch_model,
            port["model"],
            batches,
            options.steps,
            loss=(torch_loss, port["loss"]),
            optimizer=(torch_optimizer, port["optimizer"]),
            weights=options.weights,
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
    if getattr(options, "arrays", False):
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
        report = check(options.trace, options.port, weights=options.weights, names=options.names)
    there = part(report, options.at)
    if not there.results and not there.exclusions and report.verdict != "not comparable":
        places = sorted({result.place for result in report.results if result.place})
        near = difflib.get_close_matches(options.at, places, n=5, cutoff=0.3) or places[:5]
        options.fail(f"--at {options.at}: nothing was compared there; there are {', '.join(near)}")
    for line in report.subject.get("layers", ()):
        if options.at in line.split():
            print(f"the layer of the model = torch's: {line}")
    print(there.details())
    text, status = explained(there, options.at)
    print(text)
    return status


def _port(options: argparse.Namespace) -> int:
    from jaxnet._files import write_text
    from jaxnet.port import port

    if options.output is not None and options.output.resolve() == Path(options.target).resolve():
        options.fail(f"--output {options.output}: this is the file that is ported; name another")
    if options.check is None and (options.model or options.save):
        options.fail("--model, --save: they are about the check; give --check TRACE too")
    if options.check is not None:
        _prepare_check(options)
    ported = port(options.target, options.to)
    if options.output is None:
        print(ported.code, end="")
    else:
        write_text(options.output, ported.code)
    print(ported, file=sys.stderr)
    return int(bool(ported.marked)) if options.check is None else _check_output(options)


def _prepare_check(options: argparse.Namespace) -> None:
    """Refuses, before anything is written, what the output could not be checked with."""
    from jaxnet.parity._trace import read

    if options.output is None or options.output.suffix != ".py":
        given = f"--output {options.output}" if options.output else "no --output"
        options.fail(f"{given}: what is checked is a file of Python: -o model_jax.py")
    read(options.check)
    options.save = options.save or options.output.with_suffix(".certificate")
    _check_writable(options.save)


def _check_output(options: argparse.Namespace) -> int:
    """Checks the file that was written, and writes its certificate."""
    from jaxnet.parity._check import check

    options.port = f"{options.output}:{options.model}" if options.model else str(options.output)
    try:
        with _progress():
            report = check(options.check, options.port)
    except BaseException:
        with contextlib.suppress(OSError):
            options.save.rmdir()  # where it is a new one
        raise
    # Whoever makes the certificate again may have changed the output by hand.
    command = ["jaxnet", "check", str(options.check), options.port]
    return _shown(report, options, shlex.join(command))


def _launch(options: argparse.Namespace) -> int:
    from jaxnet._launch import LaunchError, launch

    if not options.program:
        options.fail("no program: jaxnet launch --processes 2 -- python main.py")
    try:
        return launch(options.program, options.processes, options.output)
    except LaunchError as error:
        raise _CommandError(f"{error}; the program comes after --") from error


def _predict(options: argparse.Namespace) -> int:
    from jaxnet._predict import PredictError, run

    try:
        return run(options)
    except PredictError as error:
        raise _CommandError(str(error)) from error


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
