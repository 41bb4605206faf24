"""PEFT adapters beside a language model's weights, chosen by name for each answer."""
from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from morphogen.errors import UsageError

if TYPE_CHECKING:
    from morphogen.language.model import LanguageModel


def load_adapter(model: LanguageModel, folder: Path, name: str = "") -> str:
    """Read a PEFT folder and wrap the model's matrices. Raises UsageError for a model or name that cannot take it."""
    from morphogen.adapt import lora
    from morphogen.formats.hf import theirs_of
    from morphogen.formats.peft import read_peft

    foreign = model.source.foreign
    if model.role != "decoder":
        raise UsageError("adapters are for decoders", where=folder, remedy="merge it into the model first")
    name = name or folder.resolve().name.replace(".", "-")
    if name in model.adapters:
        raise UsageError(f"an adapter '{name}' is loaded already", where=folder, remedy="give another name")
    net = model.net
    paths = {path for path, _ in net.named_modules()}
    if foreign is not None:
        back = {theirs_of(foreign.table, f"{path}.weight").removesuffix(".weight"): path for path in paths}
        to_ours = lambda theirs: back.get(theirs, theirs)
    else:
        to_ours = lambda theirs: theirs.removeprefix("model.")
    lora.load_adapter(net, read_peft(folder, to_ours), name=name)
    lora.set_adapter(net, None)
    model._drawing = net
    model.adapters.append(name)
    return name
