"""Tables of the documentation's results have what the files beside them have, to the digits that are printed."""

import json
import re
from decimal import Decimal
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

ROOT = Path(__file__).parents[2]
FILES = ROOT / "docs" / "results"
PAGE = (ROOT / "docs" / "results.md").read_text()
README = (ROOT / "README.md").read_text()
# A number that is no part of a word, a power or another number.
NUMBER = re.compile(r"(?<![\w.^-])[-+]?\d(?:[\d,]*\d)?(?:\.\d+)?(?:e[-+]?\d+)?(?![\w²³⁴])")


def read(name):
    file = FILES / name
    return pd.read_csv(file) if file.suffix == ".csv" else json.loads(file.read_text())


def tables(text):
    """Tables of a text, each a list of rows of cells with the header first."""
    found = []
    for block in re.findall(r"(?:^\|.*\n)+", text, re.M):
        lines = [[cell.strip() for cell in line.strip().strip("|").split("|")] for line in block.splitlines()]
        found.append([lines[0], *lines[2:]])
    return found


def section(heading, text=PAGE):
    (found,) = re.findall(rf"^##+ {re.escape(heading)}\n(.*?)(?=^##+ |\Z)", text, re.M | re.S)
    return found


def numbers(cell):
    return [text.replace(",", "") for text in NUMBER.findall(cell)]


def agree(cell, *values):
    """Every number of a cell is the value, rounded to the digits that the cell has."""
    found = numbers(cell)
    assert len(found) == len(values), (cell, values)
    for text, value in zip(found, values, strict=True):
        last_digit = 10.0 ** Decimal(text).as_tuple().exponent
        assert abs(float(text) - value) <= 0.5001 * last_digit, (cell, value)


def test_a_number_that_differs_in_its_last_digit_is_found():
    agree("0.0141 / 0.0154", 0.01413, 0.01543)
    agree("16³: 1,568 in 8e-6 s", 1568, 8.12e-6)
    for cell, value in ("0.0141", 0.01418), ("1,568", 1569), ("8e-6", 9e-6):
        with pytest.raises(AssertionError):
            agree(cell, value)
    with pytest.raises(AssertionError):
        agree("0.5 and 0.6", 0.5)


@pytest.mark.parametrize(("heading", "data"), [("MNIST", "mnist"), ("Fashion-MNIST", "fashion")])
def test_rank_fits(heading, data):
    cp, ht, *_ = tables(section(heading))
    for table, format in (cp, "cp"), (ht, "ht"):
        fits = read(f"{data}_{format}.csv")
        means = fits.groupby(["twin", "rank"]).mean(numeric_only=True)
        for rank, parameters, *twins in table[1:]:
            agree(parameters, means.loc["original", int(rank)].n_parameters)
            for cell, twin in zip(twins, ("original", "random_labels", "random_images"), strict=True):
                agree(cell, *means.loc[twin, int(rank)][["train", "test"]])


def test_compressibility():
    shares, moments = read("compressibility.json")["summary"], read("compressibility.csv")
    last = moments.groupby(["model", "variant", "seed"]).spectral_complexity.last()
    models = {"perceptron, 512": "mlp_1x512", "perceptron, 3 × 512": "mlp_3x512"}
    models |= {"CNN": "cnn", "residual network": "resnet"}
    for name, labels, *cells, complexity in tables(section("Can labels be told by how far a network compresses?"))[0][
        1:
    ]:
        variant = {"true": "original", "shuffled": "random_labels"}[labels]
        for cell, accuracy in zip(cells, (0.5, 0.9, 1.0), strict=True):
            (row,) = [r for r in shares if (r["model"], r["train"]) == (models[name], accuracy)]
            agree(cell, np.mean(row[variant]), min(row[variant]), max(row[variant]))
        found = last[models[name], variant]
        agree(complexity, found.mean(), found.min(), found.max())


def test_ht_fits_with_three_seeds():
    fits = pd.concat([read("mnist_ht.csv").query("twin == 'original'"), read("mnist_ht_seeds.csv")])
    fits = fits.set_index(["rank", "seed"])
    table = tables(section("MNIST"))[2]
    for rank, *seeds in table[1:]:
        for seed, cell in enumerate(seeds):
            agree(cell, *fits.loc[int(rank), seed][["train", "test"]])


