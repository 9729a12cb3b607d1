"""Debian's chromium, for the tests that open a page."""

from pathlib import Path

import pytest

CHROMIUM = Path("/usr/bin/chromium")
IN_CHROMIUM = [
    pytest.mark.browser,
    pytest.mark.skipif(
        not CHROMIUM.exists(), reason=f"{CHROMIUM} is not there; apt-get install chromium"
    ),
]
