"""Great Expectations at work: one suite on one frame, and of its verdict what is worth publishing."""

import os
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

_EXAMPLES = 5


def run_suite(
    name: str, data: "pd.DataFrame", expectations: list[dict[str, Any]], index: str | None
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """One suite on one frame: the suite without ids, and its results in the suite's order.

    Args:
        name: of the suite.
        data: what is looked at.
        expectations: as `expect` makes them.
        index: a column whose value belongs beside every example of a row that breaks an expectation.
    """
    os.environ["GX_ANALYTICS_ENABLED"] = "false"  # it is read at import, which takes seconds: hence here
    import great_expectations as gx  # noqa: PLC0415
    from great_expectations.data_context.types.base import ProgressBarsConfig  # noqa: PLC0415
    from great_expectations.expectations.expectation_configuration import ExpectationConfiguration  # noqa: PLC0415

    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = ProgressBarsConfig(globally=False, metric_calculations=False)
    asset = context.data_sources.add_pandas("release").add_dataframe_asset(name)
    suite = context.suites.add(gx.ExpectationSuite(name=name))
    for expectation in expectations:
        suite.add_expectation_configuration(ExpectationConfiguration(**expectation))
    suite.save()
    definition = gx.ValidationDefinition(name=name, data=asset.add_batch_definition_whole_dataframe("all"), suite=suite)
    context.validation_definitions.add(definition)
    wanted: dict[str, Any] = {"result_format": "SUMMARY", "partial_unexpected_count": _EXAMPLES}
    if index is not None:
        wanted["unexpected_index_column_names"] = [index]
    verdict = definition.run(batch_parameters={"dataframe": data}, result_format=wanted)
    results: list[Any] = [result.to_json_dict() for result in verdict.results]
    found = {result["expectation_config"]["meta"]["name"]: result for result in results}
    plain = {"name": name, "expectations": expectations, "meta": {"great_expectations_version": gx.__version__}}
    return plain, [_observed(expectation, found[expectation["meta"]["name"]]) for expectation in expectations]


def _observed(expectation: dict[str, Any], result: dict[str, Any]) -> dict[str, Any]:
    """What is worth publishing of one result."""
    observed = {
        key: result["result"][key]
        for key in ("observed_value", "element_count", "unexpected_count", "unexpected_percent", "missing_count")
        if result["result"].get(key) is not None
    }
    if result["result"].get("unexpected_count"):
        rows = result["result"].get("partial_unexpected_index_list") or [None]
        named = isinstance(rows[0], dict)
        observed["examples"] = rows if named else result["result"]["partial_unexpected_list"]
    if error := _error(result["exception_info"]):
        observed["error"] = error
    return {**expectation, "success": bool(result["success"]), "observed": observed}


def _error(info: dict[str, Any]) -> str | None:
    """The first message of GX's exception records: one record, or one a metric; their traces hold paths."""
    for one in (info, *(value for value in info.values() if isinstance(value, dict))):
        if one.get("raised_exception"):
            return re.sub(r"\s+", " ", str(one["exception_message"])).removeprefix("Error: ")
    return None
