"""What the tests of Wan's files share."""

import pytest

from fourreal.video import wan_files

SENTENCES = ["a red ball bouncing past a blue box", "two cats, outdoors", "in a room: 42!"]


@pytest.fixture(scope="session")
def pieces(tmp_path_factory) -> bytes:
    """A small SentencePiece model with UMT5's special pieces."""
    sentencepiece = pytest.importorskip("sentencepiece")
    folder = tmp_path_factory.mktemp("pieces")
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES * 20),
        model_prefix=str(folder / "spiece"),
        vocab_size=330,
        hard_vocab_limit=False,
        byte_fallback=True,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
    )
    return (folder / "spiece.model").read_bytes()


@pytest.fixture
def as_file(monkeypatch):
    """A function that lets the loaders read tensors, which may be too large for a disk."""

    def read(tensors, metadata=None):
        monkeypatch.setattr(wan_files, "read_weights", lambda _: (tensors, metadata or {}))

    return read
