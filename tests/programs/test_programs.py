"""Whole programs: the losses of every step are PyTorch's."""

import functools

import numpy as np
import pytest

from tests.marks import slow_among
from tests.programs import comparison
from tests.programs.comparison import DRAWN, FLOAT32, FLOAT64, PROGRAMS, Run, distance, lines

# All are compared with PyTorch itself below; without it, by default those that compile soonest.
SOON = {"gpt", "mnist", "siamese_network", "vae", "word_language_model"}
SINGLE = {name for name in PROGRAMS if not PROGRAMS[name].double}


@functools.cache
def replayed(name: str) -> Run:
    """The program in its own dtype, with the dropout masks of the golden file."""
    return comparison.of_jaxnet(name, comparison.golden(name).masks, PROGRAMS[name].double)


def beside(name: str, theirs: Run) -> Run:
    """The program with the masks of this run of PyTorch, which elsewhere may be others."""
    masks = comparison.golden(name).masks
    if all(np.array_equal(*pair) for pair in zip(masks, theirs.masks, strict=True)):
        return replayed(name)
    return comparison.of_jaxnet(name, theirs.masks, PROGRAMS[name].double)


@pytest.mark.parametrize("name", slow_among(PROGRAMS, set(PROGRAMS) - SOON))
def test_the_losses_are_those_that_torch_wrote_down(name):
    program, found = PROGRAMS[name], replayed(name).losses
    close = FLOAT64 if program.double else FLOAT32
    assert len(found) == program.steps
    assert distance(found, comparison.golden(name).losses) <= close
    assert distance(found[1:], found[:-1]) > 0.01  # It learns: the losses are not all the same.


@pytest.mark.torch
@pytest.mark.parametrize("name", PROGRAMS)
def test_the_start_and_the_losses_are_those_of_torch(name):
    program = PROGRAMS[name]
    close, atol = FLOAT64 if program.double else FLOAT32, DRAWN if program.normal else 0
    theirs = comparison.of_torch(name, program.double)
    ours = beside(name, theirs)
    for here, there in zip(ours.start, theirs.start, strict=True):
        assert list(here) == list(there)
        for key, value in there.items():
            np.testing.assert_allclose(here[key], value, rtol=0, atol=atol, err_msg=key)
    for here, there in zip(ours.arrays, theirs.arrays, strict=True):  # the batches
        np.testing.assert_allclose(here, there, rtol=0, atol=atol)
    assert distance(ours.losses, theirs.losses) <= close
    # Were the program chaotic, torch's own would part from one with weights off by one rounding.
    nudged = comparison.of_torch(name, program.double, nudged=True)
    assert 0 < distance(nudged.losses, theirs.losses) <= close


@pytest.mark.torch
@pytest.mark.parametrize("name", slow_among(sorted(SINGLE), SINGLE - SOON))
def test_losses_and_weights_in_float64_are_those_of_torch(name):
    theirs = comparison.of_torch(name, double=True)
    ours = comparison.of_jaxnet(name, theirs.masks, double=True, like=theirs)
    assert distance(ours.losses, theirs.losses) <= FLOAT64
    for here, there in zip(ours.end, theirs.end, strict=True):
        assert list(here) == list(there)
        for key, value in there.items():
            assert here[key].dtype == value.dtype
            np.testing.assert_allclose(here[key], value, rtol=FLOAT64, atol=FLOAT64, err_msg=key)


@pytest.mark.parametrize("name", PROGRAMS)
def test_no_program_is_a_tenth_longer_than_torchs(name):
    assert lines(name) <= 1.1 * lines(f"{name}_torch")


def test_the_page_is_current():
    assert comparison.PAGE.read_text(encoding="utf-8") == comparison.page()


def test_lines_are_counted_without_comments(tmp_path, monkeypatch):
    monkeypatch.setattr(comparison, "FOLDER", tmp_path)
    text = (
        '"""A docstring\n\nof three lines."""\n\nimport os  # one\n\n# none\nx = [\n    "two",\n]\n'
    )
    (tmp_path / "some.py").write_text(
        text + 'def f():\n    """None."""\n    return os, """a\nb"""\n'
    )
    assert lines("some") == 7
