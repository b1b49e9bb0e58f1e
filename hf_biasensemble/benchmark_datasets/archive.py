"""Unpack a zip file of unknown origin: nothing outside one temporary folder, no more bytes than allowed."""

import lzma
import re
import shutil
import stat
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from hf_biasensemble.internal.errors import BiasEnsembleError

MAX_UNPACKED_SIZE = "20GB"
CHUNK = 1 << 20
DAMAGE = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, NotImplementedError)


@contextmanager
def unpacked(archive: str | Path, folder: Path, max_size: int) -> Iterator[Path]:
    """Unpack a zip file into a folder that is removed when the block ends.

    All members are checked before the first byte is written; the size is checked again on the bytes that come out,
    since what an archive says of itself may be false.

    Args:
        archive: The zip file.
        folder: Folder to make; what a killed run left there is removed.
        max_size: Largest sum of the unpacked files, in bytes.

    Raises:
        BiasEnsembleError: the archive is missing, damaged, encrypted or too large, or a member is a link, is there
            twice, or has a name that leads out of the folder. Names archive and member.
    """
    try:
        source = zipfile.ZipFile(archive)
    except FileNotFoundError:
        raise BiasEnsembleError(f"expected a zip file as --archive, found no file {archive}; check the path") from None
    except (*DAMAGE, OSError, ValueError) as error:
        raise BiasEnsembleError(
            f"expected a zip file as --archive, could not read {archive} ({error}); fetch it again"
        ) from error
    with source:
        members = _checked_members(source.infolist(), archive, max_size)
        shutil.rmtree(folder, ignore_errors=True)
        try:
            folder.mkdir(parents=True)
            size = 0
            for path, member in members:
                (folder / path).parent.mkdir(parents=True, exist_ok=True)
                with open(folder / path, "xb") as file:
                    for chunk in _contents(source, member, archive):
                        size += len(chunk)
                        if size > max_size:
                            raise _too_large(archive, max_size)
                        file.write(chunk)
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _checked_members(
    members: Sequence[zipfile.ZipInfo], archive: str | Path, max_size: int
) -> list[tuple[PurePosixPath, zipfile.ZipInfo]]:
    """Path in the target folder and entry of every file; an error names the first member that is not harmless."""
    checked: dict[PurePosixPath, zipfile.ZipInfo] = {}
    for member in members:
        name = member.orig_filename.replace("\\", "/")  # as written: zipfile itself cuts names at a null character
        path, kind = PurePosixPath(name), stat.S_IFMT(member.external_attr >> 16)
        flaw = None
        if path.is_absolute() or re.match(r"[A-Za-z]:", name):
            flaw = "an absolute name"
        elif ".." in path.parts or "\0" in name or not path.parts:
            flaw = "a name that is no path below the archive"
        elif kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            flaw = "a link or special file"
        elif member.flag_bits & 1:
            flaw = "encrypted"
        elif path in checked:
            flaw = "there twice"
        if flaw:
            raise BiasEnsembleError(
                f"expected plain files in {archive}, found {member.orig_filename!r}, which is {flaw}; "
                "nothing was unpacked; use an archive from a source that you trust"
            )
        if not name.endswith("/"):
            checked[path] = member
    if sum(member.file_size for member in checked.values()) > max_size:
        raise _too_large(archive, max_size)
    return list(checked.items())


def _contents(source: zipfile.ZipFile, member: zipfile.ZipInfo, archive: str | Path) -> Iterator[bytes]:
    try:
        with source.open(member) as stream:
            while chunk := stream.read(CHUNK):
                yield chunk
    except DAMAGE as error:
        raise BiasEnsembleError(
            f"expected whole files in {archive}, could not unpack {member.filename!r} ({error}); fetch it again"
        ) from error


def _too_large(archive: str | Path, max_size: int) -> BiasEnsembleError:
    return BiasEnsembleError(
        f"expected at most {max_size:,} bytes of unpacked files in {archive}, found more; "
        "if you trust the archive, pass a larger --max_unpacked_size"
    )
