"""The whole thing on this machine: a real Kafka, the real service, real speech; ends by itself.

``python -m compose.demo`` starts Apache Kafka (or uses the one that EARWITNESS_KAFKA_BOOTSTRAP_SERVERS names), runs
``earwitness serve``, publishes recordings that succeed and fail in different ways, and shows what became of each. A
second run finds everything that the first one heard. Exit code 0 only if every promise was kept.
"""

import argparse
import asyncio
import json
import logging
import os
import shlex
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from aiokafka.errors import KafkaError
from pydantic import ValidationError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from compose.demo_outcomes import Outcomes, Published, publish, reading
from compose.demo_recordings import SPEECH, takes
from compose.demo_report import Totals, faults, show
from compose.demo_service import DemoError, Service, serving
from compose.kafka_jars import JarError, cached_folder
from compose.local_kafka import LocalKafka, LocalKafkaError
from compose.tiny_en import ct2_tiny_en
from consumer.engines.choose import profile_of
from consumer.errors import EarwitnessError
from consumer.kafka import topics
from consumer.settings import PREFIX, Settings
from producer.errors import PublishError

NEXT_PORT = 19092
"""Where Kafka listens if it is started again by hand; during the demo it takes a free port."""
USD_PER_HOUR = 0.10
"""About what a cloud asks for two cores and 8 GB."""
OUTCOMES_SECONDS = 300.0
_SERVERS = f"{PREFIX}KAFKA_BOOTSTRAP_SERVERS"
_EXPECTED = (
    DemoError,
    LocalKafkaError,
    JarError,
    EarwitnessError,
    PublishError,
    KafkaError,
    ValidationError,
    OSError,
    TimeoutError,
)


class Demo:
    """One run in its data folder."""

    def __init__(self, console: Console, data: Path, prefix: str) -> None:
        self._console = console
        self._data = data.absolute()
        self._prefix = prefix
        self._given_servers = os.environ.get(_SERVERS)

    def run(self) -> list[str]:
        """Do it; returns the promises that were broken."""
        self._data.mkdir(parents=True, exist_ok=True)
        with self._kafka() as servers:
            settings = Settings(**self._chosen(), kafka_bootstrap_servers=servers)
            published, took_seconds = asyncio.run(self._served(settings))
        broken = faults(published, self._heard_before(settings))
        show(self._console, published, Totals.of(published).lines(took_seconds, settings.local_usd_per_hour))
        if not broken:
            self._remember(settings, published)
            self._say_what_next()
        return broken

    @contextmanager
    def _kafka(self) -> Iterator[str]:
        if self._given_servers:
            self._console.print(f"[green]✓[/] Kafka at {self._given_servers}", highlight=False)
            yield self._given_servers
            return
        note = "" if cached_folder().is_dir() else " (downloading it, once: 43 MB)"
        with ExitStack() as stack:
            with self._step(f"Apache Kafka{note}"):
                local = stack.enter_context(LocalKafka(self._data / "kafka"))
            yield local.bootstrap_servers

    def _chosen(self) -> dict[str, Any]:
        """The service's settings, besides its brokers."""
        # a broker that others publish to is no reason to open the home folder to them
        allowed = (Path.cwd(),) if self._given_servers else (Path.cwd(), Path.home())
        chosen: dict[str, Any] = {
            "topic_prefix": self._prefix,
            "group_id": f"earwitness-{self._prefix}",
            "partitions": 4,
            "engine": "ctranslate2",
            "model": str(ct2_tiny_en()),
            "local_usd_per_hour": USD_PER_HOUR,
            "fetch_allow": [path.as_uri() for path in (*allowed, self._data, SPEECH)],
            "state_dir": str(self._data / "state"),
        }
        return chosen if self._given_servers else {**chosen, "kafka_security_protocol": "PLAINTEXT"}

    def _environment(self, settings: Settings) -> dict[str, str]:
        """What of ours the service gets to see; other settings of the caller's would make another demo."""
        kept = {name: value for name, value in os.environ.items() if _is_kept(name, bool(self._given_servers))}
        config = {f"{PREFIX}CONFIG": str(self._config_file), _SERVERS: settings.kafka_bootstrap_servers}
        return {**kept, **config, f"{PREFIX}LOG_FORMAT": "text"}

    async def _served(self, settings: Settings) -> tuple[list[Published], float]:
        with self._step("topics"):
            await topics.create(settings)
            await topics.check(settings)
        with self._step("recordings"):
            wanted = await asyncio.to_thread(takes, self._data / "recordings")
        self._write_config()
        async with serving(self._environment(settings), self._data / "service.log") as service:
            with self._step("earwitness serve, with Whisper tiny.en"):
                await service.until_said("engine_ready")
                await service.until_said("lane_open")
            async with reading(settings) as outcomes:
                started = time.monotonic()
                published = await publish(settings, wanted)
                outcomes.expect(published)
                await self._settled(service, outcomes, len(published))
                took_seconds = time.monotonic() - started
                with self._step("service stopped in order, everything read to the end"):
                    await service.stop()
                    await outcomes.to_the_end()
        return published, took_seconds

    async def _settled(self, service: Service, outcomes: Outcomes, total: int) -> None:
        columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
        with Progress(
            *columns, console=self._console, transient=True, disable=not self._console.is_terminal
        ) as progress:
            task = progress.add_task("outcomes", total=total)
            settled = asyncio.create_task(outcomes.until_settled(lambda done: progress.update(task, completed=done)))
            watched = asyncio.create_task(service.watch())
            try:
                async with asyncio.timeout(OUTCOMES_SECONDS):
                    await asyncio.wait({settled, watched}, return_when=asyncio.FIRST_COMPLETED)
            except TimeoutError as error:
                raise DemoError(f"not every event had an outcome within {OUTCOMES_SECONDS:.0f} s") from error
            finally:
                for one in (settled, watched):
                    if not one.done():
                        one.cancel()
                results = await asyncio.gather(settled, watched, return_exceptions=True)
        for failure in results:
            if isinstance(failure, Exception):
                raise failure
        self._console.print(f"[green]✓[/] {total} records published and settled", highlight=False)

    @property
    def _config_file(self) -> Path:
        return self._data / "earwitness.toml"

    def _write_config(self) -> None:
        """The settings as a file, for this run's service and for whoever goes on by hand."""
        servers = self._given_servers or f"127.0.0.1:{NEXT_PORT}"
        lines = ["# Written by each run of the demo.", f"kafka_bootstrap_servers = {json.dumps(servers)}"]
        lines += [f"{name} = {json.dumps(value, ensure_ascii=False)}" for name, value in self._chosen().items()]
        self._config_file.write_text("\n".join(lines) + "\n", encoding="utf-8")

    def _heard_file(self, settings: Settings) -> Path:
        # beside what Kafka remembers, and for this profile: whoever removes or changes one begins anew
        return self._data / "kafka" / f"heard-{self._prefix}-{profile_of(settings)('en')}.json"

    def _heard_before(self, settings: Settings) -> list[str]:
        file = self._heard_file(settings)
        if self._given_servers or not file.exists():
            return []
        heard: list[str] = json.loads(file.read_text(encoding="utf-8"))
        return heard

    def _remember(self, settings: Settings, published: list[Published]) -> None:
        if not self._given_servers:
            now = {transcript.sha256 for one in published for transcript in one.transcripts}
            heard = sorted(now | set(self._heard_before(settings)))
            self._heard_file(settings).write_text(json.dumps(heard), encoding="utf-8")

    def _say_what_next(self) -> None:
        python, earwitness = _shown(Path(sys.executable)), _shown(Path(sys.executable).with_name("earwitness"))
        command = f"{earwitness} --config {_shown(self._config_file)}"
        kafka = f"{python} -m compose.local_kafka --data {_shown(self._data / 'kafka')} --port {NEXT_PORT}"
        lines = [
            ("Again, with everything remembered", f"{python} -m compose.demo"),
            ("Your own recordings, without Kafka", f"{command} transcribe your.wav"),
            *([] if self._given_servers else [("With Kafka, the broker in a terminal of its own", kafka)]),
            ("the service, in another" if not self._given_servers else "The service", f"{command} serve"),
            ("and in a third" if not self._given_servers else "Events", f"{command} publish your.wav --wait"),
        ]
        self._console.print("\n[bold]What to try next[/]")
        for what, how in lines:
            self._console.print(f"  {what}:", style="dim", highlight=False)
            self._console.print(f"    {how}", soft_wrap=True, highlight=False, markup=False)

    @contextmanager
    def _step(self, what: str) -> Iterator[None]:
        started = time.monotonic()
        with self._console.status(what):
            yield
        self._console.print(f"[green]✓[/] {what} [dim]({time.monotonic() - started:.1f} s)[/]", highlight=False)


