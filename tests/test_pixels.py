"""Images as people have them, decoded; batches by position; the fingerprint."""

import io
import warnings
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from datasets import Features, Value
from loaded import load_splits
from PIL import Image
from synthetic import coloured_digits, encoded, png, png_header_only, write_parquet

from hf_biasensemble.data.pixels import ImageSplit, decode_split
from hf_biasensemble.internal.errors import BiasEnsembleError

ORANGE = (200, 100, 50)
BLACK = {"bytes": png(np.zeros((2, 2, 3), np.uint8)), "path": "black.png"}


def decoded(folder: Path, records: list, image_size: int) -> ImageSplit:
    """The images of these records (bytes and path, or nothing), after a black one."""
    columns = {"image": [BLACK, *records], "label": [0, *[1] * len(records)]}
    write_parquet(folder / "train.parquet", columns, Features({"image": datasets.Image(), "label": Value("int64")}))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # what PIL warns of would litter the run
        return decode_split(load_splits(str(folder))["train"], image_size)


def pixels_of(folder: Path, content: bytes, image_size: int) -> np.ndarray:
    """(image_size, image_size, 3)"""
    return decoded(folder, [{"bytes": content, "path": "it"}], image_size).pixels[1].permute(1, 2, 0).numpy()


def error_of(folder: Path, records: list) -> str:
    with pytest.raises(BiasEnsembleError) as caught:
        decoded(folder, records, 4)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def picture(size: tuple[int, int] = (6, 6)) -> Image.Image:
    """Noise, so that rows, columns and channels cannot be mixed up unnoticed."""
    shape = (size[1], size[0], 3)
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8))


# Formats -------------------------------------------------------------------------------------------------------------


def test_rgb_image_of_the_right_size_is_kept_to_the_bit(tmp_path):
    assert np.array_equal(pixels_of(tmp_path, encoded(picture(), "PNG"), 6), np.asarray(picture()))


def test_other_size_is_resized_bilinearly_without_keeping_the_aspect_ratio(tmp_path):
    wide = picture((12, 7))
    expected = np.asarray(wide.resize((5, 5), Image.Resampling.BILINEAR))
    assert np.array_equal(pixels_of(tmp_path, encoded(wide, "PNG"), 5), expected)


def test_one_pixel_becomes_a_plain_image(tmp_path):
    assert (pixels_of(tmp_path, encoded(Image.new("RGB", (1, 1), ORANGE), "PNG"), 4) == ORANGE).all()


@pytest.mark.parametrize("mode, file_format", [("L", "PNG"), ("1", "PNG"), ("L", "JPEG"), ("P", "PNG"), ("P", "GIF")])
def test_grey_and_palette_images_are_converted_as_pil_does(tmp_path, mode, file_format):
    content = encoded(picture().convert(mode), file_format)
    with Image.open(io.BytesIO(content)) as image:
        expected = np.asarray(image.convert("RGB"))
    ours = pixels_of(tmp_path, content, 6)
    assert np.array_equal(ours, expected)
    assert len(np.unique(ours)) > 1


def test_cmyk_is_converted(tmp_path):
    ours = pixels_of(tmp_path, encoded(Image.new("RGB", (8, 8), ORANGE).convert("CMYK"), "JPEG", quality=100), 8)
    assert np.abs(ours.astype(int) - ORANGE).max() <= 3


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_alpha_is_dropped_whatever_it_hides(tmp_path, mode):
    image = Image.new("RGB", (6, 6), ORANGE).convert(mode)
    image.putalpha(Image.linear_gradient("L").resize((6, 6)))
    expected = ORANGE if mode == "RGBA" else (Image.new("RGB", (1, 1), ORANGE).convert("L").getpixel((0, 0)),) * 3
    assert (pixels_of(tmp_path, encoded(image, "PNG"), 6) == expected).all()


