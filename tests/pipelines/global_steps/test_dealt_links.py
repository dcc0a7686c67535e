"""Links reach the part of their group, whole and once."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pipelines.execution.executors import map_here
from pipelines.global_steps.connected_components import join_by_parts, link_schema
from pipelines.global_steps.dealt_links import deal_links
from pipelines.global_steps.merged_files import Merger
from pipelines.storage.local import LocalStore
from pipelines.storage.part_files import read_parts, write_by


def test_every_link_is_in_one_part_with_its_whole_group(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    rng = np.random.default_rng(6)
    group = rng.integers(0, 40, 300)
    files, links = [], set()
    for number in range(3):
        members = [rng.permutation(np.flatnonzero(group == value)) for value in range(40)]
        pairs = [(int(own[0]), int(own[1])) for own in members if len(own) > 1]
        pairs += [(int(own[1]), int(own[2])) for own in members if len(own) > 2]
        links |= set(pairs)
        row, other = np.array(pairs, np.int64).T
        rank = np.zeros(len(row), np.uint8)
        columns = [row, rank, other, rank]
        name = f"links-{number}.parts"
        write_by(store, name, link_schema("uint8"), row % 5, columns)
        files.append(name)
    merge = Merger(store, 0, "s", map_here)
    given = {"state": "s", "step": 0, "rank": "uint8", "merge": merge}
    parts, stars = join_by_parts(store, files=files, num_partitions=4, **given)
    dealt = deal_links(store, links=files, stars=stars, num_partitions=4, **given)
    seen, part_of = [], {}
    for part in parts:
        row, _, other, _ = read_parts(store, dealt, part, link_schema("uint8"))
        seen += list(zip(row.tolist(), other.tolist(), strict=True))
        _, _, members, _ = read_parts(store, stars, part, link_schema("uint8"))
        for number in {*row.tolist(), *other.tolist()}:
            assert part_of.setdefault(number, part) == part
        assert set(members.tolist()) <= {*row.tolist(), *other.tolist()}
    assert set(seen) == links
