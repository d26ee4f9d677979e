"""Collect: delete losers and expired intermediates, and only those. `cadp gc` runs it at any time.

*Losers* can never be sealed: attempts at a range that has another seal, whose token was superseded or whose charge is
burned; states of a training that is over; models that no seal names once no training that could have made them is
open; what a publisher of a burned release still put into the public zone. *Expired* are the intermediates and the model
of a release that was published, and verifies, or was burned, longer ago than the retention. Anything else stays, and
what has a name that no step gives is listed as unknown.

Safe beside running releases and beside itself, without a lock, for three reasons. Every verdict is final: seals never
change, tokens only grow, PUBLISHED and BURNED have no successor, an envelope stays. Objects are listed *before* the
ledger is asked, so an object that is judged is older than the state it is judged by, and the seal that it may have got
meanwhile is seen. And deleting twice is deleting once. The attempt that holds a range's newest token may still seal,
however long its lease is over, so it stays while its charge is open.

What stays for ever is small: the plan, what publishing fixed, the gate's verdict and the expectations: public figures,
from which a rerun of a published release says its summary. Nothing outside `releases/` and `models/` of the private
zone is looked at: not the ledger, nor its anchors, nor secrets, nor keys.
"""

import json
import re
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from cadp.exchange import INDEX_SUFFIX
from cadp.ledger import Charge, Ledger, Seal, State
from cadp.plan import PLAN_KEY
from cadp.publish.layout import ENVELOPE, is_known
from cadp.settings import Settings
from cadp.steps.abandon import burned_objects
from cadp.steps.audit import AUDIT
from cadp.steps.models import model_objects, read_record
from cadp.steps.privatize import ATTEMPT
from cadp.steps.publish import CONTEXT_KEY, DONE
from cadp.steps.reproduce import REPRODUCED
from cadp.steps.retention import Retention
from cadp.steps.scratch import dead_scratch
from cadp.steps.shard import RAW
from cadp.steps.standing import Standing, standings
from cadp.steps.train_couplings import TRAINING, is_state
from cadp.steps.validate import EXPECTATIONS, VERDICT
from cadp.store import Store
from cadp.zones import anchor_zone, private_zone, public_zone

LOSERS, EXPIRED, MODELS = "losers", "expired intermediates", "expired models"
BURNED, SCRATCH, UNFINISHED = "public objects of burned releases", "scratch of dead processes", "half-written objects"
KINDS = (LOSERS, EXPIRED, MODELS, BURNED, SCRATCH, UNFINISHED)

_RELEASE = re.compile(r"releases/(?P<release>[^/]+/[^/]+)/(?P<key>.+)", re.DOTALL)
_MODEL = re.compile(r"(?P<digest>[0-9a-f]{64})\.(json|safetensors)")
_UNFINISHED_SECONDS = 24 * 3600.0


@dataclass
class Collected:
    """What a collection deleted, or would delete, and what it left alone.

    Attributes:
        dry_run: nothing was deleted.
        found: kind → sizes in bytes, one an object.
        unknown: addresses of objects that no step writes.
        notes: why something that could go was kept, in words.
    """

    dry_run: bool
    found: dict[str, list[int]] = field(default_factory=lambda: {kind: [] for kind in KINDS})
    unknown: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def rows(self) -> list[dict[str, str]]:
        """One row a kind of which there was any, and their sum."""
        sizes = {kind: found for kind, found in self.found.items() if found}
        if sizes:
            sizes["together"] = [size for found in sizes.values() for size in found]
        done = "would delete" if self.dry_run else "deleted"
        return [{done: k, "objects": f"{len(s):,}", "MiB": f"{sum(s) / (1 << 20):,.1f}"} for k, s in sizes.items()]

    def to_json(self) -> dict[str, object]:
        """For scripts: counts and bytes by kind, unknown objects and notes."""
        kinds = {kind: {"objects": len(sizes), "bytes": sum(sizes)} for kind, sizes in self.found.items()}
        return {"dry_run": self.dry_run, "kinds": kinds, "unknown": self.unknown, "notes": self.notes}


