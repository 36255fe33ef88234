"""How Sphinx builds these pages; `make docs` does it, without network, and every warning is an error."""

from gateway import __version__

project = "modelarts-gateway"
author = "the modelarts-gateway authors"
release = version = __version__
html_title = f"modelarts-gateway {__version__}"

extensions = ["myst_parser"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build"]
myst_heading_anchors = 4  # links to headings work here as they do where Markdown is read as it is

html_theme = "furo"
html_theme_options = {"navigation_with_keys": True}
html_static_path = ["images"]
html_copy_source = False
html_show_sphinx = False
html_show_copyright = False
# The second word of a block's language says how the tests treat it ("sh run"); readers see only the first.
highlight_language = "none"
