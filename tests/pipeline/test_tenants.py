"""Knowing a digest is not owning a recording: what one tenant's events can get out of another's."""

import asyncio
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import pytest

from schemas.codes import Header, Reason, WarningCode
from tests.support.kafka import Broker, Written
from tests.support.scenario import (
    Clip,
    Outcomes,
    event,
    fresh_service,
    make_clip,
    outcomes,
    publish,
    settings_for,
    until_settled,
)

pytestmark = pytest.mark.kafka


@dataclass(frozen=True)
class Run:
    """A's recording, B's own, and what came out for both."""

    secret: Clip
    own: Clip
    found: Outcomes


def _tries(secret: Clip, own: Clip, origin: str) -> list[Written]:
    """What B can send, knowing A's digest and where A's event was written, but not A's bytes."""
    missing = own.path.with_name("missing.wav").as_uri()
    there = Written(None, key=secret.digest.encode(), partition=secret.partition)
    headers = [(Header.MOVES, b"1"), (Header.ORIGIN, origin.encode())]
    return [
        Written(event("claims-other-bytes", own.uri, tenant="b", sha256=secret.digest)),
        Written(event("claims-no-bytes", missing, tenant="b", sha256=secret.digest)),
        replace(there, value=event("forges-other-bytes", own.uri, tenant="b"), headers=headers),
        replace(there, value=event("forges-no-bytes", missing, tenant="b"), headers=headers),
        replace(there, value=event("forges-without-moves", own.uri, tenant="b")),
    ]


async def _run(kafka: Broker, folder: Path, scope: Literal["tenant", "global"]) -> Run:
    settings = settings_for(kafka.bootstrap_servers, folder, dedup_scope=scope)
    secret, own = make_clip(folder, 1), make_clip(folder, 2)
    async with fresh_service(settings) as service:
        ((partition, offset),) = await publish(settings, Written(event("a", secret.uri, tenant="a")))
        await until_settled(settings, 1, service)
        tries = _tries(secret, own, f"{settings.topics.events}/{partition}/{offset}")
        has_it = [
            Written(event("has-the-bytes", secret.uri, tenant="b")),
            Written(event("has-and-claims", secret.uri, tenant="b", sha256=secret.digest)),
        ]
        await publish(settings, *tries)
        await until_settled(settings, 1 + len(tries), service)
        await publish(settings, *has_it)  # only now: what B itself has had heard is B's to get by its digest
        await until_settled(settings, 1 + len(tries) + len(has_it), service)
    return Run(secret, own, await asyncio.to_thread(outcomes, settings))


@pytest.fixture(scope="module")
def separate(kafka: Broker, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Each tenant for itself."""
    return asyncio.run(_run(kafka, tmp_path_factory.mktemp("separate"), "tenant"))


@pytest.fixture(scope="module")
def shared(kafka: Broker, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Tenants share results."""
    return asyncio.run(_run(kafka, tmp_path_factory.mktemp("shared"), "global"))


@pytest.fixture(params=["separate", "shared"])
def run(request: pytest.FixtureRequest) -> Run:
    found: Run = request.getfixturevalue(request.param)
    return found


def test_claiming_a_digest_without_its_bytes_is_a_mismatch(run: Run) -> None:
    assert run.found.reason("claims-other-bytes") == Reason.DIGEST_MISMATCH


@pytest.mark.parametrize("name", ["claims-no-bytes", "forges-no-bytes"])
def test_a_digest_without_any_bytes_is_worth_nothing(run: Run, name: str) -> None:
    assert run.found.reason(name) == Reason.NOT_FOUND


def test_a_forged_move_gets_the_text_of_its_own_bytes(run: Run) -> None:
    transcript = run.found.transcript("forges-other-bytes").json
    assert (transcript["text"], transcript["sha256"]) == (run.own.text, run.own.digest)


def test_a_key_that_looks_like_a_digest_is_not_believed(run: Run) -> None:
    transcript = run.found.transcript("forges-without-moves").json
    assert (transcript["text"], transcript["sha256"]) == (run.own.text, run.own.digest)
    assert WarningCode.DIGEST_CHANGED not in transcript["warnings"]


def test_nothing_that_was_refused_shows_the_other_tenants_text(run: Run) -> None:
    refused = [letter.value or b"" for letter in run.found.dead_letters]
    assert len(refused) == 3
    assert not [letter for letter in refused if run.secret.text.encode() in letter]


def test_separate_tenants_each_have_a_recording_heard_for_themselves(separate: Run) -> None:
    mine = [separate.found.transcript(name).json for name in ("has-the-bytes", "has-and-claims")]
    assert sorted(transcript["cached"] for transcript in mine) == [False, True]
    assert {transcript["text"] for transcript in mine} == {separate.secret.text}
    assert {key.split("/")[0] for key in separate.found.entries} == {"a", "b"}


def test_tenants_that_share_get_a_hit_when_they_have_the_bytes(shared: Run) -> None:
    for name in ("has-the-bytes", "has-and-claims"):
        transcript = shared.found.transcript(name).json
        assert (transcript["cached"], transcript["text"], transcript["tenant"]) == (True, shared.secret.text, "b")
    assert {key.split("/")[0] for key in shared.found.entries} == {"*"}
