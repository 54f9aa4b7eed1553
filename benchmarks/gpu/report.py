"""What was measured, in words: one line a task, and the page GPU.md with a picture.

The main program writes the page after every task. It can be made again from the results:

    python -m benchmarks.gpu.report runs/gpu
"""

import argparse
import json
import math
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.gpu.plan import FAST_FORMS, TARGETS, CommandLineError, Target
from benchmarks.timing import markdown

__all__ = ["line", "page", "picture", "read", "wrong"]

Record = Mapping[str, Any]
Results = Mapping[str, Any]

_KEYS: dict[str, type | tuple[type, ...]] = {
    "began": str,
    "used": (int, float),
    "limit": (int, float),
    "ended": (str, type(None)),
    "tiny": bool,
    "machine": dict,
    "device": dict,
    "notes": list,
    "missing_parts": dict,
    "tasks": dict,
}


def read(folder: Path) -> dict[str, Any]:
    """What a run left there.

    Raises:
        CommandLineError: there is nothing, or it is not what a run writes.
    """
    file = folder / "results.json"
    try:
        results = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CommandLineError(f"{file} cannot be read ({error})") from error
    if not isinstance(results, dict):
        raise CommandLineError(f"{file} cannot be read: it holds no object with results")
    off = [key for key, kind in _KEYS.items() if not isinstance(results.get(key, ...), kind)]
    if not off:
        off += [] if isinstance(results["machine"].get("versions"), dict) else ["versions"]
        off += [name for name, record in results["tasks"].items() if not _is_record(record)]
    if off:
        raise CommandLineError(f"{file} cannot be read: {', '.join(off)} missing or damaged")
    return results


def _is_record(record: Any) -> bool:
    if not isinstance(record, dict) or not isinstance(record.get("seconds"), int | float):
        return False
    done = record.get("status") == "done"
    result_is_right = isinstance(record.get("result", None if done else {}), dict)
    return result_is_right and isinstance(record.get("status"), str) and (done or "why" in record)


