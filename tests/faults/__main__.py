"""The fault bench: ``python -m tests.faults --seed 1 --out FILE.json``; ``make faults`` and ``make faults-long``.

Exit code 0: every promise held. 1: it prints what broke, and keeps the brokers' data and the services' logs.
"""

import argparse
import asyncio
import json
import os
import shlex
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from rich.console import Console

from tests.faults import bench, scenes, trials
from tests.faults.plan import Kind
from tests.faults.proxy import ProxiedKafka
from tests.faults.report import Programme, as_json, show_run, show_trials
from tests.faults.scenes import Scene
from tests.faults.surroundings import Brokers, OthersBrokers

BOOTSTRAP = "EARWITNESS_TEST_BOOTSTRAP"
"""Names brokers to use instead of own ones; they are not killed, and no proxy stands before them."""
SCENES = ("mixed", "engine", "api", "trials")


def main() -> int:
    """Run it."""
    given, console, begun = _arguments(), Console(width=118), time.monotonic()
    folder = Path(given.keep or tempfile.mkdtemp(prefix="earwitness-faults-")).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    programme = Programme(shlex.join(["python", "-m", "tests.faults", *sys.argv[1:]]), given.seed)
    with _brokers(folder / "kafka", given.nodes) as kafka:
        for scene in _scenes(given):
            console.rule(scene.name)
            plan, place = scene.plan(given.seed), folder / scene.name.replace(" ", "-")
            try:
                run = asyncio.run(bench.run(plan, place, kafka, scene.cast, console.print))
            except Exception as error:  # noqa: BLE001 (the other scenes are worth playing all the same)
                programme.failures[scene.name] = repr(error)
                console.print(f"BROKEN the scene could not be played: {error!r}", style="red", markup=False)
                continue
            programme.runs[scene.name] = run
            show_run(run, console)
        if "trials" in given.scenes and not given.each:
            console.rule("trials")
            programme.trials.extend(asyncio.run(trials.run_all(kafka, folder / "trials")))
            show_trials(programme.trials, console)
    programme.seconds = time.monotonic() - begun
    if given.out is not None:
        given.out.parent.mkdir(parents=True, exist_ok=True)
        given.out.write_text(json.dumps(as_json(programme), indent=1) + "\n", encoding="utf-8")
    console.print(f"{'every promise held' if programme.held else 'BROKEN'}, after {programme.seconds:.0f} s")
    if not programme.held:
        console.print(f"the brokers' data and the services' logs are in {folder}")
    elif given.keep is None:
        shutil.rmtree(folder)
    return 0 if programme.held else 1


def _scenes(given: argparse.Namespace) -> Sequence[Scene]:
    if given.each:
        return scenes.each_alone(given.nodes)
    kinds = given.kinds
    if not kinds and BOOTSTRAP in os.environ:
        kinds = [kind for kind in scenes.EVERYTHING if kind not in scenes.OWN_BROKERS_TAKE]
    made = {
        "mixed": scenes.mixed(given.seconds, given.nodes, rate=given.rate, every=given.every, kinds=kinds or ()),
        "engine": scenes.engines(scenes.SHORT_SECONDS, given.nodes),
        "api": scenes.api(scenes.SHORT_SECONDS, given.nodes),
    }
    return [made[name] for name in given.scenes if name in made]


def _brokers(folder: Path, nodes: int) -> AbstractContextManager[Brokers]:
    if named := os.environ.get(BOOTSTRAP):
        return nullcontext(OthersBrokers(named))
    return ProxiedKafka(folder, nodes)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="the same seed gives the same plan")
    parser.add_argument("--out", type=Path, help="write the figures here, as JSON")
    parser.add_argument("--scenes", nargs="+", choices=SCENES, default=SCENES, help="what to play")
    parser.add_argument("--each", action="store_true", help="instead: each kind of fault alone, one after the other")
    parser.add_argument("--nodes", type=int, choices=(1, 3), default=3, help="brokers; with 3 they die in turn too")
    parser.add_argument("--seconds", type=float, default=120.0, help="of the mixed scene")
    parser.add_argument("--rate", type=float, default=25.0, help="events in a second of the mixed scene")
    parser.add_argument("--every", type=float, default=4.0, help="seconds from one of its faults to the next")
    parser.add_argument("--kinds", type=Kind, nargs="+", metavar="KIND", help=f"its faults: {', '.join(Kind)}")
    parser.add_argument("--keep", help="work in this folder, and keep it")
    given = parser.parse_args()
    if BOOTSTRAP in os.environ and {*scenes.OWN_BROKERS_TAKE} & {*(given.kinds or ())}:
        parser.error(f"the brokers that {BOOTSTRAP} names are not killed, and no proxy stands before them")
    return given


if __name__ == "__main__":
    sys.exit(main())
