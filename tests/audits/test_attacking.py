"""The attack that audits make where none is given."""

import torch
from tests.conftest import small_snn
from torch import nn

from robustspike.attacks import PGD, WorstOf, fgsm
from robustspike.audits.attacking import named, usual_attack
from robustspike.balls import L2, Linf
from robustspike.gradients import BPTT, RGA


def test_a_spiking_network_is_attacked_under_lius_estimators():
    attack = usual_attack(small_snn(), "8/255", steps=3)
    assert isinstance(attack, WorstOf)
    assert [member.estimator for member in attack.members][-1] == RGA()
    assert {(member.steps, member.ball) for member in attack.members} == {(3, Linf(8 / 255))}


def test_a_network_without_spikes_is_attacked_through_its_own_gradient():
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 4))
    attack = usual_attack(model, 0.1)
    assert attack == PGD(Linf(0.1), 10, estimator=BPTT(), early_stop=True)
    x = torch.rand(2, 1, 8, 8)
    assert attack(model, x, torch.tensor([0, 1])).shape == x.shape


def test_names():
    assert named(fgsm(L2(0.5), RGA())) == "FGSM under RGA, L2 ε = 0.5"
    assert named(WorstOf((fgsm(Linf(0.1)), PGD(Linf(0.1), 2)))) == (
        "FGSM, PGD-2 (worst of BPTT own surrogate), L∞ ε = 0.1"
    )
