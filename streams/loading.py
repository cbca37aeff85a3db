"""A domain made ready to answer: its model found and verified, its processor made, the model loaded and warm."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from processors import Processor, Setup, load, model_reference
from schemas.codec import codec_for

if TYPE_CHECKING:
    from collections.abc import Callable

    from processors._models import Manifest
    from processors._session import Session
    from streams.settings import Settings

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
    codecs: Callable[[str, type[Any]], Any] | None = None,
) -> Opened:
    """Makes a domain ready; takes the seconds of a model's warm-up.

    Args:
        settings: All of them; the domain's own are `[domains.<name>]`.
        domain: Its name.
        workers: How many share this machine's cores.
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
    model = Registry(settings.data, cache).resolve(model_reference(domain, options))
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
        cache_dir=cache,
    )
    if hasattr(processor, "attach"):
        processor.attach(session.metadata)
    return Opened(processor, session, model.manifest)


def codecs_of(settings: Settings) -> Callable[[str, type[Any]], Any]:
    """The codec of each topic as the settings of the topics say."""

    def codec(topic: str, type_: type[Any]) -> Any:
        return codec_for(topic, type_, settings.topics.get(topic), settings.registry)

    return codec
