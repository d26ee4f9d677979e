"""The templates that documents are made from: HTML is escaped, and a missing value is an error, not an empty string."""

import re
from collections.abc import Mapping

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from cadp.privacy.plain_words import nats


def render(template: str, values: Mapping[str, object]) -> bytes:
    """Fill `templates/<template>` with `values`; UTF-8 bytes with one final newline."""
    environment = Environment(
        loader=PackageLoader("cadp.publish"),
        autoescape=select_autoescape(["html.j2", "svg.j2"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["nats"] = nats
    environment.filters["code"] = code
    return environment.get_template(template).render(values).strip().encode() + b"\n"


def code(text: str) -> str:
    """Text as Markdown's code, where no character of it means anything else.

    >>> code("<i>"), code("a`b")
    ('`<i>`', '`` a`b ``')
    """
    if "`" not in text:
        return f"`{text}`"
    ticks = "`" * (max(map(len, re.findall("`+", text))) + 1)
    return f"{ticks} {text} {ticks}"
