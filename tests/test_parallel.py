"""Several items at a time on a CPU, one after the other on a GPU."""

import threading
import time

import pytest
import torch

from fourreal.parallel import on_each

CPU = torch.device("cpu")


@pytest.fixture
def cores(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    assert torch.get_num_threads() == request.param  # as the caller had it
    torch.set_num_threads(before)


@pytest.mark.parametrize("cores", [1, 3], indirect=True)
def test_results_are_in_order_and_made_at_a_time_where_there_are_cores(cores):
    together = threading.Barrier(cores, timeout=20)
    told = []

    def square(item):
        if item < cores:
            together.wait()  # passes where so many items are worked on at once
        time.sleep(0.02 * (item % 3))
        return item**2, torch.get_num_threads()

    found = on_each(square, range(9), CPU, told.append)
    assert found == [(item**2, 1) for item in range(9)]
    assert told == list(range(1, 10))


@pytest.mark.parametrize("cores", [2], indirect=True)
def test_a_gpu_takes_one_after_the_other_in_the_callers_thread(cores):
    found = on_each(lambda item: threading.current_thread(), range(3), torch.device("cuda"))
    assert found == [threading.current_thread()] * 3
    assert on_each(lambda item: item, [], CPU) == []


@pytest.mark.parametrize("cores", [2], indirect=True)
@pytest.mark.parametrize("mode", [torch.no_grad, torch.enable_grad, torch.inference_mode])
def test_modes_are_the_callers(cores, mode):
    with mode():
        expected = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
        found = on_each(
            lambda item: (torch.is_grad_enabled(), torch.is_inference_mode_enabled()), "ab", CPU
        )
    assert found == [expected] * 2


@pytest.mark.parametrize("cores", [1, 2], indirect=True)
@pytest.mark.parametrize("who", ["function", "tell"])
def test_what_is_raised_comes_up_and_ends_the_work(cores, who):
    begun = []

    def fail(item):
        begun.append(item)
        if who == "function" and item == 1:
            raise ValueError("stop")
        return item

    def tell(done):
        if who == "tell" and done == 2:
            raise ValueError("stop")

    with pytest.raises(ValueError, match="stop"):
        on_each(fail, range(100), CPU, tell)
    assert len(begun) <= 2 + 2 * cores
