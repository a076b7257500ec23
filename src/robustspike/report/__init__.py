"""Draws results: one self-contained HTML page for a comparison of networks.

The report knows only the records of :mod:`robustspike.results`; how a figure was made is none of its business.
"""

from robustspike.report.page import html_of, write_curves, write_html

__all__ = ["html_of", "write_curves", "write_html"]
