"""The site's pages and the README: what they show runs, and what they list is there."""

import ast
import importlib.util
import logging
import re
from pathlib import Path

import jax
import pytest

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
GUIDES = [path for path in (DOCS / "pages").rglob("*.md") if "reference" not in path.parts]
PAGES = [*sorted(GUIDES), ROOT / "README.md"]

# A comment in front of a snippet says what it needs: `<!-- torch -->` is for comparison and
# is compiled where torch is not installed, and `<!-- flatbuffers -->` where that is not;
# `<!-- optuna -->` and `<!-- onnx -->` (jax2onnx) run in tests of their own;
# `<!-- long -->` takes more than about three seconds;
# `<!-- outline -->` has names that only the reader knows: it is compiled, and not run.
SNIPPET = re.compile(
    r"(?:<!-- (?P<mark>\w+) -->\n+)?^(?P<indent> *)```python\n(?P<code>.*?)^(?P=indent)```",
    re.DOTALL | re.MULTILINE,
)


def snippets(path: Path) -> list[tuple[str | None, ast.Module]]:
    """(mark, syntax tree with the page's line numbers) of every Python snippet."""
    text = path.read_text(encoding="utf-8")
    found = []
    for match in SNIPPET.finditer(text):
        indent = match["indent"]
        code = "\n".join(line.removeprefix(indent) for line in match["code"].splitlines())
        tree = ast.parse(code, str(path))
        ast.increment_lineno(tree, text.count("\n", 0, match.start("code")))
        found.append((match["mark"], tree))
    return found


def title(path: Path) -> str:
    return str(path.relative_to(DOCS / "pages")) if path.is_relative_to(DOCS) else path.name


def pages_with(mark: str) -> list[Path]:
    return [path for path in PAGES if mark in {mark for mark, _ in snippets(path)}]


def pages_to_run():
    for path in PAGES:
        if {mark for mark, _ in snippets(path)} - {"outline"}:
            marks = [pytest.mark.long] if path in pages_with("long") else []
            yield pytest.param(path, marks=marks)


@pytest.fixture
def as_a_reader(tmp_path, monkeypatch):
    """An empty folder to work in, and what a page sets put back afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("JAXNET_CACHE", str(tmp_path / "cache"))
    before, notices = dict(jax.config.values), logging.getLogger("jaxnet")
    level = notices.level
    yield
    notices.setLevel(level)
    for name, value in before.items():
        if jax.config.values[name] is not value:
            jax.config.update(name, value)


def run(path: Path, torch: bool, other: str | None = None) -> None:
    """A page's snippets in their order, in one namespace."""
    names: dict = {"__name__": "__main__"}
    for mark, tree in snippets(path):
        code = compile(tree, str(path), "exec")
        missing = mark == "flatbuffers" and not importlib.util.find_spec("flatbuffers")
        apart = mark in ("optuna", "onnx") and mark != other
        if mark != "outline" and (torch or mark != "torch") and not missing and not apart:
            exec(code, names)


@pytest.mark.parametrize("path", list(pages_to_run()), ids=title)
def test_snippets_run(path, as_a_reader):
    run(path, torch=False)


@pytest.mark.flatbuffers
@pytest.mark.parametrize("path", pages_with("flatbuffers"), ids=title)
def test_snippets_run_with_flatbuffers(path, as_a_reader):
    run(path, torch=False)


@pytest.mark.torch
@pytest.mark.parametrize("path", pages_with("torch"), ids=title)
def test_snippets_run_beside_torch(path, as_a_reader):
    run(path, torch=True)


@pytest.mark.optuna
@pytest.mark.parametrize("path", pages_with("optuna"), ids=title)
def test_snippets_run_with_optuna(path, as_a_reader):
    run(path, torch=False, other="optuna")


@pytest.mark.onnx
# Of other libraries, about themselves.
@pytest.mark.filterwarnings("ignore:Explicitly requested dtype", "ignore::DeprecationWarning")
@pytest.mark.parametrize("path", pages_with("onnx"), ids=title)
def test_snippets_run_with_onnx(path, as_a_reader):
    # The converter itself relies on JAX's default settings.
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        run(path, torch=False, other="onnx")


def test_every_mark_is_known():
    marks = {mark for path in PAGES for mark, _ in snippets(path)}
    assert marks <= {None, "torch", "flatbuffers", "long", "onnx", "optuna", "outline"}


def test_every_snippet_is_found():
    """None that the expression above would pass over in silence."""
    for path in PAGES:
        text = path.read_text(encoding="utf-8")
        assert len(re.findall(r"^ *```python", text, re.MULTILINE)) == len(snippets(path)), path


def generate():
    spec = importlib.util.spec_from_file_location("generate", DOCS / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_what_follows_from_the_code_is_current():
    maker = generate()
    texts = dict(maker.generated())
    stale = [
        str(path.relative_to(ROOT))
        for path, text in texts.items()
        if not path.exists() or path.read_text(encoding="utf-8") != text
    ]
    stale += [
        str(path.relative_to(ROOT))
        for path in (DOCS / "pages" / "reference").rglob("*.md")
        if path not in texts
    ]
    assert not stale, f"run `python docs/generate.py`; these are not current: {stale}"


def test_reference_has_every_public_name():
    maker = generate()
    pages = (DOCS / "pages" / "reference").rglob("*.md")
    listed = [
        name
        for page in pages
        for name in re.findall(r"^::: (\S+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    ]
    public = {
        f"jaxnet.{package}.{name}"
        for package, names in maker.public_packages().items()
        for name in names
    }
    assert len(listed) == len(set(listed))
    assert set(listed) == public


@pytest.mark.torch
def test_list_of_torch_names_is_of_this_torch():
    import json

    maker = generate()
    known = json.loads(maker.TORCH_NAMES.read_text(encoding="utf-8"))
    assert known == maker.torch_names(), "run `python docs/generate.py --torch`"


def test_every_name_of_torchs_is_here_or_answered():
    """That modules give these answers: tests/test_hints.py, and tests/test_ops.py for ops."""
    silent = [
        f"torch.{package}.{name}"
        for package, names in generate().absent().items()
        for name, words in names.items()
        if not words
    ]
    assert not silent


def test_links_between_pages_lead_somewhere():
    broken = []
    for path in [*PAGES, *(DOCS / "pages" / "reference").rglob("*.md")]:
        text = re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
        for link in re.findall(r"\]\(([^)\s]+)\)", text):
            target = link.partition("#")[0]
            if target and "://" not in link and not (path.parent / target).exists():
                broken.append(f"{title(path)}: {link}")
    assert not broken


def test_words_of_code_that_pages_name_are_there():
    """`optim.SGD` in a page or the README is a public name, if its package is one."""
    public = generate().public_packages()
    wrong = []
    for path in PAGES:
        if path.name in ("missing.md", "changelog.md"):
            continue
        for line in path.read_text(encoding="utf-8").splitlines():
            # The first column of these tables has PyTorch's names.
            ours = line.split(" | ", 1)[-1] if path.name == "from-pytorch.md" else line
            for package, name in re.findall(r"`(?:jaxnet\.)?(\w+)\.([A-Za-z]\w+)", ours):
                known = package in public and package != "random"
                if known and name not in public[package] and f"{package}.{name}" not in public:
                    wrong.append(f"{title(path)}: {package}.{name}")
    assert not wrong, wrong
