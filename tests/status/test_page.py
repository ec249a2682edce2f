"""The live page in a real browser, of a real service on a real broker: narrow, wide, light, dark, by keyboard."""

import asyncio
import signal
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx2
import pytest
from playwright.async_api import Browser, Page, expect
from prometheus_client.parser import text_string_to_metric_families

from compose.kafka_probe import free_ports
from consumer.telemetry.catalogue import INSTRUMENTS, Kind
from tests.support.browser import chromium
from tests.support.kafka import Broker, Written
from tests.support.scenario import (
    Outcomes,
    event,
    fresh_service,
    make_clip,
    outcomes,
    publish,
    settings_for,
    until_settled,
)
from tests.support.service import ServiceProcess

pytestmark = pytest.mark.kafka

EVIL = "<b>\u202eevil"
SHAPES = [(width, scheme) for width in (390, 1280) for scheme in ("light", "dark")]
_TIMEOUT_MS = 30_000
_SILENCE_MS = 6000
"""More than the page waits for."""
_LOOK = """() => ({
  wide: document.documentElement.scrollWidth, room: innerWidth,
  ground: getComputedStyle(document.body).backgroundColor, ink: getComputedStyle(document.body).color,
  quiet: getComputedStyle(document.querySelector('dt')).color,
  sheet: getComputedStyle(document.querySelector('section')).backgroundColor,
  headings: [...document.querySelectorAll('h1, h2, h3')].map(one => one.tagName),
  named: document.querySelectorAll('tbody th[scope=row]').length,
  tenants: [...document.querySelectorAll('td.tenant')].filter(one => one.offsetWidth).length,
  small: [...document.querySelectorAll('button, footer a')].filter(one => one.offsetHeight < 24).length,
})"""
_MARK = "() => { for (const id of ['transcripts', 'lanes']) document.querySelector(`#${id} tr`).mark = 1 }"
_MARKED = """() => ['transcripts', 'lanes'].map(
  id => [...document.querySelectorAll(`#${id} tr`)].filter(one => one.mark).length)"""
_FOCUSED = """() => {
  const one = document.activeElement, style = getComputedStyle(one);
  return {
    name: one.id || one.getAttribute('aria-label') || one.textContent.trim(),
    outline: style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) >= 2,
  };
}"""


@dataclass
class Seen:
    """What the browser saw, and what became of the events."""

    figures: dict[str, str] = field(default_factory=dict)
    later: dict[str, str] = field(default_factory=dict)
    looks: dict[tuple[int, str], dict[str, Any]] = field(default_factory=dict)
    focused: list[dict[str, Any]] = field(default_factory=list)
    asked: set[str] = field(default_factory=set)
    """Origins of everything that the page loaded."""
    complaints: list[str] = field(default_factory=list)
    text: str = ""
    paused: tuple[str, str] = ("", "")
    kept: list[int] = field(default_factory=list)
    """Of a transcript's row and a lane's that were marked, how many are there after figures have changed."""
    lost: list[str] = field(default_factory=list)
    """What it said while the server refused, while it stood still, and after each."""
    meter: str = ""
    """The outline of a meter where colours are the reader's own."""
    metrics: str = ""
    found: Outcomes = field(default_factory=lambda: Outcomes([], [], [], []))
    origin: str = ""


async def _text(page: Page, name: str) -> str:
    return (await page.locator(f"#{name}").text_content()) or ""


async def _figures(page: Page) -> dict[str, str]:
    names = "state transcribed cached dead-lettered lag realtime p50 engine-name cost wer budget-rows"
    return {name: await _text(page, name) for name in names.split()}


async def _shows(page: Page, name: str, text: str) -> None:
    await expect(page.locator(f"#{name}")).to_have_text(text, timeout=_TIMEOUT_MS)


async def _shapes(browser: Browser, seen: Seen, folder: Path) -> None:
    for width, scheme in SHAPES:
        page = await browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)  # type: ignore[arg-type]
        await page.goto(seen.origin)
        await _shows(page, "state", "serving")
        seen.looks[width, scheme] = await page.evaluate(_LOOK)
        await page.screenshot(path=folder / f"page-{width}-{scheme}.png", full_page=True)
        await page.close()


async def _connections(browser: Browser, seen: Seen, service: ServiceProcess) -> None:
    """A server that answers something else, as a proxy does while ours starts anew; then one that stands still."""
    page = await browser.new_page()
    await page.clock.install()
    await page.route("**/events", lambda route: route.fulfill(status=503))
    await page.goto(seen.origin)
    seen.lost.append(await _lost(page))
    await page.unroute("**/events")
    await page.clock.run_for(_SILENCE_MS)
    await _shows(page, "state", "serving")
    service.process.send_signal(signal.SIGSTOP)
    try:
        await page.clock.run_for(_SILENCE_MS)
        seen.lost.append(await _lost(page))
    finally:
        service.process.send_signal(signal.SIGCONT)
    await _shows(page, "state", "serving")
    await page.close()


