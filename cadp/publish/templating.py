"""The templates that documents are made from: HTML is escaped, and a missing value is an error, not an empty string."""

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
    return environment.get_template(template).render(values).strip().encode() + b"\n"
