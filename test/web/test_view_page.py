"""The page in a real browser: Chromium, without a window."""

from __future__ import annotations

import time

import cv2
import numpy as np
import pytest

from rt_seg_ros.errors import UserError
from rt_seg_ros.labels import load_label_space
from rt_seg_ros.web import server as servers
from rt_seg_ros.web.board import Seen
from rt_seg_ros.web.server import NEWS_TIMEOUT
from view_harness import HEIGHT, WIDTH, Client, wait

CAMVID = load_label_space("camvid11")

PIXELS = """
const canvas = document.getElementById("canvas");
return [...canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data];
"""


class Page:
    """What a person does with the page, and sees of it."""

    def __init__(self, browser, server, path="/"):
        self.browser = browser
        self.server = server
        browser.get(f"http://127.0.0.1:{server.server_port}{path}")

    def run(self, script, *arguments):
        return self.browser.execute_script(script, *arguments)

    def find(self, selector):
        return self.browser.find_element("css selector", selector)

    def text(self, selector):
        return self.run("return document.querySelector(arguments[0]).textContent", selector)

    def wait(self, script, what, timeout=30.0):
        return wait(lambda: self.run(script), what, timeout)

    def wait_picture(self):
        """Wait for a picture; return its number."""
        self.wait("return picture !== null && state !== null && rows.size > 0", "a picture")
        return self.run("return seen.picture")

    def pixels(self):
        """Return what the canvas shows, RGB (H, W, 3)."""
        size = self.run("return [canvas.height, canvas.width]")
        return np.array(self.run(PIXELS), np.uint8).reshape(*size, 4)[:, :, :3]

    def hold(self):
        """Pause, and wait until nothing changes any more."""
        self.find("#pause").click()
        self.wait("return state.status === 'paused'", "the pause")
        last = -1
        while (number := self.run("return seen.picture")) != last:
            last = number
            time.sleep(0.6)

    def set_opacity(self, percent):
        self.run(
            "const o = document.getElementById('opacity'); o.value = arguments[0];"
            "o.dispatchEvent(new Event('input', {bubbles: true}))",
            percent,
        )

    def labels(self):
        """Return the class ids that the page has, (H, W)."""
        return np.array(self.run("return [...picture.ids]"), np.uint8).reshape(HEIGHT, WIDTH)


def interior(labels, class_id):
    """Return where a class is, and no line is drawn between it and another."""
    mask = (labels == class_id).astype(np.uint8)
    padded = cv2.copyMakeBorder(mask, 1, 1, 1, 1, cv2.BORDER_REPLICATE)
    return cv2.erode(padded, np.ones((3, 3), np.uint8))[1:-1, 1:-1].astype(bool)


@pytest.fixture
def page(browser, serve):
    page = Page(browser, serve())
    page.wait_picture()
    return page


def test_a_frame_appears_and_is_followed_by_others(page):
    first, number = page.pixels(), page.wait_picture()
    assert first.shape == (HEIGHT, WIDTH, 3) and first.std() > 10
    page.wait(f"return seen.picture > {number + 2}", "other pictures")
    assert (page.pixels() != first).mean() > 0.05
    assert page.text("#source") == "drive.mcap" and page.text("#status") == "live"
    assert page.run("return document.title") == "drive.mcap · rt-seg view"


def test_the_slider_lays_the_classes_colours_over_the_camera(page):
    page.hold()
    page.set_opacity(0)
    camera = page.pixels().astype(float)
    assert page.text("#opacity-value") == "0 %"
    labels = page.labels()
    for percent in (50, 100):
        page.set_opacity(percent)
        shown = page.pixels().astype(float)
        class_id = np.bincount(labels.reshape(-1)).argmax()
        where = interior(labels, class_id)
        assert where.sum() > 20
        colour = np.array(CAMVID.classes[class_id].color, float)
        expected = camera[where] * (1 - percent / 100) + colour * percent / 100
        assert np.abs(shown[where] - expected).max() <= 3
    page.browser.refresh()
    page.wait_picture()
    assert page.text("#opacity-value") == "100 %"  # kept from visit to visit


