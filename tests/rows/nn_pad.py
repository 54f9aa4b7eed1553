"""Padding in every mode, with and without negative sizes."""

from tests.table import Case, functional


def function(name, *inputs, id="", **options):
    """A row of a function that is no layer."""
    words = ",".join(f"{k}={v}" for k, v in options.items())
    return Case(
        "Identity", inputs=inputs, apply=functional(name, **options), id=f"{name}({words}){id}"
    )


CASES = [
    Case("CircularPad1d", ((2, 3),), inputs=[(2, 3)]),
    Case("CircularPad2d", ((1, -1, 0, 2),), inputs=[(1, 2, 3, 3)]),
    Case("CircularPad3d", (1,), inputs=[(1, 2, 1, 2, 3)]),
    Case("ConstantPad1d", (2, 3.5), inputs=[(2, 3)]),
    Case("ConstantPad2d", ((1, 0, -1, 2), 3.5), inputs=[(2, 2, 3)]),
    Case("ConstantPad3d", ([1, 0, 0, 2, 1, 1], -1.0), inputs=[(1, 1, 2, 2)]),
    Case("ReflectionPad1d", ((2, 1),), inputs=[(2, 2, 3)]),
    Case("ReflectionPad2d", ((1, 2, -1, 1),), inputs=[(2, 3, 3)]),
    Case("ReflectionPad3d", (1,), inputs=[(1, 2, 2, 2, 3)]),
    Case("ReplicationPad1d", ((5, -1),), inputs=[(2, 3)]),
    Case("ReplicationPad2d", (2,), inputs=[(1, 2, 1, 3)]),
    Case("ReplicationPad3d", ((1, 0, 2, -1, 1, 1),), inputs=[(1, 2, 2, 2)]),
    Case("ZeroPad1d", ((1, 2),), inputs=[(3,)]),
    Case("ZeroPad2d", (1,), inputs=[(1, 2, 2, 2)]),
    Case("ZeroPad3d", ((1, 0, 0, 0, 0, 1),), inputs=[(1, 1, 2, 2)]),
    function("pad", (2, 1, 2, 3), pad=(1, 0, 0, 1, 2, 0, 0, 1), value=2.0),
]
