"""Rows of the catalogue in plain flax programs; `benchmarks.parity --planted` runs all of them."""

import re

import pytest

from benchmarks.parity import Found, judged, trial
from jaxnet.parity import _traps as traps
from tests.parity import flax_planted, flax_planted_losses, flax_planted_training

ROWS = [
    *flax_planted.LAYERS,
    *flax_planted_losses.LOSSES,
    *flax_planted_training.TRAINING,
]
PLANTS = {plant.name: plant for plant in ROWS}
PROGRAMS = [
    *flax_planted.PROGRAMS,
    *flax_planted_losses.PROGRAMS,
    *flax_planted_training.PROGRAMS,
]

# One of each kind of place: a layer, between two, the loss, an update, a schedule.
CHOSEN = ("norm-centred", "log-base", "loss-half", "amsgrad-corrected")


pytestmark = pytest.mark.usefixtures("usual_settings")


def _row(name):
    return re.sub("^flax: ", "", name).partition(",")[0]


def test_every_row_is_planted_or_left_out_for_a_reason():
    planted = {_row(name) for name in PLANTS}
    left_out = flax_planted_training.LEFT_OUT
    assert planted | set(left_out) == {trap.name for trap in traps.ALL}
    assert not planted & set(left_out)
    assert all(len(reason.split()) > 5 for reason in left_out.values())


def test_each_plant_changes_a_program_that_is_tried_without_a_fault():
    tried = {id(program) for program in PROGRAMS}
    assert [plant.name for plant in ROWS if id(plant.program) not in tried] == []
    assert [p.name for p in ROWS if p.wrong.steps != p.program.steps] == []
    parts = ("task", "model", "middle", "loss", "optimizer", "load")
    unchanged = [
        plant.name
        for plant in ROWS
        if all(getattr(plant.wrong, part) == getattr(plant.program, part) for part in parts)
    ]
    assert unchanged == []


def test_programs_and_plants_have_names_of_their_own():
    names = [program.name for program in PROGRAMS]
    assert sorted(set(names)) == sorted(names)
    assert len(PLANTS) == len(ROWS)


@pytest.mark.torch
@pytest.mark.long  # each is recorded, compiled in two precisions and attributed
@pytest.mark.parametrize("name", CHOSEN)
def test_a_row_in_plain_flax_is_found_placed_and_named(name):
    plant = PLANTS[f"flax: {name}"]
    outcome = trial(plant.pair, plant.steps)
    assert outcome.report is not None, outcome.error
    assert judged(plant, outcome.report) == Found(True, True, True, 0), f"\n{outcome.report}"


@pytest.mark.torch
@pytest.mark.long
def test_a_program_of_plain_flax_without_a_fault_is_the_same():
    """A recurrent layer with both of torch's biases, and an optimizer of optax."""
    plant = flax_planted.GRU.nothing
    outcome = trial(plant.pair, plant.steps)
    assert outcome.report is not None, outcome.error
    assert judged(plant, outcome.report) == Found(True, True, True, 0), f"\n{outcome.report}"