def test_a_class_is_hidden_and_shown_again(page):
    page.hold()
    page.set_opacity(100)
    labels = page.labels()
    class_id = int(np.bincount(labels.reshape(-1)).argmax())
    name = CAMVID.classes[class_id].name
    before = page.pixels()
    box = page.find(f".class input[data-name='{name}']")
    box.click()
    after = page.pixels()
    where = interior(labels, class_id)
    assert (before[where] == CAMVID.classes[class_id].color).all()
    assert (after[where] != before[where]).any(axis=1).mean() > 0.9  # the camera shows through
    elsewhere = ~cv2.dilate((labels == class_id).astype(np.uint8), np.ones((3, 3))).astype(bool)
    assert (after[elsewhere] == before[elsewhere]).all()
    box.click()
    assert (page.pixels() == before).all()

    page.find("#none").click()
    bare = page.pixels()
    page.set_opacity(0)
    assert (page.pixels() == bare).all()
    page.set_opacity(100)
    page.run("document.querySelector(arguments[0]).click()", f".class [aria-label='only {name}']")
    alone = page.pixels()
    assert (alone[where] == before[where]).all()
    assert page.run("return document.querySelectorAll('.class input:checked').length") == 1
    page.find("#all").click()
    assert (page.pixels() == before).all()


def test_the_shares_of_the_classes_are_those_of_the_picture(page):
    page.hold()
    labels = page.labels()
    rows = page.run(
        "return [...document.querySelectorAll('.class')].map((row) => [row.querySelector('.name').textContent,"
        "row.querySelector('.share').textContent, row.querySelector('.bar i').style.transform])"
    )
    assert [row[0] for row in rows] == list(CAMVID.names)
    for (_, share, bar), entry in zip(rows, CAMVID.classes, strict=True):
        part = (labels == entry.id).mean()
        assert share == ("\N{EN DASH}" if part == 0 else "< 0.1 %" if part < 0.001 else f"{100 * part:.1f} %")
        assert float(bar.removeprefix("scaleX(").removesuffix(")")) == pytest.approx(part, abs=1e-4)


