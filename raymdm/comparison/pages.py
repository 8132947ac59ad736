"""From a template and its numbers to a file: Markdown, or a page that needs nothing else."""

import base64
import hashlib
import html
import re
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from raymdm.comparison.tables import flat, spaced


def write_page(path: Path, context: Mapping[str, Any]) -> Path:
    """Fill the template of the file's name, such as `report.html.j2` for report.html, and write it.

    All values are escaped; a name that the template needs and `context` lacks is an error.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("raymdm.comparison"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "md": markdown,
        "md_code": markdown_code,
        "data_uri": _data_uri,
        "csp_hash": _csp_hash,
        "flat": flat,
        "spaced": spaced,
        "breakable": _breakable,
    }
    text = environment.get_template(f"{path.name}.j2").render(context)
    path.write_text(text, encoding="utf-8", newline="\n")
    return path


def markdown(text: str) -> Markup:
    """Text that Markdown shows as it is, on one line: neither markup nor HTML in it counts."""
    escaped = re.sub(r"([\\`*\[\]|~$]|(?<!\w)_|_(?!\w))", r"\\\1", html.escape(text, quote=False))
    return Markup("<br>".join(escaped.splitlines()))  # noqa: S704 - escaped above


def markdown_code(text: str) -> Markup:
    """An indented code block, which no text can end."""
    return Markup("\n".join(f"    {line}" for line in text.splitlines()))  # noqa: S704 - code is literal


def script(name: str) -> Markup:
    """A script of the templates' folder, to be set into a page as it is."""
    text = resources.files("raymdm.comparison").joinpath("templates", name).read_text(encoding="utf-8")
    return Markup(text)  # noqa: S704 - no data is in it


def _breakable(text: str) -> Markup:
    """A name that may go on in the next line after an underscore, a hyphen or a slash, and nowhere within a word."""
    escaped = html.escape(text)
    return Markup(re.sub(r"([_/-])(?=\w)", r"\1<wbr>", escaped))  # noqa: S704 - escaped above


def _csp_hash(text: str) -> str:
    """The source expression that allows this very script in a Content-Security-Policy."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _data_uri(path: Path) -> str:
    return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"
