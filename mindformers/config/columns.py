"""What the columns of training data are called, and what stands in them where nothing is learnt.

Apart from the sections that check settings, so that the data tools start without those.
"""

from __future__ import annotations

COLUMNS = ("input_ids", "labels")
STARTS_COLUMN = (
    "document_starts"  # of batches whose rows hold several documents: where each token's begins
)
IGNORED_LABEL = -100
