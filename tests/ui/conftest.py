"""A finished, confirmed, reported and promoted search; MLflow's pages of it; a headless browser."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console
from selenium import webdriver
from selenium.common.exceptions import TimeoutException
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

ARTIFACTS = Path(os.environ.get("HEP_RAY_UI_ARTIFACTS", Path(__file__).parents[2] / "artifacts/ui"))
"""Where the screenshots are kept."""
SCRIPT = """
from hep_ray import Choice, LogUniform, Preset, Search, Space, main

space = Space(
    model="mlp",
    hidden_layers=1,
    hidden_features=16,
    scalar_scaling="standardize",
    loss="root_softmax",
    root_index=Choice(1, 3),
    optimizer="adam",
    learning_rate=LogUniform(1e-2, 3e-2),
    batch_size=64,
)
search = Search(
    name="quadrants",
    task="quadrants",
    title="Which root index tells x·y > 0 from x·y < 0?",
    space=space,
    presets={"smoke": Preset(trials=4, epochs=4, sampler="random", scheduler="none")},
    baseline={"hidden_layers": 0},
)
if __name__ == "__main__":
    main(search)
"""
QUIET = Console(quiet=True)


@pytest.fixture(scope="session")
def storage(browser, ray_session, make_search_place, tmp_path_factory) -> Path:
    """A storage in which one search went all the way: real trainings, confirmation, report and champion.

    It asks for the browser first, without which none of it is needed.
    """
    from hep_ray.confirm.plan import prepare_confirmation
    from hep_ray.confirm.run import run_confirmation
    from hep_ray.promote.run import promote
    from hep_ray.report.page import attach, write_report
    from hep_ray.search.execute import run_search
    from hep_ray.search.find import load_search
    from hep_ray.search.options import ConfirmOptions, SearchOptions
    from hep_ray.search.plan import prepare

    folder = make_search_place(tmp_path_factory.mktemp("ui"), quadrants=SCRIPT)
    script, data, runs = folder / "searches/quadrants.py", folder / "data", folder / "runs"
    search = load_search("quadrants", script.parent)
    run_search(
        prepare(search, SearchOptions(data=data, storage=runs, preset="smoke", source=script)), console=QUIET
    )
    options = ConfirmOptions("quadrants", top=1, seeds=3, storage=runs, scripts=script.parent)
    run_confirmation(prepare_confirmation(options), console=QUIET)
    attach(write_report(search, runs), runs)
    promote(runs / "quadrants")
    return runs


@pytest.fixture(scope="session")
def server(storage, tmp_path_factory) -> Iterator[tuple[str, str]]:
    """`hep-ray ui` of that storage: its address, and what it printed once it served."""
    with closing(socket.create_server(("127.0.0.1", 0))) as free:
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("server") / "log"
    code = "from hep_ray.cli import main; main()"
    words = [sys.executable, "-c", code, "ui", "--storage", str(storage), "--port", str(port)]
    with log.open("wb") as file:
        process = subprocess.Popen(
            words, stdout=file, stderr=file, env={**os.environ, "PYTHONUNBUFFERED": "1"}
        )
    try:
        deadline = time.monotonic() + 120
        while "quadrants: http" not in log.read_text():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}", log.read_text()
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 0, log.read_text()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port)).close()


@dataclass
class Browser:
    """A headless Chromium."""

    driver: webdriver.Chrome

    def open(self, address: str) -> None:
        self.driver.get("about:blank")  # an address that differs behind its # only would not be loaded anew
        self.driver.get(address)

    def find(self, css: str) -> list[WebElement]:
        """Elements, as soon as there is one."""
        return self._wait(lambda driver: driver.find_elements(By.CSS_SELECTOR, css))

    def run_link(self, name: str) -> WebElement:
        """The link to a run in the table, by a regular expression for its name."""
        (link,) = (one for one in self.find(".ag-row a") if re.fullmatch(name, one.text))
        return link

    def run_page(self, name: str) -> str:
        """Address of a run in the table, below that of the server."""
        return "#" + self.run_link(name).get_attribute("href").partition("#")[2].split("?")[0]

    def unfold(self, name: str) -> None:
        """Show the children of a run in the table."""
        cell = "./ancestor::*[contains(@col-id, 'Run Name')]//button"
        self.run_link(name).find_element(By.XPATH, cell).click()

    def expect(self, *texts: str) -> str:
        """The page's text on one line, once it holds all of these."""
        page = ""

        def there(driver: webdriver.Chrome) -> bool:
            nonlocal page
            page = " ".join(driver.find_element(By.TAG_NAME, "body").text.split())
            return all(text in page for text in texts)

        try:
            self._wait(there)
        except TimeoutException:
            self.shoot("failed")
            raise AssertionError(
                f"{[text for text in texts if text not in page]} are not on:\n{page}"
            ) from None
        return page

    def shoot(self, name: str) -> np.ndarray:
        """Keep a screenshot; returns its pixels (height, width, 3)."""
        ARTIFACTS.mkdir(parents=True, exist_ok=True)
        path = ARTIFACTS / f"{name}.png"
        self.driver.save_screenshot(str(path))
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB"), dtype=float)

    def _wait(self, condition):
        return WebDriverWait(self.driver, 60, poll_frequency=0.1).until(condition)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("Debian's packages chromium and chromium-driver are not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    # Root, as in a container, has no sandbox; /dev/shm is small there.
    for flag in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--window-size=1800,1100",
    ):
        options.add_argument(flag)
    with webdriver.Chrome(options=options, service=Service(driver)) as chrome:
        yield Browser(chrome)
