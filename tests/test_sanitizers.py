"""The kernels in C under the address and the undefined-behaviour sanitizer, over odd shapes."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

GCC = shutil.which("gcc")
OPTIONS = "-fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer -g1"
FAULTY = "int main(int n, char** words) { int a[2]; return (words, a[n + 1]); }"


def runtime(name: str) -> str:
    """The path of a sanitizer's library; no absolute one if gcc has none."""
    return subprocess.run(
        [str(GCC), f"-print-file-name={name}"], capture_output=True, text=True, check=True
    ).stdout.strip()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux" or not GCC, reason="needs gcc on Linux")
def test_no_step_over_an_end_and_nothing_undefined(tmp_path):
    libraries = [runtime("libasan.so"), runtime("libubsan.so")]
    if not all(Path(library).is_absolute() for library in libraries):
        pytest.skip("gcc has no sanitizers here")
    # That a fault ends a program, before its absence is believed.
    (tmp_path / "faulty.c").write_text(FAULTY)
    faulty = tmp_path / "faulty"
    subprocess.run([GCC, *OPTIONS.split(), tmp_path / "faulty.c", "-o", faulty], check=True)
    assert subprocess.run([faulty], capture_output=True).returncode
    env = {
        **os.environ,
        "CC": f"{GCC} {OPTIONS}",
        "JAXNET_CACHE": str(tmp_path / "cache"),
        "LD_PRELOAD": " ".join(libraries),
        # Python and XLA keep memory to the end, and XLA's code is not compiled with sanitizers.
        "ASAN_OPTIONS": "detect_leaks=0:allocator_may_return_null=1",
        "UBSAN_OPTIONS": "print_stacktrace=1",
        "JAX_PLATFORMS": "cpu",
    }
    # `_SECONDS` of build.py is the limit of the compiler.
    done = subprocess.run(
        [sys.executable, "-m", "tests.sanitized"],
        cwd=Path(__file__).parents[1], env=env, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-8000:]
    assert done.stdout.endswith("no fault\n")
    assert OPTIONS in done.stdout.splitlines()[0]
