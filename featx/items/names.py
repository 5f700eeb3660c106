"""The decoding of names: the text of tables, and labels that are the same however they were written.

No detector of encodings is used, since a table has a few short names only (decision 16).
"""

import os
import re
import sys
import unicodedata
from collections.abc import Collection, Iterable

from featx.errors import SourceError
from featx.wording import to_text

#: Words that contain bytes which are not ASCII. Without the look behind, a long run of letters takes quadratic time.
_WORD = re.compile(rb"(?<![A-Za-z\x80-\xff])[A-Za-z]*[\x80-\xff][A-Za-z\x80-\xff]*")

#: Single-byte encodings, the most common first, and the script of the letters that they add to ASCII.
_SINGLE_BYTE = {
    "cp1252": "LATIN",
    "cp1250": "LATIN",
    "mac_roman": "LATIN",
    "cp850": "LATIN",
    "cp1251": "CYRILLIC",
    "cp1253": "GREEK",
}

#: Encodings of two bytes for a character; one that has their usual characters only, and the first bytes of common ones.
_TWO_BYTES = {
    "cp932": ("shift_jis", b"\x88", b"\x97"),
    "euc_jp": ("euc_jp", b"\xb0", b"\xcf"),
    "gbk": ("gb2312", b"\xb0", b"\xd7"),
    "big5": ("big5", b"\xa4", b"\xc6"),
    "cp949": ("euc_kr", b"\xb0", b"\xc8"),
}

_KANA = re.compile("[\u3040-\u30ff]")

#: The most frequent letters of Russian.
_FREQUENT = frozenset("оеаинтсрвлкм")
_RARE = frozenset("фщъэюцжхшйыб")

#: How much larger the share of frequent letters must be than in a reading in small letters.
_CLEARLY = 0.25

#: Beginning of a file whose zero bytes show its encoding.
_HEADER_BYTES = 256

#: Share of the words that must look like words in an encoding that is guessed.
_LEAST_LIKELY = 0.8

#: Longer words of Latin letters have some that are ASCII.
_LONGEST_WITHOUT_ASCII = 3

#: Marks that often stand next to letters (quotes, dashes, currencies, units), and those that stand between letters.
_MARKS = frozenset(
    b"\x80\x84\x85\x91\x92\x93\x94\x95\x96\x97\x99\xa3\xa7\xa9\xab\xae\xb0\xb1\xb2\xb3\xb7\xba\xbb\xbc\xbd\xd7".decode(
        "cp1252"
    )
)
_INNER_MARKS = frozenset(b"\x92\x96\x97\xb7\xd7".decode("cp1252"))

#: Characters that are not seen: soft hyphen, blanks without a width, marks of direction and of byte order. The joiners
#: of Persian, Indic scripts and emoji have a meaning between other characters.
_INVISIBLE = re.compile(
    "[\xad\u061c\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u2064\u2066-\u206f\ufeff]|^[\u200c\u200d]+|[\u200c\u200d]+$"
)

#: Blanks that look like the usual one.
_BLANKS = re.compile("[\xa0\u2000-\u200a\u202f\u205f]")


def decode_text(raw: bytes, title: str) -> tuple[str, str]:
    """Decode the text of a table.

    Text that is neither UTF-8 nor UTF-16 is decoded in the single-byte encoding in which most of its words look
    like words. A file that is mostly UTF-8 keeps its other bytes as surrogate escapes.

    Args:
        raw: The bytes of the file.
        title: The table, for messages.

    Returns:
        The text without its mark, and the encoding: `utf-8`, `utf-16`, or another that was guessed.

    Raises:
        SourceError: If the bytes are not text, or the encoding is not recognised.
    """
    encoding = _find_unicode(raw)
    try:
        if encoding == "utf-8":
            return raw.decode("utf-8-sig"), encoding
        if encoding:
            return raw.decode(encoding).removeprefix("\ufeff"), encoding
    except UnicodeDecodeError as error:
        if encoding != "utf-8":
            msg = f"{title} cannot be read as {encoding.upper()}: {error.reason}; save it as CSV in UTF-8"
            raise SourceError(msg) from error
    else:
        msg = f"{title} is not text: it contains zero bytes; save it as CSV in UTF-8"
        raise SourceError(msg)
    text = raw.decode("utf-8-sig", "surrogateescape")
    if 2 * _count_other(text, low=0xDC80, high=0xDCFF) <= _count_other(text, low=0x80, high=0xD7FF):
        return text, "utf-8"
    encoding = _guess_single_byte(raw, title)
    return raw.decode(encoding), encoding


