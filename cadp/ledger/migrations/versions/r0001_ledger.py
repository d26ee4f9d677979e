"""The ledger's first schema. Frozen: it says what the tables were, not what they are."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Create every table."""
    op.create_table(
        "chain",
        sa.Column("seq", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("kind", sa.String(length=20), nullable=False),
        sa.Column("entry", sa.Text(), nullable=False),
        sa.Column("hash", sa.String(length=64), nullable=False),
        sa.CheckConstraint("seq > 0", name=op.f("ck_chain_seq")),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_chain")),
        sa.UniqueConstraint("hash", name=op.f("uq_chain_hash")),
    )
    op.create_table(
        "ledger",
        sa.Column("only", sa.Integer(), nullable=False),
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("at", sa.String(length=32), nullable=False),
        sa.CheckConstraint('"only" = 1', name=op.f("ck_ledger_one_row")),
        sa.PrimaryKeyConstraint("only", name=op.f("pk_ledger")),
    )
    op.create_table(
        "populations",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("unit", sa.String(length=200), nullable=False),
        sa.Column("relation", sa.String(length=40), nullable=False),
        sa.Column("epsilon", sa.Float(), nullable=False),
        sa.Column("delta", sa.Float(), nullable=False),
        sa.Column("orders", sa.Text(), nullable=False),
        sa.Column("source_hmac", sa.String(length=200), nullable=False),
        sa.Column("secret_fingerprint", sa.String(length=200), nullable=False),
        sa.Column("at", sa.String(length=32), nullable=False),
        sa.Column("seq", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["seq"], ["chain.seq"], name=op.f("fk_populations_seq")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_populations")),
        sa.UniqueConstraint("name", name=op.f("uq_populations_name")),
        sa.UniqueConstraint("source_hmac", name=op.f("uq_populations_source_hmac")),
    )
    op.create_table(
        "accounts",
        sa.Column("population_id", sa.Integer(), nullable=False),
        sa.Column("caps", sa.Text(), nullable=False),
        sa.Column("spent", sa.Text(), nullable=False),
        sa.Column("cap_delta_atto", sa.BigInteger(), nullable=False),
        sa.Column("spent_delta_atto", sa.BigInteger(), nullable=False),
        sa.Column("headroom", sa.Text(), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.CheckConstraint("headroom NOT LIKE '-%'", name=op.f("ck_accounts_micro_within_cap")),
        sa.CheckConstraint(
            "spent_delta_atto >= 0 AND spent_delta_atto <= cap_delta_atto", name=op.f("ck_accounts_delta_within_cap")
        ),
        sa.ForeignKeyConstraint(["population_id"], ["populations.id"], name=op.f("fk_accounts_population_id")),
        sa.PrimaryKeyConstraint("population_id", name=op.f("pk_accounts")),
    )
    op.create_table(
        "charges",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("population_id", sa.Integer(), nullable=False),
        sa.Column("release", sa.String(length=200), nullable=False),
        sa.Column("key", sa.String(length=200), nullable=False),
        sa.Column("event", sa.Text(), nullable=False),
        sa.Column("curve", sa.Text(), nullable=False),
        sa.Column("parameters", sa.Text(), nullable=False),
        sa.Column("parameters_sha256", sa.String(length=64), nullable=False),
        sa.Column("state", sa.String(length=10), nullable=False),
        sa.Column("at", sa.String(length=32), nullable=False),
        sa.Column("seq", sa.Integer(), nullable=False),
        sa.CheckConstraint(
            "state IN ('RESERVED', 'RUNNING', 'SEALED', 'PUBLISHED', 'BURNED', 'VOIDED')", name=op.f("ck_charges_state")
        ),
        sa.ForeignKeyConstraint(["population_id"], ["populations.id"], name=op.f("fk_charges_population_id")),
        sa.ForeignKeyConstraint(["seq"], ["chain.seq"], name=op.f("fk_charges_seq")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_charges")),
    )
    op.create_index(op.f("ix_charges_release"), "charges", ["release"], unique=False)
    op.create_index(
        "uq_charges_population_key",
        "charges",
        ["population_id", "key"],
        unique=True,
        sqlite_where=sa.text("state <> 'VOIDED'"),
        postgresql_where=sa.text("state <> 'VOIDED'"),
    )
    op.create_table(
        "answers",
        sa.Column("charge_id", sa.String(length=32), nullable=False),
        sa.Column("answer", sa.Text(), nullable=False),
        sa.Column("at", sa.String(length=32), nullable=False),
        sa.Column("seq", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["charge_id"], ["charges.id"], name=op.f("fk_answers_charge_id")),
        sa.ForeignKeyConstraint(["seq"], ["chain.seq"], name=op.f("fk_answers_seq")),
        sa.PrimaryKeyConstraint("charge_id", name=op.f("pk_answers")),
    )
    op.create_table(
        "ranges",
        sa.Column("charge_id", sa.String(length=32), nullable=False),
        sa.Column("range_id", sa.Integer(), nullable=False),
        sa.Column("token", sa.Integer(), nullable=False),
        sa.Column("owner", sa.String(length=200), nullable=False),
        sa.Column("expires_ms", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("range_id >= 0", name=op.f("ck_ranges_range_id")),
        sa.CheckConstraint("token > 0", name=op.f("ck_ranges_token")),
        sa.ForeignKeyConstraint(["charge_id"], ["charges.id"], name=op.f("fk_ranges_charge_id")),
        sa.PrimaryKeyConstraint("charge_id", "range_id", name=op.f("pk_ranges")),
    )
    op.create_table(
        "seals",
        sa.Column("charge_id", sa.String(length=32), nullable=False),
        sa.Column("range_id", sa.Integer(), nullable=False),
        sa.Column("token", sa.Integer(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("facts", sa.Text(), nullable=False),
        sa.Column("at", sa.String(length=32), nullable=False),
        sa.ForeignKeyConstraint(
            ["charge_id", "range_id"], ["ranges.charge_id", "ranges.range_id"], name="fk_seals_range"
        ),
        sa.PrimaryKeyConstraint("charge_id", "range_id", name=op.f("pk_seals")),
    )
