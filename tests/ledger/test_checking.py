"""The audit: a rule that an entry breaks, or a table that says otherwise than the chain, is found and named."""

from collections.abc import Callable
from typing import Any

import pytest

from cadp.errors import LedgerError, LedgerRewound
from cadp.ledger import Inconsistent, Ledger
from cadp.ledger.book import Book
from cadp.ledger.booked import Sum
from cadp.ledger.canonical import digest
from cadp.ledger.chain import append
from cadp.ledger.opening import database_at
from cadp.privacy.accountant import Curve, DeltaEvent, GaussianEvent, PureEvent, curve
from cadp.store import Store
from tests.ledger.lives import Life, scripted
from tests.ledger.places import FilePlace, Place, add_population, seal_all


def forge(place: Place, kind: str, body: dict[str, Any]) -> None:
    """Append an entry behind the ledger's back: chained and, once opened, anchored, but never asked for."""
    database = database_at(place.url)
    database.write(lambda connection: append(connection, kind, body))
    database.close()


def body_of(ledger: Ledger, kind: str, which: int = 0) -> dict[str, Any]:
    body: dict[str, Any] = [entry for entry in ledger.history() if entry.kind == kind][which].value["body"]
    return body


@pytest.fixture
def lived(file_place: FilePlace) -> FilePlace:
    """A ledger with one published, one sealed, one reserved and one voided charge."""
    with file_place.open() as ledger:
        add_population(ledger)
        made = {
            key: ledger.charge(
                "people", release=key.rpartition("/")[0], key=key, event=PureEvent(0.5), parameters={"of": key}
            )
            for key in ("a/1/x", "b/1/x", "c/1/x", "d/1/x")
        }
        seal_all(ledger, made["a/1/x"], ranges=2)
        ledger.publish("a/1")
        seal_all(ledger, made["b/1/x"])
        ledger.void(made["d/1/x"].id)
        ledger.check()
    return file_place


def problems(place: Place) -> tuple[str, ...]:
    with place.open() as ledger, pytest.raises(Inconsistent) as found:
        ledger.check()
    return found.value.problems


def charge_like(ledger: Ledger, **changes: Any) -> dict[str, Any]:
    """A charge's body that would be right, with changes."""
    parameters = {"of": "new"}
    right = {
        "id": "f" * 16,
        "population": "people",
        "release": "n/1",
        "key": "n/1/x",
        "event": PureEvent(0.5).to_json(),
        "curve": curve(PureEvent(0.5)).to_json(),
        "parameters": parameters,
        "parameters_sha256": digest('{"of":"new"}'),
    }
    return {**right, **changes}


FORGERIES: list[tuple[str, str, Callable[[Ledger], dict[str, Any]], str]] = [
    ("step", "begin", lambda ledger: body_of(ledger, "finish"), "is PUBLISHED and cannot become RUNNING"),
    ("void", "void", lambda ledger: body_of(ledger, "finish", 1), "is SEALED and cannot become VOIDED"),
    (
        "publish-part",
        "publish",
        lambda ledger: {"release": "b/1", "charges": []},
        "does not close every charge of b/1",
    ),
    (
        "burn-published",
        "burn",
        lambda ledger: {**body_of(ledger, "publish"), "reason": "x"},
        "is PUBLISHED and cannot become BURNED",
    ),
    ("after-publish", "charge", lambda ledger: charge_like(ledger, release="a/1"), "release a/1 was closed before"),
    ("key-twice", "charge", lambda ledger: charge_like(ledger, key="b/1/x"), "key b/1/x .* was charged before"),
    ("id-twice", "charge", lambda ledger: charge_like(ledger, id=body_of(ledger, "charge")["id"]), "was made before"),
    (
        "cheap",
        "charge",
        lambda ledger: charge_like(ledger, curve=curve(PureEvent(0.1)).to_json()),
        "curve of charge f{16} is not that of its event",
    ),
    (
        "over",
        "charge",
        lambda ledger: charge_like(ledger, event=PureEvent(9.0).to_json(), curve=curve(PureEvent(9.0)).to_json()),
        "population people is over its limit",
    ),
    (
        "parameters",
        "charge",
        lambda ledger: charge_like(ledger, parameters={"of": "else"}),
        "parameters of charge f{16} are not those",
    ),
    ("no-population", "charge", lambda ledger: charge_like(ledger, population="nobody"), "malformed"),
    (
        "caps",
        "population",
        lambda ledger: {**body_of(ledger, "population"), "name": "rich", "source_hmac": "other", "epsilon": 80.0},
        "caps of population rich are not those of its limit",
    ),
    (
        "source-twice",
        "population",
        lambda ledger: {**body_of(ledger, "population"), "name": "again"},
        "source of population again is bound to another",
    ),
    ("second-birth", "ledger", lambda ledger: body_of(ledger, "ledger"), "and no other, makes the ledger"),
    ("kind", "gift", lambda ledger: {}, "install the newer cadp"),
    ("downgrade", "upgrade", lambda ledger: {"from": "0002", "to": "0001"}, "cannot be upgraded"),
    (
        "recover-nothing",
        "recover",
        lambda ledger: {"reentered": [2, 9999], "dropped": [], "burned": [], "lost_seals": []},
        "cannot bring back entries 2 to 9999",
    ),
    (
        "recover-spares",
        "recover",
        lambda ledger: {
            "reentered": [2, len(ledger.history())],
            "dropped": [],
            "burned": [],
            "lost_seals": [],
        },
        "burns other charges, or loses other seals",
    ),
]


