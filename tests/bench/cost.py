"""What a million minutes cost by the usual policy, as the ledger says, beside what other ways would have cost.

``python -m tests.bench.cost [--events 300] [--engine ctranslate2|simulated] [--usd-per-hour 0.10] [--out FILE.json]``:
the real service on a real broker. A quarter of the events repeat a recording, a tenth of the recordings are critical
and go to the API, the critical ones and a tenth of the others are corrected by a chat model, the rest is heard here.
``ctranslate2`` is Whisper tiny.en in int8, and its engine seconds are measured; ``simulated`` takes ``--realtime`` for
the speed of a machine that is not there. The API and the chat model are scripted, at the prices of ``core.prices``,
and keep books of their own. Ends with 1 where the ledger differs from those by a micro-dollar, or it costs too much.
"""

import argparse
import asyncio
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from decimal import Decimal
from pathlib import Path
from typing import Any

from compose.local_kafka import LocalKafka
from consumer.core.cost import API_ENGINES, MINUTES, Costs
from consumer.core.prices import api_model
from consumer.core.refine import REFINER, ChatPrice
from consumer.kafka.topics import create
from consumer.settings import Settings
from schemas.models import TranscriptionMetric
from tests.bench.clips import Clip, make_clips
from tests.bench.report import machine, write_json
from tests.bench.service_run import LOADED_SECONDS, Publisher, Reader, all_at_once
from tests.bench.weights import model_for
from tests.support.kafka import Written, read_topic
from tests.support.scenario import event, settings_for
from tests.support.scripted_api import Call, Reply, failed, too_fast
from tests.support.scripted_chat import Question, ScriptedChat
from tests.support.service import serving

TOO_DEAR_USD = 5000
"""For a million minutes."""
REPEATED, CRITICAL, CORRECTED = 0.25, 0.10, 0.10
API_MODEL = "gpt-transcribe"
LARGE = api_model("gpt-4o-transcribe")
"""The price table lists no chat models; this one's tokens cost what those of a large one do."""
CHARACTERS_A_TOKEN = 4
WORDS_A_SECOND = 2.5
WORDS = ("the", "caller", "asks", "whether", "last", "month's", "second", "invoice", "has", "been", "paid", "and", "by")
_MICRODOLLAR = Decimal("0.000001")


def chat_price() -> ChatPrice:
    """What the chat model's tokens cost."""
    given, made = LARGE.usd_per_million_input_tokens, LARGE.usd_per_million_output_tokens
    assert given is not None
    assert made is not None
    return ChatPrice(given, made)