def _numbers(value: Any) -> Any:
    """The same, with numbers again where JSON had to keep a string: "inf", "-inf", "nan"."""
    if isinstance(value, Mapping):
        return {key: _numbers(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_numbers(item) for item in value]
    return float(value) if value in ("inf", "-inf", "nan") else value


def wrong(results: Results) -> list[str]:
    """The tasks whose numbers are not right, or that failed."""
    return [
        name
        for name, record in results["tasks"].items()
        if record["status"] == "failed" or (record.get("result") or {}).get("ok") is False
    ]


def line(name: str, record: Record) -> str:
    """A finished task in one line."""
    result = _numbers(record.get("result") or {})
    said = [] if record["status"] == "done" else [f"{record['status']}: {record['why']}"]
    if result.get("ok") is False:
        said.append("NOT RIGHT")
    part = name.split(":")[0]
    figures = _FIGURES.get(part, _other)(result) if result else ""
    return f"{name}: " + "; ".join([*said, *([figures] if figures else [])])


def _fast(result: Record) -> str:
    times = result.get("ms")
    if not times:
        return ""
    ours = times["jaxnet"]["median"]
    said = [f"jaxnet {ours:.4g} ms"]
    said += [
        f"{FAST_FORMS[who]} {t['median']:.4g} ({t['median'] / ours:.2f}x)"
        for who, t in times.items()
        if who != "jaxnet"
    ]
    return ", ".join(said) + f"; XLA compiled {result['compile_seconds']['jaxnet']:.1f} s"


def _loops(result: Record) -> str:
    return ", ".join(f"{way} {t['median']:.4g} ms" for way, t in result["ms"].items())


def _peaks(result: Record) -> str:
    if "peaks" not in result:
        return ""
    text = ", ".join(f"{who} {rate / 1e12:.4g}" for who, rate in result["peaks"].items())
    sheet = result.get("datasheet")
    return f"{text} x 10^12 a second" + (f" (the maker: {sheet / 1e12:.4g})" if sheet else "")


def _document(result: Record) -> str:
    if not result.get("epochs"):
        return "; ".join((result.get("left_out") or {}).values())
    last = {curve: list(values.values())[-1] for curve, values in result["curves"].items()}
    of = f" of {result['of']}" if "of" in result else ""
    said = [f"{result['epochs']}{of} epochs in {result['seconds']:.0f} s"]
    said += [f"{curve} {value:.4f}" for curve, value in last.items()]
    said += [f"{k} without eval() {v:.4f}" for k, v in result.get("without_eval", {}).items()]
    return ", ".join(said)


def _right(result: Record) -> str:
    if "rows" not in result:
        return _other(result)
    worst = result.get("worst") or {}
    text = f"{result['hold']} of {result['rows']} rows hold"
    if worst:
        text += f"; the worst {worst['row']}: {worst['distance']:.1e} of {worst['allowed']:.1e}"
    return text


def _other(result: Record) -> str:
    """Whatever is one number or word, for tasks that this page knows nothing about."""
    known = (bool, int, float, str)
    return ", ".join(f"{k}: {v}" for k, v in result.items() if isinstance(v, known))[:300]


_FIGURES: dict[str, Callable[[Record], str]] = {
    "fast": _fast,
    "loops": _loops,
    "peaks": _peaks,
    "document": _document,
    "right": _right,
}


def page(results: Results, drawn: bool = False) -> str:
    """The whole page, in Markdown.

    Args:
        results: as the main program keeps them.
        drawn: whether ratios.png is beside it.
    """
    machine, device = results["machine"], results["device"]
    tasks = results["tasks"]
    off = wrong(results)
    kind = device.get("kind", "no device")
    parts = [f"# jaxnet on {kind}"]
    if results["tiny"]:
        parts.append("**Tiny sizes, to try the program: no figure here says anything of speed.**")
    parts.append(
        f"{results['began']}, {results['used']:.0f} of {results['limit']:.0f} s: "
        f"{results['ended'] or 'not yet ended'}.\n\n"
        + "\n".join(f"- {k}: {v}" for k, v in machine.items())
        + f"\n- jax's device: {device}"
    )
    parts.append(f"Wrong or failed: {'; '.join(off) if off else 'nothing'}.")
    sections = {
        "Targets": _targets(tasks),
        "Training steps": _steps(tasks, drawn),
        "Shares of the card's peaks": _shares(tasks),
        "Peaks": _peak_table(tasks),
        "The loop over the steps": _loop_table(tasks),
        "Right": _right_table(tasks),
        "The document's deepest net": _document_list(tasks),
        "Other tasks": _others(tasks),
        "Left out": _left_out(results),
    }
    parts += [f"## {title}\n\n{text}" for title, text in sections.items() if text]
    return "\n\n".join(parts) + "\n"


def _of(tasks: Mapping[str, Record], part: str) -> dict[str, Record]:
    """The results of a part's tasks, as far as there are any."""
    return {
        name.split(": ", 1)[1]: _numbers(record["result"])
        for name, record in tasks.items()
        if name.startswith(f"{part}: ") and record.get("result")
    }


def _peak(tasks: Mapping[str, Record], name: str) -> tuple[float, str] | None:
    """The best measured rate, or the maker's where none was measured."""
    result = _of(tasks, "peaks").get(name)
    if result is None:
        return None
    if result.get("peaks"):
        return max(result["peaks"].values()), "measured"
    return (result["datasheet"], "maker's") if result.get("datasheet") else None


def _targets(tasks: Mapping[str, Record]) -> str:
    rows = []
    for target in TARGETS:
        found = _reached(tasks, target)
        what = "of the matrix peak"
        if target.against != ("peak",):
            what = f"times as fast as torch's {', '.join(target.against)}"
            what += ", whichever is the fastest" * (len(target.against) > 1)
        met = "not measured" if found is None else "yes" if found >= target.ratio else "no"
        value = "-" if found is None else f"{found:.2f}"
        rows.append([target.task.split(": ", 1)[1], f"{target.ratio:g} {what}", value, met])
    return markdown(["workload", "target", "measured", "met"], rows)


def _reached(tasks: Mapping[str, Record], target: Target) -> float | None:
    result = _of(tasks, "fast").get(target.task.split(": ", 1)[1])
    if result is None or "ms" not in result:
        return None
    ours = result["ms"]["jaxnet"]["median"]
    if target.against == ("peak",):
        peak = _peak(tasks, f"matrix, {result['precision']}")
        return None if peak is None else result["flops"] / (ours / 1e3) / peak[0]
    times = [result["ms"].get(f"torch {form}") for form in target.against]
    theirs = [t["median"] for t in times if t]
    return min(theirs) / ours if theirs else None


def _steps(tasks: Mapping[str, Record], drawn: bool) -> str:
    rows = []
    for name, result in _of(tasks, "fast").items():
        if "ms" not in result:
            continue
        ms = result["ms"]
        ours = ms["jaxnet"]
        theirs = {who: ms[who] for who in FAST_FORMS if who in ms}
        best = min(theirs.values(), key=lambda t: t["median"], default=None)
        ratios = ["-", "-"]
        if best is not None:
            eager = ms.get("torch eager")
            ratios[0] = f"{eager['median'] / ours['median']:.2f}" if eager else "-"
            ratios[1] = f"{best['median'] / ours['median']:.2f}"
        seconds = result["compile_seconds"]
        compiled = seconds.get("torch compile")
        gap = f"{max(result['gaps'].values()):.0e}" if result["gaps"] else "-"
        rows.append(
            [name, result["batch"]]
            + [f"{theirs[who]['median']:.4g}" if who in theirs else "-" for who in FAST_FORMS]
            + [f"{ours['median']:.4g}", *ratios, _spread(ours), _spread(best), ours["n"]]
            + [f"{result['trace_seconds']:.1f} + {seconds['jaxnet']:.1f}"]
            + [f"{compiled:.1f}" if compiled else "-", gap]
        )
    if not rows:
        return ""
    heads = ["workload", "batch", *FAST_FORMS.values(), "jaxnet", "eager / jaxnet"]
    heads += ["best torch / jaxnet", "quartiles apart, jaxnet", "best torch", "samples"]
    heads += ["jaxnet traced + compiled, s", "torch.compile, s", "losses apart"]
    return (
        "Milliseconds a step, medians of interleaved samples in one process, compilation apart. "
        "Each row's forms train on the same rows from the same weights; losses apart: the "
        "largest distance of an epoch's losses from jaxnet's, as a part of them.\n\n"
        + markdown(heads, rows)
        + "\n\n![best torch over jaxnet](ratios.png)" * drawn
    )


def _spread(t: Record | None) -> str:
    return "-" if t is None else f"{(t['high'] - t['low']) / t['median']:.0%}"


def _shares(tasks: Mapping[str, Record]) -> str:
    rows = []
    band = _peak(tasks, "bandwidth")
    for name, result in _of(tasks, "fast").items():
        if "ms" not in result:
            continue
        seconds = result["ms"]["jaxnet"]["median"] / 1e3
        peak = _peak(tasks, f"matrix, {result['precision']}")
        rate, traffic = result["flops"] / seconds, result.get("traffic")
        memory = result.get("memory") or {}
        rows.append([
            name,
            f"{result['flops'] / 1e9:.4g}",
            f"{rate / 1e12:.4g}",
            f"{rate / peak[0]:.1%}" if peak else "-",
            f"{traffic / 1e6:.4g}" if traffic else "-",
            f"{traffic / seconds / band[0]:.1%}" if traffic and band else "-",
            *(f"{memory[who] / 2**20:.0f}" if memory.get(who) else "-"
              for who in ("jaxnet", "torch eager")),
        ])  # fmt: skip
    if not rows:
        return ""
    heads = ["workload", "10^9 operations a step", "10^12 a second", "of the matrix peak"]
    heads += ["10^6 bytes a step", "of the bandwidth", "memory MiB, jaxnet", "torch eager"]
    return (
        "Operations are those of the matrix products and convolutions; bytes are the "
        "compiler's own estimate of what jaxnet's step reads and writes.\n\n"
        + markdown(heads, rows)
    )


def _peak_table(tasks: Mapping[str, Record]) -> str:
    rows = []
    for name, result in _of(tasks, "peaks").items():
        peaks, sheet = result.get("peaks", {}), result.get("datasheet")
        rows.append(
            [name]
            + [f"{peaks[who] / 1e12:.4g}" if who in peaks else "-" for who in ("jaxnet", "torch")]
            + [f"{sheet / 1e12:.4g}" if sheet else "-"]
            + [f"{result['rounding']:.0e}" if "rounding" in result else "-"]
        )
    heads = ["", "jaxnet", "torch", "the maker's figure", "a product's rounding"]
    what = "10^12 operations, or bytes, a second.\n\n"
    return what + markdown(heads, rows) if rows else ""


def _loop_table(tasks: Mapping[str, Record]) -> str:
    found = _of(tasks, "loops")
    ways = list(dict.fromkeys(way for result in found.values() for way in result["ms"]))
    rows = [
        [way, *(f"{r['ms'][way]['median']:.4g}" if way in r["ms"] else "-" for r in found.values())]
        for way in ways
    ]
    return "Milliseconds a step.\n\n" + markdown(["way", *found], rows) if rows else ""


def _right_table(tasks: Mapping[str, Record]) -> str:
    rows = [
        [name, "yes" if result.get("ok") else "NO", _right(result)]
        for name, result in _of(tasks, "right").items()
    ]
    failures = [
        f"- {name}: {json.dumps(failure)}"
        for name, result in _of(tasks, "right").items()
        for failure in result.get("failures", [])
    ]
    if not rows:
        return ""
    return "\n\n".join([markdown(["check", "right", "figures"], rows), "\n".join(failures)]).strip()


def _document_list(tasks: Mapping[str, Record]) -> str:
    return "\n".join(f"- {name}: {_document(r)}" for name, r in _of(tasks, "document").items())


def _others(tasks: Mapping[str, Record]) -> str:
    names = [name for name in tasks if name.split(":")[0] not in _FIGURES]
    return "\n".join(f"- {line(name, tasks[name])}" for name in names)


def _left_out(results: Results) -> str:
    said = [*results["notes"]]
    said += [f"part {part}: {why}" for part, why in results["missing_parts"].items()]
    reasons: dict[str, list[str]] = {}
    for name, record in results["tasks"].items():
        if record["status"] != "done":
            reasons.setdefault(f"{record['status']}: {record['why']}", []).append(name)
        for what, why in ((record.get("result") or {}).get("left_out") or {}).items():
            reasons.setdefault(f"{what}: {why}", []).append(name)
    said += [f"{reason} ({'; '.join(names)})" for reason, names in reasons.items()]
    return "\n".join(f"- {text}" for text in said)


def picture(results: Results, path: Path) -> bool:
    """Bars of the fastest PyTorch's time over jaxnet's, one for each workload and precision.

    Returns:
        Whether there was anything to draw.
    """
    from jaxnet import plots  # this imports jax, which the main program does without

    labels, ratios = [], []
    for name, result in _of(results["tasks"], "fast").items():
        times = {who: t["median"] for who, t in result.get("ms", {}).items()}
        ours = times.pop("jaxnet", None)
        ratio = min(times.values()) / ours if ours and times else math.nan
        if math.isfinite(ratio):
            labels.append(name.replace(", ", "\n"))
            ratios.append([ratio])
    if not labels:
        return False
    title = f"Training step on {results['device'].get('kind')}, higher is faster"
    plots.save_bars(path, labels, {"best torch / jaxnet": ratios}, title, "ratio")
    return True


def main() -> int:
    """Writes GPU.md and ratios.png beside the results."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu.report", description=str(__doc__).split("\n\n")[0]
    )
    parser.add_argument("folder", type=Path, help="that holds results.json")
    folder = parser.parse_args().folder
    try:
        results = read(folder)
    except CommandLineError as error:
        print(f"error: {error}; python -m benchmarks.gpu writes it", file=sys.stderr)
        return 1
    ratios = folder / "ratios.png"
    ratios.unlink(missing_ok=True)  # of other results, perhaps
    (folder / "GPU.md").write_text(page(results), encoding="utf-8")
    if picture(results, ratios):
        (folder / "GPU.md").write_text(page(results, drawn=True), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
