"""What XLA makes of the training epochs for a card, told on a machine that has none.

    python -m benchmarks.gpu.compiled                                      all of them
    python -m benchmarks.gpu.compiled Net GPT --precision bfloat16 --out runs/compiled
    python -m benchmarks.gpu.compiled Net --graph                 one CUDA graph an epoch

It needs `pip install "jax[cuda13]"` on Linux, and neither a driver nor a card: XLA compiles for
a card that is described to it. The table counts what the compiler emits; it tells no seconds on
the card. Three things are settled there only: the kernels of products and convolutions, which
are chosen by trying (here every product is a Triton kernel), the memory that cuDNN works in,
and whether CUDA can capture a graph.

columns, "a step" being one turn of the loop over the steps:
  kernels     that run, a step
  launches    that the host sends, a step; a CUDA graph counts as one
  GB          that the kernels read and write, a step; what stays in the card's cache too
  temporary   GB of memory beside the arguments and the results
  convolutions, products   by the dtype of their factors, a step; tf32 is float32 factors that
              may be rounded to TF32, and attention is cuDNN's fused kernel
  moves       kernels that only transpose or copy, a step, and those next to a convolution
  turns       of the loop over the steps, as far as XLA knows them: if it does not, the host
              waits for the card at every turn
  compiled    seconds of tracing and compiling here

The exit status is 0; 1 if a program does not compile; 2 for a wrong command line, and without
the CUDA plugin.
"""

import argparse
import importlib.util
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
from jax.sharding import SingleDeviceSharding

from benchmarks.gpu.hlo import Counts, counts
from benchmarks.gpu.workloads import PRECISIONS, Precision, Workload, jaxnet_step, workloads

__all__ = ["CARDS", "ONE_GRAPH", "compile_epoch", "described", "has_plugin", "main"]

_NO_PLUGIN = (
    'error: JAX\'s CUDA 13 plugin is not installed: pip install "jax[cuda13]" on Linux, which '
    "needs neither a driver nor a card"
)

ONE_GRAPH = {
    "xla_gpu_enable_command_buffer": (
        "FUSION,CUBLAS,CUBLASLT,CUDNN,CUSTOM_CALL,CONDITIONAL,DYNAMIC_SLICE_FUSION,"
        "WHILE,CONVOLUTION"
    )
}
"""Compiler options that let XLA send the whole epoch as one CUDA graph.

The last two are not among its defaults: by itself it runs the loop over the steps on the host,
and each convolution outside of a graph, since not all convolutions can be captured.
"""


def _rate(gigahertz: float, units: int, operations: int) -> dict[str, Any]:
    return {
        "clock_rate_ghz": gigahertz,
        "units_per_core": units,
        "ops_per_clock": operations,
    }


# Numbers of dtypes in XLA (xla_data.proto).
_S32, _U32, _F16, _F32, _F64, _BF16 = 4, 8, 10, 11, 12, 16

# The clocks belong to NVIDIA's peaks (H100 datasheet, SXM): 67 Tflop/s in float32 are 132 SMs x
# 128 units x 2 x 1.98 GHz, and 989 in bfloat16 are 132 x 4 x 512 x 2 x 1.83 GHz.
_CLOCK, _MATRIX_CLOCK = 1.98, 1.8295201

