"""Planted faults are found, placed and named; `python -m benchmarks.parity --planted` has more."""

import re

import pytest

from benchmarks.parity import Found, judged, trial
from tests.parity import plants

PLANTS = {plant.name: plant for plant in plants.every()}

# One of each kind; every row of the catalogue has a test of its own beside its references.
CHOSEN = (
    pytest.param("attention, mask moved", marks=pytest.mark.slow),
    "AdamW for Adam",
    "gradient only",
    "LayerNorm eps and mse sum",
)


@pytest.mark.torch
@pytest.mark.long  # recorded, compiled in two precisions, attributed
@pytest.mark.parametrize("name", CHOSEN)
def test_a_planted_fault_is_found_placed_and_named(name):
    plant = PLANTS[name]
    outcome = trial(plant.pair, plant.steps)
    assert outcome.report is not None, outcome.error
    assert judged(plant, outcome.report) == Found(True, True, True, 0), f"\n{outcome.report}"


def test_every_plant_has_a_name_of_its_own():
    assert len(PLANTS) == len(plants.every()) > 100
    for plant in PLANTS.values():
        assert plant.faults or plant.name.endswith("nothing")
        for fault in plant.faults:
            re.compile(fault.says)
            re.compile(fault.place)
