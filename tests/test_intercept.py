"""jaxnet/_intercept.py"""

import copy
import pickle
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxnet import nn, train
from jaxnet.random import Generator

X = jnp.ones((2, 3))


def linear(i=3, o=3):
    return nn.Linear(i, o, rngs=Generator(0))


def noting(seen):
    """An interceptor that notes the names of the calls in the order of their ends."""

    def note(call, proceed):
        output = proceed(*call.args, **call.kwargs)
        seen.append(call.name)
        return output

    return note


def calls(*modules):
    """The calls of the modules' classes: no interception may leave others behind.

    A class of which an object had a hook keeps another call for ever, whichever test that was.
    """
    return [type(module).__call__ for module in modules]


def test_names_arguments_and_outputs():
    seen = []

    class Net(nn.Module):
        def __init__(self):
            self.body = nn.Sequential(linear(), nn.Tanh())

        def __call__(self, x, *, scale):
            return {"y": self.body(x) * scale}

    net = Net()
    before, plain = net(X, scale=2), calls(net, net.body, net.body[0])

    def note(call, proceed):
        output = proceed(*call.args, **call.kwargs)
        seen.append((call.name, type(call.module).__name__, call.kwargs, output))
        return output

    with nn.intercept(net, note):
        after = net(X, scale=2)
    net(X, scale=2)
    assert [(name, kind) for name, kind, _, _ in seen] == [
        ("body.0", "Linear"), ("body.1", "Tanh"), ("body", "Sequential"), ("", "Net"),
    ]  # fmt: skip
    assert seen[-1][2] == {"scale": 2}
    np.testing.assert_array_equal(seen[-1][3]["y"], after["y"])
    np.testing.assert_array_equal(before["y"], after["y"])
    assert calls(net, net.body, net.body[0]) == plain
    assert "__call__" not in vars(nn.ModuleList)


def test_arguments_and_outputs_can_be_changed():
    net = nn.Sequential(linear(), nn.Tanh())

    def change(call, proceed):
        if call.name == "0":
            return proceed(jnp.zeros_like(call.args[0])) + 1
        return proceed(*call.args)

    with nn.intercept(net, change):
        output = net(X)
    expected = jnp.tanh(jnp.broadcast_to(net[0].bias[...] + 1, (2, 3)))
    np.testing.assert_allclose(output, expected, rtol=1e-6)

    with nn.intercept(net, lambda call, proceed: "replaced"):
        assert net(X) == "replaced"


def test_a_shared_module_is_seen_at_each_call_under_its_first_name():
    block = linear()
    seen = []
    net = nn.Sequential(block, nn.Tanh(), block)
    with nn.intercept(net, noting(seen)):
        net(X)
    assert seen == ["0", "1", "0", ""]


def test_the_context_that_was_opened_last_is_asked_first():
    net = nn.Sequential(linear())
    order = []

    def named(name):
        def note(call, proceed):
            order.append(f"{name} {call.name or 'net'}")
            return proceed(*call.args)

        return note

    with nn.intercept(net, named("outer")), nn.intercept(net[0], named("inner")):
        net(X)
    # the inner context knows the layer only, as the model itself
    assert order == ["outer net", "inner net", "outer 0"]


def test_an_interceptor_that_calls_a_module_itself_does_not_meet_itself():
    net = nn.Sequential(linear(), nn.Tanh())
    outer, twice = [], []

    def again(call, proceed):
        twice.append(call.name)
        first = call.module(*call.args)
        np.testing.assert_array_equal(first, proceed(*call.args))
        return first

    with nn.intercept(net, noting(outer)), nn.intercept(net, again):
        net(X)
    assert twice == ["", "0", "1"]
    # the outer context sees the calls of the inner interceptor too
    assert outer == ["0", "1", "", "0", "0", "1", "1", ""]


def test_a_context_opened_by_an_interceptor_holds_for_what_it_proceeds_to():
    net = nn.Sequential(linear(), nn.Tanh())
    seen = []

    def open_another(call, proceed):
        if call.name == "":
            with nn.intercept(net, noting(seen)):
                return proceed(*call.args)
        return proceed(*call.args)

    with nn.intercept(net, open_another):
        net(X)
        assert seen == ["0", "1"]
        net[0](X)
    assert seen == ["0", "1"]


def test_super_is_no_call_of_its_own_but_recursion_is():
    class Base(nn.Module):
        def __call__(self, n):
            return n

    class Derived(Base):
        def __init__(self, base):
            self.base = base

        def __call__(self, n):
            return self(n - 1) + 1 if n else super().__call__(n)

    seen = []
    net = Derived(Base())
    plain = calls(net, net.base)
    with nn.intercept(net, noting(seen)):
        assert net(2) == 2
        assert net.base(5) == 5
    assert seen == ["", "", "", "base"]
    assert calls(net, net.base) == plain


