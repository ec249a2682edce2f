"""Settings come from flags, the environment, a file, and defaults, in that order; each says what it means."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from consumer.errors import ServiceError
from consumer.kafka.client import connection
from consumer.settings import PREFIX, Settings


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_flag_beats_the_environment_which_beats_the_file_which_beats_the_default(
    empty_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert Settings().group_id == "earwitness"
    (empty_folder / "earwitness.toml").write_text('group_id = "file"\npartitions = 3\n', encoding="utf-8")
    assert Settings().group_id == "file"
    monkeypatch.setenv(f"{PREFIX}GROUP_ID", "environment")
    assert Settings().group_id == "environment"
    assert Settings(group_id="flag").group_id == "flag"
    assert Settings().partitions == 3, "what the environment leaves out still comes from the file"


def test_a_file_may_be_named_by_a_variable(empty_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (empty_folder / "other.toml").write_text('fetch_allow = ["file:///data/"]\n', encoding="utf-8")
    monkeypatch.setenv(f"{PREFIX}CONFIG", str(empty_folder / "other.toml"))
    assert Settings().fetch_allow == ["file:///data/"]


def test_a_list_is_comma_separated_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"{PREFIX}FETCH_ALLOW", "file:///data/, https://media.example/")
    assert Settings().fetch_allow == ["file:///data/", "https://media.example/"]


def test_an_unknown_name_in_the_file_is_refused(empty_folder: Path) -> None:
    (empty_folder / "earwitness.toml").write_text("partitons = 3\n", encoding="utf-8")
    with pytest.raises(ValidationError, match="partitons"):
        Settings()


@pytest.mark.parametrize("name", Settings.model_fields)
def test_every_setting_says_what_it_means(name: str) -> None:
    assert (Settings.model_fields[name].description or "").strip()


@pytest.mark.parametrize("servers", ["host:abc", "host:0", "host:70000", "a:1,b:two", "kafka://host:9092", "::1", ""])
def test_a_broker_that_is_no_host_and_port_is_refused_before_anything_connects(servers: str) -> None:
    with pytest.raises(ValidationError, match="host:port"):
        Settings(kafka_bootstrap_servers=servers)


def test_brokers_may_be_named_with_blanks_between_without_a_port_and_by_ipv6() -> None:
    assert Settings(kafka_bootstrap_servers=" a:1, b ,[::1]:9092").kafka_bootstrap_servers == "a:1,b,[::1]:9092"


def test_a_heartbeat_is_at_most_a_third_of_the_session() -> None:
    Settings(session_timeout_ms=6000, heartbeat_interval_ms=2000)
    with pytest.raises(
        ValidationError, match=r"heartbeat_interval_ms \(2001\) is more than a third of session_timeout"
    ):
        Settings(session_timeout_ms=6000, heartbeat_interval_ms=2001)


def test_a_drain_ends_before_the_group_goes_on_without_this_process() -> None:
    Settings(rebalance_timeout_ms=5000, revoke_drain_seconds=4.9)
    with pytest.raises(ValidationError, match=r"revoke_drain_seconds \(5\) is not below rebalance_timeout_ms \(5000\)"):
        Settings(rebalance_timeout_ms=5000, revoke_drain_seconds=5.0)


def test_a_plain_connection_needs_only_an_address() -> None:
    arguments = connection(Settings(kafka_bootstrap_servers="a:1,b:2"))
    assert (arguments["bootstrap_servers"], arguments["security_protocol"]) == ("a:1,b:2", "PLAINTEXT")
    assert not [name for name in arguments if name.startswith(("sasl", "ssl"))]


def test_sasl_over_tls_carries_the_mechanism_the_name_the_password_and_a_verifying_context() -> None:
    arguments = connection(
        Settings(
            kafka_security_protocol="SASL_SSL",
            kafka_sasl_mechanism="SCRAM-SHA-512",
            kafka_sasl_username="me",
            kafka_sasl_password="secret",
        )
    )
    context = arguments.pop("ssl_context")
    assert context.check_hostname is True
    assert (
        arguments.items()
        >= {
            "bootstrap_servers": "localhost:9092",
            "security_protocol": "SASL_SSL",
            "sasl_mechanism": "SCRAM-SHA-512",
            "sasl_plain_username": "me",
            "sasl_plain_password": "secret",
        }.items()
    )


def test_a_password_is_not_in_the_settings_own_words() -> None:
    assert "secret" not in repr(Settings(kafka_sasl_password="secret"))


def test_sasl_without_a_name_is_refused_before_anything_connects() -> None:
    with pytest.raises(ServiceError, match="needs kafka_sasl_username and kafka_sasl_password"):
        connection(Settings(kafka_security_protocol="SASL_PLAINTEXT"))


def test_a_ca_file_that_cannot_be_read_is_named(empty_folder: Path) -> None:
    with pytest.raises(ServiceError, match=r"kafka_ssl_ca_file .*gone\.pem"):
        connection(Settings(kafka_security_protocol="SSL", kafka_ssl_ca_file=empty_folder / "gone.pem"))
    (empty_folder / "text.pem").write_text("not a certificate", encoding="utf-8")
    with pytest.raises(ServiceError, match=r"kafka_ssl_ca_file .*text\.pem"):
        connection(Settings(kafka_security_protocol="SSL", kafka_ssl_ca_file=empty_folder / "text.pem"))
