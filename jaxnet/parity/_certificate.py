"""Certificates: a report as files that can be read, verified and repeated later."""

import dataclasses
import datetime
import json
import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

import jaxnet
from jaxnet._files import write_text
from jaxnet.parity import _plots, _provenance, _repro, _trace
from jaxnet.parity._power import power
from jaxnet.parity._result import Report, SiteResult
from jaxnet.parity._text import (
    floors,
    headline,
    phase_in_words,
    planted_counts,
    printable,
    sentence,
    shares,
    summary,
    together,
    worst,
)

_log = logging.getLogger(__name__)
FORMAT = 1
_WHOLE = {
    "step": "whole step, from torch's state",
    "chain": "all layers, one after the other",
    "run": "free run",
}
JSON, HTML = "certificate.json", "certificate.html"


class CertificateError(ValueError):
    """A folder without a certificate, or with one that is damaged or of another format."""


def save(report: Report, folder: Path) -> Path:
    """Writes a report's certificate, and a program that repeats its first difference.

    Args:
        report: The report.
        folder: The folder, which is made. Files of an earlier certificate are replaced.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for one in (report, report.generic):
        trace = None if one is None else one.subject.get("trace")
        if report.verdict == "same" and one is not None and trace is not None and not one.power:
            _log.info("which mistakes the trace %s excludes", trace["path"])
            one.power = power(_trace.read(trace["path"]), one)
    content = contents(report, folder)
    text = json.dumps(_strict(content), indent=1, allow_nan=False)
    repro, rows = _repro.write(report, folder), worst(report)
    page = _environment().get_template("certificate.html.j2").render(
        report=report,
        content=content,
        headline=headline(report),
        claims=content["claims"],
        rows=rows,
        places=_by_place(report),
        repro=repro,
        plots=[
            plot
            for plot in (
                _plots.shares_against_site(rows),
                report.horizon and _plots.errors_against_step(report.horizon),
            )
            if plot
        ],
    )  # fmt: skip
    write_text(folder / JSON, text)
    write_text(folder / HTML, printable(page))
    return folder


def contents(report: Report, folder: Path) -> dict[str, Any]:
    """The certificate as nested dictionaries, lists, texts and numbers."""
    fields = {field.name: getattr(report, field.name) for field in dataclasses.fields(report)}
    return {
        "format": FORMAT,
        "jaxnet": jaxnet.__version__,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "exit_status": report.exit_status,
        "line": printable(line(report)),
        "text": printable(summary(report)),
        "claims": claims(report),
        **fields,
        "subject": _provenance.relative(report.subject, folder),
    }


def line(report: Report) -> str:
    """The report in one line, for a README."""
    return f"parity: {headline(report)}"


def claims(report: Report) -> list[dict[str, Any]]:
    """What the report says of each kind of array, with its numbers.

    Returns:
        For each kind "claim", its name; "arrays", their number; "same", how many of these are;
        the largest "floors", the difference in float64 in units of what rounding leaves; and
        the largest distances relative to the array's size: "double", torch's float64 to JAX's,
        "torch" and "jax", float32 to float64 of each.
    """
    groups: dict[str, list[SiteResult]] = {}
    for result in report.results:
        words = phase_in_words(result.site)
        words = _WHOLE.get(result.level, words)
        groups.setdefault(words, []).append(result)
    return [
        {
            "claim": words,
            "arrays": len(results),
            "same": sum(not result.judgement.failed for result in results),
            "floors": max(floors(result) for result in results),
            **{
                name: max(shares(result.judgement)[i] for result in results)
                for i, name in enumerate(("torch", "double", "jax"))
            },
        }
        for words, results in groups.items()
    ]


def _by_place(report: Report) -> dict[str, tuple[list[Any], list[Any]]]:
    """By layer the mistakes that the evidence excludes, and those that it does not."""
    found: dict[str, tuple[list[Any], list[Any]]] = {}
    for alternative in together(report):
        excluded, not_excluded = found.setdefault(alternative.place, ([], []))
        (excluded if alternative.excluded else not_excluded).append(alternative)
    return found


def read(folder: Path) -> dict[str, Any]:
    """A certificate's JSON, with whole paths of the files that it is about.

    Raises:
        CertificateError: The folder has none, or one that is damaged or of another format.
    """
    file = folder / JSON if folder.is_dir() else folder
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CertificateError(
            f"{folder}: there is no {JSON}; `jaxnet check ... --save {folder}` writes one"
        ) from None
    except (OSError, ValueError) as error:
        raise CertificateError(f"{file}: {error}; check the program again") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise CertificateError(
            f"{file}: it is no certificate of format {FORMAT}, which this version of jaxnet "
            "reads; check the program again"
        )
    return {**content, "subject": _provenance.absolute(content["subject"], file.parent)}


def stale(content: Mapping[str, Any]) -> list[str]:
    """What has changed since the certificate was made, in sentences; none if nothing has."""
    versions = {"jaxnet": content["jaxnet"], **content["environment"].get("jax", {})}
    return _provenance.changed(content["subject"], versions)


def unchecked(content: Mapping[str, Any]) -> list[str]:
    """What `stale` could not look at, in sentences."""
    return _provenance.unchecked(content["subject"])


def _strict(value: Any) -> Any:
    """The same for JSON, which has no arrays, no infinite numbers and no dataclasses."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _strict(getattr(value, f.name)) for f in dataclasses.fields(value)
                if not f.metadata.get("unsaved")}  # fmt: skip
    if isinstance(value, Mapping):
        return {str(key): _strict(part) for key, part in value.items()}
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, Sequence):
        return [_strict(part) for part in value]
    return str(value)


def _environment() -> jinja2.Environment:
    """The template's environment, which escapes all text, so that none becomes markup."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "phase": phase_in_words,
        "shares": lambda result: shares(result.judgement),
        "floors": floors,
        "headline": headline,
        "planted_counts": planted_counts,
        "sentence": sentence,
        "number": lambda x: "0" if x == 0 else f"{x:.1e}",
        "style": lambda name: Markup(Path(__file__).with_name(name).read_text(encoding="utf-8")),
    }
    return environment
