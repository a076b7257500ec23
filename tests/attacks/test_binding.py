"""An attack bound to a model, called as torchattacks' are."""

import dataclasses

import pytest
import torch
from tests.conftest import small_snn
from torch import nn

from robustspike import attacks
from robustspike.attacks import PGD, EncodedPGD, UniformNoise, binding, fgsm
from robustspike.balls import Linf
from robustspike.draws import Draws

pytestmark = pytest.mark.usefixtures("one_thread")
X, Y = torch.linspace(0, 1, 6 * 64).reshape(6, 1, 8, 8), torch.arange(6) % 4
ATTACK = PGD(Linf(0.1), steps=2)


def plain_network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Dropout(), nn.Linear(8, 4))


def attack_classes():
    found = [value for value in vars(attacks).values() if isinstance(value, type) and dataclasses.is_dataclass(value)]
    return [cls for cls in found if hasattr(cls, "run")]


def test_a_step_by_hand():
    model = nn.Linear(2, 2, bias=False)
    model.weight.data.copy_(torch.tensor([[1.0, -1.0], [0.0, 0.0]]))
    x_adv = fgsm(Linf(0.25)).bind(model)(torch.tensor([[0.5, 0.875]]), torch.tensor([0]))
    assert x_adv.tolist() == [[0.25, 1.0]]  # the logit of class 0 falls; the box stops the second pixel


def test_every_attack_can_be_bound():
    classes = attack_classes()
    assert {"PGD", "EncodedPGD", "Transfer", "WorstOf"} <= {cls.__name__ for cls in classes}
    assert [cls for cls in classes if getattr(cls, "bind", None) is not binding.bind] == []


def test_an_attack_on_the_code_returns_codes_here_too():
    model, attack = small_snn(time_steps=3, encoder="phase"), EncodedPGD(Linf(0.1), steps=2)
    codes = attack.bind(model, seed=2)(X, Y)
    assert codes.shape == (6, 3, 1, 8, 8)
    assert torch.equal(codes, attack(model, X, Y, Draws.of(2, torch.arange(6))))


def test_a_network_of_somebody_else_is_attacked_in_evaluation_mode_and_left_in_training_mode():
    model, modes = plain_network(), []
    model.register_forward_hook(lambda module, *_: modes.append(module.training))
    x_adv = ATTACK.bind(model)(X, Y)
    assert modes
    assert not any(modes)
    assert all(module.training for module in model.modules())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert (x_adv - X).abs().max() <= 0.1 + 1e-6


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int32, torch.int64])
def test_labels_of_any_integer_type(dtype):
    bound = ATTACK.bind(plain_network(), seed=0)
    assert torch.equal(bound(X, Y.to(dtype)), bound(X, Y))


@pytest.mark.parametrize("labels", [Y.double(), Y > 1, torch.eye(4)[Y].long(), torch.tensor(1)])
def test_labels_that_are_no_class_numbers_are_refused(labels):
    with pytest.raises(ValueError, match=r"^labels must be class numbers \[N\], got torch\..* \[.*\]; use argmax"):
        ATTACK.bind(plain_network())(X, labels)


def test_images_in_a_graph_give_examples_outside_it():
    x = X.clone().requires_grad_()
    x_adv = ATTACK.bind(plain_network(), seed=0)(2 * x / 2, Y)
    assert not x_adv.requires_grad
    assert x.grad is None


class OnItsOwn:
    """Stands for an attack: notes what it is given, returns something on the CPU."""

    def __call__(self, model, x, y, draws):
        self.devices = [x.device.type, y.device.type, draws.keys.device.type]
        return torch.zeros(x.shape)


@pytest.mark.parametrize("of_images", ["cpu", "meta"])
def test_everything_is_brought_to_the_models_device_and_back_to_the_images(of_images):
    attack = OnItsOwn()
    bound = binding.Bound(attack, nn.Linear(64, 4, device="meta"), seed=0)
    assert bound(X.to(of_images), Y).device.type == of_images
    assert attack.devices == ["meta", "meta", "meta"]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a second device")
