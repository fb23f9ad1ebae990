"""`python -m api` as an operator meets it."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]


def test_a_mistake_in_the_settings_is_named_and_ends_it() -> None:
    environ = {"PATH": os.environ["PATH"], "SUPABASE_SECRET_KEY": "sb_secret_visible"}
    done = subprocess.run(
        [sys.executable, "-m", "api", "--port", "0"],
        cwd=ROOT,
        env=environ,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert "DATABASE_URL" in done.stderr
    assert "Traceback" not in done.stderr
    assert "sb_secret_visible" not in done.stderr
