"""jaxnet/_checks.py"""

import numpy as np
import pytest

from jaxnet._checks import check_choice, check_flag, check_integer, is_integer, is_number


@pytest.mark.parametrize(
    ("value", "integer", "number"),
    [
        (3, True, True),
        (np.int64(3), True, True),
        (np.uint8(3), True, True),
        (True, False, False),
        (np.True_, False, False),
        (3.0, False, True),
        (np.float32(3), False, True),
        ("3", False, False),
        (3j, False, False),
        (None, False, False),
        (np.array(3), False, False),
    ],
)
def test_what_an_integer_and_a_number_are(value, integer, number):
    assert (is_integer(value), is_number(value)) == (integer, number)


@pytest.mark.parametrize(
    ("value", "bounds", "message"),
    [
        (0, {"least": 1}, r"n: 0; accepted is an integer, at least 1$"),
        (5, {"least": 1, "most": 4}, r"n: 5; accepted is an integer from 1 to 4$"),
        (5, {"most": 4}, r"n: 5; accepted is an integer, at most 4$"),
        (2.0, {}, r"n: 2.0; accepted is an integer$"),
        (True, {"least": 0}, r"n: True; accepted is an integer, at least 0$"),
    ],
)
def test_integers_out_of_range_are_refused(value, bounds, message):
    with pytest.raises(ValueError, match=message):
        check_integer("n", value, **bounds)
    check_integer("n", 3)
    check_integer("n", np.int32(1), least=1, most=1)


@pytest.mark.parametrize(
    ("value", "choices", "also", "message"),
    [
        ("c", ("a", "b"), "", r"mode: 'c'; accepted are 'a' and 'b'$"),
        (3, (1,), "", r"mode: 3; accepted is 1$"),
        (["a"], ("a",), "a function", r"mode: \['a'\]; accepted are 'a' and a function$"),
        (np.array([1, 2]), (1, 2), "", r"mode: array.*; accepted are 1 and 2$"),
    ],
)
def test_choices_that_are_not_there_are_refused(value, choices, also, message):
    with pytest.raises(ValueError, match=message):
        check_choice("mode", value, choices, also)
    check_choice("mode", choices[-1], choices, also)
    check_choice("mode", None, (None, "a"))


def test_flags():
    check_flag("drop_last", True)
    check_flag("drop_last", np.False_)
    with pytest.raises(ValueError, match="drop_last: 1; accepted are True and False"):
        check_flag("drop_last", 1)
