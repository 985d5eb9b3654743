"""HTML and SVG from the templates in `templates`.

Values are escaped, and their control characters are made visible. Exceptions are `Markup` values:
results of `render` and of macros, and the style and the script of the page.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from bmo_cli.errors import escape_unprintable
from bmo_cli.report.entry import layout_of
from bmo_cli.results.runs import format_age

COLOURS = 10
"""Number of colour classes in page.css."""


def render(template: str, **values: Any) -> Markup:
    """Render a template and strip the result.

    Args:
        template: name of a file in `templates`, without `.j2`.
        values: values by the names that the template uses.
    """
    return Markup(_environment().get_template(f"{template}.j2").render(**values).strip())


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_insertable,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["COLOURS"] = COLOURS
    environment.filters.update(age=format_age, number=format, layout=layout_of)
    environment.policies["json.dumps_kwargs"] = {}  # keys stay in their order
    return environment


def _insertable(value: object) -> str:
    return value if isinstance(value, Markup) else escape_unprintable(str(value))