async def _lost(page: Page) -> str:
    await expect(page.locator("#state")).to_contain_text("no connection", timeout=_TIMEOUT_MS)
    return await _text(page, "state")


async def _keys(page: Page, seen: Seen) -> None:
    for _ in range(7):
        await page.keyboard.press("Tab")
        seen.focused.append(await page.evaluate(_FOCUSED))
    await page.locator("#pause").focus()
    await page.keyboard.press("Enter")
    await _shows(page, "state", "paused")
    pressed = await page.locator("#pause").get_attribute("aria-pressed")
    await page.keyboard.press("Space")
    await _shows(page, "state", "serving")
    seen.paused = (pressed or "", await _text(page, "state"))


def _events(folder: Path) -> list[Written]:
    """Eight recordings, each wanted twice, and three that are not there."""
    clips = [make_clip(folder, number, seconds=0.5) for number in range(8)]
    wanted = [
        event(
            f"{clip.path.stem}-{turn}",
            clip.uri,
            sha256=clip.digest,
            reference_text=f"{clip.text} indeed",
            tenant="acme",
        )
        for turn in range(2)
        for clip in clips
    ]
    gone = [event(f"gone-{n}", f"{folder.as_uri()}/gone-{n}.wav", tenant=EVIL) for n in range(3)]
    return [Written(one) for one in (*wanted, *gone)]


async def _run(kafka: Broker, folder: Path) -> Seen:
    (port,) = free_ports(1)
    settings = settings_for(
        kafka.bootstrap_servers,
        folder,
        http_port=port,
        simulated_usd_per_minute=0.006,
        budget_usd_per_month=20.0,
        tenant_budget_usd_per_day=["acme=0.5"],
    )
    seen, written = Seen(origin=f"http://127.0.0.1:{port}"), _events(folder)
    async with chromium() as browser, fresh_service(settings) as service:
        page = await browser.new_page()
        page.on("request", lambda request: seen.asked.add(request.url.split("/", 3)[2]))
        page.on("console", lambda message: seen.complaints.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: seen.complaints.append(str(error)))
        await page.goto(seen.origin)
        await publish(settings, *written[:-1])
        await until_settled(settings, len(written) - 1, service)
        await _shows(page, "dead-lettered", "2")
        await _shows(page, "lag", "0")
        seen.figures = await _figures(page)
        await _shows(page, "transcribed", "16")
        await page.evaluate(_MARK)
        await publish(settings, written[-1])
        await _shows(page, "dead-lettered", "3")
        seen.kept = await page.evaluate(_MARKED)
        seen.later = await _figures(page)
        await _keys(page, seen)
        await _shapes(browser, seen, folder)
        await _connections(browser, seen, service)
        await page.emulate_media(forced_colors="active")
        seen.meter = await page.locator("meter").first.evaluate("one => getComputedStyle(one).outlineStyle")
        seen.text = await page.locator("body").inner_text()
        async with httpx2.AsyncClient() as client:
            seen.metrics = (await client.get(f"{seen.origin}/metrics")).text
    seen.found = await asyncio.to_thread(outcomes, settings)
    return seen


@pytest.fixture(scope="module")
def seen(kafka: Broker, tmp_path_factory: pytest.TempPathFactory) -> Seen:
    """One service, looked at in every way."""
    return asyncio.run(_run(kafka, tmp_path_factory.mktemp("page")))


def test_the_page_shows_what_an_independent_recount_finds(seen: Seen) -> None:
    assert seen.later["transcribed"] == str(len(seen.found.transcripts)) == "16"
    assert seen.later["dead-lettered"] == str(len(seen.found.dead_letters)) == "3"
    assert seen.later["cached"] == str(len(seen.found.transcripts) - seen.found.recognitions) == "8"
    assert seen.later["wer"] == "33.3 %"
    assert seen.later["engine-name"] == "simulated"
    assert seen.later["state"] == "serving"
    assert seen.later["budget-rows"] == "everybody, this month$20.00 of $20.00 leftacme, today$0.50 of $0.50 left"


def test_the_figures_move_without_a_reload(seen: Seen) -> None:
    assert (seen.figures["dead-lettered"], seen.later["dead-lettered"]) == ("2", "3")
    assert float(seen.figures["realtime"]) > 0
    assert seen.figures["p50"].endswith((" ms", " s"))


