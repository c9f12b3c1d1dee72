"""The demo's stages: their stored results, and the stack after a failed stage."""

import json
from contextlib import nullcontext
from types import SimpleNamespace

import pytest

from config.local_stack import demo as local_demo
from config.local_stack.demo import Demo, parse
from config.local_stack.stack import StackError
from config.local_stack.summary import trained_words
from config.runtime.settings import SettingsError


@pytest.fixture
def make_demo(tmp_path, monkeypatch):
    """Return a function that makes a demo without processes, with a loop from the test."""
    stack = SimpleNamespace(logs=tmp_path)
    monkeypatch.setattr(local_demo, "running", lambda *_, **__: nullcontext(stack))
    monkeypatch.setattr(Demo, "wait_healthy", lambda *_: None)

    def make(loop, *options: str) -> Demo:
        monkeypatch.setattr(Demo, "loop", loop)
        folders = ["--state-dir", str(tmp_path / "var"), "--out-dir", str(tmp_path)]
        made = Demo(parse([*folders, *options]))
        made.state.mkdir(parents=True, exist_ok=True)
        return made

    return make


def out_of_time(_: Demo) -> None:
    """Fail as a stage whose wait timed out."""
    raise StackError("a training: not within 120 s: gold-owl is Late, not begun")


def test_a_failed_demo_keeps_its_stack_running_with_the_flag_keep(make_demo, monkeypatch, capsys):
    stayed: list[Demo] = []

    def stayed_up(demo: Demo) -> None:
        stayed.append(demo)

    monkeypatch.setattr(Demo, "stay_up", stayed_up)
    with pytest.raises(StackError, match="gold-owl is Late, not begun"):
        make_demo(out_of_time).run()
    assert not stayed
    with pytest.raises(StackError, match="the demo failed"):
        make_demo(out_of_time, "--keep").run()
    assert len(stayed) == 1
    assert "gold-owl is Late, not begun" in capsys.readouterr().out


def test_rejected_records_end_the_demo_with_their_reasons(make_demo, monkeypatch):
    """The demo once sent columns that are not in the table, and then waited for drift in vain."""
    found = {
        "sent": 2500,
        "rejected": 2500,
        "reasons": {"/predict: capital_gain: no such field": 2},
    }
    demo = make_demo(lambda demo: demo.send("sudden", 0, 1.0))
    written = demo.out_dir / "traffic-sudden.json"
    monkeypatch.setattr(
        local_demo, "run_command", lambda *_: written.write_text(json.dumps(found), "utf-8")
    )
    wrong = "sudden: 2500 of 2500 records were rejected; expected none. .*capital_gain: no such"
    with pytest.raises(StackError, match=wrong):
        demo.run()


@pytest.mark.parametrize(
    ("version", "words"),
    [
        ("2", "version 2 passed the gate"),
        ("1", "the gate rejected it: roc_auc may be worse"),
    ],
)
def test_a_rejected_version_is_a_result_of_the_demo(make_demo, monkeypatch, version, words):
    """A candidate may be worse on the test rows of another table. The demo once failed then."""
    demo = make_demo(lambda _: None)
    demo.stack = SimpleNamespace(logs=demo.out_dir, wait_for=lambda met, *_: met())
    monkeypatch.setattr(local_demo, "get", lambda _: {"state_type": "COMPLETED"})
    monkeypatch.setattr(local_demo, "version_facts", lambda *_: None)
    monkeypatch.setattr(local_demo, "production_facts", lambda _: {"model_version": version})
    monkeypatch.setattr(local_demo, "gate_reason", lambda _: "roc_auc may be worse")
    assert trained_words(demo.trained("run", before="1")) == words
    monkeypatch.setattr(local_demo, "get", lambda _: {"state_type": "CRASHED"})
    with pytest.raises(StackError, match="the training that drift started: ended as CRASHED"):
        demo.trained("run", before="1")


def test_an_invalid_contract_is_reported_before_any_process_starts(tmp_path, monkeypatch):
    path = tmp_path / "features.yaml"
    path.write_text("target: {}\nfeatures: []\n", "utf-8")
    monkeypatch.setenv("CONTRACT", str(path))
    with pytest.raises(SettingsError, match=f"{path}: target: "):
        Demo(parse([]))


def test_a_resumed_demo_runs_only_unfinished_stages(make_demo, capsys):
    ran: list[str] = []

    def run_stage(demo: Demo, name: str) -> None:
        def action() -> dict[str, str]:
            ran.append(name)
            return {"of": name}

        demo.state.mkdir(parents=True, exist_ok=True)
        assert demo.stage(name, "...", action) == {"of": name}

    def both(demo: Demo) -> None:
        run_stage(demo, "train")
        run_stage(demo, "traffic")

    def interrupted(demo: Demo) -> None:
        run_stage(demo, "train")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_demo(interrupted).run()
    make_demo(both, "--resume").run()
    assert ran == ["train", "traffic"]
    assert "train done before" in capsys.readouterr().out
    make_demo(both).run()
    assert ran[2:] == ["train", "traffic"]
