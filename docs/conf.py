"""Sphinx builds the site from README.md, the guides in this folder and the docstrings of the package."""

import re
from typing import Any

from torchmetrics_dice_ext import __version__

project = "torchmetrics-dice-ext"
author = "torchmetrics-dice-ext contributors"
project_copyright = author
release = version = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.mathjax", "sphinx.ext.napoleon"]
myst_heading_anchors = 3
nitpicky = True  # a reference that leads nowhere is a warning, and `make docs` makes an error of it
default_role = "py:obj"  # `dice_score` in a docstring is a link where there is such a name, else code
add_module_names = False
autodoc_default_options = {"members": True, "member-order": "bysource", "show-inheritance": True}
autodoc_typehints = "none"  # the docstrings say it in words
autodoc_class_signature = "mixed"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_custom_sections = [("Options", "params_style")]
maximum_signature_line_length = 100
trim_doctest_flags = True

html_theme = "furo"
html_title = f"{project} {release}"
html_copy_source = False

_ELSEWHERE = re.compile(r"(torch|torchmetrics)\.|torchmetrics_dice_ext\.(\w+\.)*_")  # classes that this site hasn't


def _plain_sections(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Drop the floors, and what a score's class repeats of its task's.

    Let napoleon read "Options (keyword-only):" and names of arguments on two lines.
    """
    lines[:1] = [re.sub(r"^Floor \d: (.)", lambda start: start[1].upper(), line) for line in lines[:1]]
    if what == "class" and "_hard" in obj.__module__:
        del lines[lines.index("") if "" in lines else len(lines) :]
    text = re.sub(r"^Options \(.*\):$", "Options:", "\n".join(lines), flags=re.MULTILINE)
    lines[:] = re.sub(r"^( +[a-z_]+(?:, [a-z_]+)+,)\n +", r"\1 ", text, flags=re.MULTILINE).split("\n")


def _unlinked(app: Any, env: Any, node: Any, contnode: Any) -> Any:
    """Code in backticks that names nothing stays without a link, and so do base classes that aren't on the site."""
    unlinked = node.get("reftype") == "obj" or _ELSEWHERE.match(node.get("reftarget", ""))
    return contnode if unlinked else None


def setup(app: Any) -> None:
    """Connect the two."""
    app.connect("autodoc-process-docstring", _plain_sections, priority=400)  # before napoleon, at 500
    app.connect("missing-reference", _unlinked)
