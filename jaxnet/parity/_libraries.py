"""The library that a model comes from, and the modules that stand for its layers."""

from collections.abc import Callable, Mapping
from typing import Any

from jaxnet.parity._foreign_model import ForeignModel, Library
from jaxnet.parity._model_forms import is_of, library_name, parts_of
from jaxnet.parity._port import SubjectError
from jaxnet.parity._pure_function import PureFunction
from jaxnet.parity._user_lines import raised


def library_of(given: Any) -> Library | None:
    """How the library of a model runs it; None for what is no model of another library.

    Args:
        given: What the user gives as the model.

    Raises:
        SubjectError: It is one of a library that is known, and something of it is missing.
    """
    name, (first, *rest) = library_name(given), parts_of(given)
    if name == "flax.linen":
        from jaxnet.parity._linen import Linen

        if len(rest) != 1 or not isinstance(rest[0], Mapping):
            raise _wrong(name, "(module, variables), where variables = module.init(key, inputs)")
        return Linen(first, rest[0])
    if name == "equinox":
        from jaxnet.parity._equinox import Equinox

        if len(rest) > 1 or not all(is_of(one, "equinox.nn", "State") for one in rest):
            raise _wrong(name, "the module, or (module, state) of eqx.nn.make_with_state")
        return Equinox(first, *rest)
    if name == "haiku":
        from jaxnet.parity._haiku import Haiku

        if len(rest) not in (1, 2):
            raise _wrong(name, "(transformed, params), or (transformed, params, state)")
        return Haiku(first, *rest)
    return PureFunction(first, *rest) if name == "function" else None


def _wrong(library: str, accepted: str) -> SubjectError:
    return SubjectError(f"check: model: a model of {library}; accepted is {accepted}")


def foreign_model(library: Library, run: Callable[[ForeignModel], Any]) -> ForeignModel:
    """The modules of a model of another library.

    Args:
        library: How it is run.
        run: A function that calls the model, from which its layers are known.

    Raises:
        SubjectError: The model does not run.
    """
    try:
        with library.noting():
            run(library.model())
    except SubjectError:
        raise
    except Exception as error:
        way = library.explained(error)
        raise SubjectError(
            f"check: model: the {library.title} does not run with a batch of the trace: "
            f"{raised(error)}{way and '; '}{way}"
        ) from error
    return library.model()
