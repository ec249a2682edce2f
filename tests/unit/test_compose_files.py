"""The compose file and its image, checked against the settings and the broker's own rules without running them."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from consumer.settings import PREFIX, Settings

FOLDER = Path(__file__).parents[2] / "compose"
COMPOSE: dict[str, Any] = yaml.safe_load((FOLDER / "compose.yaml").read_text(encoding="utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
DOCKERFILE = (FOLDER / "Dockerfile").read_text(encoding="utf-8")
INTERPOLATION = re.compile(r"\$\{[A-Z_]+:-(?P<default>[^}]*)\}")


def settings_of(service: str) -> dict[str, str]:
    """The service's settings as they are where nobody overrides them."""
    environment = SERVICES[service].get("environment", {})
    return {
        name.removeprefix(PREFIX).lower(): INTERPOLATION.sub(lambda found: found["default"], str(value))
        for name, value in environment.items()
        if name.startswith(PREFIX)
    }


@pytest.mark.parametrize("service", ["topics", "earwitness"])
def test_every_setting_in_the_compose_file_exists_and_is_valid(service: str) -> None:
    given = settings_of(service)
    assert given.keys() <= Settings.model_fields.keys()
    settings = Settings(**given)  # type: ignore[arg-type]
    assert settings.kafka_bootstrap_servers in SERVICES["kafka"]["environment"]["KAFKA_ADVERTISED_LISTENERS"]


def test_the_topics_are_made_with_the_settings_that_the_service_has() -> None:
    serving = settings_of("earwitness")
    assert settings_of("topics").items() <= serving.items()


def test_the_broker_gets_the_full_set_of_settings_since_any_of_them_drops_the_packaged_ones() -> None:
    given = SERVICES["kafka"]["environment"]
    needed = {
        "KAFKA_NODE_ID",
        "KAFKA_PROCESS_ROLES",
        "KAFKA_CONTROLLER_QUORUM_VOTERS",
        "KAFKA_CONTROLLER_LISTENER_NAMES",
        "KAFKA_LISTENERS",
        "KAFKA_ADVERTISED_LISTENERS",
        "KAFKA_LISTENER_SECURITY_PROTOCOL_MAP",
        "KAFKA_INTER_BROKER_LISTENER_NAME",
        "KAFKA_OFFSETS_TOPIC_REPLICATION_FACTOR",
        "KAFKA_TRANSACTION_STATE_LOG_REPLICATION_FACTOR",
        "KAFKA_TRANSACTION_STATE_LOG_MIN_ISR",
        "KAFKA_GROUP_INITIAL_REBALANCE_DELAY_MS",
        "KAFKA_LOG_DIRS",
    }
    assert needed <= given.keys()
    listeners = {part.split("://")[0] for part in given["KAFKA_LISTENERS"].split(",")}
    mapped = {part.split(":")[0] for part in given["KAFKA_LISTENER_SECURITY_PROTOCOL_MAP"].split(",")}
    advertised = {part.split("://")[0] for part in given["KAFKA_ADVERTISED_LISTENERS"].split(",")}
    assert listeners == mapped
    assert listeners - advertised == {given["KAFKA_CONTROLLER_LISTENER_NAMES"]}
    assert given["KAFKA_INTER_BROKER_LISTENER_NAME"] in advertised
    assert any(volume.endswith(f":{given['KAFKA_LOG_DIRS']}") for volume in SERVICES["kafka"]["volumes"])


def test_every_image_has_a_version() -> None:
    images = [service["image"] for service in SERVICES.values()] + re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE)
    assert all(re.search(r":\d+\.\d+\.\d+", image) for image in images), images


def test_nobody_starts_before_what_it_needs_and_every_condition_can_be_met() -> None:
    assert SERVICES["topics"]["depends_on"] == {"kafka": {"condition": "service_healthy"}}
    assert SERVICES["earwitness"]["depends_on"]["topics"] == {"condition": "service_completed_successfully"}
    assert SERVICES["topics"]["restart"] == "no", "else it never completes"
    assert "test" in SERVICES["kafka"]["healthcheck"]
    assert {name for service in SERVICES.values() for name in service.get("depends_on", {})} <= SERVICES.keys()


def test_the_service_is_not_root_and_keeps_its_state_where_it_may_write() -> None:
    assert re.search(r"^USER earwitness$", DOCKERFILE, re.MULTILINE)
    assert SERVICES["earwitness"]["read_only"] is True
    home = str(Path(settings_of("earwitness")["state_dir"]).parent)
    assert f"state:{home}" in SERVICES["earwitness"]["volumes"]
    assert f"install -d -o earwitness -g earwitness {home}" in DOCKERFILE


def test_a_stop_leaves_time_for_the_drain() -> None:
    grace = int(SERVICES["earwitness"]["stop_grace_period"].removesuffix("s"))
    assert grace > Settings.model_fields["shutdown_grace_seconds"].default


def test_named_volumes_are_declared() -> None:
    named = {
        volume.split(":")[0]
        for service in SERVICES.values()
        for volume in service.get("volumes", [])
        if not volume.startswith(("$", ".", "/"))
    }
    assert named == COMPOSE["volumes"].keys()


def test_the_image_gets_everything_that_the_package_is_built_of() -> None:
    ignored = (FOLDER.parent / ".dockerignore").read_text(encoding="utf-8").splitlines()
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE, re.MULTILINE)
    for name in " ".join(copied).split():
        assert (FOLDER.parent / name).exists(), name
        assert f"!{name}" in ignored, name