def test_rank_fits_of_all_classes():
    (table,) = tables(section("All classes, beside the published figures"))
    means = {
        data: read(f"{data}_cp_classes.csv").groupby("rank")[["train", "test"]].mean() for data in ("mnist", "fashion")
    }
    for rank, mnist, _, fashion, _ in table[1:]:
        agree(mnist, *means["mnist"].loc[int(rank)])
        agree(fashion, *means["fashion"].loc[int(rank)])


def test_published_figures():
    fits = read("published.csv")
    table, others = tables(section("The published figures, with a better optimizer"))
    shown = {}
    for name, rank, error, published, above, bars, _, passes, seconds in table[1:]:
        data, twin = (part.replace(" ", "_") for part in name.split(", "))
        own = fits[(fits.data == data) & (fits.twin == twin) & (fits["rank"] == int(rank))]
        mean, bar = own.train.mean(), own.train.std() / len(own) ** 0.5
        shown[data, twin, int(rank)] = mean
        agree(error, mean, bar)
        agree(above.rstrip("%"), 100 * (mean / float(published) - 1))
        agree(bars, (mean - float(published)) / np.hypot(bar, 0.0005))
        agree(passes, own.passes.iloc[0])
        agree(seconds, own.seconds_of_all_classes.iloc[0])
    assert len(shown) == len(fits.groupby(["data", "twin", "rank"]))
    for cell, rank in zip(others[-1][1:], (1, 5, 10, 15), strict=True):
        agree(cell, shown["mnist", "original", rank])


def test_dynamics():
    found = read("dynamics.json")
    counts, rates = tables(section("Watching rank grow"))[0], tables(section("Rates"))[0]
    scales = [float(text) for text in counts[0][1:]]
    for (_, *exact), (_, *errors), name in zip(counts[1::2], counts[2::2], ("mf", "cp", "ht"), strict=True):
        rows = found[name]["summary"]
        for scale, count, error in zip(scales, exact, errors, strict=True):
            own = [row for row in rows if row["init_std"] == scale]
            agree(count.replace(",", " "), *(row["exact"] for row in own))
            if own:
                agree(error, own[0]["test_error"][0])
    for name, fits, slopes, _, constants, _, deviations in rates[1:]:
        groups = list(found["rates"]["cases"][name]["exponents"].values())
        agree(fits, sum(each["fitted"] for each in groups))
        for cell, key in (slopes, "slope"), (constants, "constant"):
            least, most = min(each[key]["least"] for each in groups), max(each[key]["most"] for each in groups)
            agree(cell, *([least, most] if " to " in cell else [least]))
        agree(
            deviations, *(max(each[key] for each in groups) for key in ("median_deviation", "deviation_of_90_percent"))
        )


def test_nuclear_norms():
    fits = read("nuclear_norm.csv")
    (table,) = tables(section("Small starts and the least nuclear norm"))
    for row, depth in zip(table[1:], (0, 2, 3, 4), strict=True):
        for cell, observed in zip(row[1:], (200, 250, 300, 350, 400, 500), strict=True):
            errors = fits[(fits.depth == depth) & (fits.observed == observed)].error
            agree(cell, errors.median(), errors.min(), errors.max())


def test_speed_of_iterations():
    found = read("dynamics_speed.json")
    peers, together = tables(section("Speed of a training iteration"))
    for row, each in zip(peers[1:], found["against imp_reg_htf"].values(), strict=True):
        agree(row[1], each["htf_ms"])
        agree(row[2], each["peer_ms"])
        agree(row[3], each["ratio"])
        agree(row[4], each["largest_relative_difference_of_losses"])
    costs = [each["cost_in_runs"] for rows in found["runs together"].values() for each in rows]
    for row, cost in zip(together[1:], costs, strict=True):
        agree(row[1], cost)


def test_growing_distances():
    fits = read("long_range_growing.csv")
    starts = {"gradient field": "gradient_field", "weight decay": "weight_decay", "none": "none"}
    both = zip(("pathfinder", "is_same_class"), tables(section("Growing the distance")), strict=True)
    for task, table in both:
        start = ""
        for name, seed, *cells, epochs, _ in table[1:]:
            start = next((code for words, code in starts.items() if name.startswith(words)), start)
            own = fits[(fits.task == task) & (fits.start == start) & (fits.seed == int(seed))].sort_values("stage")
            for cell, value in zip(cells, own.test, strict=True):
                agree(cell, value)
            agree(epochs, *own.epochs)
        assert len(table) - 1 == len(fits[fits.task == task].groupby(["start", "seed"]))


