"""attack, audit, report and compare on a network that a user's file makes, as somebody types them."""

import json
import shutil

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from tests.cli.commands import PLAIN, refused
from tests.test_state_files import Bomb
from torch.nn.functional import cross_entropy

from robustspike.checkpoints import CheckpointError, load_model, read_tensors, save_model, write_tensors
from robustspike.cli import main
from robustspike.experiment import attackable, own_network
from robustspike.experiment.index import read_run
from robustspike.experiment.own_record import recorded
from robustspike.models import digits_cnn
from robustspike.results import Comparison, load_outcome

SPIKING = """
import snntorch as snn
import torch
from torch import nn
from layers_of_mine import head


class Net(nn.Module):
    def __init__(self, channels=3):
        super().__init__()
        self.linear = nn.Linear(64 * channels, 20)
        self.lif = snn.Leaky(beta=0.9, threshold=0.3)
        self.head = head(20)

    def forward(self, x):
        mem, out = self.lif.init_leaky(), []
        for _ in range(3):
            spk, mem = self.lif(self.linear(x.flatten(1)), mem)
            out.append(self.head(spk))
        return torch.stack(out)


def make():
    return Net()


def grey():
    return Net(1)


def plain():
    return nn.Sequential(nn.Flatten(), nn.Linear(192, 2))
"""

