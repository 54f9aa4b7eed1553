"""What a verdict rests on: nothing that differs is lost, and what is the same has one name."""

import dataclasses
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.ad_checkpoint import checkpoint_name

from jaxnet import losses, nn, optim, parity
from jaxnet.parity import _check, _layer_causes
from jaxnet.parity._attribute import Cause
from jaxnet.parity._consequences import folded, settled
from jaxnet.parity._dependencies import dependencies
from jaxnet.parity._evidence import FourRuns
from jaxnet.parity._findings import findings_of, late
from jaxnet.parity._judgement import Judgement
from jaxnet.parity._loops import one_by_one
from jaxnet.parity._result import Finding, SiteResult
from jaxnet.parity._site_results import SiteResults
from jaxnet.parity._trace import Trace, TraceWriter, read
from jaxnet.parity._traps import Hypothesis, Trap
from jaxnet.random import Generator

LENGTH = 3


@pytest.fixture(scope="module")
def trace(tmp_path_factory):
    """A recurrent network, of which a cell with dropout is called once a position."""
    import torch

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.gru = torch.nn.GRU(3, 4, batch_first=True)
            self.cell, self.drop = torch.nn.RNNCell(4, 4), torch.nn.Dropout(0.3)
            self.out = torch.nn.Linear(4, 2)

        def forward(self, x):
            states, _ = self.gru(x)
            hidden = torch.zeros(len(x), 4)
            for i in range(LENGTH):
                hidden = self.drop(self.cell(states[:, i], hidden))
            return self.out(hidden + states[:, -1])

    folder = tmp_path_factory.mktemp("verdicts") / "trace"
    with parity.recording(folder, steps=1):
        torch.manual_seed(0)
        model = Model()
        optimizer = torch.optim.Adam(model.parameters(), 1e-2)
        data = torch.utils.data.TensorDataset(torch.randn(5, LENGTH, 3), torch.randn(5, 2))
        for x, y in torch.utils.data.DataLoader(data, 5):
            torch.nn.functional.mse_loss(model(x), y).backward()
            optimizer.step()
    return read(folder)


class Model(nn.Module):
    """The same with a loop of JAX, and the last state in place of the last output."""

    def __init__(self, *, rngs, mapped=False, factor=1.0, given=lambda states: states):
        self.gru = nn.GRU(3, 4, batch_first=True, rngs=rngs)
        self.cell, self.drop = nn.RNNCell(4, 4, rngs=rngs), nn.Dropout(0.3)
        self.out = nn.Linear(4, 2, rngs=rngs)
        self.mapped, self.factor, self.given = mapped, factor, given

    def __call__(self, x):
        states, last = self.gru(x)

        def body(hidden, state):
            return self.drop(self.cell(state, hidden)), None

        hidden = jnp.zeros((len(x), 4), x.dtype)
        hidden, _ = jax.lax.scan(body, hidden, self.given(states).swapaxes(0, 1))
        out = jax.vmap(self.out) if self.mapped else self.out
        return out(self.factor * hidden + last[-1])


def loss(model, batch):
    return losses.mse_loss(model(batch[0]), batch[1])


@pytest.mark.slow
@pytest.mark.torch
@pytest.mark.long  # six programs are compiled
def test_a_loop_of_jax_is_torchs_loop_and_the_last_state_its_last_output(trace):
    """torch calls the cell once a position, and leaves the state that the JAX program uses."""
    report = parity.check(trace, Model(rngs=Generator(0)), loss, optim.Adam(lr=1e-2))
    assert report.verdict == "same", str(report)
    assert not report.exclusions
    assert {"forward:cell#2", "forward:drop#1"} <= {r.site for r in report.results}


@pytest.mark.torch
@pytest.mark.slow
def test_without_an_optimizer_updates_are_not_compared_and_what_is_mapped_is_no_layer(trace):
    report = parity.check(trace, Model(rngs=Generator(0), mapped=True), loss)
    assert (report.verdict, report.horizon) == ("same", None), str(report)
    assert "no updates compared" in str(report)
    (why,) = report.exclusions
    assert why.startswith("out: it is called inside of a function that JAX transforms")
    sites = {r.site for r in report.results}
    assert "param_grad:out.weight" in sites
    assert not any(site.startswith(("update:", "state:")) for site in sites)