def test_published_accuracies():
    given = read("long_range_published.csv").set_index(["task", "regularizer", "distance", "weight"]).test
    for table, task in zip(tables(section("Accuracy"))[-2:], ("pathfinder", "is_same_class"), strict=True):
        distances = [int(numbers(text)[0]) for text in table[0][2:]]
        for _, weight, *cells in table[1:]:
            for cell, distance in zip(cells, distances, strict=True):
                agree(cell, given.loc[task, "igc", distance, float(weight or 0)])


@pytest.mark.parametrize(("place", "task"), [(0, "pathfinder"), (1, "is_same_class")])
def test_accuracies_at_long_range(place, task):
    fits = pd.concat([read(f"long_range_{task}.csv"), read("long_range_short_decay.csv")])
    fits = fits[fits.task == task]
    table = tables(section("Accuracy"))[place]
    shown, distance = 0, None
    for given, name, _, epochs, *seeds, _, _ in table[1:]:
        distance = int(given) if given else distance
        own = fits[(fits.distance == distance) & (fits.epochs == int(epochs))]
        plain = name.startswith("none")
        own = own[(own.regularizer == "none") == plain]
        if plain:
            decay = re.search(r"decay ([\d.]+)", name)
            own = own[own.weight_decay == (float(decay[1]) if decay else 0.0)]
            own = own[own.dropout == (0.5 if "dropout" in name else 0.0)]
        else:
            # By its first word; grids are told by their number.
            kind = {"gradient": "gradient_field", "input": "igc"}.get(name.split()[0], "interaction")
            own = own[own.regularizer.str.startswith(kind)]
            if kind == "interaction":
                own = own[own.regularizer.str.contains("samples=16") == ("16 grids" in name)]
        own = own.set_index("seed").test
        for seed, cell in enumerate(seeds):
            if cell:
                agree(cell, own.loc[seed])
                shown += 1
    assert shown > 20


def test_costs_of_steps():
    for heading, file, key in (
        ("What a step costs", "long_range_cost.json", "steps"),
        ("Drawing Pathfinder", "pathfinder_speed.json", "images per second"),
    ):
        (table,), rows = tables(section(heading)), read(file)[key]
        for row, each in zip(table[1:], rows, strict=True):
            if "ms" in each:
                agree(row[1], each["ms"])
                agree(row[2], each["ratio"])
            else:
                names = ("path_length", "peer_300", "htf_300", "ratio_at_300", "htf_150", "htf_48")
                for cell, name in zip(row, names, strict=True):
                    agree(cell, each[name])


def test_effective_ranks_against_depth():
    rows = read("simplicity_distribution.csv")
    depths, maps, cifar = tables(section("Effective rank against depth"))
    for name, *cells in depths[1:]:
        own = rows[rows.activation == name.split(",")[0].lower()]
        start = "initialization" in name
        own = own[own.stage == ("initialization" if start else "trained")]
        own = own[own.init == "normal"] if start else own[(own["rank"] == 1) & (own.optimizer == "adam")]
        own = own[own.init == "normal"].set_index("depth")["mean"]
        for cell, depth in zip(cells, (1, 2, 4, 8, 16, 32), strict=True):
            if cell:
                agree(cell, own.loc[depth])
    errors = read("simplicity_least_squares.csv").query("samples == 64").set_index(["task", "depth"]).test_error
    for name, *cells in maps[1:]:
        task = name.removeprefix("rank ").replace("orthogonal", "flat")
        for cell, depth in zip(cells, (1, 2, 4, 8, 0), strict=True):
            agree(cell, errors.loc[task, depth])
    chosen = read("simplicity_cifar.csv").query("chosen == 1").set_index(["method", "seed"])
    names = {"nuclear norm": "nuclear", "log-determinant": "log_det", "effective rank": "effective_rank"}
    for name, train, first, second, ranks in cifar[1:]:
        method, _, weight = name.partition(", ")
        own = chosen.loc[names.get(method, method)]
        assert set(own.weight) == {float(weight or 0)}
        agree(train.replace(",", " "), *own.train)
        agree(first, own.test.iloc[0])
        agree(second, own.test.iloc[1])
        agree(ranks.replace(",", " "), *own.weight_effective_rank)


