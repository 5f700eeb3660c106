import pytest

from featx.wording import (
    escape_html,
    escape_latex,
    escape_markdown,
    format_bytes,
    format_count,
    format_plural,
    format_seconds,
    to_printable,
    wrap_words,
)


def test_names_cannot_break_a_table():
    assert to_printable("a\nb\x1b[2J\udcff日本") == "a\\nb\\x1b[2J\\udcff日本"


@pytest.mark.parametrize(
    ("function", "amounts"),
    [
        (format_bytes, {0: "0 B", 999: "999 B", 1500: "1.5 kB", 345_000_000: "345 MB", 2 * 10**12: "2.0 TB"}),
        (format_count, {0: "0", 768: "768", 48_210: "48.2 k", 482_100: "482 k", 1_234_567: "1.2 M", 3e10: "30.0 G"}),
        (format_seconds, {0.004: "0.00 s", 0.05: "0.05 s", 1.23: "1.2 s", 204: "3.4 min", 9000: "2.5 h"}),
    ],
)
def test_amounts_are_short(function, amounts):
    assert {amount: function(amount) for amount in amounts} == amounts


def test_one_is_singular():
    assert [format_plural(count, "image") for count in (0, 1, 1200)] == ["0 images", "1 image", "1,200 images"]


def test_markup_is_escaped():
    assert escape_latex("a_1 & 50% [x]\n") == "a\\_1 \\& 50\\% {[}x{]}\\textbackslash{}n"
    assert escape_markdown("a|b_*") == "a\\|b\\_\\*"
    assert escape_html("<b a='1'>\x1b") == "&lt;b a=&#x27;1&#x27;&gt;\\x1b"


@pytest.mark.parametrize(
    ("text", "cells", "lines"),
    [
        ("note: normal words wrap", 12, ["note: normal", "words wrap"]),
        ("see features/a-very-long/mobilenetv2.h5 now", 10, ["see", "features/a-very-long/mobilenetv2.h5", "now"]),
        ("  indented lines keep it", 14, ["  indented", "  lines keep", "  it"]),
        ("日本語 日本語 ab", 13, ["日本語 日本語", "ab"]),
        ("", 10, [""]),
    ],
)
def test_lines_break_between_words_only(text, cells, lines):
    assert wrap_words(text, cells) == "\n".join(lines)
