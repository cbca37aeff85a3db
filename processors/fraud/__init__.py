"""Card transactions to fraud scores: by the history of the card, exactly, and by what labels say of the merchant."""

from __future__ import annotations

from typing import TYPE_CHECKING

from processors import read_options
from processors.fraud.processor import FraudProcessor
from processors.fraud.settings import FraudSettings

if TYPE_CHECKING:
    from processors import Setup

__all__ = ["FraudProcessor", "FraudSettings", "create"]


def create(setup: Setup) -> FraudProcessor:
    """The processor, by the settings of the domain over those of the model's manifest."""
    manifest = setup.manifest
    settings = read_options("fraud", FraudSettings, setup.options, manifest.settings if manifest is not None else {})
    if manifest is None:
        return FraudProcessor(settings, settings.model, setup.token_key, setup.codecs)
    shapes = [tensor.shape for tensor in manifest.contract.outputs if tensor.name == "probability"]
    return FraudProcessor(settings, manifest.reference, setup.token_key, setup.codecs, *shapes)
