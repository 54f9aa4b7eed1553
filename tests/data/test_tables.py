"""jaxnet/data/_tables.py, text.py, series.py"""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxnet import data


def csv_file(tmp_path, text):
    path = tmp_path / "table.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_a_table_with_quotes_a_mark_and_blank_lines(tmp_path):
    path = csv_file(tmp_path, '\ufeff"a";"b, c";d\r\n1;2;3\r\n\r\n4;5e-1; 6 \r\n')
    table = data.read_table(path, delimiter=";")
    assert table.columns == ("a", "b, c", "d")
    assert table.values.tolist() == [[1, 2, 3], [4, 0.5, 6]]
    assert table.values.dtype == np.float32
    rest, target = table.split("b, c")
    assert rest.columns == ("a", "d")
    assert rest.values.tolist() == [[1, 3], [4, 6]]
    assert target.tolist() == [2, 0.5]
    assert data.read_table(path, delimiter=";", columns=["d", "a"]).values[0].tolist() == [3, 1]
    with pytest.raises(ValueError, match=r"table\.csv: no column 'x'; there are a, b, c, d"):
        table.column("x")
    with pytest.raises(ValueError, match=r"table\.csv: no column 'b, c'; there are a, d$"):
        rest.split("b, c")


def test_converters(tmp_path):
    path = csv_file(tmp_path, "day,n\n2011-01-07,1\n")
    table = data.read_table(path, converters={"day": lambda cell: float(cell[8:10])})
    assert table.values.tolist() == [[7, 1]]


@pytest.mark.parametrize(
    ("text", "options", "says"),
    [
        ("a,b\n1,2\n", {"columns": ["c"]}, r"line 1: no column 'c'.*'a', 'b'"),
        ("a;b\n1;2\n", {"columns": ["a"]}, r"no column 'a'; with the delimiter ','.*'a;b'"),
        ("a,b\n1,2\n3\n", {}, r"line 3: 1 cells, but the first line names 2 columns"),
        ("a,b\n1,2\n\n3,4,5\n", {}, r"line 4: 3 cells"),
        ("a,b\n1,two\n", {}, r"line 2, column 'b': 'two' is no number"),
        ("a,b\n1,\n", {}, r"line 2, column 'b': an empty cell"),
        ("a,b\n1,1_000\n", {}, r"column 'b': '1_000' is no number"),
        ("a,b\n1,nan\n", {}, r"line 2, column 'b': 'nan' is not finite"),
        ("a,b\n1,1e60\n", {}, r"line 2, column 'b': .* is no number of float32"),
        ("a,b\n1,2\n\n3,4.5\n", {"dtype": int}, r"line 4, column 'b': 4.5 is no number of int64"),
        ("a\n300\n", {"dtype": np.uint8}, r"column 'a': 300 is no number of uint8"),
        ("a\n-1\n", {"dtype": np.uint8}, r"column 'a': -1 is no number of uint8"),
        ("a\n9007199254740993\n", {"dtype": int}, r"is no number of int64"),
        ('a,b\n1,x\n2,"y\n3,z\n', {"columns": ["a"]}, r"row that begins at line 3.*a quote"),
        ('a\n"1"2\n', {}, r"row that begins at line 2"),
        ('a,b\n"1\n",2\n3\n', {}, r"line 4: 1 cells"),
        ("a\ngreen\n", {"converters": {"a": {"red": 0}.__getitem__}}, "'a': 'green' is no num"),
        ("a\ngreen\n", {"converters": {"a": {"red": 0}.get}}, "line 2, column 'a': 'green'"),
        ("a,b\n1,2\n", {"columns": "ab"}, "columns: 'ab', a text; give a list"),
        ("a,a\n1,2\n", {}, r"line 1: the column 'a' is there twice"),
        ("a,b\n", {}, r"table.csv: it holds no rows$"),
        ("", {}, r"table.csv: it holds no rows and no names"),
        (b"a,b\n1,2\n3,\xff4\n", {}, r"table.csv, line 3, byte 3: not utf-8 \(0xff"),
    ],
)
def test_bad_tables_name_file_and_place(tmp_path, text, options, says):
    if "table" not in says and "columns: " not in says:
        says = f"table.csv.*{says}"
    with pytest.raises(ValueError, match=says):
        data.read_table(csv_file(tmp_path, text), **options)


