"""Examples drawn ahead by worker processes."""

import pytest
import torch

from fourreal.data.cache import SceneCache
from fourreal.training.draws import Draws, draw_ahead, step_generator
from fourreal.training.train_autoencoder import ClipDraws


@pytest.fixture
def clips(scenes):
    cache = SceneCache(scenes, "train", 8, 29, 16)
    cache.fill(range(2))
    return ClipDraws(cache, 2, 3, guesses=True)


def test_each_process_and_step_draws_its_own_examples():
    draws = {
        float(torch.rand((), generator=step_generator(0, step, process)))
        for step in range(20)
        for process in range(8)
    }
    assert len(draws) == 160


def test_any_number_of_workers_gives_the_same_examples_in_order(clips):
    items = [(number, 0.0) for number in range(3, 9)]
    draws = Draws(clips.draw, seed=5, process=1)
    alone, together = (list(draw_ahead(draws, iter(items), workers)) for workers in (0, 2))
    assert len(alone) == len(together) == 6
    for (number, _), (one, after), (other, _) in zip(items, alone, together):
        assert torch.equal(one.clips, other.clips) and one.caption == other.caption
        # The step goes on with the generator where the draw left it.
        generator = step_generator(5, number, 1)
        again = clips.draw(generator, 0.0)
        assert torch.equal(again.clips, one.clips)
        assert torch.equal(torch.rand(4, generator=generator), torch.rand(4, generator=after))
    assert {one.caption is None for one, _ in alone} == {True, False}


def test_the_progress_of_the_run_reaches_the_draw_and_items_are_read_as_they_are_needed():
    read = []

    def items():
        for number in range(10):
            read.append(number)
            yield number, number / 10

    drawn = draw_ahead(Draws(lambda generator, progress: progress, 0, 0), items(), 0)
    assert [next(drawn)[0] for _ in range(3)] == [0.0, 0.1, 0.2]
    assert read == [0, 1, 2]


@pytest.mark.parametrize("workers", [0, 1])
def test_what_cannot_be_read_is_said_in_one_sentence(clips, workers):
    clips.num_scenes = 3
    path = clips.scenes.folder / "000002.npy"
    path.write_bytes(b"this is no array")
    try:
        with pytest.raises(ValueError) as error:
            list(draw_ahead(Draws(clips.draw, 0, 0), ((n, 0.0) for n in range(20)), workers))
        assert "\n" not in str(error.value)
    finally:
        path.unlink()
