"""A folder of 300 images, many of them odd or broken: what each kind gets, as the table in
docs/experiments/odd_images.md says."""

import csv
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
import torch
from PIL import Image, ImageCms, TiffImagePlugin
from synthetic import encoded, png, png_header_only

from hf_biasensemble.arguments import DataArguments
from hf_biasensemble.cli.main import run_command
from hf_biasensemble.data.prepare import load_image_splits
from hf_biasensemble.internal.errors import BiasEnsembleError

DOCS = Path(__file__).parents[1] / "docs" / "experiments" / "odd_images.md"
SIZE = 16
ORANGE = (200, 100, 50)
GREY = (124, 124, 124)
PHOTO = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))


def orange(mode: str = "RGB", size: tuple[int, int] = (40, 30)) -> Image.Image:
    return Image.new("RGB", size, ORANGE).convert(mode)


def transparent_palette() -> bytes:
    return encoded(orange().quantize(8), "PNG", transparency=bytes([0] * 8))


def with_alpha(mode: str) -> bytes:
    image = orange("RGB").convert(mode)
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    return encoded(image, "PNG")


def tiff(kind: type, *values: float, white: float | None = None) -> bytes:
    """A grey TIFF that repeats these values; `white` is the largest value by its tags."""
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    if white is not None:
        tags[340], tags[341] = kind(0).item(), kind(white).item()
    return encoded(Image.fromarray(np.resize(np.array(values, kind), (30, 40))), "TIFF", tiffinfo=tags)


