"""`make run` as a person uses it: what it prints, the README's walk word for word, Ctrl-C."""

import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox.stack.local import LocalStack
from sandbox.stack.ports import free_port
from sandbox.stack.product import ROOT
from tests.harness.run import Run

README = ROOT / "README.md"


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", *arguments]


@pytest.fixture
def folder(test_run: Run) -> Iterator[Path]:
    """A folder that looks like the repository's, with a `.state` of its own."""
    made = test_run.new_folder("readme")
    made.mkdir(parents=True)
    (made / "tests").symlink_to(ROOT / "tests")
    yield made
    LocalStack(made / ".state").remove()


@pytest.fixture
def running(folder: Path) -> Iterator[tuple[subprocess.Popen[str], list[str]]]:
    """The process of `make run`, and the lines that it printed until all was up."""
    process = subprocess.Popen(
        command(
            *("scripts.run", "--state-dir", str(folder / ".state"), "--port", str(free_port()))
        ),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    lines: list[str] = []
    try:
        for line in process.stdout:
            lines.append(line)
            if line.startswith("Ctrl-C"):
                break
        yield process, lines
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(60)
        process.stdout.close()


def walk(api_url: str, picture: Path) -> str:
    text = README.read_text()
    section = text[text.index("## The main job with curl") : text.index("## What is where")]
    script = "\n".join(re.findall(r"^```sh\n(.*?)^```", section, re.MULTILINE | re.DOTALL))
    for words, own in (
        ("API=http://127.0.0.1:8000\n", f"API={api_url}\n"),
        ("-o /tmp/packshot.jpg", f"-o '{picture}'"),
    ):
        assert words in script
        script = script.replace(words, own)
    return script


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.skipif(shutil.which("curl") is None, reason="the walk is one with curl")
def test_the_walk_with_curl_ends_with_an_image(
    running: tuple[subprocess.Popen[str], list[str]], folder: Path, tmp_path: Path
) -> None:
    process, lines = running
    printed = "".join(lines)
    found = re.search(r"^API +(http://127\.0\.0\.1:\d+)$", printed, re.MULTILINE)
    assert found, printed
    for word in ("/docs", "demo@jewelshot.example", "admin@jewelshot.example", "TOTP"):
        assert word in printed
    assert printed.count("curl -s ") == 3

    picture = tmp_path / "packshot.jpg"
    walked = subprocess.run(
        ["/bin/sh", "-eu", "-c", walk(found.group(1), picture)],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert walked.returncode == 0, walked.stderr
    assert '"state":"succeeded"' in walked.stdout
    assert "1 credit spent, because the image was delivered.\n" in walked.stdout
    bought = walked.stdout.splitlines()[-1]
    assert '"state":"paid"' in bought
    assert picture.read_bytes().startswith(b"\xff\xd8\xff")

    proof = command("scripts.reconcile", "--state-dir", str(folder / ".state"))
    proved = subprocess.run(proof, cwd=ROOT, capture_output=True, text=True, check=False)
    assert proved.returncode == 0, proved.stdout + proved.stderr

    process.send_signal(signal.SIGINT)
    assert process.stdout is not None
    assert process.stdout.read().endswith("Everything is stopped.\n")
    assert process.wait(60) == 0