def test_texts_stay_hidden_unless_asked_for(seen: Seen) -> None:
    assert "clip-0-0" in seen.text
    assert "not_found" in seen.text
    assert "simulated " not in seen.text.replace("simulated simulated", "")


def test_it_loads_nothing_from_elsewhere_and_complains_of_nothing(seen: Seen) -> None:
    assert seen.asked == {seen.origin.removeprefix("http://")}
    assert seen.complaints == []


@pytest.mark.parametrize(("width", "scheme"), SHAPES)
def test_it_fits_the_screen(seen: Seen, width: int, scheme: str) -> None:
    look = seen.looks[width, scheme]
    assert look["wide"] <= look["room"] == width
    assert look["small"] == 0


@pytest.mark.parametrize(("width", "scheme"), SHAPES)
def test_text_stands_out_from_its_ground_in_both_schemes(seen: Seen, width: int, scheme: str) -> None:
    look = seen.looks[width, scheme]
    assert _contrast(look["ink"], look["ground"]) >= 7
    assert _contrast(look["quiet"], look["sheet"]) >= 4.5
    assert (_luminance(look["ground"]) < 0.1) == (scheme == "dark")


def test_headings_lead_from_the_whole_to_the_part(seen: Seen) -> None:
    levels = [int(name[1]) for name in seen.looks[1280, "light"]["headings"]]
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))


def test_the_keyboard_reaches_everything_and_shows_where_it_is(seen: Seen) -> None:
    names = [one["name"] for one in seen.focused]
    assert names[0] == "Skip to the figures"
    assert names[1:5] == ["pause", "Lanes, table", "Latest transcripts, table", "Latest dead letters, table"]
    assert all(one["outline"] for one in seen.focused)


def test_a_figure_that_changes_takes_nobody_out_of_a_row_that_does_not(seen: Seen) -> None:
    assert seen.kept == [1, 1]


def test_a_lost_connection_is_said_and_taken_up_again(seen: Seen) -> None:
    refused, still = seen.lost
    assert refused == "no connection, trying again"
    assert still.startswith("no connection since ")


def test_a_name_that_others_wrote_hides_nothing(seen: Seen) -> None:
    assert seen.text.count("<b>\\u202eevil") == 3


@pytest.mark.parametrize(("width", "scheme"), SHAPES)
def test_every_row_has_its_head_and_no_column_is_left_out(seen: Seen, width: int, scheme: str) -> None:
    look = seen.looks[width, scheme]
    assert look["named"] == 4 + 16 + 3
    assert look["tenants"] == 16 + 3


def test_meters_are_seen_where_colours_are_the_readers_own(seen: Seen) -> None:
    assert seen.meter == "solid"


def test_updates_can_be_paused_and_taken_up_again(seen: Seen) -> None:
    assert seen.paused == ("true", "serving")


def test_every_instrument_of_the_catalogue_is_on_metrics(seen: Seen) -> None:
    exported = {family.name for family in text_string_to_metric_families(seen.metrics)}
    for instrument in INSTRUMENTS:
        name = instrument.name.replace(".", "_")
        unit = "_seconds" if instrument.unit == "s" else ""
        assert name + unit in exported, f"{instrument.name}: {sorted(exported)}"
    assert len([one for one in INSTRUMENTS if one.kind is Kind.HISTOGRAM]) == seen.metrics.count(" histogram\n")


def test_metrics_agree_with_the_topic(seen: Seen) -> None:
    sums: dict[str, float] = {}
    for family in text_string_to_metric_families(seen.metrics):
        for sample in family.samples:
            sums[sample.name] = sums.get(sample.name, 0.0) + sample.value
    metrics = [record.json for record in seen.found.metrics]
    assert sums["earwitness_events_total"] - _moved(seen) == len(metrics)
    assert sums["earwitness_cost_total"] == pytest.approx(sum(metric["cost_usd"] for metric in metrics))
    assert sums["earwitness_wer_errors_total"] == sum(metric["wer"]["errors"] for metric in metrics if metric["wer"])
    total = sum(metric["latency_seconds"]["total"] for metric in metrics)
    assert sums["earwitness_event_duration_seconds_sum"] == pytest.approx(total)
    assert sums["earwitness_event_duration_seconds_count"] == len(metrics)


def _moved(seen: Seen) -> float:
    return sum(
        sample.value
        for family in text_string_to_metric_families(seen.metrics)
        for sample in family.samples
        if sample.name == "earwitness_events_total" and sample.labels["earwitness_outcome"] == "moved"
    )


def _luminance(colour: str) -> float:
    """Relative luminance by WCAG 2."""
    channels = [int(part) / 255 for part in colour[colour.index("(") + 1 : -1].split(",")[:3]]
    linear = [part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _contrast(one: str, other: str) -> float:
    light, dark = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)
