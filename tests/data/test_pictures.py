"""jaxnet/data/_image_files.py and volumes.py"""

import struct
import sys
import zlib

import numpy as np
import pytest
from PIL import Image

from jaxnet import data

pydicom = pytest.importorskip("pydicom")


def picture(path, size=(4, 6), mode="RGB"):
    rng = np.random.default_rng(sum(map(ord, path.name)))
    channels = {"RGB": 3, "RGBA": 4, "L": 1, "LA": 2}[mode]
    pixels = rng.integers(0, 256, (*size, channels), dtype=np.uint8)
    Image.fromarray(pixels.squeeze() if channels == 1 else pixels, mode=None).save(path)
    return pixels


def test_alpha_is_dropped_and_grey_spread(tmp_path):
    rgba = picture(tmp_path / "a.png", mode="RGBA")
    np.testing.assert_array_equal(data.read_image(tmp_path / "a.png"), rgba[..., :3])
    grey = picture(tmp_path / "g.png", mode="L")
    np.testing.assert_array_equal(data.read_image(tmp_path / "g.png"), np.repeat(grey, 3, axis=2))


def test_a_folder_in_order_of_names(tmp_path):
    second, first = picture(tmp_path / "b.png"), picture(tmp_path / "A.PNG", mode="RGBA")
    (tmp_path / "notes.txt").write_text("no picture")
    images, names = data.read_images(tmp_path)
    assert names == ("A.PNG", "b.png")
    np.testing.assert_array_equal(images, [first[..., :3], second])


def test_mixed_sizes_are_refused_or_resized(tmp_path):
    picture(tmp_path / "a.png")
    picture(tmp_path / "b.jpg", (8, 8))
    with pytest.raises(ValueError, match=r"b\.jpg: 8 x 8 pixels, but a\.png has 4 x 6; give size"):
        data.read_images(tmp_path)
    images, _ = data.read_images(tmp_path, size=(5, 7))
    assert images.shape == (2, 5, 7, 3)
    with pytest.raises(ValueError, match=r"size: \(0, 7\)"):
        data.read_images(tmp_path, size=(0, 7))


