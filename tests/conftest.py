"""Lets every test import `stock`, and the helper modules beside it (importlib mode does not)."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
