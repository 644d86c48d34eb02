"""Chromium without a window, and the chat page in it as a test sees it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver import Chrome, ChromeOptions, Keys
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.wait import WebDriverWait

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",  # small in containers
    "--hide-scrollbars",
    # A mouse: without a window Chromium takes itself for a machine that has none.
    "--blink-settings=primaryHoverType=2,availableHoverTypes=2,primaryPointerType=4,availablePointerTypes=4",
)
PATIENCE = 60.0  # seconds; far above what a page needs, also on a busy machine

T = TypeVar("T")


def missing_browser() -> str:
    """Return what there is not, or an empty text."""
    return next(
        (f"there is no {name}" for name in ("chromium", "chromedriver") if not shutil.which(name)),
        "",
    )


def open_browser(folder: Path, language: str = "en-US") -> Chrome:
    """Start Chromium with its profile and its downloads in ``folder``."""
    options = ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for flag in (*FLAGS, f"--user-data-dir={folder / 'profile'}", f"--lang={language}"):
        options.add_argument(flag)
    preferences = {"download.default_directory": str(folder), "intl.accept_languages": language}
    options.add_experimental_option("prefs", preferences)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    return Chrome(options=options, service=Service(shutil.which("chromedriver")))


class Page:
    """The chat page; every look waits until what is looked for is there."""

    def __init__(self, driver: Chrome, address: str) -> None:
        self.driver = driver
        self.address = address

    def open(self) -> None:
        """Load the page in a window of a usual size; its storage is that of its port, so that of nobody."""
        self.resize(1280, 800)
        self.emulate()
        self.reload()

    def reload(self) -> None:
        self.driver.get(self.address)
        self.find(".state.ready, .state.away, .state.needsKey")

    def wait(self, condition: Callable[[], T]) -> T:
        """Wait until ``condition`` is true; elements that vanish while it looks do not count."""
        gone = [StaleElementReferenceException]
        return WebDriverWait(self.driver, PATIENCE, 0.02, gone).until(lambda _: condition())

    def all(self, css: str) -> list[WebElement]:
        return self.driver.find_elements(By.CSS_SELECTOR, css)

    def find(self, css: str) -> WebElement:
        return self.wait(lambda: next(iter(self.all(css)), None))

    def text(self, css: str) -> str:
        return self.wait(lambda: [node.text for node in self.all(css)[:1]])[0]

    def button(self, label: str, within: str = "") -> WebElement:
        """Find the button with this label or text that can be seen."""
        find = (
            "return [...document.querySelectorAll(arguments[0])].find("
            "node => node.checkVisibility({visibilityProperty: true})"
            " && (node.ariaLabel ?? node.textContent).trim() === arguments[1]) ?? null"
        )
        return self.wait(lambda: self.script(find, f"{within} button", label))

    def press(self, label: str, within: str = "") -> None:
        self.button(label, within).click()

    @property
    def composer(self) -> WebElement:
        return self.find(".composer textarea")

    def ask(self, text: str) -> None:
        """Type a message of one line and send it."""
        self.composer.send_keys(text + Keys.ENTER)

    def answers(self) -> list[WebElement]:
        return self.all(".from-model")

    def ended(self, number: int = 1) -> WebElement:
        """Wait until the answer of this number has ended; return it."""

        def found() -> WebElement | None:
            answers = self.answers()
            is_running = self.all(".growing")
            return answers[number - 1] if len(answers) >= number and not is_running else None

        return self.wait(found)

    def script(self, text: str, *arguments: Any) -> Any:
        return self.driver.execute_script(text, *arguments)

    def emulate(self, **features: str) -> None:
        """Set what the system prefers, such as ``prefers_color_scheme="dark"``; nothing ever moves."""
        wanted = {"prefers_reduced_motion": "reduce", **features}
        listed = [
            {"name": name.replace("_", "-"), "value": value} for name, value in wanted.items()
        ]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": listed})

    def resize(self, width: int, height: int, is_phone: bool = False) -> None:
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": is_phone}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)

    def complaints(self) -> list[str]:
        """Return what the browser has put on its console since it was last asked, errors alone."""
        return [
            entry["message"]
            for entry in self.driver.get_log("browser")
            if entry["level"] == "SEVERE"
        ]
