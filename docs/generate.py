"""Writes the parts of the site that follow from the code.

    python docs/generate.py            # the pages and the navigation of the reference, and tables
    python docs/generate.py --torch    # first the list of torch's names, where torch is installed

`tests/test_docs.py` fails where a page is not what this file would write.
"""

import importlib
import importlib.util
import inspect
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
PAGES = DOCS / "pages"
TORCH_NAMES = DOCS / "torch_names.json"

# A name is public if it is in the `__all__` of one of these.
PUBLIC = {
    "nn": "Layers",
    "nn.functional": "Functions of layers",
    "nn.attention": "How attention is computed",
    "nn.attention.bias": "Causal masks",
    "nn.init": "Initial values",
    "nn.utils": "Computed weights, packed sequences, pruning",
    "nn.utils.parametrizations": "Parametrizations",
    "nn.utils.parametrize": "Parametrizations of one's own",
    "nn.utils.prune": "Pruning",
    "nn.utils.rnn": "Packed sequences",
    "ops": "Functions of arrays",
    "ops.linalg": "Linear algebra",
    "ops.fft": "Fourier transforms",
    "ops.special": "Special functions",
    "losses": "Losses",
    "metrics": "Metrics",
    "optim": "Optimizers and schedules",
    "data": "Data",
    "data.transforms": "Transforms of images",
    "train": "Training",
    "parity": "Comparison with PyTorch programs",
    "port": "From PyTorch's source",
    "weights": "Weights and their files",
    "checkpoint": "Checkpoints",
    "random": "Random numbers as torch draws them",
    "precision": "Precision",
    "backend": "Forms of the arithmetic",
    "plots": "Plots",
}

# Modules of one family stand on one page. What is not named here has a page of its own.
FAMILIES = {
    "nn": {
        "module": "Modules and containers",
        "container": "module",
        "traces": "module",
        "parameter_container": "module",
        "linear": "Linear layers",
        "conv": "Convolution",
        "conv_transpose": "conv",
        "pad": "Padding",
        "pooling": "Pooling",
        **dict.fromkeys(
            ("max_pooling", "avg_pooling", "lp_pooling", "adaptive_pooling"), "pooling"
        ),
        **dict.fromkeys(("fractional_pooling", "unpooling"), "pooling"),
        "norm": "Normalization",
        "batchnorm": "norm",
        "instancenorm": "norm",
        "sync_batchnorm": "norm",
        "activation": "Activations",
        "piecewise": "activation",
        "softmax": "activation",
        "dropout": "Dropout",
        "embedding": "Embeddings",
        "embedding_bag": "embedding",
        "rnn": "Recurrent layers",
        "rnn_cell": "rnn",
        "scan_cell": "rnn",
        "attention": "Attention and transformers",
        "transformer": "attention",
        "transformer_layer": "attention",
        "upsample": "Upsampling",
        "fold": "Patches and shuffles",
        "shuffle": "fold",
        "loss": "Losses as modules",
        **dict.fromkeys(("linear_cross_entropy", "adaptive_softmax"), "loss"),
        "distance": "Distances",
        "summary": "Looking inside",
        **dict.fromkeys(("activations", "intercept"), "summary"),
    },
    "ops": {
        "creation": "New arrays",
        "dtypes": "Dtypes",
        "shape": "Shapes",
        "parts": "Joins, parts, diagonals",
        "elementwise": "Elementwise functions",
        "arithmetic": "elementwise",
        "reduction": "Sums, means and extremes",
        "order": "Orders and running sums",
        "indexing": "Indices and masks",
        "products": "Products",
        "draws": "Random arrays",
    },
    "optim": {
        "optimizers": "Optimizers",
        **dict.fromkeys(
            ("adafactor", "adam", "lbfgs", "muon", "radam", "rmsprop", "rprop", "sgd"),
            "optimizers",
        ),
        "schedule": "Learning-rate schedules",
        **dict.fromkeys(("lr_scheduler", "combined_schedules", "cycles", "plateau"), "schedule"),
        "optimizer": "State and parameter groups",
        **dict.fromkeys(("hyperparams", "parameter_groups", "state_dict"), "optimizer"),
        "clip": "Clipping, accumulation, scaling",
        **dict.fromkeys(("accumulation", "scaling"), "clip"),
        "averaging": "Averages of the weights",
    },
    "data": {
        "loader": "Data sets and loaders",
        **dict.fromkeys(("dataset", "sampler", "collate"), "loader"),
        "sharded": "Data larger than memory",
        "catalogue": "Known data sets",
        "files": "Files and columns",
    },
    "train": {
        "fit": "The loop",
        **dict.fromkeys(("callbacks", "evaluate", "progress", "resume", "result"), "fit"),
        "step": "States and steps",
        **dict.fromkeys(("state", "chunk"), "step"),
        "records": "Records",
        "visdom": "records",
        "diagnose": "Diagnosis",
    },
}
OTHERWISE = {"nn": "", "ops": "elementwise", "optim": "optimizer", "data": "files", "train": "fit"}

