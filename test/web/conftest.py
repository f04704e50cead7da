"""A view to test: a short drive, a real network, a real server, and a browser where there is one."""

from __future__ import annotations

import shutil

import pytest

from rt_seg_ros.data.drives import write_synthetic_drive
from rt_seg_ros.pipeline import Segmenter
from rt_seg_ros.sources import open_source
from rt_seg_ros.web.board import Board, State
from rt_seg_ros.web.feed import FileFeed, model_choices
from rt_seg_ros.web.server import ViewServer
from view_harness import CONFIG, FRAMES, HEIGHT, WIDTH


@pytest.fixture(scope="session")
def drive(tmp_path_factory):
    """A rendered drive of 0.8 seconds."""
    path = tmp_path_factory.mktemp("drive") / "drive.mcap"
    write_synthetic_drive(path, FRAMES, (HEIGHT, WIDTH), seed=5)
    return path


@pytest.fixture(scope="session")
def segmenter():
    return Segmenter(CONFIG)


@pytest.fixture
def make_feed(drive, segmenter):
    """Make feeds of the drive; each is closed in the end."""
    made = []

    def make(source=drive, **options):
        board = Board(State(source="drive.mcap", kind="drive"))
        names = ["cgnet", "frfnet_slim", "csrnet_light"]
        board.update(models=[{"name": n, "label": n, "card": n} for n in names])
        made.append(FileFeed(board, segmenter, model_choices(CONFIG, names), "cgnet", open_source(source), **options))
        return made[-1]

    yield make
    for feed in made:
        feed.close()


@pytest.fixture
def serve(make_feed):
    """Serve a feed of the drive, played again and again unless said otherwise; return the server."""
    servers = []

    def start(host="127.0.0.1", read_only=False, **options):
        feed = make_feed(**{"loop": True, **options})
        server = ViewServer(feed.board, host, 0, read_only)
        servers.append(server)
        feed.start()
        server.start(feed)
        return server

    yield start
    for server in servers:
        server.stop()


@pytest.fixture(scope="session")
def chromium():
    """Return the paths of Chromium and of its driver, or skip."""
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    driver = shutil.which("chromedriver")
    if not browser or not driver:
        pytest.skip("needs Chromium and its driver: apt-get install chromium chromium-driver")
    return browser, driver


@pytest.fixture(scope="session")
def shared_browser(chromium, tmp_path_factory):
    """One browser for all tests: it takes a second or two to start."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium")
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = chromium[0]
    profile = tmp_path_factory.mktemp("profile")
    for argument in ("headless=new", "no-sandbox", "disable-dev-shm-usage", "disable-gpu", f"user-data-dir={profile}"):
        options.add_argument(f"--{argument}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = webdriver.Chrome(options=options, service=Service(chromium[1]))
    browser.set_script_timeout(20)
    yield browser
    browser.quit()


@pytest.fixture
def browser(shared_browser):
    """The browser at 1400x900, with nothing kept of tests before; what it complains of fails the test."""
    shared_browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": 1400, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    )
    shared_browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    shared_browser.get_log("browser")
    yield shared_browser
    complaints = [entry["message"] for entry in shared_browser.get_log("browser") if entry["level"] == "SEVERE"]
    if shared_browser.current_url.startswith("http"):
        shared_browser.execute_script("localStorage.clear()")
    shared_browser.get("about:blank")
    # A server that ended, or was about to, while the page still listened is no fault of the page.
    assert not [text for text in complaints if "net::ERR_" not in text and "status of 503" not in text], complaints