class Sellers(ScriptedChat):
    """The API and the chat model; ``heard_usd`` and ``corrected_usd`` are what they would put on a bill."""

    def __init__(self) -> None:
        super().__init__(lambda question: question.transcript.capitalize() + ".")
        self.heard_usd = self.corrected_usd = Decimal(0)
        self._recogniser = _said
        self.always(self._bill)

    def _bill(self, call: Call) -> Reply:
        """Now and then a busy or a broken server, as anywhere; what is answered is billed."""
        if len(self.calls) % 10 == 5:
            return too_fast(retry_after_ms="200")
        if len(self.calls) % 10 == 9:
            return failed(503)
        self.heard_usd += api_model(API_MODEL).usd_for_seconds(call.audio_seconds)
        return Reply()

    def _chat(self, question: Question) -> Any:
        asked = sum(len(message["content"]) for message in question.body["messages"])
        given, made = (count // CHARACTERS_A_TOKEN for count in (asked, len(self._words(question))))
        self._usage = {"prompt_tokens": given, "completion_tokens": made, "total_tokens": given + made}
        self.corrected_usd += chat_price().usd(given, made)
        return super()._chat(question)


async def _said(call: Call) -> str:
    """As many words as are said in so much time."""
    count = max(1, round(call.audio_seconds * WORDS_A_SECOND))
    return " ".join(WORDS[number % len(WORDS)] for number in range(count))


def events_of(clips: Sequence[Clip], count: int) -> dict[str, Written]:
    """By id, in random order, always the same: every clip once, and some of them again."""
    dice = random.Random(3)
    critical = {clip.name for clip in dice.sample(clips, round(len(clips) * CRITICAL))}
    chosen = [*clips, *dice.choices(clips, k=count - len(clips))]
    dice.shuffle(chosen)
    return {
        f"e{number}": Written(event(f"e{number}", clip.path.as_uri(), critical=clip.name in critical))
        for number, clip in enumerate(chosen)
    }


def service_settings(servers: str, folder: Path, asked: argparse.Namespace) -> Settings:
    """The usual policy, with the engine that was asked for."""
    price = chat_price()
    own: dict[str, Any] = {
        "engine": "simulated",
        "simulated_usd_per_minute": asked.usd_per_hour / 60 / asked.realtime,
    }
    if asked.engine != "simulated":
        own = {
            "engine": asked.engine,
            "model": str(model_for(asked.engine, "", folder).absolute()),
            "devices": ["cpu"],
            "decode_workers": 2,
        }
    return settings_for(
        servers,
        folder,
        **own,
        language="en",
        local_usd_per_hour=asked.usd_per_hour,
        fallback="openai",
        api_model=API_MODEL,
        critical_route="api",
        refine_model="chat",
        refine_share=CORRECTED,
        refine_input_usd_per_million_tokens=float(price.input_usd),
        refine_output_usd_per_million_tokens=float(price.output_usd),
    )


async def run(asked: argparse.Namespace, folder: Path, servers: str) -> dict[str, Any]:
    """Serve the load once; what the ledger and the sellers say of it."""
    clips = await asyncio.to_thread(make_clips, folder / "clips", round(asked.events * (1 - REPEATED)), "usual")
    events = events_of(clips, asked.events)
    settings = service_settings(servers, folder, asked)
    await create(settings)
    async with Sellers() as sellers:
        environment = {"OPENAI_BASE_URL": sellers.base_url, "OPENAI_API_KEY": "x"}
        async with serving(settings, **environment) as service:
            await service.until_log("lane_open", settings.partitions, LOADED_SECONDS)
            with Reader(settings) as reader:
                publisher, began = Publisher(settings), time.monotonic()
                await all_at_once(publisher, reader, events)
                seconds = time.monotonic() - began
            if await service.stop():
                raise RuntimeError("the service failed:\n" + "\n".join(service.lines[-20:]))
    costs = Costs()
    for record in await asyncio.to_thread(read_topic, servers, settings.topics.metrics):
        costs.add(TranscriptionMetric.model_validate_json(record.value or b""))
    # a machine that is not there has no time of its own
    machine_usd = None if asked.engine == "simulated" else seconds * asked.usd_per_hour / 3600
    return figures(costs, sellers, machine_usd)


def figures(costs: Costs, sellers: Sellers, machine_usd: float | None) -> dict[str, Any]:
    """US dollars for a million minutes of such traffic, and the books side by side."""
    to_million = MINUTES * 60 / costs.transcribed_seconds
    tries: Counter[str] = Counter()
    for (engine, _), line in costs.by_engine.items():
        tries[engine] += line.count
    ledger = {name: _of(costs, name) for name in sorted(API_ENGINES)}
    what_if = costs.what_if(api_model(API_MODEL))
    assert what_if.this_policy_usd is not None
    without_memory = costs.total.usd * MINUTES * 60 / costs.heard_seconds
    return {
        "events": costs.total.count,
        "audio_minutes": float(costs.transcribed_seconds / 60),
        "repeated_share": float(costs.cache_share or 0),
        "tries": dict(tries),
        "failed_tries": costs.failed.count,
        "per_million_minutes": {
            "local": float(costs.local.usd * to_million),
            "api": float(ledger["openai"] * to_million),
            "corrections": float(ledger[REFINER] * to_million),
            **what_if.as_dict(),
            "saved_by_repeats": float(without_memory - what_if.this_policy_usd),
            "whole_machine": None if machine_usd is None else machine_usd * float(to_million),
        },
        "ledger_usd": {name: float(usd) for name, usd in ledger.items()},
        "sellers_usd": {"openai": float(sellers.heard_usd), REFINER: float(sellers.corrected_usd)},
        "books_agree": abs(ledger["openai"] - sellers.heard_usd) < _MICRODOLLAR
        and abs(ledger[REFINER] - sellers.corrected_usd) < _MICRODOLLAR,
        "under_limit": what_if.this_policy_usd < TOO_DEAR_USD,
    }


def _of(costs: Costs, engine: str) -> Decimal:
    return sum((line.usd for (name, _), line in costs.by_engine.items() if name == engine), Decimal(0))


def table(found: dict[str, Any]) -> str:
    """The figures for people."""
    usd = found["per_million_minutes"]
    rows = {
        "heard by the own engine": usd["local"],
        f"heard by the API ({API_MODEL})": usd["api"],
        "corrected by the chat model": usd["corrections"],
        "this policy": usd["this_policy_usd"],
        "  saved, since repeats were remembered": usd["saved_by_repeats"],
        "all by the API, nothing corrected": usd["all_api_usd"],
        "all by the API, nothing corrected or remembered": usd["all_api_no_memory_usd"],
        "all by the own engine, nothing corrected": usd["all_local_usd"],
        "  the whole machine while it ran, idle or not": usd["whole_machine"],
    }
    width = max(map(len, rows))
    repeated, minutes = found["repeated_share"], found["audio_minutes"]
    tries = ", ".join(f"{name} {count}" for name, count in sorted(found["tries"].items()))
    verdict = "they agree to the micro-dollar" if found["books_agree"] else "THEY DIFFER"
    return "\n".join(
        [
            f"{found['events']} events, {minutes:.1f} minutes, {repeated:.0%} repeats; US $ for a million minutes:",
            *(f"  {name:<{width}}  {amount:>10,.2f}" for name, amount in rows.items() if amount is not None),
            f"tries: {tries}; {found['failed_tries']} failed",
            f"ledger {found['ledger_usd']}, sellers {found['sellers_usd']}: {verdict}",
        ]
    )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=300)
    parser.add_argument("--engine", choices=("ctranslate2", "simulated"), default="ctranslate2")
    parser.add_argument("--realtime", type=float, default=14.7, help="× real time of the simulated engine's machine")
    parser.add_argument("--usd-per-hour", type=float, default=0.10, help="price of an hour of the machine")
    parser.add_argument("--kafka", help="a broker elsewhere instead of one on this machine")
    parser.add_argument("--out", type=Path, help="write the figures here, as JSON")
    asked = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        servers = asked.kafka or stack.enter_context(LocalKafka(folder / "kafka")).bootstrap_servers
        found = {"engine": asked.engine, **asyncio.run(run(asked, folder, servers))}
    print(f"{asked.engine} at ${asked.usd_per_hour} an hour, {machine()['cores']} cores, {machine()['cpu']}")
    print(table(found))
    if asked.out is not None:
        write_json(asked.out, "tests.bench.cost", arguments, found)
    if not (found["books_agree"] and found["under_limit"]):
        sys.exit(f"the books differ, or the price is not under ${TOO_DEAR_USD:,}")


if __name__ == "__main__":
    main()