# Classes whose methods are part of what a user calls.
WITH_MEMBERS = {
    "AveragedModel", "Checkpoints", "DataLoader", "Dataset", "EachEpoch", "EpochReport",
    "Generator", "IterableDataset", "Metric", "Module", "ModuleDict", "Optimizer", "PackedSequence",
    "Records", "ReduceLROnPlateau", "Report", "Schedule", "ShardedIterator", "StepReport",
    "TrainState", "Visdom",
}  # fmt: skip


# On its page a name of these comes before the others, in this order.
FIRST = [
    "Module", "Parameter", "Buffer", "Sequential",
    "fit", "evaluate", "predict", "Result", "EpochReport", "StepReport", "EverySteps",
    "create", "TrainState", "supervised", "make_train_step", "make_eval_step", "make_predict",
    "make_epoch", "make_repeat", "Records",
    "SGD", "Adam", "AdamW", "DataLoader", "Dataset", "load", "save", "state_dict",
    "load_state_dict",
]  # fmt: skip


def public_packages() -> dict[str, list[str]]:
    """The packages that are there, with their public names."""
    found = {}
    for package in PUBLIC:
        name = f"jaxnet.{package}"
        if importlib.util.find_spec(name) is None:
            continue
        names = importlib.import_module(name).__all__
        # A package's list names its public modules too; they have pages of their own.
        found[package] = [n for n in names if f"{package}.{n}" not in PUBLIC]
    return found


def home(package: str, name: str) -> str:
    """The page of a name within a package, "" for the package's only one."""
    families = FAMILIES.get(package)
    if families is None:
        return ""
    thing = getattr(importlib.import_module(f"jaxnet.{package}"), name)
    module = getattr(thing, "__module__", "").rpartition(".")[2].lstrip("_")
    if not getattr(thing, "__module__", "").startswith("jaxnet."):
        return "module"  # nn.Parameter, which is flax's
    if module in ("keys", "draws"):
        return "dropout"
    if module not in families:
        module = OTHERWISE[package] or module
    target = families.get(module, module.replace("_", " ").capitalize())
    return target if target in families else module


def reference() -> dict[str, tuple[str, list[str]]]:
    """Page, without suffix -> its title and the full names on it."""
    pages: dict[str, tuple[str, list[str]]] = {}
    for package, names in public_packages().items():
        order = list(FAMILIES.get(package, {}))
        homes = sorted(
            {home(package, n) for n in names},
            key=lambda h: (order.index(h) if h in order else len(order), h),
        )
        for page in homes:
            title = PUBLIC[package]
            if page:
                title = FAMILIES[package].get(page, page.replace("_", " ").capitalize())
            path = "reference/" + package.replace(".", "_") + (f"/{page}" if page else "")
            here = sorted((n for n in names if home(package, n) == page), key=_by_kind)
            pages[path] = title, [f"jaxnet.{package}.{n}" for n in here]
    return pages


def _by_kind(name: str) -> tuple[int, bool, str]:
    first = FIRST.index(name) if name in FIRST else len(FIRST)
    return first, not name[0].isupper(), name.lower()


def reference_page(title: str, names: list[str]) -> str:
    package = names[0].rpartition(".")[0]
    lines = [f"# {title}", "", f"The public names are imported from `{package}`.", ""]
    for name in names:
        lines += [f"::: {name}"]
        if name.rpartition(".")[2] in WITH_MEMBERS:
            lines += [
                "    options:",
                "      members: null",
                "      filters: public",
                "      inherited_members: true",
            ]
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def reference_index() -> str:
    lines = [
        "# Reference",
        "",
        "Every public name of jaxnet, by package. A name is public if it is listed here; "
        "everything else may change without notice.",
        "",
    ]
    packages: dict[str, list[str]] = {}
    for path, (title, names) in reference().items():
        package = names[0].rpartition(".")[0]
        link = path.removeprefix("reference/") + ".md"
        packages.setdefault(package, []).append(f"[{title}]({link})")
    lines += ["| package | pages |", "| --- | --- |"]
    lines += [f"| `{package}` | {', '.join(links)} |" for package, links in packages.items()]
    return "\n".join(lines) + "\n"


