"""The expectations' verdict for people: one page without scripts or outside requests.

Great Expectations' own Data Docs load styles and scripts from other hosts, so they cannot be part of a release.
"""

from collections.abc import Mapping
from typing import Any

from jinja2 import Environment, StrictUndefined

_TEMPLATE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>Expectations</title>
<style>
:root { color-scheme: light dark }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse; width: 100% }
th, td { text-align: left; vertical-align: top; padding: .4rem .8rem .4rem 0; border-bottom: 1px solid #8884 }
code { font-size: .85em; overflow-wrap: anywhere }
.held { color: #1a7f37 } .broken { color: #cf222e; font-weight: 600 }
</style>
<h1>Expectations</h1>
<p>{{ held }} of {{ results | length }} hold. They were checked with Great Expectations on released records, declared
public facts and charged figures only. The suites are in <a href="suite.json">suite.json</a>, the results in
<a href="result.json">result.json</a>.</p>
<table>
<thead><tr><th scope="col">Verdict</th><th scope="col">What is expected</th><th scope="col">Expectation</th>
<th scope="col">Observed</th></tr></thead>
<tbody>
{% for one in results %}<tr id="{{ one.meta.name }}">
<td class="{{ 'held' if one.success else 'broken' }}">{{ 'holds' if one.success else 'broken' }}</td>
<td>{{ one.meta.says }}</td>
<td><code>{{ one.type }}</code><br><code>{{ one.kwargs | tojson }}</code></td>
<td><code>{{ one.observed | tojson }}</code></td>
</tr>
{% endfor %}</tbody>
</table>
</html>
"""


def render_page(verdict: Mapping[str, Any]) -> bytes:
    """The page of a verdict as `check_release` builds it."""
    template = Environment(autoescape=True, undefined=StrictUndefined).from_string(_TEMPLATE)
    results = verdict["results"]
    return template.render(results=results, held=sum(one["success"] for one in results)).encode()