def test_cut_networks():
    fits = read("compression.csv").set_index(["variant", "share"])
    (table,) = tables(section("Compression"))
    for name, *cells in table[1:]:
        share = 1.0 if "trained" in name else int(name.split()[0]) / 100
        column = "test_tuned" if "more epoch" in name else "test"
        for cell, variant in zip(cells, ("ht", "matrix", "deep", "plain"), strict=True):
            agree(cell, fits.loc[variant, share][column])


def test_missing_pixels():
    columns = [("generative", "test"), ("discriminative", "test"), ("cnn", "test_zero"), ("cnn", "test_mean")]
    columns.append(("cnn_masked", "test_zero"))
    chosen = [row for row in read("missing_data.json")["rows"] if row.get("chosen")]
    (table,) = tables(section("Missing pixels"))
    for name, *cells in table[1:]:
        for cell, (model, judged) in zip(cells, columns, strict=True):
            found = [row["accuracies"][judged][name.replace("×", "x")] for row in chosen if row["model"] == model]
            assert len(found) == 3
            agree(cell, 100 * np.mean(found))


def test_ranks_of_codes():
    rows = pd.DataFrame(read("autoencoder_shapes.json")["rows"]).groupby("model")
    (table,) = tables(section("Rank of codes"))
    keys = ("effective_rank", "used", "test_error", "middle_distance", "sample_distance", "effective_rank_of_variances")
    for (_, *cells), key in zip(table[1:], keys, strict=True):
        for cell, model in zip(cells, ("plain", "linear2", "linear4", "linear8"), strict=True):
            own = rows.get_group(model)[key]
            agree(cell, own.median() if key == "used" else own.mean(), own.min(), own.max())


def test_fits_of_noise():
    fits = read("randomization.csv").query("judged_on == 'test'").fillna({"control": ""})
    variants = {"true labels": "original", "labels shuffled": "random_labels", "shuffled labels": "random_labels"}
    variants |= {"Gaussian images": "gaussian_images"}
    for name, *cells in tables(section("Networks fit noise"))[0][1:]:
        kind, _, control = name.partition(", ")
        variant = variants.get(kind, kind.replace(" ", "_"))
        if kind.endswith("random"):
            variant = f"corrupted_labels_{int(numbers(kind)[0]) / 100:g}"
        control = control.replace("5e-4", "0.0005").replace("shifts by 2 pixels", "shifts 2")
        own = fits[(fits.variant == variant) & (fits.control == control)].set_index("model")
        for cell, model in zip(cells, ("mlp_1x512", "mlp_3x512", "cnn"), strict=True):
            row = own.loc[model]
            values = [row.train, row.epochs] if cell.startswith("train") else [row.epochs_to_fit]
            agree(cell.replace(",", " "), *values, *([row.test] if "," in cell else []))


def test_networks_that_are_written_down():
    rows = (
        pd.DataFrame(read("finite_sample.json")["rows"]).groupby(["activation", "points"])[["error", "condition"]].max()
    )
    names = {"leaky ReLU": "leaky_relu"}
    for name, *cells in tables(section("Networks fit noise"))[1][1:]:
        for cell, points in zip(cells, (10, 100, 1000), strict=True):
            agree(cell.replace(",", " "), *rows.loc[names.get(name, name.lower()), points])


def test_classifiers():
    (table,) = tables(section("Classifying MNIST and Fashion-MNIST"))
    rows = [row for name in ("mnist", "fashion") for row in read(f"classifiers_{name}.json")["rows"]]
    for (data, parameters, width, _, *settings, minutes), row in zip(table[1:], rows, strict=True):
        assert row["source"] == {"MNIST": "mnist", "Fashion-MNIST": "fashion_mnist"}[data]
        agree(parameters, row["parameters"])
        agree(width, row["options"]["width"])
        agree(minutes, row["seconds"] / 60)
        values = [row["options"]["dropout"], row["options"]["epochs"], row["validation"], row["test"]]
        for cell, value in zip(settings, values, strict=True):
            agree(cell, value)