def navigation() -> str:
    lines = ["- reference/index.md"]
    packages: dict[str, list[tuple[str, str]]] = {}
    for path, (title, names) in reference().items():
        packages.setdefault(names[0].rpartition(".")[0], []).append((title, f"{path}.md"))
    for package, pages in packages.items():
        if len(pages) == 1:
            lines.append(f"- {package}: {pages[0][1]}")
        else:
            lines.append(f"- {package}:")
            lines += [f"    - {title}: {path}" for title, path in pages]
    return "\n".join("      " + line for line in lines) + "\n      "


def torch_names() -> dict[str, list[str]]:
    """The documented names of the installed torch that a training program may use."""
    import torch
    from torch import nn
    from torch.nn.attention import bias
    from torch.nn.utils import parametrizations, parametrize, prune, rnn

    def own(module) -> list[str]:
        return sorted(
            name
            for name, thing in vars(module).items()
            if callable(thing) and not name.startswith("_") and not _is_helper(name)
        )

    def listed(module) -> list[str]:
        return sorted(
            name
            for name in module.__all__
            if not name.startswith("_") and not inspect.ismodule(getattr(module, name))
        )

    functions = [name for name in own(nn.functional) if not name[0].isupper()]
    return {
        "torch": [torch.__version__.partition("+")[0]],
        "nn": sorted(name for name, thing in vars(nn).items() if inspect.isclass(thing)),
        "nn.functional": functions,
        "nn.init": ["calculate_gain", *(n for n in own(nn.init) if n.endswith("_"))],
        "nn.attention": listed(nn.attention),
        "nn.attention.bias": listed(bias),
        "nn.utils": listed(nn.utils),
        "nn.utils.parametrizations": listed(parametrizations),
        "nn.utils.parametrize": listed(parametrize),
        "nn.utils.prune": [n for n in own(prune) if n not in ("ABC", "Iterable", "abstractmethod")],
        "nn.utils.rnn": listed(rnn),
        "optim": listed(torch.optim),
        "optim.lr_scheduler": listed(torch.optim.lr_scheduler),
        "optim.swa_utils": listed(torch.optim.swa_utils),
        "utils.data": listed(torch.utils.data),
        # Those that torch documents, less those in place.
        "functions": sorted(
            name
            for name in {*dir(torch._C._VariableFunctions), *torch.functional.__all__}
            if _is_documented(torch, name)
        ),
        "Tensor": sorted(n for n in dir(torch.Tensor) if _is_documented(torch.Tensor, n)),
        "linalg": own(torch.linalg),
        "fft": own(torch.fft),
        "special": own(torch.special),
    }


def _is_documented(owner, name: str) -> bool:
    thing = getattr(owner, name, None)
    hidden = name.startswith("_") or name.endswith(("_", "_copy"))
    return not hidden and callable(thing) and bool(thing.__doc__)


def _is_helper(name: str) -> bool:
    """Whether a name is there for torch itself."""
    parts = ("torch_function", "BroadcastingList")
    others = ("Optional", "assert_int_or_pair", "boolean_dispatch", "Tensor", "Callable")
    return any(part in name for part in parts) or name in others


# The module of jaxnet in which a name of torch's module is looked for.
COUNTERPARTS = {
    "nn": "nn",
    "nn.functional": "nn.functional",
    "nn.init": "nn.init",
    "nn.attention": "nn.attention",
    "nn.attention.bias": "nn.attention.bias",
    "nn.utils": "nn.utils",
    "nn.utils.parametrizations": "nn.utils.parametrizations",
    "nn.utils.parametrize": "nn.utils.parametrize",
    "nn.utils.prune": "nn.utils.prune",
    "nn.utils.rnn": "nn.utils.rnn",
    "optim": "optim",
    "optim.lr_scheduler": "optim",
    "optim.swa_utils": "optim",
    "utils.data": "data",
    "functions": "ops",
    "Tensor": "ops",
    "linalg": "ops.linalg",
    "fft": "ops.fft",
    "special": "ops.special",
}


def absent() -> dict[str, dict[str, str]]:
    """The names of each torch module that jaxnet has not, with what the error says."""
    here = public_packages()
    known = json.loads(TORCH_NAMES.read_text(encoding="utf-8"))
    hints = importlib.import_module("jaxnet._hints")
    found = {}
    for package, counterpart in COUNTERPARTS.items():
        module = f"jaxnet.{counterpart}"
        words = {**hints.NAMES.get(module, {}), **hints.NO_USE.get(module, {})}
        if counterpart.startswith("ops"):
            of_ops = importlib.import_module("jaxnet.ops._absent")
            table = counterpart.removeprefix("ops.").upper()
            words |= of_ops.answers(here["ops"]) if counterpart == "ops" else vars(of_ops)[table]
        names = [name for name in known[package] if name not in here.get(counterpart, ())]
        found[package] = {name: words.get(name, "") for name in names}
    return found


