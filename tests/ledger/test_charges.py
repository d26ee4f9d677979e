"""One charge a key, refused exactly at the limit, in words that help."""

from collections.abc import Callable

import pytest
from sqlalchemy import Connection

from cadp.errors import BudgetExceeded, LedgerError, PrivacyError
from cadp.ledger import Charge, Ledger, Population, Share, State
from cadp.ledger.accounts import replace_total
from cadp.ledger.budget import held_by
from cadp.ledger.charges import counted
from cadp.privacy.accountant import ComposedEvent, DeltaEvent, GaussianEvent, PureEvent, cap, curve
from tests.ledger.places import Place, add_population, seal_all

Pay = Callable[..., Charge]


def test_the_same_request_is_the_same_charge(ledger: Ledger, pay: Pay) -> None:
    first = pay("train", part="model", sizes=(1, 2))
    assert first.state is State.RESERVED
    assert pay("train", part="model", sizes=(1, 2)) == first
    assert ledger.charges() == [first]
    assert ledger.budget("people").charged == 0.5


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"part": "other"}, "other parameters"),
        ({"event": PureEvent(0.25)}, "another event"),
        ({"release": "r/2"}, "release r/1, not r/2"),
    ],
)
def test_a_key_is_never_charged_for_something_else(
    ledger: Ledger, pay: Pay, change: dict[str, object], word: str
) -> None:
    pay("train", part="model")
    with pytest.raises(LedgerError, match=word):
        pay("train", **{"part": "model"} | change)
    assert len(ledger.charges()) == 1


def test_a_pure_limit_is_reached_exactly_and_never_passed(ledger: Ledger) -> None:
    add_population(ledger, "exact", epsilon=1.0, delta=1e-9)
    for i in range(4):
        ledger.charge("exact", release="r", key=str(i), event=PureEvent(0.25), parameters={})
    assert ledger.budget("exact").left == 0
    with pytest.raises(BudgetExceeded):
        ledger.charge("exact", release="r", key="more", event=PureEvent(1e-6), parameters={})
    assert ledger.budget("exact").charged == 1.0
    # Nothing costs nothing, even then.
    ledger.charge("exact", release="r", key="free", event=PureEvent(0.0), parameters={})
    ledger.check()


def test_gaussians_fit_to_the_last_micro_nat_of_one_order(ledger: Ledger, population: Population) -> None:
    event, total, count = GaussianEvent(0.2), curve(PureEvent(0.0)), 0
    caps = cap(population.epsilon, population.delta)
    while any(m is not None and m <= c for m, c in zip((total + curve(event)).micro, caps, strict=True)):
        total, count = total + curve(event), count + 1
    for i in range(count):
        ledger.charge("people", release="r", key=str(i), event=event, parameters={})
    with pytest.raises(BudgetExceeded):
        ledger.charge("people", release="r", key="more", event=event, parameters={})
    assert count > 30
    assert ledger.budget("people").charged == total.epsilon(population.delta) <= population.epsilon


def test_additive_delta_has_its_own_column_and_its_own_cap(ledger: Ledger, population: Population) -> None:
    half = DeltaEvent(population.delta / 20)
    ledger.charge("people", release="r", key="1", event=half, parameters={})
    ledger.charge("people", release="r", key="2", event=half, parameters={})
    with pytest.raises(BudgetExceeded, match=r"asked additive δ 1e-18, left 0 of 1e-07 .*, 1e-18 too much"):
        ledger.charge("people", release="r", key="3", event=DeltaEvent(1e-18), parameters={})
    budget = ledger.budget("people")
    assert (budget.spent_additive_delta, budget.additive_delta_cap, budget.additive_delta_left) == (1e-7, 1e-7, 0)


def test_a_refusal_for_additive_delta_has_that_columns_figures(ledger: Ledger, pay: Pay) -> None:
    pay("a", event=PureEvent(1.0))
    pay("r/2/b", release="r/2", event=DeltaEvent(9e-8))
    with pytest.raises(BudgetExceeded) as refusal:
        pay("c", release="r/3", event=DeltaEvent(2e-6))
    text = str(refusal.value)
    assert "asked additive δ 2e-06, left 1e-08 of 1e-07" in text
    assert "1.99e-06 too much" in text
    assert "spent additive δ 9e-08; held by (additive δ of each alone): r/2 9e-08 (b; RESERVED). " in text
    assert "∞" not in text
    assert "asked 0.00" not in text
    with pytest.raises(BudgetExceeded, match=r"asked 7.50 more .* 0.50 too much, and asked additive δ 2e-06"):
        pay("d", release="r/3", event=ComposedEvent((PureEvent(7.5), DeltaEvent(2e-6))))
    noted = [notice.text for notice in ledger.notices() if notice.kind == "refused"]
    assert "1.99e-06 too much" in noted[0]


