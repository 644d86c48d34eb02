"""Take the pictures of the chat page in docs/images, from a server with the quickstart's model.

Needs Chromium, its driver and the extras ``serve`` and ``servetest``. Run from the repository:
``python scripts/make_page_images.py output/quickstart/huggingface``.
"""

from __future__ import annotations

import argparse
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from selenium.webdriver import ActionChains

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from tests.support.browser import Page, missing_browser, open_browser  # noqa: E402

TARGET = ROOT / "docs" / "images"
SIZE = (1200, 750)  # pixels
# Each conversation's questions; the last one is open in the pictures.
CONVERSATIONS = (
    ("What color do blue and yellow paint make?",),
    ("今天我很开心。",),
    ("Multiply six by seven.",),
    ("What is the capital of France?", "你好！", "Who are you?"),
)


@contextmanager
def served(model_dir: str) -> Iterator[str]:
    """Serve the model on a free port while inside; gives the URL."""
    command = [sys.executable, "-m", "mindformers", "serve", model_dir, "--port", "0"]
    command += ["--served_model_name", "glm4-tiny"]
    with subprocess.Popen(
        command, cwd=ROOT, stderr=subprocess.STDOUT, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            seen = ""
            for line in process.stdout:
                seen += line
                if found := re.search(r"serving .* at (http://\S+?);", line):
                    yield found[1]
                    return
            raise SystemExit(f"the server did not start:\n{seen}")
        finally:
            process.send_signal(signal.SIGTERM)


def ask_everything(page: Page) -> None:
    """Have the conversations; the model learnt single questions, so each is asked alone."""
    page.press("Settings")
    page.find("dialog .check").click()
    page.press("Close", "dialog")
    for questions in CONVERSATIONS:
        page.press("New chat")
        for number, question in enumerate(questions, 1):
            page.ask(question)
            page.ended(number)
    ActionChains(page.driver).move_to_element(
        page.find("h1")
    ).perform()  # off what shows it is pointed at


def main(argv: list[str] | None = None) -> int:
    """Write the pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model_dir", help="the quickstart's Hugging Face directory")
    model_dir = str(Path(parser.parse_args(argv).model_dir).resolve())
    if missing_browser():
        raise SystemExit(f"error: {missing_browser()}; install Chromium and its driver")
    with tempfile.TemporaryDirectory() as folder, served(model_dir) as url:
        browser = open_browser(Path(folder))
        try:
            page = Page(browser, f"{url}/")
            page.open()
            page.resize(*SIZE)
            ask_everything(page)
            for theme, name in (("light", "chat_page.png"), ("dark", "chat_page_dark.png")):
                page.emulate(prefers_color_scheme=theme)
                page.driver.save_screenshot(str(TARGET / name))
                print(TARGET / name)
        finally:
            browser.quit()
    return 0


if __name__ == "__main__":
    sys.exit(main())
