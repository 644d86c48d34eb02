"""The array type in this package's signatures; shapes and element types are said in words."""

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
