"""What may happen to a file: other bytes, words and values, for the tests of every reader."""

import json
import random

HEAD = 600  # bytes from the begin on which half of the mutations fall: headers are there
DIGITS = 1500  # bytes from the begin in which counts and shapes are written as text
DEEP = 3000  # levels of JSON, beyond Python's limit of recursion
WORDS = ("nan", "-inf", "1e999", "-1", "0", "", "9" * 30, "0x10", "true", "[", "}", "ä", "\0", '"')
ODD = [None, True, False, 0, -1, 1, 0.5, 1e300, 1e308, -1e-300, 2**63, 2**70, 10**400, "", "x"]
ODD += ["\x00", "\n", [], {}, [[]], [None], [None] * 4, [0, 0, 0, 0], {"a": 1}, "../..", "y" * 300]
ODD += ["\ud800", float("nan"), float("inf"), -float("inf"), "café", "0", "nan", "\\", "*"]
ODD += ["._a.png"]


def mutate_bytes(data: bytearray, r: random.Random) -> None:
    """One of: another byte, a bit, a cut, an insertion, full bytes, more digits, a mark before all
    and other ends of lines, an end too early."""
    where = r.randrange(len(data) if r.random() < 0.5 else min(len(data), HEAD))
    kind = r.randrange(8)
    if kind == 0:
        data[where] = r.randrange(256)
    elif kind == 1:
        data[where] ^= 1 << r.randrange(8)
    elif kind == 2:
        del data[where : where + r.randrange(1, 9)]
    elif kind == 3:
        data[where:where] = bytes(r.randrange(256) for _ in range(r.randrange(1, 9)))
    elif kind == 4:  # counts and lengths in binary
        data[where : where + 4] = r.choice((b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f"))
    elif kind == 5:  # counts and shapes in text
        digits = [i for i, byte in enumerate(data[:DIGITS]) if chr(byte).isdigit()] or [where]
        at = r.choice(digits)
        nines = b"9" * r.randrange(1, r.choice((12, 400)))
        data[at : at + 1] = r.choice((nines, nines, b"NaN", b"1e999", b"-", b"0"))
    elif kind == 6:
        data[:] = r.choice((b"\xef\xbb\xbf", b"\xff\xfe", b"")) + data.replace(b"\n", b"\r\n")
    else:
        del data[where:]


def mutate_words(data: bytearray, r: random.Random) -> None:
    """Another word in the place of one of text's, or a line twice or never."""
    lines = bytes(data).split(b"\n")
    i = r.randrange(len(lines))
    words = lines[i].split(b" ")
    kind = r.randrange(4)
    if kind == 0:
        lines[i:i] = [lines[i]] * r.choice((1, 50))
    elif kind == 1:
        del lines[i]
    else:
        words[r.randrange(len(words))] = r.choice(WORDS).encode()
        lines[i] = b" ".join(words)
    data[:] = b"\n".join(lines)


def places(value: object) -> list[tuple[dict | list, str | int]]:
    """Every (container, key) of a JSON value."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value)
    found = []
    for key, inner in pairs:
        found.append((value, key))
        if isinstance(inner, dict | list):
            found += places(inner)
    return found


def mutate_json(text: str, r: random.Random) -> str:
    """The text of a JSON value after one of its values was replaced, removed, doubled or moved.
    Raises ValueError or RecursionError where it is no JSON any more."""
    value = [json.loads(text)]
    found = places(value)
    container, key = r.choice(found)
    action = r.randrange(6)
    if action < 3:
        container[key] = r.choice(ODD)
    elif action == 3:
        del container[key]
    elif action == 4:
        other, place = r.choice(found)
        container[key] = json.loads(json.dumps(other[place]))
    else:
        container[key] = "DEEP"
    if not value:
        return ""
    return json.dumps(value[0]).replace('"DEEP"', "[" * DEEP + "]" * DEEP)
