"""When the intermediates of a release may go: it is closed for good, for long enough, and what is public is whole."""

from datetime import UTC, datetime, timedelta

from cadp.errors import CadpError, VerificationFailed
from cadp.publish.layout import ENVELOPE
from cadp.publish.sign import load_public
from cadp.publish.verify import verify
from cadp.settings import Settings
from cadp.steps.standing import Standing
from cadp.store import Store


class Retention:
    """Decides once for each release; `notes` says why one that is due was left alone."""

    def __init__(self, settings: Settings, public: Store, days: int) -> None:
        """Keep for `days` after a release was published or burned; 0 keeps nothing."""
        self._settings, self._public, self._days = settings, public, days
        self._now = datetime.now(UTC)
        self._decided: dict[str, bool] = {}
        self.notes: list[str] = []

    def is_over(self, standing: Standing) -> bool:
        """Whether nothing will ever need this release's intermediates again.

        Every byte of a published release is verified first, since after this it could not be made again.
        """
        if standing.release not in self._decided:
            due = self._is_due(standing)
            self._decided[standing.release] = due and (standing.burned or self._is_whole(standing))
        return self._decided[standing.release]

    def _is_due(self, standing: Standing) -> bool:
        if standing.closed is None or not (standing.published or standing.burned):
            return False
        return self._days == 0 or standing.closed + timedelta(days=self._days) <= self._now

    def _is_whole(self, standing: Standing) -> bool:
        release = self._public.child(standing.release)
        if not release.exists(ENVELOPE):
            self.notes.append(f"{standing.release} is bound to become public and has no manifest: run `cadp publish`")
            return False
        try:
            trusted = [load_public(path) for path in sorted(self._settings.keys_dir.glob("*.pub"))]
            found = verify(release, trusted, expect=standing.release)
            if found.plan_digest != standing.plan_digest:
                raise VerificationFailed(f"{release.url} is a release of another plan")
        except CadpError as error:
            self.notes.append(f"{standing.release} is published, and what it was made from is kept: {error}")
            return False
        return True
