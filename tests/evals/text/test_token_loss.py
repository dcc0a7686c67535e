from __future__ import annotations

import gzip
import hashlib
import io
import tarfile

import numpy as np
import orjson
import pytest

from evals.kinds import checksum_of, kind_of, read_data
from evals.metrics import score_of
from evals.models import TokenScores
from evals.text.token_loss import mask_sequence
from pipelines.errors import DataError
from tests.evals.helpers import FakeModel, make_task


def test_nothing_up_to_the_last_mark_is_scored_and_the_marks_are_taken_out():
    fed, scored = mask_sequence([10, 36, 45, 39, 45, 21, 18, 46], mask_left=45, mask_single=46)
    assert fed.tolist() == [10, 36, 39, 21, 18, 46]
    assert scored.tolist() == [False, False, False, True, True, False]


def test_without_marks_all_but_the_first_are_scored():
    fed, scored = mask_sequence([5, 6, 7], mask_left=45, mask_single=46)
    assert fed.tolist() == [5, 6, 7]
    assert scored.tolist() == [False, True, True]


@pytest.mark.parity
def test_masks_equal_the_recorded_ones(fixtures):
    recorded = orjson.loads((fixtures / "dclm-eval/openlm/mask_sequence.json").read_bytes())
    for case in recorded:
        for chunk, inputs, targets in zip(
            case["chunk"], case["inputs"], case["targets"], strict=True
        ):
            fed, scored = mask_sequence(
                chunk,
                mask_left=case["target_mask_left"],
                mask_single=case["target_mask_individual"],
                take_out=case["squash_mask_left"],
            )
            ours = {(i, *fed[: i + 1].tolist()) for i in np.flatnonzero(scored)}
            theirs = {
                (i + 1, *inputs[: i + 1], target)
                for i, target in enumerate(targets)
                if target != -100
            }
            assert ours == theirs


def shard(*sequences):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for number, ids in enumerate(sequences):
            packed = gzip.compress(orjson.dumps(ids), mtime=0)
            member = tarfile.TarInfo(f"s_{number:08}.json.gz")
            member.size = len(packed)
            archive.addfile(member, io.BytesIO(packed))
    return file.getvalue()


class Costly(FakeModel):
    """A token costs as many nats as its id says."""

    def score(self, queries):
        self.asked = [(q.context.tolist(), q.continuations[0].tolist()) for q in queries]
        return [[TokenScores(a.astype(np.float32), a) for a in q.continuations] for q in queries]


TASK = make_task(kind="token_loss", file="v/{08..10}.tar", mask_left=45, mask_single=46)


def write(tmp_path, *shards):
    (tmp_path / "v").mkdir()
    for number, data in enumerate(shards):
        (tmp_path / f"v/{8 + number:02}.tar").write_bytes(data)


def test_the_score_is_the_mean_over_scored_tokens_of_all_shards(tmp_path):
    write(tmp_path, shard([1, 2, 3]), shard([9, 45, 4, 46, 46]), shard([1, 45, 46], [7, 46, 5]))
    data, model = read_data(TASK, tmp_path), Costly()
    log = kind_of(TASK).answer(TASK, data, range(4), model, window=8)
    assert model.asked == [([1], [2, 3]), ([9], [4]), ([7, 46], [5])]
    assert log["num_tokens"].to_pylist() == [2, 1, 0, 1]
    assert score_of(kind_of(TASK).tally(TASK, log)) == pytest.approx((2 + 3 + 4 + 5) / 4)


def test_all_shards_together_are_verified(tmp_path):
    shards = [shard([1, number]) for number in range(3)]
    write(tmp_path, *shards)
    checksum = read_data(TASK, tmp_path).sha256
    assert checksum == checksum_of([hashlib.sha256(data).hexdigest() for data in shards])
    assert read_data(TASK.model_copy(update={"sha256": checksum}), tmp_path).verified


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (shard([1, 2], [1, -2]), r"08\.tar, row 1: the sequence should be a list of ids"),
        (shard([1]), r"row 0: the sequence has 1 ids"),
        (shard([1, 2], [3, 4])[:700], r"row 0: the archive is damaged here|row 1: the archive"),
        (shard(), "holds no rows"),
    ],
)
def test_a_broken_shard_is_named(tmp_path, data, message):
    write(tmp_path, data, shard([1, 2]), shard([1, 2]))
    with pytest.raises(DataError, match=message):
        read_data(TASK, tmp_path)


def test_ids_of_another_tokenizer_and_long_sequences_are_refused(tmp_path):
    write(tmp_path, shard([1, 2000]), shard([1, 2]), shard(list(range(1, 40))))
    data = read_data(TASK, tmp_path)
    kind = kind_of(TASK)
    with pytest.raises(DataError, match="row 0: id 2000 is not in the model's vocabulary of 1000"):
        kind.answer(TASK, data, [0], Costly(), window=8)
    with pytest.raises(DataError, match="row 2: 39 ids do not fit in a window of 8"):
        kind.answer(TASK, data, [2], Costly(), window=8)


def test_a_missing_shard_is_named(tmp_path):
    write(tmp_path, shard([1, 2]))
    with pytest.raises(DataError, match=r"there is no file .*09\.tar"):
        read_data(TASK, tmp_path)