def collect(settings: Settings, *, days: int | None = None, dry_run: bool = False) -> Collected:
    """Delete what nothing needs any more, in every release of the private zone.

    Args:
        settings: where things are.
        days: how long intermediates of closed releases are kept; the settings' retention if None.
        dry_run: delete nothing, and say what would be.

    Raises:
        LedgerError: the ledger is missing or cannot be trusted; nothing is deleted then.
        StoreError: storage failed; what is deleted by then is deleted, and another run goes on.
    """
    with Ledger.open(settings.ledger_url, anchor_zone(settings)) as ledger:
        return _Collector(settings, ledger, settings.retention_days if days is None else days, dry_run).run()


class _Collector:
    def __init__(self, settings: Settings, ledger: Ledger, days: int, dry_run: bool) -> None:
        self._settings, self._ledger = settings, ledger
        self._private, self._public = private_zone(settings), public_zone(settings)
        self._retention = Retention(settings, self._public, days)
        self._result = Collected(dry_run)

    def run(self) -> Collected:
        private, models = self._private.list("releases/"), self._private.list("models/")
        known = standings(self._ledger)  # after the listings, for the reason above
        self._collect_releases(private, known)
        self._collect_models(models, list(known.values()))
        for standing in known.values():
            if standing.burned:
                self._collect_public(standing)
        self._collect_local()
        self._result.notes += self._retention.notes
        return self._result

    def _collect_releases(self, listed: Iterable[tuple[str, int]], known: dict[str, Standing]) -> None:
        judges: dict[str, Callable[[str], str | None]] = {}
        for full, size in listed:
            match = _RELEASE.fullmatch(full)
            if match is None:
                self._unknown(self._private, full)
                continue
            release, key = match["release"], match["key"]
            if release not in judges:
                judges[release] = self._judge(known.get(release))
            kind = judges[release](key)
            if kind == _UNKNOWN:
                self._unknown(self._private, full)
            elif kind is not None:
                self._drop(kind, self._private, full, size)

    def _judge(self, standing: Standing | None) -> Callable[[str], str | None]:
        """Return what says of each key of a release under which kind it goes; None if it stays."""
        charge = standing.charge("records") if standing else None
        attempts = _Attempts(self._ledger, charge) if charge else None

        def judge(key: str) -> str | None:
            if key in {PLAN_KEY, CONTEXT_KEY, VERDICT} or key.startswith(EXPECTATIONS) or AUDIT.fullmatch(key):
                return None
            if ATTEMPT.fullmatch(key):
                verdict = attempts.judge(key) if attempts else _UNKNOWN
                if verdict is not None:
                    return verdict
            elif TRAINING.fullmatch(key):
                if is_state(key) and _is_over(standing.charge("train") if standing else None):
                    return LOSERS
            elif not (RAW.fullmatch(key) or DONE.fullmatch(key) or REPRODUCED.fullmatch(key)):
                return _UNKNOWN
            return EXPIRED if standing is not None and self._retention.is_over(standing) else None

        return judge

    def _collect_models(self, listed: Iterable[tuple[str, int]], known: list[Standing]) -> None:
        """Drop models of closed releases, and what attempts at training left that no seal names."""
        models, sizes = self._private.child("models"), {key.removeprefix("models/"): size for key, size in listed}
        trains = [(standing, charge) for standing in known if (charge := standing.charge("train")) is not None]
        kept, expired, blind = self._loaded(models, known), set[str](), False
        for standing, charge in trains:
            for seal in self._ledger.seals(charge.id).values():
                # The objects are looked up, not looked for in the listing: the seal may be younger than that.
                named = model_objects(models, seal.key)
                over = any(key in sizes for key in named) and self._retention.is_over(standing)
                (expired if over else kept).update(named)
                blind |= standing.closed is None and len(named) == 1  # whose tensors these are is not known now
        open_trains = [charge for _, charge in trains if charge.state in {State.RESERVED, State.RUNNING}]
        for key in sorted(sizes, key=lambda key: (not key.endswith(".json"), key)):  # a record before its tensors
            if key in kept:
                continue
            if key in expired:
                self._drop(MODELS, models, key, sizes[key])
            elif _MODEL.fullmatch(key) is None:
                self._unknown(models, key)
            elif key.endswith(".json"):
                record = read_record(models, key)
                makers = [charge for _, charge in trains if _may_have_made(charge, record)]
                if makers and not any(charge in open_trains for charge in makers):
                    self._drop(LOSERS, models, key, sizes[key])
                    continue
                named = model_objects(models, key.removesuffix(".json"))
                kept.update(named)
                # A model with an origin was made by no charge: whoever brought it in decides how long it stays.
                if not makers and not record.get("origin") and models.exists(key):
                    self._unknown(models, key)
                    blind |= len(named) == 1
            elif trains and not open_trains and not blind:
                self._drop(LOSERS, models, key, sizes[key])

    def _loaded(self, models: Store, known: list[Standing]) -> set[str]:
        """Return the objects of models that the plans of releases which are not over load, or start from."""
        closed, kept = {standing.release: standing for standing in known}, set[str]()
        for key, _ in self._private.list("releases/"):
            match = _RELEASE.fullmatch(key)
            if match is None or match["key"] != PLAN_KEY:
                continue
            standing = closed.get(match["release"])
            plan = json.loads(self._private.get(key))
            for named in (plan.get("model"), plan.get("start")):
                if not isinstance(named, dict) or not isinstance(digest := named.get("load"), str):
                    continue
                if standing is None or not self._retention.is_over(standing):
                    kept.update(model_objects(models, digest))
        return kept

    def _collect_public(self, standing: Standing) -> None:
        release = self._public.child(standing.release)
        if release.exists(ENVELOPE):
            self._result.notes.append(f"{standing.release} is burned; what is signed at {release.url} is left alone")
        for key, size in burned_objects(release, standing.charges).items():
            if is_known(key):
                self._drop(BURNED, release, key, size)
            else:
                self._unknown(release, key)

    def _collect_local(self) -> None:
        for folder in dead_scratch(self._settings.scratch):
            sizes = [path.lstat().st_size for path in folder.rglob("*") if not path.is_dir()]
            self._result.found[SCRATCH] += sizes
            if not self._result.dry_run:
                shutil.rmtree(folder, ignore_errors=True)
        for store in (self._private, self._public):
            dropped = store.drop_unfinished(_UNFINISHED_SECONDS, dry_run=self._result.dry_run)
            self._result.found[UNFINISHED] += [size for _, size in dropped]

    def _drop(self, kind: str, store: Store, key: str, size: int) -> None:
        self._result.found[kind].append(size)
        if not self._result.dry_run:
            store.delete(key)

    def _unknown(self, store: Store, key: str) -> None:
        self._result.unknown.append(store.url_of(key))


