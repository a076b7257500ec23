"""Draws results: one self-contained HTML page for a comparison of networks, and single views as files.

The report knows only the records of :mod:`robustspike.results`; how a figure was made is none of its business.
"""

from robustspike.report.page import html_of, write_curves, write_html
from robustspike.report.views import view_png, view_svg

__all__ = ["html_of", "view_png", "view_svg", "write_curves", "write_html"]
