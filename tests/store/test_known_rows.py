import hashlib

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from featx.store.known_rows import KnownRows, encode_digests

CONTENTS = [hashlib.sha256(b"%d" % number).hexdigest() for number in range(12)]
BATCHES = st.lists(st.lists(st.integers(0, 9), max_size=8), max_size=6)


@given(BATCHES, st.lists(st.integers(0, 11), max_size=20), st.booleans())
def test_rows_are_found_as_in_a_dict_that_keeps_the_first(batches, wanted, is_read_between):
    known, first = KnownRows(), {}
    for number, batch in enumerate(batches):
        matrix = np.full((len(batch) + 3, 2), number, np.float32) + np.arange(len(batch) + 3)[:, None] / 100
        sizes = np.array([[number, row] for row in range(len(batch))], np.int32).reshape(-1, 2)
        places = np.arange(len(batch))[::-1]
        known.add(encode_digests([CONTENTS[one] for one in batch]), sizes, lambda matrix=matrix: matrix, places)
        for row, one in enumerate(batch):
            first.setdefault(CONTENTS[one], (matrix[len(batch) - 1 - row].tolist(), sizes[row].tolist()))
        if is_read_between:
            assert known.contents == set(first)
    assert known.contents == set(first)
    assert len(known.contents) == len(first)
    contents = [CONTENTS[one] for one in wanted]
    assert [content in known.contents for content in contents] == [content in first for content in contents]
    lacking = [content for content in contents if content not in first]
    if lacking:
        try:
            known.select(encode_digests(contents))
        except KeyError as error:
            assert error.args == (lacking[0], len(lacking))  # noqa: PT017 - what it says is compared with a dict
            return
        raise AssertionError(lacking)
    rows, found_sizes = known.select(encode_digests(contents))
    found = [row.load()[row.index].tolist() for row in rows[:]]
    assert found == [row.load()[row.index].tolist() for row in map(rows.__getitem__, range(len(rows)))]
    assert list(zip(found, found_sizes.tolist(), strict=True)) == [first[content] for content in contents]


def test_a_snapshot_of_the_contents_does_not_change():
    known = KnownRows()
    known.add(encode_digests(CONTENTS[:2]), np.ones((2, 2), np.int32), lambda: np.zeros((2, 1)))
    before = known.contents
    known.add(encode_digests(CONTENTS[2:]), np.ones((10, 2), np.int32), lambda: np.zeros((10, 1)))
    assert (before, known.contents) == (set(CONTENTS[:2]), set(CONTENTS))
    assert before.find(encode_digests(CONTENTS[1:3])).tolist() == [sorted(CONTENTS[:2]).index(CONTENTS[1]), -1]
