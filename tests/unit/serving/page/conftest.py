"""One Chromium for all tests of the page; each test has a server of its own and a page that was never used."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from tests.support.scripted_server import ScriptedServer

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

    from tests.support.browser import Page


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    pytest.importorskip("selenium", reason="selenium is not installed")
    from tests.support.browser import missing_browser, open_browser

    if missing_browser():
        pytest.skip(missing_browser())
    driver = open_browser(tmp_path_factory.mktemp("browser"))
    yield driver
    driver.quit()


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    server = ScriptedServer()
    yield server
    server.stop()


@pytest.fixture
def page(browser: Chrome, server: ScriptedServer) -> Iterator[Page]:
    from tests.support.browser import Page

    page = Page(browser, server.address)
    page.open()
    page.complaints()  # of the test before
    yield page
    browser.get(
        "about:blank"
    )  # an answer that never ends would pulse on beside the tests of other files
