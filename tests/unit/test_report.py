"""The report is one page that asks nobody for anything, by day and by night, narrow and wide."""

import random
import shutil
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, expect, sync_playwright

from consumer.core.figures import over_time
from consumer.core.summary import Timeline
from consumer.telemetry.report import page
from schemas.codes import Reason, Route
from schemas.models import Disagreement, LatencySeconds, WordErrors
from tests.support.metrics import API, LOCAL, START, metric, paid

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
EVIL = "</script><script>document.title='evil'</script><img src=x onerror=\"document.title='evil'\">"


def a_day(tenant: str = "acme") -> Timeline:
    """A day with everything in it, always the same."""
    timeline, dice = Timeline(START - timedelta(days=1), START), random.Random(7)
    for _ in range(2000):
        at = START - timedelta(seconds=dice.uniform(1, 86_399))
        api, cached = dice.random() < 0.2, dice.random() < 0.3
        stages = {name: dice.lognormvariate(-2, 1) for name in ("fetch", "decode", "queue", "infer", "commit")}
        if dice.random() < 0.02:
            timeline.add(metric(at, reason=dice.choice([Reason.NOT_FOUND, Reason.CORRUPT_AUDIO]), tenant=tenant))
            continue
        timeline.add(
            paid(
                at,
                tenant=dice.choice([tenant, "beta", "default"]),
                engine=API if api else LOCAL,
                route=Route.CACHE if cached else Route.BREAKER_OPEN if api else Route.LOCAL,
                cached=cached,
                audio_seconds=dice.lognormvariate(3, 1.2),
                latency_seconds=LatencySeconds(total=sum(stages.values()), **stages),
                local_usd=0.0 if api or cached else 0.00004,
                api_usd=0.003 if api and not cached else 0.0,
                wer=WordErrors(errors=dice.randint(0, 3), words=20) if dice.random() < 0.3 else None,
                disagreement=Disagreement(errors=1, words=20, against="whisper") if dice.random() < 0.1 else None,
            )
        )
    return timeline


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("there is no Chromium here: the page is not looked at in a browser")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


def opened(browser: Browser, content: str, folder: Path, **chosen: Any) -> tuple[Any, list[str]]:
    """The page in a browser, and everything that it complained of or asked for."""
    file = folder / "report.html"
    file.write_text(content, encoding="utf-8")
    seen, complaints = browser.new_page(**chosen), list[str]()
    seen.on("console", lambda message: complaints.append(message.text))
    seen.on("pageerror", lambda error: complaints.append(str(error)))
    seen.on("request", lambda request: complaints.extend({request.url} - {file.as_uri()}))
    seen.goto(file.as_uri())
    return seen, complaints


@pytest.mark.parametrize("width", [390, 1400])
def test_all_plots_are_drawn_at_any_width_by_day_and_by_night(chromium: Browser, tmp_path: Path, width: int) -> None:
    size = {"width": width, "height": 900}
    seen, complaints = opened(chromium, page(a_day(), 0), tmp_path, viewport=size, color_scheme="light")

    assert seen.locator("figure").count() == 7
    assert seen.locator(".plot:has(svg.main-svg .trace)").count() == 7
    assert seen.evaluate("document.documentElement.scrollWidth <= innerWidth")
    paper, ink, ticks = map(brightness, colors(seen))
    assert paper > max(ink, ticks)
    seen.emulate_media(color_scheme="dark")
    paper, ink, ticks = map(brightness, colors(seen))
    assert paper < min(ink, ticks)
    assert complaints == []
    seen.close()


def colors(seen: Any) -> list[str]:
    """Of the paper, of the words, and of a plot's words."""
    found: list[str] = seen.evaluate(
        "[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color,"
        " getComputedStyle(document.querySelector('.plot .xtick text')).fill]"
    )
    return found


def test_names_that_others_wrote_stay_names(chromium: Browser, tmp_path: Path) -> None:
    timeline = a_day(EVIL)
    timeline.add(paid(START - timedelta(hours=1), engine=LOCAL.model_copy(update={"model": EVIL}), local_usd=0.1))
    seen, complaints = opened(chromium, page(timeline, 0), tmp_path)

    assert seen.title().startswith("Earwitness report")
    assert seen.locator("img").count() == 0
    assert seen.get_by_role("rowheader", name=EVIL).count() >= 1
    assert complaints == []
    seen.close()


def test_a_day_without_events_is_a_page_that_says_so(chromium: Browser, tmp_path: Path) -> None:
    seen, complaints = opened(chromium, page(Timeline(START - timedelta(days=1), START), 3), tmp_path)

    assert "No events ended in this time." in seen.inner_text("main")
    assert "3 records on the metrics topic are no metric events" in seen.inner_text("header")
    assert complaints == []
    seen.close()


def test_paper_is_light_and_narrow_whatever_the_screen_was(chromium: Browser, tmp_path: Path) -> None:
    size = {"width": 1400, "height": 900}
    seen, _ = opened(chromium, page(a_day(), 0), tmp_path, viewport=size, color_scheme="dark")
    plots = "[...document.querySelectorAll('.plot')].map(one => one.querySelector('svg').clientWidth - one.clientWidth)"
    before = seen.locator(".plot svg").first.evaluate("one => one.clientWidth")

    seen.evaluate("dispatchEvent(new Event('beforeprint'))")
    paper, ink, ticks = map(brightness, colors(seen))
    assert paper > max(ink, ticks)
    assert seen.evaluate("document.body.scrollWidth") <= 718, "A4 less the usual margins"
    assert seen.evaluate(plots) == [0] * 7
    seen.evaluate("dispatchEvent(new Event('afterprint'))")
    paper, ink, ticks = map(brightness, colors(seen))
    assert paper < min(ink, ticks)
    expect(seen.locator(".plot svg").first).to_have_attribute("width", str(before))
    seen.close()


def test_a_plot_without_anything_to_draw_has_no_axes(chromium: Browser, tmp_path: Path) -> None:
    timeline = Timeline(START - timedelta(days=1), START)
    for minutes in (10, 20, 100):
        timeline.add(metric(START - timedelta(minutes=minutes), reason=Reason.NOT_FOUND))
    seen, complaints = opened(chromium, page(timeline, 0), tmp_path)

    assert [one.inner_text() for one in seen.locator("figure:not(:has(.plot)) h2").all()] == [
        "Cost by engine", "Cache share", "Word errors", "Length of recordings"
    ]  # fmt: skip
    assert seen.locator(".plot:has(svg.main-svg .trace)").count() == 3
    assert complaints == []
    seen.close()


def test_what_the_plots_show_over_time_is_there_in_figures() -> None:
    table = over_time(a_day())
    assert len(table.rows) == 48
    assert sum(int(row[1]) for row in table.rows) == 2000
    assert f"<th scope='row'>{table.rows[7][0]}</th><td>{table.rows[7][1]}</td>" in page(a_day(), 0)


def brightness(color: str) -> int:
    return sum(int(part) for part in color.removeprefix("rgb(").removesuffix(")").split(","))
