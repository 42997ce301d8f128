"""Which request gets which slot."""

import numpy as np
import pytest

from p2pnode.engine.api import EngineBusy
from p2pnode.engine.slots import Admission, Job, SlotTable


def job(number: int, tokens: list[int], priority: int = 0) -> Job:
    return Job(number, np.array(tokens, dtype=np.int32), len(tokens) - 1, priority)


def admit(table: SlotTable) -> list[Admission]:
    admissions = []
    for admission in table.admit():
        assert admission.slot.job is not None
        admissions.append(admission)
    return admissions


def finish(table: SlotTable, admission: Admission) -> None:
    slot = admission.slot
    assert slot.job is not None
    slot.extend(slot.job.feed[slot.length :])
    table.release(slot)


def test_larger_priority_first_then_first_come_first_served() -> None:
    table = SlotTable(1, 64, queue_max=8)
    for number, priority in ((1, 0), (2, 0), (3, 5)):
        table.submit(job(number, [1, number], priority))
    order = []
    while not table.idle:
        for admission in table.admit():
            order.append(admission.slot.job.number if admission.slot.job else 0)
            finish(table, admission)
    assert order == [3, 1, 2]


def test_the_queue_is_bounded_and_says_so() -> None:
    table = SlotTable(2, 64, queue_max=1)
    for number in (1, 2, 3):
        table.submit(job(number, [1]))
    admit(table)
    with pytest.raises(EngineBusy, match="2 slots work and 1 requests wait"):
        table.submit(job(4, [1]))
    assert table.cancel(3)
    table.submit(job(4, [1]))


def test_a_prompt_takes_over_the_slot_that_knows_its_beginning() -> None:
    table = SlotTable(3, 64, queue_max=8)
    for number, tokens in ((1, [1, 2, 3, 4]), (2, [7, 8, 9])):
        table.submit(job(number, tokens))
    for admission in admit(table):
        finish(table, admission)
    table.submit(job(3, [7, 8, 9, 10]))
    (admission,) = admit(table)
    assert (admission.slot.index, admission.cached, admission.source) == (1, 3, None)


def test_a_known_prompt_still_computes_its_last_token() -> None:
    table = SlotTable(1, 64, queue_max=8)
    table.submit(job(1, [1, 2, 3]))
    finish(table, admit(table)[0])
    table.submit(job(2, [1, 2, 3]))
    assert admit(table)[0].cached == 2


def test_a_long_prefix_is_copied_from_a_busy_slot() -> None:
    table = SlotTable(2, 512, queue_max=8)
    shared = list(range(100))
    table.submit(job(1, [*shared, 5]))
    (first,) = admit(table)
    first.slot.extend(first.slot.job.feed if first.slot.job else np.zeros(0, dtype=np.int32))
    table.submit(job(2, [*shared, 6]))
    (second,) = admit(table)
    assert (second.slot.index, second.cached, second.source) == (1, 100, first.slot)
    assert list(second.slot.cells[:100]) == shared


def test_a_short_common_beginning_does_not_cost_another_conversation_its_cache() -> None:
    table = SlotTable(2, 512, queue_max=8)
    table.submit(job(1, [1, *range(100, 200)]))
    finish(table, admit(table)[0])
    table.submit(job(2, [1, 2, 3]))
    (admission,) = admit(table)
    assert admission.slot.index == 1
    assert admission.cached == 0


def test_runs_of_consecutive_slots_with_small_gaps_padded() -> None:
    table = SlotTable(8, 64, queue_max=8)
    for number in range(8):
        table.submit(job(number + 1, [number + 1, 1]))
    for admission in admit(table):
        admission.slot.extend(np.array([1, 1], dtype=np.int32))

    def runs() -> list[list[int]]:
        return [[slot.index for slot in run] for run in table.generating_runs()]

    assert runs() == [list(range(8))]
    table.release(table.slots[2])
    assert runs() == [list(range(8))]
    table.release(table.slots[1])
    assert runs() == [[0], [3, 4, 5, 6, 7]]
    table.release(table.slots[5])
    table.release(table.slots[6])
    assert runs() == [[0], [3, 4], [7]]


def test_cancelling_frees_a_slot_at_once() -> None:
    table = SlotTable(1, 64, queue_max=8)
    table.submit(job(1, [1]))
    admit(table)
    assert table.busy == 1
    assert table.cancel(1)
    assert not table.cancel(1)
    assert table.idle