def test_steps_of_densities():
    text, found = section("A training step of a density"), read("densities_speed.json")
    for (batch, own, *others, plan, memory), row in zip(tables(text)[0][1:], found["steps"], strict=True):
        agree(batch, row["batch"])
        agree(own, row["sides"]["htf"]["ms"])
        for cell, name in zip(others, ("cp-t", "cp"), strict=True):
            agree(cell, row["sides"][name]["ms"], row["sides"][name]["ratio"])
        agree(plan, row["plan_ms"])
        agree(memory, row["peak_GiB"])
    agree(*re.findall(r"A sample takes ([\d.]+) ms", text), 1e3 * found["samples"]["htf"])
    agree(*re.findall(r"of cirkit's (\d+) ms", text), 1e3 * found["samples"]["cp-t"])


def test_arrangements():
    found = read("arrangement.json")
    distances, accuracies, of_tables = tables(section("Which tree for which data"))
    rows = pd.DataFrame(found["mnist_distances"]).groupby("arrangement").distance.mean()
    for name, cell in zip(distances[0][1:], distances[1][1:], strict=True):
        agree(cell, rows[name.split()[0].lower()])
    means = {row["arrangement"]: row for row in found["digits"]["means"]}
    for name, accuracy, entropy in zip(*(row[1:] for row in accuracies), strict=True):
        own = means[name.split()[0].lower()]
        agree(accuracy, own["test"], own["spread"])
        agree(entropy, own["entanglement"])
    means = {(row["data"], row["network"], row["arrangement"]): row for row in read("arrangement_tables.json")["means"]}
    networks = {"1-D CNN": "line", "residual CNN on a grid": "grid", "local attention": "attention"}
    data = ""
    for given, what, *cells in of_tables[1:]:
        data = {"LetterRecognition": "letters"}.get(given, given.lower()) or data
        network = networks.get(what.partition(",")[0], "ht")
        for name, cell in zip(of_tables[0][2:], cells, strict=True):
            own = means[data, network, name.lower()]
            agree(cell, *((own["accuracy"], own["spread"]) if "accuracy" in what else (own["entanglement"],)))


def test_over_parameterized_and_factorized_steps():
    own, steps = tables(section("What an over-parameterized step costs"))
    rows = {(row["what"], row["depth"], row["size"]): row for row in read("overparam_speed.json")["rows"]}
    for name, *cells in own[1:]:
        kind = next((kind for kind in ("plain", "chain", "overparam") if kind in name), "effective weight")
        depth = int(numbers(name)[0]) if kind != "plain" else 1
        for place, size in (0, 32), (3, 48):
            row = rows[kind, depth, size]
            for cell, key in zip(cells[place : place + 3], ("ms", "ratio", "memory_ratio"), strict=True):
                agree(cell, row[key])
    ratios = {
        (row["layer"], row["share"], row["format"], row["side"]): row["ratio"]
        for row in read("factorized_speed.json")["steps"]
    }
    sides = {side for *_, side in ratios}
    for name, *cells in steps[1:]:
        layer, share, *side = name.split(", ")
        (key,) = (each for each in sides if each != "plain" and (each == "tensorly-torch") == bool(side))
        for cell, format in zip(cells, ("matrix", "cp", "tucker", "tt", "ht"), strict=True):
            if cell:
                agree(cell, ratios[{"convolution": "conv"}.get(layer, layer), float(share), format, key])


def test_speed_of_tensors():
    found = read("ht_speed.json")
    balanced, linear = tables(section("HT tensors"))
    rows = [*found["balanced"], *found["high orders"]]
    for table, each, own, peer in (
        (balanced, rows, "htf", "tensap"),
        (linear, found["linear"], "htf in PyTorch", "torchTT"),
    ):
        for (_, size, time, *ratios), row in zip(table[1:], each, strict=True):
            assert [int(text) for text in numbers(size.replace(",", " "))] == [
                row[key] for key in ("order", "dim", "rank") if row.get(key)
            ]
            agree(time, row["ms"][own])
            for cell, name in zip(ratios, (peer, "HiePy"), strict=True):
                agree(cell, *([row["ratio"][name]] if name in row["ratio"] else []))