# What is not in NVIDIA's papers is from XLA's own description, h100_sxm.txtpb in
# xla/backends/gpu/target_config/specs; so are the names of the fields.
_H100: dict[str, Any] = {
    "gpu_device_info": {
        # CUDA C++ Programming Guide, technical specifications of compute capability 9.0.
        "cuda_compute_capability": {"major": 9, "feature_extension": "@ACCELERATED_FEATURES"},
        "platform_version": "Compute Capability 9.0a",
        "threads_per_warp": 32,
        "threads_per_block_limit": 1024,
        "threads_per_core_limit": 2048,
        "thread_dim_limit_x": 1024,
        "thread_dim_limit_y": 1024,
        "thread_dim_limit_z": 64,
        "block_dim_limit_x": 2**31 - 1,
        "block_dim_limit_y": 2**16 - 1,
        "block_dim_limit_z": 2**16 - 1,
        "registers_per_core_limit": 2**16,
        "registers_per_block_limit": 2**16,
        "shared_memory_per_core": 228 * 2**10,
        "shared_memory_per_block": 48 * 2**10,
        "shared_memory_per_block_optin": 227 * 2**10,
        # H100 whitepaper, table of the SXM5 card: SMs, their units, cache.
        "core_count": 132,
        "fpus_per_core": 128,
        "l2_cache_size": 50 * 2**20,
        "clock_rate_ghz": _CLOCK,
        "scalar_unit_description": {
            "rate_infos": {
                _S32: _rate(_CLOCK, 64, 1),
                _U32: _rate(_CLOCK, 64, 1),
                _F16: _rate(_CLOCK, 128, 2),
                _F32: _rate(_CLOCK, 128, 1),
                _F64: _rate(_CLOCK, 64, 1),
                _BF16: _rate(_CLOCK, 128, 2),
            }
        },
        "matrix_unit_description": {
            "rate_infos": {
                _F16: _rate(_MATRIX_CLOCK, 4, 512),
                _F32: _rate(_MATRIX_CLOCK, 4, 256),
                _F64: _rate(_CLOCK, 4, 32),
                _BF16: _rate(_MATRIX_CLOCK, 4, 512),
            }
        },
        # H100 datasheet, SXM: 3.35 TB/s, which are 5120 bits at 2 x 2.619 GHz.
        "memory_bandwidth": 2 * 2_619_000_000 * 5120 // 8,
        # XLA's description: what CUDA reports of the 80 GB, and the rest.
        "device_memory_size": 84_942_979_072,
        "pcie_bandwidth": 32 * 2**30,
        "device_vendor": "NVIDIA Corporation",
        "name": "NVIDIA H100 80GB HBM3",
        "device_address_bits": 64,
        "ecc_enabled": True,
        # Assumed: CUDA 13.0 and cuDNN 9.20. Without the first three XLA takes CUDA for too old
        # to capture loops, cuDNN and cuBLAS in graphs.
        "driver_version": "13.0.0",
        "runtime_version": "13.0.0",
        "compile_time_toolkit_version": "13.0.0",
        "dnn_version": "9.20.0",
        "cub_version": "3.1.2",
    },
    "platform_name": "CUDA",
    "device_description_str": "NVIDIA H100 80GB HBM3",
    "runtime_version": {"major": 13, "minor": 0, "patch": 0},
    "dnn_version_info": {"major": 9, "minor": 20, "patch": 0},
}

CARDS: Mapping[str, Mapping[str, Any]] = {"h100": _H100}
"""XLA's target configurations by name of the card, as nested messages.

A message is a mapping; one whose keys are numbers is a map; a string after "@" is a constant.
"""


def described(message: Mapping[str, Any]) -> str:
    """A message of `CARDS` as protobuf text, which XLA reads.

    >>> described({"major": 9, "ecc": True, "of": {"by": {4: {"x": 1.5}}, "a": "@B", "c": "D"}})
    'major: 9 ecc: true of { by { key: 4 value { x: 1.5 } } a: B c: "D" }'
    """

    def field(name: str, value: Any) -> str:
        if isinstance(value, Mapping):
            if all(isinstance(key, int) for key in value):
                entries = ({"key": key, "value": inner} for key, inner in value.items())
                return " ".join(f"{name} {{ {described(entry)} }}" for entry in entries)
            return f"{name} {{ {described(value)} }}"
        if isinstance(value, bool):
            return f"{name}: {str(value).lower()}"
        if isinstance(value, str):
            return f"{name}: {value[1:]}" if value.startswith("@") else f'{name}: "{value}"'
        return f"{name}: {value}"

    return " ".join(field(name, value) for name, value in message.items())


def has_plugin() -> bool:
    """Whether JAX's plugin for CUDA 13 is installed."""
    try:
        return importlib.util.find_spec("jax_plugins.xla_cuda13") is not None
    except ModuleNotFoundError:  # there are no plugins at all
        return False


@contextmanager
def without_card() -> Iterator[None]:
    """JAX's settings for compiling without a card; they are put back at the end.

    With the platform "cpu" the plugin does not look for a driver. A program out of a cache
    would come without XLA's list of what is launched, and in no time.
    """
    wanted = {"jax_platforms": "cpu", "jax_enable_compilation_cache": False}
    before = {name: getattr(jax.config, name) for name in wanted}
    for name, value in wanted.items():
        jax.config.update(name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            jax.config.update(name, value)


def compile_epoch(
    work: Workload, precision: Precision, *, graph: bool = False, card: str = "h100"
) -> tuple[Counts, dict[str, float], dict[str, str]]:
    """Compiles an epoch for a card that is not here; to be called in `without_card`.

    Args:
        work: what is trained, of `benchmarks.gpu.workloads`.
        precision: of the training step.
        graph: whether it may become one CUDA graph, by `ONE_GRAPH`.
        card: of `CARDS`.

    Returns:
        What is in a step; "temporary" (bytes) and "seconds" of tracing and compiling; the
        program as XLA optimised it ("hlo") and its list of what is launched ("thunks").

    Raises:
        ValueError: there is no such card.
        jax.errors.JaxRuntimeError: the program does not compile.
        RuntimeError: this version of XLA does not tell what is launched.
    """
    from jax.experimental import topologies

    if card not in CARDS:
        raise ValueError(f"card: {card!r}; accepted are {', '.join(map(repr, CARDS))}")
    topology = topologies.get_topology_desc(
        platform="cuda",
        topology_name=card,
        target_config=described(CARDS[card]),
        topology="1x1x1",
    )
    there = SingleDeviceSharding(topology.devices[0])
    state, epoch, arguments = jaxnet_step(work, precision, abstract=True)
    placed = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=there),
        (state, *arguments),
    )
    began = time.perf_counter()
    lowered = epoch.lower(*placed)
    with tempfile.TemporaryDirectory() as folder:
        dump = {"xla_dump_to": folder, "xla_dump_hlo_as_text": True}
        program = lowered.compile({**dump, **(ONE_GRAPH if graph else {})})
        seconds = time.perf_counter() - began
        launched = list(Path(folder).glob("*.thunk_sequence_after_thunk_passes.txt"))
        if len(launched) != 1:
            raise RuntimeError(
                f"XLA of jax {jax.__version__} wrote {len(launched)} lists of what is launched "
                "(thunk_sequence_after_thunk_passes); jax 0.11.2 writes one"
            )
        texts = {"hlo": program.as_text() or "", "thunks": launched[0].read_text(encoding="utf-8")}
    about = {"temporary": program.memory_analysis().temp_size_in_bytes, "seconds": seconds}
    return counts(texts["hlo"], texts["thunks"], work.steps), about, texts


