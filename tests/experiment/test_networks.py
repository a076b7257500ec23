"""A user's file as a network: imported like a script, given its weights, adapted; each failure is one sentence."""

import copy
import pickle
import sys
from types import ModuleType

import pytest
import torch
from torch import nn

from robustspike import adapters
from robustspike.checkpoints import CheckpointError, fingerprint
from robustspike.experiment import own_network
from robustspike.experiment.networks import check_images
from robustspike.experiment.user_code import PACKAGE, PREFIX, blamed, code_of, is_target, made_by
from robustspike.models import SNN
from robustspike.neurons import LIF, spiking_layers

pytestmark = pytest.mark.usefixtures("one_thread")

CODE = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self, width=16):
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(width, 4))

    def forward(self, x):
        return self.body(x)


class Twice(Net):
    def forward(self, x):
        return self.body(x), x


class Folded(Net):
    def forward(self, x):
        return self.body(x).view(3, 7)


class Checked(Net):
    def forward(self, x):
        if x.shape[-1] != 8:
            raise ValueError("only 8 pixels")
        return self.body(x)


def make():
    return Net()


def wide(width, depth=2, *more, **options):
    return Net(width)


def pair():
    return Net(), 3


def broken():
    return {}["key"]


ready = Net()
number = 3
"""

SPIKING = """
import snntorch as snn
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear, self.lif = nn.Linear(16, 4), snn.Leaky(beta=0.9)

    def forward(self, x):
        mem, spikes = self.lif.init_leaky(), []
        for _ in range(4):
            spk, mem = self.lif(self.linear(x.flatten(1)), mem)
            spikes.append(spk)
        return torch.stack(spikes), mem
"""

OURS = """
import robustspike as rs
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = rs.OverTime(nn.Flatten(), nn.Linear(16, 4), rs.LIF())

    def forward(self, x):
        return self.body(rs.repeat(x, 3)).mean(0)


def one_of_models():
    return rs.models.digits_cnn(time_steps=2)