@pytest.mark.parametrize("of_model", ["cpu", "cuda"])
@pytest.mark.parametrize("of_images", ["cpu", "cuda"])
@pytest.mark.parametrize("of_labels", ["cpu", "cuda"])
def test_examples_come_back_on_the_images_device(of_model, of_images, of_labels):
    bound = ATTACK.bind(plain_network().to(of_model), seed=0)
    x_adv = bound(X.to(of_images), Y.to(of_labels), torch.arange(6).to(of_labels))
    assert x_adv.device.type == of_images
    assert next(bound.model.parameters()).device.type == of_model
    expected = ATTACK.bind(plain_network(), seed=0)(X, Y)
    assert (x_adv.cpu() - expected).abs().max() <= 1e-6


@pytest.mark.parametrize("device", ["cpu", *["cuda"] * torch.cuda.is_available()])
def test_a_model_without_parameters_is_attacked_where_the_images_are(device):
    x_adv = ATTACK.bind(nn.Flatten())(X.to(device), Y)
    assert x_adv.device.type == device
    assert (x_adv.cpu() - X).abs().max() > 0.05


def test_with_a_seed_each_call_repeats_and_numbered_samples_depend_on_no_batch():
    model = small_snn(encoder="poisson").double()
    bound, x = PGD(Linf(0.1), steps=2, samples=2).bind(model, seed=7), X.double()
    whole, ids = bound(x, Y, torch.arange(100, 106)), torch.arange(100, 106)
    assert torch.equal(whole, bound(x, Y, torch.arange(100, 106)))
    assert not torch.equal(whole, bound(x, Y))
    parts = [bound(x[part], Y[part], ids[part]) for part in (torch.tensor([4, 1]), torch.tensor([0, 5, 2, 3]))]
    torch.testing.assert_close(torch.cat(parts), whole[[4, 1, 0, 5, 2, 3]], rtol=0, atol=1e-12)


def test_without_a_seed_it_follows_pytorchs_generator():
    bound = UniformNoise(Linf(0.1)).bind(plain_network())
    torch.manual_seed(3)
    first, second = bound(X, Y), bound(X, Y)
    torch.manual_seed(3)
    assert torch.equal(bound(X, Y), first)
    assert not torch.equal(first, second)


def test_numbers_of_samples_need_a_seed_and_one_for_each_image():
    with pytest.raises(ValueError, match=r"^samples are numbered for a seed, got none; bind\(model, seed=0\)"):
        ATTACK.bind(plain_network())(X, Y, torch.arange(6))
    with pytest.raises(ValueError, match=r"^samples must be one number for each of 6 images, got \[5\]"):
        ATTACK.bind(plain_network(), seed=0)(X, Y, torch.arange(5))


def test_normalised_images_are_refused_with_what_to_do():
    bound = ATTACK.bind(plain_network())
    with pytest.raises(
        ValueError, match=r"^images are given to attacks in \[0, 1\].*put the normalisation into the model"
    ):
        bound.set_normalization_used(mean=[0.5], std=[0.25])


@pytest.mark.parametrize("model", [lambda x: x, nn.Linear, None])
def test_what_is_no_module_is_refused(model):
    with pytest.raises(ValueError, match=r"^bind takes a torch\.nn\.Module .*, got "):
        ATTACK.bind(model)


def test_it_says_what_it_is_and_cannot_be_changed():
    model = plain_network()
    bound = ATTACK.bind(model, seed=4)
    assert repr(bound) == "<PGD-2, Linf 0.1, on Sequential, seed 4>"
    assert repr(ATTACK.bind(model)) == "<PGD-2, Linf 0.1, on Sequential>"
    assert (bound.attack, bound.model, bound.seed) == (ATTACK, model, 4)
    with pytest.raises(dataclasses.FrozenInstanceError):
        bound.seed = 5