FAULTS = {
    "a gradient is stopped in one branch": (jax.lax.stop_gradient, "grad:gru#0.0"),
    "the last position is the one before": (lambda x: x.at[:, -1].set(x[:, -2]), "input:cell#2.0"),
}


@pytest.mark.torch
@pytest.mark.long
@pytest.mark.parametrize("fault", FAULTS)
def test_one_fault_is_one_finding_with_what_follows_from_it(trace, fault):
    given, site = FAULTS[fault]
    report = parity.check(trace, Model(rngs=Generator(0), given=given), loss, optim.Adam(lr=1e-2))
    (finding,) = report.findings
    assert finding.site == site, str(report)
    follow = {result.site for result in finding.consequences}
    assert "update:gru.weight_ih_l0" in follow
    assert ("loss:0" in follow) == site.startswith("input:")


@pytest.mark.torch
@pytest.mark.long
def test_no_difference_is_lost_with_its_finding(trace, monkeypatch):
    """However a finding gets lost, what it was about is no part of a verdict "same"."""
    monkeypatch.setattr(_check, "findings_of", lambda *_: [])
    report = parity.check(trace, Model(rngs=Generator(0), factor=1.01), loss)
    assert report.verdict == "different", str(report)
    (finding,) = report.findings
    assert finding.site == "input:out#0.0"


DIFFERENT = Judgement("different", 1e-8, 1e-8, 1e-3, 1e-3, 1.0)


def found(site, level="layer", step=0):
    return SiteResult(step, site, level, DIFFERENT, site.partition(":")[2])


def test_every_difference_is_in_a_finding_or_follows_from_one_or_is_rounding(tmp_path):
    no_steps = Trace(tmp_path, (), {}, {}, {}, (), (), (), {})
    forward, update = found("forward:fc#0"), found("update:fc.weight")
    after, start = found("loss:0", "step"), found("before:fc.weight", "preflight")
    results = [forward, update, after, start, found("update:fc.weight", "step", 1)]
    of_forward = Finding("forward:fc#0", 0, "layer", "different", "", results=[forward])
    of_update = Finding("update:fc.weight", 0, "layer", "different", "", results=[update])
    of_start = Finding("before:fc.weight", 0, "preflight", "preflight", "", results=[start])

    def left(*findings, rounding=()):
        done = settled(no_steps, results, findings, rounding)
        return [r.site for f in done[len(findings) :] for r in f.results]

    assert left(of_forward, of_update, of_start) == []
    assert of_forward.consequences == [after, results[-1]]
    assert left(of_forward, of_start) == ["update:fc.weight"]
    assert left(of_forward, of_start, rounding=[update]) == []
    # A forward pass does not differ because of an update, and nothing because of the start.
    assert left(of_update, of_start) == ["forward:fc#0", "loss:0"]
    assert left(of_start, rounding=[update]) == ["forward:fc#0", "loss:0"]
    assert len(left()) == len(results)


def test_the_update_of_one_step_says_nothing_of_another_step(tmp_path):
    no_steps = Trace(tmp_path, (), {}, {}, {}, (), (), (), {})
    for site, origin in (("lr:0", "schedule"), ("update:fc.weight", "optimizer")):
        late = found(site, step=5)
        early, same = (found("update:fc.weight", "step", step) for step in (2, 5))
        of_update = Finding(site, 5, "layer", "different", "", results=[late], origin=origin)
        first, second = settled(no_steps, [early, late, same], [of_update], ())
        assert (first.consequences, second.results) == ([same], [early])


def test_a_module_that_raises_excuses_what_it_did_not_get_to():
    """Its gradients in the same step, but no layer inside, which has torch's inputs."""
    raised = dataclasses.replace(found("forward:block#0", step=3), place="block")
    inside = [
        found("forward:block.ln#0"),
        found("forward:block.fc#0", step=3),
        found("param_grad:block.fc.weight"),
        found("param_grad:block.fc.bias", step=3),
        dataclasses.replace(found("grad:block#0", step=3), place="block"),
    ]
    every = [
        Finding(r.site, r.step, "layer", "different", "", results=[r], origin=f"module:{r.place}")
        for r in (*inside, raised)
    ]
    every[4].origin = "loss"  # its gradient
    left = folded(every, {}, {"block"})
    assert left == [*every[:3], every[5]]
    assert every[5].consequences == inside[3:]


