"""What the commands end with, beside 0, 1 and 2; by the names that sysexits.h gives them."""

from __future__ import annotations

EX_TEMPFAIL = 75
"""Something that is needed does not answer; starting again later may help."""

EX_CONFIG = 78
"""The settings cannot be used; starting again will not help."""