"""


@pytest.fixture
def file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "my_net.py"
    path.write_text(CODE)
    return path


@pytest.fixture(autouse=True)
def modules_as_before():
    before = dict(sys.modules)
    yield
    for name in set(sys.modules) - set(before):
        if name.startswith((PREFIX, "layers_beside")):
            del sys.modules[name]


def images(n=2, size=4):
    return torch.rand(n, 1, size, size, generator=torch.Generator().manual_seed(0))


def refused(target, *texts, error=ValueError, **options):
    with pytest.raises(error) as caught:
        own_network(target, **options)
    assert "\n" not in str(caught.value)
    for text in texts:
        assert text in str(caught.value)
    return caught.value


# --- what is taken


@pytest.mark.parametrize("name", ["make", "Net", "ready"])
def test_a_function_a_class_and_a_network_are_taken(file, name):
    net = own_network(f"my_net.py:{name}", images=images())
    assert type(net).__name__ == "Net"
    assert not any(module.training for module in net.modules())
    assert net(images(3)).shape == (3, 4)


def test_every_path_to_the_file_is_the_same_module(file, tmp_path, monkeypatch):
    kinds = {type(made_by(target)).__module__ for target in ("my_net.py:make", "./my_net.py:make", f"{file}:make")}
    monkeypatch.setenv("HOME", str(tmp_path))
    kinds.add(type(made_by("~/my_net.py:make")).__module__)
    assert len(kinds) == 1
    assert kinds.pop().startswith(PREFIX)


def test_drawn_weights_are_the_same_every_time_and_nobody_elses_draws_change(file):
    found = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        found.append(own_network("my_net.py:make"))
        assert torch.equal(torch.get_rng_state(), before)
    assert fingerprint(found[0]) == fingerprint(found[1])


def test_the_file_is_read_anew_every_time(file):
    assert type(made_by("my_net.py:make")).__name__ == "Net"
    file.write_text(CODE.replace("return Net()", "return Bet()").replace("class Folded(Net)", "class Bet(Net)"))
    assert type(made_by("my_net.py:make")).__name__ == "Bet"


def test_networks_can_be_pickled_and_copied(file):
    net = own_network("my_net.py:make")
    for again in (pickle.loads(pickle.dumps(net)), copy.deepcopy(net)):
        assert type(again) is type(net)
        assert torch.equal(again(images()), net(images()))


def test_decorators_that_look_up_their_module_work(file):
    more = "from __future__ import annotations\nimport dataclasses, typing\n@dataclasses.dataclass\nclass Settings:\n"
    file.write_text(f"{more}    kind: typing.ClassVar[str] = 'a'\n    width: int = 16\n{CODE}")
    assert own_network("my_net.py:make")(images()).shape == (2, 4)


# --- what lies beside it


def beside(folder, width, name="layers_beside"):
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.py").write_text(f"from torch import nn\ndef head(): return nn.Linear({width}, 4)\n")
    code = f"import {name}\nfrom torch import nn\ndef make(): return nn.Sequential(nn.Flatten(), {name}.head())\n"
    (folder / "my_net.py").write_text(code)
    return f"{folder}/my_net.py:make"


def test_what_lies_beside_can_be_imported_and_the_path_stays_as_it_was(tmp_path):
    before = list(sys.path)
    net = own_network(beside(tmp_path / "a", 16), images=images())
    assert net[1].in_features == 16
    assert sys.path == before


def test_files_of_the_same_name_in_two_folders_do_not_meet(tmp_path):
    one, other = beside(tmp_path / "a", 16), beside(tmp_path / "b", 9)
    assert own_network(one)[1].in_features == 16
    first = sys.modules["layers_beside"]
    assert own_network(other)[1].in_features == 9
    assert own_network(one)[1].in_features == 16
    assert sys.modules["layers_beside"] is first


def test_a_package_beside_it_does_not_meet_another_either(tmp_path):
    for folder, width in (("a", 16), ("b", 9)):
        target = beside(tmp_path / folder, width)
        package = tmp_path / folder / "layers_beside"
        package.mkdir()
        (tmp_path / folder / "layers_beside.py").rename(package / "__init__.py")
        assert own_network(target)[1].in_features == width


def test_a_module_that_was_imported_before_is_never_replaced(tmp_path, monkeypatch):
    theirs = ModuleType("layers_beside")
    theirs.head = lambda: nn.Linear(5, 4)
    monkeypatch.setitem(sys.modules, "layers_beside", theirs)
    assert own_network(beside(tmp_path / "a", 16))[1].in_features == 5
    assert sys.modules["layers_beside"] is theirs


def test_a_failed_import_leaves_nothing_behind(file):
    before, path = set(sys.modules), list(sys.path)
    file.write_text("raise RuntimeError('no')")
    refused("my_net.py:make", "my_net.py, line 1: RuntimeError: no")
    assert set(sys.modules) == before
    assert sys.path == path


# --- weights


def test_weights_go_into_the_network(file, tmp_path):
    trained = own_network("my_net.py:make")
    nn.init.normal_(trained.body[1].weight)
    torch.save({"state_dict": {f"module.{name}": t for name, t in trained.state_dict().items()}}, tmp_path / "best.pt")
    net = own_network("my_net.py:make", tmp_path / "best.pt")
    assert torch.equal(net(images()), trained(images()))
    torch.save({"other": torch.ones(2)}, tmp_path / "other.pt")
    text = "other.pt does not fit this network: body.1.weight is missing; body.1.bias is missing; other is unexpected"
    refused("my_net.py:make", text, weights=tmp_path / "other.pt", error=CheckpointError)
    refused("my_net.py:make", "no weights at", weights=tmp_path / "gone.pt", error=CheckpointError)


def test_weights_go_into_the_users_network_where_the_file_adapts_it(file, tmp_path):
    pytest.importorskip("snntorch")
    more = "\nimport robustspike as rs\ndef adapted():\n    return rs.adapt(Net(), mean=[0.5], std=[0.5])\n"
    file.write_text(SPIKING + more)
    trained = made_by("my_net.py:Net")
    nn.init.normal_(trained.linear.weight)
    torch.save(trained.state_dict(), tmp_path / "best.pt")
    net = own_network("my_net.py:adapted", tmp_path / "best.pt")
    assert torch.equal(net.model.linear.weight, trained.linear.weight)
    torch.save(net.state_dict(), tmp_path / "whole.pt")
    net = own_network("my_net.py:adapted", tmp_path / "whole.pt", images=images())
    assert torch.equal(net.model.linear.weight, trained.linear.weight)
    with torch.no_grad():
        assert torch.equal(net(images()), trained((images() - 0.5) / 0.5)[0].mean(0))


# --- adapted or not


def test_a_network_of_a_framework_is_adapted_and_answers_as_before(file, tmp_path):
    pytest.importorskip("snntorch")
    file.write_text(SPIKING)
    trained = made_by("my_net.py:Net")
    nn.init.normal_(trained.linear.weight)
    torch.save(trained.state_dict(), tmp_path / "best.pt")
    net = own_network("my_net.py:Net", tmp_path / "best.pt", images=images())
    assert isinstance(net, adapters.Adapted)
    assert list(spiking_layers(net)) == ["lif"]
    with torch.no_grad():
        assert torch.equal(net(images(5)), trained(images(5))[0].mean(0))


def test_our_own_neurons_need_no_adapting(file):
    file.write_text(OURS)
    assert type(own_network("my_net.py:Net", images=images())).__name__ == "Net"
    assert type(own_network("my_net.py:one_of_models")) is SNN
    assert own_network("my_net.py:one_of_models", time_steps=2).time_steps == 2
    for name in ("one_of_models", "Net"):
        refused(f"my_net.py:{name}", f"my_net.py:{name} knows its time steps itself, got 3", time_steps=3)


def test_a_network_without_neurons_has_no_time_steps(file):
    refused("my_net.py:make", "my_net.py:make has no spiking layers and no time steps, got 4", time_steps=4)


def test_what_adapting_refuses_is_said_of_the_target(file):
    pytest.importorskip("spikingjelly")
    code = "from torch import nn\nfrom spikingjelly.activation_based import neuron\n"
    file.write_text(f"{code}def make(): return nn.Sequential(nn.Flatten(), nn.Linear(16, 4), neuron.LIFNode())")
    refused("my_net.py:make", "my_net.py:make: ", "time_steps", images=images())
    assert own_network("my_net.py:make", time_steps=4, images=images()).time_steps == 4


# --- what is refused


@pytest.mark.parametrize(
    ("target", "texts"),
    [
        (
            "my_net.py",
            ["expected FILE.py:NAME", "my_net.py:make", "there are: Net, Twice, Folded, Checked, make, wide"],
        ),
        ("my_net.py:", ["expected FILE.py:NAME"]),
        ("my_nte.py:make", ["my_nte.py:make: there is no file my_nte.py; did you mean my_net.py?"]),
        ("my_net:make", ["there is no file my_net; did you mean my_net.py?"]),
        ("nowhere/my_net.py:make", ["there is no file nowhere/my_net.py; check the path"]),
        ("my_net.py:mak", ["there is no 'mak' in my_net.py; did you mean make", "ready"]),
        ("my_net.py:wide", ["needs arguments (width)", "`def make(): return wide(width=…)`"]),
        ("my_net.py:pair", ["expected a network (torch.nn.Module), got a tuple of Net, int; return the network alone"]),
        ("my_net.py:number", ["expected a network, a class or a function, got 3 (int)"]),
        ("my_net.py:broken", ["my_net.py, line 45, in broken: KeyError: 'key'", "ROBUSTSPIKE_DEBUG=1"]),
    ],
)
def test_targets_that_cannot_be(file, target, texts):
    refused(target, *texts)


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("x = (", "my_net.py, line 1: SyntaxError: '(' was never closed"),
        ("\nimport nothing_of_this_name", "my_net.py, line 2: ModuleNotFoundError: No module named"),
        ("def f():\n    raise ValueError('a\\nb')\nf()", "my_net.py, line 2, in f: ValueError: a; "),
        ("raise ValueError", "my_net.py, line 1: ValueError; "),
        ("import torch\ntorch.ones(2) @ torch.ones(3)", "my_net.py, line 2: RuntimeError: "),
        ("import sys\nsys.exit(1)", "my_net.py, line 2: SystemExit: 1, the file ends the process when it is imported"),
        ("import robustspike as rs\nx = rs.LIF(leak=7)", "my_net.py, line 2: ValueError: "),
        ("\0", "my_net.py: "),
    ],
)
def test_what_the_file_itself_raises_is_said_with_its_line(file, code, text):
    file.write_text(code)
    error = refused("my_net.py:make", text)
    assert error.__cause__ is not None


def test_a_fault_in_a_file_beside_it_is_said_of_that_file(tmp_path, monkeypatch):
    target = beside(tmp_path / "a", 16)
    (tmp_path / "a" / "layers_beside.py").write_text("def head():\n    return 1 / 0\n")
    monkeypatch.chdir(tmp_path)
    refused(target, "a/layers_beside.py, line 2, in head: ZeroDivisionError: division by zero")


def test_a_file_beside_the_package_is_not_blamed_for_what_the_package_says(tmp_path):
    with pytest.raises(ValueError, match="leak") as caught:
        LIF(leak=7)
    text = blamed(caught.value, PACKAGE.parents[1] / "my_net.py")
    assert "test_networks.py, line" in text
    assert "neurons.py" not in text


def test_an_interrupt_is_no_fault_of_the_file(file):
    file.write_text("raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        own_network("my_net.py:make")


@pytest.mark.parametrize(
    ("name", "size", "texts"),
    [
        (
            "Net",
            8,
            ["my_net.py:Net does not take images [1, 8, 8]: layer body.1 (Linear) expects 16 features and got 64"],
        ),
        ("Twice", 4, ["my_net.py:Twice: expected logits [2, classes] for 2 images, got tuple"]),
        (
            "Folded",
            4,
            ["cannot be called with images [1, 4, 4]: my_net.py, line 22, in forward: RuntimeError: shape '[3, 7]'"],
        ),
        ("Checked", 4, ["my_net.py:Checked: only 8 pixels"]),
    ],
)
def test_images_that_do_not_fit(file, name, size, texts):
    refused(f"my_net.py:{name}", *texts, images=images(size=size))


def test_layers_that_do_not_fit_are_found_inside_an_adapted_network(file):
    pytest.importorskip("snntorch")
    file.write_text(SPIKING)
    text = "my_net.py:Net does not take images [1, 8, 8]: layer linear (Linear) expects 16 features and got 64"
    refused("my_net.py:Net", text, images=images(size=8))


def test_channels_that_do_not_fit(file):
    file.write_text("from torch import nn\ndef make(): return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten())")
    text = "layer 0 (Conv2d) expects 3 channels and got 1; images of a folder have 3"
    refused("my_net.py:make", text, images=images())
    net = made_by("my_net.py:make")
    with pytest.raises(ValueError, match="expects 3 channels"):
        check_images(net, images(), "my_net.py:make")
    assert not net[0]._forward_pre_hooks
    assert net.training


# --- what tells a target, and its code


def test_what_is_a_target(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "odd:folder").mkdir()
    (tmp_path / "run.py").mkdir()
    assert [text for text in ("a.py:b", "a.py", "a:b", "runs/b", "odd:folder", "run.py", "") if is_target(text)] == [
        "a.py:b", "a.py", "a:b",
    ]  # fmt: skip


def test_only_what_the_code_does_makes_a_difference(file):
    before = code_of(file)
    file.write_text(f"# a remark\n{CODE.replace('number = 3', 'number  =  3  # three')}\n\n")
    assert code_of(file) == before
    file.write_text(CODE.replace("number = 3", "number = 4"))
    assert code_of(file) != before


def test_the_hash_of_a_file_covers_what_it_imports_from_beside_it(tmp_path):
    (tmp_path / "settings_of_mine.py").write_text("STEPS = 8\n")
    file = tmp_path / "net.py"
    file.write_text(
        "import torch\nfrom settings_of_mine import STEPS\n\ndef make():\n    return torch.nn.Linear(STEPS, 2)\n"
    )
    made_by(f"{file}:make")
    before = code_of(file)
    (tmp_path / "settings_of_mine.py").write_text("STEPS = 8  # as before\n")
    assert code_of(file) == before
    (tmp_path / "settings_of_mine.py").write_text("STEPS = 2\n")
    assert code_of(file) != before