def _is_over(charge: Charge | None) -> bool:
    """Whether no attempt will ever go on from a saved training."""
    return charge is not None and charge.state not in {State.RESERVED, State.RUNNING}


_UNKNOWN = "unknown"


class _Attempts:
    """The attempts at the ranges of one charge; asked of the ledger once, when the first one is met."""

    def __init__(self, ledger: Ledger, charge: Charge) -> None:
        self._ledger, self._charge = ledger, charge
        self._asked: tuple[dict[int, Seal], dict[int, int]] | None = None

    def judge(self, key: str) -> str | None:
        """Say whether an attempt is a loser or unknown; None if it is sealed, or may be."""
        if self._asked is None:
            self._asked = self._ledger.seals(self._charge.id), self._ledger.tokens(self._charge.id)
        match = ATTEMPT.fullmatch(key)
        if match is None:
            return _UNKNOWN
        index, token = int(match["range"]), int(match["token"])
        seal, newest = self._asked[0].get(index), self._asked[1].get(index, 0)
        if seal is not None:
            return None if seal.key == key.removesuffix(INDEX_SUFFIX) else LOSERS
        if self._charge.state is State.BURNED or token < newest:
            return LOSERS
        return None if token == newest else _UNKNOWN  # a token that this ledger never gave


def _may_have_made(charge: Charge, record: dict[str, object]) -> bool:
    privacy = record.get("privacy")
    named = (privacy.get("population"), privacy.get("event")) if isinstance(privacy, dict) else None
    return named == (charge.population, charge.event.to_json())
