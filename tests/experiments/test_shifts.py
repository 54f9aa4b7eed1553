"""experiments/shifts.py"""

import jax.numpy as jnp
import numpy as np
import pytest

from experiments import shifts


def test_images_are_moved_by_pixels():
    x = jnp.arange(9.0).reshape(1, 1, 3, 3)
    right, up = shifts.shifted(x, 1, (0, 1)), shifts.shifted(x, 1, (-1, 0))
    np.testing.assert_array_equal(right[0, 0], [[0, 0, 1], [0, 3, 4], [0, 6, 7]])
    np.testing.assert_array_equal(up[0, 0], [[3, 4, 5], [6, 7, 8], [0, 0, 0]])
    np.testing.assert_array_equal(shifts.shifted(x, 0, (0, 1)), x)


def nets(plain=(0.73, 0.71), augmented=(0.78, 0.76), conv=(0.85, 0.8), losses=(0.3, 0.4), n=18_090):
    """Nets by their accuracy without a shift and after the shift that is judged."""

    def net(ends, loss, parameters=1_574_402):
        by_shift = list(np.linspace(*ends, 1 + shifts.JUDGED))
        return {"parameters": parameters, "train_loss": loss, "by_shift": by_shift}

    return {"a": net(plain, losses[0]), "b": net(augmented, losses[1]), "c": net(conv, 0.3, n)}


NEAR = {"convolution": 1e-7, "linear": 2.0}


@pytest.mark.parametrize(
    ("given", "apart", "off"),
    [
        ({}, {}, None),
        ({"conv": (0.77, 0.7)}, {}, "the convolutional net is right most"),
        ({"conv": (0.85, 0.845)}, {}, "but only its convolutions"),
        ({"augmented": (0.72, 0.76)}, {}, "trained on shifts"),
        ({"augmented": (0.78, 0.70)}, {}, "trained on shifts"),
        ({"losses": (0.4, 0.3)}, {}, "its price"),
        ({"n": 10**6}, {}, "the convolutional net has fewer"),
        ({}, {"convolution": 0.5}, "a convolution of a shifted"),
        ({}, {"linear": 0.0}, "a convolution of a shifted"),
    ],
)
def test_a_planted_wrong_value_is_found(given, apart, off):
    checks = shifts.judge(nets(**given), NEAR | apart)
    found = [check["check"] for check in checks if check["verdict"] == "OFF"]
    assert len(checks) == 6
    assert len(found) == (off is not None)
    assert all(what.startswith(off) for what in found)


def test_a_convolution_respects_shifts_and_a_linear_layer_does_not():
    first = shifts.judge(nets(), shifts.layers_and_shifts(0))[0]
    assert first["verdict"] == "ok"
