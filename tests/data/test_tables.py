"""jaxnet/data/tables.py, text.py, series.py"""

import os

import jax.numpy as jnp
import numpy as np
import pytest

from jaxnet import data, nn
from jaxnet.random import Generator

DATA = os.environ.get("JAXNET_DATA")


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
    whole = data.standardize(np.array([[1], [2], [4]]))
    np.testing.assert_allclose(whole[:, 0], [-0.87287156, -0.21821789, 1.09108945])


@pytest.mark.parametrize(
    ("labels", "says"), [([3], "3; with 3 classes"), ([-1], "-1; with"), ([0.5], "0.5 is no whole")]
)
def test_one_hot_refuses(labels, says):
    with pytest.raises(ValueError, match=says):
        data.one_hot(labels, 3)


def test_class_means():
    values, labels = np.array([[1.0], [3.0], [9.0]]), np.array([0, 0, 1])
    means = data.class_means(values, {"low": labels == 0, "high": labels == 1})
    assert means["low"].tolist() == [2]
    assert means["high"].tolist() == [9]
    tenths = np.full((300_000, 2), 0.1, np.float32)
    exact = data.class_means(tenths, {"all": np.ones(300_000, bool)})["all"]
    assert (exact == np.float32(0.1)).all()
    with pytest.raises(ValueError, match="'none' has no rows"):
        data.class_means(values, {"none": labels == 2})
    with pytest.raises(ValueError, match="accepted are booleans"):
        data.class_means(values, {"odd": labels})


def test_text_that_is_not_utf8(tmp_path):
    path = csv_file(tmp_path, "gut\nschön".encode("latin-1"))
    with pytest.raises(ValueError, match=r"table.csv, line 2, byte 4: not utf-8"):
        data.read_text(path)
    assert data.read_text(path, "latin-1") == "gut\nschön"


def test_words_by_one_hot_and_by_embedding_are_one_thing():
    words = data.clean_words("To be, or not “to be”--that is")
    assert words[:6] == ["to", "be", "or", "not", "to", "be”--that"]
    index = data.vocabulary(words)
    embedding = nn.Embedding(len(index), 5, rngs=Generator(0))
    hot = data.words_one_hot(words, index)
    looked_up = embedding(jnp.asarray(data.word_indices(words, index)))
    np.testing.assert_allclose(hot @ np.asarray(embedding.weight[...]), looked_up, atol=1e-7)
    assert data.word_indices(["to", "xyz"], index, unknown=0).tolist() == [index["to"], 0]
    with pytest.raises(ValueError, match="'xyz' at 1 is not among the 6"):
        data.words_one_hot(["to", "xyz"], index)
    assert data.words_one_hot(["xyz"], index, unknown=1).tolist() == [[0, 1, 0, 0, 0, 0]]
    with pytest.raises(ValueError, match="unknown: 6; accepted is a column, 0 to 5"):
        data.words_one_hot(["xyz"], index, unknown=6)
    with pytest.raises(ValueError, match="split it into words first"):
        data.vocabulary("to be")


def test_words_may_come_from_a_generator():
    index = {"a": 0, "b": 1}
    assert data.word_indices((word for word in "abb"), index).tolist() == [0, 1, 1]
    hot = data.words_one_hot((word for word in "ab"), index)
    assert hot.tolist() == [[1, 0], [0, 1]]
    with pytest.raises(ValueError, match="'c' at 1 is not among"):
        data.word_indices((word for word in "ac"), index)
    with pytest.raises(ValueError, match="words: one text"):
        data.words_one_hot("ab", index)


def test_letters_as_the_document_writes_them():
    line = "  Ab“ "
    letters = data.letters_one_hot(line)
    assert letters.shape == (6, 128)
    assert letters[:3].argmax(axis=1).tolist() == [97, 98, 0]
    assert letters[3:].sum() == 0
    assert letters[2].sum() == 1


def bikes(tmp_path, hours, dates=None):
    names = (
        "instant,dteday,season,yr,mnth,hr,holiday,weekday,workingday,weathersit,temp,atemp,"
        "hum,windspeed,casual,registered,cnt"
    )
    dates = dates or [f"2011-01-{i // 24 + 1:02}" for i in range(len(hours))]
    rows = [
        f"{i},{date},1,0,1,{h},0,6,0,1,.2,.3,.8,0,3,13,16"
        for i, (h, date) in enumerate(zip(hours, dates, strict=True))
    ]
    return csv_file(tmp_path, "\n".join([names, "", *rows]))


