"""New processes for tests, without the seconds that each would need to import JAX and jaxnet.

`run` is `subprocess.run` for a program in Python: one process, which has imported them and done
nothing else, is forked for every program. A test of what an import does, or of settings that are
read at one, starts Python itself.
"""

import atexit
import functools
import importlib
import json
import os
import runpy
import select
import socket
import subprocess
import sys
import tempfile
import types
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


def run(
    *words: str, env: Mapping[str, str] | None = None, cwd: Path = ROOT
) -> subprocess.CompletedProcess[str]:
    """Runs Python in a new process and gives its output, as text, and its exit status.

    Args:
        words: Python's arguments: "-c" and a program or "-m" and a module, then their own.
        env: The environment; that of this process by default. Variables that JAX reads when
            it is imported have to be the same.
        cwd: The working directory.
    """
    env = dict(os.environ if env is None else env)
    command = [sys.executable, *words]
    if sys.platform != "linux":  # others' libraries may not be forked
        return subprocess.run(command, env=env, cwd=cwd, capture_output=True, text=True)
    assert words[0] in ("-c", "-m"), words
    server, started_with = _server()
    assert _read_early(env) == started_with, "start Python itself with other settings of JAX"
    with (
        tempfile.TemporaryFile("w+") as out,
        tempfile.TemporaryFile("w+") as err,
        socket.socket(socket.AF_UNIX) as connection,
    ):
        connection.connect(server)
        request = json.dumps({"words": words, "env": env, "cwd": str(cwd)}).encode()
        socket.send_fds(connection, [len(request).to_bytes(8)], [out.fileno(), err.fileno()])
        connection.sendall(request)
        status = connection.makefile().read()  # the end comes when the process has ended
        out.seek(0), err.seek(0)
        assert status, err.read()
        return subprocess.CompletedProcess(command, int(status), out.read(), err.read())


def _read_early(env: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in env.items() if name.startswith(("JAX_", "PYTHON"))}


@functools.cache
def _server() -> tuple[str, dict[str, str]]:
    """The address of the process that is forked, and what it was started with."""
    name = f"{__name__}-{os.getpid()}"
    process = subprocess.Popen(
        [sys.executable, "-m", __name__, name],
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    atexit.register(process.communicate)  # its input ends, and with that the process
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return _address(name), _read_early(os.environ)


def _address(name: str) -> str:
    return f"\0{name}"  # in Linux's abstract namespace: no file is left


def _forked(name: str) -> dict[str, Any]:
    """Waits for requests; returns in each new process, with its request."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(_address(name))
    listener.listen(20)
    print("ready", flush=True)
    while True:
        if sys.stdin in select.select([listener, sys.stdin], [], [])[0]:
            os._exit(0)  # who started this is gone
        connection, _ = listener.accept()
        if _fork() == 0:
            listener.close()
            break
        connection.close()
        while _reaped():
            pass
    size, files, _, _ = socket.recv_fds(connection, 8, 2)
    request = json.loads(connection.makefile("rb").read(int.from_bytes(size)))
    program = _fork()
    if program:
        _, status = os.waitpid(program, 0)
        connection.sendall(str(os.waitstatus_to_exitcode(status)).encode())
        os._exit(0)
    connection.close()
    null = os.open(os.devnull, os.O_RDONLY)
    for old, new in enumerate((null, *files)):
        os.dup2(new, old)
        os.close(new)
    return request


def _fork() -> int:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # JAX's, of its threads, of which none has started
        return os.fork()


def _reaped() -> bool:
    try:
        return os.waitpid(-1, os.WNOHANG)[0] != 0
    except ChildProcessError:
        return False


def _main() -> None:
    for module in ("experiments.harness.all", "jaxnet.checkpoint", "jaxnet.train"):
        importlib.import_module(module)
    request = _forked(sys.argv[1])
    tempfile.tempdir = None
    os.environ.clear()
    os.environ.update(request["env"])
    os.chdir(request["cwd"])
    (kind, what, *more) = request["words"]
    sys.argv[:] = [kind, *more]
    sys.path[0] = request["cwd"]
    if kind == "-m":
        runpy.run_module(what, run_name="__main__", alter_sys=True)
    else:
        sys.modules["__main__"] = module = types.ModuleType("__main__")
        exec(compile(what, "<string>", "exec"), vars(module))


if __name__ == "__main__":
    _main()
