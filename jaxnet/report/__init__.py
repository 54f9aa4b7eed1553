"""Pictures and pages from what runs recorded."""

from jaxnet.report.plots import Panel, Series, save_bars, save_images, save_panels, view_classify

__all__ = ["Panel", "Series", "save_bars", "save_images", "save_panels", "view_classify"]