def test_what_a_module_owns_beside_its_layers_gets_its_gradient_from_these():
    calls = [SimpleNamespace(module=name) for name in ("", "block", "block.fc", "out")]
    trace = SimpleNamespace(steps=[SimpleNamespace(calls=calls)])
    own = found("param_grad:block.scale")
    inside = dataclasses.replace(found("forward:block.fc#0"), place="block.fc")
    beside = dataclasses.replace(found("forward:out#0"), place="out")
    assert [one.results for one in findings_of(trace, [inside, own], {})] == [[inside, own]]
    assert [one.results for one in findings_of(trace, [beside, own], {})] == [[beside], [own]]


@pytest.mark.parametrize(("double", "cause"), [(0.0, "It rounds."), (1e-3, None)])
def test_a_cause_of_float32_is_none_of_a_difference_in_float64(monkeypatch, double, cause):
    row = Trap("rounds", ("layer",), lambda layer: layer, "It rounds.", "Do not.", precision=True)
    known = Cause(((Hypothesis(row),),), precision=True)
    monkeypatch.setattr(_layer_causes, "_of_module", lambda *arguments: [known])
    result = found("buffer:norm.running_var")
    judgement = dataclasses.replace(DIFFERENT, double=double)
    result = dataclasses.replace(result, judgement=judgement)
    finding = Finding(
        result.site, 0, "layer", "different", "", results=[result], origin="module:norm"
    )
    _layer_causes.explain_finding(finding, SimpleNamespace(step=SimpleNamespace(index=0)))
    assert finding.cause == cause


def test_what_is_undecided_first_and_different_later_is_different(tmp_path):
    no_steps = Trace(tmp_path, (), {}, {}, {}, (), (), (), {})
    results = [
        dataclasses.replace(
            found("lr:0"), judgement=dataclasses.replace(DIFFERENT, label=label, double=5e-12)
        )
        for label in ("undecided", "undecided", "different")
    ]
    assert [one.kind for one in findings_of(no_steps, results, {})] == ["different"]
    assert late(no_steps, results).kind == "different"
    assert late(no_steps, results[:1]).kind == "undecided"


@pytest.fixture(scope="module")
def rounding(tmp_path_factory):
    """A bias of which torch's AdamW gets a gradient of nothing but rounding."""
    writer = TraceWriter(tmp_path_factory.mktemp("rounding") / "trace")
    start = np.array([0.3, -0.2, 0.1], np.float32)
    for _ in range(2):
        arrays = {"before:a.bias": start, "state_before:a.bias.step": np.ones(())}
        arrays["param_grad:a.bias"] = np.array([2e-9, -1e-9, 3e-9], np.float32)
        arrays["param_grad:a.weight"] = np.ones(3, np.float32)
        arrays["update:a.bias"] = start * np.float32(0.999) - np.float32(0.01)
        wide = {name: array.astype(np.float64) for name, array in arrays.items() if array.ndim}
        wide["param_grad:a.bias"] = np.zeros(3)
        wide["update:a.bias"] = start.astype(np.float64) * 0.999
        content = {"full": False, "groups": [], "events": []}
        content |= {name: [] for name in ("calls", "functions", "draws", "batches", "losses")}
        writer.write_step(content, arrays, wide)
    about = {name: {} for name in ("modules", "parameters", "buffers")}
    writer.write_about({"models": [""], "optimizers": [], "schedulers": [], **about})
    return read(writer.path)


@pytest.mark.parametrize(("decay", "label"), [(0.999, "same"), (1.0, "different")])
def test_an_update_by_rounding_is_that_of_torchs_gradient(rounding, decay, label):
    step = rounding.steps[1]
    start, torch = step["before:a.bias"], step["update:a.bias"]
    jax32 = start * np.float32(decay) - np.float32(0.01)
    four = FourRuns(torch, step.double("update:a.bias"), jax32, start.astype(np.float64))
    results = SiteResults(rounding, {"a.bias"})
    results.judge(step, {"update:a.bias": four}, "layer")
    assert [result.judgement.label for result in results.all] == [label]
    assert not results.exclusions()
    results.judge(step, {"update:a.bias": four}, "step")  # its own gradient has other rounding
    assert len(results.all) == 1


