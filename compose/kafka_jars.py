"""Apache Kafka's jars, resolved by jgo once and checked against ``kafka.lock.toml`` each time.

``python -m compose.kafka_jars --lock`` writes the lock anew after a change of ``ENDPOINT``.
"""

import fcntl
import hashlib
import os
import shutil
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ENDPOINT = "org.apache.kafka:kafka_2.13:4.2.0+org.slf4j:slf4j-simple:1.7.36"
"""The broker, and a logger for it: without one a broker that fails says nothing."""
LOCK = Path(__file__).with_name("kafka.lock.toml")


class JarError(RuntimeError):
    """The jars cannot be had, or are not the ones that the lock names."""


def jars() -> list[Path]:
    """The jars of the lock, from the user's cache; the first call downloads them (some 43 MB, 20 s).

    Raises JarError when a jar is missing or its SHA-256 differs from the lock.
    """
    locked = _locked()
    folder = cached_folder()
    if not folder.is_dir():
        with _alone():
            if not folder.is_dir():
                _download(folder)
    if wrong := [name for name, digest in locked.items() if _sha256(folder / name) != digest]:
        raise JarError(f"{folder}: not what {LOCK.name} names: {', '.join(wrong)}; remove the folder and try again")
    return [folder / name for name in locked]


def cached_folder() -> Path:
    """Where the jars of this lock are kept."""
    return _cache() / f"kafka-{hashlib.sha256(LOCK.read_bytes()).hexdigest()[:12]}"


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "earwitness"


def _locked() -> dict[str, str]:
    """File name to SHA-256."""
    data = tomllib.loads(LOCK.read_text(encoding="utf-8"))
    return {f"{dep['artifactId']}-{dep['version']}.{dep['packaging']}": dep["sha256"] for dep in data["dependencies"]}


def _download(folder: Path) -> None:
    environment = _build()
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        filled = Path(scratch) / "jars"
        filled.mkdir()
        for jar in environment.all_jars:
            shutil.copyfile(jar, filled / jar.name)
        filled.rename(folder)  # whole or not at all


@contextmanager
def _alone() -> Iterator[None]:
    """Other processes that need the jars wait meanwhile: jgo's own cache knows no lock."""
    _cache().mkdir(parents=True, exist_ok=True)
    with (_cache() / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _build(*, update: bool = False):  # type: ignore[no-untyped-def]  # (jgo ships no types)
    import jgo  # only needed once: slow to import

    return jgo.build(ENDPOINT, update=update, cache_dir=_cache() / "jgo")


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        return "missing"


def main() -> None:
    """Print the jars, or write the lock."""
    if sys.argv[1:] == ["--lock"]:
        shutil.copyfile(_build(update=True).path / "jgo.lock.toml", LOCK)
    print(*jars(), sep="\n")


if __name__ == "__main__":
    main()
