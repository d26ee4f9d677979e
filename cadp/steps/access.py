"""Whether the credentials of this process open the zones it needs: asked before anything is charged.

Two roles are enough. Whoever shards, trains, privatizes and validates writes the private zone and the anchors, and
reads the public zone, to see what is published already. The publisher writes the public zone, too, and nobody else
should be able to.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from cadp.errors import AccessRefused
from cadp.settings import Settings
from cadp.store import Right, Store
from cadp.zones import anchor_zone, private_zone, public_zone

_READING: tuple[Right, ...] = ("list", "read")
_ALL: tuple[Right, ...] = (*_READING, "write")


@dataclass(frozen=True, slots=True)
class ZoneAccess:
    """What was found of one zone.

    Attributes:
        zone: `private`, `anchors` or `public`.
        url: its address.
        lacking: the rights that these credentials lack there, with the reason.
    """

    zone: str
    url: str
    lacking: Mapping[Right, str]

    def row(self) -> dict[str, str]:
        """For a table: the rights as `yes` or `no`."""
        rights: dict[str, str] = {right: "no" if right in self.lacking else "yes" for right in _ALL}
        return {"zone": self.zone, "address": self.url, **rights}


def examine_access(settings: Settings) -> list[ZoneAccess]:
    """Try every right in every zone; leaves nothing behind.

    Raises:
        StoreError: a zone cannot be reached, or its bucket is missing.
    """
    zones = {"private": private_zone(settings), "anchors": anchor_zone(settings), "public": public_zone(settings)}
    return [_access(zone, store, _ALL) for zone, store in zones.items()]


def require_access(settings: Settings, *, publishing: bool) -> None:
    """Stop now what would stop later, when it has been paid for.

    Args:
        settings: where things are.
        publishing: whether the public zone is to be written.

    Raises:
        AccessRefused: a right is lacking, in words that name the zone and what needs it.
        StoreError: a zone cannot be reached, or its bucket is missing.
    """
    found = [
        _access("private", private_zone(settings), _ALL),
        _access("anchors", anchor_zone(settings), _ALL),
        _access("public", public_zone(settings), _ALL if publishing else _READING),
    ]
    if problems := lacking_lines(found):
        raise AccessRefused("; ".join(problems))


def lacking_lines(found: list[ZoneAccess]) -> list[str]:
    """One line a zone in which something is lacking: what, why, and who needs it."""
    return [
        f"these credentials may not {' or '.join(access.lacking)} in the {access.zone} zone, which "
        f"{_NEEDED_BY[access.zone]}: {next(iter(access.lacking.values()))}. Next: grant it, or name credentials that "
        f"have it with CADP_{access.zone.upper()}_PROFILE"
        for access in found
        if access.lacking
    ]


_NEEDED_BY = {
    "private": "every step works in",
    "anchors": "every charge is anchored in",
    "public": "every step looks into and publish writes",
}


def _access(zone: str, store: Store, rights: tuple[Right, ...]) -> ZoneAccess:
    return ZoneAccess(zone, store.url, store.lacking(rights))