def test_gpu():
    graphs, replays, probe, regularizers = tables(section("On a GPU"))
    iterations = {(row["what"].split()[0], row["kind"]): row for row in read("gpu/dynamics.json")["iterations"]}
    for (_, eager, graph, ten), name in zip(graphs[1:], ("MF", "CP", "HT"), strict=True):
        other = next(kind for what, kind in iterations if what == name and kind != "eager")
        agree(eager, iterations[name, "eager"]["one_ms"])
        agree(graph, iterations[name, other]["one_ms"])
        agree(ten, iterations[name, other]["ten_ms"])
    for (_, *cells), row in zip(replays[1:], read("gpu/replays.json")["iterations"], strict=True):
        for cell, key in zip(cells, ("one_eager_ms", "one_graphs_ms", "ten_graphs_ms"), strict=True):
            agree(cell, row[key])
    times = read("gpu/probe.json")["epochs_ms"]
    for (_, cell), name in zip(probe[1:3], ("tf32 eager", "tf32 graphs"), strict=True):
        agree(cell, times[name])
    steps = read("gpu/long_range.json")["steps"]
    kinds = list(dict.fromkeys(step["kind"] for step in steps))
    for place, (_, *cells) in enumerate(regularizers[1:]):
        for column, kind in enumerate(kinds):
            step = [step for step in steps if step["kind"] == kind][place]
            agree(cells[2 * column], step["ms"])
            agree(cells[2 * column + 1], step["ratio"])


def test_speed_of_fits():
    found = read("probe_speed.json")
    (table,) = tables(section("Speed"))
    (readme,) = [each for each in tables(section("Measured", README)) if "planning, once" in each[0]]
    for row, short, each in zip(table[1:], readme[1:], (found["cp"], found["ht"], found["tree"]), strict=True):
        for cells, peer in (row[1:4], row[3]), ([short[1], short[2], short[3]], short[3]):
            agree(cells[0], each["seconds_per_epoch"])
            agree(cells[1], each["seconds_planning_once"])
            agree(numbers(peer)[-1], each["peer_seconds_per_epoch"])
        agree(row[4], each["ratio"])
        agree(short[4], each["ratio"])
        agree(row[5], each["ratio_of_a_first_epoch_with_planning"])
        agree(row[6], each["largest_output_difference"])


def test_figures_in_the_text_of_the_readme():
    text = README.replace("\n", " ")
    found = read("dynamics_speed.json")["against imp_reg_htf"]
    (own, peer), *others = re.findall(r"takes ([\d.]+) ms at widths 512.*?takes (\d+) ms \(", text)
    assert not others
    agree(own, found["ht"]["htf_ms"])
    agree(peer, found["ht"]["peer_ms"])
    for ratio, name in zip(re.findall(r"\(([\d.]+) times\)", text), ("ht", "mf", "cp"), strict=True):
        agree(ratio, found[name]["ratio"])
    ((parameters, mnist, fashion),) = re.findall(
        r"tree of ([\d,]+) parameters.*?tells ([\d.]+) %.*?flips, ([\d.]+) %", text
    )
    for name, share in ("mnist", mnist), ("fashion", fashion):
        (best,) = [row for row in read(f"classifiers_{name}.json")["rows"] if row.get("chosen")]
        agree(parameters, best["parameters"])
        agree(share, 100 * best["test"])
    agree(re.findall(r"Peak memory .*?: ([\d.]+) GiB", text)[0], read("probe_speed.json")["own_peak_GiB"])
    times = {(row["what"].split()[0], row["kind"]): row for row in read("gpu/dynamics.json")["iterations"]}
    graph = next(row for (name, kind), row in times.items() if name == "HT" and kind != "eager")
    ((one, ten),) = re.findall(r"([\d.]+) ms as CUDA graph.*?([\d.]+) ms for ten", text)
    agree(one, graph["one_ms"])
    agree(ten, graph["ten_ms"])


def test_streams_and_operators():
    rows = {(row["field"], row["tol"], row["side"]): row["ratio"] for row in read("streaming.json")["rows"]}
    (table,) = tables(section("Streams of blocks"))
    for name, *cells in table[1:]:
        field, tol = name.split(", ")
        for cell, side in zip(cells, ("htf.HTStream", "HT-RISE", "tt, at once"), strict=False):
            agree(cell, rows[field, float(tol), side])
    means = {row["factorization"]: row for row in read("neural_operators.json")["means"]}
    (table,) = tables(section("HT weights in a neural operator"))
    for error, parameters, name in zip(table[1][1:], table[2][1:], table[0][1:], strict=True):
        own = means[name.lower()]
        agree(parameters, own["parameters"])
        agree(error, *(own[key] for key in ("test_error", "standard_deviation")[: len(numbers(error))]))