def test_a_refusal_names_the_ten_that_hold_most_and_their_charges(ledger: Ledger, pay: Pay) -> None:
    for number in range(12):
        pay(f"r/{number}/a", release=f"r/{number}", event=PureEvent((10 + number) / 100))
    for part in "bcde":
        pay(f"r/11/{part}", release="r/11", event=PureEvent(0.01))
    with pytest.raises(BudgetExceeded) as refusal:
        pay("more", release="r/x", event=PureEvent(7.9))
    held = str(refusal.value).partition("held by (ε of each alone): ")[2].partition(". Nothing")[0]
    assert held.startswith("r/11 0.25 (a, b, c and 2 more; RESERVED), r/10 0.20 (a; RESERVED), r/9 0.19 (")
    assert held.endswith("r/2 0.12 (a; RESERVED) and 2 more releases")


def test_who_holds_the_budget_is_read_when_nobody_waits(
    ledger: Ledger, pay: Pay, monkeypatch: pytest.MonkeyPatch
) -> None:
    pay("a", event=PureEvent(5.0))
    writing: list[bool] = []

    def held(connection: Connection, population: Population) -> list[Share]:
        writing.append(connection.get_execution_options().get("cadp_write", False) or _locks(connection))
        return held_by(connection, population)

    monkeypatch.setattr("cadp.ledger.refusals.held_by", held)
    with pytest.raises(BudgetExceeded, match=r"held by .*r/1 5.00 \(a; RESERVED\)"):
        pay("b", event=PureEvent(5.0))
    assert writing == [False]


def _locks(connection: Connection) -> bool:
    """Whether this connection holds the row that every write takes first."""
    if connection.dialect.name != "postgresql":
        return False
    held = "SELECT count(*) FROM pg_locks WHERE pid = pg_backend_pid() AND mode = 'RowShareLock'"
    return bool(connection.exec_driver_sql(held).scalar())


def test_an_event_without_any_finite_order_is_refused(ledger: Ledger, population: Population) -> None:
    with pytest.raises(BudgetExceeded):
        ledger.charge("people", release="r", key="1", event=GaussianEvent(1e6), parameters={})
    with pytest.raises(LedgerError, match="replace-one, not zero-out"):
        ledger.charge("people", release="r", key="1", event=PureEvent(0.1, relation="zero-out"), parameters={})
    with pytest.raises(PrivacyError):
        ledger.charge("people", release="r", key="1", event=PureEvent(float("nan")), parameters={})


def test_a_refusal_says_asked_left_difference_and_who_holds_the_budget(ledger: Ledger, pay: Pay) -> None:
    seal_all(ledger, pay("a", event=PureEvent(5.0)))
    ledger.publish("r/1")
    pay("b", release="r/2", event=PureEvent(2.0))
    with pytest.raises(BudgetExceeded) as refusal:
        pay("c", release="r/3", event=PureEvent(1.5))
    assert refusal.value.exit_code == 3
    text = str(refusal.value)
    assert "asked 1.50 more (ε 1.50 alone), left 1.00; ε would become 8.50, 0.50 too much" in text
    assert "Spent ε 7.00, limit ε 8.00 at δ 1e-06" in text
    assert "held by (ε of each alone): r/1 5.00 (a; PUBLISHED), r/2 2.00 (b; RESERVED). " in text
    assert [charge.key for charge in ledger.charges()] == ["a", "b"]


def test_every_refused_charge_would_pass_the_limit_in_words_too(ledger: Ledger, pay: Pay) -> None:
    pay("a", event=GaussianEvent(1.0))
    for event in (PureEvent(7.9), GaussianEvent(1.3), PureEvent(3.0)):
        quote = ledger.quote("people", event)
        assert quote.fits == (quote.after <= quote.limit)
        if quote.fits:
            continue
        with pytest.raises(BudgetExceeded):
            pay("b", event=event)


def test_another_population_has_its_own_budget(ledger: Ledger, pay: Pay) -> None:
    pay("a", event=PureEvent(8.0))
    add_population(ledger, "others")
    ledger.charge("others", release="r/1", key="a", event=PureEvent(8.0), parameters={})
    assert [ledger.budget(name).left for name in ("people", "others")] == [0.0, 0.0]
    with pytest.raises(LedgerError, match="no population 'nobody': known are others, people"):
        ledger.charge("nobody", release="r/1", key="a", event=PureEvent(0.1), parameters={})


