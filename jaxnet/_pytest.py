"""The fixture `parity` of pytest, with which a project keeps a port the same in its own CI.

pytest loads this module at its start in every project where jaxnet is installed, so it imports
nothing but pytest until the fixture is used.
"""

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from jaxnet.parity._result import Report


class Parity:
    """What the fixture gives.

    Args:
        folder: The folder that relative paths begin at.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def check(
        self, trace: str | Path, *program: Any, save: str | Path | None = None, **options: Any
    ) -> "Report":
        """Compares a program with a trace; the test fails unless they are the same.

        Args:
            trace: The folder of the trace. A relative path begins at the test file's folder.
            *program: The model, the loss and the optimizer, as `jaxnet.parity.check` takes them,
                or "port.py:make". The program is made and run in the test file's folder.
            save: A folder for the certificate, which is written whatever the verdict is.
            **options: What else `jaxnet.parity.check` takes.

        Returns:
            The report.
        """
        from jaxnet.parity._check import check

        with contextlib.chdir(self._folder):
            report = check(trace, *program, **options)
        if save is not None:
            report.save(self._folder / save)
        if report.verdict != "same":
            pytest.fail(str(report), pytrace=False)
        return report

    def verify(self, certificate: str | Path) -> None:
        """Fails the test unless a certificate says "same" and is of what is there now.

        That is the sources, the trace, and the installed versions. The PyTorch program may be
        elsewhere: what is not there is printed, which pytest shows with -rP.

        Args:
            certificate: The folder of the certificate. A relative path begins at the test file's
                folder.
        """
        from jaxnet.parity import _certificate

        content = _certificate.read(self._folder / certificate)
        if changes := _certificate.stale(content):
            pytest.fail("\n".join(["the certificate is stale:", *changes]), pytrace=False)
        if content["verdict"] != "same":
            pytest.fail(content["text"], pytrace=False)
        for words in _certificate.unchecked(content):
            print(f"not verified: {words}")


@pytest.fixture
def parity(request: pytest.FixtureRequest) -> Parity:
    """Compares a JAX program with a recorded one: `parity.check("trace", "port:make")`."""
    return Parity(request.path.parent)