_COLUMNS = {
    "program": 42,
    "kernels": 7,
    "launches": 10,
    "GB": 7,
    "temporary": 9,
    "convolutions": 12,
    "products": 27,
    "moves": 12,
    "turns": 7,
    "compiled": 8,
}


def _line(cells: list[str]) -> str:
    padded = (cell.ljust(width) for cell, width in zip(cells, _COLUMNS.values(), strict=True))
    return f"| {' | '.join(padded)} |"


def _cells(found: Counts, about: Mapping[str, float]) -> list[str]:
    def listed(by_dtype: Mapping[str, float]) -> str:
        return ", ".join(f"{n:.0f} {dtype}" for dtype, n in by_dtype.items()) or "-"

    return [
        f"{found.kernels:.0f}",
        "1 an epoch" if found.one_graph else f"{found.launches:.0f}",
        f"{found.traffic / 1e9:.3f}",
        f"{about['temporary'] / 1e9:.3f}",
        listed(found.convolutions),
        listed(found.products),
        f"{found.moves:.0f}, {found.moves_at_convolutions:.0f} next",
        "unknown" if found.turns is None else str(found.turns),
        f"{about['seconds']:.0f} s",
    ]


def main(arguments: list[str] | None = None) -> int:
    """Compiles what the command line asks for and prints the table; gives the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu.compiled",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("names", nargs="*", metavar="NAME", help="a workload, or a word in names of workloads")
    precisions = f"of {', '.join(PRECISIONS)}; by default all"
    add("--precision", nargs="+", choices=PRECISIONS, default=PRECISIONS, help=precisions)
    add("--graph", action="store_true", help="allow one CUDA graph an epoch")
    add("--card", choices=tuple(CARDS), default="h100", help="%(default)s")
    add("--out", type=Path, metavar="FOLDER", help="for the optimised programs, as text")
    add("--tiny", action="store_true", help="small sizes, to try this program")
    options = parser.parse_args(arguments)
    chosen = _chosen(parser, workloads(options.tiny), options.names)
    if not has_plugin():
        print(_NO_PLUGIN, file=sys.stderr)
        return 2
    print(_line(list(_COLUMNS)))
    print(_line(["-" * width for width in _COLUMNS.values()]), flush=True)
    failed = 0
    with without_card():
        for name, work in chosen.items():
            for precision in options.precision:
                label = f"{name}, {precision}{', graph' if options.graph else ''}"
                try:
                    found, about, texts = compile_epoch(
                        work, precision, graph=options.graph, card=options.card
                    )
                except jax.errors.JaxRuntimeError as error:
                    print(f"error: {label}: {error}", file=sys.stderr)
                    failed = 1
                    continue
                print(_line([label, *_cells(found, about)]), flush=True)
                if options.out is not None:
                    options.out.mkdir(parents=True, exist_ok=True)
                    for kind, text in texts.items():
                        (options.out / f"{label}.{kind}.txt").write_text(text, encoding="utf-8")
    return failed


def _chosen(
    parser: argparse.ArgumentParser, known: Mapping[str, Workload], names: list[str]
) -> dict[str, Workload]:
    """The workloads of these names; where a name is none, those that have it in theirs."""
    kept = set() if names else set(known)
    for name in names:
        words = {each for each in known if name.lower() in each.lower()}
        if not words:
            parser.error(f"no workload has {name!r} in its name; there are {'; '.join(known)}")
        kept |= {name} if name in known else words
    return {name: work for name, work in known.items() if name in kept}


if __name__ == "__main__":
    sys.exit(main())
