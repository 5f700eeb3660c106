import hashlib

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from featx.items.manifest import FileStat, Item
from featx.items.reading import Examined, Stamp
from featx.outcomes import LAST_NS, Outcomes, Stamps
from featx.store.known_rows import Contents, encode_digests

CONTENTS = sorted(hashlib.sha256(b"%d" % number).hexdigest() for number in range(4))

STAMPS = st.one_of(
    st.none(), st.builds(Stamp, st.sampled_from(CONTENTS), st.builds(FileStat, st.integers(0, 9), st.integers(0, 9)))
)


def make_stamps(stamps, held=CONTENTS):
    made = Stamps(Contents(encode_digests(held)), len(stamps))
    places = [place for place, stamp in enumerate(stamps) if stamp]
    there = [stamps[place] for place in places]
    made.add(
        np.array([*places, -1]),  # the last one is not in the manifest
        encode_digests([*(stamp.sha256 for stamp in there), CONTENTS[0]]),
        np.array([*(stamp.stat.size_bytes for stamp in there), 1]),
        np.array([*(stamp.stat.mtime_ns for stamp in there), 1]),
    )
    return made


@given(st.lists(st.tuples(STAMPS, STAMPS)))
def test_stamps_come_back_by_place_and_intersect(pairs):
    first, second = ([pair[at] for pair in pairs] for at in range(2))
    assert list(make_stamps(first)) == [make_stamps(first)[place] for place in range(len(first))] == first
    assert make_stamps(first).are_there.tolist() == [stamp is not None for stamp in first]
    common = make_stamps(first).intersect([make_stamps(second), make_stamps(first)])
    assert list(common) == [one if one == other else None for one, other in pairs]
    assert list(make_stamps(first).intersect([])) == first


def test_a_stamp_of_a_content_without_a_row_is_left_out():
    stamps = [Stamp(content, FileStat(1, 2)) for content in CONTENTS]
    assert list(make_stamps(stamps, held=CONTENTS[1:3])) == [None, *stamps[1:3], None]


EXAMINED = st.builds(
    lambda stamp, reason, is_momentary: Examined(
        Item(""), stamp, reason="" if stamp else reason, is_momentary=not stamp and is_momentary
    ),
    STAMPS,
    st.sampled_from(["is not an image", "Permission denied"]),
    st.booleans(),
)


@given(st.lists(EXAMINED), st.randoms(use_true_random=False))
def test_outcomes_come_back_by_place_in_whatever_order_they_were_noted(all_examined, random):
    outcomes, places = Outcomes([Item("")] * len(all_examined)), list(range(len(all_examined)))
    random.shuffle(places)
    for count, place in enumerate(places):
        assert outcomes.count_open() == len(all_examined) - count
        outcomes.note(place, all_examined[place])
    assert [outcomes[place] for place in range(len(all_examined))] == all_examined
    contents = [examined.stamp.sha256 if examined.stamp else "" for examined in all_examined]
    assert outcomes.list_copies() == [
        place for place, content in enumerate(contents) if content and contents.count(content) > 1
    ]
    wanted = dict.fromkeys(CONTENTS[:2], "")
    assert outcomes.find(wanted) == [place for place, content in enumerate(contents) if content in wanted]
    assert outcomes.list_momentary() == [place for place, one in enumerate(all_examined) if one.is_momentary]


def test_times_beyond_those_of_a_store_are_cut():
    outcomes = Outcomes([Item("")])
    outcomes.note(0, Examined(Item(""), Stamp(CONTENTS[0], FileStat(1, LAST_NS + 5))))
    assert outcomes.stats.tolist() == [[1, LAST_NS]]
