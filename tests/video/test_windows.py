"""Windows over time: index maths, references at the joints, memory and continuity."""

import subprocess
import sys
from itertools import pairwise

import pytest
import torch

from fourreal.video import denoising as loop
from fourreal.video import load_embedded_pipeline, pipeline
from fourreal.video.request import GridRequest
from fourreal.video.windows import JoinedFrames, fade_joint, plan_windows, time_windows

from ..tiny import PROMPT


@pytest.mark.parametrize("overlap", [1, 2, 3])
@pytest.mark.parametrize("num_frames", [5, 8, 9, 15, 16, 22, 40])
def test_windows_cover_every_frame_and_overlap_as_asked(num_frames, overlap):
    windows = time_windows(num_frames, 8, overlap)
    assert windows[0][0] == 0 and windows[-1][1] == num_frames
    for (_, stop), (start, _) in pairwise(windows):
        assert stop - start == overlap
    lengths = [stop - start for start, stop in windows]
    assert max(lengths) <= 8 and max(lengths) - min(lengths) <= 1
    # No fewer would do: each window but the first adds at most 8 - overlap frames.
    fewer = len(windows) - 1
    assert fewer == 0 or 8 + (fewer - 1) * (8 - overlap) < num_frames
    assert len(time_windows(15, 8, 1)) == 2  # 8 x 57 frames from a model of 29


def test_the_jump_of_a_window_fades():
    steady = torch.linspace(0, 0.4, 9)[None, :, None, None, None].expand(2, 9, 3, 4, 4)
    assert torch.allclose(fade_joint(steady, 5), steady[:, 5:])
    jump = steady.clone()
    jump[:, 5:] += 0.5
    faded = fade_joint(jump, 5) - steady[:, 5:]
    wanted = 0.5 * torch.tensor([0.2, 0.4, 0.6, 0.8])
    assert torch.allclose(faded, wanted[:, None, None, None].expand_as(faded), atol=1e-6)


@pytest.mark.parametrize("overlap", [1, 5])
def test_the_plan_and_the_joined_frames_agree_about_every_pixel_frame(overlap):
    """Views that show the number of each of their frames, joined window by window."""
    request = GridRequest(2, 41, 4, 4, window_frames=17, window_overlap=overlap)
    joined, windows = JoinedFrames(request), plan_windows(request, 8, staged=False)
    assert len(windows) > 2
    numbers = (torch.arange(41.0) / 41).view(-1, 1, 1, 1).expand(-1, 3, 4, 4)
    for window in windows:
        columns, count = joined.next_columns(), overlap if window.start else 0
        shown = columns if count else numbers[:0].expand(2, -1, -1, -1, -1)
        begin = window.first_frame
        assert torch.allclose(shown, numbers[begin : begin + count].expand(2, -1, -1, -1, -1))
        latent_columns = (overlap - 1) // 4 + 1 if window.start else 0
        assert window.known.sum(1).tolist() == [latent_columns] * 2
        joined.add(window, [numbers[begin : window.end_frame]] * 2)
    assert joined.done == 41
    assert torch.allclose(joined.frames, numbers.expand(2, -1, -1, -1, -1), atol=1e-6)


@pytest.fixture(scope="module")
def embedded():
    pipe = load_embedded_pipeline()
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.mark.parametrize("overlap", [1, 5])
def test_a_window_begins_with_the_end_of_the_one_before(embedded, monkeypatch, overlap):
    """The known cells of each window are the encoded frames that the user gets."""
    shown, given = [], []
    references_of, denoise = pipeline.reference_latents, loop.denoise

    def keep_columns(encode, request, window, columns, like):
        shown.append(columns)
        return references_of(encode, request, window, columns, like)

    def keep_known(pipe, sampler, noise, references, known, guidance_scale, first_step):
        given.append((references.clone(), known.clone()))
        return denoise(pipe, sampler, noise, references, known, guidance_scale, first_step)

    monkeypatch.setattr(pipeline, "reference_latents", keep_columns)
    monkeypatch.setattr(loop, "denoise", keep_known)
    row = torch.rand(17, 3, 32, 32)
    frames = embedded(
        PROMPT,
        num_views=2,
        num_frames=17,
        height=32,
        width=32,
        fixed_view=row,
        window_frames=13,
        window_overlap=overlap,
        num_inference_steps=1,
        staged=False,
        generator=torch.Generator().manual_seed(0),
    ).frames
    assert frames.shape == (2, 17, 3, 32, 32) and torch.equal(frames[0], row)
    assert len(given) == 2 and shown[0] is None
    latents, known = given[1]
    size = known.shape[1]
    first = 17 - (4 * (size - 1) + 1)  # pixel frame that the second window begins with
    assert torch.equal(shown[1], frames[:, first : first + overlap])
    count = (overlap - 1) // 4 + 1
    assert known[0].all() and known[1].tolist() == [True] * count + [False] * (size - count)
    expected = embedded.encode_views(frames[1:, first : first + overlap])[0]
    assert torch.allclose(latents[1, :, :count], expected, atol=1e-5)


@pytest.mark.slow
def test_joints_jump_no_more_than_the_frames_around_them(embedded):
    """From text alone, which is harder: with references both windows see the same row."""
    frames = embedded(
        PROMPT,
        num_views=2,
        num_frames=57,
        height=64,
        width=64,
        num_inference_steps=4,
        generator=torch.Generator().manual_seed(0),
    ).frames
    change = frames.diff(dim=1).abs().mean((0, 2, 3, 4))  # of each frame to the next, [56]
    assert change[28] <= 2 * change.mean()
    assert frames[:, 29:].std() > 0.02  # something is shown there


MEASURED = """
import resource, torch
torch.set_num_threads(1)
from fourreal.video import load_embedded_pipeline
pipe = load_embedded_pipeline()
pipe.set_progress_bar_config(disable=True)
for frames in (1, 29, 57):
    pipe("a red ball", num_views=8, num_frames=frames, height=96, width=96,
         freeze_time=torch.rand(8, 3, 96, 96), num_inference_steps=1, guidance_scale=1.0)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


@pytest.mark.slow
def test_twice_the_frames_need_the_memory_of_one_window():
    """Peak memory in MiB of a process after 8 x 1, 8 x 29 and 8 x 57 frames; made for 29."""
    answer = subprocess.run(
        [sys.executable, "-c", MEASURED], capture_output=True, text=True, check=True
    )
    start, one_window, two_windows = (float(number) for number in answer.stdout.split())
    assert two_windows <= 1.3 * one_window
    # The same of what sampling itself takes, without the program, its weights and the result, and
    # with 32 MiB for an allocator that keeps what was freed. All at once would take twice as much.
    frame = 8 * 3 * 96 * 96 * 4 / 2**20
    one_window, two_windows = one_window - start - 29 * frame, two_windows - start - 57 * frame
    assert two_windows <= 1.3 * one_window + 32
