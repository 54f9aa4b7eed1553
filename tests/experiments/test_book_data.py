"""What austen, bikes and wine make of their files: words, hours, classes."""

import os
from pathlib import Path

import numpy as np
import pytest

from experiments.austen import clean_words, letters_one_hot
from experiments.bike_data import read_bikes
from experiments.bikes import scale_to_unit, weather_one_hot
from experiments.harness.files import FILES, available, find
from experiments.wine import class_means

DATA = os.environ.get("JAXNET_DATA")


@pytest.mark.data
@pytest.mark.parametrize("name", FILES)
def test_a_file_is_found_where_the_environment_says(name, tmp_path):
    found = find(name)
    assert found.is_relative_to(str(DATA))
    assert available(name) == available(name, tmp_path) == found


def test_a_file_is_found_in_the_folder_itself_and_missed_with_its_origin(tmp_path, monkeypatch):
    monkeypatch.delenv("JAXNET_DATA", raising=False)
    monkeypatch.setenv("JAXNET_CACHE", str(tmp_path / "cache"))
    with pytest.raises(FileNotFoundError, match=r"no tabular-wine/\S+ in any of"):
        find("wine", tmp_path)
    assert available("wine", tmp_path) is None
    (tmp_path / "winequality-white.csv").touch()
    assert find("wine", tmp_path) == tmp_path / "winequality-white.csv"
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        find("wine", tmp_path / "nowhere")


def test_words_have_no_punctuation_around_them():
    words = clean_words("To be, or not “to be”--that is")
    assert words == ["to", "be", "or", "not", "to", "be”--that", "is"]


def test_letters_as_the_document_writes_them():
    line = "  Ab“ "
    letters = letters_one_hot(line)
    assert letters.shape == (6, 128)
    assert letters[:3].argmax(axis=1).tolist() == [97, 98, 0]
    assert letters[3:].sum() == 0
    assert letters[2].sum() == 1


def test_class_means():
    values, labels = np.array([[1.0], [3.0], [9.0]]), np.array([0, 0, 1])
    means = class_means(values, {"low": labels == 0, "high": labels == 1})
    assert means["low"].tolist() == [2]
    assert means["high"].tolist() == [9]
    tenths = np.full((300_000, 2), 0.1, np.float32)
    exact = class_means(tenths, {"all": np.ones(300_000, bool)})["all"]
    assert (exact == np.float32(0.1)).all()
    with pytest.raises(ValueError, match="'none' has no rows"):
        class_means(values, {"none": labels == 2})


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
    path = tmp_path / "table.csv"
    path.write_text("\n".join([names, "", *rows]))
    return path


def test_days_need_all_their_hours(tmp_path):
    table = read_bikes(bikes(tmp_path, [*range(24), *range(24)]))
    assert table.column("dteday").tolist() == [1] * 24 + [2] * 24
    with pytest.raises(ValueError, match=r"line 8: hour 6 of 2011-01-01 where hour 5 should be"):
        read_bikes(bikes(tmp_path, [0, 1, 2, 3, 4, 6]))
    with pytest.raises(ValueError, match="the last day ends after hour 4"):
        read_bikes(bikes(tmp_path, range(5)))
    day = [*range(24)]
    for dates, wrong in {
        ("2011-01-31", "2011-02-02"): "line 27: hour 0 of 2011-02-02 after hour 23 of 2011-01-31",
        ("2011-01-31", "2011-01-31"): "line 27: hour 0 of 2011-01-31 after hour 23 of 2011-01-31",
        ("2011-01-31", "2011-01-30"): "days have to come in turn",
        ("2011-01-31", "01/02/2011"): "line 27, column 'dteday': '01/02/2011'",
    }.items():
        with pytest.raises(ValueError, match=wrong):
            read_bikes(bikes(tmp_path, day * 2, [d for d in dates for _ in day]))
    file = bikes(tmp_path, day)
    file.write_text(file.read_text().replace("23,0,6,0,1,", "23,0,6,0,7,"))
    with pytest.raises(ValueError, match=r"line 26, column 'weathersit': 7; accepted is 1 "):
        read_bikes(file)


@pytest.mark.torch
def test_weather_is_torchs():
    import torch

    daily = np.random.default_rng(0).integers(1, 5, (3, 11, 24)).astype(np.float32)
    t = torch.tensor(daily)
    hot = torch.zeros(3, 4, 24).scatter_(1, t[:, 9, :].long().unsqueeze(1) - 1, 1.0)
    np.testing.assert_array_equal(weather_one_hot(daily, 9), hot)
    daily[0, 9, 0] = 5
    with pytest.raises(ValueError, match="labels: 4; with 4 classes accepted is 0 to 3"):
        weather_one_hot(daily, 9)


def test_scale_to_unit_takes_the_range_and_not_min_less_min():
    values = np.array([2.0, 4.0, 3.0], np.float32)
    assert scale_to_unit(values).tolist() == [0, 1, 0.5]
    with pytest.raises(ValueError, match="all values are 2"):
        scale_to_unit(values[:1])


@pytest.mark.data
def test_the_bikes_that_lack_hours_are_refused():
    with pytest.raises(ValueError, match=r"hour\.csv, line 31: hour 6 of 2011-01-02 where hour 5"):
        read_bikes(Path(f"{DATA}/bike-sharing-dataset/hour.csv"))