@pytest.mark.parametrize("kind", ["palette, one transparent entry", "palette, alpha per entry", "RGB, one colour"])
def test_transparent_colours_show_and_raise_no_warning(tmp_path, kind):
    image = picture((16, 16))
    expected = np.asarray(image)
    transparency: bytes | int | tuple = tuple(int(value) for value in expected[0, 0])
    if kind != "RGB, one colour":
        image = image.quantize(32)
        expected = np.asarray(image.convert("RGB"))
        transparency = 3 if kind == "palette, one transparent entry" else bytes(range(0, 256, 8))
    content = encoded(image, "PNG", transparency=transparency)
    assert np.array_equal(pixels_of(tmp_path, content, 16), expected)


@pytest.mark.parametrize("file_format", ["PNG", "TIFF"])
def test_sixteen_bits_are_scaled_to_eight_and_not_clipped(tmp_path, file_format):
    values = np.array([[0, 255], [256, 0x8040]], dtype=np.uint16)
    values = np.kron(values, np.ones((2, 2), dtype=np.uint16))
    values[3, 3] = 65535
    ours = pixels_of(tmp_path, encoded(Image.fromarray(values), file_format), 4)
    assert np.array_equal(ours, np.repeat((values // 256).astype(np.uint8)[..., None], 3, axis=2))
    assert ours.max() == 255 and ours[2, 2, 0] == 128


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_applied(tmp_path, orientation):
    upright = np.zeros((8, 8, 3), dtype=np.uint8)
    upright[:2, :4] = ORANGE
    turn = {  # from upright to what the camera stores
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, 1),
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(np.ascontiguousarray(turn[orientation]))
    assert np.array_equal(pixels_of(tmp_path, encoded(stored, "PNG", exif=exif), 8), upright)


def test_first_frame_of_an_animation(tmp_path):
    frames = [Image.new("RGB", (4, 4), colour) for colour in (ORANGE, (0, 0, 255))]
    content = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert (pixels_of(tmp_path, content, 4) == ORANGE).all()


# Unreadable ----------------------------------------------------------------------------------------------------------


def test_all_unreadable_images_are_listed_with_row_and_file(tmp_path):
    whole = encoded(picture((64, 64)), "PNG")
    records = [
        {"bytes": whole[:900], "path": "cut.png"},
        {"bytes": whole, "path": "good.png"},
        {"bytes": b"plain words", "path": "words.png"},
        {"bytes": b"", "path": "empty.png"},
        None,
        {"bytes": png_header_only(20_000, 20_000), "path": "huge.png"},
        {"bytes": png_header_only(9, 9), "path": "hollow.png"},
    ]
    message = error_of(tmp_path, records)
    assert "found 6 of 8" in message
    for part in ("row 1 (cut.png: image file is truncated)", "row 3 (words.png: not an image)", "row 4 (empty.png: "):
        assert part in message
    assert "row 5 (embedded: no image (null))" in message
    assert "row 6 (huge.png: " in message and "exceeds limit" in message
    assert "row 7 (hollow.png: " in message
    assert "good.png" not in message and "row 0" not in message


def test_broken_file_of_an_image_folder_is_named_with_its_path(tmp_path):
    for name in ("ant", "owl"):
        (tmp_path / "train" / name).mkdir(parents=True)
        (tmp_path / "train" / name / "a.png").write_bytes(encoded(picture(), "PNG"))
    broken = tmp_path / "train" / "owl" / "b.png"
    broken.write_bytes(encoded(picture((64, 64)), "PNG")[:900])
    with pytest.raises(BiasEnsembleError, match=rf"found 1 of 3 .* row 2 \({broken}: image file is truncated\)"):
        decode_split(load_splits(str(tmp_path))["train"], 4)


def test_at_most_ten_unreadable_images_are_spelt_out(tmp_path):
    message = error_of(tmp_path, [{"bytes": b"x", "path": f"{number}.png"} for number in range(15)])
    assert "found 15 of 16" in message
    assert "row 10 (9.png" in message and "row 11" not in message


def test_rows_beyond_the_first_chunk_keep_their_number(tmp_path):
    records: list = [BLACK] * 1100
    records[1050] = {"bytes": b"x", "path": "late.png"}
    assert "found 1 of 1101 that are not: row 1051 (late.png" in error_of(tmp_path, records)


def test_image_just_above_the_limit_is_refused(tmp_path):
    # PIL only warns of this size; without the limit it would be decoded.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        write_parquet(
            tmp_path / "train.parquet",
            {"image": [BLACK, {"bytes": png_header_only(10_001, 10_000), "path": "big.png"}], "label": [0, 1]},
            Features({"image": datasets.Image(), "label": Value("int64")}),
        )
        with pytest.raises(BiasEnsembleError, match=r"row 1 \(big.png: 10001 x 10000 pixels, more than the limit"):
            decode_split(load_splits(str(tmp_path))["train"], 4)


# Batches -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def split(digits):
    return decode_split(load_splits(str(digits))["train"], 28)


def test_pixels_are_those_of_the_files(digits, split):
    for row, record in enumerate(datasets.load_dataset(str(digits), split="train").select(range(5))):
        assert np.array_equal(split.pixels[row].permute(1, 2, 0), np.asarray(record["image"]))
        assert split.labels[row] == record["label"]
        assert split.bias_labels[row] == record["bias_label"]
        assert split.is_conflicting[row] == record["is_conflicting"]
    assert split.pixels.dtype == torch.uint8 and split.pixels.shape == (96, 3, 28, 28)


def test_number_of_threads_changes_nothing(digits, split):
    one = decode_split(load_splits(str(digits))["train"], 28, workers=1)
    assert torch.equal(one.pixels, split.pixels)


def test_batch_holds_pixels_labels_and_rows_and_no_bias(split):
    batch = split.__getitems__([7, 0, 7])
    assert batch["index"].tolist() == [7, 0, 7]
    assert torch.equal(batch["pixel_values"], split.pixels[[7, 0, 7]])
    assert torch.equal(batch["labels"], split.labels[[7, 0, 7]])
    assert batch.keys() == {"pixel_values", "labels", "index"}


def test_part_of_a_split_keeps_the_rows_of_the_whole(split):
    part = split.select(np.array([50, 3, 3, 90]))
    assert len(part) == 4
    assert part.__getitems__([0, 2, 3])["index"].tolist() == [50, 3, 90]
    assert torch.equal(part.__getitems__([0])["pixel_values"][0], split.pixels[50])
    again = part.select(torch.tensor([3, 0]))
    assert again.__getitems__([0, 1])["index"].tolist() == [90, 50]


# Fingerprint ---------------------------------------------------------------------------------------------------------


def test_fingerprint_is_stable(digits, split, tmp_path):
    again = decode_split(load_splits(str(digits))["train"], 28)
    assert again.fingerprint == split.fingerprint
    datasets.load_dataset(str(digits)).save_to_disk(tmp_path / "saved")  # another way to the same data
    assert decode_split(load_splits(str(tmp_path / "saved"))["train"], 28).fingerprint == split.fingerprint


def test_fingerprint_ignores_bias_labels(split, tmp_path):
    other = coloured_digits(tmp_path, shuffled_bias=True)
    shuffled = decode_split(load_splits(str(other))["train"], 28)
    assert not np.array_equal(shuffled.bias_labels, split.bias_labels)
    assert shuffled.fingerprint == split.fingerprint


@pytest.mark.parametrize("change", ["one pixel", "one label", "order of rows", "fewer rows", "class names", "size"])
def test_fingerprint_changes_with_the_data(digits, split, change):
    pixels, labels, rows, names = split.pixels.clone(), split.labels.clone(), split.rows.clone(), split.class_names
    if change == "one pixel":
        pixels[17, 1, 5, 5] ^= 1
    elif change == "one label":
        labels[17] = (labels[17] + 1) % 4
    elif change == "order of rows":
        rows = rows.flip(0)
    elif change == "fewer rows":
        rows = rows[:-1]
    elif change == "class names":
        names = ["another", *names[1:]]
    other = ImageSplit(pixels, labels, names, rows)
    if change == "size":
        other = decode_split(load_splits(str(digits))["train"], 27)
    assert other.fingerprint != split.fingerprint
    assert split.select(split.rows).fingerprint == split.fingerprint
