"""A report in a real browser: chromium without a window, driven by playwright."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright
from report_sample import sample

from raymdm.comparison.report import write_report

HOSTILE = "<script>window.hacked = true</script><img src=x onerror='alert(1)'>"
"""Would set a flag or open a dialog if any of it ran."""
NAMES = ('a"b', f"</td>{HOSTILE}", "</script><b>x", "long" * 15)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium; where there is none the test is skipped, or fails with RAYMDM_REQUIRE_BROWSER=1.

    For a module, not a session: playwright's event loop would be in the way of other tests' own.
    """
    names = ("chromium", "chromium-browser", "google-chrome")
    found = next((path for path in map(shutil.which, names) if path), None)
    if found is None:
        missing = f"no browser is here: install one of {', '.join(names)}"
        if os.environ.get("RAYMDM_REQUIRE_BROWSER") == "1":
            pytest.fail(missing)
        pytest.skip(missing)
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture(scope="session")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two tasks, six methods, every section."""
    return write_report(*sample(), tmp_path_factory.mktemp("page"), latex=False)


@pytest.fixture(scope="session")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Everything that a user or a model wrote is markup."""
    labels = {"standard": "standard"} | dict.fromkeys(NAMES, "p_pots")
    written = sample(labels, {}, ("gsm8k", HOSTILE), text=HOSTILE)
    return write_report(*written, tmp_path_factory.mktemp("hostile"), latex=False)


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A window of 1280 x 800; a dialog or an error in the page fails the test."""
    opened = browser.new_page(viewport={"width": 1280, "height": 800})
    problems: list[str] = []
    opened.on("console", lambda message: problems.append(f"console: {message.text}"))
    opened.on("pageerror", lambda error: problems.append(f"error: {error}"))
    opened.on("dialog", lambda dialog: (problems.append(f"dialog: {dialog.message}"), dialog.dismiss()))
    yield opened
    opened.close()
    assert problems == []
