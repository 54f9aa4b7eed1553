"""Calls that a step of the user's own makes outside of the updates that it consists of.

A step of two networks may compute its fake images by `states["G"].model()(noise)`, before it
updates either. In torch's numbering of the calls these count too.
"""

import sys
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from jaxnet._intercept import Call
from jaxnet.parity._foreign import watching
from jaxnet.parity._program import joined
from jaxnet.train import _loss
from jaxnet.train._several import named_states
from jaxnet.train._state import TrainState

_lock = threading.RLock()


class Outside:
    """The calls of a step's models, by how many updates have begun.

    Args:
        names: The names of the recorded models by those of the state's models.
    """

    def __init__(self, names: Mapping[str, str]) -> None:
        self.names = names
        self._made: list[tuple[int, str]] = []
        self._all: Counter[str] = Counter()

    def before(self, update: int, recorded: Mapping[str, Sequence[Any]]) -> Counter[str]:
        """The calls between the update before and this one, by module.

        Torch may have none of them: where it uses what another call has given, or computed it
        without gradients before the step.

        Args:
            update: The number of the update.
            recorded: torch's calls of the step by module.
        """
        made = Counter(name for begun, name in self._made if begun == update)
        enough = {name for name in made if len(recorded.get(name, ())) >= self._all[name]}
        return Counter({name: made[name] for name in enough})

    @contextmanager
    def noting(self, state: Any, begun: Sequence[Any]) -> Iterator[None]:
        """Notes the calls of models that are made of a state inside.

        Args:
            state: The state before the step.
            begun: The updates that have begun so far, a list that grows.
        """
        # What a step gives back is another object, with the key that the state had.
        known = [(one.key, self.names[name]) for name, one in named_states(state).items()]
        original = TrainState.model
        with _lock, ExitStack() as stack:

            def model(one: Any, *args: Any, **kwargs: Any) -> Any:
                made = original(one, *args, **kwargs)
                name = next((name for key, name in known if key is one.key), None)
                within = sys._getframe(1).f_globals is vars(_loss)  # an update makes its models
                if name is not None:

                    def note(call: Call, proceed: Any) -> Any:
                        if getattr(call.module, "training", True):
                            module = joined(name, call.name)
                            self._all[module] += 1
                            if not within:
                                self._made.append((len(begun), module))
                        return proceed(*call.args, **call.kwargs)

                    stack.enter_context(watching(made, note))
                return made

            TrainState.model = model  # type: ignore[method-assign, assignment]
            try:
                yield
            finally:
                TrainState.model = original  # type: ignore[method-assign]
