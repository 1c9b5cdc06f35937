"""Evaluations small enough for tests, and models that know the answer."""

from types import SimpleNamespace

SIZE = 48


def small(**options):
    """Options of an evaluation of two small validation scenes."""
    return {"scenes": 2, "split": "validation", "height": SIZE, "width": SIZE, **options}


def answering(frames):
    """A loader of a pipeline that answers with these frames."""
    return lambda *_: lambda *given, **options: SimpleNamespace(frames=frames)
