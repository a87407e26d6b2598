"""YAML of unknown origin: lines of keys, and documents that are meant to do harm."""

from __future__ import annotations

import pytest

from amlocal.compat import yaml_places
from amlocal.compat.yaml_places import YamlError

TEXT = b"""\
a: 1
list:
  - x: 1
    y: {deep: [1, 2]}
  - z
base: &base {k: 1}
more:
  <<: *base
  m: 2
1: number
a: 2
"""


def test_the_lines_of_keys() -> None:
    document = yaml_places.load(b"\xef\xbb\xbf" + TEXT)
    assert document.value == {
        "a": 2,
        "list": [{"x": 1, "y": {"deep": [1, 2]}}, "z"],
        "base": {"k": 1},
        "more": {"k": 1, "m": 2},
        1: "number",
    }
    lines = {
        (): 1,
        ("a",): 11,
        ("list",): 2,
        ("list", 0): 3,
        ("list", 0, "y", "deep", 1): 4,
        ("list", 1): 5,
        ("more", "m"): 9,
        ("more", "k"): 6,
        (1,): 10,
        # The nearest that is there.
        ("list", 0, "nothing"): 3,
        ("list", 7): 2,
        ("nothing", "below"): 1,
    }
    assert {path: document.line(path) for path in lines} == lines
    assert document.repeated == [("a", 11)]


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("a: &a [*a]", 1, "an alias names what it stands in"),
        ("[" * 3000, 1, "not YAML"),
        ("a:\n" + "".join(f"{'  ' * depth}b:\n" for depth in range(1, 100)), 61, "nested more than 60"),
        ("\na: !!python/object/apply:os.system ['touch x']", 2, "constructor for the tag"),
        ("a: !own 1", 1, "constructor for the tag"),
        ("a: 1\n b: 2", 2, "mapping values are not allowed"),
        ("a: " + "9" * 6000, 1, "not YAML"),
        ("? {a: 1}\n: 2", 1, "unhashable"),
        ("a: 2001-99-99", 1, "month"),
        ("a: 1\n---\nb: 2", 2, "another document"),
        ("a: \x00", 1, "not YAML"),
        ("- x\n" * 100_001, 1, "more than 100,000 values"),
    ],
)
def test_what_is_refused(text: str, line: int, message: str) -> None:
    with pytest.raises(YamlError, match=message) as caught:
        yaml_places.load(text.encode())
    assert caught.value.line == line
    assert len(str(caught.value)) < 300


def test_a_billion_laughs() -> None:
    laughs = "a0: &a0 [x,x,x,x,x,x,x,x,x]\n"
    merges = "a0: &a0 {x: 1}\n"
    for number in range(1, 30):
        nine = ",".join([f"*a{number - 1}"] * 9)
        laughs += f"a{number}: &a{number} [{nine}]\n"
        merges += f"a{number}: &a{number}\n  <<: [{nine}]\n"
    for text in (laughs, merges):
        with pytest.raises(YamlError, match="aliases counted as often as used"):
            yaml_places.load(text.encode())


def test_other_refusals() -> None:
    with pytest.raises(YamlError, match="larger than") as caught:
        yaml_places.load(b" " * (yaml_places.MAX_BYTES + 1))
    with pytest.raises(YamlError, match="not UTF-8: byte 0xff") as caught:
        yaml_places.load(b"a: 1\nb: \xff")
    assert caught.value.line == 2
    assert yaml_places.load(b"").value is None and yaml_places.load(b"").line(("a",)) == 1


def test_plain_text_has_no_aliases() -> None:
    document = yaml_places.load(TEXT)
    text = yaml_places.plain(document.value)
    assert "&" not in text and "*" not in text
    assert yaml_places.load(text.encode()).value == document.value