@pytest.mark.parametrize(
    ("kind", "body", "words"), [forgery[1:] for forgery in FORGERIES], ids=[forgery[0] for forgery in FORGERIES]
)
def test_an_entry_that_breaks_a_rule_is_named(
    lived: FilePlace, kind: str, body: Callable[[Ledger], dict[str, Any]], words: str
) -> None:
    with lived.open() as ledger:
        number, made = len(ledger.history()) + 1, body(ledger)
    forge(lived, kind, made)
    assert any(problem.startswith(f"entry {number} ({kind}): ") for problem in problems(lived))
    with lived.open() as ledger, pytest.raises(LedgerError, match=words):
        ledger.check()


@pytest.mark.parametrize(
    ("tamper", "words"),
    [
        ("UPDATE accounts SET headroom = '99999999'", "what population people has left was changed"),
        ("UPDATE charges SET seq = 1 WHERE key = 'b/1/x'", "was changed"),
        ("UPDATE populations SET seq = 1", "population people was changed"),
        ("UPDATE charges SET curve = replace(curve, '500000', '100000')", "was changed"),
        ("UPDATE charges SET parameters = '{}'", "was changed"),
        ("UPDATE seals SET token = 9", "under a token that nobody had"),
        ("DELETE FROM seals WHERE range_id = 1", "finished with 2 ranges, 1 have a seal"),
        ("DELETE FROM accounts", "the account of population people is missing"),
        ("UPDATE charges SET state = 'BURNED' WHERE key = 'b/1/x'", "is BURNED, the chain says SEALED"),
        ("UPDATE charges SET state = 'RUNNING' WHERE key = 'd/1/x'", "is RUNNING, the chain says VOIDED"),
    ],
    ids=["headroom", "seq", "population", "curve", "parameters", "token", "seal", "account", "burned", "voided"],
)
def test_a_changed_table_is_found(lived: FilePlace, tamper: str, words: str) -> None:
    lived.execute(tamper)
    assert any(words in problem for problem in problems(lived)), problems(lived)


def test_an_anchor_beyond_the_end_and_one_in_the_middle_are_found(lived: FilePlace) -> None:
    files = lived.anchor_files()
    with lived.open() as ledger:
        beyond = files[-1].with_name(f"{len(files) + 3:08d}.json")
        beyond.write_bytes(files[-1].read_bytes())
        with pytest.raises(LedgerRewound, match=f"1 anchors beyond entry {len(files)}, the first {beyond.name}"):
            ledger.check()
        beyond.unlink()
        ledger.check()
        files[3].write_bytes(files[3].read_bytes() + b" ")
        with pytest.raises(LedgerRewound, match="anchor of entry 4 .* another entry's"):
            ledger.check()


def test_no_snapshot_is_open_while_the_anchors_are_fetched(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server ends a transaction that idles, and reading many anchors takes long."""
    get = Store.get
    with place.open() as ledger:
        pool, states = ledger._database.engine.pool, list[int]()

        def watched(store: Store, key: str) -> bytes:
            states.append(pool.checkedout())  # type: ignore[attr-defined]
            return get(store, key)

        monkeypatch.setattr(Store, "get", watched)
        ledger.check()
    assert states
    assert set(states) == {0}


def test_every_step_of_a_life_passes_while_another_process_has_it_open(place: Place) -> None:
    life = Life(place)
    with place.open() as other:
        for step in scripted(life):
            with place.open() as ledger:
                step(ledger)
            other.check()


def test_a_sum_gives_back_exactly_what_is_taken_out() -> None:
    curves = [curve(event) for event in (PureEvent(0.7), GaussianEvent(0.3), GaussianEvent(0.6), DeltaEvent(1e-9))]
    total = Sum()
    for cost in curves:
        total.add(cost)
    assert total.curve == sum(curves, Curve.zero())
    for place in (1, 2):
        total.add(curves[place], -1)
    assert total.curve == curves[0] + curves[3]


def test_the_book_of_a_sound_chain_has_no_problems(lived: FilePlace) -> None:
    with lived.open() as ledger:
        book = Book(ledger.history())
        assert book.problems == []
        assert {i: charge.state for i, charge in book.charges.items()} == {c.id: c.state for c in ledger.charges()}
        assert book.populations["people"].total.curve.epsilon(1e-6) == ledger.budget("people").charged