def test_the_class_under_the_pointer_is_named(page):
    page.hold()
    name = page.run(
        "const box = canvas.getBoundingClientRect();"
        "const at = {clientX: box.left + box.width / 2, clientY: box.top + box.height / 2};"
        "canvas.dispatchEvent(new PointerEvent('pointermove', at)); return classUnder(at).name"
    )
    assert name == CAMVID.classes[page.labels()[HEIGHT // 2, WIDTH // 2]].name
    assert page.text("#under-name") == name and page.find("#under").is_displayed()
    page.run("canvas.dispatchEvent(new PointerEvent('pointerleave'))")
    assert not page.find("#under").is_displayed()


def test_the_graphs_have_points_and_tell_them(page):
    page.wait("return samples.length > 8", "samples")
    page.wait("return Number(document.querySelector('#latency path.total').dataset.points) > 8", "the line")
    line = page.run("return document.querySelector('#latency path.total').getAttribute('d')")
    assert line.startswith("M") and line.count("L") > 4 and "NaN" not in line
    page.wait("return document.querySelectorAll('#frames rect.shown').length >= 1", "bars")
    assert "median" in page.text("#latency-figure") and "a second" in page.text("#frames-figure")
    last = page.run("return samples[samples.length - 1]")
    assert last["received"] >= last["processed"] + last["dropped"] + last["rejected"]
    assert int(page.text("#received").replace(",", "")) >= last["processed"] > 8
    page.run(
        "const box = document.getElementById('latency'), at = box.getBoundingClientRect();"
        "box.dispatchEvent(new PointerEvent('pointermove', {clientX: at.right - 4, clientY: at.top + 20}))"
    )
    assert "network" in page.text("#latency-figure")
    # A page that comes later begins with the minute before.
    number = page.run("return samples.length")
    page.browser.refresh()
    page.wait_picture()
    assert page.run("return samples.length") >= number


def test_another_model_takes_over(page):
    options = page.run("return [...document.getElementById('model').options].map((one) => one.value)")
    assert options == ["cgnet", "frfnet_slim", "csrnet_light"]
    before = page.run("return seen.picture")
    page.run(
        "const s = document.getElementById('model'); s.value = 'frfnet_slim'; s.dispatchEvent(new Event('change'))"
    )
    page.wait("return state.model === 'frfnet_slim' && !state.switching", "the other model")
    assert "frfnet_slim" in page.text("#runs") and page.text("#status") == "live"
    page.wait(f"return seen.picture > {before + 2}", "its pictures")


def test_a_model_that_fails_is_told_and_the_choice_goes_back(browser, serve):
    server = serve()
    server.feed._choices["csrnet_light"] = server.feed._choices["csrnet_light"].__class__(
        model="csrnet_light", weights="/nowhere.safetensors"
    )
    page = Page(browser, server)
    page.wait_picture()
    page.run(
        "const s = document.getElementById('model'); s.value = 'csrnet_light'; s.dispatchEvent(new Event('change'))"
    )
    page.wait("return document.getElementById('message').textContent.includes('nowhere.safetensors')", "the reason")
    page.wait("return document.getElementById('model').value === 'cgnet'", "the former choice")


def test_a_source_that_has_ended_says_so_and_can_be_started_again(browser, serve):
    page = Page(browser, serve(loop=False, rate=4))
    page.wait("return !document.getElementById('notice').hidden", "the end")
    assert "ended" in page.text("#notice-text") and page.text("#status") == "ended"
    number = page.wait_picture()
    page.find("#again").click()
    page.wait(f"return seen.picture > {number}", "pictures again")


def test_a_single_image_is_shown_and_stays(browser, serve, tmp_path):
    path = tmp_path / "photo.png"
    cv2.imwrite(str(path), np.full((HEIGHT, WIDTH, 3), (90, 140, 60), np.uint8))
    page = Page(browser, serve(source=path))
    page.server.board.update(kind="image")
    page.wait_picture()
    page.wait("return document.getElementById('status').textContent === 'still image'", "the end")
    assert not page.find("#notice").is_displayed() and not page.find("#restart").is_displayed()
    page.set_opacity(0)
    assert np.abs(page.pixels().astype(int) - (60, 140, 90)).max() <= 3


def test_the_keyboard_does_what_the_pointer_does(page):
    from selenium.webdriver.common.keys import Keys

    body = page.find("body")
    page.set_opacity(70)
    body.send_keys("o")
    assert page.text("#opacity-value") == "0 %"
    body.send_keys("o")
    assert page.text("#opacity-value") == "70 %"
    body.send_keys(" ")
    page.wait("return state.status === 'paused'", "the pause")
    assert page.find("#pause").get_attribute("aria-label") == "Go on"
    body.send_keys(" ")
    page.wait("return state.status === 'running'", "the end of the pause")
    # By the tabulator to every control, each with a name and a visible focus.
    names = set()
    for _ in range(60):
        page.browser.switch_to.active_element.send_keys(Keys.TAB)
        name = page.run(
            "const e = document.activeElement; if (e === document.body) return '';"
            "return [e.getAttribute('aria-label') || e.labels?.[0]?.textContent || e.textContent,"
            "getComputedStyle(e).outlineStyle].join('|')"
        )
        if name:
            label, _, outline = name.partition("|")
            assert label.strip() and outline != "none", name
            names.add(label.strip())
    assert {"Pause", "From the beginning", "Full screen", "all", "none", "only road"} <= names
    assert any(name.startswith("Overlay") for name in names) and any(name.startswith("road") for name in names)
    box = page.find(".class input[data-name='road']")
    box.send_keys(" ")
    assert not box.is_selected() and page.run("return state.status") == "running"


@pytest.mark.parametrize("width", [320, 400, 768, 1100, 1400, 2200])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_overflows_at_any_width_and_the_colours_follow_the_system(browser, serve, width, scheme):
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": False}
    )
    browser.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    )
    page = Page(browser, serve())
    page.wait_picture()
    assert page.run("return document.documentElement.scrollWidth") <= width
    over = page.run(
        "return [...document.querySelectorAll('main *, header *')].filter((e) => { const b = e.getBoundingClientRect();"
        "return b.width && !e.closest('svg') && (b.right > innerWidth + 1 || b.left < -1); })"
        ".map((e) => e.outerHTML.slice(0, 80))"
    )
    assert not over
    ground = page.run("return getComputedStyle(document.documentElement).backgroundColor")
    assert (int(ground.partition("(")[2].partition(",")[0]) > 128) == (scheme == "light")


