"""benchmarks/gpu/compiled.py and hlo.py: what is counted in a compiled program, and for whom."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from benchmarks.gpu import compiled
from benchmarks.gpu.hlo import counts

ROOT = Path(__file__).parents[1]

# A step of four kernels, and two in a loop of its own that turns five times: a row of the data
# is taken, transposed and convolved; a product and its sum with what was there; a copy and an
# update in place.
HLO = """HloModule jit_epoch, is_scheduled=true

%take (rows: f32[10,2,4,4], i: s32[]) -> f32[1,2,4,4] {
  %rows = f32[10,2,4,4]{3,2,1,0} parameter(0)
  %i = s32[] parameter(1)
  %zero = s32[] constant(0)
  ROOT %row = f32[1,2,4,4]{3,2,1,0} dynamic-slice(%rows, %i, %zero, %zero, %zero), dynamic_slice_sizes={1,2,4,4}
}

%turned (image: f32[1,2,4,4]) -> f32[1,4,4,2] {
  %image = f32[1,2,4,4]{3,2,1,0} parameter(0)
  ROOT %nhwc = f32[1,4,4,2]{3,2,1,0} transpose(%image), dimensions={0,2,3,1}
}

%multiplied (a: bf16[3,4], b: bf16[4,5]) -> f32[3,5] {
  %a = bf16[3,4]{1,0} parameter(0)
  %b = bf16[4,5]{1,0} parameter(1)
  ROOT %product = f32[3,5]{1,0} dot(%a, %b), lhs_contracting_dims={1}, rhs_contracting_dims={0}
}

%updated (all: f32[100,5], one: f32[1,5], at: s32[]) -> f32[100,5] {
  %all = f32[100,5]{1,0} parameter(0)
  %one = f32[1,5]{1,0} parameter(1)
  %at = s32[] parameter(2)
  %left = s32[] constant(0)
  ROOT %put = f32[100,5]{1,0} dynamic-update-slice(%all, %one, %at, %left)
}

%inner (state.1: (s32[], f32[100,5], f32[1,5])) -> (s32[], f32[100,5], f32[1,5]) {
  %state.1 = (s32[], f32[100,5]{1,0}, f32[1,5]{1,0}) parameter(0)
  %at.1 = s32[] get-tuple-element(%state.1), index=0
  %all.1 = f32[100,5]{1,0} get-tuple-element(%state.1), index=1
  %one.1 = f32[1,5]{1,0} get-tuple-element(%state.1), index=2
  %copied = f32[1,5]{1,0} copy(%one.1)
  %put.1 = f32[100,5]{1,0} fusion(%all.1, %copied, %at.1), kind=kLoop, calls=%updated
  ROOT %next.1 = (s32[], f32[100,5]{1,0}, /*index=2*/f32[1,5]{1,0}) tuple(%at.1, %put.1, %copied)
}

%step (state: (s32[], f32[10,2,4,4], f32[3,3,3,2])) -> (s32[], f32[10,2,4,4], f32[3,3,3,2]) {
  %state = (s32[], f32[10,2,4,4]{3,2,1,0}, f32[3,3,3,2]{3,2,1,0}) parameter(0)
  %i.1 = s32[] get-tuple-element(%state), index=0
  %rows.1 = f32[10,2,4,4]{3,2,1,0} get-tuple-element(%state), index=1
  %kernel = f32[3,3,3,2]{3,2,1,0} get-tuple-element(%state), index=2
  %taken = f32[1,2,4,4]{3,2,1,0} fusion(%rows.1, %i.1), kind=kLoop, calls=%take
  %facing = f32[1,4,4,2]{3,2,1,0} fusion(%taken), kind=kInput, calls=%turned
  %same = f32[1,4,4,2]{3,2,1,0} bitcast(%facing)
  %conv = (f32[1,4,4,3]{3,2,1,0}, u8[0]{0}) custom-call(%same, %kernel), window={size=3x3}, operand_precision={HIGH}, custom_call_target="__cudnn$convForward", metadata={op_name="jit(epoch)/conv (a, b)"}
  %x = bf16[3,4]{1,0} constant({...})
  %y = bf16[4,5]{1,0} constant({...})
  %xy = f32[3,5]{1,0} fusion(%x, %y), kind=kCustom, calls=%multiplied
  %begin = (s32[], f32[100,5]{1,0}, f32[1,5]{1,0}) tuple(%i.1, %i.1, %i.1)
  %inside = (s32[], f32[100,5]{1,0}, f32[1,5]{1,0}) while(%begin), condition=%less, body=%inner, backend_config={"known_trip_count":{"n":"5"}}
  ROOT %next = (s32[], f32[10,2,4,4]{3,2,1,0}, f32[3,3,3,2]{3,2,1,0}) tuple(%i.1, %rows.1, %kernel)
}

