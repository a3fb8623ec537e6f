import contextlib
import importlib
import io
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace

import pytest

import htf
from htf import cli
from htf.cli import dynamics, int_range, main, probe
from htf.datasets import tensor_completion
from htf.dynamics import Study, study
from htf.dynamics.settings import SETTINGS_OF
from htf.nn import MatrixFactorization
from htf.probes import RankFit
from htf.training import FitSettings, fit
from htf.training.least_squares_fit import OPTIMIZERS

SHORT = ["--ranks", "1,2", "--format", "cp", "--twins", "original", "--workers", "1", "--epochs", "2", "--seeds", "0"]
DYNAMICS = ["--rank", "1", "--dim", "8", "--observed", "48", "--init-std", "1e-1", "1e-2", "--seeds", "0,1"]
DYNAMICS += ["--steps", "300"]
PNG = b"\x89PNG"
# Seeds and step where none are given.
STEADY_OR_NOT = {"digits": ((0, 1, 2), 0.5), "mnist": ((0,), 1.0)}


def run_of(arguments, folder):
    """The folder of a run, and what it printed."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        assert main([*arguments, "--out", str(folder)]) == 0
    return folder, printed.getvalue()


@pytest.fixture(scope="module")
def probed(tmp_path_factory):
    return run_of(["probe", "digits", *SHORT], tmp_path_factory.mktemp("probed") / "run")


@pytest.fixture(scope="module")
def studied(tmp_path_factory):
    return run_of(["dynamics", "mf", *DYNAMICS], tmp_path_factory.mktemp("studied") / "run")


def test_probe_prints_a_table_and_draws_a_figure(probed):
    folder, out = probed
    assert "variance of the targets" in out
    # It ends in words.
    *_, words, meaning = out.splitlines()
    assert words.startswith("CP: original images are")
    assert meaning.startswith("Fitted: a train error of at most 25% of the variance of the targets, 0.0")
    assert f"figure: {folder / 'rank_fit.png'}" in out
    assert (folder / "rank_fit.png").read_bytes().startswith(b"\x89PNG")


def test_digits_have_a_recipe_of_their_own(tmp_path, monkeypatch):
    asked = {}

    def remember(dataset, **settings):
        asked[dataset] = settings["seeds"], settings["settings"].step
        raise ValueError("enough")

    monkeypatch.setattr("htf.probes.rank_fit", remember)
    for options in (["digits"], ["mnist"], ["digits", "--seeds", "4", "--step", "0.1"]):
        assert main(["probe", *options]) == 2
        assert asked.pop(options[0]) == {1: STEADY_OR_NOT[options[0]]}.get(len(options), ([4], 0.1))
    assert main(["probe", "digits", "--format", "cp", "--optimizer", "levenberg_marquardt"]) == 2
    assert asked == {"digits": ((0, 1, 2), 1.0)}  # steps are no setting of that optimizer


def test_plot_draws_again_from_the_saved_run(probed, tmp_path, capsys):
    shutil.copytree(probed[0], tmp_path, dirs_exist_ok=True)
    first = probed[1].splitlines()
    (tmp_path / "rank_fit.png").unlink()
    assert main(["plot", str(tmp_path), "--figure", str(tmp_path / "again.png")]) == 0
    again = capsys.readouterr().out.splitlines()
    assert [line for line in again if not line.startswith("figure: ")] == [
        line for line in first if not line.startswith("figure: ")
    ]
    assert (tmp_path / "again.png").exists()


def test_runs_of_the_same_data_are_drawn_together(probed, tmp_path, capsys):
    shutil.copytree(probed[0], tmp_path / "cp")
    run_of(["probe", *SHORT[:2], "--format", "ht", *SHORT[4:]], tmp_path / "ht")
    assert main(["plot", str(tmp_path / "cp"), str(tmp_path / "ht")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines[2:6]] == [["cp", "1"], ["cp", "2"], ["ht", "1"], ["ht", "2"]]
    other = RankFit.load(tmp_path / "ht")
    other.settings["data_sha256"] = "0"
    with pytest.raises(ValueError, match="data_sha256 is"):
        RankFit.load(tmp_path / "cp").joined(other)


def test_dynamics_prints_tables_and_draws_figures(studied):
    folder, out = studied
    assert "matrix factorization of depth 3: 8×8, rank 1, 48 of 64 entries observed; 2 seeds, 300 steps" in out
    assert "theory" in out
    # It ends in words.
    assert [line for line in out.splitlines() if not line.startswith("figure: ")][-2:] == Study.load(
        folder
    ).in_words().splitlines()
    for name in ("components", "history", "rates"):
        assert f"figure: {folder / name}.png" in out
        assert (folder / f"{name}.png").read_bytes().startswith(PNG)
    assert Study.load(folder).runs == [(0.1, 0), (0.1, 1), (0.01, 0), (0.01, 1)]


@pytest.mark.parametrize(
    ("form", "options", "said"),
    [
        ("cp", ["--order", "3", "--components", "6", "--loss", "huber"], "tensor factorization, 6 components: 3×3×3"),
        ("ht", ["--order", "3", "--width", "5"], "hierarchical tensor factorization of width 5: 3×3×3"),
    ],
)
def test_dynamics_of_tensors(form, options, said, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = ["--rank", "1", "--dim", "3", "--observed", "20", "--seeds", "0", "--steps", "30", "--noise", "0.1"]
    assert main(["dynamics", form, *arguments, *options]) == 0
    assert said in capsys.readouterr().out
    assert Study.load(f"runs/dynamics_{form}").settings.noise == 0.1


def test_plot_draws_dynamics_again(studied, tmp_path, capsys):
    shutil.copytree(studied[0], tmp_path / "mf")
    first = studied[1].replace(str(studied[0]), str(tmp_path / "mf"))
    (tmp_path / "mf" / "rates.png").unlink()
    assert main(["plot", str(tmp_path / "mf")]) == 0
    assert capsys.readouterr().out == first
    assert (tmp_path / "mf" / "rates.png").exists()
    assert main(["plot", str(tmp_path / "mf"), "--figure", str(tmp_path / "one.png")]) == 0
    assert "figure: " + str(tmp_path / "one.png") in capsys.readouterr().out
    # The run of a fit that is no study, by itself and beside one.
    problem = tensor_completion((4, 4), "matrix", rank=1, observed=12)
    fit(MatrixFactorization((4, 4)), problem, steps=5, out=tmp_path / "fit")
    assert main(["plot", str(tmp_path / "fit")]) == 0
    out = capsys.readouterr().out
    assert "no rates: history has no record of components" in out
    assert (tmp_path / "fit" / "history.png").exists()
    settings = Study.load(tmp_path / "mf").settings
    study(replace(settings, depth=2, steps=100), out=tmp_path / "deep")
    assert main(["plot", str(tmp_path / "mf"), str(tmp_path / "deep")]) == 0
    out = capsys.readouterr().out
    assert "depth 3" in out
    assert "depth 2" in out
    assert (tmp_path / "mf" / "together.png").read_bytes().startswith(PNG)


def test_plots_of_different_kinds_are_not_mixed(studied, probed, capsys):
    assert main(["plot", str(studied[0]), str(probed[0])]) == 2
    assert f"{probed[0]} is not the folder of a run of htf dynamics" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["dynamics", "mf", "--rank", "65"], "rank is 65"),
        (["dynamics", "mf", "--steps", "0"], "steps is 0"),
        (["dynamics", "cp", "--init-std", "-1"], "init_std holds -1"),
        (["dynamics", "ht", "--loss", "l3"], "loss is 'l3'; known are"),
        (["dynamics", "ht", "--device", "gpu"], "device 'gpu' cannot be used"),
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


@pytest.mark.parametrize(
    "arguments",
    [["probe", "--ranks", "a"], ["fit"], [], ["dynamics"], ["dynamics", "tt"], ["dynamics", "cp", "--dim", "x"]],
)
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
    assert main(["dynamics", "mf", "--width", "3"]) == 2
    err = capsys.readouterr().err
    assert "unknown option --width" in err
    assert "--depth" in err


def test_every_option_has_a_help_line(capsys):
    with pytest.raises(SystemExit):
        main(["probe", "--help"])
    text = capsys.readouterr().out
    for option in ("--format", "--ranks", "--classes", "--twins", "--seeds", "--device", "--out", "--workers"):
        assert option in text
    # Each option is followed by words, on its line or on the next.
    options = re.findall(r"^  (--[a-z-]+)(?: [A-Z_]+(?: \[[A-Z. ]+\])?)?\s+(\w+)", text, re.M)
    assert len(options) == text.count("\n  --")


@pytest.mark.parametrize("command", [["probe"], ["dynamics", "mf"], ["plot"]])
def test_a_default_is_told_once(command, capsys):
    with pytest.raises(SystemExit):
        main([*command, "--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert "; by default" in text
    assert "(default: None)" not in text
    # Up to the next option, words that tell a default are not followed by another telling.
    assert not re.search(r"by default (?:(?!--)[^()])*\(default", text)


def test_help_says_what_needs_no_files(capsys):
    with pytest.raises(SystemExit):
        main(["probe", "--help"])
    assert "digits needs none" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("module", ["htf", "htf.cli"])
def test_the_command_is_a_module_too(module):
    done = subprocess.run([sys.executable, "-m", module, "--help"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("usage: htf ")
    assert "fit, watch and plot low-rank factorizations" in done.stdout


@pytest.mark.parametrize("form", SETTINGS_OF)
def test_every_setting_of_dynamics_has_a_help_line_and_its_default(form, capsys):
    with pytest.raises(SystemExit):
        main(["dynamics", form, "--help"])
    text = " ".join(capsys.readouterr().out.split())
    for name, value in SETTINGS_OF[form]().describe().items():
        if name not in ("format", "seeds"):
            option = f"--{name.replace('_', '-')}"
            assert re.search(rf"{option} .*? \(default: {re.escape(str(value))}\)", text), option
    assert "(default: 0:9)" in text


def test_names_and_defaults_are_the_librarys():
    assert probe.NAMES == htf.datasets.NAMES
    assert tuple(htf.datasets.TWINS) == probe.TWINS
    of_probes = importlib.import_module("htf.probes.rank_fit")  # htf.probes.rank_fit is the function
    assert (probe.FORMATS, probe.DEFAULT_TWINS) == (of_probes.FORMATS, of_probes.DEFAULT_TWINS)
    settings = FitSettings()
    assert (settings.epochs, settings.step, OPTIMIZERS) == (probe.EPOCHS, probe.STEP, probe.OPTIMIZERS)
    assert settings.optimizer == OPTIMIZERS[0]
    titles = {name: ("deep " * (name == "mf")) + kind.title for name, kind in SETTINGS_OF.items()}
    assert titles == dynamics.FORMATS


def test_ranges():
    assert int_range("3") == [3]
    assert int_range("1:4,8") == [1, 2, 3, 4, 8]


@pytest.mark.parametrize("workers", ["1", "2"])
def test_interrupt_leaves_a_run_that_goes_on(tmp_path, workers):
    folder = tmp_path / "run"
    command = [sys.executable, "-m", "htf.cli", "probe", "--ranks", "1:4", "--twins", "original", "random_images"]
    command += ["--seeds", "0", "--epochs", "80", "--format", "cp", "ht", "--workers", workers, "--out", str(folder)]
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


def test_interrupted_dynamics_go_on(tmp_path, capsys):
    # A shell starts the background jobs of a script with SIGINT ignored; the probes above are started by a terminal.
    start = ["sh", "-c", 'trap "" INT; exec "$@"', "sh"]
    command = ["dynamics", "mf", *DYNAMICS[:6], "--seeds", "0,1", "--steps", "4000", "--every", "1000"]
    command += ["--out", str(tmp_path / "run")]
    process = subprocess.Popen(
        [*start, sys.executable, "-m", "htf.cli", *command],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    # Until the bar shows that steps have been made.
    shown = b""
    while not re.search(rb"[1-9]\d*/4000", shown) and process.poll() is None:
        shown += os.read(process.stderr.fileno(), 1000)
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err.decode()
    assert "the same command goes on from here" in err.decode()
    assert (tmp_path / "run" / "checkpoint.safetensors").exists()
    assert main(["plot", str(tmp_path / "run")]) == 2
    assert "not finished" in capsys.readouterr().err
    assert main(command) == 0
    assert Study.load(tmp_path / "run").history.steps[-1] == 4000


def test_a_figure_that_cannot_be_written_is_named(probed, tmp_path, capsys):
    shutil.copytree(probed[0], tmp_path, dirs_exist_ok=True)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        capsys.readouterr()
        assert main(["plot", str(tmp_path)]) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    said = capsys.readouterr()
    assert (
        said.err == f"htf: cannot write {tmp_path / 'rank_fit.png'} (File too large); what was saved before is kept\n"
    )
    assert "variance of the targets" in said.out
    assert (tmp_path / "rank_fit.png").read_bytes().startswith(PNG)


def test_a_command_listens_to_interrupts_that_its_process_ignores(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(cli, "_probe", lambda options: signal.raise_signal(signal.SIGINT))
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        assert main(["probe", *SHORT, "--out", str(tmp_path)]) == 130
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
        # Outside the main thread no handler can be set.
        found = []
        thread = threading.Thread(target=lambda: found.append(main(["plot", str(tmp_path / "none")])))
        thread.start()
        thread.join()
        assert found == [2]
    finally:
        signal.signal(signal.SIGINT, before)
    assert "goes on from here" in capsys.readouterr().err
