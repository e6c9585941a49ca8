"""The whole benchmark at tiny sizes, and the page it writes."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))  # `benchmarks` is not installed: it is run from a checkout

from benchmarks.generators import Ours, Weights  # noqa: E402
from benchmarks.suites import SUITES  # noqa: E402

from benchmarks import bf16, jax_peer, onnx_peer, options, pages, ragged, run  # noqa: E402
from throughtime.bench import verify  # noqa: E402
from throughtime.bench.machine import folder  # noqa: E402

UNAVAILABLE = {
    **({} if jax_peer.installed() else {"jax": "jax is not installed"}),
    **({} if torch.cuda.is_available() else {"gpu": "torch sees no CUDA device"}),
}
MEASURED = [name for name in SUITES if name not in UNAVAILABLE]


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """What a quick run keeps."""
    out = tmp_path_factory.mktemp("results")
    assert run.main(["--quick", "--out", str(out)]) == 0
    return out


def kept(results, name):
    """What the quick run kept of one suite."""
    (file,) = results.glob(f"*/{name}.json")
    return json.loads(file.read_text())


@pytest.fixture(autouse=True)
def threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_every_suite_is_kept_with_what_it_was_measured_on(results):
    assert {file.stem for file in results.glob("*/*.json")} == set(MEASURED)
    for name in MEASURED:
        suite, found = SUITES[name], kept(results, name)
        assert found["quick"]
        assert found["command"] == f"python -m benchmarks.run {name} --quick"
        assert found["machine"]["torch"] == torch.__version__
        assert (results / folder(found["machine"], suite.cuda) / f"{name}.json").exists()
        head, rows = suite.table(found["results"])
        assert rows
        assert all(len(row) == len(head) for row in rows)


def test_what_is_shown_was_measured(results):
    for result in kept(results, "ragged")["results"]:
        median = {name: timing["median"] for name, timing in result["timings"].items()}
        assert 0.4 < result["real"] <= 1
        assert result["over_real_steps"] == pytest.approx(
            median["ours"] / median["ours padded"] / result["real"]
        )
        assert result["ratio"] == pytest.approx(median["torch packed"] / median["ours"])
    assert {result["option"] for result in kept(results, "options")["results"]} == {*options.OPTIONS}
    for result in kept(results, "bf16")["results"]:
        median = {name: timing["median"] for name, timing in result["timings"].items()}
        assert result["over_fp32"] == pytest.approx(median["fp32"] / median["bf16"])
        assert result["ratio"] == pytest.approx(median["torch bf16"] / median["bf16"])
        assert 1e-4 < result["errors"]["bf16"] < bf16.LIMIT  # a rounding error, and no more than that
        assert result["errors"]["fp32"] < 1e-4
    for result in kept(results, "denormals")["results"]:
        assert result["denormal"] > 0  # or there is nothing to be slow about
        assert set(result["slowdown"]) == {"ours", "torch"}
    generated = kept(results, "generation")["results"]
    assert {(result["cell"], result["layers"], result["batch"]) for result in generated} == {
        (cell, layers, batch) for cell in ("LSTM", "GRU") for layers in (1, 2) for batch in (1, 3)
    }
    reason = onnx_peer.missing()
    assert all(result["skipped"] == ({"onnxruntime": reason} if reason else {}) for result in generated)


def test_the_page_gets_every_table_and_says_that_it_was_quick(results, tmp_path):
    page = tmp_path / "performance.md"
    page.write_text(pages.PAGE.read_text(encoding="utf-8"), encoding="utf-8")
    for _ in range(2):  # the second time in the place of the first
        done = pages.write(page, results, tmp_path / "performance.svg")
        assert set(done) - {"plot"} == set(MEASURED)
        text = page.read_text(encoding="utf-8")
        for name in SUITES:
            (section,) = re.findall(rf"<!-- {name} -->\n(.*?)<!-- /{name} -->", text, re.S)
            if name not in MEASURED:
                assert section == f"Not measured yet: `python -m benchmarks.run {name}`.\n"
                continue
            assert section.count("| --- ") + section.count("| --- |") > 0
            assert "From a quick run" in section
            assert f"Command: `python -m benchmarks.run {name} --quick`." in section
    assert ("plot" in done) == (importlib.util.find_spec("matplotlib") is not None)
    assert ("plot" in done) == (tmp_path / "performance.svg").exists()


def test_every_processor_that_has_results_has_a_table(results, tmp_path):
    """Each with its own figures, machine and command; older results do not hold the command."""
    page, both = tmp_path / "page.md", tmp_path / "results"
    page.write_text("# Performance\n\n<!-- plot -->\n<!-- /plot -->\n")
    found = kept(results, "ragged")
    for place, ratio in (("avx512", 7.0), ("avx2", 3.0)):
        (both / place).mkdir(parents=True)
        found["machine"]["processor"] = f"processor with {place}"
        found["command"] = f"measure {place}"
        for result in found["results"]:
            result["ratio"] = ratio
        (both / place / "ragged.json").write_text(json.dumps(found))
    assert pages.write(page, both, tmp_path / "plot.svg") == ["ragged"]
    section = page.read_text().split("<!-- ragged -->")[1].split("<!-- /ragged -->")[0]
    first, second = section.split("**avx512**")
    assert first.startswith("\n**avx2**\n\n| cell")
    for part, place, ratio in ((first, "avx2", "3.0"), (second, "avx512", "7.0")):
        assert f"Measured on: processor with {place}, " in part
        assert f"Command: `measure {place}`." in part
        assert f"| {ratio} | " in part
    del found["command"]
    assert "Command: `python -m benchmarks.run ragged`." in pages.section("ragged", "avx2", found)


def test_a_suite_without_a_place_on_the_page_gets_one_at_its_end(results, tmp_path):
    page, place = tmp_path / "page.md", folder(kept(results, "training")["machine"])
    page.write_text("# Performance\n\n<!-- training -->\n<!-- /training -->\n<!-- plot -->\n<!-- /plot -->\n")
    for _ in range(2):
        pages.write(page, results, tmp_path / "plot.svg")
        text = page.read_text()
        assert text.startswith(f"# Performance\n\n<!-- training -->\n**{place}**\n\n| cell")
        assert text.count(f"## Vanishing gradients\n\n<!-- denormals -->\n**{place}**\n\n| cell") == 1


def test_a_page_without_markers_is_refused():
    with pytest.raises(ValueError, match="found them 0 times"):
        pages.between("<!-- training -->\n", "training", "table")


def test_the_page_in_the_docs_has_no_figures_of_a_quick_run():
    assert "From a quick run" not in pages.PAGE.read_text(encoding="utf-8")


def test_an_unknown_suite_is_refused(capsys):
    with pytest.raises(SystemExit) as ended:
        run.main(["trainning"])
    assert ended.value.code == 2
    assert "no such suite: trainning; there are training, inference" in capsys.readouterr().err


def test_a_wrong_suite_is_not_measured_and_the_run_fails(monkeypatch, capsys, tmp_path):
    right = verify.worst_error
    monkeypatch.setattr(ragged, "worst_error", lambda got, wanted: right(got, wanted) + 1)
    assert run.main(["--quick", "ragged", "training", "--out", str(tmp_path)]) == 1
    assert "is wrong, so it is not measured" in capsys.readouterr().out
    assert [file.name for file in tmp_path.glob("*/*")] == ["training.json"]


@pytest.mark.parametrize(("name", "reason"), UNAVAILABLE.items())
def test_what_cannot_run_here_says_so_in_one_line_and_keeps_nothing(name, reason, capsys, tmp_path):
    assert run.main(["--quick", name, "--out", str(tmp_path)]) == 1
    assert capsys.readouterr().out.splitlines()[1:] == ["", f"{name}: not run: {reason}"]
    assert not list(tmp_path.iterdir())


def test_the_load_is_an_option_and_part_of_the_command(tmp_path, capsys):
    assert run.main(["--quick", "shared", "--busy", "1", "--out", str(tmp_path)]) == 0
    found = kept(tmp_path, "shared")
    assert {result["busy"] for result in found["results"]} == {1}
    assert found["command"] == "python -m benchmarks.run shared --quick --busy 1"
    with pytest.raises(SystemExit):
        run.main(["--quick", "shared", "--busy", "-1"])
    assert "--busy must be 0 or more processes, got -1" in capsys.readouterr().err


def test_padding_is_never_read_by_the_side_that_is_measured():
    """torch.nn's packed layer answers as ours does, in the outputs and all gradients."""
    from throughtime.bench.recurrences import CELLS, Shape, data

    x, dy = data(Shape(6, 4, 3, 5))
    lengths = torch.tensor([6, 1, 4, 3])
    theirs = CELLS["GRU"][1](3, 5)
    ours = CELLS["GRU"][0](3, 5)
    ours.load_state_dict(theirs.state_dict())
    packed = verify.outputs_and_gradients(theirs, x, dy, ragged.Packed(theirs), lengths=lengths)
    assert verify.worst_error(verify.outputs_and_gradients(ours, x, dy, lengths=lengths), packed) < 1e-5


@pytest.mark.skipif(onnx_peer.missing() is not None, reason=str(onnx_peer.missing()))
@pytest.mark.parametrize("cell", ["LSTM", "GRU"])
def test_the_onnx_graph_is_the_same_network(cell):
    weights = Weights(cell, 2, 7).eval()
    ids = torch.randint(100, (5, 1))
    theirs = onnx_peer.Onnx(weights, 1).probabilities(ids)
    assert verify.worst_error([theirs], [Ours(weights).probabilities(ids)]) < 1e-5


def test_a_side_that_would_take_long_is_timed_over_few_steps(monkeypatch):
    from benchmarks.plan import QUICK

    monkeypatch.setattr(bf16, "LONG", 0.0)
    result = bf16.measure(QUICK)[0]
    assert result["steps"] == dict.fromkeys(bf16.SIDES, bf16.STEPS)
    assert "from 2 steps" in bf16.table([result])[1][0][2]
