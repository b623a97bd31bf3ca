"""The files of a data set: which there are, which are skipped and why, and the JSON values or rows in them."""

import bz2
import codecs
import glob
import gzip
import io
import json
import lzma
import re
import zlib
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any, cast

import orjson

from vicuna_lit.paths import nearest_beside, place_of
from vicuna_lit.records.conversation import DataError, Rejection
from vicuna_lit.records.exports import Unusable
from vicuna_lit.records.json_stream import MOST_BYTES, TOO_LARGE, json_lines, json_values
from vicuna_lit.run_folder import GIVEN

SKIPPED = "file skipped"
_TABLE = re.compile(r".*\.(csv|tsv|xlsx|xls)(?:\.(?:gz|bz2|xz|zst))?", re.I)
KNOWN = ".json, .jsonl, .ndjson (also .gz, .bz2, .xz, .zst) or .parquet"
_NAMED_JSON = r".*\.(?:json|jsonl|ndjson|jsonlines)(?:\.(?:gz|bz2|xz|zst))?"
_DATA = re.compile(rf"{_NAMED_JSON}|.*\.parquet|(?!.*\.(?:tar|csv|tsv)\.).*\.(?:gz|bz2|xz|zst)", re.I)
_KINDS = (
    (b"PK\x03\x04", "a zip archive, or a table of Excel; unpack it and name the file of conversations in it"),
    (b"\x1f\x8b", "compressed by gzip; give it a name that ends with .gz"),
    (b"BZh", "compressed by bzip2; give it a name that ends with .bz2"),
    (b"\xfd7zXZ", "compressed by xz; give it a name that ends with .xz"),
    (b"\x28\xb5\x2f\xfd", "compressed by Zstandard; give it a name that ends with .zst"),
    (b"PAR1", "a Parquet file; give it a name that ends with .parquet"),
    (b"ARROW1", "an Arrow file; write it as Parquet: datasets.load_from_disk(folder).to_parquet(file)"),
    (b"SQLite format 3", "a database of SQLite; export its conversations as JSON"),
    (b"%PDF", "a PDF"),
)
"""How files begin that are no JSON, and what they are."""
_NEEDS_ARROW = (".parquet", ".zst")
_BEFORE_A_COLON = re.compile(rb'"[ \t\n\r]*+:')
_LIST_OF_TURNS = re.compile(
    rb'\[\s*\{\s*"(?:(?:from|value|role|content)"|type"\s*:\s*"(?:human|ai|system|user|assistant|message)")'
)
_LOOK = 1 << 16
"""Bytes of a second line that are looked at, to tell lines from values over several lines."""
_BOMS = ((codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"), (codecs.BOM_UTF16_LE, "utf-16"),
         (codecs.BOM_UTF16_BE, "utf-16"), (b"{\0", "utf-16-le"), (b"[\0", "utf-16-le"), (b"\0{", "utf-16-be"),
         (b"\0[", "utf-16-be"))  # fmt: skip
"""In this order: UTF-32's begins as UTF-16's does. The last ones are JSON in UTF-16 without a mark."""


def name_said(path: str | Path, name: str) -> str:
    """A file's name in messages and in its records' ids; what a script gave to `fit` is no file that its author knows.

    Args:
        name: what it is called otherwise.
    """
    place = Path(path)
    of_a_script = place.parent.name == GIVEN and re.fullmatch(r"[0-9a-f]{16}\.jsonl", place.name)
    return "fit(data=…)" if of_a_script else name


def find_files(path: str | Path) -> list[tuple[Path, str]]:
    """The files that can be read, with their names: relative to the folder, or to where a pattern begins.

    `package://name/file` lies inside an installed package.

    Raises:
        DataError: the path leads nowhere or to a pipe or device, or a folder or pattern holds no file that can be read.
    """
    files, skipped = _search(path)
    if odd := [file for file, _ in files if not file.is_file()]:
        if not odd[0].exists():
            raise DataError(f"{odd[0]}: has gone while {path} was looked through; name the folder of your data alone")
        raise DataError(f"{odd[0]}: is no regular file, and is read more than once; write it to a file first")
    if not files:
        more = f"; skipped: {', '.join(f'{s.id} ({s.detail})' for s in skipped[:5])}" if skipped else ""
        what = "the folder holds" if Path(path).is_dir() else "the pattern matches"
        raise DataError(f"{path}: {what} no file that can be read, {KNOWN}{more}; name another folder or a file")
    return files


def skipped_files(path: str | Path) -> list[Rejection]:
    """The files of a folder or pattern that are not read, each with the reason; hidden ones are not looked at."""
    return _search(path)[1]


def _search(path: str | Path) -> tuple[list[tuple[Path, str]], list[Rejection]]:
    path = place_of(path) if isinstance(path, str) else path
    if path.is_dir():
        found, base = sorted(p for p in path.rglob("*") if p.is_symlink() or not p.is_dir()), path
    elif path.exists():
        if table := _TABLE.fullmatch(path.name):
            raise DataError(
                f"{path}: a table is not read, {KNOWN} are; its rows as records: {_as_records(path, table)}"
            )
        return [(path, path.name)], []
    elif not glob.has_magic(str(path)):
        raise DataError(f"{path}: no such file or folder{nearest_beside(path)}")
    else:
        matches = glob.glob(str(path), recursive=True)  # noqa: PTH207 (Path.glob gives no files for a last `**`)
        within = "**" in path.parts  # then folders are gone into
        found = sorted(p for p in map(Path, matches) if not (within and p.is_dir()))
        if not any(p.is_file() for p in found):
            raise DataError(
                f"{path}: no file matches this pattern; `**` stands for any folders, `*` for part of a name"
            )
        base = Path(*path.parts[: [glob.has_magic(part) for part in path.parts].index(True)])
    files, skipped = [], []
    for file in found:
        place = file.relative_to(base)
        hidden = any(part.startswith(".") for part in place.parts)
        why = _unreadable(file)
        if why is None and hidden:  # such as a notebook's copies, or the twins that macOS puts beside files
            why, hidden = "is hidden, or in a hidden folder", False
        if why is None:
            files.append((file, place.as_posix()))
        elif not hidden:
            skipped.append(Rejection(place.as_posix(), SKIPPED, f"{place.as_posix()}: {why}"))
    return files, skipped


def _as_records(path: Path, table: re.Match[str]) -> str:
    """The command that makes records of a table's rows: every cell as the text that it is, "NA" and "007" too."""
    kind = table[1].lower()
    call = "read_excel" if kind.startswith("xls") else "read_csv"
    sep = ", sep='\\t'" if kind == "tsv" else ""
    name = path.name[: table.start(1) - 1]
    return (
        f"python -c \"import pandas; pandas.{call}('{path}'{sep}, dtype=str, keep_default_na=False)"
        f".to_json('{name}.jsonl', orient='records', lines=True)\""
    )


def _unreadable(file: Path) -> str | None:
    if file.is_dir():
        return "is a link to a folder, which is not followed" if file.is_symlink() else "is a folder"
    if not file.is_file():
        return "is a pipe or device" if file.exists() else "is a link to nothing"
    if not _DATA.fullmatch(file.name):
        return f"is none of {KNOWN}"
    return _missing(file)


def _missing(file: Path) -> str | None:
    if file.suffix.lower() in _NEEDS_ARROW and find_spec("pyarrow") is None:
        return f"{file.suffix.lower()} needs pyarrow: pip install 'vicuna_lit[parquet]'"
    return None


def values(file: Path) -> Iterator[Any]:
    """The records of a file: a JSON array, JSON lines, indented JSON objects, or the rows of a Parquet file.

    Gives `Unusable` in the place of a broken record, and of the rest of a file cut off.

    Raises:
        DataError: the file cannot be opened, or needs a package that is missing.
    """
    if (missing := _missing(file)) is not None:
        raise DataError(f"{file}: {missing}")
    count = 0
    try:
        for value in _rows(file) if file.suffix.lower() == ".parquet" else _json(file):
            yield value
            count += 1
    except (EOFError, OSError, ValueError, zlib.error, lzma.LZMAError) as error:
        if isinstance(error, OSError) and error.filename is not None:
            raise DataError(f"{file}: cannot be read: {error.strerror}") from None
        detail = f"after {count} records, the rest of the file is lost: {error}"
        yield Unusable("broken JSON" if isinstance(error, ValueError) else "file cut off", detail)


def _rows(file: Path) -> Iterator[Any]:
    from pyarrow.parquet import ParquetFile  # pyright: ignore[reportMissingImports]

    with ParquetFile(file) as table:
        for batch in table.iter_batches(256):
            yield from batch.to_pylist()


def _json(file: Path) -> Iterator[Any]:
    with _opened(file) as stream:
        head = stream.read(256)
        stream.seek(0)
        if kind := next((kind for sign, kind in _KINDS if head.startswith(sign)), None):
            raise ValueError(f"it is {kind}")
        encoding = next((name for bom, name in _BOMS if head.startswith(bom)), None)
        if encoding is None and not re.fullmatch(_NAMED_JSON, file.name, re.I):
            begin = head.removeprefix(codecs.BOM_UTF8).lstrip()
            if begin and begin[:1] not in b"[{":
                raise ValueError(f"it is no JSON, it begins with {begin[:40].decode(errors='replace')!r}")
        yield from _top_level(stream if encoding is None else io.BufferedReader(_Recoded(stream, encoding)))


def _opened(file: Path) -> Any:
    match file.suffix.lower():
        case ".gz":
            return gzip.open(file, "rb")
        case ".bz2":
            return bz2.open(file, "rb")
        case ".xz":
            return lzma.open(file, "rb")
        case ".zst":
            return io.BufferedReader(_Zstandard(file))
        case _:
            return file.open("rb")


class _Rewindable(io.RawIOBase):
    """A stream of bytes that can begin again, and go nowhere else."""

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return 0

    def seek(self, offset: int, whence: int = 0) -> int:
        assert offset == whence == 0
        self.rewind()
        return 0

    def rewind(self) -> None:
        raise NotImplementedError

    def more(self, size: int) -> bytes:
        raise NotImplementedError

    _left = b""

    def readinto(self, buffer: Any) -> int:
        data = self._left or self.more(len(buffer))
        given, self._left = data[: len(buffer)], data[len(buffer) :]
        buffer[: len(given)] = given
        return len(given)


class _Recoded(_Rewindable):
    """UTF-16 or UTF-32 as UTF-8."""

    def __init__(self, stream: IO[bytes], encoding: str):
        self.stream, self.encoding = stream, encoding
        self.rewind()

    def rewind(self) -> None:
        self.stream.seek(0)
        self._decoder, self._left = codecs.getincrementaldecoder(self.encoding)(), b""

    def more(self, size: int) -> bytes:
        out, ended = "", False
        while not out and not ended:
            data = self.stream.read(size)
            ended = not data
            out = self._decoder.decode(data, final=ended)
        return out.encode()


class _Zstandard(_Rewindable):
    """A file that Arrow decompresses."""

    def __init__(self, file: Path):
        self.file = file
        self.rewind()

    def rewind(self) -> None:
        from pyarrow import input_stream  # pyright: ignore[reportMissingImports]

        self._stream, self._left = input_stream(str(self.file), compression="zstd"), b""

    def more(self, size: int) -> bytes:
        return cast(bytes, self._stream.read(size))


def _top_level(stream: Any) -> Iterator[Any]:
    """The records of a file, by how it begins: an array of them, indented objects, or one a line."""
    head = stream.read(256)
    stream.seek(0)
    if head.startswith(codecs.BOM_UTF8):
        stream.read(len(codecs.BOM_UTF8))
    head = head.removeprefix(codecs.BOM_UTF8).lstrip()
    if head.startswith(b"[") and not _LIST_OF_TURNS.match(head) and not _is_array_a_line(stream):
        yield from (_loaded(value, "") for value in json_values(stream, level=1))
    elif head.split(b"\n")[0].strip() in (b"{", b"[") or _goes_on(stream):
        yield from (_loaded(value, "") for value in json_values(stream, level=0))
    else:
        yield from (
            _loaded(line, f"line {n}: ") for n, line in enumerate(json_lines(stream), 1) if line is None or line.strip()
        )


def _is_array_a_line(stream: Any) -> bool:
    """Whether the first lines are arrays of their own."""
    first, second = stream.readline(_LOOK), stream.readline(_LOOK)
    stream.seek(0)
    ends = second.lstrip()[:1] == b"[" and first.rstrip().endswith(b"]")
    return ends and isinstance(_loaded(first, ""), list)


def _goes_on(stream: Any) -> bool:
    """Whether the first line holds no value, or more than one: then values end where their brackets do."""
    first, second = stream.readline(MOST_BYTES), stream.readline(_LOOK)
    stream.seek(0)
    if len(first) == MOST_BYTES:
        return False
    try:
        bare = first.removeprefix(codecs.BOM_UTF8).rstrip().removesuffix(b",")
        return sum(1 for _ in json_values(io.BytesIO(bare), level=0)) > 1
    except EOFError:  # it may be broken instead: then the next line holds a value of its own
        if len(second) == _LOOK:
            return second[:1] not in b"[{"
        try:
            return bool(second.strip()) and not isinstance(orjson.loads(second), dict | list)
        except orjson.JSONDecodeError:
            return True


def _loaded(value: bytes | None, where: str) -> Any:
    if value is None:
        return Unusable("record too large", f"{where}{TOO_LARGE}")
    try:
        found = orjson.loads(value)
        # Every key counts, and what a text holds that looks like one: as many as there are leaves none given twice.
        return found if len(_BEFORE_A_COLON.findall(value)) == _keys_in(found) else _unless_twice(value, where, found)
    except orjson.JSONDecodeError as error:
        problem = _not_utf8(value, where) or Unusable("broken JSON", f"{where}{error}")
    bare = value.removeprefix(codecs.BOM_UTF8).rstrip().removesuffix(b",")
    if len(bare) < len(value.rstrip()):  # a mark between files that were joined, or a comma behind each line
        return _loaded(bare, where)
    if b"NaN" not in value and b"Infinity" not in value:
        return problem
    try:  # Python writes numbers that JSON does not have
        return _unless_twice(value, where, json.loads(value))
    except (ValueError, RecursionError):
        return problem


def _keys_in(value: Any) -> int:
    """How many keys a JSON value has, at all depths."""
    count, left = 0, [value]
    for one in left:
        if type(one) is dict:
            count += len(one)
            left += [inner for inner in one.values() if type(inner) in (dict, list)]
        elif type(one) is list:
            left += [inner for inner in one if type(inner) in (dict, list)]
    return count


class _GivenTwice(Exception):
    """A key with two values in one object."""


def _unless_twice(value: bytes, where: str, found: Any) -> Any:
    """What a value holds, unless a parser had to choose: one that sees a key twice keeps the last value."""
    try:
        json.loads(value, object_pairs_hook=_refuse_twice)
    except _GivenTwice as twice:
        return Unusable("key given twice", f"{where}{twice}")
    except (ValueError, RecursionError):  # Python's parser reads less deep than orjson
        pass
    return found


def _refuse_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        for key, given in pairs:
            if given != found[key]:
                raise _GivenTwice(f"{key!r:.60} has two values in one object")
    return found


def _not_utf8(value: bytes, where: str) -> Unusable | None:
    """What a text in another encoding is refused with; None: it is UTF-8, or is cut off within a letter."""
    try:
        value.decode()
    except UnicodeDecodeError as error:
        if error.reason != "unexpected end of data":
            found = f"{where}byte {value[error.start]:#04x}"
            return Unusable("not UTF-8", f"{found}; iconv -f <its encoding, often WINDOWS-1252> -t UTF-8 converts it")
    return None
