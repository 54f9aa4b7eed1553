"""What a type checker sees of jaxnet from outside."""

import importlib
import inspect
from importlib.resources import files

import jax
import pytest

from tests import typed_user

PACKAGES = (
    "checkpoint",
    "data",
    "losses",
    "metrics",
    "nn",
    "nn.attention",
    "nn.functional",
    "nn.init",
    "ops",
    "ops.fft",
    "ops.linalg",
    "ops.special",
    "optim",
)
MODULES = (*PACKAGES, "precision", "random", "train", "weights")


def functions(module):
    """The public functions and classes of jaxnet's, and of a class how it is built and called."""
    for name in module.__all__:
        value = getattr(module, name)
        if not getattr(value, "__module__", "").startswith("jaxnet"):
            continue
        if not inspect.isclass(value):
            if callable(value):
                yield name, value
            continue
        for method, function in vars(value).items():
            public = method in ("__init__", "__call__") or not method.startswith("_")
            if public and inspect.isfunction(function) and function.__module__ != "typing":
                yield f"{name}.{method}", function


@pytest.mark.parametrize("name", MODULES)
def test_public_signatures_are_annotated_in_full(name):
    module = importlib.import_module(f"jaxnet.{name}")
    found = list(functions(module))
    assert found
    bare = []
    for where, function in found:
        signature = inspect.signature(function)
        parameters = list(signature.parameters.values())
        own = parameters[1:] if parameters and parameters[0].name in ("self", "cls") else parameters
        bare += [f"{where}({p.name})" for p in own if p.annotation is p.empty]
        if signature.return_annotation is signature.empty:
            bare.append(f"{where} returns")
    assert not bare


@pytest.mark.long
def test_the_users_program_runs():
    before = jax.config.values["jax_default_matmul_precision"]
    try:
        typed_user.main()
    finally:  # it chooses a precision, as a program may
        jax.config.update("jax_default_matmul_precision", before)
    assert files("jaxnet").joinpath("py.typed").is_file()  # or else all of jaxnet is Any to it