ENTRY %main (given: f32[10,2,4,4]) -> f32[10,2,4,4] {
  %given = f32[10,2,4,4]{3,2,1,0} parameter(0)
  %before = f32[10,2,4,4]{3,2,1,0} copy(%given)
  %first = (s32[], f32[10,2,4,4]{3,2,1,0}, f32[3,3,3,2]{3,2,1,0}) tuple(%before, %before, %before)
  %epoch = (s32[], f32[10,2,4,4]{3,2,1,0}, f32[3,3,3,2]{3,2,1,0}) while(%first), condition=%few, body=%step, backend_config={"known_trip_count":{"n":"20"}}
  ROOT %out = f32[10,2,4,4]{3,2,1,0} get-tuple-element(%epoch), index=1
}
"""  # noqa: E501

THUNKS = """000: kCopy         [source | next=001 (1)] kCopy
001: kWhile        [prev=000 (1) | sink]
condition:
    002: kCustomKernel [source | sink] few
  body:
    000: kCommandBuffer [source | next=005 (1)]
        003: kCustomKernel [source | sink] taken
        004: kCustomKernel [source | sink] facing
    005: kConvolution  [prev=000 (1) | sink] kConvolution
    006: kCustomKernel [prev=005 (1) | sink] xy
    007: kWhile        [prev=006 (1) | sink]
condition:
        008: kCustomKernel [source | sink] less
      body:
        009: kAsyncStart [source | sink] async_id=9
            010: kCopy [source | sink] kCopy
        011: kCustomKernel [source | sink] put
        012: kAsyncDone [source | sink] async_id=9
