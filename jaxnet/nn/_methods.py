"""The methods of torch.nn.Module for hooks, weights and casts, which `Module` inherits."""

from collections.abc import Callable, Mapping
from typing import Any, Self

import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxnet import _hints as hints
from jaxnet._intercept import RemovableHandle, add_hook
from jaxnet._names import named_variables
from jaxnet._state_dict import IncompatibleKeys, load_state_dict, state_dict
from jaxnet.precision import check_x64


class Methods(nnx.Module):
    """The base class of `Module`."""

    _hooks: tuple[Any, ...] = ()  # those of jaxnet/_intercept.py

    def register_forward_hook(
        self,
        hook: Callable[..., Any],
        *,
        prepend: bool = False,
        with_kwargs: bool = False,
    ) -> RemovableHandle:
        """Has a function called after every call of this module.

        The hook stays in copies of the model, and so in a training step. A compiled step runs it
        when it is traced: the hook sees tracers, and what it stores outside is of no use after
        that. `nn.activations` returns the outputs of inner modules from a compiled function.

        Args:
            hook: The function `hook(module, args, output)`, which returns None or a new output.
            prepend: Whether the hook comes before those that are registered already.
            with_kwargs: Whether it is called as `hook(module, args, kwargs, output)`.

        Returns:
            A handle, whose `remove()` removes the hook.

        Raises:
            TypeError: The hook is not a function.

        >>> import jax.numpy as jnp
        >>> from jaxnet import nn
        >>> layer = nn.ReLU()
        >>> with layer.register_forward_hook(lambda module, args, output: output + 1):
        ...     layer(jnp.array([-1.0, 2.0])).tolist()
        [1.0, 3.0]
        """
        return add_hook(self, hook, False, prepend, with_kwargs)

    def register_forward_pre_hook(
        self,
        hook: Callable[..., Any],
        *,
        prepend: bool = False,
        with_kwargs: bool = False,
    ) -> RemovableHandle:
        """Has a function called before every call of this module.

        Args:
            hook: The function `hook(module, args)`, which returns None, the new arguments as a
                tuple, or a single new argument.
            prepend: Whether the hook comes before those that are registered already.
            with_kwargs: Whether it is called as `hook(module, args, kwargs)`, and returns None or
                the pair (args, kwargs).

        Returns:
            A handle, as from `register_forward_hook`.

        Raises:
            TypeError: The hook is not a function.
        """
        return add_hook(self, hook, True, prepend, with_kwargs)

    def state_dict(self, *, prefix: str = "") -> dict[str, np.ndarray]:
        """Returns parameters and buffers by name: `jaxnet.weights.state_dict(model)`.

        Args:
            prefix: What stands before every name.
        """
        return {prefix + name: array for name, array in state_dict(self).items()}

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True
    ) -> IncompatibleKeys:
        """Writes arrays into the model by name: `jaxnet.weights.load_state_dict(model, ...)`.

        Args:
            state_dict: The arrays by name.
            strict: Whether missing and unexpected names are errors.

        Returns:
            The missing and the unexpected names.

        Raises:
            ValueError: The state_dict does not fit the model, which is then unchanged.
        """
        return load_state_dict(self, state_dict, strict)

    def to(self, dtype: Any) -> Self:
        """Casts all floating parameters and buffers to a dtype, and returns this module.

        As in torch the numbers are those that were drawn in the dtype before. To compute in half
        precision with float32 parameters, write
        `train.make_train_step(..., compute_dtype="bfloat16")` instead.

        Args:
            dtype: The dtype, such as jnp.bfloat16 or "bfloat16". torch takes a device as well.

        Raises:
            ValueError: It is no floating dtype, or is float64 and jax_enable_x64 is not set.
        """
        try:
            kind = jnp.dtype(dtype)
        except TypeError:
            raise ValueError(
                f"to: {dtype!r}; accepted is a floating dtype. For devices: {hints.DEVICE}"
            ) from None
        if not jnp.issubdtype(kind, jnp.floating):
            raise ValueError(f"to: {dtype!r}; accepted is a floating dtype, such as jnp.bfloat16")
        check_x64("to", kind)
        for _, variable in named_variables(self):
            if jnp.issubdtype(jnp.result_type(variable[...]), jnp.floating):
                variable.set_value(jnp.asarray(variable[...], kind))
        return self

    def half(self) -> Self:
        """Casts all floating parameters and buffers to float16, as `to` does."""
        return self.to(jnp.float16)

    def bfloat16(self) -> Self:
        """Casts all floating parameters and buffers to bfloat16, as `to` does."""
        return self.to(jnp.bfloat16)

    def double(self) -> Self:
        """Casts all floating parameters and buffers to float64, as `to` does.

        A layer that is built with dtype=jnp.float64 draws other numbers, also as in torch.

        Raises:
            ValueError: jax_enable_x64 is not set.
        """
        return self.to(jnp.float64)

    # The last method: after it, `float` in this class is the method and no type.
    def float(self) -> Self:
        """Casts all floating parameters and buffers to float32, as `to` does."""
        return self.to(jnp.float32)