def packed_tiff(value: int) -> bytes:
    """A grey TIFF of 12 bits per pixel, which PIL reads but does not write."""
    entries = [(256, 40), (257, 30), (258, 12), (259, 1), (262, 1), (273, 8 + 2 + 9 * 12 + 4), (277, 1), (278, 30)]
    entries += [(279, 40 * 30 * 3 // 2)]
    content = b"".join(struct.pack("<HHII", tag, 4, 1, number) for tag, number in entries)
    pair = bytes([value >> 4, (value & 15) << 4 | value >> 8, value & 255])
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + content + bytes(4) + pair * (40 * 30 // 2)


def turned_by_exif() -> bytes:
    """Left half orange when shown upright; stored lying on its side."""
    upright = np.zeros((32, 32, 3), dtype=np.uint8)
    upright[:, :16] = ORANGE
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(Image.fromarray(np.ascontiguousarray(np.rot90(upright, 1))), "JPEG", quality=95, exif=exif)


def sixteen_bit_rgb() -> bytes:
    """A PNG of 16 bits per channel, which PIL reads but does not write."""
    row = b"\0" + struct.pack(">3H", *(value * 257 for value in ORANGE)) * 40
    chunks = b""
    header = struct.pack(">IIBBBBB", 40, 30, 16, 2, 0, 0, 0)
    for name, content in ((b"IHDR", header), (b"IDAT", zlib.compress(row * 30)), (b"IEND", b"")):
        chunks += struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
    return b"\x89PNG\r\n\x1a\n" + chunks


def animation(file_format: str) -> bytes:
    blue = Image.new("RGB", (40, 30), (0, 0, 255))
    return encoded(orange(), file_format, save_all=True, append_images=[blue])


def lab() -> bytes:
    profiles = [ImageCms.createProfile(name) for name in ("sRGB", "LAB")]
    return encoded(ImageCms.applyTransform(orange(), ImageCms.buildTransform(*profiles, "RGB", "LAB")), "TIFF")


def damaged(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes(200) + content[middle + 200 :]


PHOTO_PNG, PHOTO_JPEG = encoded(PHOTO, "PNG"), encoded(PHOTO, "JPEG")
# Kind in the table: (file name, content, what it gets: a colour, or words of the reason)
KINDS: dict[str, tuple[str, bytes, tuple[int, int, int] | str]] = {
    "grey": ("grey.png", encoded(orange("L"), "PNG"), GREY),
    "black and white, 1 bit": ("bit.png", encoded(Image.new("1", (40, 30), 1), "PNG"), (255, 255, 255)),
    "palette": ("palette.png", encoded(orange().quantize(8), "PNG"), ORANGE),
    "palette with transparency": ("palette_alpha.png", transparent_palette(), ORANGE),
    "colour with alpha": ("alpha.png", with_alpha("RGBA"), ORANGE),
    "grey with alpha": ("grey_alpha.png", with_alpha("LA"), GREY),
    "16-bit grey PNG": ("sixteen.png", encoded(Image.fromarray(np.full((30, 40), 124 << 8, np.uint16)), "PNG"), GREY),
    "16-bit grey TIFF": ("sixteen.tif", encoded(Image.fromarray(np.full((30, 40), 31999, np.uint16)), "TIFF"), GREY),
    "16-bit colour PNG": ("sixteen_rgb.png", sixteen_bit_rgb(), ORANGE),
    "12-bit grey TIFF": ("twelve.tif", packed_tiff(124 << 4), GREY),
    "12 bits in a 16-bit TIFF that states 4095": ("in_sixteen.tif", tiff(np.uint16, 124 << 4, white=4095), GREY),
    "32-bit grey TIFF that states 255": ("thirty_two.tif", tiff(np.int32, 124, white=255), GREY),
    "32-bit grey TIFF": ("deep.tif", tiff(np.int32, 124), "32-bit values in a file that states no maximum"),
    "float TIFF that states 0 to 1": ("unit.tiff", tiff(np.float32, 124 / 255, white=1), GREY),
    "float TIFF that states 0 to 255": ("float.tiff", tiff(np.float32, 124.2, white=255), GREY),
    "float TIFF": ("plain.tiff", tiff(np.float32, 124 / 255), "float values in a file that states no maximum"),
    "float TIFF of other values": ("height.tiff", tiff(np.float32, -3, 4000, white=255), "values from -3 to 4000"),
    "float TIFF with a NaN": ("nan.tiff", tiff(np.float32, 0.5, np.nan, white=1), "values from nan to nan"),
    "CMYK JPEG": ("cmyk.jpg", encoded(orange("CMYK"), "JPEG", quality=100), ORANGE),
    "progressive JPEG": ("progressive.jpg", encoded(orange(), "JPEG", quality=100, progressive=True), ORANGE),
    "JPEG with bytes after its end": ("longer.jpg", encoded(orange(), "JPEG", quality=100) + b"more", ORANGE),
    "JPEG rotated by EXIF": ("turned.jpg", turned_by_exif(), "upright"),
    "animated GIF": ("animation.gif", animation("GIF"), ORANGE),
    "animated WebP": ("animation.webp", animation("WEBP"), ORANGE),
    "TIFF of several pages": ("pages.tiff", animation("TIFF"), ORANGE),
    "LAB TIFF": ("lab.tiff", lab(), ORANGE),
    "BMP": ("image.bmp", encoded(orange(), "BMP"), ORANGE),
    "1 x 1 pixel": ("dot.png", encoded(orange(size=(1, 1)), "PNG"), ORANGE),
    "1 x 3,000 pixels": ("line.png", encoded(orange(size=(1, 3000)), "PNG"), ORANGE),
    "PNG called .jpg": ("wrong_name.jpg", encoded(orange(), "PNG"), ORANGE),
    "name with blanks and umlauts": ("schöne Eule (1).PNG", encoded(orange(), "PNG"), ORANGE),
    "truncated JPEG": ("cut.jpg", PHOTO_JPEG[:1500], "truncated"),
    "truncated PNG": ("cut.png", PHOTO_PNG[:5000], "truncated"),
    "PNG with bytes overwritten": ("holes.png", damaged(PHOTO_PNG), "broken"),
    "empty file": ("empty.jpg", b"", "empty file"),
    "web page called .jpg": ("page.jpg", b"<html><body>404</body></html>", "not an image"),
    "12,000 x 9,000 pixels": ("big.png", png_header_only(12_000, 9_000), "more than the limit of 100,000,000"),
    "20,000 x 20,000 pixels": ("huge.png", png_header_only(20_000, 20_000), "more than the limit of 100,000,000"),
}
REFUSED = {kind: words for kind, (_, _, words) in KINDS.items() if isinstance(words, str) and words != "upright"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The odd ones in class `odd`, after plain ones; 300 in all."""
    folder = tmp_path_factory.mktemp("mixed")
    for name in ("even", "odd"):
        (folder / name).mkdir()
    for number in range(300 - len(KINDS)):
        file = folder / ("even", "odd")[number % 2] / f"{number:03}.png"
        file.write_bytes(png(np.full((8, 8, 3), number % 256, dtype=np.uint8)))
    for name, content, _ in KINDS.values():
        (folder / "odd" / name).write_bytes(content)
    return folder


@pytest.fixture(scope="module", params=["0", "4GB"])
def split(request, folder, tmp_path_factory):
    """Decoded into a file and in memory."""
    settings = DataArguments(
        dataset_name=str(folder),
        skip_unreadable_images=True,
        validation_share=0,
        test_share=0,
        pixel_memory_limit=request.param,
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Image size .* exceeds limit")  # PIL's own limit is lower
        return load_image_splits(settings, SIZE)["train"]


def row_of(folder: Path, name: str) -> int:
    files = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return files.index(Path("odd") / name)


@pytest.mark.parametrize("kind", KINDS)
def test_what_each_kind_gets(folder, split, kind):
    name, _, expected = KINDS[kind]
    row = row_of(folder, name)
    left_out = {image.row: image for image in split.unreadable}
    if kind in REFUSED:
        assert row not in split.rows
        assert left_out[row].file == str(folder / "odd" / name)
        assert REFUSED[kind] in left_out[row].reason
        return
    assert row in split.rows and row not in left_out
    pixels = split.pixels[torch.tensor([row])][0].permute(1, 2, 0).int().numpy()
    if expected == "upright":
        assert np.abs(pixels[:, : SIZE // 2 - 1] - ORANGE).max() < 12 and pixels[:, SIZE // 2 + 1 :].max() < 12
    else:
        assert np.abs(pixels - expected).max() <= 4


def test_all_others_are_kept_and_index_is_the_row_in_the_folder(folder, split):
    assert len(split.labels) == 300 and len(split) == 300 - len(REFUSED) == 300 - len(split.unreadable)
    batch = split.__getitems__(range(len(split)))
    assert torch.equal(batch["index"], split.rows)
    for row, pixels in zip(batch["index"].tolist(), batch["pixel_values"], strict=True):
        file = sorted(path for path in folder.rglob("*") if path.is_file())[row]
        if file.stem.isdigit():
            assert (pixels == int(file.stem) % 256).all()


def test_without_the_option_they_are_listed_in_one_error(folder):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(
            BiasEnsembleError, match=rf"found {len(REFUSED)} of 300 .*; fix .* --skip_unreadable_images"
        ) as caught:
            load_image_splits(DataArguments(dataset_name=str(folder)), SIZE)
    assert "\n" not in str(caught.value)


@pytest.mark.filterwarnings("ignore:Image size")
def test_training_goes_on_without_them_and_lists_them(folder, tmp_path, capsys):
    words = f"--dataset_name {folder} --output_dir {tmp_path / 'out'} --skip_unreadable_images true --image_size 8"
    words += " --method lff_be --max_steps 6 --member_steps 6 --num_members 2 --member_agreement 1 --eval_steps 6"
    words += " --member_threshold 0 --per_device_train_batch_size 32 --use_cpu true --disable_tqdm true"
    assert run_command("train", words.split()) == 0, capsys.readouterr().err
    with open(tmp_path / "out" / "dropped_images.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == len(REFUSED)
    for kind, reason in REFUSED.items():
        name = KINDS[kind][0]
        (row,) = (row for row in rows if Path(row["file"]).name == name)
        assert row["split"] == "train" and int(row["row"]) == row_of(folder, name) and reason in row["reason"]
    index = pyarrow.parquet.read_table(tmp_path / "out" / "selection" / "selection.parquet")["index"].to_pylist()
    assert not {int(row["row"]) for row in rows} & set(index)
    assert len(index) == 300 - len(REFUSED) - 2 * 29  # less validation and test


NOTES = {
    "grey": "grey in RGB; alpha is dropped",
    "black": "black and white in RGB",
    "palette": "its colours; transparency is dropped",
    "colour": "alpha is dropped; hidden pixels show",
    "16-bit": "scaled to 8 bits",
    "12-bit": "scaled to 8 bits",
    "12": "scaled to 8 bits",
    "32-bit": "scaled to 8 bits",
    "float": "scaled to 8 bits",
    "CMYK": "converted to RGB",
    "LAB": "converted to RGB",
    "JPEG rotated by EXIF": "shown upright",
    "animated": "its first frame",
    "TIFF": "its first page",
    "1": "resized",
}


def table_line(kind: str) -> str:
    note = NOTES.get(kind, NOTES.get(kind.partition(" ")[0], "decoded normally"))
    result = f"left out: {REFUSED[kind]}" if kind in REFUSED else note
    return f"| {kind} | {result} |"


def test_the_table_in_the_documentation_is_this_one():
    lines = DOCS.read_text(encoding="utf-8").splitlines()
    start = lines.index("| image | result |") + 2
    assert [line for line in lines[start:] if line.startswith("|")] == [table_line(kind) for kind in KINDS]