ONE = ["--attack", "fgsm", "--estimator", "rga", "--eps", "0.1", *PLAIN]
NAME = "runs/my_net-make"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a user's file, a file beside it, weights, and images; copy it before changing it."""
    pytest.importorskip("snntorch")
    folder = tmp_path_factory.mktemp("user")
    (folder / "my_net.py").write_text(SPIKING)
    (folder / "layers_of_mine.py").write_text("from torch import nn\ndef head(n): return nn.Linear(n, 2)\n")
    draw = np.random.default_rng(0)
    for kind, shade in (("dark", 60), ("light", 190)):
        (folder / "images" / kind).mkdir(parents=True)
        for k in range(30):
            pixels = np.clip(draw.normal(shade, 30, (8, 8, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / "images" / kind / f"{k}.png")
    trained(folder)
    return folder


def trained(folder):
    """Weights that tell dark from light, as a training script leaves them."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = own_network(f"{folder}/my_net.py:make").model.train()
        data = attackable(f"{folder}/my_net.py:make", data=str(folder / "images"), accelerator="cpu").data(None)
        optimizer = torch.optim.Adam(net.parameters(), 0.01)
        for _ in range(30):
            optimizer.zero_grad()
            loss = cross_entropy(net(data.train.images).mean(0), data.train.labels)
            loss.backward()
            optimizer.step()
    torch.save({"epoch": 30, "state_dict": {f"module.{k}": t for k, t in net.state_dict().items()}}, folder / "best.pt")


@pytest.fixture
def here(place, tmp_path, monkeypatch):
    """A copy of it as the working folder."""
    folder = shutil.copytree(place, tmp_path / "user")
    monkeypatch.chdir(folder)
    return folder


TARGET = ["my_net.py:make", "--weights", "best.pt", "--data", "images/"]


@pytest.fixture(scope="module")
def attacked_before(place, tmp_path_factory):
    """The same after an attack."""
    folder = shutil.copytree(place, tmp_path_factory.mktemp("attacked") / "user")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        with pytest.raises(SystemExit) as leaving:
            main(["attack", *TARGET, *ONE])
    assert not leaving.value.code
    return folder


@pytest.fixture
def attacked(attacked_before, tmp_path, monkeypatch):
    folder = shutil.copytree(attacked_before, tmp_path / "attacked")
    monkeypatch.chdir(folder)
    return folder


def evaluation(folder):
    [found] = (folder / NAME / "attacks").iterdir()
    return found


def text_of(out):
    return " ".join(out.split())


# --- the whole way


def test_attack_and_report(cli, here):
    code, out, err = cli("attack", *TARGET, *ONE)
    assert code == 0, err
    assert "my_net.py:make, images test" in out
    assert f"Next: robustspike report {NAME}" in text_of(out)
    assert "No --weights" not in out
    outcome = load_outcome(evaluation(here))
    assert (outcome.header.n, outcome.header.model, outcome.header.data) == (12, "my_net.py:make", "images test")
    assert outcome.clean_accuracy > 0.9
    code, out, err = cli("report", NAME)
    assert code == 0, err
    assert f"my_net.py:make (weights {outcome.header.weights_fingerprint[:8]}) on images test" in text_of(out)
    page = Comparison.model_validate_json((here / NAME / "report.json").read_text())
    assert page.networks[0].training == recorded(here / NAME).model_dump()
    assert recorded(here / NAME).weights == "best.pt"
    assert not page.notes
    assert "best.pt" in (here / NAME / "report.html").read_text()


def test_the_figures_are_those_of_the_network_with_its_weights(attacked):
    outcome = load_outcome(evaluation(attacked))
    given = attackable("my_net.py:make", weights=attacked / "best.pt", data="images", accelerator="cpu")
    test = given.data(None).test
    with torch.no_grad():
        right = given.model.model(test.images).mean(0).argmax(1) == test.labels
    assert outcome.clean_accuracy == right.double().mean()
    assert outcome.samples.tolist() == test.ids.tolist()


def test_without_weights_it_is_said_whose_they_are(cli, here):
    code, out, err = cli("attack", "my_net.py:plain", "--data", "images", "--attack", "fgsm", *PLAIN)
    assert code == 0, err
    assert "No --weights were given: these figures are of the weights that my_net.py:plain gives" in text_of(out)
    assert recorded(here / "runs" / "my_net-plain").weights is None
    [found] = (here / "runs" / "my_net-plain" / "attacks").iterdir()
    assert load_outcome(found).header.eps == 8 / 255


def test_out_is_the_folder_of_all_results(cli, here):
    flags = ["--attack", "fgsm", "--eps", "0.1,0.2", *PLAIN]
    code, out, err = cli("attack", *TARGET, *flags, "--out", here / "mine")
    assert code == 0, err
    assert {path.name for path in (here / "mine").iterdir()} == {"attacks", "network.yaml", "weights.safetensors"}
    assert len(list((here / "mine" / "attacks").iterdir())) == 2
    assert "0.2" in out
    assert not (here / "runs").exists()


def test_a_config_file_may_name_it_all(cli, here):
    settings = {"weights": "best.pt", "data": "images", "attack": "fgsm", "eps": 0.1, "doubts": 0, "accelerator": "cpu"}
    (here / "attack.yaml").write_text(yaml.safe_dump(settings))
    code, _, err = cli("attack", "my_net.py:make", "--config", "attack.yaml", "--no-progress")
    assert code == 0, err
    assert (here / NAME / "network.yaml").is_file()


# --- going on


def test_it_goes_on_only_when_told_to_and_to_the_same_rows(cli, attacked):
    whole = load_outcome(evaluation(attacked)).attempts
    refused(cli("attack", *TARGET, *ONE), "holds an evaluation already", "--resume")
    rows = evaluation(attacked) / "samples.jsonl"
    rows.write_text("".join(rows.read_text().splitlines(keepends=True)[:5]))
    code, _, err = cli("attack", *TARGET, *ONE, "--resume")
    assert code == 0, err
    again = load_outcome(evaluation(attacked)).attempts
    timed = [k for k in range(again.shape[2]) if np.array_equal(again[:, :, k], whole[:, :, k], equal_nan=True)]
    assert len(timed) >= again.shape[2] - 1  # all but the seconds


def test_other_weights_are_refused(cli, attacked):
    state = torch.load("best.pt", weights_only=True)
    state["state_dict"]["module.linear.bias"] += 0.01
    torch.save(state, "other.pt")
    for more in (["--resume"], ["--limit", "4"]):
        result = cli("attack", "my_net.py:make", "--weights", "other.pt", "--data", "images", *ONE, *more)
        refused(result, f"{NAME} holds figures of another network: weights", "choose another folder (--out)")
    shutil.copy("best.pt", "same.pt")
    code, _, err = cli("attack", "my_net.py:make", "--weights", "same.pt", "--data", "images", *ONE, "--resume")
    assert code == 0, err


def test_another_network_or_other_code_is_refused_and_remarks_are_not(cli, attacked):
    file = attacked / "my_net.py"
    file.write_text(f"# a remark\n{SPIKING}")
    code, _, err = cli("attack", *TARGET, *ONE, "--resume")
    assert code == 0, err
    file.write_text(SPIKING.replace("return torch.stack(out)", "return torch.stack(out) * 2"))
    refused(cli("attack", *TARGET, *ONE, "--resume"), "holds figures of another network: the file's code")
    file.write_text(SPIKING + "\n\ndef other(): return Net()\n")
    result = cli("attack", "my_net.py:other", *TARGET[1:], *ONE, "--out", NAME)
    refused(result, "it is my_net.py:make (not my_net.py:other)")


def test_a_training_run_is_left_alone(cli, here, run):
    before = (run / "weights.safetensors").read_bytes()
    refused(cli("attack", *TARGET, *ONE, "--out", run), "holds a training run; choose another folder (--out)")
    assert (run / "weights.safetensors").read_bytes() == before


# --- beside others


def test_the_tensors_in_the_folder_verify_the_figures(attacked, tmp_path):
    path = attacked / NAME
    found = read_run(path, attacked)
    [entry] = found.entries
    assert (entry.standing, entry.checkpoint, entry.architecture) == ("ranked", "last", "Net")
    assert entry.time_steps == recorded(path).time_steps
    assert entry.parameters == 192 * 20 + 20 + 20 * 2 + 2
    assert found.recorded
    assert not found.lacks
    with pytest.raises(CheckpointError, match=r"holds the tensors of my_net.py:make, which only that file can make"):
        load_model(path)


def test_other_tensors_in_the_folder_are_not_ranked(attacked):
    path = attacked / NAME / "weights.safetensors"
    tensors, record = read_tensors(path)
    tensors["model.linear.bias"] += 0.01
    write_tensors(path, tensors, record)
    found = read_run(path.parent, attacked)
    assert found.entries[0].standing == "unverified"
    assert "it is of other weights than those that are in the folder now" in found.entries[0].reason
    assert "network.yaml says weights" in found.lacks[0].what
    path.unlink()
    assert "weights.safetensors is missing" in read_run(path.parent, attacked).entries[0].reason


@pytest.mark.parametrize(("text", "what"), [("", "network.yaml is empty"), ("target: 3", "network.yaml: target: ")])
def test_a_damaged_record_is_said_and_the_figures_are_kept(attacked, text, what):
    (attacked / NAME / "network.yaml").write_text(text)
    found = read_run(attacked / NAME, attacked)
    assert found.entries[0].standing == "ranked"
    assert what in found.lacks[0].what


def test_ranked_and_compared_with_a_training_run(cli, run, here):
    shutil.copytree(run, here / "runs" / "trained")
    grey = ["my_net.py:grey", "--data", "digits", "--limit", "16"]
    (here / "layers_of_mine.py").write_text("from torch import nn\ndef head(n): return nn.Linear(n, 10)\n")
    for what in (["runs/trained"], grey):
        code, _, err = cli("attack", *what, *ONE)
        assert code == 0, err
    names = [next((here / "runs" / one / "attacks").iterdir()) for one in ("trained", "my_net-grey")]
    code, out, err = cli("compare", *names)
    assert code == 0, err
    assert "my_net.py:grey, digits test" in text_of(out)
    names[1].rename(names[1].with_name(names[0].name))
    code, out, err = cli("report", "runs")
    assert code == 0, err
    assert "my_net.py:grey" in out
    assert "SR*" in out
    board = json.loads((here / "runs" / "index.json").read_text())
    assert len(board["groups"][0]["places"]) == 2
    assert not board["unranked"]
    assert not board["missing"]
    both = Comparison.model_validate_json((here / "runs" / "report.json").read_text())
    assert {network.name for network in both.networks} == {"my_net.py:grey", "SR*"}
    code, out, err = cli("compare", "runs/trained", "runs/my_net-grey")
    assert code == 0, err


def test_a_folder_of_results_is_no_run_to_attack(cli, attacked):
    text = "robustspike attack my_net.py:make_model --weights best.pt"
    refused(cli("attack", NAME, *ONE), "holds figures of a network of your own, not a training run", text)
    refused(cli("audit", NAME, *PLAIN), "holds figures of a network of your own")


# --- audits


AUDIT = ["--audit", "gradients", "--samples", "6", "--suite", "luu2025_sound", "--eps", "0.1", *PLAIN]


def test_audit(cli, here):
    code, out, err = cli("audit", *TARGET, *AUDIT)
    assert code == 0, err
    assert "gradients: " in out
    assert (here / NAME / "report.html").is_file()
    assert (here / NAME / "audits" / "Linf-0.1-n6" / "gradients.json").is_file()
    refused(cli("audit", *TARGET, *AUDIT), "holds an audit already", "--resume")
    code, _, err = cli("audit", *TARGET, *AUDIT, "--resume", "--out", "elsewhere.html")
    assert code == 0, err
    page = Comparison.model_validate_json((here / "elsewhere.json").read_text())
    assert page.networks[0].training["target"] == "my_net.py:make"
    code, out, err = cli("report", NAME)
    assert code == 0, err
    assert Comparison.model_validate_json((here / NAME / "report.json").read_text()).networks[0].audits["gradients"]


def test_the_audit_of_a_folder_of_choice(cli, here):
    code, _, err = cli("audit", *TARGET, *AUDIT, "--out", "mine.v2")
    assert code == 0, err
    assert {"attacks", "audits", "report.html", "network.yaml"} <= {path.name for path in (here / "mine.v2").iterdir()}
    assert not (here / "runs").exists()


# --- transfer


def test_transfer(cli, here, tmp_path):
    save_model(digits_cnn(time_steps=2, in_channels=3, num_classes=2), tmp_path / "run" / "weights.safetensors")
    (tmp_path / "run" / "experiment.yaml").write_text("data: digits\n")
    fgsm = ["--attack", "fgsm", "--eps", "0.1", *PLAIN]
    code, out, err = cli("attack", *TARGET, *fgsm, "--transfer-from", "relu", "--transfer-from", tmp_path / "run")
    assert code == 0, err
    assert "FGSM from ReLUNetwork" in text_of(out)
    for twin in ("twin", "relu-twin"):
        result = cli("attack", *TARGET, *fgsm, "--transfer-from", twin, "--out", "twins")
        refused(result, f"--transfer-from {twin}: how my_net.py:make was trained is not known", "relu")
    assert not (here / "twins").exists()


# --- what is refused


@pytest.mark.parametrize(
    ("argv", "texts"),
    [
        (["my_net.py"], ["expected FILE.py:NAME", "there are: Net, make, grey, plain"]),
        (["my_ent.py:make"], ["there is no file my_ent.py; did you mean my_net.py"]),
        (["my_net.py:maek", "--data", "images"], ["there is no 'maek' in my_net.py; did you mean make"]),
        (["my_net.py:make"], ["my_net.py:make says nothing of data; name it with --data"]),
        (["my_net.py:make", "--data", "nowhere"], ["Unknown data 'nowhere'"]),
        ([*TARGET, "--checkpoint", "best"], ["--checkpoint belongs to training runs", "--weights"]),
        ([*TARGET, "--split", "validation"], ['split must be "test": my_net.py:make may have been trained on']),
        ([*TARGET, "--split", "train"], ['split must be "test" or "validation"']),
        ([*TARGET, "--limit", "1000"], ["test_limit: expected 1 to 12"]),
        ([*TARGET, "--image-size", "9"], ["layer linear (Linear) expects 192 features and got 243", "--image-size"]),
        (
            [*TARGET[:-1], "digits"],
            ["does not take images [1, 8, 8]: layer linear (Linear) expects 192 features and got 64"],
        ),
        (
            ["my_net.py:grey", *TARGET[1:]],
            ["best.pt does not fit this network: linear.weight is [20, 192] and should be"],
        ),
        ([*TARGET, "--time-steps", "9"], ["my_net.py:make: ", "time_steps=9"]),
        ([*TARGET, "--suite", "nope"], ["unknown suite 'nope'"]),
        (["my_net.py:plain", "--data", "images", "--suite", "standard"], ["my_net.py:plain: found no spiking layer"]),
    ],
)
def test_attacks_that_cannot_be(cli, here, argv, texts):
    refused(cli("attack", *argv, *PLAIN), *texts)
    assert not (here / "runs").exists()


@pytest.mark.parametrize("flags", [["--weights", "best.pt"], ["--time-steps", "3"], ["--image-size", "8"]])
@pytest.mark.parametrize("command", ["attack", "audit"])
def test_flags_of_own_networks_do_not_belong_to_runs(cli, run, command, flags):
    refused(
        cli(command, run, *flags, *PLAIN), f"{flags[0]} belongs to a network of your own, such as my_net.py:make_model"
    )


def test_weights_that_hold_code_are_refused_and_not_executed(cli, here):
    torch.save({"state_dict": Bomb()}, "bomb.pt")
    result = cli("attack", "my_net.py:make", "--weights", "bomb.pt", "--data", "images", *ONE)
    refused(result, "bomb.pt holds a pickled object of", "would execute code", "python -c")
    assert not (here / "exploded").exists()


def test_a_fault_in_the_file_shows_its_traceback_where_asked_for(cli, here, monkeypatch, capsys):
    (here / "my_net.py").write_text("def make():\n    return {}['key']\n")
    refused(cli("attack", *TARGET, *ONE), "my_net.py, line 2, in make: KeyError: 'key'; ROBUSTSPIKE_DEBUG=1 shows")
    monkeypatch.setenv("ROBUSTSPIKE_DEBUG", "1")
    with pytest.raises(ValueError, match="KeyError") as caught:
        main(["attack", *TARGET, *ONE])
    assert isinstance(caught.value.__cause__, KeyError)
