"""The configuration of members: what is checked in is what is generated, and it says what it has to."""

from __future__ import annotations

from pathlib import Path

import yaml

from dolphin.services.member_config import SESSION_TTL_S, deployed, member_yaml

DEPLOY = Path(__file__).resolve().parents[3] / "deploy" / "hazelcast"


def test_what_is_checked_in_is_what_is_generated():
    assert {path.name: path.read_text() for path in DEPLOY.glob("*.yaml")} == deployed()


def test_one_member_is_unsafe_and_says_so():
    text = member_yaml(5701, ["127.0.0.1:5701"])
    assert "UNSAFE MODE" in text
    read = yaml.safe_load(text)["hazelcast"]
    assert read["cp-subsystem"]["cp-member-count"] == 0
    assert read["map"]["default"]["backup-count"] == 0
    assert read["network"]["interfaces"] == {"enabled": True, "interfaces": ["127.0.0.1"]}


def test_three_members_agree_and_give_up_a_paused_client_in_time():
    addresses = [f"127.0.0.1:{port}" for port in (5701, 5702, 5703)]
    read = yaml.safe_load(member_yaml(5702, addresses, logs={"SHORT": 5}))["hazelcast"]
    assert read["cp-subsystem"]["cp-member-count"] == 3
    assert read["cp-subsystem"]["fail-on-indeterminate-operation-state"] is True
    # A trader that was stopped for 20 s must have lost its lock.
    assert read["cp-subsystem"]["session-time-to-live-seconds"] == SESSION_TTL_S < 20
    assert read["map"]["default"]["backup-count"] == 1
    assert read["network"]["port"] == {"port": 5702, "auto-increment": False}
    assert read["network"]["join"]["tcp-ip"]["member-list"] == addresses
    assert read["ringbuffer"]["SHORT"]["capacity"] == 5
    assert (
        read["ringbuffer"]["default"]["capacity"]
        == read["ringbuffer"]["DOLPHIN_SCAN_LOG"]["capacity"]
        == 1000
    )