def normalise_label(name: str) -> str:
    """Return the label of a name from a folder, an archive or a table: valid Unicode, composed (NFC), and visible.

    Folders that look alike are one class, although macOS writes their names decomposed (NFD). The label does not
    depend on the locale.
    """
    if name.isascii():
        return name
    return unicodedata.normalize("NFC", to_text(remove_invisible(join_escapes(name))))


def remove_invisible(text: str) -> str:
    """Remove characters that are not seen, such as a blank without a width, and replace blanks by the usual one."""
    seen = _BLANKS.sub(" ", _INVISIBLE.sub("", text))
    return seen if seen == text else seen.strip()


def join_escapes(name: str) -> str:
    """Return the UTF-8 reading of a name that Python decoded in another locale.

    In a C locale, Python reads the two bytes of `ä` in a file's name as two surrogate escapes.
    Bytes that are not UTF-8 stay escapes.
    """
    if name.isascii():
        return name
    try:
        return name.encode("utf-8", "surrogateescape").decode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # half a surrogate pair, which only Windows allows in a name
        return name


def to_native(name: str) -> str:
    """Return a name as Python passes it to the file system of this locale; undoes `join_escapes`."""
    if name.isascii() or sys.getfilesystemencoding() == "utf-8":
        return name
    return os.fsdecode(name.encode("utf-8", "surrogateescape"))


def _find_unicode(raw: bytes) -> str:
    """Return the Unicode encoding that the marks and zero bytes of a text show; empty if the zero bytes fit none."""
    if raw.startswith((b"\xff\xfe\0\0", b"\0\0\xfe\xff")):
        return "utf-32"
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "utf-16"
    if b"\0" not in raw:
        return "utf-8"
    # Without a mark, the ASCII letters of the header show it: one byte of each is zero.
    start = raw[:_HEADER_BYTES]
    even, odd = start[::2].count(0), start[1::2].count(0)
    if max(even, odd) < len(start) / 4 or min(even, odd) > max(even, odd) / 4:
        return ""
    return "utf-16-be" if even > odd else "utf-16-le"


def _count_other(text: str, *, low: int, high: int) -> int:
    return sum(low <= ord(char) <= high for char in text)


def _guess_single_byte(raw: bytes, title: str) -> str:
    words = set(_WORD.findall(raw))
    scripts = {"CYRILLIC", "GREEK"} if _lack_ascii(words) else set(_SINGLE_BYTE.values())
    scores = {
        encoding: _count_likely(words, encoding, script) if script in scripts else -1
        for encoding, script in _SINGLE_BYTE.items()
    }
    best = max(scores, key=lambda encoding: scores[encoding])  # the first of equal ones
    readings = _find_two_bytes(raw)
    if not readings and scores[best] >= _LEAST_LIKELY * len(words):
        if best != "cp1251" or not _may_be_koi8(words):
            return best
        longest = max(words, key=len)
        readings = {encoding: longest.decode(encoding) for encoding in ("koi8_r", best)}
    seen = " or ".join(f"{encoding} ({text[:40]!r})" for encoding, text in readings.items())
    seen = f": it may be {seen}" if seen else f" ({min(words)[:40]!r})"
    msg = (
        f"{title} is not UTF-8, and its encoding is not recognised{seen}; open it in the encoding that it was written "
        "in, and save it as CSV in UTF-8"
    )
    raise SourceError(msg)


