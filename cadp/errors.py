"""What can go wrong, one class a subject, each with the exit code that scripts rely on.

A message holds the value, the bound and the next step. The command line prints it as one line; a stack trace is only
ever for a fault of this program.
"""

from typing import ClassVar


class CadpError(Exception):
    """A failure with a cause that a person can act on. `exit_code` is what `cadp` returns to the shell."""

    exit_code: ClassVar[int] = 1


class SpecError(CadpError):
    """The spec, a parameter or a command's usage is wrong; every problem found is listed."""

    exit_code = 2


class PlanDiffers(CadpError):
    """A rerun does not match the plan that this release started with."""

    exit_code = 2


class SettingsError(CadpError):
    """A zone, key or credential is missing or unusable."""

    exit_code = 2


class SourceError(CadpError):
    """The source cannot be found or read at all."""


class RejectedInput(CadpError):
    """One record, file or archive member cannot be accepted; the message is the reason."""


class StoreError(CadpError):
    """Storage refused or failed; what was being written is not visible."""


class AccessRefused(StoreError):
    """Storage does not know the credentials, or they lack the right."""


class ObjectExists(StoreError):
    """A put-if-absent found other bytes under its key."""


class ObjectMissing(StoreError):
    """There is no object under this key."""


class LedgerError(CadpError):
    """The ledger refuses an operation: a wrong state, an unknown population, a reused key with other parameters."""


class LedgerMissing(LedgerError):
    """There is no ledger at the configured address; only `cadp budget init` makes one."""

    exit_code = 2


class LedgerRewound(LedgerError):
    """The ledger disagrees with its anchors: restored, copied, truncated or lagging."""


class BudgetExceeded(LedgerError):
    """A charge does not fit: requested, remaining and difference are in the message."""

    exit_code = 3


class SealConflict(LedgerError):
    """A lease was lost, or a range is sealed already by another attempt."""


class PrivacyError(CadpError):
    """A mechanism or an event would not have the privacy it claims (relation, sensitivity, parameters)."""


class CheckpointRefused(CadpError):
    """A model may not be used: wrong digest, no privacy record, or trained without DP on the units being released."""


class PublishConflict(CadpError):
    """Another publisher, or another plan, owns this version."""


class VerificationFailed(CadpError):
    """A release is not what its manifest says, or its signature is not from a trusted key."""

    exit_code = 4


class Withheld(CadpError):
    """The gate, or an expectation on released bytes, keeps the release back."""

    exit_code = 5
