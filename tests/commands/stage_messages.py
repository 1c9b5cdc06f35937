"""What a run says about its stages, read back from its log."""

import re


def announced_and_done(messages: list[str]) -> tuple[list[str], list[str]]:
    """The stages that were announced as the first of them began, and those that ended, of a run
    whose announcements also have the right numbers."""
    begun = [m for m in map(re.compile(r"Stage (\d+) of (\d+): (.*)").fullmatch, messages) if m]
    first, _, then = begun[0][3].removesuffix(")").partition(" (then ")
    planned = [first, *then.split(", ")]
    for match in begun:
        name = match[3].partition(" (then ")[0]
        assert (int(match[1]), int(match[2])) == (planned.index(name) + 1, len(planned))
    ended = [m[1] for m in map(re.compile(r"(.+): \d+\.\d s, \d+ MB").fullmatch, messages) if m]
    return planned, ended
