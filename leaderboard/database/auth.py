"""Who may do what: tokens that are shown once, stored hashed, scoped, revocable, rate-limited.

A token has 256 random bits, so its sha256 is as safe to store as a slow hash would be. Scopes:
`submit` (for one team: send, see and withdraw its submissions), `review` (see everything, accept
and refuse), `admin` (what `review` may, and make and revoke tokens).
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from threading import Lock

from sqlalchemy import Connection, delete, insert, select, update

from leaderboard.database import tables as t
from leaderboard.database.connection import StoreError
from leaderboard.database.store import Store
from leaderboard.submissions.names import looks_like, mixed_alphabets, name_fault
from pipelines.records import Frozen

SCOPES = ("submit", "review", "admin")
PREFIX = "lb"
SESSION_SECONDS = 12 * 3600.0  # a working day
USED_SECONDS = 300.0  # how exactly the last use of a token is known


class Token(Frozen):
    """A token without its secret."""

    id: str
    name: str
    team: str
    scopes: tuple[str, ...]
    created: float
    expires: float | None
    revoked: bool
    used: float | None = None

    def may(self, scope: str) -> bool:
        """Whether this token may do what `scope` names; `admin` may review."""
        return scope in self.scopes or (scope == "review" and "admin" in self.scopes)

    @property
    def shown(self) -> str:
        """As the audit names it."""
        return f"{self.name} (token {self.id})"


def create_token(
    store: Store,
    name: str,
    *,
    scopes: Sequence[str],
    team: str = "",
    days: float | None = 365.0,
) -> tuple[Token, str]:
    """Make a token; returns it and its secret, which is shown this once and stored nowhere."""
    unknown = sorted(set(scopes) - set(SCOPES))
    if unknown or not scopes:
        raise StoreError(f"unknown scopes {unknown}; choose of {', '.join(SCOPES)}")
    if "submit" in scopes and not team.strip():
        raise StoreError("a token that may submit belongs to a team; name it with --team")
    for what, text in (("name", name), ("team", team)):
        if len(text) > 120 or any(ord(letter) < 32 for letter in text):
            raise StoreError(f"the {what} of a token has at most 120 characters, all printable")
    if "submit" in scopes:
        _check_team(store, team)
    now = time.time()
    id_ = secrets.token_hex(6)
    secret = f"{PREFIX}_{id_}_{secrets.token_urlsafe(32)}"
    expires = None if days is None else now + days * 86400
    with store.writer.begin() as connection:
        connection.execute(
            insert(t.Token).values(
                id=id_,
                hash=_hash(secret),
                name=name,
                team=team,
                scopes=" ".join(scopes),
                created=now,
                expires=expires,
                revoked=False,
                used=None,
            )
        )
        _audit(connection, id_, "token created", name)
    token = Token(
        id=id_,
        name=name,
        team=team,
        scopes=tuple(scopes),
        created=now,
        expires=expires,
        revoked=False,
    )
    return token, secret


def _check_team(store: Store, team: str) -> None:
    """StoreError for a team whose name no submission could have: it would be found out later."""
    problem = name_fault(team) or mixed_alphabets(team)
    if problem:
        raise StoreError(f"the team {team!r} has a name that submissions may not have: {problem}")
    twin = looks_like(team, iter(store.teams()))
    if twin is not None:
        raise StoreError(
            f"the team {team!r} looks like {twin!r}, which is there already; choose another name, "
            f"or name that team with --team {twin!r}"
        )


def find_token(store: Store, secret: str) -> Token | None:
    """The token of this secret, if it is known, not revoked and not expired."""
    parts = secret.split("_", 2)
    if len(parts) != 3 or parts[0] != PREFIX or len(secret) > 200:
        return None
    if not (secret.isascii() and secret.isprintable()):
        return None
    with store.engine.connect() as connection:
        query = select(t.Token).where(t.Token.id == parts[1][:16])
        line = connection.execute(query).mappings().one_or_none()
    if line is None or not hmac.compare_digest(line["hash"], _hash(secret)):
        return None
    token = _alive(_token(line))
    now = time.time()
    if token is not None and (token.used is None or token.used < now - USED_SECONDS):
        with store.writer.begin() as connection:
            mine = t.Token.id == token.id
            connection.execute(update(t.Token).where(mine).values(used=now))
    return token


def list_tokens(store: Store) -> list[Token]:
    """All tokens, the newest first."""
    query = select(t.Token).order_by(t.Token.created.desc())
    with store.engine.connect() as connection:
        return [_token(line) for line in connection.execute(query).mappings()]


def revoke_token(store: Store, id: str) -> None:
    """Make a token worthless, with everybody who is logged in by it. StoreError if unknown."""
    with store.writer.begin() as connection:
        changed = connection.execute(update(t.Token).where(t.Token.id == id).values(revoked=True))
        if changed.rowcount != 1:
            raise StoreError(f"there is no token {id}; see `leaderboard token list`")
        _audit(connection, id, "token revoked", "")
        connection.execute(delete(t.Session).where(t.Session.token == id))


# ---- sessions of the page


def open_session(store: Store, token: Token) -> str:
    """Log in: a new secret for a cookie."""
    secret = secrets.token_urlsafe(32)
    now = time.time()
    with store.writer.begin() as connection:
        connection.execute(delete(t.Session).where(t.Session.expires < now))
        connection.execute(
            insert(t.Session).values(
                hash=_hash(secret), token=token.id, expires=now + SESSION_SECONDS
            )
        )
    return secret


def find_session(store: Store, secret: str) -> Token | None:
    """Who is logged in by this cookie."""
    query = (
        select(t.Token)
        .join(t.Session, t.Session.token == t.Token.id)
        .where(t.Session.hash == _hash(secret), t.Session.expires > time.time())
    )
    with store.engine.connect() as connection:
        line = connection.execute(query).mappings().one_or_none()
    return None if line is None else _alive(_token(line))


def close_session(store: Store, secret: str) -> None:
    with store.writer.begin() as connection:
        connection.execute(delete(t.Session).where(t.Session.hash == _hash(secret)))


def form_key(session: str) -> str:
    """What a form of the page must carry, so that no other site can send it."""
    return _hash(f"form {session}")


def _audit(connection: Connection, id: str, after: str, why: str) -> None:
    line = {"submission": "", "at": time.time(), "who": f"token {id}", "before": "", "why": why}
    connection.execute(insert(t.AuditLine).values(after=after, **line))


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _token(line: object) -> Token:
    values = {name: line[name] for name in Token.model_fields}  # type: ignore[index]
    return Token(**(values | {"scopes": tuple(values["scopes"].split())}))


def _alive(token: Token) -> Token | None:
    expired = token.expires is not None and token.expires < time.time()
    return None if token.revoked or expired else token


# ---- rates


@dataclass
class Rate:
    """At most `number` in `seconds`, for each key; kept in this process."""

    number: int
    seconds: float
    most_keys: int = 50_000
    _left: OrderedDict[str, tuple[float, float]] = field(default_factory=OrderedDict)
    _lock: Lock = field(default_factory=Lock)

    def wait(self, key: str) -> float:
        """Take one. 0 when it may be done now, else the seconds until it may."""
        now = time.monotonic()
        with self._lock:
            left, when = self._left.pop(key, (float(self.number), now))
            left = min(float(self.number), left + (now - when) * self.number / self.seconds)
            allowed = left >= 1
            self._left[key] = (left - 1 if allowed else left, now)
            if len(self._left) > self.most_keys:
                self._left.popitem(last=False)
        return 0.0 if allowed else (1 - left) * self.seconds / self.number
