"""Makes ``halvit_mm`` importable for the commands here, also where it is not installed."""

import sys
from importlib.util import find_spec
from pathlib import Path

if find_spec("halvit_mm") is None:
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
