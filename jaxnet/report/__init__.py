"""Pictures and pages from what runs recorded."""

from jaxnet.report.page import Entry, save_page
from jaxnet.report.plots import Panel, Series, save_bars, save_images, save_panels, view_classify
from jaxnet.report.runs import newest_runs

__all__ = [
    "Entry",
    "Panel",
    "Series",
    "newest_runs",
    "save_bars",
    "save_images",
    "save_page",
    "save_panels",
    "view_classify",
]
