"""Buffers are used again, and never more than there may be."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from bucketry.transfer.buffers import LEAST, Buffers


def test_a_buffer_that_was_given_is_taken_again() -> None:
    buffers = Buffers(4 * LEAST)
    first = buffers.take(LEAST)
    buffers.give(first)

    assert buffers.take(LEAST) is first
    assert buffers.take(LEAST) is not first


def test_small_ones_and_too_many_are_not_kept() -> None:
    buffers = Buffers(LEAST)
    small, one, two = buffers.take(10), buffers.take(LEAST), buffers.take(LEAST)
    for buffer in (small, one, two):
        buffers.give(buffer)

    assert buffers.take(10) is not small
    assert buffers.take(LEAST) is not two


@given(st.lists(st.tuples(st.sampled_from([LEAST, LEAST + 1, 2 * LEAST]), st.booleans()), max_size=12))
def test_buffers_have_the_size_that_was_asked_for(steps: list[tuple[int, bool]]) -> None:
    buffers = Buffers(3 * LEAST)

    for size, give in steps:
        taken = buffers.take(size)
        assert len(taken) == size
        if give:
            buffers.give(taken)
