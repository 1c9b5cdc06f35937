"""Text and JSON files: one encoding on every system, and one sentence for whatever is wrong."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fourreal.commands.jobs import read_prompts
from fourreal.files.json_files import parse_json, read_json, write_json
from fourreal.files.text_files import read_text, text_lines

CAFE = "caf\u00e9 \u4e2d \U0001f600"


def refused(call, *words):
    with pytest.raises(ValueError) as error:
        call()
    text = str(error.value)
    assert "\n" not in text and text.endswith("."), text
    for word in words:
        assert word in text, (word, text)


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"], ids=["plain", "mark"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"], ids=["lf", "crlf", "cr"])
def test_utf_8_is_read_with_and_without_a_mark_and_with_every_line_end(tmp_path, mark, end):
    path = tmp_path / "a.txt"
    path.write_bytes(mark + f"{CAFE}{end}b\u2028c{end}".encode())
    assert text_lines(read_text(path)) == [CAFE, "b\u2028c", ""]
    assert read_prompts(path) == [CAFE, "b\u2028c"]


@pytest.mark.parametrize(
    "encoding, words",
    {
        "latin-1": ("not UTF-8", "Latin-1", "0xe9 in line 2"),
        "cp1252": ("not UTF-8", "Windows-1252"),
        "utf-16": ("is UTF-16;",),
        "utf-16-le": ("UTF-16 or no text",),
        "utf-16-be": ("UTF-16 or no text",),
        "utf-32": ("is UTF-32;",),
    }.items(),
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_other_encodings_are_named_with_the_file(tmp_path, encoding, words):
    path = tmp_path / "other.txt"
    path.write_bytes("first\ncaf\u00e9".encode(encoding))
    refused(lambda: read_text(path), str(path), "save it as UTF-8", *words)


def test_the_locale_changes_nothing(tmp_path):
    """Also what is written: in a process whose locale is ASCII."""
    (tmp_path / "in.json").write_text(f'["{CAFE}"]', encoding="utf-8")
    code = (
        "from fourreal.files.json_files import read_json, write_text;"
        "import sys; text = read_json(sys.argv[1]).entries()[0].string();"
        "write_text(sys.argv[2], text); print(ascii(text))"
    )
    environment = {**os.environ, "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    command = [sys.executable, "-c", code, tmp_path / "in.json", tmp_path / "out.txt"]
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, cwd=Path(__file__).parents[2]
    )
    assert done.stdout.strip() == ascii(CAFE), done.stderr
    assert (tmp_path / "out.txt").read_bytes() == f"{CAFE}\n".encode()


@pytest.mark.parametrize(
    "text, words",
    [
        ('{"a": 1,\n "b": }', ("line 2, column 7",)),
        ("", ("line 1",)),
        ('{"a": NaN}', ("it has NaN",)),
        ("[-Infinity]", ("it has -Infinity",)),
        ("[1e999]", ("it has 1e999",)),
        ("[" * 100_000, ("nested too deeply",)),
        ('{"a":' * 50_000, ("nested too deeply",)),
        ("[" + "9" * 5000 + "]", ("digits",)),
    ],
)
def test_what_is_no_json_is_told_with_file_and_line(tmp_path, text, words):
    path = tmp_path / "some.json"
    path.write_text(text)
    refused(lambda: read_json(path), "some.json is not JSON", *words)


def test_a_line_of_json_lines_is_named():
    refused(lambda: parse_json("{", Path("m.jsonl"), 7), "m.jsonl is not JSON", "in line 7.")
    refused(lambda: parse_json("[]", Path("m.jsonl"), 7).get("path"), "m.jsonl", "line 7", "object")


@pytest.mark.parametrize(
    "wrong, words",
    [
        (lambda j: j.get("none"), ("has no none, which",)),
        (lambda j: j.get("a").get("x"), ("has no x in a,",)),
        (lambda j: j.get("b").get("x"), ("has [1, 'c'] as b, but an object",)),
        (lambda j: j.get("b").entries()[1].number(), ("has 'c' as b[1], but a number is",)),
        (lambda j: j.get("b").entries(3), ("but a list of 3",)),
        (lambda j: j.get("t").number(), ("has True as t",)),
        (lambda j: j.get("f").number(0, 1), ("has 2.5 as f, but a number from 0 to 1",)),
        (lambda j: j.get("f").integer(0, 9), ("a whole number from 0 to 9",)),
        (lambda j: j.get("big").number(), ("as big, but a number",)),
        (lambda j: j.get("f").string(), ("has 2.5 as f, but a string",)),
        (lambda j: j.get("blank").string(), ("as blank, but a string",)),
        (lambda j: j.get("zero").path_in(Path()), ("as zero, but a string of whole",)),
        (lambda j: j.get("half").string(), ("as half, but a string of whole",)),
        (lambda j: j.get("long").path_in(Path()), ("as long, but a name",)),
        (lambda j: j.get("n\nl").string(), ("has 1 as 'n\\nl', but",)),
        (lambda j: j.get("a").entries(), ("an empty object as a, but a list",)),
        (lambda j: j.get("t").wrong("x"), ("has True as t, but x is needed",)),
        (lambda j: j.get("f").boolean(), ("true or false",)),
    ],
)
def test_every_wrong_value_is_told_with_file_place_and_what_was_found(tmp_path, wrong, words):
    path = tmp_path / "some.json"
    path.write_text(
        '{"a": {}, "b": [1, "c"], "t": true, "f": 2.5, "big": 1' + "0" * 400 + ', "blank": " ",'
        '"zero": "a\\u0000", "half": "\\ud800", "long": "x\\\\' + "y" * 300 + '", "n\\nl": 1}'
    )
    refused(lambda: wrong(read_json(path)), str(path), *words)


def test_right_values_come_as_they_are(tmp_path):
    content = {"a": [1, 2.5], "n": None, "s": CAFE, "w": 640.0, "deep": {"x y": [True]}}
    write_json(tmp_path / "a.json", content)
    value = read_json(tmp_path / "a.json")
    assert value.get("a").numbers(2) == [1.0, 2.5]
    assert value.find("n") is None and value.find("m") is None
    assert value.get("s").string() == CAFE
    assert value.get("w").integer(1, 1000) == 640
    (entry,) = value.get("deep").get("x y").entries()
    assert entry.boolean() and entry.place == "deep.'x y'[0]"
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "b.txt").touch()
    (tmp_path / "odd\\name").touch()
    write_json(tmp_path / "p.json", [r"sub\b.txt", "odd\\name"])
    paths = [entry.path_in(tmp_path) for entry in read_json(tmp_path / "p.json").entries()]
    assert [path.is_file() for path in paths] == [True, True]
