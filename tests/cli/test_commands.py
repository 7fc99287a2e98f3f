"""What the commands print when all is well."""

import json
import math
import re
import shutil

import pytest

import ppl_text
from guides import GUIDES
from ppl_text.cli.output import print_table
from ppl_text.data.catalogue import CORPORA, ELSEWHERE
from ppl_text.objectives import OBJECTIVES
from ppl_text.recipes import recipe_names


def strict(text):
    """JSON without NaN and infinities, which the standard does not know."""

    def refuse(token):
        raise AssertionError(f"{token} is not JSON")

    return json.loads(text, parse_constant=refuse)


def test_fit_trains_and_ends_in_a_report(ppl, tmp_path, monkeypatch, tiny_arguments):
    monkeypatch.chdir(tmp_path)
    ended = ppl("fit", *tiny_arguments)
    assert ended.status == 0, ended.err
    run = tmp_path / "runs" / "words-1"
    assert {p.name for p in run.iterdir()} == {
        *("config.yaml", "data.json", "environment.json", "tokenizer.json", "metrics.jsonl", "checkpoints"),
        *("model.safetensors", "results.json", "report.md", "report.html", "figures"),
    }
    report = (run / "report.md").read_text(encoding="utf-8")
    assert ended.out.strip().startswith("# Run words-1: words")
    assert report.splitlines()[2:12] == ended.out.strip().splitlines()[2:12]
    assert "(runs/words-1/figures/training.png)" in ended.out
    results = strict((run / "results.json").read_text(encoding="utf-8"))
    assert f"| ELBO | {results['elbo']:.3f} | {results['elbo_se']:.3f} |" in report
    assert results["trained"] == {"step": 20, "best_step": results["trained"]["best_step"], "stopped": "steps"}
    for line in ended.out.splitlines()[-3:]:  # the advice at the end is taken
        assert ppl(*line.split("python -m ppl_text ")[1].split()).status == 0


def test_progress_is_plain_lines_away_from_a_terminal(ppl, tmp_path, tiny_arguments):
    err = ppl("fit", *tiny_arguments, "--out", tmp_path / "run").err
    lines = err.splitlines()
    assert "\r" not in err
    assert "\x1b" not in err
    assert [line.split()[1] for line in lines if line.startswith("step ")] == ["5/20", "10/20", "15/20", "20/20"]
    assert sum(line.startswith("validation at step") for line in lines) == 2
    assert any(re.fullmatch(r"h +FlowChain event .* FlowChain event .*", line) for line in lines)


def test_a_second_run_gets_the_next_folder(ppl, tmp_path, monkeypatch, tiny_arguments):
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        assert ppl("fit", *tiny_arguments, "--steps", "2").status == 0
    assert sorted(p.name for p in (tmp_path / "runs").iterdir()) == ["words-1", "words-2"]
    first, second = ((tmp_path / "runs" / f"words-{n}" / "model.safetensors").read_bytes() for n in (1, 2))
    assert first == second


def test_a_run_is_repeated_bit_for_bit_from_its_config(ppl, tmp_path, trained):
    ended = ppl("fit", trained.folder / "config.yaml", "--out", tmp_path / "again")
    assert ended.status == 0, ended.err
    for name in ("model.safetensors", "config.yaml", "results.json", "data.json"):
        assert (tmp_path / "again" / name).read_bytes() == (trained.folder / name).read_bytes(), name


