"""What a submission says of the machine that it was made on: nothing."""

from __future__ import annotations

from pathlib import Path

from leaderboard.submissions.bundle import open_bundle
from leaderboard.submissions.sharing import shareable
from pipelines.records import Submission, parse_record
from tests.leaderboard.made_up import make_folder


def test_host_kernel_and_paths_are_taken_out_and_the_id_stays(tmp_path: Path) -> None:
    record = open_bundle(make_folder(tmp_path)).record
    private = record.made_by.model_copy(
        update={
            "host": "laptop-of-ada",
            "platform": "Linux-6.1.0-13-amd64-x86_64-with-glibc2.36",
            "locations": {"out": "/home/ada/runs", "pool": "s3://bucket/pool", "rel": "runs/x"},
        }
    )
    chain = tuple(record.model_copy(update={"made_by": private}) for record in record.chain)
    shared = shareable(record.model_copy(update={"made_by": private, "chain": chain}))
    text = shared.to_json()
    for secret in (b"laptop", b"6.1.0", b"/home", b"runs/x"):
        assert secret not in text, secret
    assert b"s3://bucket/pool" in text
    again = parse_record(text, source="x")  # keys and ids are those of the record
    assert isinstance(again, Submission)
    assert (again.id, [record.id for record in again.chain]) == (
        record.id,
        [record.id for record in record.chain],
    )
