"""The origins log: exact round trip; a torn end loses the torn record and nothing else."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from goexfsd.layer import origins
from goexfsd.layer.ledger import Ledger
from goexfsd.layer.origins import Identity, Kind, Record

U32 = st.integers(0, 2**32 - 1)
U64 = st.integers(0, 2**64 - 1)
I64 = st.integers(-(2**63), 2**63 - 1)
IDENTITIES = st.builds(Identity, U64, U64, U32, U32, U32, U32, U64, U64, I64, I64)
RECORDS = st.builds(
    Record, st.sampled_from(Kind), st.integers(0, 65535), U32, U64, st.binary(), IDENTITIES
)


@given(st.lists(RECORDS, max_size=8))
def test_round_trip(records: list[Record]) -> None:
    data = b"".join(map(origins.encode, records))
    assert list(origins.decode(data)) == records


@given(st.lists(RECORDS, min_size=1, max_size=4), st.data())
def test_a_torn_end_loses_only_the_last_record(records: list[Record], data: st.DataObject) -> None:
    *whole, last = map(origins.encode, records)
    cut = data.draw(st.integers(0, len(last) - 1))
    torn = b"".join(whole) + last[:cut]
    assert list(origins.decode(torn)) == records[:-1]


@given(RECORDS, st.data())
def test_a_flipped_bit_is_noticed(record: Record, data: st.DataObject) -> None:
    encoded = bytearray(origins.encode(record))
    at = data.draw(st.integers(0, len(encoded) * 8 - 1))
    encoded[at // 8] ^= 1 << (at % 8)
    assert list(origins.decode(bytes(encoded))) == []


def test_load_says_how_much_was_good(tmp_path: Path) -> None:
    record = Record(Kind.HIDE, 0, 1, 0, b"a/b", origins.NOTHING)
    good = origins.encode(record) * 2
    (tmp_path / "origins").write_bytes(good + b"gxo1torn")
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        assert origins.load(fd, b"origins") == ([record, record], len(good))
        assert origins.load(fd, b"none") == ([], 0)
    finally:
        os.close(fd)


def test_the_ledger_forgets_what_is_no_more() -> None:
    ledger = Ledger([1], [])
    for kind in (Kind.TIMES, Kind.MODE, Kind.OWNER):
        ledger.add(Record(kind, 0, 1, 7, b"", replace(origins.NOTHING, mode=0o600)))
    assert ledger.speaks_of(7)
    ledger.forget(7)
    ledger.forget(7)
    assert not ledger.speaks_of(7)