def test_files_are_found_again_from_another_folder(ppl, tmp_path, monkeypatch, tiny_arguments, word_list):
    """Relative paths of corpus and guide, also in --set, are kept as absolute ones."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "list.tsv").write_bytes(word_list.read_bytes())
    guide = "from guides.deep_state_space import MeanFieldGuide\nclass Mine(MeanFieldGuide):\n    pass\n"
    (tmp_path / "mine.py").write_text(guide, encoding="utf-8")
    changes = ["--set", "data.corpus=list.tsv", "--guide", "mine.py:Mine", "--steps", "2", "--out", "run"]
    assert ppl("fit", *tiny_arguments, *changes).status == 0
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert ppl("evaluate", "../run", "--particles", "2", "--trust").status == 0
    assert ppl("fit", "--resume", "../run", "--steps", "3", "--guide", "../mine.py:Mine").status == 0


def test_short_trainings_end_within_the_warm_up(ppl, tmp_path, tiny_arguments):
    rate = "training.lr={name: warmup, value: 1e-2, warmup_steps: 100}"
    ended = ppl("fit", *tiny_arguments, "--set", rate, "--steps", "4", "--out", tmp_path / "run")
    assert ended.status == 0, ended.err
    records = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    assert records[0]["lr"] == pytest.approx(0.04 * 1e-2)


def test_evaluate_prints_a_table_and_strict_json(ppl, trained):
    plain = ppl("evaluate", trained.folder, "--particles", "8", "--seed", "3")
    values = strict(ppl("evaluate", trained.folder, "--particles", "8", "--seed", "3", "--json").out)
    assert plain.status == 0
    assert re.search(rf"ELBO +{values['elbo']:.3f} +{values['elbo_se']:.3f}\n", plain.out)
    assert re.search(
        rf"importance-weighted bound, K = 8 +{values['iw']:.3f} +{values['iw_se']:.3f} +unknown\n", plain.out
    )
    assert f"perplexity {values['perplexity']:.3f} ± {values['perplexity_se']:.3f} (EOS counted)" in plain.out
    assert "every type of the split" in plain.out
    assert values["seed"] == 3
    assert values["n_sent"] == trained.corpus.splits["test"].total
    assert values["elbo"] < values["iw"] < values["letter_model"] + 5
    assert plain.err == ""


def test_evaluate_with_one_particle_knows_no_spread(ppl, trained):
    values = strict(ppl("evaluate", trained.folder, "--particles", "1", "--json").out)
    assert values["elbo_se"] is None
    assert values["iw_se"] is None
    assert values["elbo"] == values["iw"]
    assert ppl("evaluate", trained.folder, "--particles", "1").out.count("unknown (K = 1)") == 2


def test_evaluate_of_a_part_says_what_drawing_adds(ppl, trained):
    arguments = ["evaluate", trained.folder, "--limit", "30", "--particles", "2", "--split", "valid"]
    values = strict(ppl(*arguments, "--json").out)
    assert values["n_sent"] == 30
    assert values["sampling_se"] > 0
    out = ppl(*arguments).out
    assert f"30 words drawn from the split ∝ counts (± {values['sampling_se']:.3f} from the draw)" in out


def test_evaluate_adds_the_bound_of_an_objective(ppl, trained):
    arguments = ["evaluate", trained.folder, "--objective", "fivo:4", "--particles", "4", "--limit", "40"]
    values = strict(ppl(*arguments, "--json").out)
    mean, error = trained.bound("fivo:4", limit=40)
    assert (values["objective"], values["objective_bound"], values["objective_bound_se"]) == ("fivo:4", mean, error)
    assert values["elbo"] - 5 * math.hypot(values["elbo_se"], error) < mean < values["iw"] + 2.0
    assert 0 < error < 0.5
    assert re.search(rf"bound of fivo:4 +{mean:.3f} +{error:.3f}\n", ppl(*arguments).out)
    wrong = ppl("evaluate", trained.folder, "--objective", "fivo")
    assert wrong.status == 2
    assert "write fivo:N" in wrong.err


def test_tables_line_up_whatever_the_characters(capsys):
    print_table(["k̂", "b"], [["0.5", "x"], ["κ̂ > 1", "y"]])
    assert [line.index(c) for line, c in zip(capsys.readouterr().out.splitlines(), "bxy", strict=True)] == [10, 9, 10]


def test_generate_is_repeatable_and_has_as_many_lines_as_asked(ppl, trained):
    ended = ppl("generate", trained.folder, "-n", "7")
    assert len(ended.out.splitlines()) == 7
    assert ended.out.splitlines() == trained.generate(7, seed=0)
    assert ppl("generate", trained.folder, "-n", "7").out == ended.out
    assert ppl("generate", trained.folder, "-n", "7", "--seed", "1").out != ended.out
    assert len(ppl("generate", trained.folder).out.splitlines()) == 20
    assert set("".join(ended.out.split())) <= set(trained.corpus.tokenizer.symbols)


def test_generate_reconstructs_a_text_and_a_file(ppl, trained, tmp_path):
    alone = ppl("generate", trained.folder, "--reconstruct", "bade").out
    assert alone == f"bade\t{trained.reconstruct(['bade'])[0]}\n"
    (tmp_path / "texts.txt").write_text("\ufeffbade\n\n  ma \n", encoding="utf-8")
    lines = ppl("generate", trained.folder, "--reconstruct", tmp_path / "texts.txt").out.splitlines()
    assert [line.split("\t")[0] for line in lines] == ["bade", "ma"]


def test_generate_interpolates(ppl, trained):
    assert len(ppl("generate", trained.folder, "--interpolate", "bade", "ma").out.splitlines()) == 7
    ended = ppl("generate", trained.folder, "--interpolate", "bade", "ma", "-n", "20")
    assert ended.out.splitlines() == trained.interpolate("bade", "ma", points=20)


def test_list_shows_all_there_is(ppl):
    for kind, names in {
        "recipes": recipe_names(),
        "guides": [name for family in GUIDES.values() for name in ("guide", *family)][1:],
        "objectives": OBJECTIVES,
        "corpora": [*CORPORA, "corpus", *ELSEWHERE],
    }.items():
        ended = ppl("list", kind)
        assert ended.status == 0
        shown = [line.split()[0] for line in ended.out.splitlines() if line.startswith("  ")]
        assert shown[1:] == list(names)
    assert "q(h_t | w_{1:T}) = N(m(c_t), diag s(c_t)²)" in ppl("list", "guides").out


def test_list_runs_shows_each_with_its_state(ppl, tmp_path, monkeypatch, trained):
    monkeypatch.chdir(tmp_path)
    for name in ("words-1", "words-2"):
        shutil.copytree(trained.folder, tmp_path / "runs" / name)
    (tmp_path / "runs/words-2/config.yaml").write_text("model: [", encoding="utf-8")
    ended = ppl("list", "runs")
    assert ended.status == 0, ended.err
    header, first, second = ended.out.splitlines()
    assert header.split()[:3] == ["run", "recipe", "guide"]
    assert re.match(r"  runs/words-1 +words +diagonal +ELBO -\S+ ± \S+ +IW -\S+ ± \S+ \(K = 4\) +finished$", first)
    assert re.match(r"  runs/words-2 +damaged: .*is not valid YAML", second)
    (tmp_path / "empty").mkdir()
    assert ppl("list", "runs", "empty").out == "no run in empty; train one: python -m ppl_text fit\n"


def test_explain_tells_all_and_trains_nothing(ppl, tmp_path, monkeypatch, tiny_arguments):
    monkeypatch.chdir(tmp_path)
    out = ppl("explain", "words", *tiny_arguments, "--objective", "iwae:5").out
    assert "p(h, w) = Π_t p(h_t | h_{t-1}) P(w_t | h_t)" in out
    assert "q(h_t | h_{t-1}, w_{t:T})" in out
    assert "iwae:5: iwae:K, ln of the mean of K importance weights" in out
    assert "h     FlowChain event (3, 2) real" in out
    sizes = [int(number.replace(",", "")) for number in re.findall(r"model\.\S+ +\([\d, ]*\) +([\d,]+)", out)]
    assert sum(sizes) == int(re.search(r"model, all +([\d,]+)", out)[1].replace(",", ""))
    assert "corpus: " in out
    assert not list(tmp_path.iterdir())


def test_help_and_version(ppl):
    assert ppl("--version").out == f"ppl_text, version {ppl_text.__version__}\n"
    commands = ppl("--help").out
    for name in ("fit", "evaluate", "generate", "list", "explain"):
        assert re.search(rf"\n  {name} +[A-Z]", commands)
        assert ppl(name, "--help").status == 0
    assert ppl().status == 2