def _find_two_bytes(raw: bytes) -> dict[str, str]:
    """Return the Chinese, Japanese and Korean encodings in which half of the words are common, each with a word."""
    readings = {}
    for encoding, (usual, low, high) in _TWO_BYTES.items():
        try:
            text = raw.decode(encoding)
        except UnicodeDecodeError:
            continue
        words = {word for word in re.findall(r"[^\W\d_]+", text) if not word.isascii()}
        common = {
            word
            for word in words
            if all(_KANA.match(char) or low <= char.encode(usual, "ignore")[:1] <= high for char in word)
        }
        if common and 2 * len(common) >= len(words):
            readings[encoding] = max(common, key=len)
    return readings


def _may_be_koi8(words: Collection[bytes]) -> bool:
    """Return whether Cyrillic words may be in KOI8-R, whose capitals have the bytes of small letters of cp1251."""
    if _count_likely(words, "koi8_r", "CYRILLIC") < _LEAST_LIKELY * len(words):
        return False
    texts = [word.decode("cp1251") for word in words]
    own, other = (_count_frequent(text) for text in (texts, [word.decode("koi8_r") for word in words]))
    if any(map(str.isupper, texts)):
        return other >= own or all(map(str.isupper, texts))
    return other > own + _CLEARLY * sum(map(len, texts))


def _count_frequent(texts: Iterable[str]) -> int:
    letters = "".join(texts).casefold()
    return sum((char in _FREQUENT) - (char in _RARE) for char in letters)


def _lack_ascii(words: Collection[bytes]) -> bool:
    """Return whether most of several words have no letter of ASCII, as in another script than the Latin one."""
    bare = [word for word in words if len(word) > 1 and not re.search(b"[A-Za-z]", word)]
    return len(bare) > 1 and 2 * len(bare) > len(words)


def _count_likely(words: Collection[bytes], encoding: str, script: str) -> int:
    """Count the words that look like words: letters of one script, in lower case, capitals or with a first capital."""
    try:
        texts = [word.decode(encoding) for word in words]
    except UnicodeDecodeError:
        return -1
    return sum(_is_likely(text, script) for text in texts)


def _is_likely(text: str, script: str) -> bool:
    letters = [char for char in text if char.isalpha()]
    others = [char for char in letters if not char.isascii()]
    if not all(unicodedata.name(char, "").startswith(script) for char in others):
        return False
    if any(map(_is_odd, f" {text}", text, f"{text[1:]} ")):
        return False
    if script == "LATIN":
        return len(others) < len(letters) or len(letters) <= _LONGEST_WITHOUT_ASCII
    return len(others) == len(letters) and (text[1:].islower() or text.isupper() or len(text) == 1)


def _is_odd(ahead: str, char: str, after: str) -> bool:
    """Return whether a character that is not ASCII is unusual between its neighbours."""
    if char.isascii():
        return False
    if not char.isalpha():
        return char not in (_INNER_MARKS if ahead.isalpha() and after.isalpha() else _MARKS)
    if char.isupper():
        return ahead.isalpha() and (ahead.islower() or after.islower())
    return ahead.isupper() and after.isupper()


def note_url(urls: dict[str, str], item_id: str, url: str) -> None:
    """Note the URL of an item.

    Args:
        urls: The URLs by the ids of their items; changed.
        item_id: The id, which is the URL without secrets.
        url: The URL.

    Raises:
        SourceError: If another URL has the same id.
    """
    if urls.setdefault(item_id, url) != url:
        msg = (
            f"several URLs are {item_id!r} without what looks like a password or a signature, so that their images "
            f"cannot be told apart; download them, or list URLs that differ elsewhere"
        )
        raise SourceError(msg)
