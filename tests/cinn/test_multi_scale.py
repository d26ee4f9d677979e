"""Pictures up to 128×128×3: the network that the rule gives, trained a little, through the record path."""

import numpy as np
import pytest
import torch

from cadp.cinn.architecture import Conditions, architecture_from_json
from cadp.cinn.layers.layer import Condition
from cadp.cinn.multi_scale import multi_scale
from cadp.cinn.network import ConditionalFlow, check_round_trip
from cadp.cinn.precision import prepared
from cadp.cinn.public_training import PublicRecipe, PublicRecords, train_public
from cadp.errors import CheckpointRefused
from cadp.privacy.mechanisms import plan_mechanism
from cadp.records import Batch, at_once
from cadp.reporter import Silent
from cadp.shards import decode_png
from cadp.steps.privatize import privatize_batch
from tests.benchmarks.pictures import pictures
from tests.cinn.architectures import perturbed_flow

SHAPES = [(128, 128, 3), (96, 64, 3), (64, 64, 1), (28, 28, 1), (6, 10, 1), (2, 2, 1)]


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: "×".join(map(str, shape)))
def test_the_rule_gives_a_network_that_inverts(shape: tuple[int, int, int]) -> None:
    architecture = multi_scale(shape, Conditions(3))
    assert architecture_from_json(architecture.to_json()) == architecture
    assert 1 <= architecture.content <= 64
    assert check_round_trip(perturbed_flow(architecture), images=3) < 1e-9


def test_every_scale_sees_the_condition() -> None:
    """One scale's couplings alone, perturbed: what comes out differs between classes."""
    flow = ConditionalFlow(multi_scale((32, 32, 1), Conditions(2)))
    names = [name for name, _ in flow.named_parameters() if name.endswith("4.weight") and "subnet" in name]
    stacks = {name.rsplit(".subnet", 1)[0].rsplit(".", 1)[0] for name in names}
    assert len(stacks) == 4  # three scales and the head
    x = torch.rand(1, 32, 32, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for stack in stacks:
        kept = {name: tensor.clone() for name, tensor in flow.state_dict().items()}
        with torch.no_grad():
            for name, tensor in flow.named_parameters():
                if name.startswith(f"{stack}.") and name.endswith("4.weight"):
                    tensor.add_(0.1)
            one, other = (flow.encode(x, torch.tensor([label]))[0] for label in (0, 1))
        assert not torch.equal(one, other), stack
        flow.load_state_dict(kept)


@pytest.mark.parametrize("shape", [(7, 8, 1), (8, 7, 3), (1, 1, 3)])
def test_odd_sides_are_refused(shape: tuple[int, int, int]) -> None:
    with pytest.raises(CheckpointRefused, match="halves both sides"):
        multi_scale(shape, Conditions(2))


def test_it_trains_and_privatizes_pictures_of_128_by_128() -> None:
    images, labels = pictures(10, 128, seed=1)
    labels %= 2
    flow = ConditionalFlow(multi_scale((128, 128, 3), Conditions(2)))
    data = PublicRecords(images, Condition.of(flow.architecture.conditions, torch.from_numpy(labels)))
    fit = train_public(flow, data, PublicRecipe(epochs=1, batch=4, warm_up=1, validation=0.2), Silent())
    assert fit.best >= 0
    assert fit.round_trip < 1e-9
    ready = prepared(flow)
    some = Batch(images[:4], labels[:4], np.array([True, True, True, False]))
    released = privatize_batch(ready.flow, plan_mechanism("privunit", epsilon=8.0, delta=1e-6, content_dims=4), some)
    shown = np.stack([decode_png(record.data, (128, 128, 3)) for record in released])
    assert shown.std() > 5
    assert not (shown == images[:4]).all(axis=(1, 2, 3)).any()


@pytest.mark.parametrize("most", [1, 100, 2048])
def test_large_records_are_worked_on_in_smaller_batches(most: int) -> None:
    for shape in SHAPES:
        rows = at_once(shape, most)
        assert 1 <= rows <= most
        assert rows * np.prod(shape) * 8 <= 64 << 20
    assert at_once((28, 28, 1), most) == most