def test_modules_of_plain_flax():
    seen = []
    net = nnx.Sequential(nnx.Linear(3, 2, rngs=nnx.Rngs(0)), nnx.Linear(2, 1, rngs=nnx.Rngs(0)))
    with nn.intercept(net, noting(seen)):
        net(X)
    assert seen[-3:] == ["layers.0", "layers.1", ""]


def test_a_call_that_is_compiled_by_itself_is_seen():
    class Compiled(nnx.Module):
        def __init__(self):
            self.scale = nnx.Param(jnp.ones((1, 3)))

        @nnx.jit
        def __call__(self, x):
            return x * self.scale

    seen = []
    net = Compiled()
    plain = vars(Compiled)["__call__"]
    with nn.intercept(net, noting(seen)):
        np.testing.assert_array_equal(net(X), X)
    assert seen == [""]
    assert vars(Compiled)["__call__"] is plain


def test_inside_jit_and_grad_it_runs_while_tracing():
    structure, params, buffers = train.split(nn.Sequential(linear(), nn.Tanh()))
    seen = []

    @jax.jit
    def gradient(params):
        def loss(params):
            model = train.merge(structure, params, buffers)

            def double(call, proceed):
                seen.append((call.name, isinstance(call.args[0], jax.core.Tracer)))
                output = proceed(*call.args)
                return 2 * output if call.name == "" else output

            with nn.intercept(model, double):
                return model(X).sum()

        return jax.value_and_grad(loss)(params)

    value, grads = gradient(params)
    gradient(params)
    assert [name for name, _ in seen] == ["", "0", "1"]
    model = train.merge(structure, params, buffers)
    np.testing.assert_allclose(value, 2 * model(X).sum(), rtol=1e-6)
    assert float(jnp.abs(grads["0.weight"]).sum()) > 0


def test_errors_leave_everything_as_it_was():
    net = nn.Sequential(linear(), nn.Tanh())
    plain = calls(net, *net)

    def fail(call, proceed):
        proceed(*call.args)
        raise RuntimeError(call.name)

    with pytest.raises(RuntimeError, match=r"^0$"), nn.intercept(net, fail):
        net(X)
    assert calls(net, *net) == plain
    seen = []
    with nn.intercept(net, noting(seen)):
        with pytest.raises(ValueError, match="expects an input of shape"):
            net(jnp.ones((2, 5)))
        net(X)
    assert seen == ["0", "1", ""]
    assert calls(net, *net) == plain


def test_another_model_of_the_same_classes_is_left_alone():
    seen = []
    net, other = nn.Sequential(linear(), nn.Tanh()), nn.Sequential(linear(), nn.Tanh())
    with nn.intercept(net, noting(seen)):
        other(X)
    assert seen == []


def test_threads_do_not_disturb_one_another():
    """Both hold a context on the same model at once, and leave in the order of entry."""
    net = nn.Sequential(linear(), nn.Tanh())
    plain = calls(net, *net)
    both = threading.Barrier(2, timeout=60)
    first_left = threading.Event()
    seen = {"first": [], "second": []}
    bystander = []

    def run(name):
        with nn.intercept(net, noting(seen[name])):
            both.wait()
            net(X)
            both.wait()
            if name == "second":
                assert first_left.wait(60)
                net(X)
        if name == "first":
            first_left.set()

    threads = [threading.Thread(target=run, args=(name,)) for name in seen]
    for thread in threads:
        thread.start()
    bystander.append(net(X))
    for thread in threads:
        thread.join(60)
    assert seen["first"] == ["0", "1", ""]
    assert seen["second"] == ["0", "1", ""] * 2
    assert calls(net, *net) == plain


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((jnp.tanh, noting([])), "intercept: model: .*; accepted is a flax.nnx module"),
        ((linear(), None), r"interceptor: None; accepted is a function of \(call, proceed\)"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(TypeError, match=message), nn.intercept(*arguments):
        pass


@pytest.mark.torch
def test_order_inputs_and_outputs_are_those_of_torchs_global_hooks():
    import torch
    from torch.nn.modules.module import register_module_forward_hook

    theirs = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Sequential(torch.nn.Tanh()))
    ours = nn.Sequential(nn.Linear(3, 4, rngs=Generator(0)), nn.Sequential(nn.Tanh()))
    from jaxnet import weights

    weights.load_state_dict(ours, theirs.state_dict())
    paths = {module: name for name, module in theirs.named_modules()}
    torchs, seen = [], []
    hook = register_module_forward_hook(
        lambda module, args, output: torchs.append((paths[module], args[0], output))
    )
    try:
        theirs(torch.ones(2, 3))
    finally:
        hook.remove()

    def note(call, proceed):
        output = proceed(*call.args)
        seen.append((call.name, call.args[0], output))
        return output

    with nn.intercept(ours, note):
        ours(X)
    assert [name for name, _, _ in seen] == [name for name, _, _ in torchs]
    for (_, *mine), (_, *yours) in zip(seen, torchs, strict=True):
        for a, b in zip(mine, yours, strict=True):
            np.testing.assert_allclose(a, b.detach().numpy(), rtol=1e-6, atol=1e-6)