def test_a_second_version_adds_up_and_a_closed_one_takes_nothing(ledger: Ledger, pay: Pay) -> None:
    seal_all(ledger, pay("a", release="r/1", event=PureEvent(3.0)))
    ledger.publish("r/1")
    with pytest.raises(LedgerError, match=r"release r/1 is closed: .* PUBLISHED.*new version"):
        pay("b", release="r/1")
    pay("b", release="r/2", event=PureEvent(3.0))
    budget = ledger.budget("people", release="r/2")
    assert (budget.charged, budget.left) == (6.0, 2.0)
    assert [(s.release, s.epsilon, s.charges) for s in budget.releases] == [("r/2", 3.0, 1)]


@pytest.mark.parametrize("change", [{}, {"part": "other"}, {"key": "more"}, {"event": PureEvent(7.9)}])
def test_an_abandoned_release_gets_not_even_the_charges_it_has(
    ledger: Ledger, pay: Pay, change: dict[str, object]
) -> None:
    pay("train", part="model")
    ledger.burn("r/1", "wrong source")
    entries = len(ledger.history())
    for _ in range(2):
        with pytest.raises(
            LedgerError, match=r"this version was abandoned .* give the release a new version"
        ) as refusal:
            pay(**{"key": "train", "part": "model"} | change)
        assert "r/1" in str(refusal.value)
    assert len(ledger.history()) == entries
    with pytest.raises(LedgerError, match=r"release r/1, not r/2"):
        pay("train", release="r/2", part="model")
    assert pay("train of r/2", release="r/2", part="model").state is State.RESERVED


def test_a_burned_part_in_one_population_closes_the_release_in_every_other(ledger: Ledger, pay: Pay) -> None:
    pay("a")
    add_population(ledger, "holdout")
    ledger.charge("holdout", release="r/1", key="gate", event=PureEvent(0.1), parameters={})
    ledger.burn("r/1", "given up")
    with pytest.raises(LedgerError, match="abandoned"):
        ledger.charge("holdout", release="r/1", key="gate", event=PureEvent(0.1), parameters={})
    add_population(ledger, "third")
    with pytest.raises(LedgerError, match="abandoned"):
        ledger.charge("third", release="r/1", key="gate", event=PureEvent(0.1), parameters={})


def test_a_published_release_finds_its_charges_again(ledger: Ledger, pay: Pay) -> None:
    first = pay("a")
    seal_all(ledger, first)
    ledger.publish("r/1")
    again = pay("a")
    assert (again.id, again.state) == (first.id, State.PUBLISHED)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), object(), {1, 2}, "\ud800"], ids=range(5))
def test_parameters_are_plain_json(pay: Pay, value: object) -> None:
    with pytest.raises(LedgerError, match="plain JSON"):
        pay("a", value=value)


@pytest.mark.parametrize("name", ["", "x" * 201, "a\nb", "\0"])
def test_names_are_printable(pay: Pay, name: str) -> None:
    with pytest.raises(LedgerError, match="printable"):
        pay(name)


def test_totals_that_changed_since_they_were_read_are_never_overwritten(ledger: Ledger, pay: Pay) -> None:
    from cadp.ledger.accounts import read_account

    pay("a")
    with ledger._database.reading() as connection:
        stale = read_account(connection, 1)
    pay("b")
    with pytest.raises(LedgerError, match="changed while it was read"), ledger._database.writing() as connection:
        replace_total(connection, stale, stale.spent)
    ledger.check()


def test_the_database_itself_refuses_totals_beyond_the_caps(ledger: Ledger, pay: Pay) -> None:
    from cadp.ledger.accounts import read_account

    pay("a")
    for too_much in (PureEvent(9.0), DeltaEvent(1e-6)):
        with (
            pytest.raises(LedgerError, match="breaks its own constraints .*(micro|delta)_within_cap"),
            ledger._database.writing() as connection,
        ):
            account = read_account(connection, 1)
            replace_total(connection, account, account.spent + curve(too_much))
    assert counted(ledger.charges()) == curve(PureEvent(0.5))
    ledger.check()


def test_history_holds_everything_in_order(place: Place, ledger: Ledger, pay: Pay) -> None:
    charge = pay("a")
    seal_all(ledger, charge)
    ledger.publish("r/1")
    kinds = [entry.kind for entry in ledger.history()]
    assert kinds == ["ledger", "population", "charge", "begin", "finish", "publish"]
    assert [file.read_bytes() for file in place.anchor_files()] == [entry.anchor for entry in ledger.history()]
