"""Pictures of what a loader does: a contact sheet of its batches, a histogram of aspect ratios with its buckets.

Both need matplotlib: `pip install 'resflow[plots]'`. It is imported when a picture is made.
"""

from resflow.viz.histogram import ratio_histogram
from resflow.viz.plotting import require_matplotlib
from resflow.viz.sheet import contact_sheet

__all__ = ["contact_sheet", "ratio_histogram", "require_matplotlib"]
