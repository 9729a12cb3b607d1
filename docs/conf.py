"""Settings of the documentation's site: `make docs` builds it into `site/`.

Nothing is fetched, neither when it is built nor when it is read: fonts are the reader's own, and
the search runs in the page.
"""

import sys
from pathlib import Path

from sphinx.application import Sphinx

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

import made  # noqa: E402 - beside this file

from toto import __version__  # noqa: E402

project = "Toto"
author = "the Toto developers"
release = __version__
language = "en"

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["made.py", "conf.py"]

myst_heading_anchors = 3
myst_links_external_new_tab = False

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_class_signature = "mixed"
autodoc_preserve_defaults = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
# Docstrings are written as people write Markdown: `name` is code.
default_role = "code"
add_module_names = False

html_theme = "furo"
html_title = "Toto"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_show_sourcelink = False
html_show_sphinx = False
html_copy_source = False
html_theme_options = {
    "light_css_variables": {
        "color-brand-primary": "#0b5f8a",
        "color-brand-content": "#0b5f8a",
        "font-stack": "system-ui, -apple-system, 'Segoe UI', Roboto, 'Noto Sans', sans-serif",
        "font-stack--monospace": "ui-monospace, 'SF Mono', Menlo, Consolas, monospace",
    },
    "dark_css_variables": {
        "color-brand-primary": "#7cc4ea",
        "color-brand-content": "#7cc4ea",
    },
}
pygments_style = "friendly"
pygments_dark_style = "native"


def _fill(app: Sphinx, page: str, source: list[str]) -> None:
    """Put what is worked out from the code where a page asks for it."""
    source[0] = made.fill(source[0])


def setup(app: Sphinx) -> None:
    """Let pages be filled before they are read."""
    app.connect("source-read", _fill)
