"""What the tests of porting share."""

import ast
import textwrap

import pytest

from jaxnet.port import port

HEAD = "import torch\nimport torch.nn as nn\nimport torch.nn.functional as F\n\n\n"


@pytest.fixture
def ported(tmp_path, monkeypatch):
    """Ports a text as a file, or one name of it as a package's, and runs the output."""

    def run(text, name=None):
        text = HEAD + textwrap.dedent(text)
        if name is None:
            file = tmp_path / "model.py"
            file.write_text(text)
            result = port(str(file))
        else:
            package = f"package_{abs(hash((text, name)))}"
            (tmp_path / package).mkdir()
            (tmp_path / package / "__init__.py").write_text("")
            (tmp_path / package / "net.py").write_text(text)
            monkeypatch.syspath_prepend(tmp_path)
            result = port(f"{package}.net:{name}")
        ast.parse(result.code)
        made = {"__name__": "made"}
        exec(compile(result.code, "ported.py", "exec"), made)
        return result, made

    return run
