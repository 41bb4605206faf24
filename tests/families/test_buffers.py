"""Data-dependent buffers load into a fresh module."""
import torch
from torch import Tensor, nn

from morphogen.families.buffers import adopt


class Rows(nn.Module):
    rows: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("rows", torch.zeros(0))
        self.register_buffer("count", torch.zeros(0, dtype=torch.int64))

    def _load_from_state_dict(self, state_dict, prefix, *rest):
        adopt(self, state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *rest)


def test_shapes_come_from_the_state_dict_at_any_depth():
    source, target = nn.Sequential(Rows()), nn.Sequential(Rows())
    source[0].rows, source[0].count = torch.randn(3, 4), torch.arange(5)
    target.load_state_dict(source.state_dict())
    assert torch.equal(target[0].rows, source[0].rows) and torch.equal(target[0].count, source[0].count)
    assert target[0].rows.data_ptr() != source[0].rows.data_ptr()


def test_missing_names_are_still_reported():
    found = Rows().load_state_dict({"rows": torch.zeros(2)}, strict=False)
    assert found.missing_keys == ["count"]
