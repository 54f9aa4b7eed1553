"""A training state of the user's own that is a pytree, as of flax.linen, equinox and haiku."""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxnet._keys import keys
from jaxnet.parity._foreign_model import Leaf, Library
from jaxnet.parity._model_forms import is_of
from jaxnet.parity._port import SubjectError
from jaxnet.parity._pure_function import PureFunction
from jaxnet.parity._trace import Trace
from jaxnet.parity._user_lines import raised

_ACCEPTED = (
    "a flax TrainState, a tuple such as (params, opt_state), or a dictionary with the key "
    '"params", where the parameters are a module of equinox or a pytree of arrays'
)


class PytreePlace:
    """A state that is a pytree, with the parameters of a model in it.

    Args:
        state: The state.
        library: How the library has the parameters.
    """

    def __init__(self, state: Any, library: Library) -> None:
        self.library = library
        self.model: nnx.Module = library.model()
        self._leaves, self._form = jax.tree.flatten(state)
        places = {id(leaf): i for i, leaf in reversed([*enumerate(self._leaves)])}
        self._own: dict[str, tuple[int, Leaf]] = {}
        for arrays, tree in zip((library.trained, library.states), library.trees(), strict=True):
            for leaf, array in zip(arrays.leaves, arrays.form.flatten_up_to(tree), strict=True):
                self._own[leaf.name] = places[id(array)], leaf
        own = {i for i, _ in self._own.values()}
        self._others = [i for i in _numbers(state) if i not in own]
        self.rest = tuple(jnp.asarray(self._leaves[i]) for i in self._others)
        self.optimizers = tuple(_optimizers(state))

    def calls(self) -> Sequence[str]:
        return self.library.order()

    def state(self, arrays: Mapping[str, Any], rest: Sequence[Any], double: bool) -> Any:
        leaves = list(self._leaves)
        for name, (i, leaf) in self._own.items():
            leaves[i] = leaf.form.back(arrays[name], leaf.shape)
        for i, array in zip(self._others, rest, strict=True):
            leaves[i] = array
        return jax.tree.unflatten(self._form, leaves)

    def running(self, double: bool) -> AbstractContextManager[Any]:
        return self.library.wide() if double else nullcontext()

    def taken(self, given: Any, result: Any) -> tuple[dict[str, Any], tuple[Any, ...], Any]:
        count = len(self._leaves)
        after: list[Any] = []
        metrics: Any = None
        if isinstance(result, tuple) and len(result) == 2:
            after, metrics = jax.tree.leaves(result[0]), result[1]
        if len(after) != count:
            raise SubjectError(
                f"check: step: it returned {_described(result)}; accepted is the pair of the "
                f"state, which has {count} arrays, and the loss or a dictionary with it"
            )
        own = self._own.items()
        arrays = {name: leaf.form.of(jnp.asarray(after[i])) for name, (i, leaf) in own}
        return arrays, tuple(jnp.asarray(after[i]) for i in self._others), metrics


def pytree_place(trace: Trace, step: Callable[..., Any], state: Any) -> PytreePlace | None:
    """Where a state that is a pytree has its model; None for one that has no arrays.

    Raises:
        SubjectError: The step does not run, or what the parameters are is not known.
    """
    # Averages that begin as the parameters, or two parameters that begin as one array, are the
    # same objects. Each leaf is made an object of its own, by which its place is known.
    state = jax.tree.map(_copied, state)
    parts = [part for part in _parts(state) if _has_floats(part)]
    if not parts:
        return None
    modules = [part for part in parts if is_of(part, "equinox", "Module")]
    batch = trace.steps[0].batch() if trace.steps[0].batches else None
    given = jax.tree.map(jnp.asarray, batch)
    if modules:
        from jaxnet.parity._equinox import Equinox

        states = [part for part in _parts(state) if is_of(part, "equinox.nn", "State")]
        return PytreePlace(state, Equinox(modules[0], *states[:1]))
    params, *others = parts
    form: Any = jax.tree.structure(params)
    mappings = [x for x in others if isinstance(x, Mapping) and jax.tree.structure(x) != form]
    candidates = _candidates(state, params, mappings)
    try:
        with ExitStack() as stack:
            for one in candidates:
                stack.enter_context(one.noting())
            _shapes(step, state, given)
    except SubjectError:
        raise
    except Exception as error:
        raise SubjectError(
            f"check: step: it does not run with its state and a batch of the trace: "
            f"{raised(error)}; accepted is a step (state, batch) -> (state, metrics)"
        ) from error
    library = next((one for one in candidates if one.fits()), candidates[-1])
    return PytreePlace(state, library)