def test_text_stands_out_from_its_ground(page):
    """Every text has a contrast of at least 4.5, in light and dark (WCAG 2.2, 1.4.3)."""
    script = """
    const channel = (v) => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
    const luminance = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
    const parse = (text) => text.match(/[\\d.]+/g).map(Number);
    const poor = [];
    for (const e of document.querySelectorAll("header *, main *, footer *")) {
      const own = [...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
      if (!own || !e.getBoundingClientRect().width || e.closest(".picture, svg")) continue;
      let ground = e;
      while (ground && (parse(getComputedStyle(ground).backgroundColor)[3] ?? 1) < 1) ground = ground.parentElement;
      const pair = [luminance(parse(getComputedStyle(e).color)),
        luminance(parse(getComputedStyle(ground ?? document.documentElement).backgroundColor))];
      const contrast = (Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05);
      if (contrast < 4.5) poor.push(`${e.textContent.trim().slice(0, 20)}: ${contrast.toFixed(2)}`);
    }
    return poor;
    """
    for scheme in ("light", "dark"):
        page.browser.execute_cdp_cmd(
            "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        )
        assert page.run(script) == []


def test_two_browsers_tabs_and_a_stalled_one(page):
    """Another tab and a viewer that never reads take nothing from the first."""
    import socket

    first = page.browser.current_window_handle
    with socket.create_connection(("127.0.0.1", page.server.server_port)) as stalled:
        stalled.sendall(b"GET /news HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" * 40)
        page.browser.switch_to.new_window("window")
        try:
            other = Page(page.browser, page.server)
            number = other.wait_picture()
            other.wait(f"return seen.picture > {number + 3}", "pictures in the second")
            page.browser.close()
        finally:
            page.browser.switch_to.window(first)
        number = page.run("return seen.picture")
        page.wait(f"return seen.picture > {number + 3}", "pictures in the first")
    assert len(list(Client(page.server).pictures(2))) == 2


def test_a_read_only_page_offers_nothing_that_it_cannot_do(browser, serve):
    page = Page(browser, serve(read_only=True))
    page.wait_picture()
    assert not page.find("#model").is_enabled() and not page.find("#restart").is_displayed()
    page.find("#pause").click()  # holds the picture here, and nowhere else
    assert page.text("#status") == "picture held" and page.server.board.state.status == "running"
    page.set_opacity(20)
    assert page.text("#opacity-value") == "20 %"


def choose(page, model):
    page.run(
        "const s = document.getElementById('model'); s.value = arguments[0]; s.dispatchEvent(new Event('change'))",
        model,
    )


def test_a_command_that_is_refused_is_told_until_the_next_one(page, monkeypatch):
    def refuse(name):
        raise UserError("/segmentation refuses: no weights")

    said = "return document.getElementById('message').textContent"
    monkeypatch.setattr(page.server.feed, "choose_model", refuse)
    choose(page, "csrnet_light")
    page.wait(f"{said} === '/segmentation refuses: no weights'", "the refusal")
    assert page.run("return document.getElementById('model').value") == "cgnet"
    page.server.board.update(size="another")
    page.wait("return state.size === 'another'", "another state")
    assert "refuses" in page.run(said)
    page.find("#restart").click()
    page.wait(f"{said} === ''", "its end by a command")
    choose(page, "csrnet_light")
    page.wait(f"{said} !== ''", "the refusal")
    page.server.feed.pause(True)
    page.wait(f"return state.status === 'paused' && {said.removeprefix('return ')} === ''", "its end by a status")
    choose(page, "csrnet_light")
    page.wait(f"{said} !== ''", "the refusal while paused")
    page.server.board.update(message="a frame could not be read")
    page.wait(f"{said} === 'a frame could not be read'", "what is said of the source")
    complaints = [entry["message"] for entry in page.browser.get_log("browser")]
    assert all("status of 409" in text for text in complaints), complaints  # Chromium's own, of each refusal


def test_a_connection_that_falls_silent_is_taken_for_lost_and_made_anew(page, monkeypatch):
    monkeypatch.setattr(servers, "NEWS_TIMEOUT", 60.0)
    page.run(
        "window.limits = []; const real = AbortSignal.timeout.bind(AbortSignal);"
        "AbortSignal.timeout = (limit) => { limits.push(limit); return real(limit / 30); }"
    )
    page.wait("return limits.length > 1", "a question with that limit")
    assert page.run("return limits[0] / 1000") > NEWS_TIMEOUT + servers.WRITE_TIMEOUT
    page.server.feed.pause(True)
    page.wait("return document.getElementById('status').textContent === 'no connection'", "the loss")
    assert "cannot be reached" in page.text("#notice-text")
    page.server.feed.pause(False)
    number = page.run("return seen.picture")
    page.wait(f"return seen.picture > {number + 2}", "pictures again")
    assert page.text("#status") == "live"


def test_what_came_while_the_picture_was_held_is_shown_then(browser, serve):

    page = Page(browser, serve(read_only=True))
    number = page.wait_picture()
    page.find("#pause").click()
    page.wait(f"return seen.picture > {number + 1}", "pictures that are not shown")
    page.server.feed.pause(True)
    page.wait("return state.status === 'paused'", "the last of them")
    time.sleep(0.6)
    last = page.server.board.next(Seen(), 0).picture
    assert page.text("#status") == "paused" and page.find("#pause").is_displayed()
    page.find("body").send_keys(" ")
    page.wait(f"return picture.head.stamp === {last.stamp_ns / 1e9!r}", "the last picture")
    page.find("body").send_keys(" ")  # nothing comes that could be held
    assert page.run("return frozen") is False


def test_a_still_image_is_not_held(browser, serve, tmp_path):

    path = tmp_path / "photo.png"
    cv2.imwrite(str(path), np.full((HEIGHT, WIDTH, 3), (90, 140, 60), np.uint8))
    page = Page(browser, serve(source=path))
    page.server.board.update(kind="image")
    number = page.wait_picture()
    page.wait("return document.getElementById('status').textContent === 'still image'", "the end")
    page.find("body").send_keys(" ")
    assert page.run("return frozen") is False
    choose(page, "frfnet_slim")
    page.wait(f"return state.model === 'frfnet_slim' && seen.picture > {number}", "the labels of another")
    page.wait("return picture.head.space === state.space", "them on the page")


def test_a_camera_that_is_not_there_leaves_the_choice_of_even_one(page):
    page.server.board.update(cameras=["front"], camera="", can=["camera"])
    page.wait("return !document.getElementById('camera-choice').hidden", "the choice")
    assert page.run("return document.getElementById('camera').value") == ""
    page.server.board.update(camera="front")
    page.wait("return document.getElementById('camera-choice').hidden", "its end")


def test_slow_frames_are_no_gaps(page):
    page.hold()
    script = """
    const end = now();
    samples = arguments[0].map((ago, i) => ({ time: end - ago, total: 9, network: 5, wait: 1, received: i, processed: i,
      dropped: 0, rejected: 0, age: null }));
    latency.draw();
    frames.draw();
    return [document.querySelector("#latency path.total").getAttribute("d").split("M").length - 1,
      document.querySelectorAll("#frames rect.shown").length, document.getElementById("frames-figure").textContent];
    """
    assert page.run(script, [20, 16, 12, 8, 4]) == [1, 4, "0.3 a second, 0 % dropped"]
    pieces, bars, _ = page.run(script, [20, 19.5, 19, 18.5, 3, 2.5, 2, 1.5])
    assert pieces == 2 and bars >= 4


def test_counts_that_begin_anew_are_not_set_against_those_before(page):
    page.hold()
    board = page.server.board
    for count in (1000, 1001):
        board.record(9, 5, 1, (count, count, 0, 0))
    for count in (5, 6, 7):
        board.record(9, 5, 1, (count, count, 0, 0))
    board.update(camera="front")
    page.wait("return samples.length === 3", "the new ones alone")
    page.wait("return document.getElementById('frames-figure').textContent.includes('a second')", "the figure")
    assert "-" not in page.text("#frames-figure")
    board.update(camera="rear")
    page.wait("return samples.length === 0", "the end of the other camera's")


def test_a_view_that_ends_is_asked_once_a_second(page):
    page.run("window.asked = 0; const f = fetch; window.fetch = (...of) => { asked++; return f(...of); }")
    page.server.feed.pause(True)
    page.server.board.close()
    page.wait("return document.getElementById('notice-text').textContent.includes('the view is ending')", "the end")
    before = page.run("return asked")
    time.sleep(3)
    assert 2 <= page.run("return asked") - before <= 4


def test_an_open_view_hides_its_token_and_survives_a_reload(browser, serve):
    server = serve(host="0.0.0.0")
    page = Page(browser, server, f"/?token={server.gate.token}")
    page.wait_picture()
    assert "token" not in page.browser.current_url
    page.browser.refresh()
    page.wait_picture()
    assert page.run("return document.cookie") == ""  # no script can read it


def test_a_lost_server_is_told(browser, serve):
    server = serve()
    page = Page(browser, server)
    page.wait_picture()
    server.stop()
    page.wait("return document.getElementById('status').textContent === 'no connection'", "the loss")
    assert "Trying again" in page.text("#notice-text") and not page.find("#again").is_displayed()


def test_class_names_cannot_smuggle_anything_in(browser, serve):
    server = serve()
    page = Page(browser, server)
    page.wait_picture()
    page.hold()
    evil = "<img src=x onerror=alert(1)>"
    server.board.update(source=evil, message=evil)
    server.board.use_space("evil", [(0, evil, (1, 2, 3))])
    page.wait("return state.space_name === 'evil'", "the names")
    assert page.text(".class .name") == evil and page.text("#source") == evil
    assert page.run("return document.images.length") == 0
