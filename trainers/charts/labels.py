"""Class names as a picture can show them: one line, not too long, only characters that a font has."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Sequence
from functools import cache
from pathlib import Path

_UNKNOWN = "\ufffd"
_ELLIPSIS = "…"
_NOT_SHOWN = frozenset({"Cc", "Cs", "Co", "Cn"})

# matplotlib brings the first; of the others, for scripts that it lacks, those that are installed are used.
_FAMILIES = (
    "DejaVu Sans",
    *("Noto Sans CJK JP", "Noto Sans CJK SC", "Noto Sans JP", "Noto Sans SC", "Noto Sans TC", "Noto Sans KR"),
    *("Source Han Sans", "WenQuanYi Micro Hei", "WenQuanYi Zen Hei", "IPAGothic", "NanumGothic"),
    *("Microsoft YaHei", "Yu Gothic", "Malgun Gothic", "PingFang SC", "Hiragino Sans", "Apple SD Gothic Neo"),
    *("Noto Sans", "Noto Sans Devanagari", "Noto Sans Bengali", "Noto Sans Tamil", "Noto Sans Thai"),
    *("Noto Sans Arabic", "Noto Sans Hebrew", "Noto Sans Ethiopic", "Nirmala UI", "Tahoma"),
)


@cache
def families() -> tuple[str, ...]:
    """The font families to draw with, in the order in which they are searched for a character."""
    return tuple(_files())


@cache
def _files() -> dict[str, Path]:
    from matplotlib import font_manager

    found: dict[str, Path] = {}
    for font in font_manager.fontManager.ttflist:
        if font.name in _FAMILIES and font.style == "normal" and str(font.weight) in ("400", "normal"):
            found.setdefault(font.name, Path(font.fname))
    return {name: found[name] for name in _FAMILIES if name in found}


@cache
def _drawable() -> frozenset[int]:
    from matplotlib.ft2font import FT2Font

    return frozenset().union(*(FT2Font(str(path)).get_charmap() for path in _files().values()))


def shown(labels: Sequence[str], most: int = 28) -> list[str]:
    """Each label on one line of at most `most` characters (its middle is left out), with U+FFFD for what
    cannot be drawn.

    Where that leaves nothing to tell it by, or the same as another label has, the label's position (from 0)
    stands before it: "#3 ".
    """
    plain = [_plain(label) for label in labels]
    short = [_cut(label, most) for label in plain]
    counts = Counter(short)
    return [
        f"#{i} {_cut(plain[i], most - 4)}".rstrip()
        if not text or _UNKNOWN in text or counts[text] > 1
        else text
        for i, text in enumerate(short)
    ]


def _plain(label: str) -> str:
    characters: list[str] = []
    drawable = _drawable()
    for character in unicodedata.normalize("NFC", label):
        category = unicodedata.category(character)
        if character.isspace():
            character = " "
        elif category == "Cf":  # directions, joiners: they draw nothing, and could turn the text around
            continue
        elif category in _NOT_SHOWN or ord(character) not in drawable:
            character = _UNKNOWN
        if character in (" ", _UNKNOWN) and characters[-1:] == [character]:
            continue
        if category == "Mn" and len(characters) > 1 and all(map(unicodedata.combining, characters[-2:])):
            continue  # no language piles up three marks, and they would run over the neighbours
        characters.append(character)
    return "".join(characters).strip()


def _cut(text: str, most: int) -> str:
    if len(text) <= most:
        return text
    tail = (most - 1) // 3
    return text[: most - 1 - tail].rstrip() + _ELLIPSIS + text[-tail:].lstrip()


def counted(number: int, noun: str = "class", plural: str = "classes") -> str:
    """1 class, 2 classes, 1,000 classes."""
    return f"{number:,} {noun if number == 1 else plural}"


def every(count: int, most: int) -> int:
    """Of `count` labels in a row, each how-many-th can be written when there is room for `most`: 1, 2, 5,
    10, ..."""
    step = 1
    for factor in (2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000):
        if count / step <= most:
            break
        step = factor
    return step