def _is_kept(name: str, broker_given: bool) -> bool:
    return not name.startswith(PREFIX) or (broker_given and name.startswith(f"{PREFIX}KAFKA_"))


def _shown(path: Path) -> str:
    """As somebody in this folder would type it."""
    return shlex.quote(str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path))


def _told(error: BaseException) -> list[str] | None:
    """What to say of a failure that was to be expected; None for a bug."""
    if isinstance(error, BaseExceptionGroup):
        inner = [_told(one) for one in error.exceptions]
        return None if None in inner else [line for lines in inner for line in lines or ()]
    return [str(error) or type(error).__name__] if isinstance(error, _EXPECTED) else None


def main() -> int:
    """Run the demo; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m compose.demo", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, default=Path(".earwitness/demo"), help="kept between runs")
    parser.add_argument("--prefix", default="demo", help="of the topics' names and the consumer group's")
    given = parser.parse_args()
    # what the client library complains of is said once, by the error that ends the demo
    logging.getLogger("aiokafka").addHandler(logging.NullHandler())
    console, complaints = Console(), Console(stderr=True)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell has background jobs ignore it
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        broken = Demo(console, given.data, given.prefix).run()
    except KeyboardInterrupt:
        complaints.print("\nstopped", style="yellow")
        return 130
    except Exception as error:
        lines = _told(error)
        if lines is None:
            raise
        for line in lines:
            complaints.print(f"demo: {line}", style="red", markup=False, highlight=False, soft_wrap=True)
        return 1
    for line in broken:
        complaints.print(f"demo: a promise was broken: {line}", style="red", markup=False, highlight=False)
    return 1 if broken else 0


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    signal.raise_signal(signal.SIGINT)  # asyncio knows how to end in order on that one


if __name__ == "__main__":
    sys.exit(main())