# hooks that stay registered


class Own(nn.Module):
    """A layer of a class of its own, since a class with a hook is watched from then on."""

    def __init__(self, scale=3.0):
        self.scale = nn.Parameter(jnp.float32(scale))

    def __call__(self, x, *, plus=0.0):
        return x * self.scale[...] + plus


@pytest.mark.torch
def test_hooks_do_what_torchs_do():
    import torch

    class Theirs(torch.nn.Module):
        def forward(self, x, *, plus=0.0):
            return x * 3.0 + plus

    def run(layer, x):
        log = []

        def see(name, result=None):
            return lambda module, *given: (log.append((name, len(given))), result)[1]

        handles = [
            layer.register_forward_hook(see("last")),
            layer.register_forward_hook(lambda m, a, output: output + 1),
            layer.register_forward_hook(see("first"), prepend=True),
            layer.register_forward_hook(see("kwargs"), with_kwargs=True),
            layer.register_forward_pre_hook(lambda m, args: args[0] * 2),
            layer.register_forward_pre_hook(see("before"), prepend=True),
            layer.register_forward_pre_hook(
                lambda m, args, kwargs: (args, {"plus": kwargs["plus"] + 5}), with_kwargs=True
            ),
        ]
        outputs = [layer(x, plus=1.0).tolist()]
        handles[1].remove()
        outputs.append(layer(x, plus=1.0).tolist())
        with layer.register_forward_hook(lambda m, a, output: -output):
            outputs.append(layer(x, plus=0.0).tolist())
        for handle in handles:
            handle.remove()
        outputs.append(layer(x).tolist())
        return outputs, log

    assert run(Own(), jnp.ones(3)) == run(Theirs(), torch.ones(3))


def test_hooks_stay_in_copies_and_in_steps():
    layer = Own()
    handle = layer.register_forward_hook(double)
    structure, params, buffers = train.split(layer)

    @jax.jit
    def run(params):
        return train.merge(structure, params, buffers)(X)

    copies = [copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))]
    handle.remove()
    handle.remove()  # as in torch once is enough and twice is no error
    assert layer(X).tolist() == (3 * X).tolist()
    for output in (run(params), *(one(X) for one in copies)):
        assert output.tolist() == (6 * X).tolist()


def double(module, args, output):
    return 2 * output


def test_a_hook_runs_once_for_an_object_of_a_subclass():
    class Sub(Own):
        def __call__(self, x):
            return super().__call__(x) + 1

    layer = Sub()
    layer.register_forward_hook(double)
    plain = Own()
    plain.register_forward_hook(double)
    assert layer(X).tolist() == (2 * (3 * X + 1)).tolist()
    with nn.intercept(layer, lambda call, proceed: -proceed(*call.args)):
        assert layer(X).tolist() == (-2 * (3 * X + 1)).tolist()


def test_a_module_that_changes_its_class_keeps_its_hooks():
    class Mine(nn.Linear):
        pass

    layer = Mine(3, 2, rngs=Generator(0))
    layer.register_forward_hook(double)
    before = layer(X)
    nn.utils.parametrizations.weight_norm(layer)
    assert type(layer) is not Mine
    np.testing.assert_allclose(layer(X), before, rtol=1e-6)
    layer.register_forward_hook(double)
    np.testing.assert_allclose(layer(X), 2 * before, rtol=1e-6)


def test_hooks_name_what_is_wrong():
    with pytest.raises(TypeError, match="hook: 5; accepted is a function"):
        Own().register_forward_hook(5)
    layer = Own()
    layer.register_forward_pre_hook(lambda m, a, k: 5, with_kwargs=True)
    with pytest.raises(TypeError, match=r"it returned int; .* the pair \(args, kwargs\)"):
        layer(X)


# activations


def test_activations_are_values_of_a_compiled_loss():
    shared = linear()
    net = nn.Sequential(shared, nn.Tanh(), shared, linear(3, 1))
    structure, params, buffers = train.split(net)

    def loss(params):
        model = train.merge(structure, params, buffers)
        output, inner = nn.activations(model, ["0", "1"], X)
        return (inner["0"] ** 2).sum() + 0 * output.sum(), inner

    (value, inner), slope = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    assert sorted(inner) == ["0", "0#2", "1"]
    np.testing.assert_allclose(inner["0"], shared(X), rtol=1e-6)
    np.testing.assert_allclose(inner["0#2"], shared(inner["1"]), rtol=1e-5)
    np.testing.assert_allclose(value, (shared(X) ** 2).sum(), rtol=1e-6)
    assert slope["0.weight"].any()
    output, everything = nn.activations(net, "*", X)
    assert list(everything) == ["0", "1", "0#2", "3", ""]
    assert everything[""] is output
    with pytest.raises(ValueError, match=r"activations: where: 'layer1.\*' fits no name"):
        nn.activations(net, "layer1.*", X)
    with pytest.raises(TypeError, match="activations: model: int; accepted is a flax"):
        nn.activations(5, "*", X)
