import os
import re
import signal
import subprocess
import sys
import time

import pytest

from htf.cli import int_range, main
from htf.probes import RankFit

SHORT = ["--ranks", "1,2", "--format", "cp", "--twins", "original", "--workers", "1", "--epochs", "2"]


def test_probe_prints_a_table_and_draws_a_figure(tmp_path, capsys):
    assert main(["probe", "digits", *SHORT, "--out", str(tmp_path / "run")]) == 0
    out = capsys.readouterr().out
    assert "variance of the targets" in out
    assert f"figure: {tmp_path / 'run' / 'rank_fit.png'}" in out
    assert (tmp_path / "run" / "rank_fit.png").read_bytes().startswith(b"\x89PNG")


def test_plot_draws_again_from_the_saved_run(tmp_path, capsys):
    main(["probe", *SHORT, "--out", str(tmp_path)])
    first = capsys.readouterr().out.splitlines()
    (tmp_path / "rank_fit.png").unlink()
    assert main(["plot", str(tmp_path), "--figure", str(tmp_path / "again.png")]) == 0
    assert capsys.readouterr().out.splitlines()[:-1] == first[:-1]
    assert (tmp_path / "again.png").exists()


def test_runs_of_the_same_data_are_drawn_together(tmp_path, capsys):
    for form in ("cp", "ht"):
        main(["probe", *SHORT[:2], "--format", form, *SHORT[4:], "--out", str(tmp_path / form)])
    capsys.readouterr()
    assert main(["plot", str(tmp_path / "cp"), str(tmp_path / "ht")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines[2:6]] == [["cp", "1"], ["cp", "2"], ["ht", "1"], ["ht", "2"]]
    other = RankFit.load(tmp_path / "ht")
    other.settings["data_sha256"] = "0"
    with pytest.raises(ValueError, match="data_sha256 is"):
        RankFit.load(tmp_path / "cp").joined(other)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["probe", "imagenet"], "known are digits, mnist, fashion_mnist"),
        (["probe", "--format", "tt"], "format is 'tt'; known are cp, ht"),
        (["probe", "--twins", "noise"], "known are original, random_labels, random_images"),
        (["probe", "--ranks", "0:3"], "ranks holds 0"),
        (["probe", "mnist", "--data-dir", "/nonexistent"], "data_dir /nonexistent does not hold"),
        (["plot", "/nonexistent"], "not the folder of a run"),
        (["probe", "--device", "gpu"], "device 'gpu' cannot be used"),
        (["probe", "--levels", "1"], "levels is 1"),
    ],
)
def test_bad_input_is_one_line_and_status_2(arguments, message, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    err = capsys.readouterr().err.strip().splitlines()
    assert message in err[-1]
    assert err[-1].startswith("htf: ")


@pytest.mark.parametrize("arguments", [["probe", "--ranks", "a"], ["fit"], []])
def test_unusable_arguments_are_refused(arguments, capsys):
    with pytest.raises(SystemExit) as error:
        main(arguments)
    assert error.value.code == 2


def test_an_unknown_option_lists_the_known_ones(capsys):
    assert main(["probe", "--rank-list", "1"]) == 2
    err = capsys.readouterr().err
    assert "unknown option --rank-list" in err
    assert "--ranks" in err
    assert "--twins" in err


def test_every_option_has_a_help_line(capsys):
    with pytest.raises(SystemExit):
        main(["probe", "--help"])
    text = capsys.readouterr().out
    for option in ("--format", "--ranks", "--classes", "--twins", "--seeds", "--device", "--out", "--workers"):
        assert option in text
    # Each option is followed by words, on its line or on the next.
    options = re.findall(r"^  (--[a-z-]+)(?: [A-Z_]+(?: \[[A-Z. ]+\])?)?\s+(\w+)", text, re.M)
    assert len(options) == text.count("\n  --")


def test_ranges():
    assert int_range("3") == [3]
    assert int_range("1:4,8") == [1, 2, 3, 4, 8]


@pytest.mark.parametrize("workers", ["1", "2"])
def test_interrupt_leaves_a_run_that_goes_on(tmp_path, workers):
    folder = tmp_path / "run"
    command = [sys.executable, "-m", "htf.cli", "probe", "--ranks", "1:4", "--twins", "original", "random_images"]
    command += ["--epochs", "80", "--format", "cp", "ht", "--workers", workers, "--out", str(folder)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True)
    deadline = time.monotonic() + 120
    while not list(folder.glob("fits/*.json")) and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(1)
    # As a terminal does: to the whole group.
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130, err.decode()
    assert "the same command goes on from here" in err.decode()
    partial = RankFit.load(folder)
    assert not partial.complete
    assert 0 < len(partial.records) < 16