"""

FLOAT = 4


def test_a_step_of_a_program_is_counted() -> None:
    found = counts(HLO, THUNKS, steps=20)
    taken = (32 + 32 + 1) * FLOAT  # of the ten rows only one
    facing = 2 * 32 * FLOAT
    conv = (32 + 54 + 48) * FLOAT
    product = (12 + 20) * 2 + 15 * FLOAT
    inner = 5 * (2 * 5 + (5 + 1 + 5)) * FLOAT  # a copy, and an update of 1 in 100 rows
    assert dataclasses.asdict(found) == {
        "kernels": 4 + 5 * 2,
        "traffic": taken + facing + conv + product + inner,
        "convolutions": {"tf32": 1},
        "products": {"bf16": 1},
        "moves": 1 + 5,
        "moves_at_convolutions": 1,
        "turns": 20,
        "launches": 3 + 5 * 2,  # graph, convolution, product, and the inner loop
        "one_graph": False,
    }


def test_full_float32_and_mixed_factors_are_told_apart() -> None:
    full = HLO.replace("operand_precision={HIGH}", "operand_precision={highest,highest}")
    assert counts(full, THUNKS, 20).convolutions == {"f32": 1}
    mixed = HLO.replace("%b = bf16[4,5]", "%b = f32[4,5]")
    assert counts(mixed, THUNKS, 20).products == {"bf16 x f32": 1}
    fused = HLO.replace("__cudnn$convForward", "__cudnn$fmhaSoftmax")
    assert counts(fused, THUNKS, 20).products["tf32"] == 1
    half = fused.replace("f32[1,4,4,2]", "bf16[1,4,4,2]").replace("f32[3,3,3,2]", "bf16[3,3,3,2]")
    found = counts(half, THUNKS, 20)
    assert (found.convolutions, found.products) == ({}, {"bf16 attention": 1, "bf16": 1})
    assert found.moves_at_convolutions == 0


def test_a_loop_of_two_steps_a_turn_and_one_of_unknown_turns() -> None:
    double = counts(HLO.replace('"n":"20"', '"n":"10"'), THUNKS, steps=20)
    whole = counts(HLO, THUNKS, steps=20)
    assert double.turns == 10
    assert (double.kernels, double.launches) == (whole.kernels / 2, whole.launches / 2)
    unknown = counts(HLO.replace('"known_trip_count":{"n":"20"}', ""), THUNKS, steps=20)
    assert unknown.turns is None
    assert unknown.kernels == whole.kernels
    assert unknown.launches == whole.launches + 1  # the condition runs, for the host to read


def test_a_loop_inside_a_graph_is_one_launch_an_epoch() -> None:
    moved = "".join(
        line if line.startswith("condition") else f"    {line}" for line in THUNKS.splitlines(True)
    )
    found = counts(HLO, f"000: kCommandBuffer [source | sink]\n{moved}", steps=20)
    assert (found.one_graph, found.launches) == (True, 1 / 20)


def test_what_cannot_be_counted_is_said() -> None:
    with pytest.raises(ValueError, match="a list with 1 loops for a program with 2"):
        counts(HLO, THUNKS.replace("007: kWhile", "007: kCopy"), 20)
    with pytest.raises(ValueError, match="nothing in it begins with ENTRY"):
        counts("module @jit_epoch {}", THUNKS, 20)
    with pytest.raises(ValueError, match="without a loop"):
        counts(HLO.replace(" while(", " copy("), "", 20)


def test_the_text_of_this_machines_compiler_is_understood() -> None:
    @jax.jit
    def epoch(x: jax.Array, w: jax.Array) -> jax.Array:
        def step(x: jax.Array, _: None) -> tuple[jax.Array, None]:
            return jnp.sin(jnp.dot(x, w, precision="highest")), None

        return jax.lax.scan(step, x, None, length=7)[0]

    shape = jax.ShapeDtypeStruct((64, 64), jnp.float32)
    text = epoch.lower(shape, shape).compile().as_text()
    assert text is not None
    # A CPU has no launches; these are of a loop with one.
    found = counts(text, "0: kWhile\ncondition:\n    1: kCopy\n  body:\n    2: kCopy\n", 7)
    assert (found.turns, found.launches) == (7, 1)
    assert found.products == {"f32": 1}
    assert found.convolutions == {}
    array = 64 * 64 * FLOAT
    assert array * 3 <= found.traffic <= array * 8  # a product's, at least; sin, and copies


def test_the_described_card_has_the_peaks_of_its_datasheet() -> None:
    about = compiled.CARDS["h100"]["gpu_device_info"]
    names = {10: "float16", 11: "float32", 12: "float64", 16: "bfloat16"}

    def peaks(unit: str) -> dict[str, float]:
        rates = about[unit]["rate_infos"]
        per_clock = {n: r["units_per_core"] * r["ops_per_clock"] * 2 for n, r in rates.items()}
        return {
            names[n]: about["core_count"] * per_clock[n] * rates[n]["clock_rate_ghz"] / 1e3
            for n in names
        }

    # NVIDIA's table, in Tflop/s without sparsity: TF32 stands for float32 in matrix units.
    tensor = {"float16": 989, "float32": 495, "float64": 67, "bfloat16": 989}
    assert peaks("matrix_unit_description") == pytest.approx(tensor, rel=2e-3)
    plain = {"float16": 134, "float32": 67, "float64": 34, "bfloat16": 134}
    assert peaks("scalar_unit_description") == pytest.approx(plain, rel=2e-2)
    assert about["memory_bandwidth"] == pytest.approx(3.35e12, rel=1e-3)


def test_a_card_is_described_as_protobuf_text() -> None:
    text = compiled.described(compiled.CARDS["h100"])
    for part in (
        "gpu_device_info { cuda_compute_capability { major: 9 feature_extension: "
        'ACCELERATED_FEATURES } platform_version: "Compute Capability 9.0a" threads',
        "matrix_unit_description { rate_infos { key: 10 value { clock_rate_ghz: 1.8295201 "
        "units_per_core: 4 ops_per_clock: 512 } } rate_infos { key: 11 value {",
        "ecc_enabled: true driver_version: ",
    ):
        assert part in text
    assert text.count("{") == text.count("}")


def test_importing_and_compiling_leave_the_settings_as_they_were() -> None:
    code = (
        "import os, jax, benchmarks.gpu.workloads\n"
        "def settings(): return dict(os.environ), dict(jax.config.values)\n"
        "before = settings()\n"
        "from benchmarks.gpu import compiled\n"
        "assert settings() == before\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()

    def settings() -> tuple[str | None, bool]:
        return jax.config.jax_platforms, jax.config.jax_enable_compilation_cache

    def fail() -> None:
        with compiled.without_card():
            assert settings() == ("cpu", False)
            raise ZeroDivisionError

    before = settings()
    with pytest.raises(ZeroDivisionError):
        fail()
    assert settings() == before


@pytest.mark.skipif(compiled.has_plugin(), reason="JAX's CUDA 13 plugin is installed")
def test_without_the_plugin_it_says_what_to_install(capsys: pytest.CaptureFixture[str]) -> None:
    assert compiled.main(["Net"]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err == (
        'error: JAX\'s CUDA 13 plugin is not installed: pip install "jax[cuda13]" on Linux, which '
        "needs neither a driver nor a card\n"
    )


def test_a_name_that_is_none_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        compiled.main(["Nett"])
    assert "no workload has 'Nett' in its name; there are Net; MLP" in capsys.readouterr().err


@pytest.mark.skipif(
    not compiled.has_plugin(), reason="needs JAX's CUDA 13 plugin: pip install 'jax[cuda13]'"
)
@pytest.mark.parametrize("graph", [False, True], ids=["as it is", "one graph"])
def test_net_is_compiled_for_a_card_that_is_not_here(tmp_path: Path, graph: bool) -> None:
    words = [sys.executable, "-m", "benchmarks.gpu.compiled", "Net", "--tiny"]
    words += ["--precision", "float32", "--out", str(tmp_path), *(["--graph"] if graph else [])]
    env = {name: value for name, value in os.environ.items() if name != "JAX_PLATFORMS"}
    done = subprocess.run(words, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    head, _, row = done.stdout.splitlines()
    columns, cells = ([x.strip() for x in line.split("|")[1:-1]] for line in (head, row))
    found = dict(zip(columns, cells, strict=True))
    label = "Net, float32, graph" if graph else "Net, float32"
    assert (found["program"], found["turns"], found["convolutions"]) == (label, "2", "5 f32")
    assert {product.split()[1] for product in found["products"].split(", ")} == {"f32"}
    # By itself XLA sends each convolution on its own.
    assert found["launches"] == "1 an epoch" if graph else int(found["launches"]) > 5
    assert int(found["kernels"]) > 20
    text = (tmp_path / f"{label}.hlo.txt").read_text()
    assert text.count('custom_call_target="__cudnn$conv') == 5
    assert "jaxnet" not in text.split("ENTRY")[1]  # no kernel of its own
