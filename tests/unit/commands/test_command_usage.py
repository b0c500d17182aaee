"""What holds for every command: help with an example, exit codes, one line for an error."""

from __future__ import annotations

import errno
import importlib
import os
import re
import shlex
import sys
from pathlib import Path

import pytest
from command_line import buffered, finished, invoke, spawn

from dolphin import __version__, cli

VERBS = [(name,) for name in cli.COMMANDS if name != "data"] + [("data", "build"), ("data", "check")]


@pytest.mark.parametrize("words", [(), *VERBS, ("data",)], ids=" ".join)
def test_help_has_an_example_and_fits_80_columns(words: tuple[str, ...]) -> None:
    told = invoke(*words, "--help")
    assert told.code == 0
    assert told.err == ""
    examples = [line.strip() for line in told.out.splitlines() if line.startswith("  dolphin ")]
    assert examples
    assert max(map(len, told.out.splitlines())) <= 80
    assert told.out.startswith(f"usage: {' '.join(('dolphin', *words))} ")


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_every_example_parses(command: str) -> None:
    shown = [invoke(command, "--help").out]
    if command == "data":
        shown += [invoke("data", verb, "--help").out for verb in ("build", "check")]
    examples = [line for text in shown for line in text.splitlines() if line.startswith("  dolphin ")]
    for line in examples:
        words = shlex.split(re.split(r"\s{3,}", line.strip())[0])[1:]
        _, unknown = cli.build_parser(words[0]).parse_known_args(words)
        assert unknown == [], line


@pytest.mark.parametrize("words", VERBS, ids=" ".join)
def test_every_command_speaks_json_and_debug(words: tuple[str, ...]) -> None:
    text = invoke(*words, "--help").out
    assert "--json" in text
    assert "--debug" in text


def test_the_module_of_every_command_is_there() -> None:
    for name in cli.COMMANDS:
        module = importlib.import_module(cli.module_of(name))
        assert callable(module.arguments)
        assert callable(module.execute)


@pytest.mark.parametrize(
    ("words", "default"),
    [
        (("run",), "under runs/"),
        (("backtest",), "under runs/"),
        (("scan",), "(default scans)"),
        (("data", "build"), "(default cache)"),
    ],
)
def test_the_help_of_out_names_the_default_of_its_command(words: tuple[str, ...], default: str) -> None:
    text = " ".join(invoke(*words, "--help").out.split())
    assert default in text.rpartition("--out DIR folder")[2][:100]
    if words not in (("run",), ("backtest",)):
        assert "runs/" not in text.rpartition("--out DIR folder")[2][:100]


def test_version() -> None:
    told = invoke("--version")
    assert (told.code, told.out) == (0, f"dolphin {__version__}\n")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "dolphin: the following arguments are required: COMMAND. See dolphin --help"),
        (("rnu",), "Did you mean 'run'? See dolphin --help"),
        (("backtset",), "Did you mean 'backtest'?"),
        (
            ("run", "--sed", "3"),
            "dolphin run: unknown option --sed. Did you mean '--seed'? See dolphin run --help",
        ),
        (("run", "--no-reprot"), "Did you mean '--no-report'?"),
        (("run", "--jsno=1"), "unknown option --jsno. Did you mean '--json'?"),
        (("run", "a.parquet", "b.parquet"), "dolphin run: unexpected argument 'b.parquet'."),
        (("run", "--bars", "0"), "'0' is no number of bars, expected 1 or more"),
        (("run", "--bars", "many"), "'many' is no number of bars"),
        (("scan", "--bars", "-4"), "'-4' is no number of bars"),
        (("run", "--set"), "dolphin run: argument --set: expected one argument."),
        (("data",), "dolphin data: the following arguments are required: build|check|books|market|download."),
        (
            ("data", "biuld"),
            "'biuld' is none of build, check, books, market, download. Did you mean 'build'?",
        ),
        (
            ("data", "build", "--scnas", "x"),
            "dolphin data build: unknown option --scnas. Did you mean '--scans'?",
        ),
        (("audit",), "dolphin audit: the following arguments are required: RUN."),
        (("backtest",), "the following arguments are required: --cache."),
        (("conform", "x", "--host", "compild"), "Did you mean 'compiled'?"),
        # A shortened option would change its meaning when a new option comes.
        (("run", "--uni", "x.csv"), "dolphin run: unknown option --uni."),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_bad_usage_is_one_line_and_exit_2(words: tuple[str, ...], message: str) -> None:
    told = invoke(*words)
    assert told.code == 2
    assert message in told.error


