"""The ledger's tables. Whatever is hashed or compared is stored as canonical JSON text, so its bytes never change.

Money is integers only: micro-nats of Rényi divergence per order, and additive δ in units of 1e-18. A row of `chain`,
`seals` or `answers` is never updated and never deleted. The same tables are made by the migrations, on every database.
"""

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    Float,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    text,
)

REVISION = "0002"
"""The newest migration that this version of the code knows; revisions count upwards."""

_HEX256 = String(64)

metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
        "ix": "ix_%(table_name)s_%(column_0_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
    }
)

ledger = Table(
    "ledger",
    metadata,
    Column("only", Integer, primary_key=True),
    Column("id", String(32), nullable=False),
    Column("at", String(32), nullable=False),
    CheckConstraint('"only" = 1', name="one_row"),
)
"""One row: which ledger this is. PostgreSQL locks it for every write."""

chain = Table(
    "chain",
    metadata,
    Column("seq", Integer, primary_key=True, autoincrement=False),
    Column("kind", String(20), nullable=False),
    Column("entry", Text, nullable=False),
    Column("hash", _HEX256, nullable=False, unique=True),
    CheckConstraint("seq > 0", name="seq"),
)
"""The hash chain of everything that changes what is owed or known; each entry is anchored outside the database."""

populations = Table(
    "populations",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("name", String(200), nullable=False, unique=True),
    Column("unit", String(200), nullable=False),
    Column("relation", String(40), nullable=False),
    Column("epsilon", Float, nullable=False),
    Column("delta", Float, nullable=False),
    Column("orders", Text, nullable=False),
    Column("source_hmac", String(200), nullable=False, unique=True),
    Column("secret_fingerprint", String(200), nullable=False),
    Column("at", String(32), nullable=False),
    Column("seq", ForeignKey("chain.seq"), nullable=False),
)

accounts = Table(
    "accounts",
    metadata,
    Column("population_id", ForeignKey("populations.id"), primary_key=True),
    Column("caps", Text, nullable=False),
    Column("spent", Text, nullable=False),
    Column("cap_delta_atto", BigInteger, nullable=False),
    Column("spent_delta_atto", BigInteger, nullable=False),
    Column("headroom", Text, nullable=False),
    Column("revision", Integer, nullable=False),
    CheckConstraint("spent_delta_atto >= 0 AND spent_delta_atto <= cap_delta_atto", name="delta_within_cap"),
    CheckConstraint("headroom NOT LIKE '-%'", name="micro_within_cap"),
)
"""Running totals, one row a population, written only by compare-and-swap on `revision`.

`headroom` is the most micro-nats that any order has left, as decimal text (the integers have no bound); the CHECKs
and the swap are the second line of defence behind the isolation of the transaction.
"""

charges = Table(
    "charges",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("population_id", ForeignKey("populations.id"), nullable=False),
    Column("release", String(200), nullable=False, index=True),
    Column("key", String(200), nullable=False),
    Column("event", Text, nullable=False),
    Column("curve", Text, nullable=False),
    Column("parameters", Text, nullable=False),
    Column("parameters_sha256", _HEX256, nullable=False),
    Column("state", String(10), nullable=False),
    Column("at", String(32), nullable=False),
    Column("seq", ForeignKey("chain.seq"), nullable=False),
    CheckConstraint("state IN ('RESERVED', 'RUNNING', 'SEALED', 'PUBLISHED', 'BURNED', 'VOIDED')", name="state"),
    # A voided charge gives its key back; every other charge keeps it for ever.
    Index(
        "uq_charges_population_key",
        "population_id",
        "key",
        unique=True,
        sqlite_where=text("state <> 'VOIDED'"),
        postgresql_where=text("state <> 'VOIDED'"),
    ),
)

ranges = Table(
    "ranges",
    metadata,
    Column("charge_id", ForeignKey("charges.id"), primary_key=True),
    Column("range_id", Integer, primary_key=True),
    Column("token", Integer, nullable=False),
    Column("owner", String(200), nullable=False),
    Column("expires_ms", BigInteger, nullable=False),
    CheckConstraint("range_id >= 0", name="range_id"),
    CheckConstraint("token > 0", name="token"),
)

seals = Table(
    "seals",
    metadata,
    Column("charge_id", String(32), primary_key=True),
    Column("range_id", Integer, primary_key=True),
    Column("token", Integer, nullable=False),
    Column("key", Text, nullable=False),
    Column("sha256", _HEX256, nullable=False),
    Column("facts", Text, nullable=False),
    Column("at", String(32), nullable=False),
    ForeignKeyConstraint(["charge_id", "range_id"], ["ranges.charge_id", "ranges.range_id"], name="fk_seals_range"),
)
"""One output per charge and range: the row is the seal."""

answers = Table(
    "answers",
    metadata,
    Column("charge_id", ForeignKey("charges.id"), primary_key=True),
    Column("answer", Text, nullable=False),
    Column("at", String(32), nullable=False),
    Column("seq", ForeignKey("chain.seq"), nullable=False),
)

notices = Table(
    "notices",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("at", String(32), nullable=False),
    Column("kind", String(20), nullable=False),
    Column("population", String(200)),
    Column("release", String(200)),
    Column("text", Text, nullable=False),
)
"""What the operator is told; informing only, so it is neither chained nor anchored."""
