"""A domain made ready to answer: its model found and verified, its processor made, the model loaded and warm."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from processors import Processor, Setup, load, model_reference
from schemas.codec import codec_for

if TYPE_CHECKING:
    from collections.abc import Callable

    from processors._models import Manifest
    from processors._provider_options import Gpu
    from processors._session import Session
    from streams.settings import ModelSettings, Settings

__all__ = ["Opened", "codecs_of", "open_domain"]


class Opened(NamedTuple):
    """What answers the events of a domain."""

    processor: Processor
    session: Session
    manifest: Manifest


def open_domain(
    settings: Settings,
    domain: str,
    *,
    workers: int = 1,
    slot: str = "0",
    codecs: Callable[[str, type[Any]], Any] | None = None,
) -> Opened:
    """Makes a domain ready; takes the seconds of a model's warm-up.

    Args:
        settings: All of them; the domain's own are `[domains.<name>]`.
        domain: Its name.
        workers: How many share this machine's cores.
        slot: Which of them this one is; it settles the GPU where there are several.
        codecs: Gives the codec of a topic; by the settings of the topics where None.

    Raises:
        DomainError: No such domain, or its options are wrong.
        ModelError: No such model, its file is missing or another than promised, or it does not fit the processor.
        TokenKeyError: The key of the tokens cannot be used.
    """
    from processors._models import Registry
    from processors._session import Session
    from processors._tokens import key_from

    options = settings.domains.get(domain, {})
    cache = Path(settings.model.cache_dir) if settings.model.cache_dir else None
    registry = Registry(settings.data, cache)
    model = registry.resolve(model_reference(domain, options))
    key = key_from(settings.privacy.token_key, settings.data)
    processor = load(domain, Setup(options, model.manifest, key, codecs or codecs_of(settings)))
    session = Session.open(
        model,
        expects=processor.contract,
        providers=settings.model.providers,
        require_gpu=settings.model.require_gpu,
        threads=settings.model.threads,
        workers=workers,
        slice=settings.model.slice,
        gpu=_gpu(settings.model, slot),
        cache_dir=registry.cache_dir,
        custom_ops=settings.model.custom_ops,
    )
    if hasattr(processor, "attach"):
        processor.attach(session.metadata)
    return Opened(processor, session, model.manifest)


def _gpu(settings: ModelSettings, slot: str) -> Gpu:
    from processors import _cuda, _hardware
    from processors._provider_options import Gpu

    driver = _cuda.driver()
    return Gpu(
        _hardware.device_for(settings.device_id, slot, driver.count() if driver else 0),
        settings.gpu_memory_mb,
        settings.gpu_arena,
        settings.precision,
        settings.cuda_graphs,
        settings.overlap,
    )


def codecs_of(settings: Settings) -> Callable[[str, type[Any]], Any]:
    """The codec of each topic as the settings of the topics say."""

    def codec(topic: str, type_: type[Any]) -> Any:
        return codec_for(topic, type_, settings.topics.get(topic), settings.registry)

    return codec