@pytest.mark.parametrize(
    "damage", [lambda raw: raw[: len(raw) // 2], lambda raw: b"", lambda raw: b"x" * 99]
)
@pytest.mark.parametrize("name", ["a.png", "a.jpg"])
def test_broken_pictures_are_named(tmp_path, name, damage):
    picture(tmp_path / name, (64, 64))
    raw = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(damage(raw))
    with pytest.raises(ValueError, match=rf"{name}: broken, or no picture"):
        data.read_images(tmp_path)


def right_or_refused(file, pixels):
    try:
        return np.array_equal(data.read_image(file), pixels)
    except ValueError as error:
        return "broken, or no picture" in str(error)


def test_a_png_with_one_wrong_bit_is_noticed(tmp_path):
    rows, columns = np.mgrid[:40, :50]
    pixels = np.stack([rows * 6, columns * 5, rows + columns], -1).astype(np.uint8)
    file = tmp_path / "a.png"
    Image.fromarray(pixels).save(file)
    raw = file.read_bytes()
    for i in range(8, len(raw)):  # behind the signature
        wrong = bytearray(raw)
        wrong[i] ^= 1
        file.write_bytes(wrong)
        if i < len(raw) - 12:
            with pytest.raises(ValueError, match=r"a\.png: "):
                data.read_image(file)
        else:  # the end chunk holds nothing
            assert right_or_refused(file, pixels)
    for end in range(1, 5):  # the checksum of nothing
        file.write_bytes(raw[:-end])
        assert right_or_refused(file, pixels)
    for end in range(5, 20):
        file.write_bytes(raw[:-end])
        with pytest.raises(ValueError, match=r"a\.png: broken, or no picture"):
            data.read_image(file)
    file.write_bytes(raw)
    read = data.read_image(file)
    np.testing.assert_array_equal(read, pixels)
    read[0, 0] = 0  # an array of one's own


def test_hidden_files_are_left_out_and_links_to_nowhere_are_not(tmp_path):
    picture(tmp_path / "a.png")
    (tmp_path / "._a.png").write_bytes(b"what a Mac leaves")
    assert data.read_images(tmp_path)[1] == ("a.png",)
    (tmp_path / "b.png").symlink_to(tmp_path / "a.png")
    assert data.read_images(tmp_path)[1] == ("a.png", "b.png")
    (tmp_path / "c.png").symlink_to(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"c\.png"):
        data.read_images(tmp_path)


@pytest.mark.parametrize("size", [8, (8,), (8.0, 8.0), "88", (8, -1)])
def test_sizes_that_are_none(tmp_path, size):
    picture(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"size: .*; accepted is \(height, width\)"):
        data.read_images(tmp_path, size=size)


@pytest.mark.parametrize(
    ("missing", "read", "package"),
    [("PIL.Image", data.read_image, "pillow"), ("pydicom", data.read_volume, "pydicom")],
)
def test_a_package_that_is_not_there(series, monkeypatch, missing, read, package):
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ImportError, match=rf"it needs the package \w+: pip install {package} "):
        read(series)


def test_empty_and_missing_folders(tmp_path):
    with pytest.raises(ValueError, match=r"no pictures there; looked for \.png"):
        data.read_images(tmp_path)
    with pytest.raises(FileNotFoundError, match="there is no such folder"):
        data.read_images(tmp_path / "nope")
    with pytest.raises(FileNotFoundError):
        data.read_image(tmp_path / "nope.png")


def test_sixteen_bits_are_refused(tmp_path):
    Image.fromarray(np.full((4, 4), 40000, np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(ValueError, match=r"deep\.png: its colours are I;16; accepted are 8 bits"):
        data.read_image(tmp_path / "deep.png")


@pytest.mark.parametrize(("kind", "channels"), [(2, 3), (4, 2), (6, 4)])
def test_sixteen_bits_of_colour_are_refused(tmp_path, kind, channels):
    """Pillow would drop the lower eight bits."""

    def chunk(name: bytes, body: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(name + body))
        return struct.pack(">I", len(body)) + name + body + checksum

    head = struct.pack(">IIBBBBB", 1, 1, 16, kind, 0, 0, 0)
    row = zlib.compress(b"\0" + b"\x01\x2c" * channels)
    raw = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", row) + chunk(b"IEND", b"")
    (tmp_path / "deep.png").write_bytes(raw)
    with pytest.raises(ValueError, match=r"deep\.png: its colours are \w+ of 16 bits"):
        data.read_image(tmp_path / "deep.png")


def test_statistics_of_whole_numbers_are_refused():
    with pytest.raises(ValueError, match="images: int32 of shape"):
        data.channel_statistics(np.ones((2, 3, 4, 4), np.int32))


def test_statistics_by_counting_are_those_of_the_floats():
    images = np.random.default_rng(0).integers(0, 256, (5, 4, 6, 3), dtype=np.uint8)
    floats = data.to_tensor(images)
    for a, b in zip(data.channel_statistics(images), data.channel_statistics(floats), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)
        assert a.dtype == b.dtype == np.float32
    mean, std = data.channel_statistics(floats)
    columns = floats.transpose(1, 0, 2, 3).reshape(3, -1).astype(np.float64)
    np.testing.assert_allclose(mean, columns.mean(1), rtol=1e-6)
    np.testing.assert_allclose(std, columns.std(1, ddof=1), rtol=1e-6)
    with pytest.raises(ValueError, match=r"accepted is float \(N, C, H, W\)"):
        data.channel_statistics(floats[0])


def dicom(path, z, *, series="1.2.3", size=(2, 3), spacing=(0.5, 0.25), value=None, **tags):
    from pydicom.dataset import Dataset, FileMetaDataset

    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
    meta.MediaStorageSOPInstanceUID = "1.2.3.4"
    meta.TransferSyntaxUID = "1.2.840.10008.1.2.1"
    file = Dataset()
    file.file_meta = meta
    file.SOPClassUID, file.SOPInstanceUID = meta.MediaStorageSOPClassUID, "1.2.3.4"
    file.SeriesInstanceUID = series
    file.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    file.ImagePositionPatient = [-10, -20, z]
    file.PixelSpacing = list(spacing)
    file.RescaleSlope, file.RescaleIntercept = 2, -1000
    file.Rows, file.Columns = size
    file.SamplesPerPixel, file.PhotometricInterpretation = 1, "MONOCHROME2"
    file.BitsAllocated, file.BitsStored, file.HighBit, file.PixelRepresentation = 16, 16, 15, 1
    file.PixelData = np.full(size, z if value is None else value, np.int16).tobytes()
    for name, given in tags.items():
        setattr(file, name, given)
    file.save_as(path, enforce_file_format=True)


@pytest.fixture
def series(tmp_path):
    for name, z in (("a", 6), ("b", -3), ("c", 3), ("d", 0)):
        dicom(tmp_path / f"{name}.dcm", z)
    return tmp_path


def test_slices_lie_by_position_and_not_by_name(series):
    (series / "README").write_text("no slice")
    volume = data.read_volume(series)
    assert volume.voxels[:, 0, 0].tolist() == [-3, 0, 3, 6]
    assert volume.voxels.dtype == np.int16
    assert volume.spacing == (3.0, 0.5, 0.25)
    assert [file.stem for file in volume.files] == ["b", "d", "c", "a"]
    units = data.read_volume(series, hounsfield=True).voxels
    assert units.dtype == np.float32
    assert units[:, 1, 2].tolist() == [-1006, -1000, -994, -988]


def test_a_missing_slice_is_noticed(series):
    (series / "d.dcm").unlink()
    dicom(series / "e.dcm", 9)
    with pytest.raises(
        ValueError, match=r"b\.dcm and c\.dcm lie at -3 and 3 mm.*1 missing between"
    ):
        data.read_volume(series)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"z": 3}, r"c\.dcm and e\.dcm both lie at 3 mm"),
        ({"z": 9, "series": "9.9"}, r"e\.dcm: its series is 9\.9, that of a\.dcm is 1\.2\.3"),
        ({"z": 9, "size": (3, 3)}, r"e\.dcm: its shape is \(3, 3\)"),
        ({"z": 9, "spacing": (1, 1)}, r"e\.dcm: its pixel spacing is \(1\.0, 1\.0\)"),
        ({"z": 10}, r"a\.dcm and e\.dcm lie at 6 and 10 mm.*slices are uneven"),
        ({"z": 9, "ImagePositionPatient": [40, 10, 9]}, r"e\.dcm: it lies 50 and 30 mm beside a"),
        ({"z": 9, "RescaleSlope": None}, r"e\.dcm: no RescaleSlope and RescaleIntercept; Hounsfi"),
        ({"z": 9, "Modality": "MR"}, r"e\.dcm: MR; Hounsfield units are for CT"),
    ],
)
def test_a_slice_that_does_not_belong(series, options, says):
    dicom(series / "e.dcm", **options)
    with pytest.raises(ValueError, match=says):
        data.read_volume(series, hounsfield=True)


