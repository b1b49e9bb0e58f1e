"""Grey images of more than 8 bits are scaled by what their files state, so that all images of a dataset are scaled
alike; what files of each kind get is in test_odd_images."""

import struct
from io import BytesIO

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin
from synthetic import encoded
from test_odd_images import packed_tiff, tiff

from hf_biasensemble.data.decoding import decode_image
from hf_biasensemble.data.geometry import Geometry


def grey_of(content: bytes) -> int:
    return int(decode_image({"bytes": content, "path": None}, Geometry(4))[0, 0, 0])


def png(value: int) -> bytes:
    return encoded(Image.fromarray(np.full((4, 4), value, np.uint16)), "PNG")


def pgm(value: int, white: int) -> bytes:
    return f"P5\n4 4\n{white}\n".encode() + struct.pack(">H", value) * 16


def jpeg_2000(value: int) -> bytes:
    return encoded(Image.fromarray(np.full((8, 8), value, np.uint16)), "JPEG2000")


@pytest.mark.parametrize(
    "content",
    [
        lambda share: png(round(65535 * share)),
        lambda share: pgm(round(65535 * share), 65535),
        lambda share: pgm(round(4095 * share), 4095),
        lambda share: jpeg_2000(round(65535 * share)),
        lambda share: packed_tiff(round(4095 * share)),
        lambda share: tiff(np.uint16, round(65535 * share)),
        lambda share: tiff(np.uint16, round(1023 * share), white=1023),
        lambda share: tiff(np.int32, round(199 * share), white=199 + 56),
        lambda share: tiff(np.float32, share, white=1),
        lambda share: tiff(np.float32, 255 * share, white=255),
    ],
)
def test_a_dark_image_is_scaled_like_a_bright_one(content):
    """Also one all of whose values would fit into 0 to 1, or into 8 bits."""
    white = grey_of(content(1))
    assert white in (199, 255)
    for share in (0, 0.001, 0.02, 0.5):
        assert grey_of(content(share)) == pytest.approx(white * share, abs=1)


@pytest.mark.parametrize("kind, bits", [(np.int32, "32-bit"), (np.float32, "float")])
@pytest.mark.parametrize("values", [(0, 1), (0, 199), (0, 4000)])
def test_what_states_no_range_is_refused_whatever_its_values(kind, bits, values):
    with pytest.raises(
        ValueError, match=f"{bits} values in a file that states no maximum; save it with 8 or 16 bits, or state"
    ):
        grey_of(tiff(kind, *values))


def test_what_an_image_happens_to_contain_is_no_range():
    """As some programs write into the same tags."""
    assert grey_of(tiff(np.uint16, 3000, white=3871)) == 3000 // 256
    with pytest.raises(ValueError, match="float values in a file that states no"):
        grey_of(tiff(np.float32, 0.83, white=0.83))


def test_values_above_what_the_file_states_are_refused():
    with pytest.raises(ValueError, match="values from 5000 to 5000 in a file that states 0 to 4095"):
        grey_of(tiff(np.uint16, 5000, white=4095))


def test_the_whole_range_of_32_bits_if_stated():
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[280], tags[281] = 0, 2**32 - 1
    tags.tagtype[281] = 4
    image = Image.fromarray(np.full((4, 4), -(2**31), np.int32))  # the bits of 2 ** 31
    assert grey_of(encoded(image, "TIFF", tiffinfo=tags)) == 128


def test_white_may_be_zero():
    """PIL inverts such an image if it has 8 bits, and leaves it if it has 16."""
    file = bytearray(tiff(np.uint16, 60000))
    at = bytes(file).index(struct.pack("<HHIH", 262, 3, 1, 1))
    file[at + 8] = 0
    assert Image.open(BytesIO(bytes(file))).tag_v2[262] == 0
    assert grey_of(bytes(file)) == 255 - 60000 // 256