def test_days_need_all_their_hours(tmp_path):
    table = data.read_bikes(bikes(tmp_path, [*range(24), *range(24)]))
    assert table.column("dteday").tolist() == [1] * 24 + [2] * 24
    assert data.days(table.values).shape == (2, 24, 17)
    with pytest.raises(ValueError, match=r"line 8: hour 6 where hour 5 should be"):
        data.read_bikes(bikes(tmp_path, [0, 1, 2, 3, 4, 6]))
    with pytest.raises(ValueError, match="the last day ends after hour 4"):
        data.read_bikes(bikes(tmp_path, range(5)))
    day = [*range(24)]
    for dates, wrong in {
        ("2011-01-31", "2011-02-02"): "line 27: hour 0 of 2011-02-02 after hour 23 of 2011-01-31",
        ("2011-01-31", "2011-01-31"): "line 27: hour 0 of 2011-01-31 after hour 23 of 2011-01-31",
        ("2011-01-31", "2011-01-30"): "days have to come in turn",
        ("2011-01-31", "01/02/2011"): "line 27, column 'dteday': '01/02/2011'",
    }.items():
        with pytest.raises(ValueError, match=wrong):
            data.read_bikes(bikes(tmp_path, day * 2, [d for d in dates for _ in day]))
    file = bikes(tmp_path, day)
    file.write_text(file.read_text().replace("23,0,6,0,1,", "23,0,6,0,7,"))
    with pytest.raises(ValueError, match=r"line 26, column 'weathersit': 7; accepted is 1 "):
        data.read_bikes(file)
    with pytest.raises(ValueError, match="a multiple of 24 rows"):
        data.days(np.zeros((25, 3)))


@pytest.mark.torch
def test_weather_in_both_ways_is_torchs():
    import torch

    daily = np.random.default_rng(0).integers(1, 5, (3, 11, 24)).astype(np.float32)
    t = torch.tensor(daily)
    hot = torch.zeros(3, 4, 24).scatter_(1, t[:, 9, :].long().unsqueeze(1) - 1, 1.0)
    ours = data.weather_one_hot(daily)
    np.testing.assert_array_equal(ours, hot)
    np.testing.assert_array_equal(data.with_channels(daily, ours), torch.cat((t, hot), dim=1))
    np.testing.assert_array_equal(data.scale_ordinal(daily[:, 9]), (t[:, 9] - 1.0) / 3.0)
    last = data.weather_one_hot(daily.transpose(0, 2, 1), axis=2)
    np.testing.assert_array_equal(last, ours.transpose(0, 2, 1))
    daily[0, 9, 0] = 5
    with pytest.raises(ValueError, match="5 in channel 9; accepted is 1 to 4"):
        data.weather_one_hot(daily)


def test_scale_to_unit_takes_the_range_and_not_min_less_min():
    values = np.array([2.0, 4.0, 3.0], np.float32)
    assert data.scale_to_unit(values).tolist() == [0, 1, 0.5]
    wide = np.array([-32768, 3000, -14884], np.int16)
    assert data.scale_to_unit(wide).tolist() == [0, 1, 0.5]
    assert data.scale_ordinal(np.array([1, 4], np.uint8)).tolist() == [0, 1]
    with pytest.raises(ValueError, match="codes: 0; accepted is 1 to 4"):
        data.scale_ordinal(np.array([0, 5]))
    far = np.array([-60000, 60000, 0], np.float16)  # their distance is more than float16 holds
    assert data.scale_to_unit(far).tolist() == [0, 1, 0.5]
    with pytest.raises(ValueError, match="all are 2"):
        data.scale_to_unit(values[:1])


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


@pytest.mark.data
def test_the_bikes_that_lack_hours_are_refused():
    with pytest.raises(ValueError, match=r"hour\.csv, line 31: hour 6 where hour 5"):
        data.read_bikes(f"{DATA}/bike-sharing-dataset/hour.csv")