@pytest.mark.parametrize("error", [ZeroDivisionError, AttributeError, OverflowError, KeyError])
def test_whatever_a_converter_raises_is_given_its_place(tmp_path, error):
    def bad(cell):
        raise error("no")

    path = csv_file(tmp_path, "a,b\n1,2\n")
    with pytest.raises(ValueError, match=r"table\.csv, line 2, column 'b': '2' is no number"):
        data.read_table(path, converters={"b": bad})


def test_the_line_of_the_names(tmp_path):
    with pytest.raises(ValueError, match=r"table\.csv, line 3: no column 'x'"):
        data.read_table(csv_file(tmp_path, "\n\na,b\n1,2\n"), columns=["x"])
    with pytest.raises(ValueError, match=r"table\.csv, line 3: the column 'a' is there twice"):
        data.read_table(csv_file(tmp_path, "\n\na,a\n1,2\n"))


def test_a_table_of_bfloat16(tmp_path):
    values = data.read_table(csv_file(tmp_path, "a,b\n0.1,2\n3,4\n"), dtype=jnp.bfloat16).values
    assert values.dtype == jnp.bfloat16
    assert values.tolist() == np.array([[0.1, 2], [3, 4]], jnp.bfloat16).tolist()


def test_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nope\.csv"):
        data.read_table(tmp_path / "nope.csv")


@pytest.mark.torch
def test_one_hot_and_standardize_are_torchs():
    import torch

    rng = np.random.default_rng(0)
    x, y = rng.normal(3, 2, (50, 4)).astype(np.float32), rng.integers(0, 10, 50)
    t = torch.tensor(x)
    theirs = (t - t.mean(0)) / torch.sqrt(torch.var(t, 0))
    np.testing.assert_allclose(data.standardize(x), theirs, atol=2e-6)
    hot = torch.zeros(50, 10).scatter_(1, torch.tensor(y).unsqueeze(1), 1.0)
    np.testing.assert_array_equal(data.one_hot(y, 10), hot)


def test_statistics_of_training_rows_serve_all_rows():
    x = np.arange(12, dtype=np.float32).reshape(6, 2)
    known = data.Statistics.of(x[:4])
    np.testing.assert_allclose(known.apply(x[:4]), data.standardize(x[:4]))
    assert known.apply(x)[5, 0] > 1
    with pytest.raises(ValueError, match="column 1 is constant"):
        data.standardize(np.array([[1, 2], [3, 2]], np.float32))
    with pytest.raises(ValueError, match="column 0 is constant"):
        data.standardize(np.full((10, 1), 0.1))
    with pytest.raises(ValueError, match="1 rows; a deviation"):
        data.standardize(x[:1])
    with pytest.raises(ValueError, match=r"shape \(6, 1\); accepted is \(rows, 2\)"):
        known.apply(x[:, :1])
    np.testing.assert_allclose(known.invert(known.apply(x)), x, rtol=1e-6)
    with pytest.raises(ValueError, match=r"shape \(6, 1\); accepted is \(rows, 2\)"):
        known.invert(x[:, :1])
    constant = data.Statistics.of(np.full((3, 1), 5.0))
    assert constant.invert(np.zeros((2, 1))).tolist() == [[5.0], [5.0]]
    whole = data.standardize(np.array([[1], [2], [4]]))
    np.testing.assert_allclose(whole[:, 0], [-0.87287156, -0.21821789, 1.09108945])


@pytest.mark.parametrize(
    ("labels", "says"), [([3], "3; with 3 classes"), ([-1], "-1; with"), ([0.5], "0.5 is no whole")]
)
def test_one_hot_refuses(labels, says):
    with pytest.raises(ValueError, match=says):
        data.one_hot(labels, 3)


def test_text_that_is_not_utf8(tmp_path):
    path = csv_file(tmp_path, "gut\nschön".encode("latin-1"))
    with pytest.raises(ValueError, match=r"table.csv, line 2, byte 4: not utf-8"):
        data.read_text(path)
    assert data.read_text(path, "latin-1") == "gut\nschön"


def test_windows():
    series = np.arange(20).reshape(10, 2)
    past, future = data.windows(series, 4, 2, stride=2)
    assert past.shape == (3, 4, 2)
    assert future.shape == (3, 2, 2)
    np.testing.assert_array_equal(past[1], series[2:6])
    np.testing.assert_array_equal(future[1], series[6:8])
    with pytest.raises(ValueError, match="10 steps; windows of 9 and 2 need 11"):
        data.windows(series, 9, 2)
    with pytest.raises(ValueError, match="at least 1 each"):
        data.windows(series, 0, 2)