@pytest.mark.parametrize(
    ("places", "says"),
    [
        ((0, 1, 3), "1.dcm and 2.dcm lie at 1 and 3 mm, the others 1 mm apart: 1 missing"),
        ((0, 2, 3), "0.dcm and 1.dcm lie at 0 and 2 mm, the others 1 mm apart: 1 missing"),
        ((0, 1, 1), "both lie at 1 mm"),
    ],
)
def test_three_slices(tmp_path, places, says):
    for i, z in enumerate(places):
        dicom(tmp_path / f"{i}.dcm", z)
    with pytest.raises(ValueError, match=says):
        data.read_volume(tmp_path)


@pytest.mark.filterwarnings("ignore:Invalid value for VR DS")
def test_a_slice_without_a_place(series):
    dicom(series / "e.dcm", 9, ImagePositionPatient=["nan", 0, 9])
    with pytest.raises(ValueError, match=r"e\.dcm: its place is not finite: .*\[nan, 0"):
        data.read_volume(series)


def test_a_slice_that_is_a_link_to_nowhere(series):
    (series / "e.dcm").symlink_to(series / "nowhere")
    with pytest.raises(ValueError, match=r"e\.dcm: damaged, or no DICOM slice: .*No such file"):
        data.read_volume(series)


def test_a_damaged_slice_is_named(series):
    raw = (series / "c.dcm").read_bytes()
    for damaged in (b"", b"no slice at all", raw[:-5]):
        (series / "c.dcm").write_bytes(damaged)
        with pytest.raises(ValueError, match=r"c\.dcm: damaged, or no DICOM slice"):
            data.read_volume(series)


def test_folders_that_hold_no_volume(tmp_path):
    with pytest.raises(ValueError, match="it holds no files"):
        data.read_volume(tmp_path)
    with pytest.raises(FileNotFoundError, match="no such folder"):
        data.read_volume(tmp_path / "nope")
    dicom(tmp_path / "a.dcm", 0)
    with pytest.raises(ValueError, match="one slice is no volume"):
        data.read_volume(tmp_path)


@pytest.mark.parametrize("kind", ["EPS", "GIF", "TIFF", "BMP", "PDF"])
def test_other_formats_under_the_name_of_a_png_are_refused(tmp_path, kind):
    """EPS above all, for which Pillow would start Ghostscript."""
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png", format=kind)
    with pytest.raises(ValueError, match=r"a\.png: broken, or no picture"):
        data.read_image(tmp_path / "a.png")