@pytest.mark.parametrize("words", [("--debug", "audit", "nowhere"), ("audit", "nowhere", "--debug")])
def test_debug_keeps_the_traceback(words: tuple[str, ...]) -> None:
    told = finished(spawn(*words))
    assert told.code == 1
    assert "Traceback" in told.err
    assert "no journal here" in told.err


def test_an_error_carries_its_own_exit_code() -> None:
    told = invoke("audit", "nowhere")
    assert told.code == 1
    assert told.error == "dolphin audit: nowhere/journal.db: no journal here; expected the folder of a run"


def test_a_bug_is_one_line_and_its_traceback_is_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def broken(args: object) -> int:
        raise ZeroDivisionError("an\nodd bug")

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("dolphin.commands.config.execute", broken)
    told = invoke("config")
    assert told.code == 1
    kept = Path(told.error.split("please report it with ")[1])
    assert "internal error, ZeroDivisionError: an odd bug" in told.error
    assert "in broken" in kept.read_text()
    with pytest.raises(ZeroDivisionError):
        cli.main(["config", "--debug"])


def test_a_bug_without_a_place_for_its_traceback(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "gone"))
    monkeypatch.setattr("dolphin.commands.config.execute", lambda args: int("x"))
    assert "with the output of the same command with --debug" in invoke("config").error


def test_an_error_of_the_system_names_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(args: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "report.html")

    monkeypatch.setattr("dolphin.commands.config.execute", full)
    told = invoke("config")
    assert told.code == 1
    assert told.error == "dolphin config: report.html: No space left on device; check disk and permissions"


def test_an_interrupt_anywhere_is_130(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(args: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("dolphin.commands.config.execute", interrupted)
    told = invoke("config")
    assert told.code == 130
    assert told.error == "dolphin config: interrupted; nothing that was committed is lost"


def test_a_usage_error_from_deep_inside_points_at_the_help() -> None:
    told = invoke("run", "--feed", "recorded")
    assert told.code == 2
    assert told.err.splitlines()[-1] == (
        "dolphin run: --feed recorded needs the PATH of a Parquet panel or of a scan cache."
        " See dolphin run --help"
    )


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk_behind_stdout_is_told() -> None:
    with open("/dev/full", "w") as full:
        told = finished(spawn("config", stdout=full, env=buffered()))
    assert told.code == 1
    assert told.error == "dolphin config: the output: No space left on device; check disk and permissions"


def test_a_reader_that_has_seen_enough_is_no_error() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    told = finished(spawn("config", stdout=writer, env=buffered()))
    os.close(writer)
    assert (told.code, told.err) == (0, "")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_an_output_that_lacks_letters_gets_escapes(encoding: str) -> None:
    words = ("scan", "--days", "0.001", "--assets", "3", "--bars", "2", "--out", "Größe→")
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    told = finished(spawn(*words, env=environment, encoding=encoding))
    assert told.code == 0, told.err
    arrow = "→" if encoding == "utf-8" else "\\u2192"
    assert "2 bars, in" in told.out
    assert arrow in told.out
    assert arrow in told.err
    assert "Traceback" not in told.err


def test_python_dash_m_is_the_same_command() -> None:
    told = finished(
        spawn("--version", before="import runpy; runpy.run_module('dolphin', run_name='__main__')")
    )
    assert told.out == f"dolphin {__version__}\n"


def test_errors_of_the_drift_check_name_both_hashes_and_the_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    from dolphin.domain import params

    changed = params.GOLD.with_values({"max_leverage": 7.0, "fraction": 0.1})
    monkeypatch.setattr(params, "NAMED_SETS", {**params.NAMED_SETS, "gold": changed})
    for words in (("run", "--out", "out"), ("config",), ("backtest", "--cache", "nowhere")):
        told = invoke(*words)
        assert told.code == 1
        assert "'gold' has drifted" in told.error
        assert changed.hash() in told.error
        assert params.RECORDED["gold"] in told.error
        assert "fraction 0.2 -> 0.1, max_leverage 8.0 -> 7.0" in told.error
    assert not Path("out").exists()
    assert invoke("config", "--set", "champion").code == 0


def test_a_wrong_recorded_hash_is_drift_too(monkeypatch: pytest.MonkeyPatch) -> None:
    from dolphin.domain import params

    monkeypatch.setattr(params, "RECORDED", {**params.RECORDED, "gold": "0" * 16})
    told = invoke("run", "--out", "out")
    assert told.code == 1
    assert f"hash {params.GOLD.hash()}, recorded {'0' * 16}" in told.error


def test_threads_of_blas_are_one_unless_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)
    monkeypatch.setattr(sys, "argv", ["dolphin", "audit", "nowhere"])
    assert cli.main() == 1
    assert (os.environ["OPENBLAS_NUM_THREADS"], os.environ["OMP_NUM_THREADS"]) == ("1", "3")
