import asyncio
import errno
import hashlib
import threading
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from consumer.audio import spool as spool_module
from consumer.audio.spool import Spool
from consumer.errors import ServiceError, TransientError
from schemas.codes import Reason

LIMIT_BYTES = 1000


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    spool = Spool(tmp_path / "spool", LIMIT_BYTES)
    spool.open()
    yield spool
    spool.close()


def put(spool: Spool, data: bytes) -> str:
    with spool.part() as part:
        part.write(data)
        return spool.keep(part)


def held(spool: Spool, digest: str) -> bool:
    with spool.lease(digest) as fetched:
        return fetched is not None and fetched.path.exists()


def files(tmp_path: Path) -> set[str]:
    return {path.name for path in (tmp_path / "spool").iterdir() if path.name != ".lock"}


def test_bytes_are_found_under_their_digest(spool: Spool) -> None:
    digest = put(spool, b"some speech")
    assert digest == hashlib.sha256(b"some speech").hexdigest()
    with spool.lease(digest) as fetched:
        assert fetched is not None
        assert fetched.path.read_bytes() == b"some speech"
        assert fetched.size_bytes == 11
    with spool.lease("0" * 64) as nothing:
        assert nothing is None


def test_the_same_bytes_twice_take_their_room_once(spool: Spool) -> None:
    assert put(spool, b"x" * 100) == put(spool, b"x" * 100)
    assert spool.used_bytes == 100


def test_a_part_that_was_not_kept_leaves_nothing(spool: Spool, tmp_path: Path) -> None:
    with spool.part() as part:
        part.write(b"half a record")
    assert files(tmp_path) == set()
    assert spool.used_bytes == 0


def test_what_nobody_leases_goes_least_recently_used_first_when_room_is_needed(spool: Spool) -> None:
    old, young = put(spool, b"a" * 400), put(spool, b"b" * 400)
    assert held(spool, old)  # and is the younger one from here on
    put(spool, b"c" * 400)
    assert held(spool, old)
    assert not held(spool, young)


def test_a_large_file_is_removed_in_a_thread_and_may_come_again_meanwhile(
    spool: Spool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spool_module, "_LARGE_BYTES", 500)
    may_remove, removed_in, unlink = threading.Event(), set[threading.Thread](), Path.unlink

    def slow(path: Path, missing_ok: bool = False) -> None:
        may_remove.wait()
        removed_in.add(threading.current_thread())
        unlink(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", slow)
    first = put(spool, b"a" * 800)
    put(spool, b"b" * 800)  # there is no room for both
    assert not held(spool, first)
    assert spool.used_bytes == 800
    assert put(spool, b"a" * 800) == first
    may_remove.set()
    assert spool._removing is not None
    spool._removing.shutdown()
    assert len(removed_in) == 1
    assert threading.main_thread() not in removed_in
    assert files(tmp_path) == {f"{first}.audio"}


def test_a_full_spool_looks_at_no_more_of_it_than_must_go(spool: Spool) -> None:
    looked_at = 0

    class Counting(OrderedDict[str, Any]):
        def items(self) -> Any:
            nonlocal looked_at
            for item in super().items():
                looked_at += 1
                yield item

    spool._entries = Counting()
    for number in range(300):
        put(spool, b"%010d" % number)
    assert len(spool._entries) < 100
    assert looked_at <= 300


def test_a_leased_recording_stays_with_its_samples(spool: Spool) -> None:
    digest = put(spool, b"a" * 400)
    with spool.lease(digest):
        with spool.scratch() as scratch:
            scratch.write_bytes(b"\0" * 400)
            pcm_path = spool.keep_pcm(digest, scratch)
        put(spool, b"b" * 900)
        assert held(spool, digest)
        assert spool.pcm_path(digest) == pcm_path
        assert pcm_path.stat().st_size == 400
    put(spool, b"c" * 900)
    assert not held(spool, digest)
    assert not pcm_path.exists()
    assert spool.pcm_path(digest) is None


async def test_admission_waits_for_a_lease_to_end_when_the_spool_is_full(spool: Spool) -> None:
    digest = put(spool, b"a" * 400)
    with spool.lease(digest):
        with spool.scratch() as scratch:
            scratch.write_bytes(b"\0" * 600)
            spool.keep_pcm(digest, scratch)
        waiting = [asyncio.create_task(spool.admit()) for _ in range(2)]
        done, _ = await asyncio.wait(waiting, timeout=0.05)
        assert not done
    await asyncio.wait_for(asyncio.gather(*waiting), 10)
    assert spool.used_bytes == 0


async def test_what_is_being_written_counts(spool: Spool) -> None:
    with spool.part() as part:
        part.write(b"a" * LIMIT_BYTES)
        waiting = asyncio.create_task(spool.admit())
        done, _ = await asyncio.wait([waiting], timeout=0.05)
        assert not done
    await asyncio.wait_for(waiting, 10)


def test_the_folder_is_emptied_at_both_ends(tmp_path: Path) -> None:
    folder = tmp_path / "spool"
    folder.mkdir()
    (folder / "left.audio").write_bytes(b"by a crash")
    (folder / "7.part").touch()
    spool = Spool(folder, LIMIT_BYTES)
    spool.open()
    assert files(tmp_path) == set()
    put(spool, b"a")
    spool.close()
    spool.close()
    assert files(tmp_path) == set()


def test_two_processes_never_share_a_folder(spool: Spool, tmp_path: Path) -> None:
    with pytest.raises(ServiceError, match="another process"):
        Spool(tmp_path / "spool", LIMIT_BYTES).open()


def test_a_folder_that_cannot_be_is_told_with_the_setting_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file, not a folder", encoding="utf-8")
    with pytest.raises(ServiceError, match=r"state/spool cannot be used: Not a directory; set state_dir to"):
        Spool(tmp_path / "state" / "spool", LIMIT_BYTES).open()


def test_a_full_disk_may_pass_and_says_what_to_do(spool: Spool) -> None:
    with spool.part() as part:
        part._file = open("/dev/full", "wb", buffering=0)  # noqa: SIM115, PTH123 (closed by the part)
        with pytest.raises(TransientError, match="spool_bytes") as full:
            part.write(b"a")
    assert full.value.reason is Reason.FETCH_FAILED
    assert isinstance(full.value.__cause__, OSError)
    assert full.value.__cause__.errno == errno.ENOSPC


def test_a_late_write_after_the_fetch_was_given_up_leaves_no_file(spool: Spool, tmp_path: Path) -> None:
    with spool.part() as part:
        pass
    with pytest.raises(TransientError):
        part.write(b"from a thread that was slow")
    assert files(tmp_path) == set()
