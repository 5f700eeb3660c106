import unicodedata

import pytest

from featx.errors import SourceError
from featx.items.names import decode_text, join_escapes, normalise_label

TABLE = "path,label\n0.png,{}\n1.png,{}\n"


@pytest.mark.parametrize(
    ("encoding", "reported"),
    [
        ("utf-8", "utf-8"),
        ("utf-8-sig", "utf-8"),
        ("utf-16", "utf-16"),
        ("utf-16-le", "utf-16-le"),
        ("utf-16-be", "utf-16-be"),
        ("utf-32", "utf-32"),
    ],
)
@pytest.mark.parametrize("names", [("cat", "dog"), ("Bär", "Größe"), ("猫", "ねこ")])
def test_unicode_is_decoded_with_and_without_a_mark(encoding, reported, names):
    text = TABLE.format(*names)
    assert decode_text(text.encode(encoding), "the table") == (text, reported)


@pytest.mark.parametrize(
    ("encoding", "names"),
    [
        ("cp1252", ("Bär", "Hund")),
        ("cp1252", ("GRÖSSE", "Öl")),
        ("cp1252", ("café", "garçon")),
        ("cp1252", ("año", "niño")),
        ("cp1252", ("été", "œuvre")),
        ("cp1252", ("“Bär”", "na\u00efve\u2013x")),
        ("cp1252", ("it\u2019s", "100 €")),
        ("cp1252", ("É", "ÅÄÖ")),
        ("cp1252", ("McDonäld", "GrünBär")),
        ("cp1252", ("SÃO", "3°")),
        ("cp1250", ("łódź", "żółw")),
        ("mac_roman", ("Bär", "Größe")),
        ("cp850", ("Bär", "Größe")),
        ("cp1251", ("кошка", "Собака")),
        ("cp1253", ("γάτα", "σκύλος")),
    ],
)
def test_single_byte_encodings_are_recognised(encoding, names):
    text = TABLE.format(*names)
    assert decode_text(text.encode(encoding), "the table") == (text, encoding)


@pytest.mark.parametrize(
    ("encoding", "names"),
    [
        ("gb18030", ("猫", "狗")),
        ("gbk", ("正常", "异常")),
        ("cp932", ("ねこ", "いぬ")),
        ("cp932", ("猫", "犬")),
        ("cp932", ("薔薇", "桜")),
        ("euc_jp", ("猫", "ネコ")),
        ("big5", ("貓", "狗")),
        ("big5", ("正常", "異常")),
        ("cp949", ("고양이", "개")),
        ("koi8_r", ("кошка", "собака")),
        ("koi8_r", ("Кошка", "Собака")),
        ("koi8_r", ("КОШКА", "СОБАКА")),
        ("koi8_r", ("кот", "лев")),
        ("koi8_r", ("ЩИТ", "норма")),
        ("koi8_u", ("їжак", "лисиця")),
        ("cp1253", ("ΓΑΤΑ", "ΣΚΥΛΟΣ")),
    ],
)
def test_encodings_that_are_not_certain_are_refused(encoding, names):
    message = (
        r"the table is not UTF-8, and its encoding is not recognised.*; open it in .*, and save it as CSV in UTF-8"
    )
    with pytest.raises(SourceError, match=message):
        decode_text(TABLE.format(*names).encode(encoding), "the table")


@pytest.mark.parametrize(("encoding", "names"), [("cp932", ("猫", "犬")), ("koi8_r", ("роза", "кошка"))])
def test_a_refused_table_shows_how_it_may_be_read(encoding, names):
    with pytest.raises(SourceError) as caught:
        decode_text(TABLE.format(*names).encode(encoding), "the table")
    assert any(f"{encoding} ({name!r})" in str(caught.value) for name in names)


@pytest.mark.parametrize("names", [("дуб", "клён"), ("кот", "пёс"), ("Рак", "норма"), ("ЩИТ", "норма")])
def test_short_russian_names_in_cp1251_are_read(names):
    text = TABLE.format(*names)
    assert decode_text(text.encode("cp1251"), "the table") == (text, "cp1251")


def test_a_few_other_bytes_in_utf8_are_kept_as_escapes():
    raw = TABLE.format("Bär", "Größe").encode() + b"\xfc.png,x\n"
    text, encoding = decode_text(raw, "the table")
    assert encoding == "utf-8"
    assert text.encode("utf-8", "surrogateescape") == raw


@pytest.mark.parametrize("raw", [b"path\0label\0\n", b"\0\0\0\0", b"path,label\n" * 50 + b"\0"])
def test_bytes_that_are_not_text_are_reported(raw):
    with pytest.raises(SourceError, match=r"the table is not text: it contains zero bytes"):
        decode_text(raw, "the table")


@pytest.mark.parametrize("raw", [b"\xff\xfep", b"\xfe\xff\0p\0", b"p\0a\0t\0h"])
def test_cut_utf16_is_reported(raw):
    with pytest.raises(SourceError, match=r"the table cannot be read as UTF-16.*save it as CSV in UTF-8"):
        decode_text(raw, "the table")


@pytest.mark.parametrize("name", ["Bär", "É", "한국", "cat", "ǭ"])
def test_labels_are_the_same_in_every_form_and_locale(name):
    forms = [unicodedata.normalize(form, name) for form in ("NFC", "NFD")]
    in_c_locale = [form.encode().decode("ascii", "surrogateescape") for form in forms]
    assert {normalise_label(form) for form in forms + in_c_locale} == {forms[0]}


@pytest.mark.parametrize(
    "name",
    [
        "\ufeffred fox",
        "red fox\u200b",
        "red\u2060 fox",
        "red\xa0fox",
        "r\xaded fox",
        "\u202ared fox\u202c",
        "red\u202ffox",
        "red fox \u200d",
        "\u200ered fox",
    ],
)
def test_labels_have_no_invisible_characters(name):
    assert normalise_label(name) == "red fox"


@pytest.mark.parametrize(
    "name", ["\u0645\u06cc\u200c\u062e", "\U0001f469\u200d\U0001f52c", "\u3042\u3000\u3044", "caf\xe9 "]
)
def test_characters_with_a_meaning_stay_in_labels(name):
    assert normalise_label(name) == name


def test_bytes_that_are_not_utf8_stay_different_in_labels():
    assert normalise_label("B\udce4r") == r"B\udce4r"
    assert normalise_label("B\udcfcr") == r"B\udcfcr"
    assert join_escapes("\ud800") == "\ud800"
