"""One Prefect server for the tests of the flows, and what `prefect.yaml` deploys to it."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.servers.prefect import ROOT, PrefectServer, prefect_server


@pytest.fixture(scope="session")
def prefect(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrefectServer]:
    with prefect_server(tmp_path_factory.mktemp("prefect")) as server:
        yield server


@pytest.fixture(scope="session")
def deployed(prefect: PrefectServer) -> dict[str, dict[str, Any]]:
    """What `prefect deploy --all` makes, by `flow/deployment`."""
    for pool in ("cpu", "gpu"):
        prefect.ask("work_pools/", {"name": pool, "type": "process"})
    prefect.ask("variables/", {"name": "cadp_checkout", "value": str(ROOT)})
    prefect.cli("deploy", "--all")
    flows = {flow["id"]: flow["name"] for flow in prefect.ask("flows/filter", {})}
    made = prefect.ask("deployments/filter", {})
    return {f"{flows[deployment['flow_id']]}/{deployment['name']}": deployment for deployment in made}
