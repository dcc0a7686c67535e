"""Evidence of an earlier form, or none, is written again by a check process without work."""

from pathlib import Path

from leaderboard.database.auth import create_token
from leaderboard.database.store import Store
from leaderboard.service.checker import check_forever
from leaderboard.service.evidence import FORM, folder_of, read_evidence
from leaderboard.service.renew import DONE, renew
from leaderboard.service.service import Service
from pipelines.storage.base import write_bytes
from pipelines.storage.open import open_store
from tests.leaderboard.made_up import make_zip


def test_old_and_missing_evidence_is_written_again_and_then_never_looked_at(tmp_path: Path):
    database, files = f"sqlite:///{tmp_path / 'board.db'}", tmp_path / "files"
    store = Store(database)
    service = Service(store, open_store(files))
    token, _ = create_token(store, "t", scopes=["submit"], team="a team")
    ids = []
    for chance in (1, 2):
        submission, _ = service.receive(make_zip(tmp_path, chance=chance), token)
        service.check_next("check")
        ids.append(submission.id)
    old, missing = (store.get(id_) for id_ in ids)
    name = f"{folder_of(old)}evidence.json"
    content = service.files.read_bytes(name)
    write_bytes(service.files, name, content.replace(f'"form":{FORM}'.encode(), b'"form":1'))
    service.files.remove(f"{folder_of(missing)}evidence.json")
    fresh = Service(store, open_store(f"{files}/../files"))  # under a name that nothing is kept of
    rounds = iter(range(20))
    check_forever(database, fresh.files.uri, pause=0, until=lambda: next(rounds, None) is None)
    again = Service(store, open_store(f"{files}/./"))
    for id_ in ids:
        evidence = read_evidence(again.files, store.get(id_))
        assert evidence is not None
        assert evidence.form == FORM
    assert again.files.exists(DONE)
    assert list(renew(again)) == []
    store.close()