def _copied(leaf: Any) -> Any:
    """A leaf of a state as an object that is no other leaf's."""
    if isinstance(leaf, jax.Array | np.ndarray | np.generic):
        return leaf.copy()
    return float.fromhex(leaf.hex()) if type(leaf) is float else leaf


def _candidates(state: Any, params: Any, others: Sequence[Any]) -> list[Library]:
    """The libraries that parameters may be of, those first whose layers a run shows."""
    found: list[Library] = []
    if isinstance(params, Mapping):
        if "flax.linen" in sys.modules:
            from jaxnet.parity._linen import Linen

            found.append(Linen(None, {"params": params, **_collections(state, others)}))
        if "haiku" in sys.modules and len(others) < 2:
            from jaxnet.parity._haiku import Haiku

            found.append(Haiku(None, params, *others))
    return [*found, PureFunction(_of_step, params, others or None)]


def _of_step() -> None:
    """The model of a step of the user's own, which calls it."""


def _collections(state: Any, others: Sequence[Any]) -> dict[str, Any]:
    """The collections of flax.linen beside the parameters, by name."""
    named = vars(state) if hasattr(state, "__dict__") else state
    named = named if isinstance(named, Mapping) else {}
    found: dict[str, Any] = {}
    for one in others:
        name = next((key for key, value in named.items() if value is one), "batch_stats")
        found |= one if "batch_stats" in one else {str(name): one}
    return found


def _shapes(step: Callable[..., Any], state: Any, batch: Any) -> None:
    """Runs a step for its shapes alone."""
    leaves, form = jax.tree.flatten(state)
    numbers = _numbers(state)

    def run(arrays: Sequence[Any], batch: Any) -> None:
        every = list(leaves)
        for i, array in zip(numbers, arrays, strict=True):
            every[i] = array
        with keys(jax.random.key(0)):
            step(jax.tree.unflatten(form, every), batch)

    jax.eval_shape(run, [jnp.asarray(leaves[i]) for i in numbers], batch)


def _parts(state: Any) -> Iterator[Any]:
    """The parts of a state that may be parameters or other arrays of a model, parameters first."""
    if is_of(state, "equinox", "Module") or is_of(state, "equinox.nn", "State"):
        yield state
        return
    if hasattr(state, "apply_fn") and hasattr(state, "params"):  # flax's TrainState
        own = vars(state)
        values = [own["params"], *(v for name, v in own.items() if name != "params")]
    elif isinstance(state, Mapping) and "params" in state:
        values = [state["params"], *(v for name, v in state.items() if name != "params")]
    elif isinstance(state, Mapping) and not any(map(_is_optimizer, state.values())):
        yield state
        return
    elif isinstance(state, Mapping | tuple | list):
        values = [*state.values()] if isinstance(state, Mapping) else [*state]
    else:
        return
    for value in values:
        is_own = is_of(value, "equinox", "Module") or is_of(value, "equinox.nn", "State")
        if is_own or (isinstance(value, Mapping | tuple | list) and not _is_optimizer(value)):
            yield value


def _is_optimizer(x: Any) -> bool:
    """Whether a part of a state is that of an optimizer of optax."""
    if not isinstance(x, tuple):
        return False
    if hasattr(x, "_fields"):
        return True
    return not x or any(map(_is_optimizer, x))


def _has_floats(part: Any) -> bool:
    leaves = [leaf for leaf in jax.tree.leaves(part) if hasattr(leaf, "dtype")]
    return any(jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in leaves)


def _numbers(state: Any) -> list[int]:
    """The indices of the leaves of a state that are arrays, or numbers that a step may change.

    A number in a module of equinox, such as the rate of a dropout, is a part of its code.
    """
    found: list[int] = []
    count = 0
    for part in jax.tree.leaves(state, is_leaf=lambda x: is_of(x, "equinox", "Module")):
        leaves = jax.tree.leaves(part)
        kinds: Any = (jax.Array, np.ndarray, np.generic)
        if not is_of(part, "equinox", "Module"):
            kinds = (*kinds, int, float)
        for leaf in leaves:
            if isinstance(leaf, kinds) and not isinstance(leaf, bool):
                found.append(count)
            count += 1
    return found


def _optimizers(state: Any) -> Iterator[Any]:
    """The transformation of flax's TrainState."""
    transformation = getattr(state, "tx", None)
    if transformation is not None:
        yield transformation


def _described(result: Any) -> str:
    if isinstance(result, tuple):
        return f"a tuple of {', '.join(type(part).__name__ for part in result) or 'nothing'}"
    return f"a {type(result).__name__}"