def _shown(package: str) -> str:
    return "torch" if package == "functions" else f"torch.{package}"


def missing() -> str:
    """The count and the table of torch's names that jaxnet has not."""
    known = json.loads(TORCH_NAMES.read_text(encoding="utf-8"))
    no_use = importlib.import_module("jaxnet._hints").NO_USE
    counts, rows = [], []
    for package, names in absent().items():
        useless = no_use.get(f"jaxnet.{COUNTERPARTS[package]}", {})
        nothing = sum(name in useless for name in names)
        total = len(known[package])
        counts.append((package, total, total - len(names), len(names) - nothing, nothing))
        same: dict[str, list[str]] = {}
        for name, words in names.items():
            same.setdefault(words, []).append(f"`{name}`")
        rows += [
            f"| `{_shown(package)}` | {', '.join(named)} | {words} |"
            for words, named in same.items()
        ]
    total, there, other, nothing = (sum(row[i] for row in counts) for i in range(1, 5))
    lines = [
        f"Of the {total} names that PyTorch {known['torch'][0]} documents in these modules, "
        f"{there} are here, {other} are answered by what to write instead or by why there is "
        f"nothing, and {nothing} have no meaning here.",
        "",
        "| module | names | here | answered | no meaning |",
        "| --- | --- | --- | --- | --- |",
        *(f"| `{_shown(row[0])}` | " + " | ".join(map(str, row[1:])) + " |" for row in counts),
        "",
        "What the error says for a name that is not here:",
        "",
        "| module | names | in jaxnet |",
        "| --- | --- | --- |",
        *rows,
    ]
    return "\n".join(lines)


def tiers() -> str:
    """The order of imports, which tests/test_imports.py holds."""
    spec = importlib.util.spec_from_file_location("imports", ROOT / "tests" / "test_imports.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    # The tests' names have no underscores; the page has those of the files.
    there = {path.stem.lstrip("_"): f"jaxnet.{path.stem}" for path in (ROOT / "jaxnet").iterdir()}
    there |= {path.name: path.name for path in ROOT.iterdir()}
    there["harness"] = "experiments.harness"
    lines = ["| tier | packages and modules |", "| --- | --- |"]
    for i, tier in enumerate(module.TIERS, start=1):
        names = ", ".join(f"`{there[name]}`" for name in sorted(tier))
        lines.append(f"| {i} | {names} |")
    return "\n".join(lines)


def public_list() -> str:
    return ", ".join(f"`jaxnet.{package}`" for package in public_packages())


def included(path: Path, title: str) -> str:
    """The line that shows a file of the repository as a page of the site."""
    if not path.exists():
        return f"# {title}"
    return f'--8<-- "{path.name}"'


def filled(path: Path, **sections: str) -> str:
    """A page's text with the parts between its marks written anew."""
    text = path.read_text(encoding="utf-8")
    for name, content in sections.items():
        mark, end = f"<!-- generated: {name} -->\n", f"\n<!-- end: {name} -->"
        text, n = re.subn(
            re.escape(mark) + ".*?" + re.escape(end),
            lambda _, new=mark + content + end: new,
            text,
            flags=re.DOTALL,
        )
        assert n == 1, f"{path}: it has no part between {mark.strip()} and {end.strip()}"
    return text


def generated() -> Iterator[tuple[Path, str]]:
    """Every file of which a part is made here, with its whole text."""
    for path, (title, names) in reference().items():
        yield PAGES / f"{path}.md", reference_page(title, names)
    yield PAGES / "reference" / "index.md", reference_index()
    yield PAGES / "missing.md", filled(PAGES / "missing.md", missing=missing())
    yield (
        PAGES / "architecture.md",
        filled(PAGES / "architecture.md", tiers=tiers(), public=public_list()),
    )
    for name, path in (
        ("contributing", ROOT / ".github" / "CONTRIBUTING.md"),
        ("changelog", DOCS / "changelog.md"),
    ):
        page = PAGES / f"{name}.md"
        yield page, filled(page, **{name: included(path, name.capitalize())})
    text = (DOCS / "mkdocs.yml").read_text(encoding="utf-8")
    made, end = "# made by docs/generate.py\n", "# end"
    before, _, rest = text.partition(made)
    yield DOCS / "mkdocs.yml", before + made + navigation() + end + rest.partition(end)[2]


def main() -> None:
    if "--torch" in sys.argv[1:]:
        text = json.dumps(torch_names(), indent=1) + "\n"
        TORCH_NAMES.write_text(text, encoding="utf-8")
    texts = dict(generated())
    for old in (PAGES / "reference").rglob("*.md"):
        if old not in texts:
            old.unlink()
    for path, text in texts.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main()
