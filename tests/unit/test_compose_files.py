"""The compose file and its image, checked against the settings and the broker's own rules without running them."""

import json
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


OURS = [name for name, service in SERVICES.items() if service["image"].startswith("earwitness:")]
SERVING = ["earwitness", "earwitness-gpu"]


@pytest.mark.parametrize("service", OURS)
def test_every_setting_in_the_compose_file_exists_and_is_valid(service: str) -> None:
    given = settings_of(service)
    assert given.keys() <= Settings.model_fields.keys()
    settings = Settings(**given)  # type: ignore[arg-type]
    assert settings.kafka_bootstrap_servers in SERVICES["kafka"]["environment"]["KAFKA_ADVERTISED_LISTENERS"]


@pytest.mark.parametrize("service", SERVING)
def test_the_topics_are_made_and_written_with_the_settings_that_the_service_has(service: str) -> None:
    serving = settings_of(service)
    assert settings_of("topics").items() <= serving.items()
    assert settings_of("publisher").items() <= serving.items()


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
    assert all(re.search(r":v?\d+\.\d+\.\d+", image) for image in images), images


def test_nobody_starts_before_what_it_needs_and_every_condition_can_be_met() -> None:
    assert SERVICES["topics"]["depends_on"] == {"kafka": {"condition": "service_healthy"}}
    assert SERVICES["topics"]["restart"] == "no", "else it never completes"
    for name in (*SERVING, "publisher"):
        assert SERVICES[name]["depends_on"]["topics"] == {"condition": "service_completed_successfully"}
    for service in SERVICES.values():
        for name, needed in service.get("depends_on", {}).items():
            assert "profiles" not in SERVICES[name], "it might not be there"
            assert "test" in SERVICES[name].get("healthcheck", {}) or needed["condition"] != "service_healthy"


def test_every_service_is_confined_and_all_but_the_collector_say_how_they_are() -> None:
    for name, service in SERVICES.items():
        assert service["user"] not in ("0", "root"), name
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["deploy"]["resources"]["limits"].keys() >= {"memory", "pids"}, name
        assert service["logging"] == {"driver": "local"}, f"{name}: the default driver's file grows without end"
        assert "/tmp" in [mount.partition(":")[0] for mount in service["tmpfs"]], name  # noqa: S108 (in the container)
        assert "healthcheck" in service or service["restart"] == "no" or name == "collector", name


def test_no_port_is_open_to_other_machines() -> None:
    ports = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)


@pytest.mark.parametrize("service", SERVING)
def test_the_service_is_not_root_and_keeps_its_state_where_it_may_write(service: str) -> None:
    user = SERVICES[service]["user"]
    assert re.search(rf"^USER {user}$", DOCKERFILE, re.MULTILINE), "runAsNonRoot takes a number alone"
    assert f"--uid {user} " in DOCKERFILE
    home = str(Path(settings_of(service)["state_dir"]).parent)
    (state,) = (volume.split(":")[0] for volume in SERVICES[service]["volumes"] if volume.endswith(f":{home}"))
    assert all(
        not volume.startswith(f"{state}:")
        for other in SERVICES
        if other != service
        for volume in SERVICES[other].get("volumes", [])
    ), "each process has a state folder of its own"
    assert f"install -d -o earwitness -g earwitness {home}" in DOCKERFILE


@pytest.mark.parametrize("service", SERVING)
def test_what_torch_compiles_can_be_built_and_run(service: str) -> None:
    home = str(Path(settings_of(service)["state_dir"]).parent)
    assert SERVICES[service]["environment"]["TORCHINDUCTOR_CACHE_DIR"].startswith(f"{home}/"), "a tmpfs is noexec"
    assert re.search(r"apt-get install [^&]* gcc libc6-dev ", DOCKERFILE)


@pytest.mark.parametrize("service", SERVING)
def test_a_stop_leaves_time_for_the_drain(service: str) -> None:
    grace = int(SERVICES[service]["stop_grace_period"].removesuffix("s"))
    assert grace > Settings.model_fields["shutdown_grace_seconds"].default


def test_without_a_profile_the_service_runs_on_the_cpu_and_with_one_only_that_one_runs() -> None:
    assert "\nCOMPOSE_PROFILES=cpu\n" in (FOLDER / ".env").read_text(encoding="utf-8")
    assert {name: SERVICES[name].get("profiles") for name in SERVING} == {
        "earwitness": ["cpu"],
        "earwitness-gpu": ["gpu"],
    }


def test_every_file_that_is_mounted_is_here() -> None:
    mounted = [volume for service in SERVICES.values() for volume in service.get("volumes", [])]
    ours = [volume.split(":")[0] for volume in mounted if volume.startswith("./")]
    assert ours
    assert [name for name in ours if not (FOLDER / name).exists()] == []


def test_the_sample_is_the_speech_that_is_here_and_the_service_may_fetch_it() -> None:
    lines = (FOLDER / "sample.jsonl").read_text(encoding="utf-8").splitlines()
    listed = json.loads((FOLDER / "speech" / "transcripts.json").read_text(encoding="utf-8"))
    sample = {entry["uri"]: entry["reference_text"] for entry in map(json.loads, lines)}
    assert sample == {f"/speech/{entry['file']}": entry["text"] for entry in listed}
    for service in (*SERVING, "publisher"):
        assert "./speech:/speech:ro" in SERVICES[service]["volumes"]
    for service in SERVING:
        assert "file:///speech/" in settings_of(service)["fetch_allow"].split(",")


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
