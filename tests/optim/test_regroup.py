"""optim.regroup: parameters that begin, stop and begin again to be trained in one run."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxnet import optim
from tests.optim.runs import problem


@pytest.mark.torch
@pytest.mark.parametrize("name", ["Adam", "NAdam", "SGD"])
def test_parameters_come_stop_and_go_on_as_in_torch(name):
    """20 steps without c, 20 with c as a new group, 20 without a, 20 with all."""
    import torch

    kwargs = {"weight_decay": 0.1} | ({"momentum": 0.9, "dampening": 0.5} if name == "SGD" else {})
    make, theirs_of = getattr(optim, name), getattr(torch.optim, name)
    slow, fast = make(0.01, **kwargs), make(0.03, **kwargs)
    with jax.enable_x64(True):
        params, grads = problem(steps=80)
        tensors = {k: torch.tensor(v, dtype=torch.float64) for k, v in params.items()}
        torch.set_default_dtype(torch.float64)
        theirs = theirs_of([tensors["a"], tensors["b"]], lr=0.01, foreach=False, **kwargs)
        params = {k: jnp.asarray(v, jnp.float64) for k, v in params.items()}
        phases = [
            optim.groups([("c", optim.frozen())], slow),
            optim.groups([("c", fast)], slow),
            optim.groups([("c", fast), ("a", optim.frozen(slow))], slow),
            optim.groups([("c", fast)], slow),
        ]
        without = [{"c"}, set(), {"a"}, set()]
        optimizer, state = None, None
        for phase, new in enumerate(phases):
            state = (
                new.init(params) if state is None else optim.regroup(optimizer, state, params, new)
            )
            optimizer = new
            update = jax.jit(optimizer.update)
            if phase == 1:
                theirs.add_param_group({"params": [tensors["c"]], "lr": 0.03})
            for i in range(20 * phase, 20 * phase + 20):
                for k, tensor in tensors.items():
                    given = torch.tensor(grads[k][i], dtype=torch.float64)
                    tensor.grad = None if k in without[phase] else given
                theirs.step()
                at = {k: jnp.asarray(g[i], jnp.float64) for k, g in grads.items()}
                updates, state = update(at, state, params)
                params = optax.apply_updates(params, updates)
        torch.set_default_dtype(torch.float32)
    for k, tensor in tensors.items():
        np.testing.assert_allclose(params[k], tensor.numpy(), rtol=1e-10, atol=1e-12)


def test_what_does_not_fit_begins_anew_or_is_refused():
    params = {"a": jnp.ones(2), "b": jnp.ones(2)}
    adam = optim.Adam()
    _, state = adam.update(params, adam.init(params), params)
    new = optim.groups([("a", optim.SGD(0.1, momentum=0.9))], adam)
    sgd, rest = optim.regroup(adam, state, params, new)
    assert not sgd.slots["momentum_buffer"]["a"].any()
    assert (int(sgd.step), int(sgd.missed[0]), int(rest.step), int(rest.missed[0])) == (1, 1, 1, 0)
    assert rest.slots["exp_avg"]["b"].any()
    with pytest.raises(ValueError, match="regroup: opt_state: its groups do not have"):
        optim.regroup(new, state, params, adam)
