"""Small trained runs, and the page in Chromium."""

from __future__ import annotations

import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from throughtime.cli import main
from throughtime.runtime import load
from throughtime.runtime.trained import Trained

LINE = "the \"quick brown\" fox (jumps) over 'the lazy' dog [0], and then it sleeps.\n"
TRAINED = {
    "text": ["--hidden", "13,11", "--embedding", "5", "--steps", "30", "--batch", "3"],
    "frames": ["--hidden", "9", "--steps", "6", "--limit", "24"],
    "tag": ["--hidden", "7", "--steps", "4", "--limit", "60"],
    "classify": ["--hidden", "7", "--steps", "4", "--limit", "120"],
    "transcribe": ["--hidden", "7", "--steps", "2", "--limit", "24"],
}


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Trained]:
    """A run of a task, trained for a moment when it is first asked for."""
    folder, kept = tmp_path_factory.mktemp("runs"), dict[str, Trained]()
    (folder / "book.txt").write_text(LINE * 60, encoding="utf-8")

    def run(task: str) -> Trained:
        if task not in kept:
            data = ["--data", str(folder / "book.txt")] if task == "text" else []
            command = ["train", task, *data, "--out", str(folder / task), "--device", "cpu", "--no-baselines"]
            assert main([*command, *TRAINED[task]]) == 0
            kept[task] = load(folder / task)
        return kept[task]

    return run


@pytest.fixture(scope="module")
def served(runs: Callable[[str], Trained]) -> Iterator[str]:
    """The address of a server with the page for a text, a frames and a transcribe run."""
    uvicorn = pytest.importorskip("uvicorn")
    from starlette.applications import Starlette

    from throughtime.page import routes

    app = Starlette(routes=routes({name: runs(name) for name in ("text", "frames", "transcribe")}))
    held = socket.socket()
    held.bind(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="off"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [held]}, daemon=True)
    thread.start()
    until = time.monotonic() + 30
    while not server.started:
        assert time.monotonic() < until, "the server did not start within 30 s"
        time.sleep(0.02)
    yield f"http://127.0.0.1:{held.getsockname()[1]}/"
    server.should_exit = True
    thread.join(10)
    held.close()


class Browser:
    """Chromium with a page; every wait ends after 20 s."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver

    def look(self, width: int = 1200, height: int = 1000, dark: bool = False) -> None:
        sizes = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", sizes)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})

    def open(self, address: str, model: str | None = None) -> None:
        self.driver.get("about:blank")
        self.driver.get(address)
        self.wait("return throughtime.state.trace && !message.className")
        if model is not None and model != self.js("return throughtime.state.model.name"):
            self.js("model.value = arguments[0]; model.dispatchEvent(new Event('change'))", model)
            self.wait(
                "return throughtime.state.model.name === arguments[0] && throughtime.state.trace && !message.className",
                model,
            )

    def js(self, script: str, *values: Any) -> Any:
        return self.driver.execute_script(script, *values)

    def wait(self, script: str, *values: Any) -> Any:
        until = time.monotonic() + 20
        while True:
            if found := self.js(script, *values):
                return found
            assert time.monotonic() < until, (
                f"never true: {script}; the page says {self.js('return message.textContent')!r}"
            )
            time.sleep(0.05)

    def keys(self, *keys: str) -> None:
        self.driver.switch_to.active_element.send_keys(*keys)

    def click(self, name: str) -> None:
        self.driver.find_element("id", name).click()

    def type(self, text: str) -> None:
        """Put a text into the field, as a paste does, and wait until it is read."""
        self.js("text.value = arguments[0]; text.dispatchEvent(new Event('input'))", text)
        same = "return throughtime.state.trace && throughtime.state.trace.names.join('') === arguments[0]"
        painted = "/v\\d/.test(cells.querySelector('[role=row]:last-child i:last-child').className)"
        self.wait(f"{same} && !message.className && {painted}", text)

    def complaints(self) -> list[str]:
        """What the console holds: errors of scripts, refused fetches, broken policies."""
        return [entry["message"] for entry in self.driver.get_log("browser")]


@pytest.fixture(scope="session")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """Headless Chromium, driven through selenium."""
    webdriver = pytest.importorskip("selenium.webdriver")
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if program is None or driver is None:
        pytest.skip("chromium and chromedriver are needed to look at the page: install them")
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = program
    profile: Path = tmp_path_factory.mktemp("chromium")
    for option in (
        *(
            "headless=new",
            "no-sandbox",
            "disable-gpu",
            "disable-quic",
            "no-first-run",
            "disable-background-networking",
        ),
        *("disable-component-update", "disable-sync", "disable-dev-shm-usage", f"user-data-dir={profile}"),
    ):
        options.add_argument(f"--{option}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    found = webdriver.Chrome(options=options, service=Service(driver))
    found.set_page_load_timeout(30)
    found.set_script_timeout(30)
    yield Browser(found)
    found.quit()


@pytest.fixture
def browser(chromium: Browser) -> Browser:
    """The same with an empty console, light, 1,200 pixels wide."""
    chromium.driver.get("about:blank")
    chromium.complaints()
    chromium.look()
    return chromium