def test_an_update_that_was_not_compared_is_not_called_the_same(rounding):
    step = rounding.steps[1]
    torch = step["update:a.bias"]
    results = SiteResults(rounding)  # the program's optimizer goes on from a state of its own
    four = FourRuns(torch, step.double("update:a.bias"), torch, step.double("update:a.bias"))
    results.judge(step, {"update:a.bias": four}, "layer")
    assert not results.all
    (why,) = results.exclusions()
    assert why.startswith("a.bias: its gradient is nothing but rounding")
    assert why.endswith("not compared in step 1")


def test_what_an_array_is_computed_from():
    def program(x, y):
        a = checkpoint_name(jnp.sin(x), "a")
        b = checkpoint_name(a * y, "b")
        inside, _ = jax.lax.scan(lambda c, _: (c + a, None), b, None, length=2)
        return {"a": a, "given": x, "b": b, "both": jnp.tanh(a + b), "inside": inside}

    sources = dependencies(program, jnp.ones(2), jnp.ones(2))
    assert sources == {
        "a": {"a"},
        "given": set(),
        "b": {"b"},
        "both": {"a", "b"},
        "inside": {"a", "b"},
    }


def test_loops_one_by_one():
    traced = []

    def body(carry, x):
        traced.append(isinstance(carry, jax.core.Tracer))
        return carry * x + 1, carry

    def run():
        xs = jnp.arange(1.0, 4.0)
        scanned = [jax.lax.scan(body, 1.0, xs, reverse=r) for r in (False, True)]
        looped = jax.lax.fori_loop(0, 3, lambda i, c: body(c, i)[0], 1.0)
        return scanned, looped

    def asked(function, times):
        function()
        return times == 3

    functions = jax.lax.scan, jax.lax.fori_loop, jax.checkpoint, jax.remat
    wanted = run()
    traced.clear()
    with one_by_one(asked):
        found = run()
        assert jax.checkpoint(run) is run
    assert traced.count(False) == 9  # three loops of three
    jax.tree.map(np.testing.assert_array_equal, found, wanted)
    assert (jax.lax.scan, jax.lax.fori_loop, jax.checkpoint, jax.remat) == functions
    with one_by_one(lambda function, times: False):
        jax.tree.map(np.testing.assert_array_equal, run(), wanted)
    with one_by_one(lambda function: False), pytest.raises(TypeError, match="2 were given"):
        run()


LOOPS = {
    "a number to begin with": lambda xs: jax.lax.scan(
        lambda c, x: (c + x.astype(c.dtype), None), 0.0, xs
    ),
    "an array of NumPy": lambda xs: jax.lax.scan(
        lambda c, x: (c.at[0].add(x), None), np.zeros(2, np.float32), xs
    ),
    "a list of rows": lambda xs: jax.lax.scan(
        lambda c, x: (c + x.sum(), None), xs[0], np.ones((3, 2), np.float32)
    ),
    "the index is an array": lambda xs: jax.lax.fori_loop(
        0, 3, lambda i, c: c + xs[i] * i.astype(jnp.float32), 0.0
    ),
    "unroll by position": lambda xs: jax.lax.scan(
        lambda c, x: (c + x, None), jnp.float32(0), xs, None, False, 3
    ),
    "nothing to do": lambda xs: jax.lax.fori_loop(3, 0, lambda i, c: c.no_method, xs[0]),
}


@pytest.mark.parametrize("meant", [True, False])
@pytest.mark.parametrize("loop", LOOPS)
def test_a_loop_gets_one_by_one_what_jax_gives_it(loop, meant):
    def asked(function, times):
        function()
        return meant

    xs = jnp.arange(3.0)
    try:
        wanted = LOOPS[loop](xs)
    except AttributeError:  # JAX traces a body that is never run
        wanted = None
    with one_by_one(asked):
        if wanted is None:
            with pytest.raises(AttributeError, match="no_method"):
                LOOPS[loop](xs)
        else:
            jax.tree.map(np.testing.assert_array_equal, LOOPS[loop](xs), wanted)
